/** The view that `serve` shows: taken at most once a second, with a history since the start. */
import { Chunk, Duration, Effect, Option, Stream, SubscriptionRef } from "effect"
import { lettersAfter, openLetters, withoutContent } from "./dead.js"
import { queuesOf, type Queue } from "./settings.js"
import { survey, type Surveyed } from "./status.js"
import { failureOf } from "./verdict.js"

/** A failure to deliver, with the times at which it was seen. */
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
  /** the first page of letters that wait for a decision */
  readonly letters: ReadonlyArray<Readonly<Record<string, unknown>>>
  readonly hasMoreLetters?: boolean
  /** why the last look failed */
  readonly problem: string | undefined
}

/** of the history: one hour at one a second */
const POINTS = 3600
/** letters of a page */
const LETTERS = 100

/** A page of letters: those after the named one, or the first ones. */
export const pageAfter = (queues: ReadonlyArray<Queue>, name?: string) =>
  Effect.gen(function* () {
    const letters = name === undefined ? Option.some(openLetters(queues)) : yield* lettersAfter(queues, name)
    const all = Option.getOrElse(letters, () => Stream.empty)
    const found = yield* Stream.runCollect(Stream.take(all, LETTERS + 1))
    return {
      letters: Chunk.toReadonlyArray(Chunk.take(found, LETTERS)).map(({ entry, name }) => ({
        ...withoutContent(entry.letter),
        id: name
      })),
      hasMoreLetters: found.length > LETTERS
    }
  })

const EMPTY: View = {
  at: 0,
  code: 0,
  queues: [],
  history: [],
  failures: [],
  letters: [],
  hasMoreLetters: false,
  problem: undefined
}

const PAUSE = Duration.seconds(1)
/** A pause lasts this many times as long as the look before it: a second with 100,000 dead letters. */
const PAUSES = 9

/** Looks once a second, or for a tenth of the time if looking takes long, until the scope closes. */
export const makeMonitor = (directory: Option.Option<string>, lagMillis: number) =>
  Effect.gen(function* () {
    const view = yield* SubscriptionRef.make(EMPTY)
    const look = Effect.gen(function* () {
      const { at, code, queues } = yield* survey(directory, lagMillis)
      const letters = yield* pageAfter(yield* queuesOf(directory))
      const waiting = queues.reduce((sum, queue) => sum + queue.waiting, 0)
      const oldest = Math.min(at, ...queues.flatMap((queue) => queue.oldest ?? []))
      yield* SubscriptionRef.update(view, (before): View => ({
        at,
        code,
        queues,
        // The page finds points by their times. If the clock was set back, points ahead of it go.
        history: [
          ...before.history.filter(([past]) => past < at).slice(1 - POINTS),
          [at, waiting, at - oldest]
        ],
        failures: queues.reduce((seen, queue) => see(seen, queue, at), before.failures),
        ...letters,
        problem: undefined
      }))
    }).pipe(
      Effect.catchAll((error) =>
        SubscriptionRef.update(view, (now): View => ({ ...now, problem: error.message }))
      )
    )
    const lookAndPause = Effect.flatMap(Effect.timed(look), ([took]) =>
      Effect.sleep(Duration.max(PAUSE, Duration.times(took, PAUSES)))
    )
    yield* look
    yield* Effect.forkScoped(Effect.zipRight(Effect.sleep(PAUSE), Effect.forever(lookAndPause)))
    return { now: SubscriptionRef.get(view), changes: view.changes }
  })

const see = (seen: ReadonlyArray<SeenFailure>, queue: Surveyed, at: number): ReadonlyArray<SeenFailure> => {
  const failure = failureOf(queue)
  if (failure === null) return seen
  const known = seen.find(({ class: cls, code }) => cls === failure.class && code === failure.code)
  const others = seen.filter((other) => other !== known)
  return [{ ...failure, first: known?.first ?? at, last: at }, ...others]
}
