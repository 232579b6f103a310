/**
 * The worker: a fiber that delivers waiting events, backs off after a failure, and drains once more at shutdown.
 *
 * @since 0.1.0
 */
import {
  Cause,
  DateTime,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  identity,
  Layer,
  Option,
  Queue,
  type Redacted,
  Schedule,
  Stream
} from "effect"
import type { Scope } from "effect"
import { containedScope, step, supervised } from "../internal/contained.js"
import * as flushing from "../internal/delivery/flushes.js"
import * as delivery from "../internal/delivery/pass.js"
import * as reports from "../internal/delivery/report.js"
import { monotonicMillis } from "../internal/monotonic.js"
import { sealingKey } from "../internal/proof/keys.js"
import type { Notice } from "../internal/proof/notices.js"
import { Sealer } from "../internal/proof/sealer.js"
import { makeReader } from "../internal/readEvent.js"
import { make as makeShutdown, type Shutdown } from "../internal/shutdown.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Either } from "../schema/Effect3.js"
import type { QueueAccessError } from "../schema/Errors.js"
import { visible } from "../schema/Visible.js"
import { compile, makeDecoder } from "../schema/Line.js"
import { type Permission, QueueFile } from "../services/QueueFile.js"
import { Scheduler } from "../services/Scheduler.js"
import { Uploader } from "../services/Uploader.js"

/**
 * The options of delivery. All except the kinds have defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** the kinds of events that the queue may hold */
  readonly events: ReadonlyArray<AuditEvent.Any>
  /** the most rows of a batch; 500 by default */
  readonly batchRecords?: number | undefined
  /** about the most bytes of a batch; 4 MiB by default */
  readonly batchBytes?: number | undefined
  /** how often an idle worker looks, although appends wake it; 60 seconds by default */
  readonly pollInterval?: Duration.DurationInput | undefined
  /**
   * how long an upload may take; 10 minutes by default. Afterwards its events are sent again, fewer at a time. It is
   * for uploaders of your own that never answer: those of this package bound each statement.
   */
  readonly uploadTimeout?: Duration.DurationInput | undefined
  /** the time zone of old lines without one, for example `Asia/Shanghai`; by default that of this machine */
  readonly timeZone?: string | undefined
  /**
   * what happens to lines of a kind that this program does not carry: they become dead letters, where they block
   * nothing
   *
   * - `deadLetter`, the default: an operator decides
   * - `wait`: the first start of a program that carries the kind appends them again
   */
  readonly unknownKind?: "deadLetter" | "wait" | undefined
  /**
   * seals delivered rows, so that nobody changes, removes or adds rows unseen; off by default. The key is a private
   * Ed25519 key, PEM, for example of `openssl genpkey -algorithm ed25519`. Needs `effect-audit migrate --proof`.
   */
  readonly proof?:
    | {
        readonly key: Redacted.Redacted
        /** the previous key, until a seal that it signs has named the new one */
        readonly previousKey?: Redacted.Redacted | undefined
      }
    | undefined
  /** shared with the other steps of a shutdown; by default its own, of 5 seconds */
  readonly shutdown?: Shutdown | undefined
}

/**
 * The delays after failures: 2, 4, 8 ... 256, 300, 300 seconds. Each is up to a fifth shorter, so that a fleet does not
 * come back at once. The jitter comes after the cap, so that delays at the cap differ, too, and none exceeds it.
 *
 * @category constants
 * @since 0.1.0
 */
export const backoff: Schedule.Schedule<Duration.Duration> = Schedule.exponential("2 seconds").pipe(
  Schedule.modifyDelay((_, delay) => Duration.min(delay, "300 seconds")),
  Schedule.jitteredWith({ min: 0.8, max: 1 })
)

/** How long the queue must be idle before delivered lines leave the disk: sooner would cost a file for each event. */
const COMPACT_AFTER = Duration.seconds(1)

const BATCH_RECORDS = 500

const CLOSED = new Error("the audit log is closed")

/** The shortest time between two looks at requests during a pass, milliseconds. */
const REQUESTS_INTERVAL = 1000

