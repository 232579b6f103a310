import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope, TestClock } from "effect"
import * as writer from "../../src/internal/queue/writer.js"

type Group = writer.Group<string, string>

const MiB = 1024 * 1024

const make = (write: (group: Group) => Effect.Effect<void>, maxGroupBytes = 8) =>
  Effect.flatMap(Effect.makeSemaphore(1), (guard) =>
    writer.make<string, string>({
      guard,
      write,
      expired: ({ entries }) =>
        Effect.sync(() => {
          for (const entry of entries) entry.done(Effect.fail("expired"))
        }),
      refusal: () => "refused",
      timeoutMillis: 10_000,
      maxGroupBytes
    })
  ).pipe(Effect.map((commit) => ({ ...commit, add: (line: string) => commit.add(line, line) })))

const answer = ({ entries }: Group) =>
  Effect.sync(() => {
    for (const entry of entries) entry.done(Effect.succeed(entry.eventId))
  })

/** Answers like a disk, after all ready fibers have run. */
const answerLater = (group: Group) =>
  Effect.zipRight(
    Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve))),
    answer(group)
  )

const textOf = ({ bytes }: Group) => Buffer.from(bytes).toString()

describe("group commit", () => {
  it.scoped("joins the waiting appends to the next write, in order, up to the group size", () =>
    Effect.gen(function* () {
      const groups: Array<string> = []
      const first = yield* Deferred.make<void>()
      const commit = yield* make((group) =>
        Effect.gen(function* () {
          groups.push(textOf(group))
          if (groups.length === 1) yield* Deferred.await(first)
          yield* answer(group)
        })
      )
      const callers = yield* Effect.forEach(["a", "b1", "b2", "b3", "b4", "c1"], (payload) =>
        Effect.tap(Effect.fork(commit.add(payload)), () => Effect.repeatN(Effect.yieldNow(), 10))
      )
      yield* Deferred.succeed(first, undefined)
      assert.deepStrictEqual(yield* Fiber.join(Fiber.all(callers)), ["a", "b1", "b2", "b3", "b4", "c1"])
      assert.deepStrictEqual(groups, ["a", "b1b2b3b4", "c1"])
    })
  )

  it.scoped("bounds the bytes of a write, and joins later appends to the next one", () =>
    Effect.gen(function* () {
      const lines = Array.from({ length: 100 }, (_, i) => `${i}`.padStart(1023, "é") + "\n")
      const groups: Array<string> = []
      const commit = yield* make(
        (group) =>
          Effect.zipRight(
            Effect.sync(() => groups.push(textOf(group))),
            answerLater(group)
          ),
        MiB
      )
      yield* Effect.forEach(lines, commit.add, { concurrency: "unbounded" })
      assert.strictEqual(groups.join(""), lines.join(""))
      assert.strictEqual(groups.length, 2)
      const [first] = groups
      assert.isAtLeast(Buffer.byteLength(first!), 32 * 1024)
      assert.isBelow(Buffer.byteLength(first!), 34 * 1024)
    })
  )

  it.scoped("writes lines longer than any before, in alternating groups", () =>
    Effect.gen(function* () {
      let written = ""
      const commit = yield* make((group) => {
        written += textOf(group)
        return answerLater(group)
      }, MiB)
      const lines = [10, 200_000, 10, 3_000_000, 10, 70_000].map(
        (length, i) => `${i}${"鱼".repeat(length)}\n`
      )
      const expected: Array<string> = []
      for (const line of lines) {
        yield* Effect.forEach([line, "a\n", "b\n"], commit.add, { concurrency: "unbounded" })
        expected.push(line, "a\n", "b\n")
      }
      assert.strictEqual(written, expected.join(""))
    })
  )

  it.scoped("reuses no buffer of an abandoned write", () =>
    Effect.gen(function* () {
      const hung: Array<Uint8Array> = []
      const commit = yield* make((group) => {
        if (hung.length > 0) return answer(group)
        hung.push(group.bytes)
        return Effect.never
      })
      const first = yield* Effect.fork(Effect.flip(commit.add("hangs")))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(first), "expired")
      for (const line of ["one", "two", "three"]) yield* commit.add(line)
      assert.strictEqual(Buffer.from(hung[0]!).toString(), "hangs")
    })
  )

  it.scoped("abandons a write that hangs, and does not wait for it", () =>
    Effect.gen(function* () {
      const commit = yield* make((group) => (textOf(group) === "hangs" ? Effect.never : answer(group)))
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

  it.scoped("waits for the entries before a barrier, and for no later one", () =>
    Effect.gen(function* () {
      const first = yield* Deferred.make<void>()
      const commit = yield* make((group) =>
        textOf(group) === "first" ? Effect.zipRight(Deferred.await(first), answer(group)) : Effect.never
      )
      yield* commit.awaitAnswers
      yield* Effect.fork(commit.add("first"))
      // waits, whether the writer has taken the entry or not
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

  it.effect("answers every caller when the scope closes", () =>
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
