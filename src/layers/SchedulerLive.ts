/**
 * The worker: a fiber that delivers what waits, backs off when it cannot, and drains once more at shutdown.
 *
 * @since 0.1.0
 */
import {
  Array as Arr,
  Cause,
  Data,
  DateTime,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Metric,
  Option,
  Queue,
  Redacted,
  Schedule,
  Stream,
  SubscriptionRef
} from "effect"
import type { Scope } from "effect"
import { containedScope, step, supervised } from "../internal/contained.js"
import * as delivery from "../internal/delivery/pass.js"
import * as metrics from "../internal/metrics.js"
import { monotonicMillis } from "../internal/monotonic.js"
import { makeReader } from "../internal/readEvent.js"
import { make as makeShutdown, type Shutdown } from "../internal/shutdown.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Either } from "../schema/Effect3.js"
import { FlushError } from "../schema/Errors.js"
import { compile, makeDecoder } from "../schema/Line.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler, type DeliveryFailure, type DeliveryStatus } from "../services/Scheduler.js"
import { Uploader } from "../services/Uploader.js"

/**
 * How the queue is delivered. All have defaults but the kinds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** the kinds of events that may stand in the queue */
  readonly events: ReadonlyArray<AuditEvent.Any>
  /** at most so many rows in a batch; 500 by default */
  readonly batchRecords?: number | undefined
  /** at most about so many bytes in a batch; 4 MiB by default */
  readonly batchBytes?: number | undefined
  /** how often an idle worker looks, beside being woken by appends; 60 seconds by default */
  readonly pollInterval?: Duration.DurationInput | undefined
  /**
   * an upload that has not answered by then is given up, and its events are sent again, fewer at a time; 10 minutes by
   * default. It is there for uploaders of your own that never answer: those of this package bound each statement.
   */
  readonly uploadTimeout?: Duration.DurationInput | undefined
  /** the time zone, for example `Asia/Shanghai`, of old lines that carry none; this machine's by default */
  readonly timeZone?: string | undefined
  /**
   * what becomes of lines of a kind that this program does not carry: `deadLetter`, the default, leaves them to an
   * operator; `wait` keeps them among the dead letters too, where they block nobody, and appends them again at the
   * first start of a program that carries the kind
   */
  readonly unknownKind?: "deadLetter" | "wait" | undefined
  /** shared with the other steps of a shutdown; 5 seconds of its own by default */
  readonly shutdown?: Shutdown | undefined
}

/**
 * 2, 4, 8 ... 256, 300, 300 seconds at most; each up to a fifth shorter, so that a fleet does not come back at once.
 * The jitter comes after the cap, so that the delays at the cap differ as well and none exceeds it.
 *
 * @category constants
 * @since 0.1.0
 */
export const backoff: Schedule.Schedule<Duration.Duration> = Schedule.exponential("2 seconds").pipe(
  Schedule.modifyDelay((_, delay) => Duration.min(delay, "300 seconds")),
  Schedule.jitteredWith({ min: 0.8, max: 1 })
)

/** Delivered lines leave the disk when the queue was idle for this long: sooner would cost a file for each event. */
const COMPACT_AFTER = Duration.seconds(1)

const CLOSED = new Error("the audit log is closed")

const UNFINISHED: DeliveryFailure = {
  class: "transient",
  code: "ETIMEDOUT",
  reason: "the last delivery did not end within shutdownTimeout; the next start delivers what waits"
}

/** How often requests are looked for during a pass, in milliseconds. */
const REQUESTS_INTERVAL = 1000

