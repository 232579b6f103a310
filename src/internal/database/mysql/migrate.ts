/**
 * The migration: makes the tables of events, or fits existing ones, while other programs write to them. It may be
 * repeated, and run twice at once.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Duration, Effect, Redacted, Schedule, Schema } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { UploadError } from "../../../schema/Errors.js"
import { mysqlType } from "../columnTypes.js"
import {
  counterName,
  EVENT_ID,
  EVENT_TIME,
  hasCreatedAt,
  type Index,
  indexesOf,
  TIME_INDEX
} from "../rows.js"
import { PROOF_COLUMN } from "../../proof/seal.js"
import type { Session } from "./connection.js"
import { open } from "./connection.js"
import type { Endpoint } from "./endpoints.js"
import { classify, errnoOf, READ_ONLY } from "./errors.js"
import { checkTable, migrateSeals } from "./proofMigration.js"
import { CREATE_SEAL_TABLE } from "./seals.js"
import type { Columns } from "./table.js"
import {
  columnsOf,
  dotted,
  eventKeysOf,
  misfit,
  misnamed,
  misnamedColumn,
  quote,
  unfit,
  unusable,
  WAY_OUT
} from "./table.js"

/** A table and the kind of events that it receives. */
export interface MigrationTarget {
  readonly definition: AuditEvent.Any
  readonly table: string
  /** false if the table gets neither our columns nor the key */
  readonly deduplicate: boolean
  /** whether a table gets the indexes for reading; a new one gets those of its kind in any case */
  readonly index: boolean
  /** whether its rows are to be proved */
  readonly proof?: boolean | undefined
}

/**
 * Migrates the tables of one server. One of several (`isOnly` is false) is refused if it is read-only: changes by a
 * privileged account would not reach the others.
 */
export const migrate = (
  endpoint: Endpoint,
  targets: ReadonlyArray<MigrationTarget>,
  isOnly: boolean
): Effect.Effect<void, UploadError> =>
  Effect.scoped(
    Effect.gen(function* () {
      for (const target of targets) {
        const { definition, table } = target
        const wrongName = misnamed(table) ?? misnamedColumn(definition)
        if (wrongName !== undefined) return yield* unusable("CONFIG", wrongName)
        if (isUnkeyed(target)) return yield* unusable("CONFIG", UNKEYED)
      }
      // an index over a large table may take hours
      const session = yield* open({ ...endpoint, statementTimeout: Duration.hours(24) })
      if (!isOnly && (yield* session.isReadOnly)) {
        return yield* unusable("1290", readOnly(endpoint, targets[0]?.table ?? endpoint.database))
      }
      yield* session.query(sessionSettings(LOCK_WAIT_SECONDS))
      for (const target of targets) {
        yield* migrateTable(session, target).pipe(
          Effect.zipRight(target.proof === true ? checkTable(session, target) : Effect.void),
          Effect.catchTag("SqlError", ({ cause }) => failed(cause, endpoint, target))
        )
      }
      if (targets.some(({ proof }) => proof)) yield* migrateSeals(session, run)
    })
  ).pipe(Effect.catchTag("SqlError", ({ cause }) => failed(cause, endpoint)))

const isUnkeyed = ({ deduplicate, proof }: MigrationTarget): boolean => proof === true && !deduplicate

const UNKEYED = `A proof finds each event by its id, so deduplication "none" has none: leave it out, or leave the proof out`

/** The migration as text, for a database's administrator. */
export const migrationSql = (targets: ReadonlyArray<MigrationTarget>): string =>
  [...tablesSql(targets), ...(targets.some(({ proof }) => proof) ? [`${CREATE_SEAL_TABLE};\n`] : [])].join(
    "\n"
  )

const tablesSql = (targets: ReadonlyArray<MigrationTarget>): ReadonlyArray<string> =>
  targets.map((target) => {
    // the server refuses all other bad names
    const wrongName = dotted(target.table)
    if (wrongName !== undefined) return comment(wrongName)
    const create = `${createTable(target)};\n`
    if (!target.deduplicate) return create
    // without ALGORITHM and LOCK the server takes the way that blocks least
    const statements = [
      sessionSettings(PRINTED_LOCK_WAIT_SECONDS),
      alterTable(target, addColumns(OUR_COLUMNS)),
      alterTable(target, ADD_KEY),
      ...(target.index ? [alterTable(target, ...readingIndexes(target).map(addIndex))] : []),
      ...(target.proof === true ? [alterTable(target, addColumns([PROOF]))] : [])
    ]
    return `${create}-- if the table was there before, with ours missing:\n${statements.map((sql) => comment(`${sql};`)).join("")}`
  })

