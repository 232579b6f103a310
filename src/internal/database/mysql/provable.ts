/**
 * The columns of MySQL and MariaDB that give back what was written, to the last byte. Others pad, round, sort, rewrite
 * or shift it. Nobody guesses what would come back from these: they are refused by name and type.
 */
import { Either } from "../../../schema/Effect3.js"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import type { SqlValue } from "../../../schema/Line.js"
import { PROOF_COLUMN } from "../../proof/seal.js"
import { type Storage, storageOf } from "../columnTypes.js"
import { isNumeric, type Kept, type Keeper, numberText, wholeOf } from "../provable.js"
import { EVENT_ID, EVENT_TIME } from "../rows.js"
import type { Column, Columns } from "./table.js"

/** A table whose rows can be proved. */
export interface Provable {
  readonly eventTime: Keeper
  /** of the kind's columns */
  readonly columns: ReadonlyArray<Keeper>
}

/** What the columns of a table do with the values of a kind. If some change them: which, and what to do. */
export const provable = (
  definition: AuditEvent.Any,
  table: string,
  present: Columns
): Either.Either<Provable, string> => {
  const wrong: Array<string> = []
  const take = <A>(name: string, keep: (column: Column) => Either.Either<A, string>): A | undefined => {
    const column = present.get(name.toLowerCase())
    const kept = column === undefined ? Either.left("it is missing: migrate first") : keep(column)
    if (Either.isRight(kept)) return kept.right
    wrong.push(`${name}${column === undefined ? "" : ` (${column.declared})`}: ${kept.left}`)
    return undefined
  }
  take(EVENT_ID, (column) =>
    /^(?:var)?binary$/.test(column.type) ? Either.void : Either.left("make it BINARY(16)")
  )
  take(PROOF_COLUMN, (column) =>
    column.type === "varbinary" && (column.length ?? 0) >= 32
      ? Either.void
      : Either.left("make it VARBINARY(32) NULL")
  )
  const eventTime = take(EVENT_TIME, (column) => keeperOf(column, "dateTime"))
  const columns = definition.columns.map(({ field, name }) =>
    take(name, (column) => keeperOf(column, storageOf(definition.fields[field]!)))
  )
  return eventTime === undefined || wrong.length > 0
    ? Either.left(
        `${table} has columns whose values no proof can rest on, since they come back in another form: ${wrong.join("; ")}`
      )
    : Either.right({ eventTime, columns: columns.filter((keeper) => keeper !== undefined) })
}

/** What a column does with the values of a field. */
export const keeperOf = (column: Column, storage: Storage): Kept => {
  if (/generated/i.test(column.extra ?? "") && !/default_generated/i.test(column.extra ?? ""))
    return Either.left("it is generated, so nothing can be written to it")
  if (/^varchar$|text$/.test(column.type)) return textKeeper(column)
  if (/^(?:tiny|small|medium|big)?int$/.test(column.type)) {
    if (/zerofill/i.test(column.declared)) return Either.left("make it one without ZEROFILL")
    return isNumeric(storage)
      ? Either.right(WHOLE)
      : Either.left("make it VARCHAR or TEXT, as its field is a text")
  }
  if (/^double(?: unsigned)?$/i.test(column.declared))
    return isNumeric(storage)
      ? Either.right(NUMBER)
      : Either.left("make it VARCHAR or TEXT, as its field is a text")
  if (column.type === "datetime") return timeKeeper(column, storage)
  return Either.left(`make it ${INSTEAD[storage]}`)
}

const INSTEAD: Record<Storage, string> = {
  text: "VARCHAR, TEXT or LONGTEXT",
  integer: "BIGINT",
  number: "DOUBLE",
  boolean: "BOOLEAN",
  dateTime: "DATETIME(3)"
}

// ---------------------------------------------------------------------------------------------------- texts

/** Character sets whose bytes are the same on all servers, both ways. */
const CHARSETS = new Set(["utf8mb4", "utf8mb3", "utf8", "latin1", "ascii"])

const textKeeper = ({ charset, length, type }: Column): Kept => {
  if (!CHARSETS.has(charset ?? "")) return Either.left("CONVERT the table TO CHARACTER SET utf8mb4")
  const room = length ?? Number.POSITIVE_INFINITY
  const inBytes = type !== "varchar" && charset !== "latin1" && charset !== "ascii"
  // a UTF-16 unit is at most three bytes, and at most one character
  const plain = Math.floor(room / (inBytes ? 3 : 1))
  return Either.right({
    plain,
    fit: (value) => {
      if (value === null) return null
      const text = String(value)
      return text.length <= plain ? text : withoutExcess(text, room, inBytes)
    },
    textOf: asText
  })
}

/**
 * The text without blanks beyond the column's length, which the server cuts off silently, however strict it is. It
 * refuses anything else that is too long.
 */
const withoutExcess = (text: string, room: number, inBytes: boolean): string => {
  const bare = text.replace(BLANKS_AT_END, "")
  if (bare.length === text.length) return text
  const excess = sizeOf(text, inBytes) - Math.max(room, sizeOf(bare, inBytes))
  return excess > 0 ? text.slice(0, text.length - excess) : text
}

/** What the servers take for blanks. Each is one unit, one character and one byte. */
const BLANKS_AT_END = /[ \t-\r]+$/

const sizeOf = (text: string, inBytes: boolean): number => {
  if (inBytes) return Buffer.byteLength(text)
  let characters = 0
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) !== 0xdc00) characters++
  return characters
}

const asText = (value: SqlValue): string | null => (value === null ? null : String(value))

// -------------------------------------------------------------------------------------------------- numbers

const WHOLE: Keeper = {
  plain: -1,
  fit: wholeOf,
  textOf: asText
}

const NUMBER: Keeper = {
  plain: -1,
  // -0 becomes 0, as its text is
  fit: (value) => (value === null ? null : Number(value) + 0),
  textOf: (value) => (value === null ? null : numberText(Number(value)))
}

// ---------------------------------------------------------------------------------------------------- times

const timeKeeper = ({ declared }: Column, storage: Storage): Kept => {
  const places = Number(/\((\d)\)/.exec(declared)?.[1] ?? 0)
  if (storage === "dateTime" && places < 3)
    return Either.left("make it DATETIME(3), as its field has milliseconds")
  if (storage !== "dateTime" && storage !== "text") return Either.left(`make it ${INSTEAD[storage]}`)
  // many events share a millisecond
  let last: { readonly value: SqlValue; readonly fitted: string | undefined } | undefined
  return Either.right({
    plain: -1,
    fit: (value) => {
      if (value === null) return null
      if (last?.value !== value) last = { value, fitted: timeIn(String(value), places) }
      return last.fitted
    },
    textOf: asText
  })
}

/** A time in the form in which the server shows it; undefined if the server would have to guess, or round. */
const timeIn = (text: string, places: number): string | undefined => {
  const found = TIME.exec(text)
  if (found === null) return undefined
  const [, date = "", hours = "00", minutes = "00", seconds = "00", fraction = ""] = found
  if (/[1-9]/.test(fraction.slice(places))) return undefined
  const digits = fraction.slice(0, places).padEnd(places, "0")
  return `${date} ${hours}:${minutes}:${seconds}${places === 0 ? "" : `.${digits}`}`
}

const TIME = /^(\d{4}-\d\d-\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?$/
