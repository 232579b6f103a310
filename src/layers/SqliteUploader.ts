/**
 * The uploader to an embedded SQLite file: delivers each event once, for development, demos and edge devices.
 * Statements run in the thread of the program. `effect-audit/sqlite` exports it.
 *
 * @since 0.1.0
 */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Config, Effect, Exit, Layer, Schema, Scope } from "effect"
import type { ConfigError } from "effect"
import * as path from "node:path"
import { sqliteType } from "../internal/database/columnTypes.js"
import type { Attempt } from "../internal/database/narrow.js"
import { makeDriftGuard, narrow } from "../internal/database/narrow.js"
import { createIndex, driver, isTextType, open, quote } from "../internal/database/sqlite/connection.js"
import { explain, operator, toUploadError } from "../internal/database/sqlite/errors.js"
import { migrateTable } from "../internal/database/sqlite/proofMigration.js"
import * as Sealing from "../internal/database/sqlite/sealing.js"
import { CREATE_SEAL_TABLE, selectHeads, selectSeals } from "../internal/database/sqlite/seals.js"
import type { Form, TableNames } from "../internal/database/rows.js"
import {
  counterName,
  EVENT_ID,
  EVENT_TIME,
  hasCreatedAt,
  indexesOf,
  parameters,
  placeholders,
  tableName,
  TIME_INDEX
} from "../internal/database/rows.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { ExecutionStrategy } from "../schema/Effect3.js"
import type { UploadError } from "../schema/Errors.js"
import type { UploadBatch } from "../services/Uploader.js"
import { Uploader } from "../services/Uploader.js"

/**
 * Where the events go.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** the database's file; its directory must exist */
  readonly filename: string
  /** the tables that receive the events, by kind; by default those that the kinds name */
  readonly tables?: TableNames | undefined
}

/**
 * Delivers to an SQLite file. The first upload makes the file and its tables.
 *
 * @example
 * import { SqliteUploader } from "effect-audit/sqlite"
 *
 * SqliteUploader.layer({ filename: "./audit.db" })
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Uploader> => Layer.scoped(Uploader, make(options))

/**
 * Like {@link layer}, with options from a Config.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  config: Config.Config.Wrap<Options>
): Layer.Layer<Uploader, ConfigError.ConfigError> =>
  Layer.scoped(Uploader, Effect.flatMap(Config.unwrap(config), make))

/**
 * The uploader of {@link layer}, for a layer of your own. It opens the file with its first upload, and closes it when
 * the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = ({ filename, tables }: Options): Effect.Effect<Uploader["Type"], never, Scope.Scope> =>
  Effect.gen(function* () {
    // loaded now: a program that runs for long should not need files of its installation later
    yield* driver
    const permit = yield* Effect.makeSemaphore(1)
    const scope = yield* Effect.scope
    const file = path.resolve(filename)
    const guard = makeDriftGuard()
    let opened: Opened | undefined

    const reopen = Effect.gen(function* () {
      const own = yield* Scope.fork(scope, ExecutionStrategy.sequential)
      const connection = yield* openFile(file).pipe(
        Scope.extend(own),
        Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
      )
      return (opened = { connection, scope: own, tables: new Map(), sealed: new Map() })
    })
    // libsql does not reset a statement that found the file locked, and later commits of the connection are not on
    // disk. So a failed connection is never used again.
    const giveUp = Effect.suspend(() => {
      const given = opened
      opened = undefined
      return given === undefined ? Effect.void : Scope.close(given.scope, Exit.void)
    })

    const upload = Effect.fnUntraced(function* ({ definition, events }: UploadBatch) {
      const name = tableName(definition, tables)
      const { connection, tables: found }: Opened = opened ?? (yield* Effect.uninterruptible(reopen))
      let forms = found.get(definition)
      if (forms === undefined) {
        forms = yield* prepareTable(connection, definition, name).pipe(
          Effect.mapError(({ cause }) => toUploadError(cause, file))
        )
        found.set(definition, forms)
      }
      const watch = guard.watch(name, events)
      const attempt: Attempt<UploadError> = (from, to) =>
        connection
          .executeRaw(
            insertInto(definition, name, to - from),
            parameters(events.slice(from, to), true, forms)
          )
          .pipe(
            Effect.asVoid,
            Effect.mapError(({ cause }) => explain(cause, file))
          )
      const step = Math.floor(MAX_VARIABLES / (definition.columns.length + 2))
      for (let from = 0; from < events.length; from += step) {
        yield* narrow(attempt, from, Math.min(events.length, from + step), watch.onRejected)
      }
      return watch.done()
    })

    /** Runs with the connection; if that fails, then the connection is closed. */
    const withOpened = <A>(use: (opened: Opened) => Effect.Effect<A, UploadError>) =>
      permit.withPermits(1)(
        Effect.onError(
          Effect.flatMap(
            Effect.suspend(() =>
              opened === undefined ? Effect.uninterruptible(reopen) : Effect.succeed(opened)
            ),
            use
          ),
          () => giveUp
        )
      )
    const asked = <A>(use: (connection: Connection) => Effect.Effect<A, SqlError>) =>
      withOpened(({ connection }) =>
        Effect.mapError(use(connection), ({ cause }) => toUploadError(cause, file))
      )
    const nameOf = (definition: AuditEvent.Any) => tableName(definition, tables)

    return {
      concurrency: 1,
      sealing: {
        read: (chain, from) =>
          asked((connection) =>
            selectSeals(connection, `AND "number" >= ? ORDER BY "number" LIMIT 20`, [
              Buffer.from(chain, "hex"),
              from
            ])
          ),
        heads: asked(selectHeads),
        prepare: (batches) => ({ batches }),
        upload: (...parts) =>
          withOpened(({ connection, sealed }) =>
            Sealing.upload({ connection, found: sealed, nameOf, guard, file }, ...parts)
          )
      },
      upload: (batch) => permit.withPermits(1)(Effect.onError(upload(batch), () => giveUp))
    }
  })

