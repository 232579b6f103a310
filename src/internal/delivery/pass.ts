/**
 * One pass over the queue: batches are decoded, uploaded, and left behind by the cursor, until nothing waits.
 *
 * The generators that run for each batch stand outside of what a worker makes for itself: see internal/delivery/pipeline.ts.
 */
import { Array as Arr, Duration, Effect, identity, Metric, Number as Num } from "effect"
import type { Scope } from "effect"
import { Either } from "../../schema/Effect3.js"
import { idOf, isBefore, type Position } from "../../schema/Position.js"
import type { Batch, Refusal } from "../../services/QueueFile.js"
import type { LastSeal } from "../../services/Sealing.js"
import type { Uploader } from "../../services/Uploader.js"
import { Concatenation } from "../lazySequence.js"
import * as metrics from "../metrics.js"
import { monotonicMillis } from "../monotonic.js"
import { turnEventLoop } from "../turnEventLoop.js"
import * as watchdog from "../watchdog.js"
import { answerOf, failureOf, uploadOf } from "./answer.js"
import {
  bytesIn,
  Delivery,
  type Events,
  type Group,
  learn,
  type PassError,
  type Prepared,
  type Settings,
  type Settled,
  spanned,
  withoutOutcomes
} from "./delivery.js"
import * as pipeline from "./pipeline.js"
import { sealAsked, uploadSealed } from "./sealed.js"

export type { PassError }

/** Makes the pass, which may be repeated, but not run twice at once; its result is how many batches it were. */
export const make = (
  settings: Settings
): Effect.Effect<Effect.Effect<number, PassError>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const own = metrics.ofQueue(settings.queue.directory)
    const delivery = new Delivery(settings, {
      clock: yield* Effect.clock,
      tracer: yield* Effect.tracer,
      labels: yield* metrics.labels,
      batches: own(metrics.batches),
      batchDuration: own(metrics.batchDuration)
    })
    delivery.watch = yield* watchdog.make({
      current: () => delivery.underWay[0],
      timeoutMillis: Duration.toMillis(settings.uploadTimeout),
      expire: (upload) => Effect.sync(() => delivery.expire(upload))
    })
    return run(delivery)
  })

const run = (delivery: Delivery): Effect.Effect<number, PassError> =>
  Effect.suspend(() => {
    const { maxBytes, proof, queue, uploader } = delivery.settings
    const { factor } = delivery
    let from: Position | undefined
    const delivered = pipeline.run<Prepared, Settled, PassError>({
      make: Effect.flatMap(
        Effect.suspend(() =>
          queue.take(
            from === undefined
              ? { maxRecords: factor * delivery.maxRecords, maxBytes: factor * maxBytes }
              : { from, maxRecords: delivery.maxRecords, maxBytes }
          )
        ),
        (batch) => {
          from = batch.end
          return batch.records.length === 0 ? Effect.succeed(undefined) : prepare(delivery, batch)
        }
      ),
      work: (prepared, takeNext) =>
        proof === undefined ? upload(delivery, prepared) : uploadSealed(delivery, prepared, proof, takeNext),
      // each seal follows the one before
      concurrency: proof === undefined ? concurrencyOf(uploader) : 1,
      onStart: (giveUp) => {
        delivery.underWay = []
        delivery.giveUp = giveUp
      },
      // the database need not wait for the cursor
      finish: (settled) => settle(delivery, settled)
    })
    const settleRest = settleAll(delivery)
    return delivered.pipe(
      Effect.ensuring(Effect.sync(() => (delivery.underWay = []))),
      Effect.zipLeft(settleRest),
      proof === undefined ? identity : Effect.zipLeft(sealAsked(delivery, proof)),
      Effect.onError(() => Effect.ignore(settleRest))
    )
  })

/** A number that is none would start no worker, or endlessly many. */
const concurrencyOf = ({ concurrency }: Uploader["Type"]): number =>
  Number.isSafeInteger(concurrency) && concurrency > 0 ? concurrency : 1

// -------------------------------------------------------------------------------------------------- decoding

const prepare = Effect.fnUntraced(function* ({ settings }: Delivery, batch: Batch) {
  const groups = new Map<string, Events>()
  const refusals: Array<Refusal> = []
  for (let place = 0; place < batch.records.length; place++) {
    if (place % SLICE_RECORDS === 0 && place > 0) yield* turnEventLoop
    const record = batch.records.at(place)!
    const event = settings.read(record)
    if (Either.isLeft(event)) {
      refusals.push({ record, ...event.left })
      continue
    }
    const { definition } = event.right
    let group = groups.get(definition.kind)
    if (group === undefined) groups.set(definition.kind, (group = { definition, places: [], events: [] }))
    group.places.push(place)
    group.events.push(event.right)
  }
  if (batch.records.length > SLICE_RECORDS) yield* turnEventLoop
  const made = withUploads(groups.values(), settings)
  const { proof } = settings
  const part = proof === undefined || made.length === 0 ? undefined : proof.sealing.prepare(made)
  const prepared: Prepared = { batch, groups: made, refusals, part }
  return prepared
})

