/** Durations: they stay right if somebody sets the clock, or if the event loop blocks. */
import { assert, describe, it } from "@effect/vitest"
import {
  Duration,
  Effect,
  Either,
  Exit,
  Fiber,
  identity,
  Logger,
  LogLevel,
  Random,
  Redacted,
  Stream,
  TestClock,
  TestContext
} from "effect"
import * as fs from "node:fs"
import * as path from "node:path"

import * as fc from "fast-check"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import { make as makeShutdown } from "../../src/internal/shutdown.js"
import { supervised } from "../../src/internal/contained.js"
import { eachRow, Made, TooMuch, walk, type Walkable } from "../../src/internal/database/walk.js"
import { sealingKey } from "../../src/internal/proof/keys.js"
import { Sealer } from "../../src/internal/proof/sealer.js"
import * as watchdog from "../../src/internal/watchdog.js"
import { monotonicMillis } from "../../src/internal/monotonic.js"
import { TrailError } from "../../src/schema/Errors.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { away, openAudit } from "../support/auditHere.js"
import { shifted } from "../support/clock.js"
import * as q from "../support/queue.js"
import { newKey } from "../support/seals.js"

const HOUR = 3_600_000

describe("a clock set", () => {
  it.effect("back by six hours does not stop the check of minFreeBytes", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      memory.capacity = 1_000_000
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      yield* Effect.gen(function* () {
        const { queue } = yield* q.openClosable(memory.startProcess(), { minFreeBytes: 100_000 })
        yield* q.append(queue, "before")
        offset = -6 * HOUR
        yield* TestClock.adjust("2 seconds")
        // another program fills the disk
        memory.capacity = 50_000
        const refused = yield* Effect.flip(q.append(queue, "after"))
        assert.strictEqual(refused._tag, "QueueFull")
      }).pipe(Effect.withClock(clock))
    })
  )

  it.effect("either way does not lengthen a shutdown beyond its limit", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      yield* Effect.gen(function* () {
        for (const jump of [-6 * HOUR, 6 * HOUR]) {
          const shutdown = yield* makeShutdown("5 seconds")
          yield* shutdown.within(Effect.void)
          offset += jump
          const step = yield* Effect.fork(shutdown.within(Effect.never))
          yield* TestClock.adjust("4 seconds")
          assert.isNull(step.unsafePoll(), `ended too early after ${jump}`)
          yield* TestClock.adjust("2 seconds")
          assert.isFalse(yield* Fiber.join(step))
        }
      }).pipe(Effect.withClock(clock))
    })
  )

  it.effect("back does not delay the restart of a loop that had run for long", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      yield* Effect.gen(function* () {
        const starts: Array<number> = []
        let isSound = false
        const now = Effect.map(Effect.clock, monotonicMillis)
        const loop = Effect.gen(function* () {
          starts.push(yield* now)
          if (!isSound) return yield* Effect.die("it dies")
          yield* Effect.sleep("11 minutes")
          isSound = false
          return yield* Effect.die("it dies after a while")
        })
        const fiber = yield* Effect.fork(supervised("a loop", loop))
        yield* TestClock.adjust("200 seconds")
        assert.deepStrictEqual(
          starts.map((at) => at - starts[0]!),
          [0, 1000, 3000, 7000, 15_000, 31_000, 63_000, 127_000]
        )
        isSound = true
        yield* TestClock.adjust("100 seconds")
        offset = -6 * HOUR
        yield* TestClock.adjust("12 minutes")
        const [died] = starts.slice(8).map((at) => at + 660_000)
        assert.strictEqual(starts[9]! - died!, 1000)
        yield* Fiber.interrupt(fiber)
      }).pipe(Effect.withClock(clock))
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  /** A step of a program with its log, or a change of its disk or database. */
  type Step =
    | { readonly type: "append"; readonly count: number }
    | { readonly type: "pass"; readonly millis: number }
    | { readonly type: "space"; readonly bytes: number }
    | { readonly type: "database"; readonly isThere: boolean }
    | { readonly type: "disk"; readonly answers: boolean }
    | { readonly type: "flush" }
    | { readonly type: "restart" }
  const steps = fc.array(
    fc.oneof(
      fc.record({ type: fc.constant("append" as const), count: fc.integer({ min: 1, max: 2 }) }),
      fc.record({
        type: fc.constant("pass" as const),
        millis: fc.constantFrom(1, 60, 900, 2500, 12_000, 400_000)
      }),
      fc.record({ type: fc.constant("space" as const), bytes: fc.constantFrom(0, 10_000_000) }),
      fc.record({ type: fc.constant("database" as const), isThere: fc.boolean() }),
      fc.record({ type: fc.constant("disk" as const), answers: fc.boolean() }),
      fc.constant({ type: "flush" as const }),
      fc.constant({ type: "restart" as const })
    ),
    { minLength: 2, maxLength: 6 }
  )
  const jumps = fc.array(fc.integer({ min: -6 * HOUR, max: 6 * HOUR }), { minLength: 1, maxLength: 8 })

  /** The outcome of the steps, without timestamps. */
  const outcomeOf = (script: ReadonlyArray<Step>, offset: () => number) =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const seen: Array<unknown> = []
      let isThere = true
      let uploads = 0
      const uploader: Uploader["Type"] = {
        concurrency: 1,
        upload: (batch) => {
          uploads++
          return isThere ? Effect.succeed({ rejected: [] }) : away.upload(batch)
        }
      }
      const settings = { directory: "/audit", minFreeBytes: 1_000_000, appendTimeout: "2 seconds" } as const
      const open = Effect.suspend(() => openAudit(settings, { disk: memory.startProcess(), uploader }))
      memory.capacity = 100_000_000
      let audit = yield* open
      for (const step of script) {
        if (step.type === "append") {
          for (let index = 0; index < step.count; index++) {
            const append = yield* Effect.fork(Effect.either(audit.use("prompt")))
            // the disk may hang
            yield* TestClock.adjust("3 seconds")
            const result = yield* Fiber.join(append)
            seen.push(result._tag === "Right" ? result.right.sequence : result.left._tag)
          }
        } else if (step.type === "pass") yield* TestClock.adjust(Duration.millis(step.millis))
        else if (step.type === "space") memory.capacity = step.bytes + 1_500_000
        else if (step.type === "database") isThere = step.isThere
        else if (step.type === "disk") {
          memory.inject((call) =>
            !step.answers && call.operation === "append" && call.path.endsWith(".ndjson")
              ? { type: "wait", until: Effect.sleep("1 minute") }
              : undefined
          )
        } else if (step.type === "flush") {
          const flush = yield* Effect.fork(Effect.exit(audit.flush))
          yield* TestClock.adjust("10 seconds")
          seen.push(Exit.isSuccess(yield* Fiber.join(flush)))
        } else {
          const closing = yield* Effect.fork(audit.close)
          yield* TestClock.adjust("10 seconds")
          yield* Fiber.join(closing)
          // the disk answers pending calls, and the lock is free
          yield* TestClock.adjust("2 minutes")
          audit = yield* open
        }
        const { lastDelivery, nextTry, oldest, ...status } = yield* audit.status
        seen.push({ ...status, uploads, times: [lastDelivery, nextTry, oldest].map((_) => _ !== undefined) })
      }
      const closing = yield* Effect.fork(audit.close)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(closing)
      return seen
    }).pipe(Effect.scoped, Effect.withRandom(Random.make("seed")), (effect) =>
      Effect.flatMap(Effect.clock, (clock) => Effect.withClock(effect, shifted(clock, offset)))
    )

  it.effect(
    "at random changes nothing but timestamps",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(steps, jumps, async (script, offsets) => {
            const run = (offset: () => number) =>
              Effect.runPromise(Effect.provide(outcomeOf(script, offset), TestContext.TestContext))
            const steady = await run(() => 0)
            let calls = 0
            const jumping = await run(() => offsets[calls++ % offsets.length]!)
            assert.deepStrictEqual(jumping, steady)
          }),
          { numRuns: process.env.AUDIT_LONG === undefined ? 4 : 100 }
        )
      ),
    600_000
  )
})

