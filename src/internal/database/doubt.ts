/**
 * Doubt: decides whether an event is to blame for a refusal, or the database.
 *
 * A code that nobody knows leaves this open. So does each known one, since a trigger may give its refusal any number.
 * No good event is lost. An event is rejected only if one connection refused it alone, then stored another row of its
 * table, then refused it again. A later pass must show all this once more. If two events are refused alone and nothing
 * is stored between them, the database is ill.
 *
 * Tricky scenarios:
 * - The doubtful event is the last one of its batch: nothing can be stored after it. The next batch is larger.
 * - The first pass stored all others of its batch: none would be left for the second one. So some are held back.
 * - Two bad events stand side by side: rows from the end of the batch, the witnesses, are stored between them.
 * - An ill server refuses everything: a pass asks it a dozen times.
 * - An event breaks the connection by its size, and the evidence is lost. All as large are settled before the next
 *   pass.
 */
import { Data, Effect } from "effect"
import { Either } from "../../schema/Effect3.js"
import { UploadError } from "../../schema/Errors.js"
import type { StoredEvent } from "../../schema/Line.js"
import type { Rejection } from "../../services/Uploader.js"
import type { Refused } from "./narrow.js"

/** A statement was refused, and stored nothing. One of its events may be to blame, or the database. */
export class Doubted extends Data.TaggedError("Doubted")<{
  readonly code: string
  /** the database's message */
  readonly reason: string
  /** the failure, while no event is to blame */
  readonly error: UploadError
  /** whether to search at once; if not, only once the code came several times, since it may pass by itself */
  readonly isLikely: boolean
  /** whether `error` says what is wrong, while no event is proven to be bad */
  readonly isKnown: boolean
}> {}

/** Stores the events from `from` to before `to`, all or none. Returns how many of them were new to the table. */
export type Trial = (from: number, to: number) => Effect.Effect<number, Doubted | Refused | UploadError>

interface Search {
  readonly onOneConnection: (
    use: (trial: Trial) => Effect.Effect<void, UploadError>
  ) => Effect.Effect<void, UploadError>
  /** The events that break a connection by their size if this one does; none if it is too small for that. */
  readonly asLargeAs: (index: number) => ReadonlyArray<number>
  /** Stores an event on separate connections, or finds out why it is rejected. */
  readonly settleApart: (
    index: number
  ) => Effect.Effect<Omit<Rejection, "index"> | undefined, Doubted | UploadError>
  readonly from: number
  readonly to: number
  readonly doubted: Doubted
  /** how many events, from an index on, one statement may have; at least 1 */
  readonly fitting: (from: number) => number
  readonly idOf: (index: number) => string
  readonly onRejected: (rejection: Rejection) => Effect.Effect<void, UploadError>
}

/** Times that a code which mostly passes by itself is waited for, before events are doubted. */
const PATIENCE = 2

/**
 * The same for a known code. By the backoff this is two minutes. The idle session of a program that vanished locks an
 * event for less (60 seconds, mysql/connection.ts).
 */
const PATIENCE_WITH_KNOWN = 6

/** Events that one pass may doubt: each costs a handful of statements. */
const MOST_SUSPECTS = 8

/** Witnesses that each suspect needs in the next pass: one between its two trials, one before the next suspect. */
const WITNESSES = 2

/** What is remembered of events from pass to pass, by their ids. */
class Memory {
  /** how often the batch that begins with this event has met the code */
  readonly met = new Map<string, { readonly code: string; readonly times: number }>()
  /** refused in an earlier pass, while others were stored */
  readonly suspects = new Set<string>()
  /** refused like that in two passes, or too large: rejected whenever its batch is repeated */
  readonly proven = new Map<string, Omit<Rejection, "index">>()
  /** refused in an earlier pass, with no other event to compare it with */
  readonly lonely = new Set<string>()

  get isEmpty(): boolean {
    return this.met.size + this.suspects.size + this.proven.size + this.lonely.size === 0
  }

  forget(id: string): void {
    for (const events of [this.met, this.suspects, this.proven, this.lonely]) events.delete(id)
  }
}