/** What can be made of the uploads beforehand is made here, while the database works on the batch before. */
const withUploads = (all: Iterable<Events>, { proof, uploader }: Settings): Array<Group> => {
  const groups: Array<Group> = []
  for (const { definition, events, places } of all) {
    const upload = proof === undefined ? uploadOf(uploader, { definition, events }) : undefined
    groups.push({ definition, places, events, upload })
  }
  return groups
}

/** So many lines are decoded at a time, within about a millisecond: then the program, and the database, are heard. */
const SLICE_RECORDS = 250

// ------------------------------------------------------------------------------------------------- uploading

const upload = Effect.fnUntraced(function* (delivery: Delivery, { batch, groups, refusals }: Prepared) {
  const { instruments, settings } = delivery
  const refused = [...refusals]
  const seconds: Array<number> = []
  let rows = 0
  for (const group of groups) {
    const { definition } = group
    const { kind } = definition
    const open = withoutOutcomes(delivery, group, batch, refused)
    const { places } = open
    if (places.length > 0) {
      const made = open === group ? group.upload : undefined
      const sent = made ?? uploadOf(settings.uploader, open)
      const startedAt = instruments.clock.unsafeCurrentTimeNanos()
      const underWay = delivery.begin(batch.records.length)
      // the handlers run unless this fiber is interrupted: an interruption in the cause is the uploader's own
      const { rejected } = yield* Effect.matchCauseEffect(
        spanned(delivery, sent, batch, kind, () => places.length),
        {
          onSuccess: (answer) => {
            delivery.end(underWay)
            return answerOf(answer, places.length)
          },
          onFailure: (cause) => {
            delivery.end(underWay)
            return delivery.failed(failureOf(cause))
          }
        }
      )
      seconds.push(Number(instruments.clock.unsafeCurrentTimeNanos() - startedAt) / 1e9)
      rows += places.length
      refused.push(...learn(delivery, batch, open, rejected))
    }
  }
  delivery.adapt(batch.records.length, rows, Num.sumAll(seconds))
  const settled: Settled = { batches: [batch], refused, seconds }
  return settled
})

// -------------------------------------------------------------------------------------------------- settling

/**
 * Moves the cursor behind a batch, and behind those before: not for each one, since a write is dear while the database
 * is busy with the same disk, but so often that a crash repeats little.
 */
const settle = (
  delivery: Delivery,
  { batches, refused, seal, seconds }: Settled
): Effect.Effect<void, PassError> => {
  const { batchDuration, labels } = delivery.instruments
  // not when the answer came: the next statement was to be sent first
  for (const duration of seconds) batchDuration.unsafeUpdate(duration, labels)
  if (refused.length > 0)
    return Effect.zipRight(settleAll(delivery), commit(delivery, batches, refused, seal))
  delivery.unsettled.push(...batches)
  delivery.unsettledSeal = seal
  for (const batch of batches) {
    // what waits for a while is moved to where only a full collection finds it, a megabyte for each read
    batch.release()
    delivery.unsettledBytes += bytesIn(batch)
  }
  return delivery.isCommitDue(batches.at(-1)!.end.sequence) ? settleAll(delivery) : Effect.void
}

const settleAll = (delivery: Delivery): Effect.Effect<void, PassError> =>
  Effect.suspend(() => {
    const { unsettled } = delivery
    delivery.unsettled = []
    delivery.unsettledBytes = 0
    return Arr.isNonEmptyArray(unsettled)
      ? commit(delivery, unsettled, [], delivery.unsettledSeal)
      : Effect.void
  })

const commit = Effect.fnUntraced(function* (
  delivery: Delivery,
  batches: Settled["batches"],
  refused: ReadonlyArray<Refusal>,
  seal: LastSeal | undefined
) {
  const { instruments, settings } = delivery
  const [{ start }] = batches
  const { end } = batches.at(-1)!
  const records = new Concatenation(batches.map((batch) => batch.records))
  yield* settings.queue.commit({ records, start, end }, refused, seal)
  delivery.factor = 1
  delivery.settledAt = monotonicMillis(instruments.clock)
  yield* Metric.incrementBy(instruments.batches, batches.length)
  delivery.outcomes = delivery.outcomes.filter(({ last }) => !isBefore(last, end))
  const dead = refused.filter(({ class: cls }) => cls !== "torn" && cls !== "blank")
  if (dead.length > 0) {
    const classes = [
      ...new Set(dead.map(({ class: cls, code }) => (code === undefined ? cls : `${cls} ${code}`)))
    ]
    yield* Effect.logWarning(
      `audit: ${dead.length} events went to the dead letters (${classes.join(", ")}); ` +
        `run "effect-audit dead list" in ${settings.queue.directory}`
    ).pipe(Effect.annotateLogs("batch", idOf(start)))
  }
  yield* settings.onCommit(instruments.clock.unsafeCurrentTimeMillis(), dead.length < records.length)
})
