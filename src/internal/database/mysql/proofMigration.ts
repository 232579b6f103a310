/** What a table needs for a proof: transactions, columns that change no value, and no trigger that does. */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect } from "effect"
import * as crypto from "node:crypto"
import { Either } from "../../../schema/Effect3.js"
import type { UploadError } from "../../../schema/Errors.js"
import { PROOF_COLUMN, SEAL_TABLE } from "../../proof/seal.js"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { SALT_BYTES } from "../../proof/row.js"
import { EVENT_ID, EVENT_TIME } from "../rows.js"
import { changedIn, sampleRow } from "../sample.js"
import type { Session } from "./connection.js"
import { classify } from "./errors.js"
import { provable, type Provable } from "./provable.js"
import { CREATE_SEAL_TABLE, misfitSeals, selectRows } from "./seals.js"
import { columnsOf, type Columns, engineOf, quote, unusable } from "./table.js"

/** A table whose rows are to be proved. */
interface Target {
  readonly definition: AuditEvent.Any
  readonly table: string
}

type Checked = Effect.Effect<void, SqlError | UploadError>

/** Makes the table of seals, or checks one that is there. */
export const migrateSeals = (
  session: Session,
  run: (session: Session, sql: string) => Effect.Effect<void, SqlError>
): Checked =>
  Effect.gen(function* () {
    yield* run(session, CREATE_SEAL_TABLE)
    const present = yield* columnsOf(session, SEAL_TABLE)
    const wrong = misfitSeals(present)
    if (wrong.length > 0) {
      return yield* unusable(
        "COLUMN_TYPE",
        `${SEAL_TABLE} is a table of another kind (${wrong.join(", ")}): rename it, and migrate again`
      )
    }
    yield* checkEngine(session, SEAL_TABLE)
  })

/** Checks a table that has its columns, and tries it with a row that is rolled back. */
export const checkTable = (session: Session, { definition, table }: Target): Checked =>
  Effect.gen(function* () {
    yield* checkEngine(session, table)
    const present = yield* columnsOf(session, table)
    const found = provable(definition, table, present)
    if (Either.isLeft(found)) return yield* unusable("COLUMN_TYPE", found.left)
    for (const which of ["rich", "plain"] as const) {
      const refusal = yield* trySample(session, { definition, table }, present, found.right, which)
      if (refusal === undefined) return
      if (which === "plain")
        yield* Effect.logWarning(
          `${table} refuses a row that was made up to try it (${refusal}), so a trigger that changes rows would stay unseen ` +
            `until the first proof`
        )
    }
  })

const checkEngine = (session: Session, table: string): Checked =>
  Effect.flatMap(engineOf(session, table), ({ engine, transactional }) =>
    transactional && engine !== null
      ? Effect.void
      : unusable(
          "ENGINE",
          `${table} has ${engine === null ? "no engine, since it is a view" : `the engine ${engine}`}, and a seal needs ` +
            `transactions: ALTER TABLE ${quote(table)} ENGINE = InnoDB, or name another table in \`tables\``
        )
  )

/** Returns why the table refuses the row, if it does. Fails if the row comes back changed. */
const trySample = (
  session: Session,
  { definition, table }: Target,
  present: Columns,
  { columns: keepers, eventTime }: Provable,
  which: "rich" | "plain"
): Effect.Effect<string | undefined, SqlError | UploadError> =>
  Effect.gen(function* () {
    const row = sampleRow(definition, keepers, which, (name) => {
      const { charset, length } = present.get(name.toLowerCase())!
      return {
        isAscii: charset === "latin1" || charset === "ascii",
        characters: length ?? Number.POSITIVE_INFINITY
      }
    })
    const id = crypto.randomBytes(16)
    const time = eventTime.fit("2026-01-31 08:00:00.123") ?? null
    const names = definition.columns.map(({ name }) => name)
    const into = [EVENT_ID, EVENT_TIME, PROOF_COLUMN, ...names]
    yield* session.query("START TRANSACTION")
    const written = yield* Effect.either(
      session.query(
        `INSERT INTO ${quote(table)} (${into.map(quote).join(", ")}) VALUES (${into.map(() => "?").join(", ")})`,
        [id, time, crypto.randomBytes(SALT_BYTES), ...row]
      )
    )
    if (Either.isLeft(written)) {
      yield* session.query("ROLLBACK")
      const failure = classify(written.left.cause, session.endpoint)
      // if a constraint or a trigger refuses this row, that says nothing of real ones
      return failure.class === "transient" ? yield* written.left : failure.code
    }
    const [shown] = yield* selectRows(
      session,
      { columns: names, table },
      present,
      `${EVENT_ID} = x'${id.toString("hex")}'`
    )
    yield* session.query("ROLLBACK")
    const changed =
      shown === undefined
        ? "all of it"
        : changedIn(
            [EVENT_TIME, ...names],
            [eventTime.textOf(time), ...row.map((value, index) => keepers[index]!.textOf(value))],
            [shown.eventTime, ...shown.values]
          )
    if (changed !== undefined || shown?.proof?.length !== SALT_BYTES) {
      return yield* unusable(
        "TRIGGER",
        `${table} gives back another row than was written to it (${changed ?? PROOF_COLUMN}): a trigger changes it, so nothing ` +
          `could be proved. Drop the trigger, or name another table in \`tables\``
      )
    }
    return undefined
  })
