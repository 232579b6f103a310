/** The pipeline: three stages at once, under TestClock. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, TestClock, TestContext } from "effect"
import * as fc from "fast-check"
import * as pipeline from "../../src/internal/delivery/pipeline.js"

interface Times {
  readonly make: number
  readonly work: number
  readonly finish: number
}

const time = fc.constantFrom(0, 0, 1, 2, 5, 20)
const times: fc.Arbitrary<Times> = fc.record({ make: time, work: time, finish: time })

/** Runs a pipeline: its events in order, and its exit. */
const live = (things: ReadonlyArray<Times>, concurrency: number, fails?: readonly [keyof Times, number]) =>
  Effect.gen(function* () {
    const events: Array<readonly [keyof Times, "begins" | "ends" | "fails", number]> = []
    const stage = (name: keyof Times, number: number) =>
      Effect.gen(function* () {
        events.push([name, "begins", number])
        yield* Effect.sleep(things[number]![name])
        const isFailure = fails?.[0] === name && fails[1] === number
        events.push([name, isFailure ? "fails" : "ends", number])
        if (isFailure) return yield* Effect.fail(`${name} ${number}`)
        return number
      })
    let made = 0
    const fiber = yield* Effect.fork(
      pipeline.run({
        make: Effect.suspend(() =>
          made === things.length ? Effect.succeed(undefined) : stage("make", made++)
        ),
        work: (number) => stage("work", number),
        finish: (number) => stage("finish", number),
        concurrency
      })
    )
    yield* TestClock.adjust(10_000)
    return { events, exit: yield* Fiber.await(fiber) }
  })

/** Checks the invariants, for any durations and any failure. */
const keeps = (
  things: ReadonlyArray<Times>,
  concurrency: number,
  planned: readonly [keyof Times, number] | undefined
) =>
  Effect.gen(function* () {
    const fails = planned !== undefined && planned[1] < things.length ? planned : undefined
    const { events, exit } = yield* live(things, concurrency, fails)
    const of = (stage: keyof Times, what: string) =>
      events.filter(([name, type]) => name === stage && type === what).map(([, , number]) => number)
    const first = (count: number) => Array.from({ length: count }, (_, number) => number)

    // each item before the failure, in order, once
    const complete = fails?.[1] ?? things.length
    assert.deepStrictEqual(of("finish", "ends"), first(complete))
    assert.deepStrictEqual(of("make", "begins"), first(of("make", "begins").length))
    assert.deepStrictEqual(of("work", "begins"), first(of("work", "begins").length))
    assert.deepStrictEqual(
      exit,
      fails === undefined ? Exit.succeed(things.length) : Exit.fail(fails.join(" "))
    )

    let [made, started, worked, finished] = [0, 0, 0, 0]
    for (const [stage, type] of events) {
      if (stage === "make" && type === "begins") made++
      if (stage === "work" && type === "begins") started++
      if (stage === "work" && type !== "begins") worked++
      if (stage === "finish" && type === "ends") finished++
      assert.isAtMost(made - started, 1)
      assert.isAtMost(started - worked, concurrency)
      assert.isAtMost(started - finished, concurrency + 1)
    }
    const failure = events.findIndex(([, type]) => type === "fails")
    if (fails?.[0] === "work") {
      const later = events.slice(failure + 1)
      assert.isFalse(later.some(([stage, type]) => stage === "work" && type === "begins"))
    }
  })

