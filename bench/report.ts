/**
 * The report: tables in README.md, between marks, and a picture. What stands outside the marks is left alone.
 *
 * @module
 */
import * as fs from "node:fs"
import type { Row } from "./measure.js"

const MARKS = /(<!-- results -->\n)([^]*)(\n<!-- end of results -->)/

/** If only a part of the works was measured, the lines about the others stay as they are. */
const machines = (before: string, machine: string, part: ReadonlyArray<string>): ReadonlyArray<string> => {
  if (part.length === 0) return [machine]
  const [said = ""] = before.split("### Goals", 1)
  const others = said
    .split("\n")
    .filter((line) => line !== "" && !part.some((work) => line.startsWith(`${work}: `)))
  return [...others, ...part.map((work) => `${work}: ${machine}`)]
}

/** `part` names the works that were measured, if others keep what they had. */
export const writeReadme = (
  file: string,
  machine: string,
  rows: ReadonlyArray<Row>,
  part: ReadonlyArray<string>
): void => {
  const text = fs.readFileSync(file, "utf8")
  const before = MARKS.exec(text)?.[2]
  if (before === undefined) throw new Error(`${file} has no marks for the results`)
  const goals = rows.filter(({ goal }) => goal !== null)
  const results = [
    ...machines(before, machine, part),
    "### Goals",
    table(
      ["work", "subject", "goal", "ratio", "measured", "met"],
      goals.map((row) => [
        workOf(row),
        row.subject,
        row.goal!,
        row.ratio?.toFixed(2) ?? "",
        row.measured ?? `${figure(row.eventsPerSecond)} events/s`,
        row.met === null ? "" : row.met ? "yes" : "**no**"
      ])
    ),
    "### Everybody",
    table(
      ["work", "subject", "events/s", "lowest to highest round", "p99, µs", "ratio to the limit"],
      rows
        .filter(({ eventsPerSecond, goal }) => eventsPerSecond !== null && goal === null)
        .map((row) => [
          workOf(row),
          row.subject,
          figure(row.eventsPerSecond),
          row.spread === null ? "" : row.spread.map(figure).join(" to "),
          figure(row.p99Micros),
          row.ratio?.toFixed(2) ?? ""
        ])
    )
  ]
  fs.writeFileSync(
    file,
    text.replace(MARKS, (_, start: string, __, end: string) => `${start}\n${results.join("\n\n")}\n${end}`)
  )
}

const workOf = ({ callers, work }: Row) => (callers === null ? work : `${work}, ${callers} callers`)

const figure = (value: number | null) => (value === null ? "" : value.toLocaleString("en"))

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")

// ------------------------------------------------------------------------------------------------- picture

const WIDTH = 860
const LABELS = 330
const BAR = 18
const STEP = 24

/** Horizontal bars, a panel for each work that has rates. */
export const chart = (rows: ReadonlyArray<Row>): string => {
  const rates = rows.filter(({ eventsPerSecond, goal }) => eventsPerSecond !== null && goal === null)
  const pictured = rates.filter(({ work }) => work === "append" || work.startsWith("delivery of"))
  const parts: Array<string> = []
  let y = 20
  for (const title of new Set(pictured.map(workOf))) {
    const bars = pictured.filter((row) => workOf(row) === title)
    parts.push(text(20, y + 14, `${title}, events/s`, "title"))
    y += STEP + 4
    const longest = Math.max(...bars.map(({ eventsPerSecond }) => eventsPerSecond!))
    for (const { eventsPerSecond, subject } of bars.toSorted(
      (a, b) => b.eventsPerSecond! - a.eventsPerSecond!
    )) {
      const width = Math.max(1, ((WIDTH - LABELS - 100) * eventsPerSecond!) / longest)
      parts.push(
        text(LABELS - 8, y + 13, subject, "label"),
        `<rect x="${LABELS}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" rx="2" class="${classOf(subject)}"/>`,
        text(LABELS + width + 6, y + 13, figure(eventsPerSecond), "figure")
      )
      y += STEP
    }
    y += 14
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img" aria-label="Appends and deliveries for each second">`,
    `<style>${STYLE}</style>`,
    `<rect width="${WIDTH}" height="${y}" class="paper"/>`,
    ...parts,
    "</svg>\n"
  ].join("\n")
}

const classOf = (subject: string) =>
  subject.startsWith("effect-audit") ? "ours" : subject.startsWith("limit") ? "limit" : "peer"

const text = (x: number, y: number, content: string, style: string) =>
  `<text x="${x.toFixed(1)}" y="${y}" class="${style}">${content.replace(/&/g, "&amp;").replace(/</g, "&lt;")}</text>`

const STYLE =
  "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;font-size:14px}.label{text-anchor:end}" +
  ".paper{fill:#fff}.ours{fill:#2563eb}.limit{fill:#d0d7de}.peer{fill:#8c959f}"
