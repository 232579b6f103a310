/**
 * One pass over the queue: batches are decoded, uploaded, and left behind by the cursor, until nothing waits.
 *
 * The generators that run for each batch stand outside of what a worker makes for itself: see internal/delivery/pipeline.ts.
 */
import { Context, Duration, Effect, identity, Metric, Number as Num, Tracer } from "effect"
import type { Clock, MetricLabel, Scope } from "effect"
import { DefaultServices, Either } from "../../schema/Effect3.js"
import type { QueueAccessError, UploadError } from "../../schema/Errors.js"
import type { StoredEvent } from "../../schema/Line.js"
import { idOf, isBefore, type Place, type Position } from "../../schema/Position.js"
import type { Batch, QueueFile, Refusal } from "../../services/QueueFile.js"
import type { LastSeal, Seal, Sealing } from "../../services/Sealing.js"
import type { Rejection, Uploader, UploadBatch, UploadResult } from "../../services/Uploader.js"
import { Concatenation } from "../lazySequence.js"
import * as metrics from "../metrics.js"
import { monotonicMillis } from "../monotonic.js"
import type { Sealer } from "../proof/sealer.js"
import * as pipeline from "./pipeline.js"
import type { makeReader } from "../readEvent.js"
import { turnEventLoop } from "../turnEventLoop.js"
import * as watchdog from "../watchdog.js"
import { answerOf, failureOf, timedOut, uploadOf } from "./answer.js"

interface Settings {
  readonly queue: QueueFile["Type"]
  readonly uploader: Uploader["Type"]
  /** from a line to an event */
  readonly read: ReturnType<typeof makeReader>
  /** at most so many rows in a batch */
  readonly maxRecords: number
  /** at most about so many bytes in a batch */
  readonly maxBytes: number
  /** an upload that has not answered by then is given up, and its events are sent again */
  readonly uploadTimeout: Duration.Duration
  /** whether somebody waits until what stands before this number is settled */
  readonly isAwaited: (sequence: number) => boolean
  /** the cursor was moved, at this time, milliseconds since 1970; whether anything was delivered */
  readonly onCommit: (at: number, delivered: boolean) => Effect.Effect<void>
  /** what seals the batches, if they are sealed */
  readonly proof?: Proof | undefined
}

interface Proof {
  readonly sealer: Sealer
  readonly sealing: Sealing
}

export type PassError = UploadError | QueueAccessError

/** So many times as large a batch may become. */
const MOST_BATCHES = 8

/** So many milliseconds after the cursor was written the next answer of the database has it written again. */
const SETTLE_INTERVAL = 50

/**
 * Slow start: the first batches are a fifth as large, and twice as large whenever one was stored fast, or after ten. What
 * runs is not compiled yet, and what the server says of a statement's parameters not known, so that a large one would
 * hold up the program for tens of milliseconds.
 */
const COLD_FRACTION = 1 / 5
const COLD_BATCHES = 10
/** compiled code, with a database that is near, takes a third to two thirds of it */
const WARM_SECONDS_PER_ROW = 30e-6

/** What is there when the program has provided none: its spans go nowhere. */
const NO_TRACER = Context.get(DefaultServices.liveServices, Tracer.Tracer)

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

interface Instruments {
  readonly clock: Clock.Clock
  readonly tracer: Tracer.Tracer
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  readonly batches: Metric.Metric.Counter<number>
  readonly batchDuration: Metric.Metric.Histogram<number>
}

/** An upload that has not answered yet. */
interface UnderWay extends watchdog.UnderWay {
  /** how many records its batch has */
  readonly records: number
}

/** What one batch has to do with the others. */
class Delivery {
  /** in the order in which they began */
  underWay: ReadonlyArray<UnderWay> = []
  /** to be called whenever one has begun */
  watch: () => void = () => undefined
  /** ends the present pass, even if an upload never does */
  giveUp: (error: UploadError) => void = () => undefined