describe("a blocked event loop", () => {
  const block = (millis: number) => {
    const until = performance.now() + millis
    while (performance.now() < until);
  }

  it.scopedLive("fails no append if the disk answers", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      const audit = yield* openAudit({ directory, appendTimeout: "500 millis" })
      // before, during and after the first steps of the append
      for (const turns of [0, 1, 2, 3]) {
        const append = yield* Effect.fork(audit.use("prompt"))
        for (let turn = 0; turn < turns; turn++) yield* nextTurn
        block(1500)
        yield* nextTurn
        block(700)
        yield* Fiber.join(append)
      }
      assert.strictEqual((yield* audit.status).accepted, 4)
    })
  )

  it.scopedLive("expires a hanging append soon after its limit", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      let current: watchdog.UnderWay | undefined
      const expired: Array<watchdog.UnderWay> = []
      const watch = yield* watchdog.make({
        current: () => current,
        timeoutMillis: 400,
        expire: (late) =>
          Effect.sync(() => {
            expired.push(late)
            current = undefined
          })
      })
      for (const pause of [0, 30, 120]) {
        yield* Effect.sleep(pause)
        const mine = (current = { startedAt: monotonicMillis(clock) })
        watch()
        yield* Effect.sleep("200 millis")
        assert.notInclude(expired, mine)
        yield* Effect.iterate(0, {
          while: () => current !== undefined,
          body: () => Effect.as(Effect.sleep(10), 0)
        })
        assert.include(expired, mine)
        assert.isAtLeast(monotonicMillis(clock) - mine.startedAt, 399)
      }
    })
  )
})

