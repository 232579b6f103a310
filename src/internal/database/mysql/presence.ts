/**
 * Presence: tells whether events are in their table already, if the server names another unique key before ours.
 *
 * The server checks the primary key first, so a repeated event looks like another event with the same key. An account
 * that may read `event_id` asks. Without that right the events are inserted once more, with other values for those
 * keys, and rolled back. Our key refuses what is there already.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import * as crypto from "node:crypto"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import type { Session } from "./connection.js"
import { DUPLICATE_ENTRY, errnoOf, isEventKey } from "./errors.js"
import { rowsAsText } from "./literals.js"
import type { Column, Table } from "./table.js"

/**
 * - `present`: all of the events are in the table
 * - `absent`: at least one of them is not
 * - `unknown`: nothing tells
 * - `elsewhere`: a table that a trigger fills refuses the event
 */
export type Presence = "present" | "absent" | "unknown" | "elsewhere"

/** A unique key of the table other than ours. */
export interface OwnKey {
  readonly name: string
  /** how to give one of its columns a value that no row has; undefined if there is none */
  readonly variation: Variation | undefined
}

interface Variation {
  readonly index: number
  readonly value: () => SqlValue
}

/** How to vary a key over these columns. `index` is a column's place in the rows of the kind, or -1. */
export const variationOf = (
  columns: ReadonlyArray<{ readonly index: number; readonly column: Column | undefined }>
): Variation | undefined =>
  columns
    .flatMap(({ column, index }) => {
      const value = column === undefined || index < 0 ? undefined : freshValue(column)
      return value === undefined ? [] : [{ index, ...value }]
    })
    .sort((a, b) => b.rank - a.rank)[0]

/** Random values for a column. The higher the rank, the less likely they are taken. */
const freshValue = (
  column: Column
): { readonly rank: number; readonly value: () => SqlValue } | undefined => {
  const { declared, extra, length, nullable, type } = column
  // NULLs are never the same to a key; a counter takes NULL for its next number
  if (nullable === "YES" || /auto_increment/i.test(extra ?? "")) return { rank: 3, value: () => null }
  if (type === "uuid") return { rank: 2, value: () => crypto.randomUUID() }
  if (/char$|text$|binary$|blob$/.test(type)) {
    const room = Math.min(length ?? 0, 32)
    return {
      rank: room < 8 ? 0 : 2,
      value: () => crypto.randomUUID().replaceAll("-", "").slice(0, room)
    }
  }
  const bits = INTEGERS[type]
  if (bits !== undefined) {
    return {
      rank: bits < 32 ? 0 : 2,
      value: () => crypto.randomBytes(8).readBigUInt64BE() >> BigInt(65 - bits)
    }
  }
  const [, digits, decimals] = /^decimal\((\d+),(\d+)\)/.exec(declared) ?? []
  if (digits !== undefined) {
    return {
      rank: 1,
      value: () => Math.floor(Math.random() * 10 ** Math.min(15, Number(digits) - Number(decimals)))
    }
  }
  if (type === "double") return { rank: 1, value: () => Math.random() * 1e15 }
  const seconds = () => new Date(Math.floor(Math.random() * 2 ** 31) * 1000).toISOString()
  if (type === "datetime" || type === "timestamp") {
    return { rank: 1, value: () => seconds().slice(0, 19).replace("T", " ") }
  }
  return type === "date" ? { rank: 0, value: () => seconds().slice(0, 10) } : undefined
}

const INTEGERS: Readonly<Record<string, number>> = {
  tinyint: 8,
  smallint: 16,
  mediumint: 24,
  int: 32,
  bigint: 64
}

/** Whether the events are in the table, after a key other than ours refused one of them. */
export const presenceOf = (
  session: Session,
  table: Table,
  events: ReadonlyArray<StoredEvent>
): Effect.Effect<Presence, SqlError> =>
  table.countIds === undefined ? probe(session, table, events) : ask(session, table.countIds, events)

const Count = Schema.Struct({ n: Schema.Union(Schema.Number, Schema.NumberFromString) })

const ask = (session: Session, countIds: string, events: ReadonlyArray<StoredEvent>) => {
  const ids = [...new Set(events.map(({ eventId }) => `x'${eventId.replaceAll("-", "")}'`))]
  return Effect.map(session.select(Count, `${countIds} (${ids.join(",")})`), ([row]): Presence =>
    row?.n === ids.length ? "present" : "absent"
  )
}

const Warning = Schema.Struct({ Code: Schema.Number, Message: Schema.String })

/** a random value may be taken */
const TRIES = 4

const probe = (
  session: Session,
  table: Table,
  events: ReadonlyArray<StoredEvent>
): Effect.Effect<Presence, SqlError> =>
  Effect.gen(function* () {
    const { ownKeys, subject, transactional } = table
    const variations = ownKeys.flatMap(({ variation }) => (variation === undefined ? [] : [variation]))
    // without transactions the rows would stay, and a warning that is not shown tells nothing
    if (!transactional || variations.length < ownKeys.length || session.maxWarnings < events.length) {
      return "unknown"
    }
    for (let tries = 0; tries < TRIES; tries++) {
      const varied = events.map((event) => {
        const row = [...event.row]
        for (const { index, value } of variations) row[index] = value()
        return { ...event, row }
      })
      // the new values need not point to any row
      yield* session.query("SET SESSION foreign_key_checks = 0")
      yield* session.query("START TRANSACTION")
      const inserted = yield* Effect.either(
        session.write(table.insertIgnore + rowsAsText(varied, true, table.forms))
      )
      const warnings = inserted._tag === "Right" ? yield* session.select(Warning, "SHOW WARNINGS") : []
      yield* session.query("ROLLBACK")
      yield* session.query("SET SESSION foreign_key_checks = 1")
      if (inserted._tag === "Left") {
        return errnoOf(inserted.left.cause) === DUPLICATE_ENTRY ? "elsewhere" : "unknown"
      }
      const ours = warnings.filter((_) => _.Code === DUPLICATE_ENTRY && isEventKey(_.Message, subject))
      if (ours.length === events.length) return "present"
      // several events are narrowed down, and asked about again
      if (events.length > 1 || warnings.every(({ Code }) => SHORTENED.includes(Code))) return "absent"
    }
    return "unknown"
  })

/** Warnings of a row that went in with shortened values. */
const SHORTENED = [1264, 1265, 1406]
