/**
 * Presence: tells whether events are in their table already, if the server names another unique key before ours.
 *
 * The server checks the primary key first, so a repeated event looks like another event with the same key. An account
 * that may read `event_id` asks. Without that right the events are inserted once more, with other values for those
 * keys, and rolled back. Our key refuses what is there already.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import type { StoredEvent } from "../../../schema/Line.js"
import type { Session } from "./connection.js"
import { DUPLICATE_ENTRY, errnoOf, isEventKey } from "./errors.js"
import { rowsAsText } from "./literals.js"
import type { Table } from "./table.js"

/**
 * - `present`: all of the events are in the table
 * - `absent`: at least one of them is not
 * - `unknown`: nothing tells
 * - `elsewhere`: a table that a trigger fills refuses the event
 */
export type Presence = "present" | "absent" | "unknown" | "elsewhere"

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
