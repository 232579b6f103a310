/**
 * Recovery: where a queue goes on after a start. First a look at what the disk holds, which the owner shares with
 * `inspect`; then a decision, which is a pure function of it.
 */
import { Effect } from "effect"
import { isBefore, type Place } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import { empty, isRepeated, type Cursor } from "./cursor.js"
import type { DeadLetters } from "./deadLetters.js"
import { MAX_SEQUENCE } from "./fields.js"
import { isLineStart } from "./files.js"
import { countLines } from "./lines.js"
import type { Segment } from "./segments.js"

export interface Found {
  /** in order */
  readonly segments: ReadonlyArray<{ readonly first: number; readonly bytes: number }>
  /** lines of the last segment from {@link tailStart} on, an unterminated end included */
  readonly tailLines: number
  /** the newer slot of the cursor that is whole */
  readonly cursor: Cursor | undefined
  /** whether the cursor's position is the start of a line, or the end of its segment */
  readonly cursorAtLine: boolean
  /** dead letters and torn ends of segments that are gone, for a cursor that is lost */
  readonly lettersBefore: { readonly letters: number; readonly torn: number }
  /** above the number of every dead letter that is not {@link isNumbered} */
  readonly minimumSequence: number
}

export interface Recovered {
  readonly cursor: Cursor
  /** the sequence number of the next line */
  readonly next: number
  /** why the cursor was not taken as it is */
  readonly repair: string | undefined
}

/**
 * From where on the lines of the last segment are counted: from the cursor on if it is there, since lines of failed
 * appends, which have no number, may stand before it.
 */
export const tailStart = (
  found: Pick<Found, "segments" | "cursor" | "cursorAtLine">
): { readonly offset: number; readonly sequence: number } => {
  const { cursor, cursorAtLine, segments } = found
  const last = segments.at(-1)
  if (last === undefined) return { offset: 0, sequence: 0 }
  const isThere = cursor?.segment === last.first && cursor.offset <= last.bytes && cursorAtLine
  return isThere ? cursor : { offset: 0, sequence: last.first }
}

/**
 * Whether the number of a line is certain without its letter, a digit of which may be damaged: the cursor has counted
 * it, or it is below a segment, or it still stands in one.
 */
const isNumbered = ({
  cursor,
  segments
}: Pick<Found, "cursor" | "segments">): ((place: Place) => boolean) => {
  const sizes = new Map(segments.map(({ bytes, first }) => [first, bytes]))
  const last = segments.at(-1)?.first ?? 0
  return (place) =>
    (cursor !== undefined && isBefore(place, cursor)) ||
    place.segment < last ||
    place.offset < (sizes.get(place.segment) ?? 0)
}

/** Looks at the segments, the letters and the newest whole slot of the cursor, and decides. */
export const look = (
  disk: Disk["Type"],
  held: {
    readonly segments: ReadonlyArray<Segment>
    readonly letters: DeadLetters
    readonly cursor: Cursor | undefined
  },
  /** counts the lines of the newest segment from a byte on */
  countTail: (segment: Segment, from: number) => Effect.Effect<number, DiskError>
): Effect.Effect<Recovered, DiskError> =>
  Effect.gen(function* () {
    const { cursor, letters, segments } = held
    const last = segments.at(-1)
    const at = segments.find(({ first }) => first === cursor?.segment)
    const cursorAtLine =
      cursor === undefined || at === undefined || (yield* isLineStart(disk, at, cursor.offset))
    const found = { segments, cursor, cursorAtLine }
    return recover({
      ...found,
      tailLines: last === undefined ? 0 : yield* countTail(last, tailStart(found).offset),
      lettersBefore: letters.counts(segments[0]?.first),
      minimumSequence: letters.nextSequence(isNumbered(found))
    })
  })

/**
 * Counts the lines of the newest segment from a byte on, and makes all of them durable: a process that was killed may
 * have left them in the page cache only, and from now on later numbers rest on them.
 */
export const settleTail = (
  disk: Disk["Type"],
  segment: Segment,
  from: number
): Effect.Effect<number, DiskError> =>
  segment.bytes === 0
    ? Effect.succeed(0)
    : Effect.scoped(
        Effect.gen(function* () {
          const writable = yield* disk.open(segment.path, "sync")
          yield* writable.sync
          const file = yield* disk.open(segment.path, "read")
          return yield* countLines(file, from, segment.bytes)
        })
      )

export const recover = (found: Found): Recovered => {
  const { next, ...recovered } = decide(found)
  return { ...recovered, next: Math.min(next, MAX_SEQUENCE + 1) }
}

const decide = (found: Found): Recovered => {
  const { cursor: stored, segments } = found
  const [oldest] = segments
  const last = segments.at(-1)
  const lines = tailStart(found).sequence + found.tailLines
  // a cursor behind the last segment says where its numbers end: failed appends may have left more lines in it
  const isBehind = stored !== undefined && last !== undefined && stored.segment > last.first
  const end = isBehind ? Math.min(lines, stored.segment) : lines

  if (stored === undefined) {
    const first = oldest?.first ?? found.minimumSequence
    const refused = Math.min(found.lettersBefore.letters, first)
    const torn = Math.min(found.lettersBefore.torn, first - refused)
    const delivered = first - refused - torn
    const cursor: Cursor = {
      ...empty,
      segment: first,
      sequence: first,
      settled: first,
      delivered,
      refused,
      torn
    }
    return {
      cursor,
      next: Math.max(end, first),
      repair: first === 0 && last === undefined ? undefined : "both slots of the cursor are damaged"
    }
  }

  const next = Math.max(end, stored.settled, found.minimumSequence)
  const repair = disagreement(found, stored, end)
  if (repair === undefined) return { cursor: stored, next, repair }
  // everything is delivered again: harmless where the table has the key; what was counted is not counted again
  const first = oldest?.first ?? next
  return {
    cursor: {
      ...stored,
      segment: first,
      offset: 0,
      sequence: Math.min(first, stored.settled),
      ...furthest(stored)
    },
    next,
    repair
  }
}

/** A repair may have been interrupted by another: then its cursor has not come back to where the first one stood. */
const furthest = (cursor: Cursor): Pick<Cursor, "repeatedSegment" | "repeatedOffset"> =>
  isRepeated(cursor, cursor)
    ? { repeatedSegment: cursor.repeatedSegment, repeatedOffset: cursor.repeatedOffset }
    : { repeatedSegment: cursor.segment, repeatedOffset: cursor.offset }

const disagreement = ({ cursorAtLine, segments }: Found, stored: Cursor, end: number): string | undefined => {
  const segment = segments.find(({ first }) => first === stored.segment)
  if (segment !== undefined) {
    if (stored.offset > segment.bytes) return "the cursor is past the end of its segment"
    return cursorAtLine ? undefined : "the cursor is not at the start of a line"
  }
  if (segments.length === 0 || segments.some(({ first }) => first > stored.segment)) return undefined
  // all are older: delivered and not yet removed, if the numbers say so
  return stored.offset === 0 && stored.segment === end ? undefined : "the cursor is ahead of every segment"
}