/**
 * How long a pass waits for requests, so that it delivers what a few of them append again. Many take seconds, and a
 * disk may never answer.
 */
const REQUESTS_WAIT = Duration.millis(100)

/**
 * Starts the worker. When the scope closes, it drains once more and stops.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options
): Effect.Effect<Scheduler["Type"], never, QueueFile | Uploader | Scope.Scope> =>
  containedScope(start(options))

const start = (
  options: Options
): Effect.Effect<Scheduler["Type"], never, QueueFile | Uploader | Scope.Scope> =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const shutdown = options.shutdown ?? (yield* makeShutdown("5 seconds"))
    const report = yield* reports.make(queue)
    const flushes = flushing.make(queue)
    const requests = yield* makeRequests(queue)
    const wakes = yield* Queue.sliding<void>(1)
    const anchor = yield* makeAnchor(options, queue)
    const proof = yield* makeProof(options, queue, yield* Uploader)
    const worker: Worker = {
      options,
      queue,
      report,
      flushes,
      requests,
      sealer: proof?.sealer,
      pass: requests.begin.pipe(
        Effect.zipRight(yield* makeDelivery(options, { report, flushes, requests, anchor, proof })),
        // what came last within the hour, or has no batch, although nothing follows
        anchor === undefined ? identity : Effect.zipLeft(anchor.hourly)
      ),
      wakes,
      isIdle: false,
      isCompacted: false,
      isStopped: false
    }
    if (proof !== undefined) {
      const { sealer } = proof
      yield* queue.onPermission((id, permission) => {
        const hasSaid = sealer.say(id, noticeOf(permission))
        if (!hasSaid && worker.isIdle) wake(worker)
        return hasSaid
      })
    }
    yield* queue.onAppend(() => {
      if (worker.isIdle) wake(worker)
    })

    let closed = false
    const annotated = Effect.annotateLogs("queue", visible(queue.directory))
    yield* Effect.acquireRelease(Effect.forkDaemon(Effect.interruptible(annotated(run(worker)))), (fiber) =>
      Effect.gen(function* () {
        // the last status and the close of the queue, which follow, need time, too
        const inTime = <E>(part: Effect.Effect<unknown, E>) => shutdown.within(part, { sparesTime: true })
        worker.isStopped = true
        yield* step("the stop of the worker", inTime(Effect.zipRight(Fiber.interrupt(fiber), requests.stop)))
        const drained = yield* step("the last delivery", inTime(annotated(drain(worker))))
        closed = true
        if (anchor !== undefined) yield* step("the last head", annotated(anchor.last))
        yield* step("the end of flushes", flushes.fail(flushes.waiting(), CLOSED))
        yield* step("the end of the worker", report.conclude(Option.contains(drained, true)))
      })
    )

    return {
      wake: Effect.sync(() => wake(worker)),
      flush: Effect.gen(function* () {
        const flush = yield* flushes.add
        // no worker is left to deliver
        if (closed) yield* flushes.fail([flush], CLOSED)
        else wake(worker)
        yield* Deferred.await(flush.done)
      }),
      status: report.status,
      changes: report.changes
    }
  })

/**
 * The worker over a queue and a database.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Scheduler, never, QueueFile | Uploader> =>
  Layer.scoped(Scheduler, make(options))

// ------------------------------------------------------------------------------------------------------ passes

/** The requests of other processes, carried out by the worker. */
interface Requests {
  /** Carries them out, and never fails: delivery must go on, since it may make the room that a request needs. */
  readonly carryOut: Effect.Effect<void>
  /** Carries them out in the background; waits at most {@link REQUESTS_WAIT}. */
  readonly begin: Effect.Effect<void>
  /** Stops the run that a pass has begun. */
  readonly stop: Effect.Effect<void>
  /** whether the last run was long enough ago */
  readonly areDue: () => boolean
}

