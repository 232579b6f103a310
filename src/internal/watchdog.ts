/**
 * The watchdog: ends what takes too long, with one fiber, and one timer while something is under way.
 *
 * `Effect.timeout` would fork two fibers for each use, and start the work only after everything that is ready to run.
 */
import { Effect, type Scope } from "effect"
import { contained, supervised } from "./contained.js"
import { monotonicMillis } from "./monotonic.js"
import { turnEventLoop } from "./turnEventLoop.js"

/** Something that is under way, one at a time. Invariant: the same object from its start to its end. */
export interface UnderWay {
  /** in `monotonicMillis` */
  readonly startedAt: number
}

/**
 * The time-out is split into so many pieces, each with a timer. A blocked event loop counts as one piece, however long:
 * meanwhile nothing could be answered, nor take its next step.
 */
const PIECES = 8

/** Watches until the scope closes. The function that it returns must be called whenever something has started. */
export const make = <A extends UnderWay>(options: {
  readonly current: () => A | undefined
  readonly timeoutMillis: number
  /** ends what is still under way after `timeoutMillis`; afterwards `current` must not return it */
  readonly expire: (expired: A) => Effect.Effect<void>
}): Effect.Effect<() => void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const piece = options.timeoutMillis / PIECES
    let wake: (() => void) | undefined
    const nextStart = Effect.async<void>((resume) => {
      if (options.current() !== undefined) return resume(Effect.void)
      wake = () => {
        wake = undefined
        resume(Effect.void)
      }
    })

    let watched: A | undefined
    let left = 0
    const watch = Effect.gen(function* () {
      const current = options.current()
      if (current === undefined) {
        watched = undefined
        return yield* nextStart
      }
      if (current !== watched) {
        watched = current
        // it started within the last piece, or the event loop was blocked since
        left = options.timeoutMillis - Math.min(piece, monotonicMillis(clock) - current.startedAt)
      }
      const slept = Math.min(left, piece)
      yield* Effect.sleep(slept)
      left -= slept
      if (left > 0 || options.current() !== watched) return
      // timers run before answers: an answer that has already arrived counts
      yield* turnEventLoop
      if (options.current() === watched) yield* Effect.uninterruptible(options.expire(watched))
    })
    yield* Effect.forkScoped(contained(supervised("a watchdog", Effect.forever(watch))))

    return () => wake?.()
  })