describe("a pipeline", () => {
  it("keeps the order, its bounds, and the work done before a failure", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(times, { maxLength: 12 }),
        fc.integer({ min: 1, max: 4 }),
        fc.option(fc.tuple(fc.constantFrom<keyof Times>("make", "work", "finish"), fc.nat(11)), {
          nil: undefined
        }),
        (things, concurrency, planned) =>
          Effect.runPromise(Effect.provide(keeps(things, concurrency, planned), TestContext.TestContext))
      ),
      { numRuns: 60 }
    ))

  it.effect("prepares the next batch and finishes the previous one while it works on one", () =>
    Effect.gen(function* () {
      const things = Array<Times>(10).fill({ make: 10, work: 10, finish: 10 })
      const fiber = yield* Effect.fork(Effect.timed(live(things, 1)))
      yield* TestClock.adjust(0)
      const [, { events }] = yield* Fiber.join(fiber)
      const order = events.slice(6, 12).map(([stage, type, number]) => `${stage} ${type} ${number}`)
      assert.includeMembers(order, ["make begins 2", "work begins 1", "finish begins 0"])
    })
  )

  it("finishes each thing once, in order, whatever a work takes with its own", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(times, { maxLength: 12 }),
        fc.integer({ min: 1, max: 3 }),
        fc.array(fc.nat(3), { minLength: 1, maxLength: 5 }),
        fc.option(fc.nat(11), { nil: undefined }),
        (things, concurrency, takes, refused) =>
          Effect.runPromise(
            Effect.gen(function* () {
              let [made, worked] = [0, 0]
              const finished: Array<ReadonlyArray<number>> = []
              const fiber = yield* Effect.fork(
                pipeline.run({
                  make: Effect.suspend(() =>
                    made === things.length
                      ? Effect.succeed(undefined)
                      : Effect.delay(Effect.succeed(made), things[made++]!.make)
                  ),
                  work: (number, takeNext) =>
                    Effect.gen(function* () {
                      const mine = [number]
                      for (let left = takes[worked++ % takes.length]!; left > 0; left--) {
                        yield* Effect.sleep(things[mine.at(-1)!]!.work)
                        const next = takeNext((following) => following !== refused)
                        if (next === undefined) break
                        mine.push(next)
                      }
                      yield* Effect.sleep(things[number]!.work)
                      return mine
                    }),
                  finish: (numbers) =>
                    Effect.delay(
                      Effect.sync(() => finished.push(numbers)),
                      things[numbers[0]!]!.finish
                    ),
                  concurrency
                })
              )
              yield* TestClock.adjust(10_000)
              assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.succeed(finished.length))
              assert.deepStrictEqual(
                finished.flat().sort((a, b) => a - b),
                things.map((_, number) => number)
              )
              // with several workers another one may take what stands between
              if (concurrency === 1) assert.deepStrictEqual(finished.flat(), [...things.keys()])
              for (const numbers of finished) assert.notInclude(numbers.slice(1), refused)
            }).pipe(Effect.provide(TestContext.TestContext))
          )
      ),
      { numRuns: 60 }
    ))

  it.live("makes progress wherever a fiber yields", () =>
    Effect.gen(function* () {
      const answer = Effect.async<void>((resume) => {
        setImmediate(() => resume(Effect.void))
      })
      // a stage that waits for something outside, and one that does not
      for (const stage of [answer, Effect.void]) {
        for (const concurrency of [1, 3]) {
          for (let budget = 24; budget < 64; budget++) {
            let made = 0
            const order: Array<number> = []
            const count = yield* pipeline
              .run({
                make: Effect.suspend(() => (made === 6 ? Effect.succeed(undefined) : Effect.succeed(made++))),
                work: (number) => Effect.as(stage, number),
                finish: (number) => Effect.sync(() => order.push(number)),
                concurrency
              })
              .pipe(
                Effect.withMaxOpsBeforeYield(budget),
                Effect.timeoutTo({
                  duration: "1 minute",
                  onSuccess: (count) => count,
                  onTimeout: () => "hangs"
                })
              )
            assert.deepStrictEqual([count, order], [6, [0, 1, 2, 3, 4, 5]], `${concurrency}, ${budget}`)
          }
        }
      }
    })
  )

  it.effect("ends all three stages if it is interrupted", () =>
    Effect.gen(function* () {
      const working = yield* Deferred.make<void>()
      const interrupted: Array<string> = []
      const hang = (name: string) =>
        Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(name)))
      let made = 0
      const fiber = yield* Effect.fork(
        pipeline.run({
          make: Effect.suspend(() => (made++ < 2 ? Effect.succeed(made) : hang("make"))),
          work: (number) => (number === 1 ? Effect.succeed(number) : hang("work")),
          finish: () => Effect.zipRight(Deferred.succeed(working, undefined), hang("finish")),
          concurrency: 1
        })
      )
      yield* Deferred.await(working)
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(fiber)
      assert.sameMembers(interrupted, ["make", "work", "finish"])
    })
  )
})
