import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fc from "fast-check"
import { narrow, Refused } from "../src/internal/narrow.js"
import { UploadError } from "../src/schema/Errors.js"
import type { Rejection } from "../src/services/Uploader.js"

/** A database that refuses every statement with one of the `bad` in it. */
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
  it.effect("rejects exactly the bad ones, stores all others once and in order", () =>
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

  it.effect("many bad events cost at most two statements each and no more than twice the batch", () =>
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

  it.effect("an event that is not to blame is never rejected", () =>
    Effect.gen(function* () {
      const blameless = new UploadError({ class: "transient", code: "8004", reason: "transaction too large" })
      const attempt = () => new Refused({ code: "8004", reason: "", blameless })
      const error = yield* Effect.flip(narrow(attempt, 0, 9, () => Effect.dieMessage("rejected")))
      assert.strictEqual(error, blameless)
    })
  )
})
