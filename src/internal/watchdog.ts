/**
 * Ends what takes too long. `Effect.timeout` forks two fibers for each use, and what it bounds starts only after
 * whatever is ready to run; this is one fiber, and one timer for as long as something is under way.
 */
import { Clock, Effect, type Scope } from "effect"
import { contained, supervised } from "./contained.js"

/** Something that is under way, one at a time; the same object for as long as it is. */
export interface UnderWay {
  /** milliseconds since 1970 UTC */
  readonly startedAt: number
}

/** Watches until the scope closes; what it makes is to be called whenever something has started. */
export const make = <A extends UnderWay>(options: {
  readonly current: () => A | undefined
  readonly timeoutMillis: number
  /** ends what is still under way after that time; afterwards it no longer is */
  readonly expire: (expired: A) => Effect.Effect<void>
}): Effect.Effect<() => void, never, Scope.Scope> =>
  Effect.gen(function* () {
    let wake: (() => void) | undefined
    const nextStart = Effect.async<void>((resume) => {
      if (options.current() !== undefined) return resume(Effect.void)
      wake = () => {
        wake = undefined
        resume(Effect.void)
      }
    })

    const watch = Effect.gen(function* () {
      const watched = options.current()
      if (watched === undefined) return yield* nextStart
      const left = watched.startedAt + options.timeoutMillis - (yield* Clock.currentTimeMillis)
      // not for longer because somebody has set the clock back
      yield* Effect.sleep(Math.min(left, options.timeoutMillis))
      if (options.current() === watched) yield* Effect.uninterruptible(options.expire(watched))
    })
    yield* Effect.forkScoped(contained(supervised("a watchdog", Effect.forever(watch))))

    return () => wake?.()
  })
