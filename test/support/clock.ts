/** Clocks for tests. */
import { Effect, Schedule } from "effect"
import type { Clock } from "effect"

/** A clock whose wall time is off by what `offset` says, as one that is set while the program runs. */
export const shifted = (clock: Clock.Clock, offset: () => number): Clock.Clock =>
  // all else is that of the test clock, which is adjusted through it
  Object.assign(Object.create(clock) as Clock.Clock, {
    unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis() + offset(),
    currentTimeMillis: Effect.sync(() => clock.unsafeCurrentTimeMillis() + offset()),
    unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
    currentTimeNanos: Effect.sync(() => clock.unsafeCurrentTimeNanos())
  })

/** A clock that is ahead by so many milliseconds, for durations as well. */
export const ahead = (clock: Clock.Clock, offset: () => number): Clock.Clock => {
  const nanos = () => clock.unsafeCurrentTimeNanos() + BigInt(Math.round(offset() * 1e6))
  return Object.assign(shifted(clock, offset), {
    unsafeCurrentTimeNanos: nanos,
    currentTimeNanos: Effect.sync(nanos)
  })
}

/** Waits until something holds: two minutes, since a loaded machine takes long. */
export const eventually = (check: () => void): Effect.Effect<void, unknown> =>
  Effect.retry(Effect.try(check), { times: 2400, schedule: Schedule.spaced("50 millis") })
