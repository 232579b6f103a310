/**
 * Makes the tables of the events, or fits tables that exist, while other programs go on writing to them. It may run
 * twice, or twice at once.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Duration, Effect, Redacted, Schedule } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { UploadError } from "../../../schema/Errors.js"
import { mysqlType } from "../columnTypes.js"
import type { Endpoint, Session } from "./connection.js"
import { open } from "./connection.js"
import { classify, errnoOf, toUploadError } from "./errors.js"
import { columnsOf, eventKeysOf, quote } from "./table.js"
import { EVENT_ID, EVENT_TIME } from "../rows.js"

/** A table and the kind of events that it receives. */
export interface MigrationTarget {
  readonly definition: AuditEvent.Any
  readonly table: string
  /** false where the table gets neither our columns nor the key */
  readonly deduplicate: boolean
}

/** Brings the tables of one server's database into shape. */
export const migrate = (
  endpoint: Endpoint,
  targets: ReadonlyArray<MigrationTarget>
): Effect.Effect<void, UploadError> =>
  Effect.scoped(
    Effect.gen(function* () {
      // an index over a large table takes as long as it takes
      const session = yield* open({ ...endpoint, statementTimeout: Duration.hours(24) })
      // an ALTER that waits for a reader makes every writer wait behind it: wait for moments, and often
      yield* session.query(`SET SESSION lock_wait_timeout = ${LOCK_WAIT_SECONDS}`)
      for (const target of targets) yield* migrateTable(session, target)
    })
  ).pipe(
    Effect.catchTag("SqlError", ({ cause }) => {
      const failure = classify(cause, endpoint)
      return failure.class === "operator" || failure.class === "transient"
        ? toUploadError(failure)
        : refused(failure.code, endpoint, cause)
    })
  )

/** The same as text, for a database's administrator. */
export const migrationSql = (targets: ReadonlyArray<MigrationTarget>): string =>
  targets
    .map((target) => {
      const create = `${createTable(target)};\n`
      if (!target.deduplicate) return create
      const alters = [addColumns(target, OUR_COLUMNS), addKey(target)].map((alter) => comment(`${alter};`))
      return `${create}-- if the table was there before, with ours missing:\n${alters.join("")}`
    })
    .join("\n")

/** Each line: a name may hold a line's end, and what follows it would be run. */
const comment = (sql: string): string =>
  sql
    .split(/\r\n|[\n\r]/)
    .map((line) => `--   ${line}\n`)
    .join("")

const migrateTable = (session: Session, target: MigrationTarget) =>
  Effect.gen(function* () {
    yield* alter(session, createTable(target))

    const present = yield* columnsOf(session, target.table)
    const missing = [...theirColumns(target), ...ourColumns(target)].filter(
      ([name]) => !present.has(name.toLowerCase())
    )
    if (missing.length > 0) {
      // a moment's work where the server can, without a lock where it cannot, and never by copying under one
      yield* alter(session, `${addColumns(target, missing)}, ALGORITHM=INSTANT`).pipe(
        Effect.catchIf(isUnsupported, () =>
          alter(session, `${addColumns(target, missing)}, ALGORITHM=INPLACE, LOCK=NONE`)
        )
      )
    }

    if (target.deduplicate && (yield* eventKeysOf(session, target.table)).length === 0) {
      yield* alter(session, addKey(target))
    }
  })

/** Runs a statement again while others hold the table; that another migration was faster is a success. */
const alter = (session: Session, sql: string): Effect.Effect<void, SqlError> =>
  Effect.asVoid(session.query(sql)).pipe(
    Effect.retry({
      while: (error) => LOCKED.includes(errnoOf(error.cause)),
      schedule: Schedule.jittered(Schedule.spaced("1 second")),
      times: LOCK_RETRIES
    }),
    Effect.catchIf(
      (error) => DONE_ALREADY.includes(errnoOf(error.cause)),
      () => Effect.void
    )
  )

const LOCK_WAIT_SECONDS = 2
const LOCK_RETRIES = 100
const LOCKED = [1205, 1213]
/** duplicate column name, duplicate key name, table exists */
const DONE_ALREADY = [1060, 1061, 1050]

/** the server cannot do it so: ALGORITHM or LOCK not supported */
const isUnsupported = (error: SqlError) => [1221, 1845, 1846].includes(errnoOf(error.cause))

type ColumnOf = readonly [name: string, type: string]

const OUR_COLUMNS: ReadonlyArray<ColumnOf> = [
  [EVENT_ID, "BINARY(16) NULL"],
  [EVENT_TIME, "DATETIME(6) NULL"]
]

const EVENT_KEY = "effect_audit_event_id"

const theirColumns = ({ definition }: MigrationTarget): ReadonlyArray<ColumnOf> =>
  definition.columns.map((column) => [column.name, mysqlType(definition, column)])

const ourColumns = ({ deduplicate }: MigrationTarget): ReadonlyArray<ColumnOf> =>
  deduplicate ? OUR_COLUMNS : []

const createTable = (target: MigrationTarget): string => {
  const taken = new Set(theirColumns(target).map(([name]) => name.toLowerCase()))
  const column = ([name, type]: ColumnOf) => `${quote(name)} ${type}`
  const lines = [
    ...(taken.has("id") ? [] : ["`id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY"]),
    ...theirColumns(target).map(column),
    ...(taken.has("created_at") ? [] : ["`created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"]),
    ...ourColumns(target).map(column),
    ...(target.deduplicate ? [`UNIQUE KEY ${quote(EVENT_KEY)} (${quote(EVENT_ID)})`] : [])
  ]
  return (
    `CREATE TABLE IF NOT EXISTS ${quote(target.table)} (\n  ${lines.join(",\n  ")}\n) ` +
    `ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4`
  )
}

/** The columns take NULL whatever their type says, since the other writers of the table do not know them. */
const addColumns = ({ table }: MigrationTarget, columns: ReadonlyArray<ColumnOf>): string =>
  `ALTER TABLE ${quote(table)} ${columns
    .map(([name, type]) => `ADD COLUMN ${quote(name)} ${type.replace(/\bNOT\s+NULL\b/i, "NULL")}`)
    .join(", ")}`

const addKey = ({ table }: MigrationTarget): string =>
  `ALTER TABLE ${quote(table)} ADD UNIQUE KEY ${quote(EVENT_KEY)} (${quote(EVENT_ID)}), ALGORITHM=INPLACE, LOCK=NONE`

const refused = (code: string, { database, username }: Endpoint, cause: unknown) =>
  new UploadError({
    class: "operator",
    code,
    reason: LOCKED.includes(Number(code))
      ? `A transaction holds a table of ${database}: end it, then migrate again`
      : `${database} refuses to change a table for ${username}: let an administrator run the SQL of ` +
        `\`effect-audit migrate --print\``,
    cause: Redacted.make(cause)
  })