const makeRequests = (queue: QueueFile["Type"]): Effect.Effect<Requests> =>
  Effect.map(Effect.clock, (clock) => {
    let seenAt = Number.NEGATIVE_INFINITY
    let failureCode: string | undefined

    const failed = (cause: Cause.Cause<QueueAccessError>) =>
      Effect.gen(function* () {
        const error = Option.getOrUndefined(Cause.failureOption(cause))
        const code = error?.code ?? "UNKNOWN"
        yield* Effect.logDebug("audit: a request was not carried out", cause)
        // once, not for each try
        if (failureCode === code) return
        failureCode = code
        yield* Effect.logWarning(
          `audit: a request about dead letters was not carried out (${code}); it is tried again with the next pass` +
            (error === undefined ? "" : `. ${error.message}`)
        )
      })

    const carryOut = Effect.suspend(() => {
      seenAt = monotonicMillis(clock)
      return Effect.matchCauseEffect(queue.carryOutRequests, {
        onSuccess: () =>
          Effect.sync(() => {
            failureCode = undefined
          }),
        onFailure: failed
      })
    })

    let begun: Fiber.RuntimeFiber<void> | undefined
    return {
      areDue: () => monotonicMillis(clock) - seenAt >= REQUESTS_INTERVAL,
      carryOut,
      begin: Effect.gen(function* () {
        const fiber = (begun = yield* Effect.forkDaemon(carryOut))
        yield* Effect.raceFirst(Fiber.await(fiber), Effect.sleep(REQUESTS_WAIT))
      }),
      stop: Effect.suspend(() => (begun === undefined ? Effect.void : Fiber.interrupt(begun)))
    }
  })

/** Makes the pass over this queue, with these options. */
const makeDelivery = (
  options: Options,
  {
    anchor,
    flushes,
    proof,
    report,
    requests
  }: Pick<Worker, "flushes" | "report" | "requests"> & {
    readonly anchor: Anchor | undefined
    readonly proof: Effect.Effect.Success<ReturnType<typeof makeProof>>
  }
) =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const codecs = new Map(options.events.map((event) => [event.kind, compile(event)]))
    const timeZone =
      options.timeZone === undefined ? undefined : DateTime.zoneUnsafeMakeNamed(options.timeZone)
    const uploader = yield* Uploader
    return yield* delivery.make({
      queue,
      uploader,
      proof,
      read: makeReader(makeDecoder(codecs, { timeZone }), queue.queueId),
      maxRecords: options.batchRecords ?? BATCH_RECORDS,
      maxBytes: options.batchBytes ?? 4 * 1024 * 1024,
      uploadTimeout: Duration.decode(options.uploadTimeout ?? "10 minutes"),
      isAwaited: flushes.isAwaited,
      onCommit: Effect.fnUntraced(function* (at, delivered) {
        if (delivered) yield* report.delivered(at)
        if (anchor !== undefined) yield* anchor.hourly
        const reached = (yield* queue.progress).settled
        yield* flushes.complete((flush) => flush.target <= reached)
        // under load a pass may never end
        if (requests.areDue()) yield* requests.begin
      })
    })
  })

// ------------------------------------------------------------------------------------------------------- proof

/** Makes the sealer of this queue; undefined without the option `proof`. `AuditLayer` has checked key and uploader. */
const makeProof = ({ proof }: Options, queue: QueueFile["Type"], { sealing }: Uploader["Type"]) =>
  Effect.gen(function* () {
    if (proof === undefined) return undefined
    const key = Either.getOrElse(sealingKey(proof.key), () => undefined)
    if (key === undefined || sealing === undefined)
      return yield* Effect.dieMessage("proof needs a key, and an uploader that seals")
    const previousKey =
      proof.previousKey === undefined ? undefined : Either.getOrUndefined(sealingKey(proof.previousKey))
    const { position, queueId, seal } = queue
    return {
      sealing,
      sealer: new Sealer({ key, previousKey, sealing, queueId, last: yield* seal, position: yield* position })
    }
  })

const noticeOf = (permission: Permission): Notice =>
  permission.action === "erase"
    ? { word: "erase", kind: permission.kind, eventIds: permission.events }
    : { word: "purge", chain: permission.chain, before: permission.before }

