/**
 * What the tables of both databases have in common.
 */
import type * as AuditEvent from "../../schema/AuditEvent.js"
import type { SqlValue, StoredEvent } from "../../schema/Line.js"
import { sqlDateTime } from "../../schema/Line.js"
import { ID_BYTES, writeId } from "../../schema/EventId.js"

/** Our own columns: the event's id, 16 bytes, and its time in UTC. */
export const EVENT_ID = "event_id"
export const EVENT_TIME = "event_time"

/** Which tables receive the events, by kind, where it is not the one that the kind names. */
export interface TableNames {
  readonly [kind: string]: string | undefined
}

/** The table of a kind. */
export const tableName = (definition: AuditEvent.Any, names: TableNames | undefined): string =>
  names?.[definition.kind] ?? definition.table

/** How many parameters a row has. */
export const widthOf = (definition: AuditEvent.Any, withIdentity: boolean): number =>
  definition.columns.length + (withIdentity ? 2 : 0)

/** The parameters of a multi-row INSERT, row by row; those of {@link EVENT_ID} and {@link EVENT_TIME} come first. */
export const parameters = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean,
  /** those of the columns of the kind */
  forms?: ReadonlyArray<Form>
): Array<SqlValue | Buffer> => {
  const params: Array<SqlValue | Buffer> = []
  // one buffer for all ids: a small one for each would cost more than the id
  const ids = Buffer.allocUnsafeSlow(withIdentity ? events.length * ID_BYTES : 0)
  let at = 0
  for (const { eventId, row, time } of events) {
    if (withIdentity) {
      writeId(eventId, ids, at)
      params.push(ids.subarray(at, (at += ID_BYTES)), time === null ? null : sqlDateTime(time))
    }
    if (forms === undefined) for (const value of row) params.push(value)
    else for (let i = 0; i < row.length; i++) params.push(parameterOf(row[i]!, forms[i]))
  }
  return params
}

/**
 * How the values of a column go as parameters, where a plain one would be stored in another way than the same in a text.
 *
 * - `digits`: numbers as texts, since a floating-point number would show as `1.23e15`
 * - `whole`: fractions rounded away from zero as literals are; the server rounds parameters to the even neighbour
 * - `bits`: of a BIT column, which takes digits for bytes
 */
export type Form = "digits" | "whole" | "bits" | undefined

const parameterOf = (value: SqlValue, form: Form): SqlValue | Buffer => {
  if (form === undefined) return value
  if (form === "digits") return digitsOf(value)
  if (typeof value === "number") return Number.isInteger(value) ? value : roundAway(value)
  return form === "bits" ? bitsOf(value) : value
}

const roundAway = (value: number): number => Math.sign(value) * Math.round(Math.abs(value))

/** A number as its digits. */
export const digitsOf = (value: SqlValue): SqlValue =>
  typeof value === "number" || typeof value === "bigint" ? String(value) : value

const bitsOf = (value: string | bigint | null): Buffer | null => {
  if (typeof value !== "bigint") return value === null ? null : Buffer.from(value)
  const bits = Buffer.alloc(8)
  bits.writeBigUInt64BE(BigInt.asUintN(64, value))
  return bits
}

/** So many rows of so many placeholders, as they follow VALUES. */
export const placeholders = (rows: number, columns: number): string =>
  Array<string>(rows)
    .fill(`(${Array<string>(columns).fill("?").join(",")})`)
    .join(",")
