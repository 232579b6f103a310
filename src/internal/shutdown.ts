/** One deadline over all steps of a shutdown: they share it, so that the sum of their waits is bounded. */
import { Clock, Duration, Effect } from "effect"

export interface Shutdown {
  /**
   * Runs a step until it ends or the deadline passes, whichever comes first; the clock starts with the first step.
   * Returns whether it ended. The step may be uninterruptible: it then goes on by itself.
   */
  readonly within: <E, R>(step: Effect.Effect<unknown, E, R>) => Effect.Effect<boolean, E, R>
}

export const make = (timeout: Duration.DurationInput): Effect.Effect<Shutdown> =>
  Effect.sync(() => {
    const millis = Duration.toMillis(timeout)
    let deadline: number | undefined
    return {
      within: (step) =>
        Effect.gen(function* () {
          const now = yield* Clock.currentTimeMillis
          deadline ??= now + millis
          const ended = yield* step.pipe(
            Effect.disconnect,
            Effect.interruptible,
            Effect.timeoutOption(Math.max(0, deadline - now))
          )
          return ended._tag === "Some"
        })
    }
  })
