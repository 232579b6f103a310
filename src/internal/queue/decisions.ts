/**
 * Decisions: dead letters are retried or discarded, by their owner's program or on request of another process.
 *
 * A retried letter is appended first, then decided: decision first, then a crash, would lose the event. A crash in
 * between appends it once more, under the same id.
 */
import { Array as Arr, Effect, Option, Stream } from "effect"
import { isUtf8 } from "node:buffer"
import { QueueAccessError } from "../../schema/Errors.js"
import { RETRIED, RETRY_BYTES, RETRY_MARK } from "../../schema/Line.js"
import type { Place, Position } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import type { DeadLetter } from "../../services/QueueFile.js"
import type { Appends } from "./append.js"
import { isSettled, type Cursor } from "./cursor.js"
import { turnEventLoop } from "../turnEventLoop.js"
import type { DeadLetters, Decision, Entry, Page, Selection } from "./deadLetters.js"
import { eraseLines as eraseInSegment } from "./erasure.js"
import type { Letter } from "./letter.js"
import { objectOf } from "./lines.js"
import { CLOSED, type Lock } from "./lock.js"
import * as requests from "./requests.js"
import type { Segments } from "./segments.js"

type Failure = DiskError | QueueAccessError

interface Parts {
  readonly disk: Disk["Type"]
  readonly directory: string
  readonly letters: DeadLetters
  readonly lock: Lock
  /** several lines are appended at once, or none of them */
  readonly append: Appends["add"]
  /** a longer line is not appended, bytes */
  readonly maxLineBytes: number
  /** the id of a line that says none */
  readonly eventIdOf: (line: Position & { readonly bytes: Uint8Array }) => string
  readonly segments: Segments
  readonly cursor: () => Cursor
  /** held by whoever changes the dead letters: a letter is not decided before it counts, and not twice */
  readonly guard: Effect.Semaphore
}

/**
 * A batch is decided by one write, and erased by another: so many letters, bytes with their content. So much of the file
 * is looked at before others have their turn.
 */
const BATCH_LETTERS = 1000
const BATCH_BYTES = 4 * 1024 * 1024
const SCAN_BYTES = 1024 * 1024

/** Which letters a run is about, and what comes before their decision. */
interface Batch {
  readonly selection: Pick<Selection, "contentBytes" | "select" | "torn">
  readonly prepare: (entries: ReadonlyArray<Entry>) => Effect.Effect<Prepared>
  /** called after each page: whether no other letter can be meant, so that the rest of the file is not read */
  readonly isOver: (entries: ReadonlyArray<Entry>) => boolean
}

/** The letters that a run is about, and whether all of them were met. */
type Chosen = Pick<Batch, "isOver"> & { readonly select: (letter: DeadLetter) => boolean }

/** The letters that can be decided, and why others cannot. */
interface Prepared {
  readonly ready: ReadonlyArray<Entry>
  readonly failure: Failure | undefined
}

const chosenBy = (select: Chosen["select"]): Chosen => ({ select, isOver: () => false })

const theseOf = (letters: ReadonlyArray<string>): Chosen => {
  const left = new Set(letters)
  return {
    select: ({ id }) => left.has(id),
    isOver: (entries) => {
      for (const { letter } of entries) left.delete(letter.id)
      return left.size === 0
    }
  }
}

const NONE: Prepared = { ready: [], failure: undefined }

/** A letter as the line that is appended again. */
interface Again {
  readonly entry: Entry
  readonly line: string
  readonly eventId: string
}

export interface Decisions {
  /** Appends the selected letters again; how many. */
  readonly retry: (select: (letter: DeadLetter) => boolean, by: string) => Effect.Effect<number, Failure>
  /** Erases what is left of letters that are none any more, and of what an earlier process has decided. */
  readonly tidy: Effect.Effect<void>
  /**
   * Carries out what other processes have asked for, one request after the other. If that is under way already, then it
   * looks once more afterwards, and nobody waits for it.
   */
  readonly carryOutRequests: Effect.Effect<void, Failure>
  /** Emits at once, and when there may be a new request. */
  readonly changes: Stream.Stream<void, DiskError>
}

