/**
 * The ledger: the cursor, the number of the next line, and the books. The owner keeps them in memory and on disk, where
 * other processes read them.
 */
import { Effect, Iterable, Option } from "effect"
import type { Position } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import type { Balance, Batch, QueueRecord, Refusal } from "../../services/QueueFile.js"
import type { LastSeal } from "../../services/Sealing.js"
import { isCounted, isSettled, type Cursor } from "./cursor.js"
import type { CursorFile } from "./cursorFile.js"
import type { DeadLetters } from "./deadLetters.js"
import { makeBatchReader, type Limits } from "./reader.js"
import type { Segment, Segments } from "./segments.js"

interface Books {
  readonly cursor: Cursor
  /** the number of the next line */
  readonly next: number
  readonly segments: ReadonlyArray<{ readonly first: number }>
  readonly decisions: { readonly retried: number; readonly discarded: number }
}

/**
 * The balance. There may be more decisions than letters after an older slot, or a repair, has set the cursor back. The
 * rest count once delivery has counted their letters again.
 */
export const balanceOf = ({ cursor, decisions, next, segments }: Books): Balance => {
  const unsettled = next - Math.min(cursor.settled, next)
  const lost = Math.min(lostBefore(cursor, segments[0]?.first ?? next), unsettled)
  const retried = Math.min(decisions.retried, cursor.refused)
  const discarded = Math.min(decisions.discarded, cursor.refused - retried)
  return {
    accepted: next + cursor.surplus,
    delivered: cursor.delivered,
    waiting: unsettled - lost,
    dead: cursor.refused - retried - discarded,
    retried,
    discarded,
    torn: cursor.torn,
    missing: cursor.missing + lost
  }
}

/** How many lines are missing between the cursor and `first`, the first number of the oldest segment. */
const lostBefore = (cursor: Cursor, first: number): number =>
  first > cursor.segment ? Math.max(0, first - cursor.settled) : 0

/** How many bytes wait for delivery, by the cursor and the segments. */
export const waitingBytesOf = (
  cursor: Cursor,
  segments: ReadonlyArray<{ readonly first: number; readonly bytes: number }>
): number => {
  let bytes = 0
  for (const segment of segments) {
    if (segment.first > cursor.segment) bytes += segment.bytes
    else if (segment.first === cursor.segment) bytes += Math.max(0, segment.bytes - cursor.offset)
  }
  return bytes
}

export interface Ledger {
  readonly cursor: () => Cursor
  /** the number of the next line */
  readonly next: () => number
  /** Numbers so many durable lines; returns the number of the first. */
  readonly number: (lines: number) => number
  readonly waitingBytes: () => number
  /** Reads lines from a position, by default from the cursor. */
  readonly take: (from: Position | undefined, limits: Limits) => Effect.Effect<Batch, DiskError>
  /**
   * Writes the refusals to the dead letters, then the cursor after the batch, then removes delivered segments. A batch
   * without records moves nothing: the cursor only keeps its seal.
   */
  readonly settle: (
    batch: Omit<Batch, "release">,
    refusals: ReadonlyArray<Refusal>,
    /** the last seal of the batch, if delivery seals */
    seal?: LastSeal
  ) => Effect.Effect<void, DiskError>
  /**
   * Moves the cursor to the next number and removes all segments, if nothing waits and no append is under way. Returns
   * whether it has.
   */
  readonly compact: Effect.Effect<boolean, DiskError>
  readonly balance: () => Balance
  /** The contents of a directory that was removed: see `Contents` in lock.ts. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  readonly restore: Effect.Effect<boolean, DiskError>
  readonly forget: Effect.Effect<void, DiskError>
}

interface Parts {
  readonly disk: Disk["Type"]
  readonly segments: Segments
  readonly slots: CursorFile
  readonly letters: DeadLetters
  /** a longer line is not read whole, bytes */
  readonly maxLineBytes: number
  /** held by each group commit, and here while the newest segment is sealed */
  readonly guard: Effect.Semaphore
}

