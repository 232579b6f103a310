/**
 * Delivers events to MySQL or MariaDB, each once. `effect-audit/mysql` exports it.
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
   * the tables that receive the events, by kind: `{ use_log: "app_use_log" }`; by default those that the kinds name. They
   * are those of the connection's database: `db.table` is refused with the code `CONFIG`.
   */
  readonly tables?: TableNames | undefined
  /**
   * `key`, the default: each event is stored once, by a unique key over `event_id` that `migrate` makes. `none`: into
   * tables that may not be altered, each at least once.
   */
  readonly deduplication?: "key" | "none" | undefined
  /** how many batches go at once; 1 by default, since more are faster and give up the order of rows */
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
 * Delivers to MySQL or MariaDB. The layer never touches the network while it is built.
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
 * The same, with options from a Config.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  config: Config.Config.Wrap<Options>
): Layer.Layer<Uploader, ConfigError.ConfigError> =>
  Layer.scoped(Uploader, Effect.flatMap(Config.unwrap(config), make))

/**
 * The uploader of {@link layer}, for a layer of your own. It connects with its first upload, and lets go with the
 * scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Uploader["Type"], never, Scope.Scope> =>
  Effect.gen(function* () {
    // now, since a program that runs for long should need no files of its installation later
    yield* driver
    yield* warnOfSpellings(options, OPTIONS)
    const concurrency = Math.max(1, Math.floor(options.connections ?? 1))
    const withSession = yield* makeSessions(options, concurrency)
    const deduplicates = options.deduplication !== "none"
    const nameOf = (definition: AuditEvent.Any) => tableName(definition, options.tables)

    // a session is given up whenever something is wrong with a table, and the next one looks again
    const described = new WeakMap<Session, Map<AuditEvent.Any, Table>>()
    /** as they were looked at last, by any session */
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
 * What {@link migrate} does beyond what delivery needs.
 *
 * @category options
 * @since 0.1.0
 */
export interface MigrateOptions {
  /**
   * whether the tables get the indexes for those who read: that over time and id, which costs delivery about a tenth of its
   * rate, and those that the kinds name, which new tables have in any case; false by default
   */
  readonly index?: boolean | undefined
  /**
   * whether the rows are to be proved: each table gets a column `audit_proof`, and is tried with a row that is taken back;
   * the seals get the table `effect_audit_seal`. Columns that change what is written to them are refused by name. False by
   * default
   */
  readonly proof?: boolean | undefined
}

/**
 * Makes the tables, or adds to existing ones the columns and the unique key that delivery needs, while other programs
 * go on writing to them. Where the server lets them wait for that, a warning is logged before. May be repeated, and run
 * twice at once. Of several `hosts` the first that takes writes is migrated. Needs the rights CREATE, ALTER, INDEX and
 * INSERT, for a proof SELECT as well. Fails where a table cannot have the key, and says why.
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
 * What {@link migrate} does, as SQL for an administrator.
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
