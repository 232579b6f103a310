/**
 * Decisions: the owner retries or discards dead letters, for its program or at the request of another process.
 *
 * A retried letter is appended first, then decided: decision first, then a crash, would lose the event. If a crash
 * comes in between, then the letter is appended again, under the same id.
 */
import { Effect, Option, Stream } from "effect"
import type { QueueAccessError } from "../../schema/Errors.js"
import { RETRY_BYTES } from "../../schema/Line.js"
import type { Place } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import type { DeadLetter, Permission } from "../../services/QueueFile.js"
import { isSettled, type Cursor } from "./cursor.js"
import { turnEventLoop } from "../turnEventLoop.js"
import type { DeadLetters, Decision, Entry, Page, Selection } from "./deadLetters.js"
import type { Letter } from "./letter.js"
import type { LetterSet } from "./letterSet.js"
import type { Lock } from "./lock.js"
import * as remaining from "./remains.js"
import * as requests from "./requests.js"
import type { Prepared } from "./retries.js"
import type { Segments } from "./segments.js"

type Failure = DiskError | QueueAccessError

interface Parts {
  readonly disk: Disk["Type"]
  readonly directory: string
  readonly letters: DeadLetters
  readonly lock: Lock
  readonly appendAgain: (entries: ReadonlyArray<Entry>) => Effect.Effect<Prepared>
  /** a longer line is not appended, bytes */
  readonly maxLineBytes: number
  readonly segments: Segments
  readonly cursor: () => Cursor
  /** held while dead letters change: no letter is decided before it counts, and none twice */
  readonly guard: Effect.Semaphore
}

/** Has a seal record the permission; returns whether one has. Until then the request stays. */
export type Permit = (file: string, request: Permission) => boolean

/** One write decides a batch, and another one erases it: so many letters, or bytes of content. */
const BATCH_LETTERS = 1000
const BATCH_BYTES = 4 * 1024 * 1024
/** How much of the file one step reads before the guard is released, bytes. */
const SCAN_BYTES = 1024 * 1024

/** Which letters a run is about, and what comes before their decision. */
interface Batch {
  readonly selection: Pick<Selection, "contentBytes" | "select" | "torn">
  readonly prepare: (entries: ReadonlyArray<Entry>) => Effect.Effect<Prepared>
  /** called after each page: whether every selected letter was met, so that the rest of the file is not read */
  readonly isOver: (entries: ReadonlyArray<Entry>) => boolean
}

/** The letters that a run is about, and whether all of them were met. */
type Chosen = Pick<Batch, "isOver"> & { readonly select: (letter: DeadLetter) => boolean }

const chosenBy = (select: Chosen["select"]): Chosen => ({ select, isOver: () => false })

/** The letters of a request; each one that was met is removed from `left`. */
const theseOf = (left: LetterSet): Chosen => ({
  select: ({ id }) => left.has(id),
  isOver: (entries) => {
    for (const { letter } of entries) left.delete(letter.id)
    return left.size === 0
  }
})

export interface Decisions {
  /** Appends the selected letters again; returns how many. */
  readonly retry: (select: (letter: DeadLetter) => boolean, by: string) => Effect.Effect<number, Failure>
  /** Erases what is left of letters that have ended, also by decisions of an earlier process. */
  readonly tidy: Effect.Effect<void>
  /**
   * Carries out the requests of other processes, one after the other. If a run is under way, then it returns at once,
   * and that run looks again at its end.
   */
  readonly carryOutRequests: Effect.Effect<void, Failure>
  /** Sets what handles requests about delivered rows; before that they stay. */
  readonly onPermission: (permit: Permit) => Effect.Effect<void>
  /** Emits at once, and when there may be a new request. */
  readonly changes: Stream.Stream<void, DiskError>
}

