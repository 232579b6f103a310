/**
 * The lines of an export. Hot path: most values go from column to line without an event or an object in between
 * (bench/README.md#reading). If a row does not fit its kind, its line is what other commands show.
 */
import { Chunk } from "effect"
import type { Collect, Row } from "../internal/database/walk.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { restoringValues, Unfit } from "../schema/Row.js"
import { visibleJson } from "../schema/Visible.js"
import type { Query } from "../services/Trail.js"
import { type Form, kindsOf, LineWriter, marked, Output } from "./byteLines.js"
import { jsonOf } from "./format.js"
import { maskValue } from "./mask.js"
import { asCsv, asJson, csvCell, plain, sensitiveOf, type Shown, showing } from "./shown.js"
import type { OpenTrail } from "./trail.js"

/** How an export is written: `text` is JSON after the time and the kind. */
export type Format = "csv" | "json" | "text"

/** The line of a row that does not fit its kind. */
export class UnfitLine {
  constructor(readonly text: string) {}
}

/** Makes the function from a row of the kind to its line. */
export const lining = (
  kind: AuditEvent.Any,
  isRevealed: boolean,
  format: Format,
  foundOf: OpenTrail["foundOf"]
): ((row: Row) => string | UnfitLine) => {
  const valuesOf = restoringValues(kind)
  const isMasked = masks(kind, isRevealed)
  const isWhole = isMadeWhole(kind, format)
  const join = format === "csv" ? csvLine : jsonLine(kind, format === "text")
  const makeFound = foundOf(kind)
  const show = showing(kind, isRevealed)
  return (row) => {
    const read = isWhole ? undefined : valuesOf(row.values)
    if (read !== undefined && !(read instanceof Unfit)) {
      const line = join(
        row.time === null ? null : new Date(row.time).toISOString(),
        row.eventId,
        read,
        isMasked
      )
      if (line !== undefined) return line
    }
    const shown = show(makeFound(row))
    const text = WHOLE[format](shown)
    return shown.unfit === undefined ? text : new UnfitLine(text)
  }
}

/** The lines of a page, in UTF-8. */
export interface Lines {
  readonly bytes: Uint8Array
  /** how many rows did not fit their kind */
  readonly unfit: number
}

/** The lines of all rows that a search finds, page by page. */
export const linesOf = (
  { foundOf, search }: Pick<OpenTrail, "foundOf" | "search">,
  kind: AuditEvent.Any,
  query: Query<AuditEvent.Any>,
  isRevealed: boolean,
  format: Format
) => search(kind, query, collecting(kind, isRevealed, format, foundOf))

export const collecting = (
  kind: AuditEvent.Any,
  isRevealed: boolean,
  format: Format,
  foundOf: OpenTrail["foundOf"]
): Collect<Lines> => {
  const lineOf = lining(kind, isRevealed, format, foundOf)
  const writer =
    format === "text" || isMadeWhole(kind, format)
      ? undefined
      : new LineWriter(kind, format === "csv" ? csv(kind) : json(kind), masks(kind, isRevealed))
  let room = 64 * 1024
  return () => {
    // most pages are as large as the one before
    const output = new Output(room)
    let unfit = 0
    return {
      add: (row) => {
        const { cells } = row
        if (cells !== undefined && writer?.write(cells, output) === true) return
        const line = lineOf(row)
        if (line instanceof UnfitLine) unfit++
        output.later(line instanceof UnfitLine ? line.text : line)
      },
      result: () => {
        const bytes = output.written
        room = Math.max(room, Math.ceil(1.1 * bytes.length))
        return Chunk.of({ bytes, unfit })
      }
    }
  }
}

/** Whether lines have to be made from whole events. */
const isMadeWhole = (kind: AuditEvent.Any, format: Format): boolean =>
  hasConstructor(kind) || (format !== "csv" && !hasPlainKeys(kind))

const masks = (kind: AuditEvent.Any, isRevealed: boolean): ReadonlyArray<boolean> => {
  const sensitive = isRevealed ? [] : sensitiveOf(kind)
  return kind.columns.map(({ field }) => sensitive.includes(field))
}