/** Comments each line out: after a line's end in a name, the rest would be run. */
const comment = (sql: string): string =>
  sql
    .split(/\r\n|[\n\r]/)
    .map((line) => `--   ${line}\n`)
    .join("")

/**
 * An ALTER that waits for a reader blocks every writer behind it, so it waits for moments, and often. MariaDB changes a
 * table WITH SYSTEM VERSIONING only if its history may stay without the columns (4119).
 */
const sessionSettings = (lockWaitSeconds: number) =>
  `SET SESSION lock_wait_timeout = ${lockWaitSeconds} /*M!100303 , system_versioning_alter_history = KEEP */`

const LOCK_WAIT_SECONDS = 2
/** longer, since nobody runs the printed SQL a hundred times */
const PRINTED_LOCK_WAIT_SECONDS = 20

// --------------------------------------------------------------------------------------------- one table

const migrateTable = (
  session: Session,
  target: MigrationTarget
): Effect.Effect<void, SqlError | UploadError> =>
  Effect.gen(function* () {
    const { table } = target
    const before = yield* shapeOf(session, table)
    if (before === undefined) yield* run(session, createTable(target))
    const wrongEngine = unfit(table, before?.engine ?? null, target.deduplicate)
    if (wrongEngine !== undefined) return yield* unusable("ENGINE", wrongEngine)
    const isPartitioned = /\bpartitioned\b/i.test(before?.options ?? "")

    // others may change the table between our look and our statement, so it looks again
    for (let looks = 0; looks < LOOKS; looks++) {
      const columns = yield* columnsOf(session, table)
      const wrongColumns = target.deduplicate ? misfit(table, columns) : undefined
      if (wrongColumns !== undefined) return yield* unusable("COLUMN_TYPE", wrongColumns)
      const missing = missingColumns(target, columns)
      // before the look at keys, since another migration may make ours meanwhile
      const names = target.deduplicate ? yield* keyNamesOf(session, table) : []
      const needsKey = target.deduplicate && (yield* eventKeysOf(session, table)).length === 0
      if (needsKey && names.includes(EVENT_KEY)) return yield* unusable("NO_UNIQUE_KEY", nameTaken(table))
      if (missing.length === 0 && !needsKey) {
        return target.index && target.deduplicate ? yield* addIndexes(session, target) : undefined
      }
      if (before?.type === "VIEW") return yield* unusable(...viewRefused(target, missing))
      const isAtOnce =
        needsKey &&
        (isPartitioned ||
          names.length >= MOST_KEYS - 1 ||
          // its ids may not be unique
          columns.has(EVENT_ID) ||
          (yield* isNameOfConstraint(session, table)))
      yield* change(session, target, { missing, needsKey, isAtOnce })
    }
    return yield* unusable("NO_UNIQUE_KEY", nameTaken(table))
  })

/** Our statement and another migration's can cross twice: at the columns and at the key. */
const LOOKS = 4

const shapeOf = (session: Session, table: string) =>
  Effect.map(
    session.select(
      Schema.Struct({
        type: Schema.String,
        options: Schema.NullOr(Schema.String),
        engine: Schema.NullOr(Schema.String)
      }),
      "SELECT table_type AS type, create_options AS options, engine AS engine FROM information_schema.tables " +
        "WHERE table_schema = DATABASE() AND table_name = ?",
      [table]
    ),
    ([shape]) => shape
  )

/** The names of all keys, in lower case. */
const keyNamesOf = (session: Session, table: string) =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String }),
      "SELECT DISTINCT LOWER(index_name) AS name FROM information_schema.statistics " +
        "WHERE table_schema = DATABASE() AND table_name = ?",
      [table]
    ),
    (keys) => keys.map(({ name }) => name)
  )

/** The servers' own limit, unless they were built with another one. */
const MOST_KEYS = 64

/** Whether a CHECK or another constraint of the table has the name of our key. */
const isNameOfConstraint = (session: Session, table: string) =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String }),
      "SELECT constraint_name AS name FROM information_schema.table_constraints " +
        "WHERE table_schema = DATABASE() AND table_name = ? AND LOWER(constraint_name) = ?",
      [table, EVENT_KEY]
    ),
    (found) => found.length > 0
  )

/** The ways to change a table, from a moment's work to a copy of it. */
const WAYS = [
  { clause: "ALGORITHM=INSTANT", blocks: false },
  { clause: "ALGORITHM=INPLACE, LOCK=NONE", blocks: false },
  { clause: "ALGORITHM=INPLACE", blocks: true },
  { clause: "ALGORITHM=COPY", blocks: true }
]

