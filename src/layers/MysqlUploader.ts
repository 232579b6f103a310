/**
 * Delivers events to MySQL or MariaDB, each once. `effect-audit/mysql` exports it.
 *
 * @since 0.1.0
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Config, Effect, Layer } from "effect"
import type { ConfigError, Scope } from "effect"
import type { ConnectionSettings, Session } from "../internal/mysqlConnection.js"
import { endpointsOf } from "../internal/mysqlConnection.js"
import {
  classify,
  DUPLICATE_ENTRY,
  endsConnection,
  isBroken,
  isEventKey,
  isTimeout,
  isTextRefused,
  PACKET_TOO_LARGE,
  toUploadError
} from "../internal/mysqlErrors.js"
import * as Migrate from "../internal/mysqlMigrate.js"
import { makeSessions } from "../internal/mysqlSessions.js"
import type { Table } from "../internal/mysqlTable.js"
import { bytesOf, describe } from "../internal/mysqlTable.js"
import type { Attempt } from "../internal/narrow.js"
import { makeDriftGuard, narrow, Refused } from "../internal/narrow.js"
import type { TableNames } from "../internal/sqlTable.js"
import { parameters, tableName, widthOf } from "../internal/sqlTable.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { UploadError } from "../schema/Errors.js"
import type { StoredEvent } from "../schema/Line.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import type { Rejection, UploadBatch, UploadResult } from "../services/Uploader.js"
import { Uploader } from "../services/Uploader.js"

/**
 * Where the events go.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends ConnectionSettings {
  /** the tables that receive the events, by kind: `{ use_log: "app_use_log" }`; by default those that the kinds name */
  readonly tables?: TableNames | undefined
  /**
   * `key`, the default: each event is stored once, by a unique key over `event_id` that `migrate` makes. `none`: into
   * tables that may not be altered, each at least once.
   */
  readonly deduplication?: "key" | "none" | undefined
  /** how many batches go at once; 1 by default, since more are faster and give up the order of rows */
  readonly connections?: number | undefined
}

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
    const concurrency = Math.max(1, Math.floor(options.connections ?? 1))
    const withSession = yield* makeSessions(options, concurrency)
    const guard = makeDriftGuard()
    const pace = makePace()
    const deduplicates = options.deduplication !== "none"
    /** without a key: the ids of what was stored before its batch failed, so that the next try leaves it out */
    const storedInPart = new Set<string>()

    // a session is given up whenever something is wrong with a table, and the next one looks again
    const described = new WeakMap<Session, Map<AuditEvent.Any, Table>>()
    /** as they were looked at last: a good guess of what a statement may hold, before there is a session for it */
    const tables = new Map<AuditEvent.Any, Table>()
    const look = (session: Session, definition: AuditEvent.Any): Effect.Effect<Table, UploadError> => {
      const name = tableName(definition, options.tables)
      return describe(session, definition, name, deduplicates).pipe(
        Effect.catchTag("SqlError", ({ cause }) => toUploadError(classify(cause, session.endpoint))),
        Effect.tap((table) => {
          tables.set(definition, table)
          described.set(
            session,
            (described.get(session) ?? new Map<AuditEvent.Any, Table>()).set(definition, table)
          )
        })
      )
    }
    const withTable = <A, E>(
      definition: AuditEvent.Any,
      use: (table: Table, session: Session) => Effect.Effect<A, E>
    ) =>
      withSession((session) => {
        const known = described.get(session)?.get(definition)
        return known === undefined
          ? Effect.flatMap(look(session, definition), (table) => use(table, session))
          : use(known, session)
      })

    /**
     * Whether it was for its size that the connection broke under a statement: a proxy may know another limit than
     * the server behind it. Asked with as many bytes of nothing, and thrice, so that no event is blamed for chance.
     */
    const explainBreak = (refused: Refused, bytes: number): Effect.Effect<never, Refused | UploadError> =>
      withSession((session) =>
        Effect.mapError(session.query("SELECT LENGTH(?)", ["x".repeat(bytes)]), ({ cause }) => {
          const failure = classify(cause, session.endpoint)
          return endsConnection(failure)
            ? new Refused({ code: failure.code, reason: failure.text })
            : toUploadError(failure)
        })
      ).pipe(
        Effect.retry({ while: ({ _tag }) => _tag === "Refused", times: 2 }),
        Effect.catchTag("Refused", () => new Refused(TOO_LARGE)),
        Effect.zipRight(refused)
      )

    const send = Effect.fnUntraced(function* (batch: UploadBatch, ahead: Ahead) {
      const { definition } = batch
      const isLeft = ({ eventId }: StoredEvent) => !storedInPart.has(eventId)
      const events = storedInPart.size === 0 ? batch.events : batch.events.filter(isLeft)
      const storedBefore = batch.events.length - events.length
      const isMade = storedBefore === 0 && ahead.params.length > 0
      const params = isMade ? ahead.params : parameters(events, deduplicates)
      const width = widthOf(definition, deduplicates)
      let rows: Rows = { events, params }
      const part = (from: number, to: number): Rows => ({
        events: rows.events.slice(from, to),
        params: to - from === rows.events.length ? rows.params : rows.params.slice(from * width, to * width)
      })
      const watch = guard.watch(tableName(definition, options.tables), events, storedBefore)
      const attempt: Attempt = (from, to) => {
        const stored = withTable(definition, (table, session) => {
          const statement = part(from, to)
          const inserted = Effect.matchEffect(insert(session, table, statement), {
            onFailure: (error) => {
              pace.failed(to - from, error)
              return Effect.fail(error)
            },
            onSuccess: () => {
              // what is in reach of effect's and the driver's functions stays until the next full collection (bench/README.md)
              statement.params.length = 0
              pace.stored(to - from)
              if (!deduplicates) for (let i = from; i < to; i++) storedInPart.add(rows.events[i]!.eventId)
              return Effect.void
            }
          })
          // a shutdown waits for the answer, since nobody could tell afterwards what was stored
          return deduplicates ? inserted : Effect.uninterruptible(inserted)
        })
        if (to - from > 1) return stored
        return Effect.catchTag(stored, "Refused", (refused) =>
          isBroken(refused) ? explainBreak(refused, bytesOf(rows.events.slice(from, to))) : refused
        )
      }

      const lookAgain = withTable(definition, Effect.succeed)
      for (let from = 0; from < events.length;) {
        const table = tables.get(definition) ?? (yield* lookAgain)
        const isAhead = from === 0 && isMade && table === ahead.table
        const guess = isAhead ? ahead.fitting : table.fitting(events, from)
        // an event is not blamed for the limit of a server that may be another one by now
        const fitting = guess > 0 ? guess : (yield* lookAgain).fitting(events, from)
        const count = Math.min(fitting, pace.rows())
        if (count === 0) {
          yield* watch.onRejected({
            index: from,
            ...TOO_LARGE
          })
        } else {
          yield* narrow(attempt, from, from + count, watch.onRejected)
        }
        from += Math.max(1, count)
      }
      if (storedInPart.size > 0) for (const { eventId } of batch.events) storedInPart.delete(eventId)
      // as above: what the Effects of this batch close over, and what a refused statement was given
      rows = { events: [], params: [] }
      params.length = 0
      const { rejected } = watch.done()
      const result: UploadResult = {
        rejected: events === batch.events ? rejected : rejected.map(indexIn(batch.events, events))
      }
      return result
    })

    return {
      concurrency,
      atLeastOnce: !deduplicates,
      upload: (batch) => {
        // at once: the database still works on the batch before
        const table = tables.get(batch.definition)
        const ahead: Ahead = {
          params: parameters(batch.events, deduplicates),
          table,
          fitting: table?.fitting(batch.events, 0) ?? 0
        }
        return send(batch, ahead)
      }
    }
  })

