/** A thousand programs that lose their database at once: jitter spreads their retries. */
import { assert, it } from "@effect/vitest"
import { Array as Arr, Clock, Effect, Random, Schedule, TestClock } from "effect"
import { vi } from "vitest"
import { backoff } from "../../src/layers/SchedulerLive.js"

const WORKERS = 1000
/** the first retry, from 0, with the longest delay: 2, 4 ... 256, 300 seconds */
const AT_THE_CAP = 8
const RETRIES = 11

/** A worker that waits as the real one does (scheduler.test.ts), and the seconds of its retries since the outage. */
const startWorker = Effect.gen(function* () {
  const times: Array<number> = []
  const driver = yield* Schedule.driver(backoff)
  const retry = Effect.zipRight(driver.next(undefined), Clock.currentTimeMillis)
  yield* Effect.fork(Effect.forever(Effect.map(retry, (now) => times.push(now / 1000))))
  return times
})

/** Replaces timers of 0 ms: TestClock waits for some before it wakes each of 11,000 sleepers. */
const swiftTimers = Effect.acquireRelease(
  Effect.sync(() => {
    const { setTimeout } = globalThis
    const swift = (run: () => void, delay?: number) =>
      delay === 0 ? setImmediate(run) : setTimeout(run, delay)
    return vi.spyOn(globalThis, "setTimeout").mockImplementation(swift as typeof setTimeout)
  }),
  (spy) => Effect.sync(() => spy.mockRestore())
)

/** The number of retries in the fullest second. */
const crowd = (times: ReadonlyArray<number>) =>
  Math.max(
    ...Object.values(Arr.groupBy(times, (time) => String(Math.floor(time)))).map(({ length }) => length)
  )

it.scoped("spread their retries by jitter: no second has more than 5 % of them at the cap", () =>
  Effect.gen(function* () {
    yield* swiftTimers
    const fleet = yield* Effect.replicateEffect(startWorker, WORKERS)
    yield* TestClock.adjust("24 minutes")
    for (let retry = AT_THE_CAP; retry < RETRIES; retry++) {
      const times = fleet.map((worker) => worker[retry]!)
      assert.isAtMost(crowd(times), 0.05 * WORKERS, `retry ${retry}`)
      for (const worker of fleet) {
        const delay = worker[retry]! - worker[retry - 1]!
        assert.closeTo(delay, 270, 30.001)
      }
    }
    const all = fleet.flatMap((worker) => worker.slice(AT_THE_CAP))
    assert.isAtMost(crowd(all), 0.05 * WORKERS)
  }).pipe(Effect.withRandom(Random.make("fleet")))
)
