/**
 * The lock: one owner of a directory, and no late write after it.
 *
 * An expired write may still reach the disk. The lock is kept until it has, so that it cannot meet the next owner. If
 * somebody removes the directory, then the owner makes and locks it again before it writes anything.
 */
import { Duration, Effect, Exit, Option, Schedule, Scope, Stream, SubscriptionRef } from "effect"
import { randomUUID } from "node:crypto"
import { QueueLocked, type QueueOpenError } from "../../schema/Errors.js"
import { DiskError, LOCK_LOST, type Disk } from "../../services/Disk.js"
import { stopwatch } from "../monotonic.js"
import * as directories from "./directory.js"

export interface Lock {
  /**
   * Makes sure that the directory is ours and whole. If somebody has removed it, or a part, then it is made again,
   * unless another process has done so. It counts as a write; after the close it makes nothing.
   */
  readonly keepDirectory: Effect.Effect<void, DiskError>
  /** Emits at once, and whenever the directory was made again. */
  readonly places: Stream.Stream<void>
  /** Runs a write and keeps the lock until it has ended; fails after the close. */
  readonly whileWriting: <A, E>(write: Effect.Effect<A, E>) => Effect.Effect<A, E | DiskError>
  /** A write during opening. Interrupting it does not wait; releasing the lock does. */
  readonly detachedWrite: <A, E>(write: Effect.Effect<A, E>) => Effect.Effect<A, E | DiskError>
  /** Hot path: counts a write that begins, and ends with {@link Lock.end}, in place of `whileWriting`. */
  readonly begin: () => void
  readonly end: () => Effect.Effect<void>
  /** Sets the contents for a directory that was removed; without them it is not made again. */
  readonly restoreWith: (contents: Contents) => void
}

/** What the owner writes to a directory that was removed and made again. */
export interface Contents {
  readonly queueId: string
  /** Whether the cursor and the dead letters exist. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  /** Writes the letters' decisions and the cursor; false if another process has used the directory meanwhile. */
  readonly restore: Effect.Effect<boolean, DiskError>
  /** Forgets the segments that were lost; runs once the directory is locked. */
  readonly forget: Effect.Effect<void, DiskError>
}

interface Options {
  readonly wait: Duration.Duration | undefined
  readonly isCommand: boolean
  readonly unsafeFileSystem: boolean
}

/** The code for a write after the close. */
export const CLOSED = "EBADF"

/** Takes the lock until the scope closes and every write has ended. */
export const acquire = (
  disk: Disk["Type"],
  directory: string,
  options: Options
): Effect.Effect<Lock, QueueOpenError | QueueLocked, Scope.Scope> =>
  Effect.gen(function* () {
    const hold = yield* makeHold(disk, directory, options)
    /** how many writes have not ended; some may have expired */
    let unanswered = 0
    /** set when the queue is closed */
    let release: Effect.Effect<void> | undefined

    yield* Effect.addFinalizer((exit) =>
      // a late write must not meet the next owner: the lock stays until the disk answers, or the process ends
      Effect.suspend(() => {
        release = hold.release(exit)
        return unanswered === 0 ? release : Effect.void
      })
    )
    yield* hold.take

    const begin = () => {
      unanswered++
    }
    const end = (): Effect.Effect<void> =>
      --unanswered === 0 && release !== undefined ? release : Effect.void

    const closed = () =>
      new DiskError({
        operation: "write",
        path: directory,
        code: CLOSED,
        cause: new Error("the queue is closed")
      })
    const whileWriting: Lock["whileWriting"] = (write) =>
      Effect.suspend(() => {
        if (release !== undefined) return closed()
        begin()
        return Effect.ensuring(Effect.uninterruptible(Effect.zipRight(hold.keep, write)), Effect.suspend(end))
      })

    return {
      keepDirectory: Effect.suspend(() =>
        release === undefined
          ? whileWriting(Effect.void)
          : Effect.flatMap(hold.isInPlace, (isInPlace) => (isInPlace ? Effect.void : closed()))
      ),
      places: hold.places,
      whileWriting,
      detachedWrite: (write) => Effect.disconnect(whileWriting(write)),
      begin,
      end,
      restoreWith: hold.restoreWith
    }
  })

/** The hold on a directory: its lock, taken again if the directory was removed. */
interface Hold extends Pick<Lock, "places" | "restoreWith"> {
  readonly take: Effect.Effect<void, QueueOpenError | QueueLocked>
  /** Whether the lock's file is where it was. */
  readonly isInPlace: Effect.Effect<boolean, DiskError>
  /** Makes again what was removed, unless another process has. */
  readonly keep: Effect.Effect<void, DiskError>
  readonly release: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
}

const ANOTHER =
  "the directory was removed under this program, and another process has made it anew; start this program again"
const OLDER =
  "the files in it are not those that this program has left: an older copy was put back, or another process has used " +
  "them; start this program again"