/** Keeps the books of a queue from the state that recovery has found. */
export const make = (parts: Parts, found: { readonly cursor: Cursor; readonly next: number }): Ledger => {
  const { disk, guard, letters, segments, slots } = parts
  let { cursor, next } = found
  /** held while letters and cursor change together: neither may be restored in between */
  const changing = Effect.unsafeMakeSemaphore(1)
  const read = makeBatchReader({ segments, maxLineBytes: parts.maxLineBytes, next: () => next })
  const take: Ledger["take"] = (from, limits) => Effect.suspend(() => read(from ?? cursor, limits))

  const removal = makeRemoval(segments, () => cursor)

  const moveTo = (to: Cursor) =>
    Effect.map(slots.write(to), () => {
      cursor = to
    })

  /**
   * Cursor first, then the segments: a crash in between leaves a delivered segment, which is removed later. If one
   * cannot be removed, then delivery goes on. The next segment's removal and `compact` try again.
   */
  const advance = Effect.fnUntraced(function* (to: Cursor) {
    yield* moveTo(to)
    if (removal.isDue()) yield* Effect.ignore(removal.remove)
  })

  const settle = Effect.fnUntraced(function* (
    batch: Omit<Batch, "release">,
    refusals: ReadonlyArray<Refusal>,
    sealed: LastSeal | undefined
  ) {
    if (batch.records.length === 0 && sealed === undefined) return
    // a try that failed at the cursor may have left its counts on disk, and this try may have other letters
    yield* slots.restore(cursor)
    if (batch.records.length === 0) return yield* moveTo({ ...cursor, seal: sealed })
    const isNew = (record: QueueRecord) => !isCounted(cursor, record)
    // dead letters first: cursor first, then a crash, would lose them. The torn rest of a settled line is no letter.
    const toKeep = refusals.filter(
      // earlier versions counted blank lines as torn
      ({ class: cls, record }) => (cls !== "torn" && cls !== "blank") || isNew(record)
    )
    if (toKeep.length > 0) {
      yield* letters.keep(toKeep, disk.open(segments.pathOf(batch.end.segment), "read"))
    }
    const newRecords = Iterable.filter(batch.records, isNew)
    const kept = refusals.filter(({ record }) => isNew(record))
    // an earlier try may have written a letter for a line that is delivered now
    yield* letters.withdraw(newRecords, kept)
    const to = settled(cursor, batch.end, countNew(newRecords), kept)
    yield* advance(sealed === undefined ? withoutSeal(cursor, to) : { ...to, seal: sealed })
  })

  /** Seals the newest segment if it is delivered; returns whether nothing can be appended to it any more. */
  const seal = (last: Segment) =>
    Effect.suspend(() => {
      const isDelivered = () => cursor.segment === last.first && cursor.offset === last.bytes
      if (!last.live) return Effect.succeed(true)
      if (!isDelivered()) return Effect.succeed(false)
      // under the guard, so that no append comes between the check and the seal. During an append there is nothing to
      // remove, and delivery must not wait for a writer that goes from group to group.
      return guard
        .withPermitsIfAvailable(1)(
          Effect.suspend(() => (isDelivered() ? Effect.as(segments.seal, true) : Effect.succeed(false)))
        )
        .pipe(Effect.map(Option.getOrElse(() => false)))
    })

  const compact = Effect.gen(function* () {
    const last = segments.all.at(-1)
    if (last === undefined && cursor.settled >= next) return true
    if (last !== undefined && !(yield* seal(last))) return false
    const rest = yield* take(undefined, { maxRecords: 1, maxBytes: 1 })
    if (rest.records.length > 0) return false
    return yield* Effect.suspend(() => {
      // in one step with reading `next`: otherwise a segment that was made meanwhile would be skipped
      if (segments.all.at(-1) !== last) return Effect.succeed(false)
      const settled = Math.max(cursor.settled, next)
      const to = { segment: next, offset: 0, sequence: next, settled }
      return moveTo({ ...cursor, ...to, missing: cursor.missing + (settled - cursor.settled) }).pipe(
        Effect.zipRight(removal.remove),
        Effect.as(true)
      )
    }).pipe(changing.withPermits(1))
  })

  /** Counts open letters that were lost as missing. */
  const withoutLostLetters = Effect.map(
    letters.restore((place) => isSettled(cursor, place)),
    (count) => {
      const lost = Math.min(count, cursor.refused)
      cursor = { ...cursor, refused: cursor.refused - lost, missing: cursor.missing + lost }
      return cursor
    }
  )

  return {
    cursor: () => cursor,
    next: () => next,
    number: (lines) => {
      const first = next
      next += lines
      return first
    },
    waitingBytes: () => waitingBytesOf(cursor, segments.all),
    take,
    settle: (batch, refusals, seal) => changing.withPermits(1)(settle(batch, refusals, seal)),
    compact,
    balance: () => balanceOf({ cursor, next, segments: segments.all, decisions: letters.counts() }),
    isWhole: Effect.flatMap(slots.isInPlace, (isThere) =>
      isThere ? letters.isWhole : Effect.succeed(false)
    ),
    restore: changing.withPermits(1)(slots.reopen(withoutLostLetters)),
    forget: segments.dropRemoved
  }
}

