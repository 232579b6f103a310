/** Durations: measured by a clock that nobody sets. The wall clock jumps, and is for timestamps alone. */
import { type Clock, Duration, Effect, Schedule } from "effect"

/** Milliseconds since some moment; only differences mean anything. */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6

/** Starts a watch; what it gives tells the milliseconds since. */
export const stopwatch: Effect.Effect<() => number> = Effect.map(Effect.clock, (clock) => {
  const start = monotonicMillis(clock)
  return () => monotonicMillis(clock) - start
})

/** Again and again at an interval, for a duration: `Schedule.upTo` measures it by the wall clock. */
export const spacedFor = (interval: Duration.DurationInput, duration: Duration.DurationInput) =>
  Effect.map(stopwatch, (elapsed) =>
    Schedule.whileOutput(Schedule.spaced(interval), () => elapsed() < Duration.toMillis(duration))
  )
