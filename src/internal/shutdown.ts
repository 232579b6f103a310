/** The shutdown: all its steps share one deadline, so that their total time is bounded. */
import { Duration, Effect } from "effect"
import { FiberRef, GlobalValue } from "../schema/Effect3.js"
import { monotonicMillis } from "./monotonic.js"

/** Whether the fiber runs a step of a shutdown, which must not begin what it cannot end. */
export const isShuttingDown: FiberRef.FiberRef<boolean> = GlobalValue.globalValue(
  Symbol.for("effect-audit/isShuttingDown"),
  () => FiberRef.unsafeMake(false)
)

export interface Shutdown {
  /**
   * Runs a step until it ends or the deadline passes, and returns whether it ended. The clock starts with the first
   * step. If a step is uninterruptible, then it goes on in the background. A step with `sparesTime` has a slightly
   * earlier deadline, so that later steps can still write.
   */
  readonly within: <E, R>(
    step: Effect.Effect<unknown, E, R>,
    options?: { readonly sparesTime: boolean }
  ) => Effect.Effect<boolean, E, R>
}

/** enough for a few small files on a busy disk */
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
