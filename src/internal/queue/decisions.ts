/**
 * Decisions: dead letters are retried or discarded, by their owner's program or on request of another process.
 *
 * A retried letter is appended first, then decided: decision first, then a crash, would lose the event. A crash in
 * between appends it once more, under the same id.
 */
import { Clock, Effect, Option, Stream } from "effect"
import { QueueAccessError } from "../../schema/Errors.js"
import { Either } from "../../schema/Effect3.js"
import { RETRIED } from "../../schema/Line.js"
import type { Position } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import type { DeadLetter, QueueFile } from "../../services/QueueFile.js"
import { DAMAGED, type Decision, type DeadLetters, type Entry, type Letter } from "./deadLetters.js"
import { objectOf } from "./lines.js"
import type { Lock } from "./lock.js"
import * as requests from "./requests.js"

type Failure = DiskError | QueueAccessError

interface Parts {
  readonly disk: Disk["Type"]
  readonly directory: string
  readonly letters: DeadLetters
  readonly lock: Lock
  readonly append: QueueFile["Type"]["append"]
  /** a longer line is not appended, bytes */
  readonly maxLineBytes: number
  /** the id of a line that says none */
  readonly eventIdOf: (line: Position & { readonly bytes: Uint8Array }) => string
  /** held by whoever changes the dead letters: a letter is not decided before it counts, and not twice */
  readonly guard: Effect.Semaphore
}

export interface Decisions {
  /** Appends the selected letters again; how many. */
  readonly retry: (select: (letter: DeadLetter) => boolean, by: string) => Effect.Effect<number, Failure>
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
    const { directory, disk, guard, letters, lock } = parts

    const decide = (type: Decision["type"], id: string, by: string) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        lock.whileWriting(letters.decide({ type, id, at: new Date(now).toISOString(), by }))
      )

    /** Appends a letter again and decides it; false if it cannot be a line. */
    const retryOne = (entry: Entry, by: string) =>
      Effect.gen(function* () {
        const letter = yield* letters.read(entry).pipe(
          Effect.catchIf(
            ({ code }) => code === DAMAGED,
            () => Effect.succeed(undefined)
          )
        )
        const again = letter === undefined ? undefined : lineOf(parts, letter)
        if (again === undefined) return false
        yield* Effect.mapError(parts.append(again.line, again.eventId), (error) => {
          const code = "code" in error ? error.code : error._tag
          return new QueueAccessError({ path: directory, code, cause: error })
        })
        yield* decide("retried", entry.letter.id, by)
        return true
      })

    const retry: Decisions["retry"] = (select, by) =>
      Effect.gen(function* () {
        let count = 0
        const fits = (letter: DeadLetter) => letter.length <= parts.maxLineBytes && select(letter)
        for (const entry of yield* letters.open(fits)) if (yield* retryOne(entry, by)) count++
        return count
      })

    const discard = (select: (letter: DeadLetter) => boolean, by: string) =>
      Effect.gen(function* () {
        for (const { letter } of yield* letters.open(select)) yield* decide("discarded", letter.id, by)
      })

    const carryOut = ({ file, request }: { readonly file: string; readonly request: requests.Request }) =>
      Effect.gen(function* () {
        const { action, by, letters: chosen } = request
        const ids = new Set(chosen === "all" ? [] : chosen)
        const select = ({ id }: DeadLetter) => chosen === "all" || ids.has(id)
        yield* action === "retry" ? retry(select, by) : discard(select, by)
        yield* lock.whileWriting(disk.remove(file))
        // carried out once more after a power cut, it would be about letters that nobody has seen
        yield* disk.syncDirectory(requests.directoryOf(directory))
      }).pipe(guard.withPermits(1))

    /** what cannot even be set aside, and was said */
    const leftBroken = new Set<string>()
    const setAside = (broken: requests.Broken) =>
      Effect.gen(function* () {
        const { file, reason } = broken
        if (requests.isAside(broken) || leftBroken.has(file)) return
        const aside = yield* Effect.either(lock.whileWriting(requests.setAside(disk, broken)))
        if (Either.isLeft(aside)) leftBroken.add(file)
        yield* Effect.logWarning(
          `audit queue: ${file} cannot be carried out as a request (${reason}) and ` +
            (Either.isLeft(aside)
              ? `cannot be renamed (${aside.left.code}): remove it`
              : `is ${aside.right} now: repeat the command that has left it, and remove the file`)
        )
      })

    /** held while requests are read, which a disk that hangs may never answer: nobody waits for it */
    const oneByOne = yield* Effect.makeSemaphore(1)
    let isAsked = false
    const all = Effect.gen(function* () {
      isAsked = false
      const { broken, open } = yield* requests.look(disk, directory)
      yield* Effect.forEach(broken, setAside, { discard: true })
      yield* Effect.forEach(open, carryOut, { discard: true })
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
      retry: (select, by) => guard.withPermits(1)(retry(select, by)),
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
  if (letter.line === undefined) return undefined
  const bytes = Buffer.from(letter.line)
  const event = objectOf(bytes)
  // no event, and none by being tried again
  if (event === undefined || Array.isArray(event) || Object.keys(event).length === 0) return undefined
  const known = event.event_id
  if (known !== undefined && typeof known !== "string") return undefined
  const eventId = known ?? eventIdOf({ ...letter, bytes })
  const id = known === undefined ? `"event_id":"${eventId}",` : ""
  const mark = letter.class === "rejected" && !(RETRIED in event) ? `,"${RETRIED}":true` : ""
  const line = `{${id}${letter.line.trim().slice(1, -1)}${mark}}`
  return Buffer.byteLength(line) > maxLineBytes ? undefined : { line: `${line}\n`, eventId }
}