/** Logs the last head, hourly and at the end; `effect-audit prove --anchors` reads the log. */
interface Anchor {
  readonly hourly: Effect.Effect<void>
  readonly last: Effect.Effect<void>
}

const ANCHOR_INTERVAL = 3_600_000

const makeAnchor = ({ proof }: Options, queue: QueueFile["Type"]): Effect.Effect<Anchor | undefined> =>
  Effect.map(Effect.clock, (clock) => {
    if (proof === undefined) return undefined
    let loggedAt = Number.NEGATIVE_INFINITY
    let logged: string | undefined
    const last = Effect.flatMap(queue.seal, (seal) => {
      if (seal === undefined || seal.head === logged) return Effect.void
      loggedAt = monotonicMillis(clock)
      logged = seal.head
      return Effect.logInfo(`audit: sealed up to chain=${seal.chain} number=${seal.number} head=${seal.head}`)
    })
    return {
      last,
      hourly: Effect.suspend(() => (monotonicMillis(clock) - loggedAt < ANCHOR_INTERVAL ? Effect.void : last))
    }
  })

// ------------------------------------------------------------------------------------------------------ worker

/** The parts and the state of the worker's fiber. */
interface Worker {
  readonly options: Options
  readonly queue: QueueFile["Type"]
  readonly report: reports.Report
  readonly flushes: flushing.Flushes
  readonly requests: Requests
  /** carries out requests and delivers waiting events; returns how many batches */
  readonly pass: Effect.Effect<number, delivery.PassError>
  /** undefined without the option `proof` */
  readonly sealer: Sealer | undefined
  readonly wakes: Queue.Queue<void>
  /** appends wake the worker only while it is idle: not during a pass, which sees them, and not during a backoff */
  isIdle: boolean
  /** whether delivered lines have left the disk */
  isCompacted: boolean
  /** no pass begins any more, however late the interruption comes */
  isStopped: boolean
}

const wake = (worker: Worker): void => {
  worker.isIdle = false
  Queue.unsafeOffer(worker.wakes, undefined)
}

/** One pass, reported. */
const attempt = (worker: Worker): Effect.Effect<Exit.Exit<number, delivery.PassError>> =>
  Effect.gen(function* () {
    const { flushes, pass, report, requests, sealer } = worker
    const served = flushes.waiting()
    yield* report.began
    const exit = yield* Effect.exit(pass)
    // a seal has recorded permissions, so their requests can be removed
    if (sealer?.hasSaid === true) yield* requests.carryOut
    // a failed pass may have delivered some batches
    if (Exit.isFailure(exit) || exit.value > 0) worker.isCompacted = false
    if (Exit.isSuccess(exit)) {
      yield* report.succeeded
      // not flushes that came during the pass: it may have looked before their events were appended
      yield* flushes.complete((flush) => served.includes(flush))
    } else {
      // if the cause has an interruption, then it is not that of this fiber, which would not run this
      yield* fail(worker, exit.cause, served)
    }
    return exit
  })

const fail = (
  { flushes, report }: Worker,
  cause: Cause.Cause<delivery.PassError>,
  served: ReadonlyArray<flushing.Flush>
) => {
  const error = reports.errorOf(cause)
  return Effect.zipRight(report.failed(error), flushes.fail(served, error))
}

/** Waits for a delay or a wake, whichever comes first; returns whether it was a wake. */
const waitFor = ({ wakes }: Worker, delay: Effect.Effect<unknown>) =>
  Effect.raceFirst(Effect.as(delay, false), Effect.as(Queue.take(wakes), true))

