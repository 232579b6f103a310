import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope, TestClock } from "effect"
import * as groupCommit from "../src/internal/groupCommit.js"

type Entry = groupCommit.Entry<string, string, string>

const make = (write: (group: ReadonlyArray<Entry>) => Effect.Effect<void>) =>
  Effect.flatMap(Effect.makeSemaphore(1), (guard) =>
    groupCommit.make<string, string, string>({
      guard,
      write,
      expired: (group) =>
        Effect.sync(() => {
          for (const entry of group) entry.done(Effect.fail("expired"))
        }),
      refusal: () => "refused",
      timeoutMillis: 10_000,
      sizeOf: (payload) => payload.length,
      maxGroupSize: 8
    })
  )

const answer = (group: ReadonlyArray<Entry>) =>
  Effect.sync(() => {
    for (const entry of group) entry.done(Effect.succeed(entry.payload))
  })

describe("group commit", () => {
  it.scoped("all who wait during a write share the next one, in order, up to the size of a group", () =>
    Effect.gen(function* () {
      const groups: Array<ReadonlyArray<string>> = []
      const first = yield* Deferred.make<void>()
      const commit = yield* make((group) =>
        Effect.gen(function* () {
          groups.push(group.map((entry) => entry.payload))
          if (groups.length === 1) yield* Deferred.await(first)
          yield* answer(group)
        })
      )
      const callers = yield* Effect.forEach(["a", "b1", "b2", "b3", "b4", "c1"], (payload) =>
        Effect.tap(Effect.fork(commit.add(payload)), () => Effect.repeatN(Effect.yieldNow(), 10))
      )
      yield* Deferred.succeed(first, undefined)
      assert.deepStrictEqual(yield* Fiber.join(Fiber.all(callers)), ["a", "b1", "b2", "b3", "b4", "c1"])
      assert.deepStrictEqual(groups, [["a"], ["b1", "b2", "b3", "b4"], ["c1"]])
    })
  )

  it.scoped("a write that does not end is given up, and the next one does not wait for it", () =>
    Effect.gen(function* () {
      const commit = yield* make((group) => (group[0]!.payload === "hangs" ? Effect.never : answer(group)))
      const hung = yield* Effect.fork(Effect.flip(commit.add("hangs")))
      yield* TestClock.adjust("1 second")
      const next = yield* Effect.fork(commit.add("next"))
      yield* TestClock.adjust("8 seconds")
      assert.strictEqual((yield* Fiber.poll(hung))._tag, "None")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(hung), "expired")
      assert.strictEqual(yield* Fiber.join(next), "next")
    })
  )

  it.scoped("those who ask wait for the entries before, and for no later one", () =>
    Effect.gen(function* () {
      const first = yield* Deferred.make<void>()
      const commit = yield* make((group) =>
        group[0]!.payload === "first" ? Effect.zipRight(Deferred.await(first), answer(group)) : Effect.never
      )
      yield* commit.awaitAnswers
      yield* Effect.fork(commit.add("first"))
      // taken by the writer or not: it waits
      const soon = yield* Effect.fork(commit.awaitAnswers)
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      const later = yield* Effect.fork(commit.awaitAnswers)
      yield* Effect.fork(commit.add("never"))
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      assert.deepStrictEqual([soon.unsafePoll(), later.unsafePoll()], [null, null])
      yield* Deferred.succeed(first, undefined)
      yield* Fiber.join(soon)
      yield* Fiber.join(later)
    })
  )

  it.effect("no caller is left without an answer when the scope closes", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const commit = yield* Scope.extend(
        make(() => Effect.never),
        scope
      )
      const underWay = yield* Effect.fork(Effect.flip(commit.add("under way")))
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      const waiting = yield* Effect.fork(Effect.flip(commit.add("waiting")))
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Fiber.join(underWay), "expired")
      assert.strictEqual(yield* Fiber.join(waiting), "refused")
      assert.strictEqual(yield* Effect.flip(commit.add("late")), "refused")
    })
  )
})