interface Change {
  readonly missing: ReadonlyArray<ColumnOf>
  readonly needsKey: boolean
  /** whether columns and key go together, since the server may refuse the key: then no columns are added either */
  readonly isAtOnce: boolean
}

const change = (session: Session, target: MigrationTarget, { isAtOnce, missing, needsKey }: Change) =>
  alter(session, target, (clause) => {
    // one copy serves both
    const withKey = needsKey && (missing.length === 0 || isAtOnce || clause === "ALGORITHM=COPY")
    if (withKey && clause === "ALGORITHM=INSTANT") return []
    return [...(missing.length > 0 ? [addColumns(missing)] : []), ...(withKey ? [ADD_KEY] : [])]
  })

/** Adds the indexes for reading, unless others serve as well. */
const addIndexes = (session: Session, target: MigrationTarget) =>
  Effect.gen(function* () {
    const present = yield* indexedColumns(session, target.table)
    for (const index of readingIndexes(target)) {
      const wanted = index.columns.map((name) => name.toLowerCase()).join()
      if (present.some((columns) => `${columns},`.startsWith(`${wanted},`))) continue
      yield* alter(session, target, (clause) => (clause === "ALGORITHM=INSTANT" ? [] : [addIndex(index)]))
    }
  })

const readingIndexes = ({ definition }: MigrationTarget): ReadonlyArray<Index> => [
  TIME_INDEX,
  ...indexesOf(definition)
]

/** The columns of each index, in lower case, separated by commas. */
const indexedColumns = (session: Session, table: string) =>
  Effect.map(
    session.select(
      Schema.Struct({ columns: Schema.NullOr(Schema.String) }),
      // an expression, or a prefix of a column, counts as no column
      "SELECT GROUP_CONCAT(IF(sub_part IS NULL, LOWER(COALESCE(column_name, '')), '') ORDER BY seq_in_index) AS columns " +
        "FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = ? GROUP BY index_name",
      [table]
    ),
    (found) => found.map(({ columns }) => columns ?? "")
  )

/** Changes the table in the first way that the server can do. A way without additions is skipped. */
const alter = (
  session: Session,
  target: MigrationTarget,
  additionsOf: (clause: string) => ReadonlyArray<string>
) =>
  Effect.gen(function* () {
    let isAnnounced = false
    for (const { blocks, clause } of WAYS) {
      const additions = additionsOf(clause)
      if (additions.length === 0) continue
      if (blocks && !isAnnounced) {
        isAnnounced = true
        yield* Effect.logWarning(
          `${target.table} cannot be changed while others write to it: their writes wait until migrate is through`
        )
      }
      const isDone = yield* run(session, `${alterTable(target, ...additions)}, ${clause}`).pipe(
        Effect.as(true),
        Effect.catchIf(
          (error) => clause !== "ALGORITHM=COPY" && UNSUPPORTED.includes(errnoOf(error.cause)),
          () => Effect.succeed(false)
        )
      )
      if (isDone) return
    }
  })

/**
 * The server cannot do it in this way: ALGORITHM or LOCK is not supported, or unknown; or the table needs a rebuild
 * first (MySQL: 255 row versions 4092, row size 4157).
 */
const UNSUPPORTED = [1221, 1800, 1801, 1845, 1846, 4092, 4157]

/** Repeats a statement while others hold the table. If another migration was faster, that is a success. */
const run = (session: Session, sql: string): Effect.Effect<void, SqlError> =>
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

const LOCK_RETRIES = 100
const LOCKED = [1205, 1213]
/** duplicate column name, duplicate key name, table exists */
const DONE_ALREADY = [1060, 1061, 1050]

// --------------------------------------------------------------------------------------------------- SQL

type ColumnOf = readonly [name: string, type: string]

const OUR_COLUMNS: ReadonlyArray<ColumnOf> = [
  [EVENT_ID, "BINARY(16) NULL"],
  [EVENT_TIME, "DATETIME(6) NULL"]
]

const PROOF: ColumnOf = [PROOF_COLUMN, "VARBINARY(32) NULL"]

const EVENT_KEY = "effect_audit_event_id"

const theirColumns = ({ definition }: MigrationTarget): ReadonlyArray<ColumnOf> =>
  definition.columns.map((column) => [column.name, mysqlType(definition, column)])