/**
 * Makes the tables, or adds to existing ones the columns and the unique key that delivery needs, while other programs
 * go on writing to them. May be repeated. Needs the rights CREATE, ALTER, INDEX and INSERT.
 *
 * @category migration
 * @since 0.1.0
 */
export const migrate = (
  options: Options,
  events: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog]
): Effect.Effect<void, UploadError> =>
  Effect.flatMap(endpointsOf(options), ([first, ...others]) =>
    others.reduce(
      (earlier, endpoint) =>
        Effect.catchIf(
          earlier,
          (error) => error.class === "transient",
          () => Migrate.migrate(endpoint, targetsOf(options, events))
        ),
      Migrate.migrate(first, targetsOf(options, events))
    )
  )

/**
 * What {@link migrate} does, as SQL for an administrator.
 *
 * @category migration
 * @since 0.1.0
 */
export const migrationSql = (
  options: Pick<Options, "tables" | "deduplication"> = {},
  events: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog]
): string => Migrate.migrationSql(targetsOf(options, events))

const targetsOf = (
  { deduplication, tables }: Pick<Options, "tables" | "deduplication">,
  events: ReadonlyArray<AuditEvent.Any>
) =>
  events.map((definition) => ({
    definition,
    table: tableName(definition, tables),
    deduplicate: deduplication !== "none"
  }))

