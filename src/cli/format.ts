/** Numbers, times and texts as people read them. */
import { visible, visibleJson } from "../schema/Visible.js"

export { visible }

const LARGE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 })

export const formatCount = (count: number): string =>
  // Hot path: masking counts the characters of each value, and most counts are small
  Number.isInteger(count) && count >= 0 && count < 1000 ? String(count) : LARGE.format(count)

/** Whether a limit is 1 or more: with less, the command would report that there are none. */
export const isCount = (limit: number): boolean => limit >= 1

/** `1 event`, `1,204 events` */
export const counted = (count: number, noun: string): string =>
  `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`

export const formatBytes = (bytes: number): string => {
  const units = ["B", "kB", "MB", "GB", "TB"]
  const step = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3))
  const value = bytes / 1000 ** step
  return `${step === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[step]!}`
}

/** The two largest units of a span: `41 s`, `3 min 5 s`, `2 d 4 h`. */
export const formatSpan = (millis: number): string => {
  let seconds = Math.max(0, Math.round(millis / 1000))
  const parts: Array<string> = []
  for (const [unit, size] of UNITS) {
    const count = Math.floor(seconds / size)
    if (count > 0) parts.push(`${count} ${unit}`)
    seconds -= count * size
    if (parts.length > 0 && (parts.length === 2 || count === 0)) break
  }
  return parts.length === 0 ? "0 s" : parts.join(" ")
}

const UNITS = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
  ["s", 1]
] as const

/** A value of a line or letter as one cell; JSON if it is no text. */
export const cellOf = (value: unknown): string => {
  if (typeof value === "string") return value
  return value === undefined || value === null ? "-" : jsonOf(value)
}

/** Levels of nesting that are shown: writing deeper values exhausts the stack. */
const DEPTH = 64

/** JSON of any value of a line, on one line. A note replaces what is nested too deeply. */
export const jsonOf = (value: unknown): string => visibleJson(JSON.stringify(shallow(value ?? null, DEPTH)))

const isPlain = (value: unknown): boolean => typeof value !== "object" || value === null

const shallow = (value: unknown, depth: number): unknown => {
  if (typeof value !== "object" || value === null) return value
  if (depth === 0) return `[nested deeper than ${DEPTH}, left out]`
  // most events are flat, and need no copy
  if (Object.values(value).every(isPlain)) return value
  if (Array.isArray(value)) return value.map((item) => shallow(item, depth - 1))
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shallow(item, depth - 1)]))
}

/** The columns of a terminal that a text takes: two for each wide East Asian character and each pictograph. */
export const widthOf = (text: string): number => {
  let width = 0
  for (const character of text) width += ZERO_WIDTH.test(character) ? 0 : WIDE.test(character) ? 2 : 1
  return width
}

const ZERO_WIDTH = /^\p{M}$/u
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]$/u

/** A text cut between its words; a word that is too long is cut as well. */
export const wrap = (text: string, width: number): ReadonlyArray<string> => {
  const lines: Array<string> = []
  let line = ""
  for (const word of text.split(" ")) {
    const joined = line === "" ? word : `${line} ${word}`
    if (widthOf(joined) <= width) {
      line = joined
      continue
    }
    if (line !== "") lines.push(line)
    line = word
    while (widthOf(line) > width) {
      const head = headOf(line, width)
      lines.push(head)
      line = line.slice(head.length)
    }
  }
  return [...lines, line]
}

/** As many characters as fit, at least one. */
const headOf = (text: string, width: number): string => {
  let head = ""
  for (const character of text) {
    if (head !== "" && widthOf(head + character) > width) break
    head += character
  }
  return head
}

/** The room in which the last column is wrapped; with less, the last cell goes below the others. */
const LEAST_LAST = 24

/**
 * A table: the lines of each row. The last column is not padded, and is wrapped to the given width. Cells must be
 * {@link visible}: a column is as wide as its cells are on a screen.
 */
export const formatTable = (
  rows: ReadonlyArray<ReadonlyArray<string>>,
  columns?: number
): ReadonlyArray<ReadonlyArray<string>> => {
  // not Math.max(...): there may be more rows than a call takes arguments
  const widths = (rows[0] ?? []).map((_, column) =>
    rows.reduce((widest, row) => Math.max(widest, widthOf(row[column] ?? "")), 0)
  )
  const before = widths.slice(0, -1).reduce((sum, width) => sum + width + 2, 0)
  const last = widths.at(-1) ?? 0
  if (columns !== undefined && columns - before < Math.min(last, LEAST_LAST)) {
    return rows.map((row) => [
      ...wrap(row.slice(0, -1).join("  "), columns),
      ...wrap(row.at(-1) ?? "", columns - 4).map((line) => `    ${line}`)
    ])
  }
  const padded = (row: ReadonlyArray<string>) =>
    row.slice(0, -1).map((cell, column) => cell + " ".repeat(widths[column]! - widthOf(cell) + 2))
  return rows.map((row) => {
    const text = row.at(-1) ?? ""
    const [first, ...others] = columns === undefined ? [text] : wrap(text, columns - before)
    return [`${padded(row).join("")}${first!}`.trimEnd(), ...others.map((line) => " ".repeat(before) + line)]
  })
}