const csv = ({ columns }: AuditEvent.Any): Form => ({
  isIdFirst: false,
  beforeTime: "",
  beforeId: ",",
  before: columns.map(() => ","),
  behind: "\r\n",
  quote: "",
  nothing: "",
  kindOf: kindsOf('"', ","),
  edge: marked(" =+-@"),
  cell: (value, isMasked) => csvCell(shownOf(value, isMasked))
})

const json = (kind: AuditEvent.Any): Form => ({
  isIdFirst: true,
  beforeId: `{"kind":${nameOf(kind.kind)},"event_id":`,
  beforeTime: ',"time":',
  before: keysOf(kind),
  behind: "}\n",
  quote: '"',
  nothing: "null",
  kindOf: kindsOf('"\\', ""),
  edge: marked(""),
  cell: (value, isMasked) => jsonCell(shownOf(value, isMasked))
})

const nameOf = (name: string): string => visibleJson(JSON.stringify(name))

const keysOf = ({ columns }: AuditEvent.Any): ReadonlyArray<string> =>
  columns.map(({ key }) => `,${nameOf(key)}:`)

type Join = (
  time: string | null,
  id: string | null,
  values: ReadonlyArray<unknown>,
  isMasked: ReadonlyArray<boolean>
) => string | undefined

const shownOf = (value: unknown, isMasked: boolean): unknown => {
  if (typeof value === "string" && !isMasked) return value
  return isMasked ? maskValue(plain(value)) : plain(value)
}

const csvLine: Join = (time, id, values, isMasked) => {
  let line = `${time ?? ""},${csvCell(id)}`
  for (let i = 0; i < values.length; i++) line += `,${csvCell(shownOf(values[i], isMasked[i]!))}`
  return `${line}\r\n`
}

/** A line of JSON; undefined if a value is an object, whose depth has to be bounded. */
const jsonLine = (kind: AuditEvent.Any, isText: boolean): Join => {
  const name = nameOf(kind.kind)
  const prefixes = keysOf(kind)
  return (time, id, values, isMasked) => {
    let line = `{"kind":${name},"event_id":${jsonCell(id)!},"time":${jsonCell(time)!}`
    for (let i = 0; i < values.length; i++) {
      const cell = jsonCell(shownOf(values[i], isMasked[i]!))
      if (cell === undefined) return undefined
      line += prefixes[i]! + cell
    }
    return isText ? `${time ?? "-"}  ${kind.kind}  ${line}}\n` : `${line}}\n`
  }
}

const jsonCell = (value: unknown): string | undefined => {
  if (value === null) return "null"
  if (typeof value === "string") {
    return PLAIN_TEXT.test(value) ? `"${value}"` : visibleJson(JSON.stringify(value))
  }
  return typeof value === "number" || typeof value === "boolean" ? JSON.stringify(value) : undefined
}

/** ASCII that JSON does not escape. */
const PLAIN_TEXT = /^[ !#-[\]-~]*$/

/** Whether an object would have each key once, and in this order: ours, then those of the columns. */
const hasPlainKeys = ({ columns }: AuditEvent.Any): boolean => {
  const keys = ["kind", "event_id", "time", ...columns.map(({ key }) => key)]
  return new Set(keys).size === keys.length && keys.every((key) => key !== "__proto__" && !/^\d+$/.test(key))
}

/** Whether the program's class declares a constructor, which may change the input. */
const hasConstructor = (kind: AuditEvent.Any): boolean => {
  let made: object = kind
  while (!Object.hasOwn(made, "columns")) {
    if ((made as { readonly length: number }).length > 0) return true
    made = Object.getPrototypeOf(made) as object
  }
  return false
}

/** The line of a whole event. */
const WHOLE: Readonly<Record<Format, (shown: Shown) => string>> = {
  csv: asCsv,
  json: (shown) => `${jsonOf(asJson(shown))}\n`,
  text: (shown) => `${[shown.time ?? "-", shown.kind, jsonOf(asJson(shown))].join("  ")}\n`
}