const ourColumns = ({ deduplicate, proof }: MigrationTarget): ReadonlyArray<ColumnOf> => {
  if (!deduplicate) return []
  return proof === true ? [...OUR_COLUMNS, PROOF] : OUR_COLUMNS
}

const missingColumns = (target: MigrationTarget, present: Columns): ReadonlyArray<ColumnOf> =>
  [...theirColumns(target), ...ourColumns(target)].filter(([name]) => !present.has(name.toLowerCase()))

/** The indexes of a new table: that over time and id on request, since it slows delivery (bench/README.md#index). */
const newIndexes = (target: MigrationTarget): ReadonlyArray<Index> =>
  target.index ? readingIndexes(target) : indexesOf(target.definition)

const createTable = (target: MigrationTarget): string => {
  const theirs = theirColumns(target)
  const names = theirs.map(([name]) => name)
  const column = ([name, type]: ColumnOf) => `${quote(name)} ${type}`
  const lines = [
    // servers may demand a primary key (3750, 1173), and replication groups do (3098)
    ...(theirs.some(isKey)
      ? []
      : [`${quote(counterName(names))} BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY`]),
    ...theirs.map(column),
    ...(hasCreatedAt(names) ? [] : ["`created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"]),
    ...ourColumns(target).map(column),
    ...(target.deduplicate ? [`UNIQUE KEY ${quote(EVENT_KEY)} (${quote(EVENT_ID)})`] : []),
    ...(target.deduplicate ? newIndexes(target).map(keyOf) : [])
  ]
  return (
    `CREATE TABLE IF NOT EXISTS ${quote(target.table)} (\n  ${lines.join(",\n  ")}\n) ` +
    `ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4`
  )
}

/** Whether the kind's own type makes the column the primary key or the counter, of which a table has one. */
const isKey = ([, type]: ColumnOf): boolean =>
  /\bAUTO_INCREMENT\b|\bSERIAL\b|(?<!\bUNIQUE\s+)\bKEY\b/i.test(
    type.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"/g, "")
  )

const alterTable = ({ table }: MigrationTarget, ...additions: ReadonlyArray<string>): string =>
  `ALTER TABLE ${quote(table)} ${additions.join(", ")}`

/** The columns take NULL, whatever their type says: the other writers of the table do not know them. */
const addColumns = (columns: ReadonlyArray<ColumnOf>): string =>
  columns
    .map(
      ([name, type]) =>
        `ADD COLUMN ${quote(name)} ${type.replace(NOT_NULL, (found) => (/^n/i.test(found) ? "NULL" : found))}`
    )
    .join(", ")

/** Matches quoted texts as well, since these words mean nothing in them. */
const NOT_NULL = /'(?:[^']|'')*'|"(?:[^"]|"")*"|\bNOT\s+NULL\b/gi

const ADD_KEY = `ADD UNIQUE KEY ${quote(EVENT_KEY)} (${quote(EVENT_ID)})`

const keyOf = ({ columns, name }: Index): string => `KEY ${quote(name)} (${columns.map(quote).join(", ")})`

const addIndex = (index: Index): string => `ADD ${keyOf(index)}`

// ----------------------------------------------------------------------------------------------- refusals

const viewRefused = (
  { deduplicate, table }: MigrationTarget,
  missing: ReadonlyArray<ColumnOf>
): readonly [code: string, reason: string] => [
  "1347",
  deduplicate
    ? `${table} is a view, which has no unique key: ${WAY_OUT}`
    : `${table} is a view without the column ${missing.map(([name]) => name).join(", ")}: add it to the view`
]

const nameTaken = (table: string) =>
  `${table} has a key or a CHECK ${EVENT_KEY} that is not unique over ${EVENT_ID} alone, or its columns are not all visible to this ` +
  `account: drop that key, or let an administrator migrate`

const PRINT = "let an administrator run the SQL of `effect-audit migrate --print`"

type Advice = (endpoint: Endpoint, table: string) => string

const rights: Advice = ({ database, username }) =>
  `The account ${username} may not change tables of ${database}: GRANT CREATE, ALTER, INDEX, INSERT ON ` +
  `${quote(database)}.* to it, or ${PRINT}`

const noKey: Advice = (_, table) =>
  `${table} can have no unique key over ${EVENT_ID}, by its partitions, its engine, or the number of its keys: drop one that it ` +
  `does not need, ${WAY_OUT}`

const noColumns: Advice = (_, table) =>
  `The engine of ${table} has no such columns as the events need: ALTER TABLE ${quote(table)} ENGINE = InnoDB, then migrate ` +
  `again; or name another table in \`tables\``

