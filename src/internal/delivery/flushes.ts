/** Flushes: callers who wait until earlier events are delivered, or an attempt has failed. */
import { Array as Arr, Deferred, Effect } from "effect"
import { FlushError } from "../../schema/Errors.js"
import type { QueueFile } from "../../services/QueueFile.js"

export interface Flush {
  /** it waits for all lines below this number */
  readonly target: number
  readonly done: Deferred.Deferred<void, FlushError>
}

export interface Flushes {
  readonly waiting: () => ReadonlyArray<Flush>
  /** Adds a caller, who waits for all earlier appends. */
  readonly add: Effect.Effect<Flush>
  /** Whether a caller waits for lines below this number, and for no others. */
  readonly isAwaited: (sequence: number) => boolean
  readonly complete: (isComplete: (flush: Flush) => boolean) => Effect.Effect<void>
  /** Fails these callers, and tells them how many events wait. */
  readonly fail: (served: ReadonlyArray<Flush>, cause: unknown) => Effect.Effect<void>
}

export const make = (queue: QueueFile["Type"]): Flushes => {
  let waiting: ReadonlyArray<Flush> = []

  const takeOut = (isMeant: (flush: Flush) => boolean): ReadonlyArray<Flush> => {
    const [others, meant] = Arr.partition(waiting, isMeant)
    waiting = others
    return meant
  }

  return {
    waiting: () => waiting,
    add: Effect.gen(function* () {
      const { next } = yield* queue.progress
      const flush: Flush = { target: next, done: yield* Deferred.make<void, FlushError>() }
      waiting = [...waiting, flush]
      return flush
    }),
    isAwaited: (sequence) => waiting.some(({ target }) => target <= sequence),
    complete: (isComplete) =>
      Effect.suspend(() =>
        Effect.forEach(takeOut(isComplete), ({ done }) => Deferred.succeed(done, undefined), {
          discard: true
        })
      ),
    fail: (served, cause) =>
      Effect.gen(function* () {
        const failed = takeOut((flush) => served.includes(flush))
        const { next, settled } = yield* queue.progress
        const error = new FlushError({ waiting: next - settled, cause })
        yield* Effect.forEach(failed, ({ done }) => Deferred.fail(done, error), { discard: true })
      })
  }
}
