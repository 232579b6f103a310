/**
 * Measuring: puts the numbers of an audit log into Effect's metrics, at most about once a second. While nothing happens
 * and nothing waits, it measures only at each poll.
 *
 * @since 0.1.0
 */
import { Clock, type Duration, Effect, Layer, Metric, Queue, type Scope, Stream } from "effect"
import { containedScope, step, supervised } from "../internal/contained.js"
import * as metrics from "../internal/metrics.js"
import { Disk } from "../services/Disk.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler } from "../services/Scheduler.js"

const INTERVAL = "1 second"

/**
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: {
  readonly tally: metrics.Tally
  /** how often an idle queue is measured, since its free disk may change; 60 seconds by default */
  readonly pollInterval?: Duration.DurationInput | undefined
}): Layer.Layer<never, never, Disk | QueueFile | Scheduler> =>
  Layer.scopedDiscard(containedScope(measure(options)))

const measure = (
  options: Parameters<typeof layer>[0]
): Effect.Effect<void, never, Disk | QueueFile | Scheduler | Scope.Scope> =>
  Effect.gen(function* () {
    const { pollInterval = "60 seconds", tally } = options
    const disk = yield* Disk
    const queue = yield* QueueFile
    const scheduler = yield* Scheduler
    const own = metrics.ofQueue(queue.directory)

    /** The totals of counters at the last sample. */
    const raised = new Map<Metric.Metric.Counter<number>, number>()
    const raise = (counter: Metric.Metric.Counter<number>, total: number) =>
      Effect.suspend(() => {
        const before = raised.get(counter) ?? 0
        raised.set(counter, total)
        return Metric.incrementBy(counter, Math.max(0, total - before))
      })

    const appends = [...tally.all].map(([kind, counts]) => ({
      counts,
      appended: Metric.tagged(own(metrics.appended), "kind", kind),
      failed: new Map<string, Metric.Metric.Counter<number>>(),
      failure: Metric.tagged(own(metrics.appendFailures), "kind", kind)
    }))
    const sampleAppends = Effect.forEach(
      appends,
      ({ appended, counts, failed, failure }) =>
        Effect.gen(function* () {
          if (counts.appended > 0) yield* raise(appended, counts.appended)
          for (const [error, count] of Object.entries(counts.failed)) {
            const counter = failed.get(error) ?? Metric.tagged(failure, "error", error)
            failed.set(error, counter)
            yield* raise(counter, count)
          }
        }),
      { discard: true }
    )

    const states = metrics.STATES.map((state) => ({
      state,
      gauge: Metric.tagged(own(metrics.state), "state", state)
    }))
    const { delivered: deliveredBefore } = yield* Effect.orElseSucceed(queue.status, () => ({
      delivered: 0
    }))
    const deliveredEvents = own(metrics.deliveredEvents)
    const gauges = {
      waiting: own(metrics.waitingEvents),
      waitingBytes: own(metrics.waitingBytes),
      dead: own(metrics.deadLetters),
      missing: own(metrics.missingEvents)
    }
    const oldestAge = own(metrics.oldestAge)
    const freeBytes = own(metrics.freeBytes)
    const sealNumber = own(metrics.sealNumber)
    const forkedChain = own(metrics.forkedChain)

    const sampleQueue = Effect.gen(function* () {
      const books = yield* queue.status
      for (const key of ["waiting", "waitingBytes", "dead", "missing"] as const) {
        yield* Metric.set(gauges[key], books[key])
      }
      if (books.seal !== undefined) {
        yield* Metric.set(sealNumber, books.seal.number)
        yield* Metric.set(forkedChain, books.seal.forked ?? 0)
      }
      const now = yield* Clock.currentTimeMillis
      yield* Metric.set(oldestAge, books.oldest === undefined ? 0 : Math.max(0, now - books.oldest) / 1000)
      yield* raise(deliveredEvents, books.delivered - deliveredBefore)
      const delivery = yield* scheduler.status
      for (const { gauge, state } of states) yield* Metric.set(gauge, state === delivery.state ? 1 : 0)
      yield* Metric.set(freeBytes, (yield* disk.volume(queue.directory)).freeBytes)
    })

    const sample = Effect.zipRight(
      sampleAppends,
      Effect.catchAll(sampleQueue, (error) => Effect.logDebug("audit: the queue was not measured", error))
    )
    // adds what was counted since the last sample
    yield* Effect.addFinalizer(() => step("the last measuring", sampleAppends))

    const changes = yield* Queue.sliding<void>(1)
    let changed = true
    const change = () => {
      if (changed) return
      changed = true
      Queue.unsafeOffer(changes, undefined)
    }
    yield* queue.onAppend(change)
    tally.onFailure(change)
    yield* Stream.runForEach(scheduler.changes, () => Effect.sync(change)).pipe(
      (keep) => supervised("the watch for changes", keep),
      Effect.forkScoped
    )

    const rest = Effect.flatMap(queue.progress, ({ next, settled }) =>
      // while events wait, the age of the oldest one grows
      changed || next > settled
        ? Effect.sleep(INTERVAL)
        : Effect.raceFirst(Queue.take(changes), Effect.sleep(pollInterval))
    )
    const keep = Effect.suspend(() => {
      changed = false
      return Queue.takeAll(changes).pipe(Effect.zipRight(sample), Effect.zipRight(rest))
    }).pipe(Effect.forever)
    yield* Effect.forkScoped(supervised("the measuring", keep))
  })
