/** Moments in flags: a date, or a duration before now. */
import { Clock, DateTime, Duration, Effect, Option } from "effect"
import { usageError } from "./exit.js"

/** Milliseconds since 1970 UTC. A time without a zone is UTC, as in all that the command prints. */
export const momentOf = (flag: string, given: Option.Option<string>) =>
  Effect.gen(function* () {
    if (Option.isNone(given)) return undefined
    const date = dateOf(given.value)
    if (Option.isSome(date)) return date.value
    const age = Option.filter(Duration.decodeUnknown(given.value), () => !given.value.startsWith("-"))
    const moment = (yield* Clock.currentTimeMillis) - Option.match(age, AGE)
    // a duration may reach back beyond all dates
    if (Number.isNaN(new Date(moment).getTime())) {
      return yield* usageError(`--${flag} ${given.value} is no date: say 2026-01-31, or "30 days".`)
    }
    return moment
  })

const AGE = { onNone: () => Number.NaN, onSome: Duration.toMillis }

/** A day, with or without a time. JavaScript reads February 30 as March 2, so the day must be one of its month. */
const dateOf = (text: string): Option.Option<number> => {
  const [, day = ""] = /^(\d{4}-\d\d-\d\d)(?:[T ].+)?$/.exec(text) ?? []
  const midnight = Date.parse(day)
  const isDay = !Number.isNaN(midnight) && new Date(midnight).toISOString().startsWith(day)
  return isDay ? Option.map(DateTime.make(text), DateTime.toEpochMillis) : Option.none()
}
