/** What the tables of all databases have in common. */
import type * as AuditEvent from "../../schema/AuditEvent.js"
import type { SqlValue, StoredEvent } from "../../schema/Line.js"
import { sqlDateTime } from "../../schema/Line.js"
import { ofKind } from "../../schema/Rules.js"
import { ID_BYTES, writeId } from "../../schema/EventId.js"
import { saltAt } from "../proof/row.js"
import { wholeOf } from "./provable.js"

/** Our own columns: the event's id, 16 bytes, and its time in UTC. */
export const EVENT_ID = "event_id"
export const EVENT_TIME = "event_time"

/** The tables of kinds that do not go to the one that the kind names. */
export interface TableNames {
  readonly [kind: string]: string | undefined
}

export const tableName = (definition: AuditEvent.Any, names: TableNames | undefined): string =>
  ofKind(names, definition.kind) ?? definition.table

/** The command that makes a table, or adds what it lacks. It can be pasted; the kind says whether it needs an option. */
export const migrateCommand = (...options: ReadonlyArray<string>): string =>
  `\`${["effect-audit migrate", ...options].join(" ")}\` (--activity for activities, --events MODULE for kinds of your own)`

/** The name of a table's counter: `id`. If the kind has that column: `row_id`, `row_id_2` ... */
export const counterName = (columns: ReadonlyArray<string>): string => {
  const taken = new Set(columns.map((name) => name.toLowerCase()))
  let name = "id"
  for (let n = 1; taken.has(name); n++) name = n === 1 ? "row_id" : `row_id_${n}`
  return name
}

/** Whether the kind has a column `created_at`, which otherwise says when a row was stored. */
export const hasCreatedAt = (columns: ReadonlyArray<string>): boolean =>
  columns.some((name) => name.toLowerCase() === "created_at")

/** An index of a table, for reading. */
export interface Index {
  readonly name: string
  readonly columns: ReadonlyArray<string>
}

const BY_TIME = [EVENT_TIME, EVENT_ID]

/** The index of the order in which events are read. */
export const TIME_INDEX: Index = { name: "effect_audit_event_time", columns: BY_TIME }

export const indexesOf = ({ columns, indexes }: AuditEvent.Any): ReadonlyArray<Index> => {
  const nameOf = (field: string) => columns.find((column) => column.field === field)?.name ?? field
  return indexes.map((fields) => {
    const names = fields.map(nameOf)
    return { name: `effect_audit_${names.join("_")}`, columns: [...names, ...BY_TIME] }
  })
}

export const widthOf = (definition: AuditEvent.Any, withIdentity: boolean): number =>
  definition.columns.length + (withIdentity ? 2 : 0)

/** The parameters of a multi-row INSERT, row by row. Those of {@link EVENT_ID} and {@link EVENT_TIME} come first. */
export const parameters = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean,
  /** of the kind's columns */
  forms?: ReadonlyArray<Form>,
  /** for one more column: one for each event, one after the other */
  salts?: Buffer
): Array<SqlValue | Buffer> => {
  const params: Array<SqlValue | Buffer> = []
  // Hot path: one buffer for all ids, since a small one for each would cost more than the id
  const ids = Buffer.allocUnsafeSlow(withIdentity ? events.length * ID_BYTES : 0)
  for (let index = 0; index < events.length; index++) {
    const { eventId, row, time } = events[index]!
    if (withIdentity) {
      const at = index * ID_BYTES
      writeId(eventId, ids, at)
      params.push(ids.subarray(at, at + ID_BYTES), time === null ? null : sqlDateTime(time))
    }
    if (forms === undefined) for (const value of row) params.push(value)
    else for (let i = 0; i < row.length; i++) params.push(parameterOf(row[i]!, forms[i]))
    if (salts !== undefined) params.push(saltAt(salts, index))
  }
  return params
}

/**
 * How the values of a column are sent, if a plain parameter would be stored as another value than a literal.
 *
 * - `digits`: numbers as texts, since a floating-point number would show as `1.23e15`
 * - `whole`: fractions are rounded away from zero, as literals are; the server rounds parameters to the even neighbour.
 *   Beyond 2^53 with every digit, of which a literal would have the first 17
 * - `finite`: as it is, except `NaN` and what is infinite, which become a text that the column refuses
 * - `bits`: for a BIT column, which takes digits for bytes, and cuts numbers to 64 bits
 * - a type of times, which guesses at anything else: in a YEAR 1 is 2001, in a TIME 130 is 00:01:30, in a DATE 101 is
 *   2000-01-01, and 10:11:12 is 2010-11-12
 * - the members of an ENUM or SET, which takes digits that are no member for the place of one
 */
