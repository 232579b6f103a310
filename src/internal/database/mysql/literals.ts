/**
 * The rows of an INSERT as text, which MySQL takes faster than the parameters of a prepared statement. Safe under the
 * session's own sql_mode only, in which a backslash escapes.
 */
import { escape } from "sql-escaper"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import { sqlDateTime } from "../../../schema/Line.js"
import { textOf } from "../rows.js"

/** A row for each event, in parentheses, its columns in the order of `parameters`. */
export const rowsAsText = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean,
  /** the columns, of the kind's own, that take numbers as text */
  asText: ReadonlyArray<boolean>
): Array<string> => {
  const rows: Array<string> = []
  for (const { eventId, row, time } of events) {
    let text = withIdentity
      ? `(x'${eventId.replaceAll("-", "")}',${time === null ? "NULL" : `'${sqlDateTime(time)}'`}`
      : "("
    for (let i = 0; i < row.length; i++) {
      const value = row[i]!
      if (i > 0 || withIdentity) text += ","
      text += literal(asText[i] === true ? textOf(value) : value)
    }
    rows.push(`${text})`)
  }
  return rows
}

const literal = (value: SqlValue): string =>
  value === null ? "NULL" : typeof value === "string" ? escape(value) : String(value)
