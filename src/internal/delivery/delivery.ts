/**
 * A delivery under way: what the batches of a pass have to do with one another, and what became of their events.
 */
import { Context, Effect, Tracer } from "effect"
import type { Clock, Metric, MetricLabel, Duration } from "effect"
import { DefaultServices } from "../../schema/Effect3.js"
import type { QueueAccessError, UploadError } from "../../schema/Errors.js"
import type { StoredEvent } from "../../schema/Line.js"
import { idOf, isBefore, type Place } from "../../schema/Position.js"
import type { Batch, QueueFile, Refusal } from "../../services/QueueFile.js"
import type { LastSeal, Part, Sealing } from "../../services/Sealing.js"
import type { Rejection, Uploader, UploadBatch, UploadResult } from "../../services/Uploader.js"
import { monotonicMillis } from "../monotonic.js"
import type { Sealer } from "../proof/sealer.js"
import type { makeReader } from "../readEvent.js"
import type * as watchdog from "../watchdog.js"
import { timedOut } from "./answer.js"

export interface Settings {
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

export interface Proof {
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

/** Batches that always fail together may stay alone for so many times as long. */
const MOST_DOUBLINGS = 10

/** The bytes of its lines, about: none of those in a segment before the last one. */
export const bytesIn = ({ end, start }: Pick<Batch, "end" | "start">): number =>
  end.offset - (end.segment === start.segment ? start.offset : 0)

export interface Instruments {
  readonly clock: Clock.Clock
  readonly tracer: Tracer.Tracer
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  readonly batches: Metric.Metric.Counter<number>
  readonly batchDuration: Metric.Metric.Histogram<number>
}

/** An upload that has not answered yet. */
export interface UnderWay extends watchdog.UnderWay {
  /** how many records its batch has */
  readonly records: number
}

/** What one batch has to do with the others. */
export class Delivery {
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
  /** so many seals are for one batch each, since a transaction of as many has failed */
  private aloneFor = 0
  /** so many transactions of several batches have failed since one was stored */
  private sharesFailed = 0
  /** after so many batches of this size they grow, if none was stored fast */
  private slowLeft = COLD_BATCHES

  constructor(
    readonly settings: Settings,
    readonly instruments: Instruments
  ) {
    this.maxRecords = Math.ceil(settings.maxRecords * COLD_FRACTION)
  }

  /** Lets the batches grow; `duration` in seconds. */
  adapt(records: number, rows: number, duration: number, batches = 1): void {
    // fewer prove nothing
    if (records < this.maxRecords) return
    const isFast = duration < rows * WARM_SECONDS_PER_ROW
    this.slowLeft -= batches
    if (!isFast && this.slowLeft > 0) return
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

  /** Whether batches may follow one another in a transaction. */
  get mayShare(): boolean {
    return this.aloneFor === 0
  }

  /** A seal of so many batches was committed. */
  sealed(batches: number): void {
    if (this.aloneFor > 0) this.aloneFor--
    if (batches > 1) this.sharesFailed = 0
  }

  /**
   * A transaction of several batches has failed. By itself each can begin again, and be narrowed down. Twice as many
   * stay alone after each further failure: each one costs a backoff, which grows until a pass delivers everything.
   */
  sharingFailed(batches: number): void {
    this.aloneFor = batches * 2 ** Math.min(this.sharesFailed++, MOST_DOUBLINGS)
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

/** The events of a kind in a batch, in the order of the queue, and the places of their records in it. */
export interface Events extends UploadBatch {
  readonly places: Array<number>
  readonly events: Array<StoredEvent>
}

/** Events with what delivers them. */
export interface Group extends Events {
  /** undefined where all kinds go together */
  readonly upload: Effect.Effect<UploadResult, UploadError> | undefined
}

/** A batch, decoded: its events by kind, and what cannot be an event. */
export interface Prepared {
  readonly batch: Batch
  readonly groups: ReadonlyArray<Group>
  readonly refusals: ReadonlyArray<Refusal>
  /** made ready for a transaction; undefined where nothing is sealed */
  readonly part: Part | undefined
}

export interface Settled {
  /** that follow one another: the cursor moves behind all of them at once, as their seal does */
  readonly batches: readonly [Batch, ...ReadonlyArray<Batch>]
  readonly refused: ReadonlyArray<Refusal>
  /** how long each of its uploads took */
  readonly seconds: ReadonlyArray<number>
  /** the last seal, with this batch */
  readonly seal?: LastSeal | undefined
}

/** What is there when the program has provided none: its spans go nowhere. */
const NO_TRACER = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** An upload with its span, if anybody looks at spans: it is a third of the steps between two statements. */
export const spanned = <A, E>(
  { instruments, settings }: Delivery,
  upload: Effect.Effect<A, E>,
  { start }: Batch,
  kind: string,
  /** asked at the end */
  events: () => number
) =>
  instruments.tracer === NO_TRACER
    ? upload
    : Effect.withSpan(Effect.ensuring(upload, annotated(events)), "effect-audit.upload", {
        // of its own: it belongs to no request of those that recorded the events
        root: true,
        captureStackTrace: false,
        kind: "client",
        attributes: {
          "audit.queue": settings.queue.directory,
          "audit.batch": idOf(start),
          "audit.kind": kind
        }
      })

const annotated = (events: () => number) =>
  Effect.suspend(() => Effect.annotateCurrentSpan("audit.events", events()))

// --------------------------------------------------------------------------------------------------- outcomes

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

/** What of a group is still to be sent; what earlier tries have learnt of the rest goes among the refused. */
export const withoutOutcomes = (
  delivery: Delivery,
  group: Group,
  batch: Batch,
  refused: Array<Refusal>
): Events => {
  const { kind } = group.definition
  const known = delivery.outcomes.filter((outcome) => outcome.kind === kind && reaches(outcome, batch))
  for (const outcome of known) refused.push(...outcome.refused.filter(({ record }) => isOf(record, batch)))
  return known.length === 0 ? group : withoutKnown(group, batch, known)
}

/** Keeps what became of events, in case that their batch is sent again; those that were refused. */
export const learn = (
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
