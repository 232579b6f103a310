/**
 * The uploader to MySQL and MariaDB: delivers each event once. `effect-audit/mysql` exports it.
 *
 * @since 0.1.0
 */
import { Array as Arr, Config, Effect, Layer } from "effect"
import type { ConfigError, Scope } from "effect"
import type { Session } from "../internal/database/mysql/connection.js"
import { driver } from "../internal/database/mysql/connection.js"
import type { ConnectionSettings } from "../internal/database/mysql/endpoints.js"
import { endpointsOf, warnOfSpellings } from "../internal/database/mysql/endpoints.js"
import { classify, helpsElsewhere, toUploadError } from "../internal/database/mysql/errors.js"
import * as Migrate from "../internal/database/mysql/migrate.js"
import { makeSealing } from "../internal/database/mysql/sealing.js"
import { makeSessions, type Use } from "../internal/database/mysql/sessions.js"
import { makeStore } from "../internal/database/mysql/store.js"
import type { Table } from "../internal/database/mysql/table.js"
import { describe } from "../internal/database/mysql/table.js"
import type { TableNames } from "../internal/database/rows.js"
import { tableName } from "../internal/database/rows.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { UploadError } from "../schema/Errors.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import { Uploader } from "../services/Uploader.js"

/**
 * Where the events go.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends ConnectionSettings {
  /**
   * the tables that receive the events, by kind: `{ use_log: "app_use_log" }`; by default those that the kinds name.
   * All are in the connection's database: `db.table` is refused with the code `CONFIG`.
   */
  readonly tables?: TableNames | undefined
  /**
   * - `key`, the default: each event is stored once, by a unique key over `event_id`, which `migrate` makes
   * - `none`: each event is stored at least once, for tables that may not be altered
   */
  readonly deduplication?: "key" | "none" | undefined
  /** how many batches may be under way at once; 1 by default. With more, delivery is faster, but rows have no order. */
  readonly connections?: number | undefined
}

const OPTIONS = Object.keys({
  url: true,
  host: true,
  hosts: true,
  port: true,
  username: true,
  password: true,
  database: true,
  ssl: true,
  serverPublicKey: true,
  connectTimeout: true,
  statementTimeout: true,
  tables: true,
  deduplication: true,
  connections: true
} satisfies Record<keyof Options, true>)

/**
 * Delivers to MySQL or MariaDB. Building the layer never touches the network.
 *
 * @example
 * import { Redacted } from "effect"
 * import { MysqlUploader } from "effect-audit/mysql"
 *
 * MysqlUploader.layer({ url: Redacted.make("mysql://audit:secret@db.internal/app") })
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
 * The uploader of {@link layer}, for a layer of your own. It connects with its first upload, and disconnects when the
 * scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Uploader["Type"], never, Scope.Scope> =>
  Effect.gen(function* () {
    // loaded now: a program that runs for long should not need files of its installation later
    yield* driver
    yield* warnOfSpellings(options, OPTIONS)
    const concurrency = Math.max(1, Math.floor(options.connections ?? 1))
    const withSession = yield* makeSessions(options, concurrency)
    const deduplicates = options.deduplication !== "none"
    const nameOf = (definition: AuditEvent.Any) => tableName(definition, options.tables)

    // if something is wrong with a table, then its session is closed, and the next session looks again
    const described = new WeakMap<Session, Map<AuditEvent.Any, Table>>()
    /** the tables as any session has last seen them */
    const tables = new Map<AuditEvent.Any, Table>()
    const look = (session: Session, definition: AuditEvent.Any): Effect.Effect<Table, UploadError> =>
      describe(session, definition, nameOf(definition), deduplicates).pipe(
        Effect.catchTag("SqlError", ({ cause }) => toUploadError(classify(cause, session.endpoint))),
        Effect.tap((table) =>
          table.engineNote === undefined || tables.has(definition)
            ? Effect.void
            : Effect.logWarning(table.engineNote)
        ),
        Effect.tap((table) => {
          tables.set(definition, table)
          described.set(
            session,
            (described.get(session) ?? new Map<AuditEvent.Any, Table>()).set(definition, table)
          )
        })
      )
    const withTable = <A, E>(
      definition: AuditEvent.Any,
      use: (table: Table, session: Session) => Effect.Effect<A, E>,
      how?: Use
    ) =>
      withSession((session) => {
        const known = described.get(session)?.get(definition)
        return known === undefined
          ? Effect.flatMap(look(session, definition), (table) => use(table, session))
          : use(known, session)
      }, how)

    return {
      concurrency,
      atLeastOnce: !deduplicates,
      sealing: deduplicates ? makeSealing({ nameOf, withSession }) : undefined,
      upload: makeStore({ deduplicates, nameOf, withSession, withTable, tables })
    }
  })

/**
 * Options for what {@link migrate} does besides what delivery needs.
 *
 * @category options
 * @since 0.1.0
 */
export interface MigrateOptions {
  /**
   * whether the tables get the indexes for searches; false by default. The index over time and id costs delivery about
   * a tenth of its rate (docs/reading.md). New tables always get the indexes that their kinds name.
   */
  readonly index?: boolean | undefined
  /**
   * whether the rows can be proved; false by default. Each table gets a column `audit_proof`, and is tested with a row
   * that is rolled back. The seals get the table `effect_audit_seal`. Columns that change written values are refused by
   * name.
   */
  readonly proof?: boolean | undefined
}

/**
 * Makes the tables, or adds the columns and the unique key that delivery needs to existing ones.
 *
 * Other programs can write meanwhile; if the server makes them wait, then a warning is logged before. It may be
 * repeated, and run twice at once. Of several `hosts` it migrates the first that accepts writes. It needs the rights
 * CREATE, ALTER, INDEX and INSERT, and for a proof SELECT, too. If a table cannot have the key, then it fails and says
 * why.
 *
 * @category migration
 * @since 0.1.0
 */
export const migrate = (
  options: Options,
  events: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog],
  more: MigrateOptions = {}
): Effect.Effect<void, UploadError> =>
  Effect.flatMap(
    Effect.zipRight(warnOfSpellings(options, OPTIONS), endpointsOf(options, "migrate")),
    (endpoints) => {
      const targets = targetsOf(options, events, more)
      const [first, ...others] = Arr.map(endpoints, (endpoint) =>
        Migrate.migrate(endpoint, targets, endpoints.length === 1)
      )
      return others.reduce((earlier, next) => Effect.catchIf(earlier, helpsElsewhere, () => next), first)
    }
  )

/**
 * The steps of {@link migrate} as SQL, for an administrator.
 *
 * @category migration
 * @since 0.1.0
 */
export const migrationSql = (
  options: Pick<Options, "tables" | "deduplication"> = {},
  events: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog],
  more: MigrateOptions = {}
): string => Migrate.migrationSql(targetsOf(options, events, more))

const targetsOf = (
  { deduplication, tables }: Pick<Options, "tables" | "deduplication">,
  events: ReadonlyArray<AuditEvent.Any>,
  { index = false, proof = false }: MigrateOptions
) =>
  events.map((definition) => ({
    definition,
    table: tableName(definition, tables),
    deduplicate: deduplication !== "none",
    index,
    proof
  }))
