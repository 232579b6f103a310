/**
 * The session: a connection to MySQL or MariaDB that can be given up at any moment. The driver's calls cannot be
 * cancelled, and closing its pool waits for a hung server. So every socket is ours: destroying it ends all that waits
 * for it.
 */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Duration, Effect, Exit, Schema } from "effect"
import type { Scope } from "effect"
import * as net from "node:net"
import { format, type SqlValue } from "sql-escaper"
import * as drivers from "../driver.js"
import type { Guard, Querying, StreamOptions } from "./driver.js"
import { guard, protocolError } from "./driver.js"
import type { Endpoint, SslSettings } from "./endpoints.js"
import { errnoOf } from "./errors.js"
import { loginsOf } from "./logins.js"
import { connector, hasOther, noteSilence } from "./lookup.js"
import { monotonicMillis } from "../../monotonic.js"
import * as watchdog from "../../watchdog.js"

/** A connection with our settings, for one statement at a time. */
export interface Session {
  readonly endpoint: Endpoint
  /** the address that the server was reached by */
  readonly remoteAddress: () => string | undefined
  /** bytes that a statement may have, `@@max_allowed_packet` */
  readonly maxPacket: number
  /** how many warnings of a statement the server shows, `@@max_error_count` */
  readonly maxWarnings: number
  /** Whether statements go prepared: on MariaDB, which takes them faster, until it prepares no more. */
  readonly prepares: () => boolean
  /** From now on statements go as text. */
  readonly stopPreparing: () => void
  /** Whether the server is read-only now; a privileged account may write all the same. */
  readonly isReadOnly: Effect.Effect<boolean, SqlError>
  /** whether the session's time zone is UTC all year round */
  readonly isUtc: boolean
  /** the session's time zone; undefined if it is still the server's */
  readonly timeZone: () => string | undefined
  readonly setTimeZone: (zone: string | undefined) => Effect.Effect<void, SqlError>
  readonly execute: (sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<ResultHeader, SqlError>
  /** Runs a statement as text; parameters are escaped by the driver, which the session's sql_mode makes safe. */
  readonly query: (sql: string, params?: ReadonlyArray<unknown>) => Effect.Effect<unknown, SqlError>
  /** Runs a write as text; fails if the answer has rows. */
  readonly write: (sql: string) => Effect.Effect<unknown, SqlError>
  /** Runs a statement that has rows; fails if they do not fit the schema. */
  readonly select: <Row, I>(
    row: Schema.Schema<Row, I>,
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, SqlError>
  /** Runs a statement by the driver's own connection, for callers that read the rows of the answer themselves. */
  readonly withDriver: (
    run: (connection: Querying, done: (error: Error | null) => void) => void
  ) => Effect.Effect<unknown, SqlError>
  /** false once the server or we have ended it, also while it was idle */
  readonly isOpen: () => boolean
}

export interface ResultHeader {
  readonly affectedRows: number
}

export const driver = drivers.load("@effect/sql-mysql2@0.53", async () => ({
  MysqlClient: await import("@effect/sql-mysql2/MysqlClient"),
  Reactivity: await import("@effect/experimental/Reactivity"),
  SqlError: (await import("@effect/sql/SqlError")).SqlError
}))

type Driver = Effect.Effect.Success<typeof driver>

const failed = ({ SqlError }: Driver, cause: Error): SqlError =>
  new SqlError({ message: cause.message, cause })

const timedOut = (driver: Driver, what: string, after: Duration.Duration): SqlError =>
  failed(
    driver,
    Object.assign(new Error(`${what} took longer than ${Duration.format(after)}`), { code: "ETIMEDOUT" })
  )

/** The socket under a session, and what became of it. The driver may open another one when the first is lost. */
class Wire {
  /** what made the connection unusable: the first of its errors, since the others follow from it */
  broken: Error | undefined
  remoteAddress: string | undefined
  private readonly sockets = new Set<net.Socket>()
  private guarded: Guard | undefined
  private isCut = false

  constructor(private readonly connect: (options: net.TcpNetConnectOpts) => net.Socket) {}

  /** Opens a socket under guard; `verified` is the name or address that its certificate has to show. */
  open(address: Endpoint["address"], options: StreamOptions, verified: string | undefined): net.Socket {
    const socket = this.connect({ ...address, noDelay: true, keepAlive: true })
    this.guarded = guard(socket, options, (error) => (this.broken ??= error), verified)
    this.sockets.add(socket)
    socket.once("connect", () => (this.remoteAddress = socket.remoteAddress))
    socket.once("close", () => this.sockets.delete(socket))
    return socket
  }

  /** Resets the count of bytes that the server sent. */
  restart(): void {
    this.guarded?.restart()
  }

  get connection() {
    return this.guarded?.connection()
  }

  /** Whether it is connected, and nothing was received: a server speaks first. */
  get isSilent(): boolean {
    return this.remoteAddress !== undefined && [...this.sockets].every(({ bytesRead }) => bytesRead === 0)
  }

  get isOpen(): boolean {
    return !this.isCut && this.broken === undefined && this.sockets.size > 0
  }

  readonly cut = Effect.sync(() => {
    this.isCut = true
    // by the error, the driver fails whatever waits for an answer
    for (const socket of this.sockets) socket.destroy(new Error("the connection was given up"))
  })

  /** Lets the goodbye go out, and waits for no answer. */
  readonly leave = Effect.sync(() => {
    for (const socket of this.sockets) socket.unref().destroySoon()
  })
}

/** Logs in by the driver, over our socket. */
const connect = (
  driver: Driver,
  wire: Wire,
  endpoint: Endpoint
): Effect.Effect<Connection, SqlError, Scope.Scope> => {
  const { address, connectTimeout, database, password, ssl, username } = endpoint
  // the name or address that the certificate has to show
  const identity = ssl?.servername ?? address.host
  const verified = ssl === undefined || ssl.rejectUnauthorized === false ? undefined : identity
  // why we broke off the login: the driver would give another code
  let refused: Error | undefined
  return driver.MysqlClient.make({
    // the driver needs the name for the certificate only, since the socket is ours
    host: identity,
    port: address.port,
    database,
    username,
    password,
    maxConnections: 1,
    poolConfig: {
      // fewer would arm a timer that outlives the pool
      maxIdle: 1,
      // bounded below, together with all else that connecting takes
      connectTimeout: 0,
      // by LOAD DATA LOCAL a server could ask for any file of ours
      flags: ["-LOCAL_FILES"],
      infileStreamFactory: () => {
        throw protocolError("the server asked for a file")
      },
      // programs may forbid generated code (--disallow-code-generation-from-strings)
      disableEval: true,
      // Hot path: the driver looks for placeholders in a text without parameters (bench/README.md#placeholders)
      queryFormat: (sql, values: Array<SqlValue>) => (values.length === 0 ? sql : format(sql, values)),
      // bounds the prepared statements on the server, since batches differ in size
      maxPreparedStatements: 64,
      ...(ssl === undefined ? {} : { ssl: sslOptions(ssl, identity) }),
      authPlugins: loginsOf(
        endpoint,
        () => wire.remoteAddress,
        (error) => (refused = error)
      ),
      stream: (options: StreamOptions) => wire.open(address, options, verified)
    }
  }).pipe(
    Effect.provide(driver.Reactivity.layer),
    Effect.flatMap((client) => client.reserve),
    // `make` is uninterruptible until its first query is answered: leave it, and cut its socket
    Effect.disconnect,
    Effect.raceFirst(silence(driver, wire, endpoint)),
    Effect.timeoutFail({
      duration: connectTimeout,
      onTimeout: () => timedOut(driver, "Connecting", connectTimeout)
    }),
    Effect.mapError((error) => (refused === undefined ? error : failed(driver, refused))),
    Effect.onError(() => wire.cut)
  )
}

/** Runs a statement within the time-out. Fails if the answer is of another kind. */
type Bounded = <A>(
  statement: Effect.Effect<unknown, SqlError>,
  isAnswer: (answer: unknown) => answer is A
) => Effect.Effect<A, SqlError>

/** Fails after half of the time if the server was silent, and the name has another address. */
const silence = (driver: Driver, wire: Wire, { address: { host }, connectTimeout }: Endpoint) =>
  Effect.suspend(() => {
    if (!wire.isSilent || !hasOther(host, wire.remoteAddress)) return Effect.never
    noteSilence(wire.remoteAddress, true)
    return failed(driver, Object.assign(new Error("the server stays silent"), { code: SILENT }))
  }).pipe(Effect.delay(halfOf(connectTimeout)), Effect.interruptible)

const SILENT = "SILENT"
const isSilence = ({ cause }: SqlError) => cause instanceof Error && "code" in cause && cause.code === SILENT
const halfOf = (duration: Duration.Duration) => Duration.times(duration, 0.5)

/** Runs one statement at a time. If one takes too long, its socket is destroyed. */
const makeBounded = (
  driver: Driver,
  wire: Wire,
  statementTimeout: Duration.Duration
): Effect.Effect<Bounded, never, Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    let current: watchdog.UnderWay | undefined
    let expired: watchdog.UnderWay | undefined
    const watch = yield* watchdog.make({
      current: () => current,
      timeoutMillis: Duration.toMillis(statementTimeout),
      // once its socket is closed, the driver fails what it waits for
      expire: (statement) =>
        Effect.suspend(() => {
          expired = statement
          current = undefined
          return wire.cut
        })
    })
    yield* Effect.addFinalizer((exit) =>
      current !== undefined || Exit.isFailure(exit) ? wire.cut : Effect.void
    )

    return (statement, isAnswer) =>
      Effect.suspend(() => {
        const mine = (current = { startedAt: monotonicMillis(clock) })
        wire.restart()
        watch()
        // an interruption leaves `current` as it is: nobody waits for the answer, so the session is cut when it ends
        return Effect.matchEffect(statement, {
          onSuccess: (answer) => {
            current = undefined
            // after packets that nobody asked for, this may be the answer to another statement
            if (wire.broken !== undefined) return failed(driver, wire.broken)
            return isAnswer(answer)
              ? Effect.succeed(answer)
              : failed(driver, protocolError("an answer of another kind"))
          },
          onFailure: (error) => {
            current = undefined
            if (expired === mine) return timedOut(driver, "The statement", statementTimeout)
            return wire.broken === undefined || errnoOf(error.cause) > 0 ? error : failed(driver, wire.broken)
          }
        })
      })
  })

