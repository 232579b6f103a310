/** Moments, as flags say them: a date, or so long ago. */
import { Clock, Duration, Effect, Option } from "effect"
import { usageError } from "./exit.js"

/** Milliseconds since 1970 UTC. */
export const momentOf = (flag: string, given: Option.Option<string>) =>
  Effect.gen(function* () {
    if (Option.isNone(given)) return undefined
    const date = /^\d{4}-\d\d-\d\d(?:T.*)?$/.test(given.value) ? Date.parse(given.value) : Number.NaN
    if (!Number.isNaN(date)) return date
    const age = Duration.decodeUnknown(given.value)
    if (Option.isNone(age)) {
      return yield* usageError(`--${flag} ${given.value} is no date: say 2026-01-31, or "30 days".`)
    }
    return (yield* Clock.currentTimeMillis) - Duration.toMillis(age.value)
  })
