/** Housekeeping: the queue erases decided letters beside appends and delivery, whatever ends the process. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Logger, LogLevel } from "effect"
import { setTimeout as sleep } from "node:timers/promises"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as deadLetters from "../../src/internal/queue/deadLetters.js"
import type { Disk, DiskError } from "../../src/services/Disk.js"
import * as q from "../support/queue.js"

const LETTERS = "/audit/dead-letter.ndjson"
const COUNT = 1500

/** A directory of an earlier version: over a megabyte of letters, all discarded and none erased. */
const withLetters = (count: number) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* Effect.forEach(q.idsOf("secret-", count), (id) => q.append(queue, id, 600), {
          concurrency: "unbounded",
          discard: true
        })
        yield* q.deliverAll(queue, new Set(), { isRejected: () => true })
      })
    )
    const ids = (yield* q.letters(disk)).map(({ id }) => id)
    const decisions = ids.map((id) =>
      JSON.stringify({ type: "discarded", id, at: "2026-01-01T00:00:00.000Z", by: "li" })
    )
    yield* Effect.scoped(
      Effect.flatMap(disk.open(LETTERS, "append"), (file) =>
        file.append(Buffer.from(`\n${decisions.join("\n")}\n`))
      )
    )
    assert.isAbove((yield* disk.info(LETTERS))!.size, 1 << 20)
    return { memory, disk }
  })

const withDecidedLetters = withLetters(COUNT)

const isClean = (disk: Disk["Type"]) =>
  Effect.map(q.textOf(disk, LETTERS), (text) => !text.includes("secret-") && text.length < 200 * COUNT)

const untilClean = (disk: Disk["Type"]) =>
  Effect.zipRight(
    Effect.promise(() => sleep(5)),
    isClean(disk)
  ).pipe(Effect.repeat({ until: (clean) => clean }))

const BOOKS = { dead: 0, discarded: COUNT, missing: 0, balanced: true }

describe("a start with many decided letters", () => {
  it.live("records and delivers while it erases their content, with the same counts before and after", () =>
    Effect.gen(function* () {
      const { disk, memory } = yield* withDecidedLetters
      const goOn = yield* Deferred.make<void>()
      memory.inject(({ operation, path }) =>
        operation === "overwrite" && path === LETTERS
          ? { type: "wait", until: Deferred.await(goOn) }
          : undefined
      )
      yield* q.withQueue(disk, {}, (queue) =>
        Effect.gen(function* () {
          const database = new Set<string>()
          assert.include(yield* q.books(queue), BOOKS)
          yield* q.append(queue, "new")
          // a commit waits for the pending step, which covers only a part of the file
          yield* Deferred.succeed(goOn, undefined)
          yield* q.deliverAll(queue, database)
          assert.deepStrictEqual([...database], ["new"])
          yield* untilClean(disk)
          assert.include(yield* q.books(queue), { ...BOOKS, delivered: 1 })
        })
      )
    })
  )

  it.live("delivers while the disk delays the file of heads", () =>
    Effect.gen(function* () {
      const { disk, memory } = yield* withDecidedLetters
      const isWaiting = yield* Deferred.make<void>()
      const goOn = yield* Deferred.make<void>()
      memory.inject(({ operation, path }) => {
        if (operation !== "sync" || path !== `${LETTERS}.new`) return undefined
        Deferred.unsafeDone(isWaiting, Exit.void)
        return { type: "wait", until: Deferred.await(goOn) }
      })
      yield* q.withQueue(disk, {}, (queue) =>
        Effect.gen(function* () {
          const database = new Set<string>()
          yield* q.append(queue, "new")
          yield* Deferred.await(isWaiting)
          yield* q
            .deliverAll(queue, database)
            .pipe(Effect.timeout("10 seconds"), Effect.ensuring(Deferred.succeed(goOn, undefined)))
          assert.deepStrictEqual([...database], ["new"])
          yield* untilClean(disk)
        })
      )
    })
  )

  for (const torn of [0, 1])
    it.live(`reads about a megabyte in each step, with ${torn} torn ends`, () =>
      Effect.gen(function* () {
        const { disk, memory } = yield* withLetters(5000)
        const head = { id: "9000:0", segment: 9000, offset: 0, sequence: 9000, length: 3, class: "torn" }
        const end = { type: "letter", ...head, reason: "torn", at: "2026-01-01T00:00:00.000Z", line: '{"a' }
        yield* Effect.scoped(
          Effect.flatMap(disk.open(LETTERS, "append"), (file) =>
            file.append(Buffer.from(torn === 0 ? "\n" : `${JSON.stringify(end)}\n`))
          )
        )
        let [reads, most] = [0, 0]
        memory.inject(({ operation }) => {
          if (operation === "readAt") reads++
          return undefined
        })
        const letters = yield* deadLetters.make(disk, "/audit", (write) => write)
        assert.strictEqual(letters.counts().torn, torn)
        const guarded = <A>(step: Effect.Effect<A, DiskError>) =>
          Effect.zipRight(
            Effect.sync(() => (reads = 0)),
            Effect.tap(step, () => Effect.sync(() => (most = Math.max(most, reads))))
          )
        yield* letters.tidy(guarded, guarded)
        assert.notInclude(yield* q.textOf(disk, LETTERS), "secret-")
        // of 256 KiB each
        assert.isAtMost(most, 6)
      })
    )

  it.live("leaves the rest to the next owner if it closes", () =>
    Effect.gen(function* () {
      const { disk } = yield* withDecidedLetters
      yield* q.withQueue(disk, {}, (queue) => q.append(queue, "new"))
      assert.isFalse(yield* isClean(disk))
      yield* q.withQueue(disk, {}, (queue) =>
        Effect.zipRight(
          untilClean(disk),
          Effect.map(q.books(queue), (books) => assert.include(books, { ...BOOKS, waiting: 1 }))
        )
      )
    })
  )

  it.live("keeps the counts, and erases in the end, if the power fails at any call to the letters", () =>
    Effect.gen(function* () {
      for (let call = 0; call < 40; call += 2) {
        const { memory } = yield* withDecidedLetters
        const dead = yield* Deferred.make<void>()
        let calls = 0
        let die = call
        memory.inject(({ operation, path }) => {
          if (!path.startsWith(LETTERS) && !(operation === "syncDirectory" && calls > 0)) return undefined
          if (calls++ !== call) return undefined
          memory.cutPower((bound) => (die = (die * 7919 + 13) % 1009) % bound)
          Deferred.unsafeDone(dead, Exit.void)
          return undefined
        })
        const first = yield* Effect.exit(q.openClosable(memory.startProcess()))
        yield* Effect.raceFirst(Deferred.await(dead), Effect.sleep("2 seconds"))
        if (Exit.isSuccess(first)) yield* first.value.close
        memory.inject(() => undefined)
        const disk = memory.startProcess()
        yield* q.withQueue(disk, {}, (queue) =>
          Effect.gen(function* () {
            assert.include(yield* q.books(queue), BOOKS, `after a power cut at call ${call}`)
            yield* untilClean(disk)
            assert.include(yield* q.books(queue), BOOKS)
          })
        )
        yield* q.withQueue(disk, {}, (queue) =>
          Effect.map(q.books(queue), (books) => assert.include(books, BOOKS))
        )
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )
})