/** Waits for an append or for the poll; meanwhile delivered lines leave the disk. */
const waitIdle = (worker: Worker) =>
  Effect.gen(function* () {
    const { options, queue } = worker
    worker.isIdle = true
    const { next, settled } = yield* queue.progress
    // a permission or an append may have come after the pass had looked, and before `isIdle` was set
    if (worker.sealer?.isAsked === true) return
    if (next > settled) {
      const rest = yield* Effect.either(queue.take({ maxRecords: 1, maxBytes: 1 }))
      if (Either.isLeft(rest) || rest.right.records.length > 0) return
    }
    if (!worker.isCompacted) {
      // a wake that arrives with the timer is lost by the race (Queue.take), but it has cleared `isIdle`
      if ((yield* waitFor(worker, Effect.sleep(COMPACT_AFTER))) || !isStillIdle(worker)) return
      // if something cannot be removed, then the next poll tries again: on a full disk no append may wake the worker
      worker.isCompacted = yield* Effect.catchAll(queue.compact, (error) =>
        Effect.as(Effect.logDebug("audit: compaction failed", error), false)
      )
    }
    yield* waitFor(worker, Effect.sleep(options.pollInterval ?? "60 seconds"))
  }).pipe(
    Effect.ensuring(
      Effect.sync(() => {
        worker.isIdle = false
      })
    )
  )

const isStillIdle = ({ isIdle }: Worker): boolean => isIdle

/** Delivers until it is interrupted. */
const run = (worker: Worker) =>
  Effect.gen(function* () {
    const { flushes, options, queue, report, requests } = worker
    if (options.unknownKind === "wait") {
      yield* step("the retry of unknown kinds", Effect.ignoreLogged(retryKnown(worker)))
    }
    yield* Effect.fork(supervised("the watch for requests", watchRequests({ queue, report, requests })))
    const driver = yield* Schedule.driver(
      Schedule.modifyDelayEffect(backoff, (_, delay) => Effect.as(report.backsOff(delay), delay))
    )
    // if the schedule gives no delay, then the longest one
    const pause = Effect.catchAllCause(driver.next(undefined), () => Effect.sleep("300 seconds"))
    const deliverOn = Effect.gen(function* () {
      let exit = yield* attempt(worker)
      if (Exit.isFailure(exit)) {
        // a flush tries at once; if it fails, then it neither lengthens nor restarts the backoff
        const timer = yield* Effect.fork(pause)
        while (Exit.isFailure(exit) && (yield* waitFor(worker, Fiber.await(timer)))) {
          exit = yield* attempt(worker)
        }
        yield* Fiber.interrupt(timer)
      }
      if (Exit.isSuccess(exit)) {
        yield* driver.reset
        yield* waitIdle(worker)
      }
    })
    // if anything dies, then it counts as a failed attempt, and the worker goes on by its schedule
    const supervise = Effect.catchAllCause(deliverOn, (cause) =>
      Effect.zipRight(
        step("the report of a defect", fail(worker, cause, flushes.waiting())),
        waitFor(worker, pause)
      )
    )
    while (!worker.isStopped) yield* supervise
  })

/** Appends letters of an unknown kind again, if this program carries the kind. */
const retryKnown = ({ options, queue }: Worker) => {
  const kinds = new Set(options.events.map(({ kind }) => kind))
  return queue.retry(
    (letter) => letter.class === "unknownKind" && letter.kind !== undefined && kinds.has(letter.kind),
    "effect-audit"
  )
}

/** Runs beside delivery: a request waits for no poll or backoff, and starts no attempt. */
const watchRequests = ({ queue, report, requests }: Pick<Worker, "queue" | "report" | "requests">) =>
  queue.requests.pipe(
    Stream.runForEach(() =>
      // the books have changed, so the status is emitted again
      Effect.zipRight(requests.carryOut, report.repeat)
    ),
    Effect.catchAll((error) =>
      Effect.logDebug("audit: requests are seen at the next pass only, since they cannot be watched", error)
    )
  )

/** The last delivery, after the worker has stopped. */
const drain = (worker: Worker) =>
  Effect.gen(function* () {
    const { queue } = worker
    const before = yield* queue.progress
    if (before.next > before.settled) yield* attempt(worker)
    // events on their way to the disk, whose callers may have ended
    yield* queue.awaitAppends
    const { next, settled } = yield* queue.progress
    if (next > Math.max(before.next, settled)) yield* attempt(worker)
  })