/** Removes the segments that are delivered. */
const makeRemoval = (segments: Segments, cursor: () => Cursor) => {
  /** how many segments the last try could not remove, and which of them were logged */
  let stuck = 0
  const known = new Set<number>()
  const delivered = () => segments.all.filter(({ first }) => first < cursor().segment)

  const sayStuck = (first: number, error: DiskError) =>
    Effect.suspend(() => {
      if (known.has(first)) return Effect.void
      known.add(first)
      return Effect.logWarning(
        `audit queue: a segment that is delivered stays on disk: ${error.message}. ` +
          `Delivery goes on, and the removal is tried again.`
      )
    })

  return {
    /** Whether segments were delivered since the last try. */
    isDue: () => delivered().length > stuck,
    /** Tries to remove all of them, and fails with the first error. */
    remove: Effect.gen(function* () {
      const [failed] = yield* Effect.partition(delivered(), (segment) =>
        Effect.tapError(segments.remove(segment), (error) => sayStuck(segment.first, error))
      )
      stuck = failed.length
      if (failed[0] !== undefined) return yield* failed[0]
    })
  }
}

/** The cursor after a batch without a seal: if there ever was a seal, then the next one must mention the batch. */
const withoutSeal = (before: Cursor, to: Cursor): Cursor =>
  to.seal === undefined || to.delivered === before.delivered ? to : { ...to, seal: { ...to.seal, bare: 1 } }

/** The cursor after a batch: `counted` of its records are new, and `refusals` are the refused ones among these. */
const settled = (
  cursor: Cursor,
  end: Position,
  { counted, surplus }: Counts,
  refusals: ReadonlyArray<Refusal>
): Cursor => {
  const torn = refusals.filter((refusal) => refusal.class === "torn").length
  const settled = Math.max(cursor.settled, end.sequence)
  return {
    ...cursor,
    ...end,
    settled,
    delivered: cursor.delivered + counted - refusals.length,
    refused: cursor.refused + refusals.length - torn,
    torn: cursor.torn + torn,
    missing: cursor.missing + (settled - cursor.settled) - (counted - surplus),
    surplus: cursor.surplus + surplus
  }
}

interface Counts {
  readonly counted: number
  /** how many of them have no number */
  readonly surplus: number
}

const countNew = (records: Iterable<QueueRecord>): Counts => {
  let counted = 0
  let surplus = 0
  for (const record of records) {
    counted++
    if (record.surplus) surplus++
  }
  return { counted, surplus }
}
