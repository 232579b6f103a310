import { assert, describe, it } from "@effect/vitest"
import { Effect, Either } from "effect"
import * as fc from "fast-check"
import { makeDriftGuard, narrow, Refused } from "../../src/internal/database/narrow.js"
import { UploadError } from "../../src/schema/Errors.js"
import type { Rejection } from "../../src/services/Uploader.js"

/** A database that refuses every statement with a `bad` event in it. */
const run = (size: number, bad: ReadonlySet<number>, from = 0) => {
  const stored: Array<number> = []
  const rejected: Array<Rejection> = []
  let statements = 0
  const attempt = (from: number, to: number) =>
    Effect.suspend(() => {
      statements++
      const events = Array.from({ length: to - from }, (_, index) => from + index)
      if (events.some((event) => bad.has(event))) return new Refused({ code: "1406", reason: "too long" })
      stored.push(...events)
      return Effect.void
    })
  return narrow(attempt, from, from + size, (rejection) => Effect.sync(() => rejected.push(rejection))).pipe(
    Effect.map(() => ({ stored, rejected: rejected.map((rejection) => rejection.index), statements }))
  )
}

describe("narrow", () => {
  it.effect("rejects exactly the bad events, and stores all others once and in order", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.nat(60),
          fc.integer({ min: 1, max: 120 }),
          fc.infiniteStream(fc.boolean()),
          async (from, size, coin) => {
            const all = Array.from({ length: size }, (_, index) => from + index)
            const bad = new Set(all.filter(() => coin.next().value))
            const { rejected, stored } = await Effect.runPromise(run(size, bad, from))
            assert.deepStrictEqual(rejected, [...bad])
            assert.deepStrictEqual(
              stored,
              all.filter((event) => !bad.has(event))
            )
          }
        )
      )
    )
  )

  it.effect("one bad event costs at most 2 log2 n further statements", () =>
    Effect.gen(function* () {
      for (const size of [2, 3, 5, 8, 100, 127, 128, 129, 500]) {
        for (let bad = 0; bad < size; bad++) {
          const { rejected, statements } = yield* run(size, new Set([bad]))
          assert.deepStrictEqual(rejected, [bad])
          assert.isAtMost(statements, 1 + 2 * Math.log2(size), `${bad} of ${size}`)
        }
      }
    })
  )

  it.effect("many bad events cost at most two statements each, and no more than twice the batch", () =>
    Effect.gen(function* () {
      for (const [size, period] of [
        [500, 5],
        [500, 50],
        [500, 1]
      ] as const) {
        const bad = new Set(Array.from({ length: size / period }, (_, index) => index * period))
        const { rejected, statements } = yield* run(size, bad)
        assert.strictEqual(rejected.length, bad.size)
        assert.isAtMost(statements, Math.min(2 * size, 1 + 2 * bad.size * Math.log2(size)))
      }
    })
  )

  it.effect("never rejects an event that is not to blame", () =>
    Effect.gen(function* () {
      const blameless = new UploadError({ class: "transient", code: "8004", reason: "transaction too large" })
      const attempt = () => new Refused({ code: "8004", reason: "", blameless })
      const error = yield* Effect.flip(narrow(attempt, 0, 9, () => Effect.dieMessage("rejected")))
      assert.strictEqual(error, blameless)
    })
  )
})

describe("the drift guard", () => {
  const events = (fresh: number, retried = 0) => [
    ...Array.from({ length: fresh }, () => ({})),
    ...Array.from({ length: retried }, () => ({ retried: true }))
  ]
  /** Uploads a batch whose events from one index up to another are refused. Returns whether that counted as drift. */
  const upload = (
    guard: ReturnType<typeof makeDriftGuard>,
    batch: ReturnType<typeof events>,
    refused: readonly [from: number, to: number],
    stored = 0
  ) =>
    Effect.gen(function* () {
      const watch = guard.watch("t", batch, stored)
      for (let index = refused[0]; index < refused[1]; index++) {
        const result = yield* Effect.either(watch.onRejected({ index, code: "1406", reason: "" }))
        if (Either.isLeft(result)) return true
      }
      watch.done()
      return false
    })

  it.effect("does not count retried events that are refused, and remembers that others were stored", () =>
    Effect.gen(function* () {
      const guard = makeDriftGuard()
      assert.isFalse(yield* upload(guard, events(9), [0, 9]))
      assert.isFalse(yield* upload(guard, events(0, 20), [0, 20]))
      assert.isTrue(yield* upload(guard, events(1), [0, 1]), "nothing was stored meanwhile")
      // the column was widened, so the retried events are stored
      assert.isFalse(yield* upload(guard, events(0, 9), [0, 0]))
      assert.isFalse(yield* upload(guard, events(9), [0, 9]))
      assert.isFalse(yield* upload(guard, events(0, 2), [0, 1]))
      assert.isFalse(yield* upload(guard, events(9, 1), [0, 9]), "one of them was stored")
      assert.isFalse(yield* upload(guard, events(9), [0, 9]))
    })
  )

  it.effect("goes on counting the most frequent reason", () =>
    Effect.gen(function* () {
      const guard = makeDriftGuard()
      const watch = guard.watch("t", events(9))
      for (let index = 0; index < 9; index++)
        yield* watch.onRejected({ index, code: index === 0 ? "1366" : "1406", reason: "" })
      watch.done()
      assert.isFalse(yield* upload(guard, events(1), [0, 1]), "nine of this reason")
      assert.isTrue(yield* upload(guard, events(1), [0, 1]))
    })
  )

  it.effect("judges a batch as a whole if a part was stored before", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* upload(makeDriftGuard(), events(12), [0, 12]))
      const guard = makeDriftGuard()
      assert.isFalse(yield* upload(guard, events(12), [0, 12], 50))
      assert.isFalse(yield* upload(guard, events(9), [0, 9]))
    })
  )
})
