/**
 * The control of an export: a program that streams the same rows by bare mysql2, and writes the same lines.
 *
 * @module
 */
import { createConnection } from "mysql2"
import { once } from "node:events"
import { USE_COLUMNS } from "../event.js"

interface UseRow {
  readonly event_id: Buffer
  readonly event_time: Date
  readonly [column: string]: unknown
}

const idOf = (bytes: Buffer): string => {
  const hex = bytes.toString("hex")
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** in quotes if necessary, and never a formula */
const cellOf = (value: unknown): string => {
  if (value === null) return ""
  if (typeof value !== "string") return JSON.stringify(value)
  if (!/[",\r\n]|^[\s=+\-@]|\s$/.test(value)) return value
  const harmless = /^\s*[=+\-@\t\r\n]/.test(value) ? `'${value}` : value
  return /[",\r\n]|^\s|\s$/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless
}

const csvOf = (row: UseRow): string => {
  let line = `${row.event_time.toISOString()},${idOf(row.event_id)}`
  for (const column of USE_COLUMNS) line += `,${cellOf(row[column])}`
  return `${line}\r\n`
}

const jsonOf = ({ event_id, event_time, ...fields }: UseRow): string =>
  `${JSON.stringify({ kind: "use_log", event_id: idOf(event_id), time: event_time, ...fields })}\n`

/** characters of a write */
const CHUNK = 64 * 1024

const [url, format] = process.argv.slice(2)
const lineOf = format === "--csv" ? csvOf : jsonOf
const connection = createConnection({ uri: url!, timezone: "Z" })
const rows = connection
  .query(
    `SELECT event_id, event_time, ${USE_COLUMNS.join(", ")} FROM nano_banana_user_use_log ` +
      "ORDER BY event_time DESC, event_id DESC"
  )
  .stream()
let text = format === "--csv" ? `${["time", "event_id", ...USE_COLUMNS].join(",")}\r\n` : ""
for await (const row of rows) {
  text += lineOf(row as UseRow)
  if (text.length < CHUNK) continue
  if (!process.stdout.write(text)) await once(process.stdout, "drain")
  text = ""
}
process.stdout.write(text)
connection.destroy()