/** One pass of a search, on one connection. */
class Pass {
  /** events from here on are stored or rejected: they have served as witnesses */
  private limit: number
  /** whether an event was proven to be bad: then a batch need not be larger than usual */
  private isProven = false
  /** the event that was refused alone, if nothing was stored since */
  private alone: number | undefined
  private readonly undecided: Array<{
    readonly index: number
    readonly doubted: Doubted
    readonly proof: boolean
  }> = []

  constructor(
    private readonly trial: Trial,
    private readonly search: Search,
    private readonly memory: Memory
  ) {
    this.limit = search.to
  }

  /** Stores or rejects the events, in parts as large as possible. Fails while some are neither. */
  readonly run = Effect.gen(this, function* () {
    const { doubted, fitting, from, to } = this.search
    let at = from
    // With a known code mostly the database is ill. Two events show that, and each may wait for a lock.
    let size = doubted.isKnown ? 1 : Math.ceil((to - from) / 2)
    while (at < this.end && this.undecided.length < MOST_SUSPECTS) {
      const count = Math.max(1, Math.min(size, this.end - at, fitting(at)))
      const isStored = count === 1 ? yield* this.settleOne(at) : yield* this.storePart(at, at + count)
      if (isStored) at += count
      size = isStored ? 2 * count : Math.ceil(count / 2)
    }
    yield* this.conclude
  })

  /** this pass tries the events before this one; the others are witnesses for the next pass */
  private get end(): number {
    return this.limit - WITNESSES * this.undecided.length
  }

  /** Stores several events by one statement; returns whether it could. */
  private readonly storePart = (from: number, to: number) =>
    Effect.gen(this, function* () {
      const result = yield* Effect.either(this.trial(from, to))
      if (Either.isRight(result)) {
        if (result.right > 0) this.alone = undefined
        return true
      }
      return result.left._tag === "UploadError" ? yield* result.left : false
    })

  private readonly settleOne = (index: number) =>
    Effect.gen(this, function* () {
      const verdict = this.memory.proven.get(this.search.idOf(index))
      if (verdict === undefined) {
        const result = yield* this.tryAlone(index)
        if (typeof result !== "string") yield* this.judge(index, result)
      } else {
        yield* this.search.onRejected({ index, ...verdict })
      }
      return true
    })

  /** Tries one event; returns `Doubted` if it is refused once more. */
  private readonly tryAlone = (index: number) =>
    Effect.gen(this, function* () {
      const result = yield* Effect.either(this.trial(index, index + 1))
      if (Either.isRight(result)) {
        if (result.right > 0) this.alone = undefined
        return result.right > 0 ? ("stored" as const) : ("present" as const)
      }
      const error = result.left
      if (error._tag === "UploadError") return yield* error
      if (error._tag === "Refused") {
        if (error.blameless !== undefined) return yield* error.blameless
        yield* this.search.onRejected({ index, code: error.code, reason: error.reason })
        return "rejected" as const
      }
      if (this.alone !== undefined && this.alone !== index) return yield* ill(error, !this.isProven)
      this.alone = index
      return error
    })

  /** Stores an event other than the one at `index`, from the end of the batch. Returns whether there was one. */
  private readonly storeWitness = (index: number) =>
    Effect.gen(this, function* () {
      while (this.limit - 1 > index) {
        this.limit--
        const verdict = this.memory.proven.get(this.search.idOf(this.limit))
        if (verdict !== undefined) yield* this.search.onRejected({ index: this.limit, ...verdict })
        else if ((yield* this.tryAlone(this.limit)) === "stored") return true
      }
      return false
    })

