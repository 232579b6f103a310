/** What `serve` shows: looked at once a second, with what happened since it began. */
import type { Option } from "effect"
import { Effect, Schedule, SubscriptionRef } from "effect"
import { openLetters, withoutContent } from "./dead.js"
import { queuesOf } from "./settings.js"
import { survey, type Surveyed } from "./status.js"
import { failureOf } from "./verdict.js"

/** A failure to deliver, as it was seen. */
export interface SeenFailure {
  readonly class: string
  readonly code: string
  readonly reason: string
  readonly first: number
  readonly last: number
}

export interface View {
  readonly at: number
  readonly code: number
  readonly queues: ReadonlyArray<Surveyed>
  /** time, waiting events, age of the oldest in milliseconds */
  readonly history: ReadonlyArray<readonly [number, number, number]>
  readonly failures: ReadonlyArray<SeenFailure>
  readonly letters: ReadonlyArray<Readonly<Record<string, unknown>>>
  /** why the last look failed */
  readonly problem: string | undefined
}

/** an hour */
const POINTS = 3600
/** more than anybody reads; `dead list` shows them all */
const LETTERS = 200

const EMPTY: View = { at: 0, code: 0, queues: [], history: [], failures: [], letters: [], problem: undefined }

/** Looks once a second, until the scope closes. */
export const makeMonitor = (directory: Option.Option<string>, lagMillis: number) =>
  Effect.gen(function* () {
    const view = yield* SubscriptionRef.make(EMPTY)
    const look = Effect.gen(function* () {
      const { at, code, queues } = yield* survey(directory, lagMillis)
      const letters = yield* openLetters(yield* queuesOf(directory))
      const waiting = queues.reduce((sum, queue) => sum + queue.waiting, 0)
      const oldest = Math.min(at, ...queues.flatMap((queue) => queue.oldest ?? []))
      yield* SubscriptionRef.update(view, (before): View => ({
        at,
        code,
        queues,
        history: [...before.history.slice(1 - POINTS), [at, waiting, at - oldest]],
        failures: queues.reduce((seen, queue) => see(seen, queue, at), before.failures),
        letters: letters
          .slice(0, LETTERS)
          .map(({ entry, name }) => ({ ...withoutContent(entry.letter), id: name })),
        problem: undefined
      }))
    }).pipe(
      Effect.catchAll((error) =>
        SubscriptionRef.update(view, (now): View => ({ ...now, problem: error.message }))
      )
    )
    yield* look
    yield* Effect.forkScoped(Effect.schedule(look, Schedule.spaced("1 second")))
    return { now: SubscriptionRef.get(view), changes: view.changes }
  })

const see = (seen: ReadonlyArray<SeenFailure>, queue: Surveyed, at: number): ReadonlyArray<SeenFailure> => {
  const failure = failureOf(queue)
  if (failure === null) return seen
  const known = seen.find(({ class: cls, code }) => cls === failure.class && code === failure.code)
  const others = seen.filter((other) => other !== known)
  return [{ ...failure, first: known?.first ?? at, last: at }, ...others]
}