  /** kept until the cursor is beyond them: a kind is not sent again because another one failed, or the disk */
  outcomes: ReadonlyArray<Outcome> = []

  /** delivered, without a refusal, and not yet behind the cursor */
  unsettled: Array<Batch> = []
  unsettledBytes = 0
  /** the last seal of those */
  unsettledSeal: LastSeal | undefined
  settledAt = Number.NEGATIVE_INFINITY

  maxRecords: number
  /** the first batch of a pass is so many times as large: the passes before had too few events to compare a doubtful one with */
  factor = 1
  /** after so many batches of this size they grow, if none was stored fast */
  private slowLeft = COLD_BATCHES

  constructor(
    readonly settings: Settings,
    readonly instruments: Instruments
  ) {
    this.maxRecords = Math.ceil(settings.maxRecords * COLD_FRACTION)
  }

  /** Lets the batches grow; `duration` in seconds. */
  adapt(records: number, rows: number, duration: number): void {
    // fewer prove nothing
    if (records < this.maxRecords) return
    const isFast = duration < rows * WARM_SECONDS_PER_ROW
    if (!isFast && --this.slowLeft > 0) return
    this.maxRecords = Math.min(2 * this.maxRecords, this.settings.maxRecords)
    this.slowLeft = COLD_BATCHES
  }

  begin(records: number): UnderWay {
    const mine = { startedAt: monotonicMillis(this.instruments.clock), records }
    this.underWay = [...this.underWay, mine]
    this.watch()
    return mine
  }

  end(mine: UnderWay): void {
    this.underWay = this.underWay.filter((other) => other !== mine)
  }

  /** An upload has failed. The next try has more batches, if that is what the uploader wants. */
  failed(error: UploadError): Effect.Effect<never, UploadError> {
    this.factor = error.wantsMore === true ? Math.min(this.factor + 1, MOST_BATCHES) : 1
    return Effect.fail(error)
  }

  /** An upload has taken too long. A smaller one may have enough time. */
  expire(mine: UnderWay): void {
    this.end(mine)
    this.settings.proof?.sealer.doubt()
    this.maxRecords = Math.max(1, Math.floor(Math.min(mine.records, this.maxRecords) / 2))
    this.slowLeft = COLD_BATCHES
    this.giveUp(timedOut(this.settings.uploadTimeout))
  }

  /** Whether the cursor is to be moved now, up to this number. */
  isCommitDue(sequence: number): boolean {
    const { instruments, settings } = this
    return (
      monotonicMillis(instruments.clock) - this.settledAt >= SETTLE_INTERVAL ||
      // a crash is to repeat no more than this
      this.unsettledBytes >= settings.maxBytes ||
      settings.uploader.atLeastOnce === true ||
      settings.isAwaited(sequence)
    )
  }
}

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
      work: (prepared) =>
        proof === undefined ? upload(delivery, prepared) : uploadSealed(delivery, prepared, proof),
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

/** The events of a kind in a batch, in the order of the queue, and the places of their records in it. */
interface Events extends UploadBatch {
  readonly places: Array<number>
  readonly events: Array<StoredEvent>
}

/** Events with what delivers them. */
interface Group extends Events {
  /** undefined where all kinds go together */
  readonly upload: Effect.Effect<UploadResult, UploadError> | undefined
}

/** All kinds of a batch on their way into the database, with their seal. */
interface SealedUpload {
  readonly send: Effect.Effect<ReadonlyArray<UploadResult>, UploadError>
  /** once it was made */
  readonly seal: () => Seal | undefined
}

/** A batch, decoded: its events by kind, and what cannot be an event. */
interface Prepared {
  readonly batch: Batch
  readonly groups: ReadonlyArray<Group>
  readonly refusals: ReadonlyArray<Refusal>
  /** undefined where nothing is sealed */
  readonly sealed: SealedUpload | undefined
}