/**
 * Starts the worker; it stops, after a last drain, when the scope closes.
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
    const uploader = yield* Uploader
    const clock = yield* Effect.clock
    const shutdown = options.shutdown ?? (yield* makeShutdown("5 seconds"))
    const pollInterval = Duration.decode(options.pollInterval ?? "60 seconds")
    const status = yield* SubscriptionRef.make<DeliveryStatus>({
      state: "idle",
      failure: undefined,
      failures: 0,
      nextTry: undefined,
      lastDelivery: undefined
    })
    const update = (change: Partial<DeliveryStatus>) =>
      SubscriptionRef.update(status, (now) => ({ ...now, ...change }))

    const own = metrics.ofQueue(queue.directory)
    const measures = {
      failures: own(metrics.deliveryFailures),
      backoff: own(metrics.backoff)
    }

    const annotated = Effect.annotateLogs("queue", queue.directory)

    // ---------------------------------------------------------------------------------------------------- pass

    let requestsSeenAt = Number.NEGATIVE_INFINITY
    let requestFailure: string | undefined
    /** Never fails: delivery must not wait for a request, since it may be what makes room for it. */
    const carryOutRequests = Effect.suspend(() => {
      requestsSeenAt = monotonicMillis(clock)
      return Effect.matchCauseEffect(queue.carryOutRequests, {
        onSuccess: () =>
          Effect.sync(() => {
            requestFailure = undefined
          }),
        onFailure: (cause) =>
          Effect.gen(function* () {
            const code = codeOf(Option.getOrUndefined(Cause.failureOption(cause)))
            yield* Effect.logDebug("audit: a request was not carried out", cause)
            // once, not for each try
            if (requestFailure === code) return
            requestFailure = code
            yield* Effect.logWarning(
              `audit: a request about dead letters was not carried out (${code}); it is tried again with the next pass`
            )
          })
      })
    })

    const codecs = new Map(options.events.map((event) => [event.kind, compile(event)]))
    const timeZone =
      options.timeZone === undefined ? undefined : DateTime.zoneUnsafeMakeNamed(options.timeZone)
    const deliver = yield* delivery.make({
      queue,
      uploader,
      read: makeReader(makeDecoder(codecs, { timeZone }), queue.queueId),
      maxRecords: options.batchRecords ?? 500,
      maxBytes: options.batchBytes ?? 4 * 1024 * 1024,
      uploadTimeout: Duration.decode(options.uploadTimeout ?? "10 minutes"),
      isAwaited: (sequence) => flushes.some(({ target }) => target <= sequence),
      onCommit: Effect.fnUntraced(function* (at, delivered) {
        if (delivered) yield* update({ lastDelivery: at })
        const reached = (yield* queue.progress).settled
        yield* completeFlushes((flush) => flush.target <= reached)
        // under load a pass may never end
        if (monotonicMillis(clock) - requestsSeenAt >= REQUESTS_INTERVAL) yield* carryOutRequests
      })
    })

    const pass = Effect.zipRight(carryOutRequests, deliver)

    // --------------------------------------------------------------------------------------------------- flush

    interface Flush {
      readonly target: number
      readonly done: Deferred.Deferred<void, FlushError>
    }
    let flushes: Array<Flush> = []

    const completeFlushes = (isComplete: (flush: Flush) => boolean) =>
      Effect.suspend(() => {
        const [open, complete] = Arr.partition(flushes, isComplete)
        flushes = open
        return Effect.forEach(complete, ({ done }) => Deferred.succeed(done, undefined), { discard: true })
      })

    const failFlushes = (served: ReadonlyArray<Flush>, cause: unknown) =>
      Effect.gen(function* () {
        const [open, failed] = Arr.partition(flushes, (flush) => served.includes(flush))
        flushes = open
        const { next, settled } = yield* queue.progress
        const error = new FlushError({ waiting: next - settled, cause })
        yield* Effect.forEach(failed, ({ done }) => Deferred.fail(done, error), { discard: true })
      })

    // -------------------------------------------------------------------------------------------------- worker

    const wakes = yield* Queue.sliding<void>(1)
    /** appends wake the worker only while this holds: neither during a pass, which sees them, nor during a backoff */
    let idle = false
    const isIdle = () => idle
    const wake = () => {
      idle = false
      Queue.unsafeOffer(wakes, undefined)
    }
    let compacted = false

    const attempt: Effect.Effect<Exit.Exit<number, delivery.PassError>> = Effect.gen(function* () {
      const served = [...flushes]
      if ((yield* SubscriptionRef.get(status)).failure === undefined) yield* update({ state: "delivering" })
      const exit = yield* Effect.exit(pass)
      // a pass that failed in the end may have delivered
      if (Exit.isFailure(exit) || exit.value > 0) compacted = false
      if (Exit.isSuccess(exit)) {
        const before = yield* SubscriptionRef.get(status)
        if (before.failure !== undefined) yield* Effect.logInfo("audit: delivery has recovered")
        yield* update({ state: "idle", failure: undefined, failures: 0, nextTry: undefined })
        yield* Metric.set(measures.backoff, 0)
        // not those that came during the pass: it may have looked before what they wait for was appended
        yield* completeFlushes((flush) => served.includes(flush))
      } else {
        // an interruption in the cause is not that of this fiber, which would not have come here
        yield* fail(exit.cause, served)
      }
      return exit
    })

    const fail = (cause: Cause.Cause<delivery.PassError>, served: ReadonlyArray<Flush>) =>
      Effect.gen(function* () {
        const error = Option.getOrElse(Cause.failureOption(cause), () => new Defect({ defect: cause }))
        yield* reportFailure(error)
        yield* failFlushes(served, error)
      })

    const reportFailure = (error: delivery.PassError | Defect) =>
      Effect.gen(function* () {
        const failure = failureOf(error)
        const before = yield* SubscriptionRef.get(status)
        const state = stateOf(failure)
        yield* update({ state, failure, failures: before.failures + 1 })
        // once for each change of state, not for each retry
        if (before.state !== state || before.failure?.code !== failure.code) {
          const { next, settled } = yield* queue.progress
          const text = `audit: ${next - settled} events wait on disk: ${failure.reason} (${failure.code})`
          yield* state === "needsOperator" ? Effect.logError(text) : Effect.logWarning(text)
        }
        const original = originalOf(error)
        const details = original === undefined ? [error] : [error, original]
        yield* Effect.logDebug("audit: delivery failed", ...details)
        const ofClass = Metric.tagged(measures.failures, "class", failure.class)
        yield* Metric.increment(Metric.tagged(ofClass, "code", failure.code))
      })

    /** Waits for a time or a wake, whichever comes first; whether it was a wake. */
    const waitFor = (delay: Effect.Effect<unknown>) =>
      Effect.raceFirst(Effect.as(delay, false), Effect.as(Queue.take(wakes), true))

    const waitIdle = Effect.gen(function* () {
      idle = true
      const { next, settled } = yield* queue.progress
      // appended after the pass had looked, before `idle` was set
      if (next > settled) {
        const rest = yield* Effect.either(queue.take({ maxRecords: 1, maxBytes: 1 }))
        if (Either.isLeft(rest) || rest.right.records.length > 0) return
      }
      if (!compacted) {
        // a wake that arrives with the timer is lost by the race (Queue.take), but it has cleared `idle`
        if ((yield* waitFor(Effect.sleep(COMPACT_AFTER))) || !isIdle()) return
        // what could not be removed is tried again with the next poll: nothing else may come, if the disk is full
        compacted = yield* Effect.catchAll(queue.compact, (error) =>
          Effect.as(Effect.logDebug("audit: compaction failed", error), false)
        )
      }
      yield* waitFor(Effect.sleep(pollInterval))
    }).pipe(Effect.ensuring(Effect.sync(() => (idle = false))))

    const schedule = Schedule.modifyDelayEffect(backoff, (_, delay) =>
      Effect.suspend(() =>
        update({ nextTry: clock.unsafeCurrentTimeMillis() + Duration.toMillis(delay) }).pipe(
          Effect.zipRight(Metric.set(measures.backoff, Duration.toSeconds(delay))),
          Effect.as(delay)
        )
      )
    )

    const kinds = new Set(options.events.map(({ kind }) => kind))
    const retryKnown = queue.retry(
      (letter) => letter.class === "unknownKind" && letter.kind !== undefined && kinds.has(letter.kind),
      "effect-audit"
    )

    /** Runs beside delivery: a request waits for no poll or backoff, and starts no attempt. */
    const watchRequests = queue.requests.pipe(
      Stream.runForEach(() =>
        // whoever looks at the state hears of it
        Effect.zipRight(carryOutRequests, update({}))
      ),
      Effect.catchAll((error) =>
        Effect.logDebug("audit: requests are seen at the next pass only, since they cannot be watched", error)
      )
    )

    const worker = Effect.gen(function* () {
      if (options.unknownKind === "wait") {
        yield* step("the retry of unknown kinds", Effect.ignoreLogged(retryKnown))
      }
      yield* Effect.fork(supervised("the watch for requests", watchRequests))
      const driver = yield* Schedule.driver(schedule)
      // without a delay of the schedule, the longest of it
      const pause = Effect.catchAllCause(driver.next(undefined), () => Effect.sleep("300 seconds"))
      const deliverOn = Effect.gen(function* () {
        let exit = yield* attempt
        if (Exit.isFailure(exit)) {
          // a flush tries at once, but neither lengthens the backoff when it fails, nor starts it anew
          const timer = yield* Effect.fork(pause)
          while (Exit.isFailure(exit) && (yield* waitFor(Fiber.await(timer)))) exit = yield* attempt
          yield* Fiber.interrupt(timer)
        }
        if (Exit.isSuccess(exit)) {
          yield* driver.reset
          yield* waitIdle
        }
      })
      // if anything dies, then it is a failure like those of the database, and the worker goes on by its schedule
      const supervise = Effect.catchAllCause(deliverOn, (cause) =>
        Effect.zipRight(step("the report of a defect", fail(cause, [...flushes])), waitFor(pause))
      )
      for (;;) yield* supervise
    })

    yield* queue.onAppend(() => {
      if (idle) wake()
    })

    let closed = false
    const drain = Effect.gen(function* () {
      const before = yield* queue.progress
      if (before.next > before.settled) yield* attempt
      // events on their way to the disk, whose callers may be gone already
      yield* queue.awaitAppends
      const { next, settled } = yield* queue.progress
      if (next > Math.max(before.next, settled)) yield* attempt
    })

    /** The last status, for whoever looks when this process is gone. */
    const conclude = Effect.fnUntraced(function* (hasDrained: boolean) {
      const { next, settled } = yield* queue.progress
      const { failure = hasDrained ? undefined : UNFINISHED } = yield* SubscriptionRef.get(status)
      if (next === settled || failure === undefined) {
        yield* update({ state: "idle", failure: undefined, failures: 0, nextTry: undefined })
      } else {
        yield* update({ state: stateOf(failure), failure, nextTry: undefined })
      }
      if (next > settled) {
        yield* Effect.logWarning(
          `audit: ${next - settled} events wait on disk for the next start (${queue.directory})`
        )
      }
    })

    yield* Effect.acquireRelease(Effect.forkDaemon(Effect.interruptible(annotated(worker))), (fiber) =>
      Effect.gen(function* () {
        // what follows needs time, too: the last status, and the close of the queue
        const inTime = <E>(part: Effect.Effect<unknown, E>) => shutdown.within(part, { sparesTime: true })
        yield* step("the stop of the worker", inTime(Fiber.interrupt(fiber)))
        const drained = yield* step("the last delivery", inTime(annotated(drain)))
        closed = true
        yield* step("the end of flushes", failFlushes([...flushes], CLOSED))
        yield* step("the end of the worker", conclude(Option.contains(drained, true)))
      })
    )

    return {
      wake: Effect.sync(wake),
      flush: Effect.gen(function* () {
        const { next, settled } = yield* queue.progress
        if (closed) return yield* new FlushError({ waiting: next - settled, cause: CLOSED })
        const done = yield* Deferred.make<void, FlushError>()
        const flush: Flush = { target: next, done }
        flushes.push(flush)
        wake()
        yield* Deferred.await(done)
      }),
      status: SubscriptionRef.get(status),
      changes: status.changes
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

const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error ? String(error.code) : "UNKNOWN"

/** What no type tells of: a fault of this package, or of a disk of the program's own. */
class Defect extends Data.TaggedError("Defect")<{ readonly defect: Cause.Cause<unknown> }> {
  override get message(): string {
    return "delivery stopped unexpectedly; nothing is lost. Report it, with the log at Debug; it is tried again"
  }
}

const stateOf = (failure: DeliveryFailure) => (failure.class === "operator" ? "needsOperator" : "offline")

/** What is behind it, for the log at Debug alone: its text may echo a row. */
const originalOf = (error: delivery.PassError | Defect): unknown => {
  if (error._tag === "Defect") return error.defect
  return error._tag === "UploadError" && error.cause !== undefined ? Redacted.value(error.cause) : undefined
}

const failureOf = (error: delivery.PassError | Defect): DeliveryFailure => {
  switch (error._tag) {
    case "UploadError":
      return { class: error.class, code: error.code, reason: error.reason }
    case "QueueAccessError":
      // the disk does not mend itself
      return { class: "operator", code: error.code, reason: error.message }
    case "Defect":
      return { class: "operator", code: "DEFECT", reason: error.message }
  }
}
