/** `effect-audit flush`: delivers what waits when no program does. */
import { Duration, Effect, Exit, Fiber, Layer, Option, Schedule } from "effect"
import { stopwatch } from "../internal/monotonic.js"
import { SEAL_MISSING } from "../internal/proof/sealer.js"
import { objectOf } from "../internal/queue/lines.js"
import { make as makeShutdown } from "../internal/shutdown.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import * as SchedulerLayer from "../layers/SchedulerLive.js"
import * as StatusFile from "../layers/StatusFile.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { UploadError, type FlushError } from "../schema/Errors.js"
import type { Position } from "../schema/Position.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler } from "../services/Scheduler.js"
import { Command } from "./effectCli.js"
import { endWith, ExitCode, usageError } from "./exit.js"
import { counted, formatCount, formatSpan } from "./format.js"
import { kindOf } from "./mask.js"
import { loadMysql } from "./mysql.js"
import { loadSqlite } from "./sqlite.js"
import type { Queue } from "./settings.js"
import {
  database,
  databaseOf,
  directory,
  events,
  findQueues,
  json,
  kindsOf,
  queuesOf,
  settingsOf,
  sqlite,
  tablesOf,
  wrongKeyOf
} from "./settings.js"
import { bar, isTerminal, makeCanvas, print, printJson, say } from "./terminal.js"

export const flush = Command.make("flush", { directory, json, events, sqlite, ...database }, (options) =>
  Effect.gen(function* () {
    yield* findQueues(options.directory)
    const settings = yield* settingsOf(options.directory)
    const kinds = yield* kindsOf(options.events)
    const uploader = yield* Option.match(options.sqlite, {
      onNone: () =>
        Effect.flatMap(loadMysql, (MysqlUploader) => Effect.map(databaseOf(options), MysqlUploader.layer)),
      onSome: (filename) =>
        Effect.flatMap(loadSqlite, (SqliteUploader) =>
          Effect.map(tablesOf(options.tables), (tables) => SqliteUploader.layer({ filename, tables }))
        )
    })
    if (settings.proof !== undefined) {
      const wrong = wrongKeyOf(settings.proof)
      if (wrong !== undefined) return yield* usageError(wrong)
      if (Option.contains(options.deduplication, "none"))
        return yield* usageError("AUDIT_PROOF_KEY: nothing can be sealed with --deduplication none.")
    }
    const queues = yield* queuesOf(options.directory)

    let code: ExitCode = ExitCode.fine
    for (const queue of queues) {
      const shutdown = yield* makeShutdown(settings.shutdownTimeout ?? "5 seconds")
      const queueFile = QueueFileLayer.layer({
        ...settings,
        adopt: undefined,
        directory: queue.directory,
        isCommand: true,
        shutdown
      })
      const scheduler = SchedulerLayer.make({
        ...settings,
        events: kinds,
        timeZone: settings.adopt?.timeZone,
        shutdown
      })
      const worker = StatusFile.layer(scheduler, shutdown).pipe(Layer.provide(uploader))
      const outcome = yield* Effect.zipRight(
        Effect.zipRight(refuseUnknownKinds(kinds), refuseUnsealed(settings.proof)),
        Effect.provide(deliver(queue), worker)
      ).pipe(
        Effect.provide(queueFile),
        Effect.catchTag("QueueLocked", ({ pid }) =>
          Effect.as(
            say(`${queue.directory}: process ${pid ?? "unknown"} owns the queue, and delivers it itself.`),
            { delivered: 0, dead: 0, waiting: 0, failure: undefined, owner: pid }
          )
        )
      )
      yield* options.json ? printJson({ queue: queue.name, ...outcome }) : print(describe(queue, outcome))
      code = Math.max(code, codeOf(outcome)) as ExitCode
    }
    if (code !== ExitCode.fine) return yield* endWith(code)
  })
).pipe(
  Command.withDescription(
    "Deliver what waits, when no program owns the queue. Exit code: 1 if the database cannot be reached, 2 if it needs " +
      "an operator or refused events."
  )
)

/** Among sealed rows, a proof counts a row without a seal as another writer's. */
const refuseUnsealed = (proof: SchedulerLayer.Options["proof"]) =>
  Effect.gen(function* () {
    const { seal } = yield* QueueFile
    if (proof === undefined && (yield* seal) !== undefined)
      return yield* usageError(
        "The program seals what it delivers from this queue: set AUDIT_PROOF_KEY to its key, or start the program."
      )
  })

