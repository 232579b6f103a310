/**
 * The rows of an INSERT as text, which MySQL takes faster than the parameters of a prepared statement. Safe only under
 * the session's own sql_mode, in which a backslash escapes.
 */
import { escape } from "sql-escaper"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import { sqlDateTime } from "../../../schema/Line.js"
import { SALT_BYTES, saltAt } from "../../proof/row.js"
import { type Form, literalOf } from "../rows.js"

/**
 * A row for each event, in parentheses, separated by commas, with its columns in the order of `parameters`. Hot path:
 * rows are joined one by one, since the parts of a row are two dozen objects (bench/README.md#proof).
 */
export const rowsAsText = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean,
  /** of the kind's columns */
  forms: ReadonlyArray<Form>,
  /** for one more column, as for `parameters` */
  salts?: Buffer
): string => {
  const rows: Array<string> = []
  // Hot path: all digits at once, since a buffer for each salt costs as much as the rest of its row
  const digits = salts?.toString("hex")
  for (let index = 0; index < events.length; index++) {
    const event = events[index]!
    const { row } = event
    let text = withIdentity ? `(${identityOf(event)}` : "("
    for (let i = 0; i < row.length; i++) {
      const value = row[i]!
      if (i > 0 || withIdentity) text += ","
      text += literal(literalOf(value, forms[i]))
    }
    rows.push(digits === undefined ? `${text})` : `${text},x'${digitsAt(digits, index)}')`)
  }
  return rows.join(",")
}

/** One salt out of the hexadecimal digits of many. */
const digitsAt = (digits: string, index: number): string =>
  digits.slice(index * SALT_DIGITS, (index + 1) * SALT_DIGITS)

const SALT_DIGITS = 2 * SALT_BYTES

const identityOf = ({ eventId, time }: StoredEvent): string =>
  `x'${eventId.replaceAll("-", "")}',${time === null ? "NULL" : `'${sqlDateTime(time)}'`}`

const literal = (value: SqlValue | Buffer): string => {
  if (value === null) return "NULL"
  if (typeof value === "string") return escape(value)
  return Buffer.isBuffer(value) ? bytesAsText(value) : String(value)
}

const bytesAsText = (bytes: Buffer): string => `x'${bytes.toString("hex")}'`

/**
 * The row of an event that is too large to be escaped: its long texts are parameters. The rest is as in every other
 * row: MySQL converts parameters in another way than literals.
 */
export const rowWithParameters = (
  event: StoredEvent,
  withIdentity: boolean,
  forms: ReadonlyArray<Form>,
  salts?: Buffer
): { readonly row: string; readonly long: ReadonlyArray<string> } => {
  const long: Array<string> = []
  const isLong = (value: SqlValue): value is string => typeof value === "string" && value.length > LONG
  for (const value of event.row) if (isLong(value)) long.push(value)
  const values = event.row.map((value, index) =>
    isLong(value) ? "?" : literal(literalOf(value, forms[index]))
  )
  const identity = withIdentity ? [identityOf(event)] : []
  const salt = salts === undefined ? [] : [bytesAsText(saltAt(salts, 0))]
  return { row: `(${[...identity, ...values, ...salt].join(",")})`, long }
}

/** UTF-16 units */
const LONG = 1000