/**
 * Prepares the tables for a proof: makes them, adds the column `audit_proof` to each, and makes `effect_audit_seal`.
 *
 * It may be repeated. Without a proof there is nothing to migrate: the first upload makes the tables. Columns and
 * triggers that change written values are refused by name.
 *
 * @category migration
 * @since 0.1.0
 */
export const migrateProof = (
  { filename, tables }: Options,
  events: ReadonlyArray<AuditEvent.Any>
): Effect.Effect<void, UploadError> =>
  Effect.gen(function* () {
    const file = path.resolve(filename)
    const connection = yield* openFile(file)
    for (const definition of events) {
      const name = tableName(definition, tables)
      yield* prepareTable(connection, definition, name).pipe(
        Effect.zipRight(migrateTable(connection, definition, name, file)),
        Effect.catchTag("SqlError", ({ cause }) => toUploadError(cause, file))
      )
    }
    yield* connection
      .executeRaw(CREATE_SEAL_TABLE, [])
      .pipe(Effect.mapError(({ cause }) => toUploadError(cause, file)))
  }).pipe(Effect.scoped)

interface Opened {
  readonly connection: Connection
  readonly scope: Scope.CloseableScope
  /** the forms of columns, for each kind whose table this connection has made or found */
  readonly tables: Map<AuditEvent.Any, ReadonlyArray<Form>>
  /** the same for kinds whose rows are sealed */
  readonly sealed: Map<AuditEvent.Any, Sealing.Found>
}

/** Opens the file, and makes it if it does not exist. */
const openFile = (file: string): Effect.Effect<Connection, UploadError, Scope.Scope> =>
  open(file, PRAGMAS).pipe(
    Effect.mapError(({ cause }) => toUploadError(cause, file)),
    // if the client cannot open the file, then it throws without saying why
    Effect.catchAllDefect((cause) => operator("SQLITE_CANTOPEN", file, cause))
  )

/** An acknowledged commit survives a power cut; macOS needs fullfsync for this. */
const PRAGMAS = ["journal_mode = WAL", "synchronous = FULL", "fullfsync = ON"]

/** Makes the table if it does not exist; returns the forms of the kind's columns. */
const prepareTable = (
  connection: Connection,
  definition: AuditEvent.Any,
  name: string
): Effect.Effect<ReadonlyArray<Form>, SqlError> =>
  Effect.gen(function* () {
    const look = Effect.flatMap(
      connection.execute(`PRAGMA table_info(${quote(name)})`, [], undefined),
      Schema.decodeUnknown(TableInfo)
    ).pipe(Effect.catchTag("ParseError", Effect.die))
    let columns = yield* look
    if (columns.length === 0) {
      yield* connection.executeRaw(createTable(definition, name), [])
      for (const index of [TIME_INDEX, ...indexesOf(definition)])
        yield* connection.executeRaw(createIndex(name, index), [])
      columns = yield* look
    }
    const types = new Map(columns.map((column) => [column.name.toLowerCase(), column.type]))
    return definition.columns.map((column) => formOf(types.get(column.name.toLowerCase()) ?? ""))
  })

const TableInfo = Schema.Array(Schema.Struct({ name: Schema.String, type: Schema.String }))

/** SQLite stores a number in a text column with 15 digits, and 5 as `5.0`. */
const formOf = (type: string): Form => (isTextType(type) ? "digits" : undefined)

const createTable = (definition: AuditEvent.Any, table: string): string => {
  const theirs = definition.columns.map(({ name }) => name)
  return `CREATE TABLE IF NOT EXISTS ${quote(table)} (${[
    `${quote(counterName(theirs))} INTEGER PRIMARY KEY AUTOINCREMENT`,
    ...definition.columns.map((column) => `${quote(column.name)} ${sqliteType(definition, column)}`),
    ...(hasCreatedAt(theirs) ? [] : ["created_at TEXT DEFAULT CURRENT_TIMESTAMP"]),
    `${EVENT_ID} BLOB UNIQUE`,
    `${EVENT_TIME} TEXT`
  ].join(", ")})`
}

const insertInto = (definition: AuditEvent.Any, table: string, count: number): string => {
  const columns = [EVENT_ID, EVENT_TIME, ...definition.columns.map((column) => column.name)]
  return (
    `INSERT INTO ${quote(table)} (${columns.map(quote).join(",")}) ` +
    `VALUES ${placeholders(count, columns.length)} ON CONFLICT (${EVENT_ID}) DO NOTHING`
  )
}

/** SQLite's limit of parameters since 3.32. */
const MAX_VARIABLES = 32_766
