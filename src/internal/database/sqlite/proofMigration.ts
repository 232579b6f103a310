/** What a table needs for a proof: columns that change no value, and no trigger that does. */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import * as crypto from "node:crypto"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { Either } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import { PROOF_COLUMN } from "../../proof/seal.js"
import { SALT_BYTES } from "../../proof/row.js"
import type { Keeper } from "../provable.js"
import { EVENT_ID, EVENT_TIME } from "../rows.js"
import { changedIn, sampleRow } from "../sample.js"
import { explain } from "./errors.js"
import { Refused } from "../narrow.js"
import { provable } from "./provable.js"
import { quote } from "./connection.js"
import { selectRows } from "./seals.js"

const refuse = (code: string, reason: string) => new UploadError({ class: "operator", code, reason })

const TableInfo = Schema.Array(Schema.Struct({ name: Schema.String, type: Schema.String }))

/** The declared types of a table's columns, by name in lower case. */
export const typesOf = (
  connection: Connection,
  table: string
): Effect.Effect<ReadonlyMap<string, string>, SqlError> =>
  connection.execute("SELECT name, type FROM pragma_table_info(?)", [table], undefined).pipe(
    Effect.flatMap(Schema.decodeUnknown(TableInfo)),
    Effect.catchTag("ParseError", Effect.die),
    Effect.map((columns) => new Map(columns.map(({ name, type }) => [name.toLowerCase(), type])))
  )

/** Gives a table its column for proofs, and tries it with a row that is rolled back. */
export const migrateTable = (
  connection: Connection,
  definition: AuditEvent.Any,
  table: string,
  file: string
): Effect.Effect<void, SqlError | UploadError> =>
  Effect.gen(function* () {
    const types = yield* typesOf(connection, table)
    if (!types.has(PROOF_COLUMN))
      yield* connection.executeRaw(`ALTER TABLE ${quote(table)} ADD COLUMN ${PROOF_COLUMN} BLOB`, [])
    const found = provable(definition, table, types)
    if (Either.isLeft(found)) return yield* refuse("COLUMN_TYPE", found.left)
    for (const which of ["rich", "plain"] as const) {
      const refusal = yield* trySample(connection, definition, table, found.right, which, file)
      if (refusal === undefined) return
      if (which === "plain")
        yield* Effect.logWarning(
          `${table} refuses a row that was made up to try it (${refusal}), so a trigger that changes rows would stay unseen ` +
            `until the first proof`
        )
    }
  })

/** Returns why the table refuses the row, if it does. Fails if the row comes back changed. */
const trySample = (
  connection: Connection,
  definition: AuditEvent.Any,
  table: string,
  keepers: ReadonlyArray<Keeper>,
  which: "rich" | "plain",
  file: string
): Effect.Effect<string | undefined, SqlError | UploadError> =>
  Effect.gen(function* () {
    const row = sampleRow(definition, keepers, which, () => ROOM)
    const id = crypto.randomBytes(16)
    const names = definition.columns.map(({ name }) => name)
    const into = [EVENT_ID, EVENT_TIME, PROOF_COLUMN, ...names]
    yield* connection.executeRaw("BEGIN IMMEDIATE", [])
    const written = yield* Effect.either(
      connection.executeRaw(
        `INSERT INTO ${quote(table)} (${into.map(quote).join(", ")}) VALUES (${into.map(() => "?").join(", ")})`,
        [id, TIME, crypto.randomBytes(SALT_BYTES), ...row]
      )
    )
    if (Either.isLeft(written)) {
      yield* connection.executeRaw("ROLLBACK", [])
      const refused = explain(written.left.cause, file)
      // if a constraint or a trigger refuses this row, that says nothing of real ones
      return refused instanceof Refused ? refused.code : yield* refused
    }
    const [shown] = yield* selectRows(
      connection,
      { columns: names, table },
      `${EVENT_ID} = x'${id.toString("hex")}'`
    )
    yield* connection.executeRaw("ROLLBACK", [])
    const changed =
      shown === undefined
        ? "all of it"
        : changedIn(
            [EVENT_TIME, ...names],
            [TIME, ...row.map((value, index) => keepers[index]!.textOf(value))],
            [shown.eventTime, ...shown.values]
          )
    if (changed !== undefined || shown?.proof?.length !== SALT_BYTES) {
      return yield* refuse(
        "TRIGGER",
        `${table} gives back another row than was written to it (${changed ?? PROOF_COLUMN}): a trigger changes it, so nothing ` +
          `could be proved. Drop the trigger, or name another table`
      )
    }
    return undefined
  })

const TIME = "2026-01-31 08:00:00.123"
const ROOM = { isAscii: false, characters: Number.POSITIVE_INFINITY }