const prepare = Effect.fnUntraced(function* ({ instruments, settings }: Delivery, batch: Batch) {
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
  const sealed =
    proof === undefined || made.length === 0 ? undefined : sealedUpload(instruments, batch, made, proof)
  const prepared: Prepared = { batch, groups: made, refusals, sealed }
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

interface Settled {
  readonly batch: Batch
  readonly refused: ReadonlyArray<Refusal>
  /** how long each of its uploads took */
  readonly seconds: ReadonlyArray<number>
  /** the last seal, with this batch */
  readonly seal?: LastSeal | undefined
}

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
        spanned(delivery, sent, batch, kind, places.length),
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
  const settled: Settled = { batch, refused, seconds }
  return settled
})

/** What of a group is still to be sent; what earlier tries have learnt of the rest goes among the refused. */
const withoutOutcomes = (delivery: Delivery, group: Group, batch: Batch, refused: Array<Refusal>): Events => {
  const { kind } = group.definition
  const known = delivery.outcomes.filter((outcome) => outcome.kind === kind && reaches(outcome, batch))
  for (const outcome of known) refused.push(...outcome.refused.filter(({ record }) => isOf(record, batch)))
  return known.length === 0 ? group : withoutKnown(group, batch, known)
}

/** Keeps what became of events, in case that their batch is sent again; those that were refused. */
const learn = (
  delivery: Delivery,
  batch: Batch,
  { definition: { kind }, places }: Events,
  rejected: ReadonlyArray<Rejection>
): ReadonlyArray<Refusal> => {
  const recordOf = (index: number) => batch.records.at(places.at(index)!)!
  const refused = rejected.map(({ code, index, reason }): Refusal => {
    return { record: recordOf(index), class: "rejected", kind, code, reason }
  })
  const outcome: Outcome = { kind, first: recordOf(0), last: recordOf(-1), refused }
  delivery.outcomes = [...delivery.outcomes, outcome]
  return refused
}

/** What sends all kinds of a batch together, with the seal of what becomes of them. */
const sealedUpload = (
  { clock }: Instruments,
  { end, records }: Batch,
  open: ReadonlyArray<Events>,
  { sealer, sealing }: Proof
): SealedUpload => {
  let made: Seal | undefined
  const send = sealing.upload(open, (stored) => {
    const dead = stored.flatMap(({ rejected }, at) =>
      rejected.map(({ code, index }) => {
        const { events, places } = open[at]!
        return { place: records.at(places[index]!)!, eventId: events[index]!.eventId, code }
      })
    )
    return (made = sealer.seal({ until: idOf(end), stored, dead }, clock.unsafeCurrentTimeMillis()))
  })
  return { send, seal: () => made }
}

/** What of the groups is still to be sent; what is known of the rest goes among the refused. */
const withoutFates = (
  delivery: Delivery,
  { batch, groups }: Prepared,
  sealer: Sealer,
  refused: Array<Refusal>
): ReadonlyArray<Events> => {
  const recordAt = (place: number) => batch.records.at(place)!
  const rest = groups.map((group) => withoutOutcomes(delivery, group, batch, refused))
  // mostly: nobody looks at each record then
  if (!sealer.hasFates) return rest.every((open, at) => open === groups[at]) ? groups : rest.filter(isOpen)
  return rest
    .map((open) => {
      const { kind } = open.definition
      const fates = open.events.map(({ eventId }, index) =>
        sealer.fateOf(eventId, recordAt(open.places[index]!))
      )
      fates.forEach((fate, index) => {
        if (fate?.code === undefined) return
        const reason = "the database refused it, and the program ended before it wrote down why"
        const record = recordAt(open.places[index]!)
        refused.push({ record, class: "rejected", kind, code: fate.code, reason })
      })
      const isLeft = (_: unknown, index: number) => fates[index] === undefined
      return { ...open, places: open.places.filter(isLeft), events: open.events.filter(isLeft) }
    })
    .filter(isOpen)
}

