/**
 * A session with MySQL or MariaDB that can be given up at any moment. The driver's calls have no canceller and closing
 * its pool waits for a hung server, so every socket is ours: destroying it ends whatever waits for it.
 */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Duration, Effect, Exit, Schema } from "effect"
import type { Scope } from "effect"
import * as net from "node:net"
import { format, type SqlValue } from "sql-escaper"
import * as drivers from "../driver.js"
import type { Guard, StreamOptions } from "./driver.js"
import { guard, protocolError } from "./driver.js"
import type { Endpoint, SslSettings } from "./endpoints.js"
import { errnoOf } from "./errors.js"
import { loginsOf } from "./logins.js"
import { connector, hasOther, noteSilence } from "./lookup.js"
import type { Querying } from "./textRows.js"
import { monotonicMillis } from "../../monotonic.js"
import * as watchdog from "../../watchdog.js"

/** A connection with our settings, for one statement after the other. */
export interface Session {
  readonly endpoint: Endpoint
  /** the address that the server was reached by */
  readonly remoteAddress: () => string | undefined
  /** bytes that a statement may have, `@@max_allowed_packet` */
  readonly maxPacket: number
  /** how many warnings of a statement the server shows, `@@max_error_count` */
  readonly maxWarnings: number
  /** Whether statements are faster prepared than as text: by the server, and as long as it prepares them. */
  readonly prepares: () => boolean
  /** From now on statements go as text. */
  readonly stopPreparing: () => void
  /** Whether the server says, now, that it takes no writes; a privileged account may write all the same. */
  readonly isReadOnly: Effect.Effect<boolean, SqlError>
  /** whether the session's time zone is UTC all year round */
  readonly isUtc: boolean
  /** the session's time zone; undefined is the one that the server gave it */
  readonly timeZone: () => string | undefined
  readonly setTimeZone: (zone: string | undefined) => Effect.Effect<void, SqlError>
  /** Runs a prepared statement. */
  readonly execute: (sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<ResultHeader, SqlError>
  /** Runs a statement as text; parameters are escaped by the driver, which the session's sql_mode makes safe. */
  readonly query: (sql: string, params?: ReadonlyArray<unknown>) => Effect.Effect<unknown, SqlError>
  /** Runs a write as text; fails if the answer has rows. */
  readonly write: (sql: string) => Effect.Effect<unknown, SqlError>
  /** Runs a statement that has rows; fails if they are none of these. */
  readonly select: <Row, I>(
    row: Schema.Schema<Row, I>,
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, SqlError>
  /** Runs a statement by the driver's own connection: for those who read the rows of its answer themselves. */
  readonly withDriver: (
    run: (connection: Querying, done: (error: Error | null) => void) => void
  ) => Effect.Effect<unknown, SqlError>
  /** false once the server or we have ended it, also while it was idle */
  readonly isOpen: () => boolean
}

/** What the server says of a write. */
export interface ResultHeader {
  readonly affectedRows: number
}

/** The modules of the driver. */
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

  /** Counts from here what the server sends. */
  restart(): void {
    this.guarded?.restart()
  }

  /** The driver's connection over the socket. */
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
    // with an error, so that the driver tells whoever waits for an answer
    for (const socket of this.sockets) socket.destroy(new Error("the connection was given up"))
  })

  /** The goodbye may still be on its way, and nobody may answer it. */
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
  // why we broke off the login: the driver has codes of its own for that
  let refused: Error | undefined
  return driver.MysqlClient.make({
    // the socket is ours: the driver needs the name for the certificate only
    host: identity,
    port: address.port,
    database,
    username,
    password,
    maxConnections: 1,
    poolConfig: {
      // fewer would arm a timer that outlives the pool
      maxIdle: 1,
      // bounded below, with everything else that connecting takes
      connectTimeout: 0,
      // a server may ask for any file of ours, and be told of the wish to send it (LOAD DATA LOCAL)
      flags: ["-LOCAL_FILES"],
      infileStreamFactory: () => {
        throw protocolError("the server asked for a file")
      },
      // no code is made from the names of columns; programs may forbid it (--disallow-code-generation-from-strings)
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
    // it is uninterruptible until its first query is answered: leave it, and cut its socket
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

/** Runs a statement within the time-out, and takes no other answer than one of its kind. */
type Bounded = <A>(
  statement: Effect.Effect<unknown, SqlError>,
  isAnswer: (answer: unknown) => answer is A
) => Effect.Effect<A, SqlError>

/** Fails after half of the time if nothing was received, and the name has another address. */
const silence = (driver: Driver, wire: Wire, { address: { host }, connectTimeout }: Endpoint) =>
  Effect.suspend(() => {
    if (!wire.isSilent || !hasOther(host, wire.remoteAddress)) return Effect.never
    noteSilence(wire.remoteAddress, true)
    return failed(driver, Object.assign(new Error("the server stays silent"), { code: SILENT }))
  }).pipe(Effect.delay(halfOf(connectTimeout)), Effect.interruptible)

const SILENT = "SILENT"
const isSilence = ({ cause }: SqlError) => cause instanceof Error && "code" in cause && cause.code === SILENT
const halfOf = (duration: Duration.Duration) => Duration.times(duration, 0.5)

/** One statement after the other. What takes too long loses its socket. */
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
      // the driver fails what it waits for when its socket is closed
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
        // left as it is by an interruption: nobody waits for the answer any more, so the session is cut when it ends
        return Effect.matchEffect(statement, {
          onSuccess: (answer) => {
            current = undefined
            // among packets that nobody asked for, this may be the answer to another statement
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
 * Connects. The session lives in the scope; closed with a success it says goodbye, closed with a failure it is cut.
 * Neither waits for the server, nor leaves anything that would keep the process alive.
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

/** A number, or as of MariaDB 12 a word. */
const READ_ONLY = "SELECT @@global.read_only NOT IN ('0', 'OFF') AS read_only"

/** What is left of the answer to a write; rows would be another statement's. */
const isNoRows = (answer: unknown): answer is ReadonlyArray<never> =>
  Array.isArray(answer) && answer.length === 0

/** Names of zones without a summer time; London's is GMT for half of the year only. */
const UTC = /^(?:[+-]00:00|(?:Etc\/)?(?:UTC|UCT|Universal|Zulu))$/i

/**
 * An idle session ends after so many seconds. Otherwise a transaction of a program that vanished keeps its events locked
 * for the server's own `wait_timeout`, which is 8 hours by default.
 */
const IDLE_SECONDS = 60

/** Whatever the defaults of the server are. `time_zone` is left alone: it would shift CURRENT_TIMESTAMP columns. */
const sessionSettings = (statementTimeout: Duration.Duration): ReadonlyArray<string> => [
  // first, since under NO_BACKSLASH_ESCAPES the driver's escaping is none; strict, or the server truncates silently
  "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
  "SET NAMES utf8mb4",
  [
    "SET SESSION autocommit = 1",
    // CHAIN would begin a transaction with each COMMIT, and what comes after it would be lost with the connection
    "completion_type = 0",
    // the text of 1062 names the key in English only
    "lc_messages = 'en_US'",
    // what we no longer wait for must not go on waiting there, neither for rows nor behind an ALTER TABLE
    `innodb_lock_wait_timeout = ${lockWaitSeconds(statementTimeout)}`,
    `lock_wait_timeout = ${lockWaitSeconds(statementTimeout)}`,
    `wait_timeout = ${IDLE_SECONDS}`,
    // read by MariaDB only: MySQL limits no INSERT in time, and needs a right of its own for max_error_count (1227)
    `unique_checks = 1 /*M! , max_error_count = 65535, max_statement_time = ${Duration.toSeconds(statementTimeout) * 0.9} */`
  ].join(", ")
]

/** Shorter than our own limit, so that the server's answer comes first; whole seconds, the least that both servers take. */
const lockWaitSeconds = (statementTimeout: Duration.Duration): number =>
  Math.max(1, Math.floor(Duration.toSeconds(statementTimeout) * 0.8))

/** mysql2 checks the authority by default, and the name only when told to; an address it would take for "localhost". */
const sslOptions = ({ ca, cert, key, rejectUnauthorized = true }: SslSettings, identity: string) => ({
  ...(ca === undefined ? {} : { ca }),
  ...(cert === undefined ? {} : { cert }),
  ...(key === undefined ? {} : { key }),
  rejectUnauthorized,
  verifyIdentity: rejectUnauthorized && net.isIP(identity) === 0
})

const isResultHeader = (answer: unknown): answer is ResultHeader =>
  typeof (answer as Partial<ResultHeader> | undefined)?.affectedRows === "number"