/**
 * Connects. If its scope closes with a success, the session says goodbye; with a failure, it is cut. Neither waits for
 * the server, nor keeps the process alive.
 */
export const open = (endpoint: Endpoint): Effect.Effect<Session, SqlError, Scope.Scope> =>
  Effect.catchIf(openOnce(endpoint), isSilence, () =>
    open({ ...endpoint, connectTimeout: halfOf(endpoint.connectTimeout) })
  )

const openOnce = (endpoint: Endpoint): Effect.Effect<Session, SqlError, Scope.Scope> =>
  Effect.gen(function* () {
    const modules = yield* driver
    const wire = new Wire(yield* connector)
    yield* Effect.addFinalizer(() => wire.leave)
    const connection = yield* connect(modules, wire, endpoint)
    noteSilence(wire.remoteAddress, false)
    const bounded = yield* makeBounded(modules, wire, endpoint.statementTimeout)

    const run = (sql: string, params: ReadonlyArray<unknown>) =>
      bounded(connection.executeUnprepared(sql, params, undefined), Array.isArray)

    const select: Session["select"] = (row, sql, params = []) =>
      Effect.flatMap(run(sql, params), (rows) =>
        Effect.mapError(Schema.decodeUnknown(Schema.Array(row))(rows), () =>
          failed(modules, protocolError("rows of another kind than those that were asked for"))
        )
      )

    const withDriver: Session["withDriver"] = (run) =>
      bounded(
        Effect.async<void, SqlError>((resume) => {
          const { connection: drivers } = wire
          if (drivers === undefined)
            return resume(failed(modules, protocolError("the driver shows no connection")))
          run(drivers, (error) => resume(error === null ? Effect.void : failed(modules, error)))
        }),
        (answer) => answer === undefined
      )

    for (const statement of sessionSettings(endpoint.statementTimeout)) yield* run(statement, [])
    const [server] = yield* select(
      Server,
      "SELECT VERSION() AS version, @@max_allowed_packet AS packet, @@max_error_count AS warnings, " +
        "@@session.time_zone AS zone, @@system_time_zone AS host_zone"
    )
    if (server === undefined) return yield* failed(modules, protocolError("no row where there must be one"))
    const { host_zone, packet, version, warnings, zone } = server
    let prepares = version.includes("MariaDB")
    let timeZone: string | undefined

    return {
      endpoint,
      remoteAddress: () => wire.remoteAddress,
      maxPacket: packet,
      maxWarnings: warnings,
      isReadOnly: select(Mode, READ_ONLY).pipe(
        Effect.map(([mode]) => mode?.read_only === 1),
        // not every server has the variable
        Effect.catchIf(
          ({ cause }) => errnoOf(cause) > 0,
          () => Effect.succeed(false)
        )
      ),
      prepares: () => prepares,
      stopPreparing: () => {
        prepares = false
      },
      isUtc: zone === "SYSTEM" ? host_zone === "UTC" : UTC.test(zone),
      timeZone: () => timeZone,
      setTimeZone: (wanted) =>
        Effect.map(run("SET SESSION time_zone = ?", [wanted ?? zone]), () => {
          timeZone = wanted
        }),
      execute: (sql, params) => bounded(connection.executeRaw(sql, params), isResultHeader),
      query: (sql, params = []) => run(sql, params),
      write: (sql) => bounded(connection.executeUnprepared(sql, [], undefined), isNoRows),
      select,
      withDriver,
      isOpen: () => wire.isOpen
    }
  })