const isOpen = ({ places }: Events): boolean => places.length > 0

/** Sends all kinds of a batch together, and their seal. */
const uploadSealed = Effect.fnUntraced(function* (delivery: Delivery, prepared: Prepared, proof: Proof) {
  const { instruments } = delivery
  const { batch, groups, refusals } = prepared
  const { sealer } = proof
  const refused = [...refusals]
  yield* sealer.resume
  const open = withoutFates(delivery, prepared, sealer, refused)
  if (open.length === 0) return { batch, refused, seconds: [], seal: sealer.head } satisfies Settled
  const { seal, send } =
    open === groups && prepared.sealed !== undefined
      ? prepared.sealed
      : sealedUpload(instruments, batch, open, proof)
  const rows = Num.sumAll(open.map(({ places }) => places.length))
  const startedAt = instruments.clock.unsafeCurrentTimeNanos()
  const underWay = delivery.begin(batch.records.length)
  const kinds = open.map(({ definition }) => definition.kind).join(",")
  const results = yield* Effect.matchCauseEffect(spanned(delivery, send, batch, kinds, rows), {
    onSuccess: (answer) => {
      delivery.end(underWay)
      const made = seal()
      if (made !== undefined) sealer.committed(made)
      return Effect.succeed(answer)
    },
    onFailure: (cause) => {
      delivery.end(underWay)
      sealer.doubt()
      return delivery.failed(failureOf(cause))
    }
  }).pipe(Effect.onInterrupt(() => Effect.sync(() => sealer.doubt())))
  const seconds = [Number(instruments.clock.unsafeCurrentTimeNanos() - startedAt) / 1e9]
  results.forEach(({ rejected }, at) => refused.push(...learn(delivery, batch, open[at]!, rejected)))
  delivery.adapt(batch.records.length, rows, Num.sumAll(seconds))
  // out of reach of functions that outlive them (bench/README.md#functions-on-properties)
  for (const { events } of open) events.length = 0
  const settled: Settled = { batch, refused, seconds, seal: sealer.head }
  return settled
})

/** Makes a seal without rows, if one is to say something that no batch came for. */
const sealAsked = ({ instruments }: Delivery, { sealer, sealing }: Proof): Effect.Effect<void, UploadError> =>
  Effect.suspend(() => {
    if (!sealer.isAsked) return Effect.void
    let made: Seal | undefined
    // not if a seal has said it whose answer never came
    const send = Effect.when(
      Effect.suspend(() =>
        sealing.upload([], () => (made = sealer.seal({}, instruments.clock.unsafeCurrentTimeMillis())))
      ),
      () => sealer.isAsked
    )
    return Effect.zipRight(sealer.resume, send).pipe(
      Effect.matchCauseEffect({
        onSuccess: () =>
          Effect.sync(() => {
            if (made !== undefined) sealer.committed(made)
          }),
        onFailure: (cause) => {
          sealer.doubt()
          return Effect.fail(failureOf(cause))
        }
      }),
      Effect.onInterrupt(() => Effect.sync(() => sealer.doubt()))
    )
  })

/** An upload with its span, if anybody looks at spans: it is a third of the steps between two statements. */
const spanned = <A, E>(
  { instruments, settings }: Delivery,
  upload: Effect.Effect<A, E>,
  { start }: Batch,
  kind: string,
  events: number
) =>
  instruments.tracer === NO_TRACER
    ? upload
    : Effect.withSpan(upload, "effect-audit.upload", {
        // of its own: it belongs to no request of those that recorded the events
        root: true,
        captureStackTrace: false,
        kind: "client",
        attributes: {
          "audit.queue": settings.queue.directory,
          "audit.batch": idOf(start),
          "audit.kind": kind,
          "audit.events": events
        }
      })

/**
 * What became of a kind's records from one up to another: delivered, but for those that were refused. From record to
 * record, and not for the whole of a batch: a disk that hung may still write lines before and behind it.
 */
