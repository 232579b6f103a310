/** Clocks for tests. */
import { Effect, Schedule } from "effect"
import type { Clock } from "effect"

/** A clock whose wall time is shifted by `offset` milliseconds, as if somebody set it. */
export const shifted = (clock: Clock.Clock, offset: () => number): Clock.Clock =>
  // all else is the test clock's, so that a test can adjust it
  Object.assign(Object.create(clock) as Clock.Clock, {
    unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis() + offset(),
    currentTimeMillis: Effect.sync(() => clock.unsafeCurrentTimeMillis() + offset()),
    unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
    currentTimeNanos: Effect.sync(() => clock.unsafeCurrentTimeNanos())
  })

/** A clock that is ahead by `offset` milliseconds, for durations too. */
export const ahead = (clock: Clock.Clock, offset: () => number): Clock.Clock => {
  const nanos = () => clock.unsafeCurrentTimeNanos() + BigInt(Math.round(offset() * 1e6))
  return Object.assign(shifted(clock, offset), {
    unsafeCurrentTimeNanos: nanos,
    currentTimeNanos: Effect.sync(nanos)
  })
}

/** A clock by which nothing takes time, however busy the machine is. It sleeps, and tells the date, as the other one. */
export const standing = (clock: Clock.Clock): Clock.Clock => {
  const nanos = clock.unsafeCurrentTimeNanos()
  return Object.assign(
    shifted(clock, () => 0),
    { unsafeCurrentTimeNanos: () => nanos, currentTimeNanos: Effect.succeed(nanos) }
  )
}

/** Retries a check for two minutes, since a loaded machine is slow. */
export const eventually = (check: () => void): Effect.Effect<void, unknown> =>
  Effect.retry(Effect.try(check), { times: 2400, schedule: Schedule.spaced("50 millis") })