const Server = Schema.Struct({
  version: Schema.String,
  packet: Schema.Int.pipe(Schema.positive()),
  warnings: Schema.Int.pipe(Schema.nonNegative()),
  zone: Schema.String,
  host_zone: Schema.String
})

const Mode = Schema.Struct({ read_only: Schema.Number })

/** `read_only` is a number, and a word as of MariaDB 12. */
const READ_ONLY = "SELECT @@global.read_only NOT IN ('0', 'OFF') AS read_only"

/** The answer to a write has no rows; any would be another statement's. */
const isNoRows = (answer: unknown): answer is ReadonlyArray<never> =>
  Array.isArray(answer) && answer.length === 0

/** Names of zones without a summer time; London's is GMT for half of the year only. */
const UTC = /^(?:[+-]00:00|(?:Etc\/)?(?:UTC|UCT|Universal|Zulu))$/i

/**
 * An idle session ends after so many seconds. Otherwise a transaction of a program that vanished would lock its events
 * for the server's `wait_timeout`, by default 8 hours.
 */
const IDLE_SECONDS = 60

/** Settings in place of the server's defaults. `time_zone` is left alone: it would shift CURRENT_TIMESTAMP columns. */
const sessionSettings = (statementTimeout: Duration.Duration): ReadonlyArray<string> => [
  // first: under NO_BACKSLASH_ESCAPES the driver's escaping is unsafe; strict: otherwise the server truncates silently
  "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
  "SET NAMES utf8mb4",
  [
    "SET SESSION autocommit = 1",
    // with CHAIN each COMMIT would begin a transaction, and the writes after it would be lost with the connection
    "completion_type = 0",
    // the text of 1062 names the key in English only
    "lc_messages = 'en_US'",
    // a statement that we gave up must not wait on there, neither for rows nor behind an ALTER TABLE
    `innodb_lock_wait_timeout = ${lockWaitSeconds(statementTimeout)}`,
    `lock_wait_timeout = ${lockWaitSeconds(statementTimeout)}`,
    `wait_timeout = ${IDLE_SECONDS}`,
    // MariaDB only: MySQL limits no INSERT in time, and demands a privilege for max_error_count (1227)
    `unique_checks = 1 /*M! , max_error_count = 65535, max_statement_time = ${Duration.toSeconds(statementTimeout) * 0.9} */`
  ].join(", ")
]

/** Shorter than our own limit, so that the server answers first; whole seconds, at least 1, as both servers demand. */
const lockWaitSeconds = (statementTimeout: Duration.Duration): number =>
  Math.max(1, Math.floor(Duration.toSeconds(statementTimeout) * 0.8))

/** mysql2 checks the name only when told to, and takes an address for "localhost"; driver.ts checks both. */
const sslOptions = ({ ca, cert, key, rejectUnauthorized = true }: SslSettings, identity: string) => ({
  ...(ca === undefined ? {} : { ca }),
  ...(cert === undefined ? {} : { cert }),
  ...(key === undefined ? {} : { key }),
  rejectUnauthorized,
  verifyIdentity: rejectUnauthorized && net.isIP(identity) === 0
})

const isResultHeader = (answer: unknown): answer is ResultHeader =>
  typeof (answer as Partial<ResultHeader> | undefined)?.affectedRows === "number"
