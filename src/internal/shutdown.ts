/** One deadline over all steps of a shutdown: they share it, so that the sum of their waits is bounded. */
import { Duration, Effect } from "effect"
import { FiberRef, GlobalValue } from "../schema/Effect3.js"
import { monotonicMillis } from "./monotonic.js"

/** Whether what runs is a step of a shutdown, which begins nothing that it cannot end. */
export const isShuttingDown: FiberRef.FiberRef<boolean> = GlobalValue.globalValue(
  Symbol.for("effect-audit/isShuttingDown"),
  () => FiberRef.unsafeMake(false)
)

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
    return {
      within: (step, { sparesTime } = { sparesTime: false }) =>
        Effect.gen(function* () {
          const now = monotonicMillis(yield* Effect.clock)
          deadline ??= now + millis
          const end = sparesTime ? deadline - Math.min(SPARE_MILLIS, millis / 10) : deadline
          const ended = yield* step.pipe(
            Effect.locally(isShuttingDown, true),
            Effect.disconnect,
            Effect.interruptible,
            Effect.timeoutOption(Math.max(0, end - now))
          )
          return ended._tag === "Some"
        })
    }
  })