export const make = (parts: Parts): Effect.Effect<Decisions> =>
  Effect.gen(function* () {
    const { disk, guard, letters, lock, segments } = parts

    /**
     * Turns the event loop afterwards: a semaphore wakes its next waiter later, and the guard would be taken by then.
     */
    const guarded = <A>(step: Effect.Effect<A, DiskError>) =>
      Effect.zipLeft(guard.withPermits(1)(lock.whileWriting(step)), turnEventLoop)

    const isCounted = (place: Place) => isSettled(parts.cursor(), place)
    const remains = yield* remaining.make({
      disk,
      letters,
      segments,
      guarded,
      writing: lock.whileWriting,
      isCounted
    })

    /**
     * Decides the selected letters batch by batch, and tidies up; returns how many. No step holds the guard for long,
     * so delivery goes on. If it is interrupted, then the batches before it stay decided.
     */
    const decideAll = (type: Decision, batch: Batch, by: string) =>
      Effect.gen(function* () {
        let count = 0
        const select = (letter: Letter) => isCounted(letter) && batch.selection.select(letter)
        const selection = { ...batch.selection, select, limit: BATCH_LETTERS, scanBytes: SCAN_BYTES }
        // in a generator of its own: otherwise a page would stay in memory while the next one is read
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
      }).pipe(Effect.tapBoth({ onFailure: () => remains.tidy, onSuccess: () => remains.tidy }))

    /** Decides a batch. Uninterruptible: a letter that was appended but not decided would be appended again. */
    const decideOne = (type: Decision, batch: Batch, entries: ReadonlyArray<Entry>, by: string) =>
      Effect.gen(function* () {
        const { failure, ready } = yield* batch.prepare(entries)
        const decision = guarded(letters.decide(type, ready, by))
        const decided = yield* type === "retried" ? decision : remains.discarding(ready, decision)
        return { decided, failure }
      }).pipe(Effect.uninterruptible)

    const retry = ({ isOver, select }: Chosen, by: string) => {
      const fits = (letter: DeadLetter) => letter.length <= parts.maxLineBytes + RETRY_BYTES && select(letter)
      const selection = { select: fits, contentBytes: BATCH_BYTES }
      return decideAll("retried", { selection, prepare: parts.appendAgain, isOver }, by)
    }

    const discard = ({ isOver, select }: Chosen, by: string) => {
      const prepare = (ready: ReadonlyArray<Entry>) => Effect.succeed({ ready, failure: undefined })
      return decideAll("discarded", { selection: { select, torn: true }, prepare, isOver }, by)
    }

    /** two runs at once would append a letter twice */
    const oneRun = yield* Effect.makeSemaphore(1)
    const carryOut = ({ action, by, letters: chosen }: requests.Decision) => {
      const meant = chosen === "all" ? chosenBy(() => true) : theseOf(chosen)
      return oneRun.withPermits(1)(action === "retry" ? retry(meant, by) : discard(meant, by))
    }
    const { carryOutRequests, changes, onPermission } = yield* makeRequests(parts, carryOut)

    return {
      retry: (select, by) => oneRun.withPermits(1)(retry(chosenBy(select), by)),
      tidy: remains.tidy,
      carryOutRequests,
      onPermission,
      changes
    }
  })

/** Carries out the requests of other processes, and tells when there may be new ones. */
const makeRequests = (
  { directory, disk, lock }: Parts,
  carryOut: (request: requests.Decision) => Effect.Effect<unknown, Failure>
) =>
  Effect.gen(function* () {
    const setAside = yield* requests.makeSetAside(disk, lock.whileWriting)
    /** held while requests are read; nobody waits for it, since a disk that hangs may never answer */
    const oneByOne = yield* Effect.makeSemaphore(1)
    let isAsked = false
    let permit: Permit | undefined

    /** Returns whether the file was removed. */
    const carryOutFile = ({ file, request }: { readonly file: string; readonly request: requests.Request }) =>
      Effect.gen(function* () {
        // a permission stays until a seal has recorded it
        if (!requests.isPermission(request)) yield* carryOut(request)
        else if (permit?.(file, request) !== true) return false
        yield* lock.whileWriting(disk.remove(file))
        // if a power cut brought the request back, then it would decide letters that nobody has seen
        yield* disk.syncDirectory(requests.directoryOf(directory))
        return true
      })

    const all = Effect.gen(function* () {
      isAsked = false
      for (let hasMore = true; hasMore;) {
        const found = yield* requests.look(disk, directory)
        yield* setAside(found.broken)
        const gone = yield* Effect.forEach(found.open, carryOutFile)
        hasMore = found.hasMore && gone.includes(true)
      }
    })
    const serve: Effect.Effect<void, Failure> = oneByOne
      .withPermitsIfAvailable(1)(all)
      .pipe(Effect.flatMap((served) => (Option.isSome(served) && isAsked ? serve : Effect.void)))

    /** The directory is gone: waits until its removal has probably ended, then makes it again. */
    const pause = Stream.drain(
      Stream.fromEffect(Effect.zipRight(Effect.sleep("1 second"), Effect.ignore(lock.keepDirectory)))
    )
    const watch = Stream.forever(Stream.concat(requests.watch(disk, directory), pause))

    return {
      carryOutRequests: Effect.suspend(() => {
        isAsked = true
        return serve
      }),
      onPermission: (given) =>
        Effect.sync(() => {
          permit = given
        }),
      changes: Stream.flatMap(lock.places, () => watch, { switch: true })
    } satisfies Partial<Decisions>
  })