export const make = (parts: Parts): Effect.Effect<Decisions> =>
  Effect.gen(function* () {
    const { directory, disk, guard, letters, lock, segments } = parts

    /** Steps aside afterwards: a semaphore wakes who waits in a later task, and the guard would be taken again by then. */
    const guarded = <A>(step: Effect.Effect<A, DiskError>) =>
      Effect.zipLeft(guard.withPermits(1)(lock.whileWriting(step)), turnEventLoop)

    const isCounted = (place: Place) => isSettled(parts.cursor(), place)

    /**
     * Decides the selected letters batch by batch, and tidies up; how many. The guard is held for a part of a batch, so
     * that delivery goes on, and what is done when it is interrupted is done.
     */
    const decideAll = (type: Decision, batch: Batch, by: string) =>
      Effect.gen(function* () {
        let count = 0
        const select = (letter: Letter) => isCounted(letter) && batch.selection.select(letter)
        const selection = { ...batch.selection, select, limit: BATCH_LETTERS, scanBytes: SCAN_BYTES }
        // a step of its own: a page would otherwise stay while the next one is read
        const step = (from: number) =>
          Effect.gen(function* () {
            const { entries, next }: Page = yield* guarded(letters.page({ ...selection, from }))
            const { decided, failure } = yield* decideOne(type, batch, entries, by)
            count += decided
            if (failure !== undefined) return yield* failure
            return batch.isOver(entries) ? undefined : next
          })
        for (let from: number | undefined = 0; from !== undefined;) from = yield* step(from)
        return count
      }).pipe(Effect.tapBoth({ onFailure: () => tidy, onSuccess: () => tidy }))

    /** Decides a batch. Not interrupted: a letter that was appended again would be appended once more. */
    const decideOne = (type: Decision, batch: Batch, entries: ReadonlyArray<Entry>, by: string) =>
      Effect.gen(function* () {
        const { failure, ready } = yield* batch.prepare(entries)
        if (type === "discarded") hasLines = true
        const decided = yield* guarded(letters.decide(type, ready, by))
        if (type === "discarded") yield* erasingLines(eraseLines(ready.map(({ letter }) => letter)))
        return { decided, failure }
      }).pipe(Effect.uninterruptible)

    /** whether the line of a discarded letter may stand in a segment */
    let hasLines = true

    /** Erases the lines of discarded letters, where their segments are still there. */
    const eraseLines = (places: ReadonlyArray<Place>) =>
      Effect.suspend(() => {
        if (segments.all.length === 0) return Effect.void
        const bySegment = Arr.groupBy(places.filter(isCounted), ({ segment }) => String(segment))
        return Effect.forEach(
          [...segments.all],
          ({ first, path }) => {
            const offsets = (bySegment[first] ?? []).map(({ offset }) => offset)
            return offsets.length === 0 ? Effect.void : guarded(eraseInSegment(disk, path, offsets))
          },
          { discard: true }
        )
      })

    /** What is not erased now, since the disk is full or ill, is tried again with the next decision, and at a start. */
    const makeErasing = () => {
      /** said once, not for each try */
      let said: string | undefined
      return (erasure: Effect.Effect<void, DiskError>) =>
        Effect.matchEffect(erasure, {
          onSuccess: () => Effect.sync(() => (said = undefined)),
          onFailure: ({ code, message }) => {
            if (code === CLOSED || said === message) return Effect.void
            said = message
            return Effect.logWarning(
              `audit queue: what was decided is not erased yet (${message}): it is erased with the next decision, or at ` +
                `the next start`
            )
          }
        })
    }
    const [erasingLines, erasingLetters] = [makeErasing(), makeErasing()]
    const eraseDiscarded = Effect.suspend(() => {
      const [oldest] = segments.all
      const places = oldest === undefined ? [] : letters.discarded(oldest.first)
      hasLines = false
      return eraseLines(places).pipe(
        Effect.onError(() =>
          Effect.sync(() => {
            hasLines = true
          })
        )
      )
    })
    /** one at a time: two would write one file of heads */
    const tidying = yield* Effect.makeSemaphore(1)
    const tidy = Effect.suspend(() => (hasLines ? erasingLines(eraseDiscarded) : Effect.void)).pipe(
      Effect.zipRight(
        Effect.suspend(() => (letters.isUntidy() ? erasingLetters(letters.tidy(guarded)) : Effect.void))
      ),
      tidying.withPermits(1)
    )

    /** Appends letters again; those that cannot be lines stay. */
    const appendAgain = (entries: ReadonlyArray<Entry>) => {
      const again = entries.flatMap((entry) => {
        const line = lineOf(parts, entry.letter)
        return line === undefined ? [] : [{ ...line, entry }]
      })
      return Arr.isNonEmptyReadonlyArray(again) ? appendLines(again) : Effect.succeed(NONE)
    }

    /** At once; where there is no room for all of them, one half after the other. */
    const appendLines = (again: Arr.NonEmptyReadonlyArray<Again>): Effect.Effect<Prepared> =>
      Effect.matchEffect(
        parts.append(again.map(({ line }) => line).join(""), again[0].eventId, again.length),
        {
          onSuccess: () => Effect.succeed({ ready: again.map(({ entry }) => entry), failure: undefined }),
          onFailure: (error) => {
            if (error._tag === "QueueFull" && again.length > 1) return appendHalves(again)
            const code = "code" in error ? error.code : error._tag
            const failure = new QueueAccessError({ path: directory, code, cause: error })
            return Effect.succeed({ ready: [], failure })
          }
        }
      )

    const appendHalves = (again: ReadonlyArray<Again>) =>
      Effect.gen(function* () {
        const ready: Array<Entry> = []
        for (const half of Arr.splitAt(again, again.length >> 1)) {
          const done = yield* Arr.isNonEmptyReadonlyArray(half) ? appendLines(half) : Effect.succeed(NONE)
          ready.push(...done.ready)
          if (done.failure !== undefined) return { ready, failure: done.failure }
        }
        return { ready, failure: undefined }
      })

    const retry = ({ isOver, select }: Chosen, by: string) => {
      const fits = (letter: DeadLetter) => letter.length <= parts.maxLineBytes + RETRY_BYTES && select(letter)
      const selection = { select: fits, contentBytes: BATCH_BYTES }
      return decideAll("retried", { selection, prepare: appendAgain, isOver }, by)
    }

    const discard = ({ isOver, select }: Chosen, by: string) => {
      const prepare = (ready: ReadonlyArray<Entry>) => Effect.succeed({ ready, failure: undefined })
      return decideAll("discarded", { selection: { select, torn: true }, prepare, isOver }, by)
    }

    const carryOut = ({ file, request }: { readonly file: string; readonly request: requests.Request }) =>
      Effect.gen(function* () {
        const { action, by, letters: chosen } = request
        const meant = chosen === "all" ? chosenBy(() => true) : theseOf(chosen)
        yield* oneRun.withPermits(1)(action === "retry" ? retry(meant, by) : discard(meant, by))
        yield* lock.whileWriting(disk.remove(file))
        // carried out once more after a power cut, it would be about letters that nobody has seen
        yield* disk.syncDirectory(requests.directoryOf(directory))
      })

    const setAside = yield* requests.makeSetAside(disk, lock.whileWriting)

    /** two would append a letter twice */
    const oneRun = yield* Effect.makeSemaphore(1)
    /** held while requests are read, which a disk that hangs may never answer: nobody waits for it */
    const oneByOne = yield* Effect.makeSemaphore(1)
    let isAsked = false
    const all = Effect.gen(function* () {
      isAsked = false
      for (let hasMore = true; hasMore;) {
        const found = yield* requests.look(disk, directory)
        yield* setAside(found.broken)
        yield* Effect.forEach(found.open, carryOut, { discard: true })
        hasMore = found.hasMore
      }
    })
    const serve: Effect.Effect<void, Failure> = oneByOne
      .withPermitsIfAvailable(1)(all)
      .pipe(Effect.flatMap((served) => (Option.isSome(served) && isAsked ? serve : Effect.void)))

    /** The directory is gone, or was made anew: whoever removes it is to be done first. */
    const pause = Stream.drain(
      Stream.fromEffect(Effect.zipRight(Effect.sleep("1 second"), Effect.ignore(lock.keepDirectory)))
    )
    const watch = Stream.forever(Stream.concat(requests.watch(disk, directory), pause))

    return {
      retry: (select, by) => oneRun.withPermits(1)(retry(chosenBy(select), by)),
      tidy,
      carryOutRequests: Effect.suspend(() => {
        isAsked = true
        return serve
      }),
      changes: Stream.flatMap(lock.places, () => watch, { switch: true })
    }
  })