interface Outcome {
  readonly delivered: number
  readonly dead: number
  readonly waiting: number
  readonly failure: { readonly class: string; readonly code: string; readonly reason: string } | undefined
  /** the process that owns the queue */
  readonly owner?: number | undefined
}

const codeOf = ({ dead, failure }: Outcome): ExitCode => {
  if (failure?.class === "operator" || dead > 0) return ExitCode.needsOperator
  return failure === undefined ? ExitCode.fine : ExitCode.lagging
}

const describe = (
  queue: Queue,
  { dead, delivered, failure, owner, waiting }: Outcome
): ReadonlyArray<string> => {
  if (owner !== undefined) return []
  const where = queue.name === undefined ? "" : `${queue.name}: `
  const refused = dead === 0 ? "" : `, ${counted(dead, "dead letter")}: see "effect-audit dead list"`
  const rest =
    failure === undefined ? "" : `, ${formatCount(waiting)} wait: ${failure.reason} (${failure.code})`
  return [`${where}${formatCount(delivered)} delivered${refused}${rest}`]
}

/** Refuses a kind whose class is missing: its events would become dead letters, though nothing is wrong with them. */
const refuseUnknownKinds = (kinds: ReadonlyArray<AuditEvent.Any>) =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const known = new Set(kinds.map(({ kind }) => kind))
    let from: Position | undefined
    for (;;) {
      const batch = yield* queue.take({ from, maxRecords: 10_000, maxBytes: 1 << 20 })
      if (batch.records.length === 0) return
      for (const { bytes, problem } of batch.records) {
        const kind = problem === undefined ? objectOf(bytes)?.kind : undefined
        if (typeof kind === "string" && !known.has(kind)) {
          return yield* usageError(
            `An event of kind "${kindOf(kind)}" waits: name the module that exports its class by --events, or ` +
              `start the program that records it.`
          )
        }
      }
      from = batch.end
    }
  })

const deliver = (target: Queue) =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const scheduler = yield* Scheduler
    const before = yield* queue.status
    const progress = yield* Effect.fork(drawProgress(queue, target))
    // If the last seal is not found, a new chain begins after a minute. Until then a flush fails.
    const flushed = Effect.retry(scheduler.flush, {
      while: isSealMissing,
      schedule: Schedule.spaced("2 seconds")
    })
    const exit = yield* Effect.exit(flushed)
    yield* Fiber.interrupt(progress)
    const after = yield* queue.status
    return {
      delivered: after.delivered - before.delivered,
      dead: after.dead - before.dead,
      waiting: after.waiting,
      failure: Exit.isSuccess(exit) ? undefined : yield* failureOf(exit)
    } satisfies Outcome
  })

const isSealMissing = ({ cause }: FlushError): boolean =>
  cause instanceof UploadError && cause.code === SEAL_MISSING

const failureOf = (exit: Exit.Failure<void, FlushError>) =>
  Effect.flip(exit).pipe(
    Effect.map(({ cause, message }) =>
      cause instanceof UploadError
        ? { class: cause.class, code: cause.code, reason: cause.reason }
        : { class: "transient", code: "UNKNOWN", reason: message }
    ),
    Effect.orDie
  )

/** On a terminal, draws a bar with the rate and the time left. */
const drawProgress = (queue: QueueFile["Type"], { name }: Queue) =>
  Effect.gen(function* () {
    if (!isTerminal(process.stderr)) return
    const canvas = makeCanvas(process.stderr)
    const { next, settled: start } = yield* queue.progress
    const elapsed = yield* stopwatch
    const draw = Effect.gen(function* () {
      const { settled } = yield* queue.progress
      const done = settled - start
      const share = next === start ? 1 : done / (next - start)
      const seconds = elapsed() / 1000
      const rate = seconds > 0 ? done / seconds : 0
      const left = rate > 0 ? `, ${formatSpan(((next - settled) / rate) * 1000)} left` : ""
      yield* canvas.draw([
        [
          name === undefined ? "" : `${name} `,
          ...bar(share),
          ` ${formatCount(done)} of ${counted(next - start, "event")}, ${formatCount(rate)} a second${left}`
        ]
      ])
    })
    return yield* Effect.ensuring(
      Effect.forever(Effect.zipRight(draw, Effect.sleep(Duration.millis(100)))),
      draw
    )
  })
