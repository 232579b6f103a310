/** A thousand programs lose their database at the same moment: they must not all come back in the same second. */
import { assert, it } from "@effect/vitest"
import { Array as Arr, Chunk, Duration, Effect, Random, Schedule } from "effect"
import { backoff } from "../src/layers/Scheduler.js"

const WORKERS = 1000
const RETRIES = 30
/** from here on the delay is the largest there is: 2, 4 ... 256, 300 */
const AT_THE_CAP = 8

/** The seconds since the outage at which a worker tries again. Schedules are told the time, so none has to pass. */
const retries = Effect.map(
  Schedule.run(
    Schedule.delays(backoff),
    0,
    Array.from({ length: RETRIES }, () => undefined)
  ),
  (delays) =>
    Chunk.toReadonlyArray(delays).reduce<ReadonlyArray<number>>(
      (times, delay) => [...times, (times.at(-1) ?? 0) + Duration.toSeconds(delay)],
      []
    )
)

/** How many fall into the fullest second. */
const crowd = (times: ReadonlyArray<number>) =>
  Math.max(
    ...Object.values(Arr.groupBy(times, (time) => String(Math.floor(time)))).map(({ length }) => length)
  )

it.effect("jitter spreads their retries: at the cap no second holds more than 5 %", () =>
  Effect.gen(function* () {
    const fleet = yield* Effect.replicateEffect(retries, WORKERS)
    for (let retry = AT_THE_CAP; retry < RETRIES; retry++) {
      const times = fleet.map((worker) => worker[retry]!)
      assert.isAtMost(crowd(times), 0.05 * WORKERS, `retry ${retry}`)
      for (const worker of fleet) {
        const delay = worker[retry]! - worker[retry - 1]!
        assert.isTrue(240 <= delay && delay <= 300, `a delay of ${delay} seconds`)
      }
    }
    const all = fleet.flatMap((worker) => worker.slice(AT_THE_CAP))
    assert.isAtMost(crowd(all), 0.05 * WORKERS)
  }).pipe(Effect.withRandom(Random.make("fleet")))
)
