/**
 * The rows of an INSERT as text, which MySQL takes faster than the parameters of a prepared statement. Safe under the
 * session's own sql_mode only, in which a backslash escapes.
 */
import { escape } from "sql-escaper"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import { sqlDateTime } from "../../../schema/Line.js"
import { type Form, literalOf } from "../rows.js"

/** A row for each event, in parentheses, its columns in the order of `parameters`. */
export const rowsAsText = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean,
  /** those of the columns of the kind */
  forms: ReadonlyArray<Form>
): Array<string> => {
  const rows: Array<string> = []
  for (const event of events) {
    const { row } = event
    let text = withIdentity ? `(${identityOf(event)}` : "("
    for (let i = 0; i < row.length; i++) {
      const value = row[i]!
      if (i > 0 || withIdentity) text += ","
      text += literal(literalOf(value, forms[i]))
    }
    rows.push(`${text})`)
  }
  return rows
}

const identityOf = ({ eventId, time }: StoredEvent): string =>
  `x'${eventId.replaceAll("-", "")}',${time === null ? "NULL" : `'${sqlDateTime(time)}'`}`

const literal = (value: SqlValue | Buffer): string => {
  if (value === null) return "NULL"
  if (typeof value === "string") return escape(value)
  return Buffer.isBuffer(value) ? `x'${value.toString("hex")}'` : String(value)
}

/**
 * The row of an event that is too large to be escaped: its long texts as parameters, the rest as in every other row, since
 * MySQL gives a parameter the type of its column and converts it in another way than a literal.
 */
export const rowWithParameters = (
  event: StoredEvent,
  withIdentity: boolean,
  forms: ReadonlyArray<Form>
): { readonly row: string; readonly long: ReadonlyArray<string> } => {
  const long: Array<string> = []
  const isLong = (value: SqlValue): value is string => typeof value === "string" && value.length > LONG
  for (const value of event.row) if (isLong(value)) long.push(value)
  const values = event.row.map((value, index) =>
    isLong(value) ? "?" : literal(literalOf(value, forms[index]))
  )
  return { row: `(${[...(withIdentity ? [identityOf(event)] : []), ...values].join(",")})`, long }
}

/** UTF-16 units */
const LONG = 1000