const makeHold = (disk: Disk["Type"], directory: string, options: Options): Effect.Effect<Hold> =>
  Effect.gen(function* () {
    let scope = yield* Scope.make()
    let taken: Taken | undefined
    let contents: Contents | undefined
    const remaking = yield* Effect.makeSemaphore(1)
    /** how often the directory was made again */
    const times = yield* SubscriptionRef.make(0)

    const isInPlace = Effect.suspend(() => taken?.isInPlace ?? Effect.succeed(false))

    const lost = (reason: unknown) =>
      new DiskError({
        operation: "lock",
        path: `${directory}/lock`,
        code: LOCK_LOST,
        cause: typeof reason === "string" ? new Error(reason) : reason
      })

    /** Writes what the locked directory lacks. */
    const refill = ({ queueId, restore }: Contents) =>
      Effect.gen(function* () {
        const found = yield* directories.identify(disk, directory, queueId)
        if (found !== queueId) return yield* lost(ANOTHER)
        if (!(yield* restore)) return yield* lost(OLDER)
      })

    /** Makes and locks the directory; closing the scope releases the lock. */
    const remakeIn = (into: Scope.Scope, contents: Contents) =>
      Effect.gen(function* () {
        yield* directories.prepare(disk, directory, options)
        // look before the lock: if another process has a queue here now, then its next start must not meet our lock
        const found = yield* directories.queueIdOf(disk, directory)
        if (Option.isSome(found) && found.value !== contents.queueId) return yield* lost(ANOTHER)
        // lock before anything is written
        const again = yield* Scope.extend(take(disk, directory, { ...options, wait: Duration.zero }), into)
        yield* refill(contents)
        return again
      })

    /** Locks the new directory, and releases the old lock. */
    const relock = (contents: Contents) =>
      Effect.gen(function* () {
        const renewed = yield* Scope.make()
        taken = yield* remakeIn(renewed, contents).pipe(
          Effect.onError((cause) => Scope.close(renewed, Exit.failCause(cause)))
        )
        const old = scope
        scope = renewed
        yield* Scope.close(old, Exit.void)
      })

    const remake = Effect.gen(function* () {
      const isThere = yield* isInPlace
      if (contents === undefined) {
        if (isThere) return
        return yield* lost("the directory was removed while it was opened; start this program again")
      }
      if (isThere && (yield* contents.isWhole)) return
      yield* (isThere ? refill(contents) : relock(contents)).pipe(
        Effect.catchTags({
          QueueOpenError: (error) => lost(error),
          QueueLocked: () => lost(ANOTHER)
        })
      )
      yield* contents.forget
      yield* SubscriptionRef.update(times, (count) => count + 1)
      yield* Effect.logWarning(
        `audit queue: ${directory}${isThere ? ", or a part of it," : ""} was removed under this program, which has ` +
          `made it anew: events go on, and what was lost with it counts as missing`
      )
    }).pipe(Effect.uninterruptible, remaking.withPermits(1))

    const isKept = Effect.flatMap(isInPlace, (isThere) =>
      isThere && contents !== undefined ? contents.isWhole : Effect.succeed(isThere)
    )

    return {
      take: Effect.map(Scope.extend(take(disk, directory, options), scope), (first) => {
        taken = first
      }),
      isInPlace,
      keep: Effect.flatMap(isKept, (kept) => (kept ? Effect.void : remake)),
      places: Stream.map(times.changes, () => undefined),
      restoreWith: (given) => {
        contents = given
      },
      // the scope at the time of the release: a directory that was made again has another lock
      release: (exit) => Effect.suspend(() => Scope.close(scope, exit))
    }
  })

interface Owner {
  readonly pid: number
  /** tells this process from one with the same pid in another container */
  readonly process: string
  /** set by the command, which soon releases the lock */
  readonly command?: true
}

const thisProcess: string = ((globalThis as Record<symbol, unknown>)[Symbol.for("effect-audit/process")] ??=
  randomUUID()) as string

/** The default wait for the command, which mostly holds a queue for less than a second. */
const COMMAND_WAIT = Duration.seconds(10)

interface Taken {
  /** Whether the lock's file is where it was. If somebody removed the directory, then it may have another owner now. */
  readonly isInPlace: Effect.Effect<boolean, DiskError>
}

/** Takes the lock of the directory until the scope closes. */
const take = (
  disk: Disk["Type"],
  directory: string,
  options: { readonly wait: Duration.Duration | undefined; readonly isCommand: boolean }
): Effect.Effect<Taken, QueueOpenError | QueueLocked, Scope.Scope> => {
  const owner: Owner = {
    pid: process.pid,
    process: thisProcess,
    ...(options.isCommand ? { command: true } : {})
  }
  const attempt = disk.lock(`${directory}/lock`, JSON.stringify(owner)).pipe(
    Effect.mapError(directories.openError(directory)),
    Effect.flatMap((result) => {
      if (result.acquired) return Effect.succeed(result)
      const other = Option.getOrUndefined(
        Option.liftThrowable(() => JSON.parse(result.content) as Partial<Owner>)()
      )
      return new QueueLocked({
        directory,
        pid: typeof other?.pid === "number" ? other.pid : undefined,
        sameProcess: other?.process === thisProcess,
        command: other?.command === true
      })
    })
  )
  const patienceWith = (error: QueueOpenError | QueueLocked) => {
    if (error._tag !== "QueueLocked") return Duration.zero
    return options.wait ?? (error.command === true ? COMMAND_WAIT : Duration.zero)
  }
  return Effect.flatMap(stopwatch, (elapsed) =>
    Effect.retry(attempt, {
      while: (error) => elapsed() < Duration.toMillis(patienceWith(error)),
      schedule: Schedule.spaced("200 millis")
    })
  )
}
