/**
 * The program of the crash tests. Fibers record uses, a database refuses some of them once, and an operator retries and
 * discards dead letters. The disk kills the process at one of the points in points.ts.
 *
 * CRASH_DIRECTORY, CRASH_DATABASE (a MySQL URL, or the name of an SQLite file), CRASH_EVENTS (0 for "until killed"),
 * CRASH_CALL and CRASH_OCCURRENCE (see points.ts), CRASH_OLD (the file to adopt), CRASH_FAR, CRASH_REQUESTS,
 * CRASH_PROOF_KEY (the key that seals deliveries, PEM), CRASH_BACKLOG (nothing is refused, and nobody pauses: more
 * waits than is delivered).
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Config, Effect, Layer, Logger, Option, Redacted, Schedule } from "effect"
import { Audit, AuditLayer, Uploader } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"
import * as fs from "node:fs"
import * as requests from "../../src/internal/queue/requests.js"
import { Disk } from "../../src/services/Disk.js"
import { refusing } from "../support/refusing.js"
import * as CrashDisk from "./disk.js"
import * as CrashDrivers from "./drivers.js"

const FIBERS = 8

const settings = Config.all({
  directory: Config.string("DIRECTORY"),
  database: Config.string("DATABASE"),
  events: Config.integer("EVENTS"),
  call: Config.withDefault(Config.string("CALL"), ""),
  occurrence: Config.withDefault(Config.integer("OCCURRENCE"), 1),
  old: Config.option(Config.string("OLD")),
  proofKey: Config.option(Config.redacted("PROOF_KEY")),
  backlog: Config.withDefault(Config.boolean("BACKLOG"), false),
  far: Config.withDefault(Config.boolean("FAR"), false),
  requests: Config.withDefault(Config.boolean("REQUESTS"), false)
}).pipe(Config.nested("CRASH"))

/**
 * The database refuses each marked event once. A file remembers these over the process, since no database refuses a
 * stored event.
 */
const refusingOnce = (uploader: Uploader["Type"], memory: string): Uploader["Type"] => {
  const refused = new Set(fs.existsSync(memory) ? fs.readFileSync(memory, "utf8").split("\n") : [])
  return refusing(
    uploader,
    ({ eventId, line }) => line.prompt === "refuse me" && !refused.has(eventId),
    ({ eventId }) => {
      refused.add(eventId)
      fs.appendFileSync(memory, `${eventId}\n`)
    }
  )
}

const recordOne = (index: number, pause: number, isRefused: boolean) =>
  Effect.gen(function* () {
    const prompt = isRefused && index % 9 === 0 ? "refuse me" : "一只红狐狸 ".repeat(index % 20)
    const { eventId } =
      index % 5 === 1
        ? yield* Audit.recordLogin({ userName: "li", localIp: "10.0.0.5" })
        : yield* Audit.recordUse({ prompt, status: "success" })
    yield* Effect.sync(() => process.stdout.write(`${eventId}\n`))
    yield* Effect.sleep(pause)
  })

/** while `isQuiet`, no fiber begins to record */
const records = { isQuiet: false, recording: 0 }
const until = (is: () => boolean) => Effect.repeat(Effect.sleep("5 millis"), { until: is })
const recorded = <A, E, R>(one: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    if (records.isQuiet) yield* until(() => !records.isQuiet)
    records.recording++
    return yield* Effect.ensuring(
      one,
      Effect.sync(() => records.recording--)
    )
  })

const load = (count: number, pauseOf: (index: number) => number, fibers = FIBERS, isRefused = true) =>
  Effect.forEach(
    Array.from({ length: fibers }, (_, fiber) => fiber),
    (fiber) =>
      Effect.iterate(fiber, {
        while: (index) => count === 0 || index < count,
        body: (index) => Effect.as(recorded(recordOne(index, pauseOf(index), isRefused)), index + fibers)
      }),
    { concurrency: "unbounded", discard: true }
  )

/**
 * Submits requests. Every fourth time nobody records until the request is carried out. Then no letter is open,
 * which is rare under load, and a file of heads replaces the file.
 */
const operator = (directory: string) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const ask = (action: "retry" | "discard") =>
      requests.submit(disk, directory, { action, letters: "all", by: "operator" })
    const askInQuiet = Effect.gen(function* () {
      records.isQuiet = true
      yield* until(() => records.recording === 0)
      yield* Effect.ignore(Audit.flush)
      const file = yield* ask("retry")
      yield* Effect.repeat(disk.info(file), {
        until: (info) => info === undefined,
        schedule: Schedule.spaced("10 millis")
      })
      records.isQuiet = false
    })
    yield* Effect.iterate(0, {
      while: () => true,
      body: (index) =>
        (index % 4 === 3 ? askInQuiet : ask(index % 3 === 2 ? "discard" : "retry")).pipe(
          Effect.delay("60 millis"),
          Effect.as(index + 1)
        )
    })
  })

const program = Effect.gen(function* () {
  const options = yield* settings
  const database = options.database.startsWith("mysql:")
    ? MysqlUploader.layer({ url: Redacted.make(options.database) })
    : SqliteUploader.layer({ filename: options.database })
  let left = options.occurrence
  const isNow = (call: string) => call === options.call && --left === 0
  const disk = CrashDisk.layer({ isNow, far: options.far })
  CrashDrivers.hook(isNow)
  const audit = AuditLayer.layerDisk({
    directory: options.directory,
    segmentBytes: 4 * 1024,
    batchRecords: 20,
    pollInterval: "50 millis",
    minFreeBytes: 0,
    adopt: Option.isSome(options.old) ? { path: options.old.value } : undefined,
    proof: Option.isSome(options.proofKey) ? { key: options.proofKey.value } : undefined
  }).pipe(
    Layer.provide(
      Layer.effect(
        Uploader,
        Effect.map(Uploader, (uploader) => refusingOnce(uploader, `${options.directory}.refused`))
      )
    ),
    Layer.provide(database)
  )

  // an operator needs letters, so delivery must keep pace on a slow machine too
  const work = options.requests
    ? Effect.raceFirst(
        load(options.events, () => 20),
        operator(options.directory)
      )
    : options.backlog
      ? load(options.events, () => 0, 32 * FIBERS, false)
      : load(options.events, (index) => index % 4)
  yield* Effect.zipRight(work, Effect.retry(Audit.flush, Schedule.recurs(3))).pipe(
    Effect.provide(Layer.provideMerge(audit, disk))
  )
})

program.pipe(
  Effect.provide(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger))),
  NodeRuntime.runMain
)