const nextTurn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

describe("the wall clock", () => {
  /** Files with timestamps, or comparisons with them. Durations come from src/internal/monotonic.ts. */
  const SHOWN = [
    "cli/moment.ts",
    "cli/mysqlDoctor.ts",
    "cli/readings.ts",
    "cli/status.ts",
    "internal/contained.ts",
    "internal/delivery/pass.ts",
    "internal/delivery/report.ts",
    "internal/delivery/sealed.ts",
    "internal/queue/letterFile.ts",
    "internal/queue/requests.ts",
    "layers/AuditLayer.ts",
    "layers/Metrics.ts",
    "layers/StatusFile.ts"
  ]

  it("is read only for timestamps", () => {
    const root = path.join(import.meta.dirname, "../../src")
    const found = fs
      .readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .filter((file) =>
        fs
          .readFileSync(path.join(root, file), "utf8")
          .split("\n")
          .filter((line) => !/^\s*(\/?\*|\/\/)/.test(line))
          .some((line) => /Date\.now\(|urrentTimeMillis\b|new Date\(\)|DateTime\.(unsafeN|n)ow\b/.test(line))
      )
    assert.deepStrictEqual(found.map((file) => file.replaceAll(path.sep, "/")).sort(), SHOWN)
  })

  it.effect("does not change the minute that the sealer waits for its chain", () =>
    Effect.gen(function* () {
      for (const jump of [-6 * HOUR, 6 * HOUR, 24 * 365 * HOUR]) {
        let offset = 0
        const sealer = new Sealer({
          key: Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem))),
          // the database never shows the chain
          sealing: {
            read: () => Effect.succeed([]),
            heads: Effect.succeed([]),
            prepare: (batches) => ({ batches }),
            upload: () => Effect.dieMessage("the test stores nothing")
          },
          last: { chain: "0".repeat(32), number: 1, head: "0".repeat(64) },
          queueId: "queue",
          position: { segment: 0, offset: 0 }
        })
        const resume = Effect.withClock(
          Effect.either(sealer.resume),
          shifted(yield* Effect.clock, () => offset)
        )
        assert.isTrue(Either.isLeft(yield* resume))
        offset = jump
        yield* TestClock.adjust("30 seconds")
        assert.isTrue(Either.isLeft(yield* resume), `given up too early after ${jump}`)
        yield* TestClock.adjust("31 seconds")
        assert.isTrue(Either.isRight(yield* resume), `waits on after ${jump}`)
      }
    })
  )

  it.effect("does not change the page size of a walk through a table", () =>
    Effect.gen(function* () {
      /** The rows of each window, if each statement takes this long and sets the clock. */
      const windows = (millis: number, jump: number) =>
        Effect.gen(function* () {
          let [offset, nanos] = [0, 0n]
          const clock = Object.assign(
            shifted(yield* Effect.clock, () => offset),
            {
              unsafeCurrentTimeNanos: () => nanos
            }
          )
          const asked: Array<number> = []
          const table: Walkable = {
            start: undefined,
            hasConditions: true,
            noWindows: undefined,
            timeOf: () => 0,
            page: ({ isTry }, collect) =>
              Effect.suspend(() => {
                offset += jump
                nanos += BigInt(millis * 1e6)
                const error = new TrailError({ class: "transient", code: "3024", reason: "slow" })
                return isTry
                  ? new TooMuch({ what: "slow", error })
                  : Effect.succeed(new Made(collect().result(), 0, undefined, 0))
              }),
            ahead: (_, rows) =>
              Effect.sync(() => (asked.push(rows) > 3 ? undefined : [String(asked.length), ""]))
          }
          const options = { limit: 1, onProgress: () => Effect.void }
          yield* Effect.withClock(Stream.runDrain(walk(table, options, eachRow(identity))), clock)
          return asked
        })
      for (const jump of [-HOUR, HOUR]) {
        assert.deepStrictEqual(yield* windows(2000, jump), [32_768, 32_768, 32_768, 32_768])
        assert.deepStrictEqual(yield* windows(20, jump), [32_768, 65_536, 131_072, 262_144])
      }
    })
  )
})
