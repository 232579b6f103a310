/**
 * Recovery: where a queue continues after a start. First `look` reads the disk, for the owner and for `inspect` alike.
 * Then `recover` decides, as a pure function.
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
  /** lines of the last segment from {@link tailStart} on, including an unterminated end */
  readonly tailLines: number
  /** the newest whole slot of the cursor */
  readonly cursor: Cursor | undefined
  /** whether the cursor is at the start of a line, or at the end of its segment */
  readonly cursorAtLine: boolean
  /** dead letters and torn ends of segments that are gone, in case the cursor is lost */
  readonly lettersBefore: { readonly letters: number; readonly torn: number }
  /** above the number of every dead letter whose place is not {@link isNumbered} */
  readonly minimumSequence: number
}

export interface Recovered {
  readonly cursor: Cursor
  /** the sequence number of the next line */
  readonly next: number
  /** why the cursor had to be changed; undefined if it was not */
  readonly repair: string | undefined
}

/**
 * Where counting the lines of the last segment begins: at the cursor, if it is in this segment. Lines of failed
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
 * Whether a line's number is certain without its letter, which may have a damaged digit. It is, if the cursor has
 * counted the line, or a later segment exists, or a segment still holds the line.
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

/** Reads the segments and the letters, and recovers from them and the newest whole slot of the cursor. */
export const look = (
  disk: Disk["Type"],
  held: {
    readonly segments: ReadonlyArray<Segment>
    readonly letters: DeadLetters
    readonly cursor: Cursor | undefined
  },
  /** counts the lines of the newest segment from an offset on */
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
 * Counts the lines of the newest segment from an offset on, and makes the whole segment durable. A process that was
 * killed may have left lines only in the page cache, and all later numbers depend on them.
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
  // a cursor after the last segment tells where its numbers end: failed appends may have left more lines in it
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
  // deliver everything again: harmless if the table has the key, and no line is counted twice
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

/** The end of the lines to repeat. If an earlier repair was interrupted, then its end is the furthest. */
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
  // all segments are older: if the numbers fit, then they are delivered and not yet removed
  return stored.offset === 0 && stored.segment === end ? undefined : "the cursor is ahead of every segment"
}