const noPrimaryKey: Advice = ({ host }, table) =>
  `${host} demands a primary key, which ${table} lacks: ALTER TABLE ${quote(table)} ADD COLUMN row_id BIGINT UNSIGNED ` +
  `NOT NULL AUTO_INCREMENT PRIMARY KEY, then migrate again`

const noIndex: Advice = (_, table) =>
  `A column that \`indexes\` of the kind names cannot be indexed in ${table}: give it a \`type\` in \`columns\`, such as ` +
  `VARCHAR(255) NULL, and migrate again`

const noRoom: Advice = (_, table) =>
  `The rows of ${table} have no room for more columns: make a CHAR or VARCHAR of it TEXT, then migrate again; or ${WAY_OUT}`

const duplicates: Advice = (_, table) =>
  `Rows of ${table} have the same ${EVENT_ID}, so that it can have no unique key: find them by SELECT HEX(${EVENT_ID}), ` +
  `COUNT(*) FROM ${quote(table)} WHERE ${EVENT_ID} IS NOT NULL GROUP BY ${EVENT_ID} HAVING COUNT(*) > 1, keep one of ` +
  `each, or set ${EVENT_ID} of the others to NULL, then migrate again`

const held: Advice = (_, table) =>
  `A transaction, or another migration, holds ${table}: let it end, then migrate again`

const readOnly: Advice = ({ host }, table) =>
  `${host} takes no writes, so that ${table} cannot be changed there: migrate on the server that does, or set its read_only ` +
  `and transaction_read_only to OFF`

const noFiles: Advice = ({ host }, table) =>
  `${host} cannot make the files of ${table}: its log says why. A name beyond ASCII takes 5 bytes for each character there, ` +
  `of some 250`

const busyWriters: Advice = (_, table) =>
  `Others write to ${table} faster than the server can index it: migrate at a quieter hour, or raise ` +
  `innodb_online_alter_log_max_size`

/** Advice for refusals of CREATE and ALTER TABLE, if delivery would give other advice, or none. */
const ADVICE: ReadonlyMap<number, Advice> = new Map<number, Advice>([
  ...[1044, 1142, 1143, 1227].map((code) => [code, rights] as const),
  // partitions (1503); no keys, or all keys that a table can have (1069); no keys over NULL (1121); no ALTER (1031)
  ...[1031, 1069, 1121, 1503].map((code) => [code, noKey] as const),
  // no long texts (MEMORY), no columns of NULL (CSV)
  ...[1163, 1178].map((code) => [code, noColumns] as const),
  // read_only of the server, of its transactions, of its start
  ...READ_ONLY.map((code) => [code, readOnly] as const),
  [1347, (_, table) => `${table} is a view, which has no unique key: ${WAY_OUT}`],
  // MySQL's sql_require_primary_key, MariaDB's innodb_force_primary_key
  ...[3750, 1173].map((code) => [code, noPrimaryKey] as const),
  ...[1005, 1030].map((code) => [code, noFiles] as const),
  ...[1117, 1118].map((code) => [code, noRoom] as const),
  ...[1062, 1586].map((code) => [code, duplicates] as const),
  ...LOCKED.map((code) => [code, held] as const),
  // a text without a length; a key longer than the engine takes
  ...[1071, 1170].map((code) => [code, noIndex] as const),
  // MariaDB: a CHECK of our key's name
  [1826, (_, table) => nameTaken(table)],
  [1799, busyWriters],
  [
    4119,
    (_, table) => `${table} keeps its history: SET SESSION system_versioning_alter_history = KEEP; ${PRINT}`
  ]
])

const failed = (cause: unknown, endpoint: Endpoint, target?: MigrationTarget): UploadError => {
  const { class: cls, code, reason } = classify(cause, endpoint)
  const { database, host, username } = endpoint
  const advice = ADVICE.get(errnoOf(cause))
  const error = (cls: "operator" | "transient", reason: string) =>
    new UploadError({ class: cls, code, reason, cause: Redacted.make(cause) })
  if (advice !== undefined) return error("operator", advice(endpoint, target?.table ?? database))
  // before the first statement, delivery's reasons hold here as well
  if (target === undefined && (cls === "transient" || cls === "operator")) return error(cls, reason)
  if (cls === "transient") {
    return error(
      "transient",
      `The database at ${host} broke off while ${target!.table} was changed: migrate again once it can be reached`
    )
  }
  return error(
    "operator",
    `${database} refuses to change ${target?.table ?? "a table"} for ${username}: look the code up in the manual, or ${PRINT}`
  )
}
