/** Durations: measured by a monotonic clock. The wall clock jumps, so it is only for timestamps. */
import { type Clock, Duration, Effect, Schedule } from "effect"

/** Milliseconds since an arbitrary moment; only differences are meaningful. */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6

/** Starts a stopwatch, which returns the milliseconds since its start. */
export const stopwatch: Effect.Effect<() => number> = Effect.map(Effect.clock, (clock) => {
  const start = monotonicMillis(clock)
  return () => monotonicMillis(clock) - start
})

/** Repeats at an interval, for a duration. `Schedule.upTo` would use the wall clock. */
export const spacedFor = (interval: Duration.DurationInput, duration: Duration.DurationInput) =>
  Effect.map(stopwatch, (elapsed) =>
    Schedule.whileOutput(Schedule.spaced(interval), () => elapsed() < Duration.toMillis(duration))
  )
