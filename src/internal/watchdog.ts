/**
 * Ends what takes too long. `Effect.timeout` forks two fibers for each use, and what it bounds starts only after
 * whatever is ready to run; this is one fiber, and one timer for as long as something is under way.
 */
import { Effect, type Scope } from "effect"
import { contained, supervised } from "./contained.js"
import { monotonicMillis } from "./monotonic.js"
import { turnEventLoop } from "./turnEventLoop.js"

/** Something that is under way, one at a time; the same object for as long as it is. */
export interface UnderWay {
  /** of the clock that nobody sets: `monotonicMillis` */
  readonly startedAt: number
}

/**
 * The time is counted in so many pieces, each by a timer. A loop that is blocked counts one piece, however long it is:
 * what is watched could not have been answered, nor ask for its next step.
 */
const PIECES = 8

/** Watches until the scope closes; what it makes is to be called whenever something has started. */
export const make = <A extends UnderWay>(options: {
  readonly current: () => A | undefined
  readonly timeoutMillis: number
  /** ends what is still under way after that time; afterwards it no longer is */
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
        // it started within the piece before, or the loop was blocked since
        left = options.timeoutMillis - Math.min(piece, monotonicMillis(clock) - current.startedAt)
      }
      const slept = Math.min(left, piece)
      yield* Effect.sleep(slept)
      left -= slept
      if (left > 0 || options.current() !== watched) return
      // timers come before answers: those that are there already count
      yield* turnEventLoop
      if (options.current() === watched) yield* Effect.uninterruptible(options.expire(watched))
    })
    yield* Effect.forkScoped(contained(supervised("a watchdog", Effect.forever(watch))))

    return () => wake?.()
  })