export type Form = "digits" | "whole" | "finite" | "bits" | TimeForm | ReadonlySet<string> | undefined

type TimeForm = "year" | "time" | "date" | "datetime" | "timestamp"

/** Whether rows that were made for some forms fit others. */
export const isSameForms = (some: ReadonlyArray<Form>, others: ReadonlyArray<Form>): boolean =>
  some.length === others.length && some.every((form, index) => isSame(form, others[index]))

const isSame = (form: Form, other: Form): boolean =>
  form === other ||
  (typeof form === "object" &&
    typeof other === "object" &&
    form.size === other.size &&
    [...form].every((member) => other.has(member)))

const parameterOf = (value: SqlValue, form: Form): SqlValue | Buffer => {
  if (form === undefined || value === null) return value
  if (isNotFinite(value)) return notFiniteOf(value, form)
  if (form === "bits") {
    if (typeof value === "string") return Buffer.from(value)
    const bits = bitsOf(value)
    return typeof bits === "bigint" ? bytesOf(bits) : bits
  }
  if (typeof form === "object" || form === "digits") return textOf(value, form)
  if (form === "whole") return wholeOf(value)
  return form === "finite" ? value : timeOf(value, form)
}

export const literalOf = (value: SqlValue, form: Form): SqlValue | Buffer => {
  if (form === undefined || value === null) return value
  if (isNotFinite(value)) return notFiniteOf(value, form)
  if (form === "finite") return value
  if (form === "whole") return wholeOf(value)
  if (form === "bits") return typeof value === "string" ? value : bitsOf(value)
  return typeof form === "object" || form === "digits" ? textOf(value, form) : timeOf(value, form)
}

/**
 * Whether it is `NaN` or infinite. Columns of numbers hold neither. If it went as a literal, then the server would take
 * it for the name of a column, and blame the table.
 */
const isNotFinite = (value: SqlValue): value is number => typeof value === "number" && !Number.isFinite(value)

/** A form that columns of texts hold and all others refuse. */
const notFiniteOf = (value: number, form: Form): string | Buffer => {
  if (form === "bits") return TOO_MANY_BITS
  return form === "digits" || typeof form === "object" ? textOf(value, form) : refused(String(value))
}

/** A number as its digits. Digits that an ENUM or SET would misunderstand become a text that it refuses. */
const textOf = (value: string | number | bigint, form: "digits" | ReadonlySet<string>): string => {
  const text = String(value)
  return form === "digits" || !PLACE.test(text) || form.has(text.trimEnd()) ? text : `${text}\0`
}

/** Sends a time as it is if there is nothing to guess. Anything else becomes what no column of times takes. */
const timeOf = (value: string | number | bigint, form: TimeForm): string | number | bigint => {
  const text = String(value)
  if (form === "year") {
    const years = Number(wholeOf(value))
    // never a bigint, which a driver sends as text
    if (typeof value !== "string") return years === 0 || Math.abs(years) > 99 ? years : refused(text)
    // of the texts that are zero, only that of four digits is the year 0000
    return Math.abs(years) < 100 && text !== "0000" ? refused(text) : value
  }
  if (form === "time") return Number.isNaN(Number(text)) ? value : refused(text)
  // the first digits are a year of four digits, a whole date, or a date and time
  const { length } = /^\s*(\d*)/.exec(text)![1]!
  return length === 4 || length === 8 || length >= 14 ? value : refused(text)
}

const refused = (text: string): string => `?${text}`

/** What servers read as a place among the members. */
const PLACE = /^\s*[+-]?\d+\s*$/

/** The whole number in 64 bits, signed or not. If it needs more: nine bytes, which every BIT column refuses. */
const bitsOf = (value: number | bigint): bigint | Buffer => {
  const whole = BigInt(wholeOf(value))
  return whole === BigInt.asIntN(64, whole) || whole === BigInt.asUintN(64, whole) ? whole : TOO_MANY_BITS
}

const TOO_MANY_BITS = Buffer.alloc(9, 0xff)

const bytesOf = (bits: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt.asUintN(64, bits))
  return bytes
}

/** Rows of placeholders, as they follow VALUES. */
export const placeholders = (rows: number, columns: number): string =>
  Array<string>(rows)
    .fill(`(${Array<string>(columns).fill("?").join(",")})`)
    .join(",")