interface Outcome {
  readonly kind: string
  readonly first: Place
  readonly last: Place
  readonly refused: ReadonlyArray<Refusal>
}

const isKnown = (record: Place, { first, last }: Outcome) =>
  !isBefore(record, first) && !isBefore(last, record)
const isOf = (record: Place, { end, records }: Batch) =>
  !isBefore(record, records.at(0)!) && isBefore(record, end)
const reaches = ({ first, last }: Outcome, { end, records }: Batch) =>
  isBefore(first, end) && !isBefore(last, records.at(0)!)

const withoutKnown = (
  { definition, events, places }: Events,
  { records }: Batch,
  known: ReadonlyArray<Outcome>
): Events => {
  const open = places.map((place) => !known.some((outcome) => isKnown(records.at(place)!, outcome)))
  return {
    definition,
    places: places.filter((_, index) => open[index]),
    events: events.filter((_, index) => open[index])
  }
}

// -------------------------------------------------------------------------------------------------- settling

/**
 * Moves the cursor behind a batch, and behind those before: not for each one, since a write is dear while the database
 * is busy with the same disk, but so often that a crash repeats little.
 */
const settle = (
  delivery: Delivery,
  { batch, refused, seal, seconds }: Settled
): Effect.Effect<void, PassError> => {
  const { batchDuration, labels } = delivery.instruments
  // not when the answer came: the next statement was to be sent first
  for (const duration of seconds) batchDuration.unsafeUpdate(duration, labels)
  if (refused.length > 0)
    return Effect.zipRight(settleAll(delivery), commit(delivery, batch, refused, 1, seal))
  const { end, start } = batch
  delivery.unsettled.push(batch)
  delivery.unsettledSeal = seal
  // what waits for a while is moved to where only a full collection finds it, a megabyte for each read
  batch.release()
  delivery.unsettledBytes += end.offset - (end.segment === start.segment ? start.offset : 0)
  return delivery.isCommitDue(end.sequence) ? settleAll(delivery) : Effect.void
}

const settleAll = (delivery: Delivery): Effect.Effect<void, PassError> =>
  Effect.suspend(() => {
    const [first, ...others] = delivery.unsettled
    delivery.unsettled = []
    delivery.unsettledBytes = 0
    if (first === undefined) return Effect.void
    const records = new Concatenation([first, ...others].map((batch) => batch.records))
    const { end } = others.at(-1) ?? first
    return commit(
      delivery,
      { records, start: first.start, end },
      [],
      others.length + 1,
      delivery.unsettledSeal
    )
  })

const commit = Effect.fnUntraced(function* (
  delivery: Delivery,
  batch: Omit<Batch, "release">,
  refused: ReadonlyArray<Refusal>,
  batches: number,
  seal: LastSeal | undefined
) {
  const { instruments, settings } = delivery
  yield* settings.queue.commit(batch, refused, seal)
  delivery.factor = 1
  delivery.settledAt = monotonicMillis(instruments.clock)
  yield* Metric.incrementBy(instruments.batches, batches)
  delivery.outcomes = delivery.outcomes.filter(({ last }) => !isBefore(last, batch.end))
  const dead = refused.filter(({ class: cls }) => cls !== "torn" && cls !== "blank")
  if (dead.length > 0) {
    const classes = [
      ...new Set(dead.map(({ class: cls, code }) => (code === undefined ? cls : `${cls} ${code}`)))
    ]
    yield* Effect.logWarning(
      `audit: ${dead.length} events went to the dead letters (${classes.join(", ")}); ` +
        `run "effect-audit dead list" in ${settings.queue.directory}`
    ).pipe(Effect.annotateLogs("batch", idOf(batch.start)))
  }
  yield* settings.onCommit(instruments.clock.unsafeCurrentTimeMillis(), dead.length < batch.records.length)
})
