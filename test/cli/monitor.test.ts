/** The monitor of `serve`: it spends at most a tenth of the time on looking at the queue. */
import { it } from "@effect/vitest"
import { Effect, Option, TestClock } from "effect"
import { assert } from "vitest"
import { makeMonitor } from "../../src/cli/monitor.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import { Disk } from "../../src/services/Disk.js"
import { shifted } from "../support/clock.js"
import { openQueue } from "../support/queue.js"

/** How often the monitor looks at a queue in a minute if each look takes this long. */
const looks = (took: `${number} millis`) =>
  Effect.gen(function* () {
    const disk = MemoryDisk.make().startProcess()
    yield* openQueue(disk)
    let looks = 0
    const slow: Disk["Type"] = {
      ...disk,
      lockHolder: (path) =>
        Effect.zipRight(
          Effect.sync(() => looks++),
          Effect.delay(disk.lockHolder(path), took)
        )
    }
    yield* Effect.forkScoped(Effect.provideService(makeMonitor(Option.some("/audit"), 60_000), Disk, slow))
    for (let step = 0; step < 600; step++) yield* TestClock.adjust("100 millis")
    return looks
  }).pipe(Effect.scoped)

it.effect("the monitor looks once a second", () =>
  Effect.map(looks("0 millis"), (count) => assert.approximately(count, 60, 2))
)

it.effect("the monitor looks less often if a look takes long", () =>
  Effect.map(looks("1000 millis"), (count) => {
    assert.isAtMost(count, 8)
    assert.isAtLeast(count, 4)
  })
)

it.scoped("the times of the history ascend, however the clock is set", () =>
  Effect.gen(function* () {
    const disk = MemoryDisk.make().startProcess()
    yield* openQueue(disk)
    const HOUR = 3_600_000
    let offset = 8 * HOUR
    const clock = shifted(yield* Effect.clock, () => offset)
    const monitor = yield* makeMonitor(Option.some("/audit"), 60_000).pipe(
      Effect.provideService(Disk, disk),
      Effect.withClock(clock)
    )
    for (const hours of [8, 2, 14]) {
      offset = hours * HOUR
      for (let second = 0; second < 5; second++) yield* TestClock.adjust("1 second")
      const times = (yield* monitor.now).history.map(([at]) => at)
      assert.isAtLeast(times.length, 5)
      assert.isTrue(times.every((at, index) => index === 0 || at > times[index - 1]!))
      assert.approximately(times.at(-1)!, yield* clock.currentTimeMillis, 1000)
    }
  })
)
