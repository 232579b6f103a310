/**
 * A process that appends an event every two milliseconds, while a backlog is delivered or while the database is down.
 *
 * @module
 */
import { Effect, Fiber } from "effect"
import { logUse } from "effect-audit"
import { useLog } from "../event.js"
import { now, percentile } from "../measure.js"
import * as ours from "../ours.js"

export interface Paced {
  readonly p99Micros: number
  /** milliseconds */
  readonly longest: number
}

export default async (input: {
  readonly directory: string
  /** null: the database is down */
  readonly url: string | null
  /** how long; null: until the backlog is delivered */
  readonly millis: number | null
}): Promise<Paced> => {
  const log = await ours.open(input.directory, ours.uploader(input.url ?? undefined))
  const waits: Array<number> = []
  const append = Effect.suspend(() => {
    const startedAt = now()
    return Effect.map(logUse(useLog()), () => waits.push(now() - startedAt))
  })
  await log.run(
    Effect.gen(function* () {
      const appending = yield* Effect.fork(Effect.forever(Effect.delay(append, "2 millis")))
      yield* input.millis === null ? ours.deliver : Effect.sleep(input.millis)
      yield* Fiber.interrupt(appending)
    })
  )
  await log.close()
  return { p99Micros: percentile(waits, 0.99) * 1000, longest: percentile(waits, 1) }
}