  /** Decides on an event that was refused alone, or remembers it for the next pass. */
  private readonly judge = (index: number, doubted: Doubted) =>
    Effect.gen(this, function* () {
      const { proven, suspects } = this.memory
      const id = this.search.idOf(index)
      if (!(yield* this.storeWitness(index))) {
        this.undecided.push({ index, doubted, proof: false })
        return
      }
      const again = yield* this.tryAlone(index)
      // stored, present or rejected: decided
      if (typeof again === "string") return
      if (suspects.has(id)) {
        const { code, reason } = again
        proven.set(id, { code, reason })
        this.isProven = true
        yield* this.search.onRejected({ index, code, reason })
      } else {
        // noted at once: it is true however the pass ends
        suspects.add(id)
        this.undecided.push({ index, doubted: again, proof: true })
      }
      // without a row between them, the next bad event would look like an illness of the database
      if (this.end > index + 1) yield* this.storeWitness(index)
    })

  private readonly conclude = Effect.suspend(() => {
    const { lonely } = this.memory
    const [first] = this.undecided
    if (first === undefined) return Effect.void
    const isAlone = !first.proof && lonely.has(this.search.idOf(first.index))
    for (const { index, proof } of this.undecided) if (!proof) lonely.add(this.search.idOf(index))
    return (isAlone ? ill : undecidedYet)(first.doubted, !this.isProven)
  })
}

/** Remembers from pass to pass what was found out about events, and searches batches for those to blame. */
export const makeDoubts = () => {
  const memory = new Memory()

  /** If an event broke the connection by its size, settles all that are as large. So the next pass knows of them. */
  const settleLarge = ({ asLargeAs, idOf, settleApart }: Search, broken: number) =>
    Effect.forEach(
      asLargeAs(broken).filter((index) => !memory.proven.has(idOf(index))),
      (index) =>
        Effect.map(settleApart(index), (verdict) => {
          if (verdict !== undefined) memory.proven.set(idOf(index), verdict)
        }),
      { discard: true }
    ).pipe(Effect.ignore)

  return {
    /** Whether to search the batch that begins with this event, or to try it again as it is. */
    isDue: (first: string, { code, isKnown, isLikely }: Doubted): boolean => {
      if (isLikely) return true
      const before = memory.met.get(first)
      const times = (before?.code === code ? before.times : 0) + 1
      memory.met.set(first, { code, times })
      return times > (isKnown ? PATIENCE_WITH_KNOWN : PATIENCE)
    },

    /** Forgets the events, once each is stored or rejected. */
    settle: (events: ReadonlyArray<Pick<StoredEvent, "eventId">>): void => {
      if (!memory.isEmpty) for (const { eventId } of events) memory.forget(eventId)
    },

    /** Stores the events from `from` to before `to`, except those that are rejected. Fails while some are neither. */
    search: (search: Search): Effect.Effect<void, UploadError> =>
      Effect.suspend(() => {
        /** the event that is being tried alone */
        let alone: number | undefined
        const watched =
          (trial: Trial): Trial =>
          (from, to) => {
            alone = to - from === 1 ? from : undefined
            return trial(from, to)
          }
        return search
          .onOneConnection((trial) => new Pass(watched(trial), search, memory).run)
          .pipe(
            Effect.tapError((error) =>
              alone === undefined || error.class !== "transient" ? Effect.void : settleLarge(search, alone)
            )
          )
      })
  }
}

/** The failure while no evidence blames an event: as the known code says, or for the database's operator. */
export const ill = (doubted: Doubted, wantsMore = true) =>
  inDoubt(doubted, wantsMore, {
    class: "operator",
    reason:
      `The database refuses events with a code that effect-audit does not know, and nothing shows that it is the events' ` +
      `fault: look the code up in the manual of the database, and in its log`
  })

const undecidedYet = (doubted: Doubted, wantsMore: boolean) =>
  inDoubt(doubted, wantsMore, {
    class: "transient",
    reason:
      `The database refuses an event with a code that effect-audit does not know, while it stores others; it becomes a ` +
      `dead letter if the next try ends in the same way`
  })

const inDoubt = (
  { code, error, isKnown }: Doubted,
  wantsMore: boolean,
  unknown: Pick<UploadError, "class" | "reason">
) =>
  new UploadError({
    ...(isKnown ? { class: error.class, reason: error.reason } : unknown),
    code,
    wantsMore,
    ...(error.cause === undefined ? {} : { cause: error.cause })
  })
