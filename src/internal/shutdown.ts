/** One deadline over all steps of a shutdown: they share it, so that the sum of their waits is bounded. */
import { Clock, Duration, Effect, Number as Num } from "effect"

export interface Shutdown {
  /**
   * Runs a step until it ends or the deadline passes, whichever comes first; the clock starts with the first step.
   * Returns whether it ended. The step may be uninterruptible: it then goes on by itself. A step that `sparesTime`
   * ends somewhat before the deadline, so that those behind it can still write.
   */
  readonly within: <E, R>(
    step: Effect.Effect<unknown, E, R>,
    options?: { readonly sparesTime: boolean }
  ) => Effect.Effect<boolean, E, R>
}

/** for a few small files, on a disk that is busy */
const SPARE_MILLIS = 500

export const make = (timeout: Duration.DurationInput): Effect.Effect<Shutdown> =>
  Effect.sync(() => {
    const millis = Duration.toMillis(timeout)
    let deadline: number | undefined
    // not for longer because somebody has set the clock back
    const clamp = Num.clamp({ minimum: 0, maximum: millis })
    return {
      within: (step, { sparesTime } = { sparesTime: false }) =>
        Effect.gen(function* () {
          const now = yield* Clock.currentTimeMillis
          deadline ??= now + millis
          const end = sparesTime ? deadline - Math.min(SPARE_MILLIS, millis / 10) : deadline
          const ended = yield* step.pipe(
            Effect.disconnect,
            Effect.interruptible,
            Effect.timeoutOption(clamp(end - now))
          )
          return ended._tag === "Some"
        })
    }
  })
