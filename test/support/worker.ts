/**
 * The program of the kill and crash tests: fibers log uses and logins as fast as the disk allows, and a worker delivers
 * them. When `record` returns, the event's id goes to stdout, so that a judge outside knows what was acknowledged.
 *
 * WORKER_DATABASE: a MySQL URL, or the name of an SQLite file. WORKER_EVENTS: how many events; 0 for "until killed".
 * WORKER_PROOF_KEY: the private key that seals delivered rows, PEM. WORKER_CONNECTIONS: to MySQL, 1 by default.
 * WORKER_INSTANCES: how many of them share the directory; by default it has the directory alone.
 * WORKER_THEN: `flush` and end (the default), just `end`, or `stay` for a signal.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Config, Effect, Layer, Logger, Option, Redacted } from "effect"
import { Audit, AuditLayer } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"

const FIBERS = 16
const SHUTDOWN_TIMEOUT = "2 seconds"

const UploaderLive = Layer.unwrapEffect(
  Effect.map(
    Config.all([
      Config.string("WORKER_DATABASE"),
      Config.withDefault(Config.integer("WORKER_CONNECTIONS"), 1)
    ]),
    ([address, connections]) =>
      address.startsWith("mysql:")
        ? MysqlUploader.layer({ url: Redacted.make(address), connections })
        : SqliteUploader.layer({ filename: address })
  )
)

// small segments and batches give more boundaries at which something can break
const AuditLive = AuditLayer.layerConfig({
  directory: Config.string("WORKER_DIRECTORY"),
  segmentBytes: Config.succeed(32 * 1024),
  batchRecords: Config.succeed(100),
  shutdownTimeout: Config.succeed(SHUTDOWN_TIMEOUT),
  instances: Config.map(Config.option(Config.integer("WORKER_INSTANCES")), Option.getOrUndefined),
  pollInterval: Config.succeed("1 second"),
  proof: Config.map(Config.option(Config.redacted("WORKER_PROOF_KEY")), (key) =>
    Option.isSome(key) ? { key: key.value } : undefined
  )
}).pipe(Layer.provide(UploaderLive))

const logOne = (index: number) =>
  Effect.gen(function* () {
    const who = { userName: `用户 ${index % 7}`, deviceName: "studio-3 🖥️" }
    const { eventId } =
      index % 5 === 0
        ? yield* Audit.recordLogin({ ...who, localIp: "10.0.0.5" })
        : yield* Audit.recordUse({ ...who, prompt: "一只红狐狸\n".repeat(index % 30), status: "success" })
    yield* Effect.sync(() => process.stdout.write(`${eventId}\n`))
    // slow enough for the worker and its database to keep up; otherwise this would be an outage
    yield* Effect.sleep(index % 4)
  })

const load = Effect.flatMap(Config.integer("WORKER_EVENTS"), (count) =>
  Effect.forEach(
    Array.from({ length: FIBERS }, (_, fiber) => fiber),
    (fiber) =>
      Effect.iterate(fiber, {
        while: (index) => count === 0 || index < count,
        body: (index) => Effect.as(logOne(index), index + FIBERS)
      }),
    { concurrency: "unbounded", discard: true }
  )
)

const then = Config.literal(
  "flush",
  "end",
  "stay"
)("WORKER_THEN").pipe(
  Config.withDefault("flush"),
  Effect.flatMap((then) => ({ flush: Audit.flush, end: Effect.void, stay: Effect.never })[then])
)

Effect.zipRight(load, then).pipe(
  Effect.provide(AuditLive),
  Effect.provide(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger))),
  // the pretty logger writes to stdout, where the ids go
  NodeRuntime.runMain({ disablePrettyLogger: true })
)