/**
 * The line of a letter, with its event id, which was derived from where the line stood; marked if it was rejected.
 * As a text, since a number that JavaScript cannot hold would not come back.
 */
const lineOf = ({ eventIdOf, maxLineBytes }: Parts, letter: Letter) => {
  const text = letter.line ?? (letter.base64 === undefined ? undefined : textOf(letter.base64))
  if (text === undefined) return undefined
  const bytes = Buffer.from(text)
  const event = objectOf(bytes)
  // no event, and none by being tried again
  if (event === undefined || Array.isArray(event) || Object.keys(event).length === 0) return undefined
  const isMarked = RETRIED in event
  // an earlier retry may have made it longer
  if (bytes.length > maxLineBytes + (isMarked ? RETRY_BYTES : 0)) return undefined
  const known = event.event_id
  if (known !== undefined && typeof known !== "string") return undefined
  const eventId = known ?? eventIdOf({ ...letter, bytes })
  const id = known === undefined ? `"event_id":"${eventId}",` : ""
  const line = `{${id}${text.trim().slice(1, -1)}`
  const isTooLong = Buffer.byteLength(line) + 1 > maxLineBytes
  const isToMark = !isMarked && (letter.class === "rejected" || isTooLong)
  return { line: `${line}${isToMark ? RETRY_MARK : "}"}\n`, eventId }
}

const textOf = (base64: string) => {
  const bytes = Buffer.from(base64, "base64")
  return isUtf8(bytes) ? bytes.toString("utf8") : undefined
}