/**
 * How many rows a statement may have. One that took too long is made smaller, or a slow link would be offered the same
 * statement for ever; after many that were in time they grow again.
 */
const makePace = () => {
  let most = Number.POSITIVE_INFINITY
  let inTime = 0
  return {
    rows: () => most,
    failed: (rows: number, error: { readonly code: string }) => {
      inTime = 0
      if (isTimeout(error)) most = Math.max(1, Math.floor(rows / 2))
    },
    stored: (rows: number) => {
      if (rows < most || ++inTime < GROW_AFTER) return
      inTime = 0
      most *= 2
    }
  }
}

/** statements of the present size, one after the other */
const GROW_AFTER = 20

/** Where a rejected event of those that were left stands among all; not in `send`, which would close over both. */
const indexIn =
  (all: ReadonlyArray<StoredEvent>, left: ReadonlyArray<StoredEvent>) => (rejection: Rejection) => ({
    ...rejection,
    index: all.indexOf(left[rejection.index]!)
  })

type Params = ReturnType<typeof parameters>

/** What of a batch is made before it is its turn. */
interface Ahead {
  /** emptied once they are stored */
  readonly params: Params
  readonly table: Table | undefined
  /** how many of its events make one statement for this table */
  readonly fitting: number
}

/** Events, and the parameters of their rows. */
interface Rows {
  readonly events: ReadonlyArray<StoredEvent>
  readonly params: Params
}

/** Stores the events by one statement, all or none; those that are stored already count as stored. */
const insert = (session: Session, table: Table, rows: Rows): Effect.Effect<void, Refused | UploadError> => {
  const { events, params } = rows
  const { prepared, sql } = table.insert(events.length)
  const only = events.length === 1 ? events[0] : undefined
  const statement: Effect.Effect<unknown, SqlError> = prepared
    ? session.execute(sql, params)
    : session.query(sql, params)
  const explain = ({ cause }: SqlError): Effect.Effect<void, Refused | UploadError> => {
    const failure = classify(cause, table.subject)
    switch (failure.class) {
      case "delivered":
        if (only !== undefined) return Effect.void
        // what INSERT IGNORE stores could not be taken back there: one by one, then
        if (!table.transactional) return new Refused({ code: failure.code, reason: failure.text })
        return insertMissing(session, table, rows)
      case "record":
        return (
          (only !== undefined && isTextRefused(failure) ? table.unfit(only) : undefined) ??
          new Refused({ code: failure.code, reason: failure.text })
        )
      case "tooMany":
        return new Refused({ code: failure.code, reason: failure.text, blameless: toUploadError(failure) })
      default: {
        const error = toUploadError(failure)
        return isBroken(failure) && bytesOf(events) > SUSPECT_BYTES
          ? new Refused({ code: failure.code, reason: failure.text, blameless: error })
          : error
      }
    }
  }
  return Effect.matchEffect(statement, { onFailure: explain, onSuccess: () => Effect.void })
}

/** A packet that no server refuses unless it was told to: a connection that breaks under less breaks for another reason. */
const SUSPECT_BYTES = 512 * 1024

const TOO_LARGE = {
  code: String(PACKET_TOO_LARGE),
  reason: "larger than max_allowed_packet of the server, or of something before it"
}

/**
 * Stores those of the events that are not in the table yet. INSERT IGNORE would hide truncated texts and clamped
 * numbers as well, so it is committed only if it left out duplicates of our key and did nothing else.
 *
 * By statements on the session: a COMMIT that fails inside `withTransaction` of @effect/sql is a defect.
 */
const insertMissing = (
  session: Session,
  table: Table,
  { events, params }: Rows
): Effect.Effect<void, Refused | UploadError> =>
  Effect.gen(function* () {
    yield* session.query("START TRANSACTION")
    const { warningStatus } = yield* session.execute(table.insertIgnore(events.length), params)
    const warnings = yield* session.query<{ readonly Code: number; readonly Message: string }>(
      "SHOW WARNINGS"
    )
    const harmless =
      warnings.length === warningStatus &&
      warnings.every((_) => _.Code === DUPLICATE_ENTRY && isEventKey(_.Message, table.subject))
    yield* session.query(harmless ? "COMMIT" : "ROLLBACK")
    if (!harmless) {
      return yield* new Refused({ code: String(DUPLICATE_ENTRY), reason: "not all of them are duplicates" })
    }
  }).pipe(Effect.catchTag("SqlError", ({ cause }) => toUploadError(classify(cause, table.subject))))
