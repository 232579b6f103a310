/** Late answers of the disk, after the queue has closed: no call of the old owner harms the next one. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, LogLevel, TestClock } from "effect"
import { setImmediate } from "node:timers/promises"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import type { Call } from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import type { Disk } from "../../src/services/Disk.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import * as q from "../support/queue.js"

/** Many turns of the event loop, since each step of a decision yields. */
const settle = Effect.repeatN(
  Effect.promise(() => setImmediate()),
  20
)
const isLetters = ({ path }: Call) => path.endsWith("/dead-letter.ndjson")

/** An owner of a queue with one line. */
const owned = Effect.gen(function* () {
  const memory = MemoryDisk.make()
  const disk = memory.startProcess()
  const first = yield* q.openClosable(disk)
  yield* q.append(first.queue, "e0")
  return { disk, first, memory }
})

/** Closes while calls to the disk hang, which takes the whole shutdown time. */
const closeOver = (place: { readonly close: Effect.Effect<void> }) =>
  Effect.gen(function* () {
    const closing = yield* Effect.fork(place.close)
    yield* settle
    yield* TestClock.adjust("6 seconds")
    yield* Fiber.join(closing)
  })

/** Delivers six lines in two segments, so that an old owner's write would hit a newer cursor slot. */
const lateCursor = (next: q.Queue) =>
  Effect.gen(function* () {
    yield* q.appendAll(next, q.idsOf("n", 6))
    yield* q.deliver(next, new Set(), { maxRecords: 1 })
    const a = yield* next.take({ maxRecords: 100, maxBytes: 1e6 })
    const b = yield* next.take({ from: a.end, maxRecords: 100, maxBytes: 1e6 })
    yield* next.commit({ records: [...a.records, ...b.records], start: a.start, end: b.end }, [])
  })

/** Kills the owner, and checks that the next one's books count seven lines. */
const judgeNextProcess = (memory: MemoryDisk.MemoryDisk) =>
  Effect.gen(function* () {
    memory.kill()
    const last = yield* q.openClosable(memory.startProcess())
    yield* q.deliverAll(last.queue, new Set())
    assert.include(yield* q.books(last.queue), { delivered: 7, missing: 0 })
  })

describe("an owner with calls to the disk under way at its close", () => {
  it.effect("overwrites no newer cursor if the fsync of its last compaction hangs", () =>
    Effect.gen(function* () {
      const { disk, first, memory } = yield* owned
      yield* q.deliverAll(first.queue, new Set())
      const answer = yield* Deferred.make<void>()
      memory.inject((call) =>
        call.operation === "sync" ? { type: "wait", until: Deferred.await(answer) } : undefined
      )
      yield* closeOver(first)
      memory.inject(() => undefined)
      const next = yield* Effect.either(q.openClosable(disk, { segmentBytes: 60 }))
      if (next._tag === "Left") return assert.strictEqual(next.left._tag, "QueueLocked")
      yield* lateCursor(next.right.queue)
      assert.include(yield* q.books(next.right.queue), { delivered: 7, missing: 0 })
      yield* Deferred.succeed(answer, undefined)
      yield* settle
      yield* judgeNextProcess(memory)
    })
  )

  it.effect("writes no late letter for an event that the next owner delivers", () =>
    Effect.gen(function* () {
      const { disk, first, memory } = yield* owned
      const answer = yield* Deferred.make<void>()
      memory.inject((call) =>
        call.operation === "write" && isLetters(call)
          ? { type: "wait", until: Deferred.await(answer) }
          : undefined
      )
      yield* Effect.forkDaemon(q.deliver(first.queue, new Set(), { isRejected: () => true }))
      yield* settle
      yield* closeOver(first)
      memory.inject(() => undefined)
      const next = yield* Effect.either(q.openClosable(disk))
      if (next._tag === "Left") return assert.strictEqual(next.left._tag, "QueueLocked")
      yield* q.deliverAll(next.right.queue, new Set())
      yield* Deferred.succeed(answer, undefined)
      yield* settle
      yield* next.right.close
      yield* q.withQueue(disk, {}, (last) =>
        Effect.gen(function* () {
          yield* last.retry(() => true, "test")
          assert.include(yield* q.books(last), { accepted: 1, delivered: 1, dead: 0 })
        })
      )
    })
  )

  it.effect("keeps a whole copy of an oversize letter if its write hangs", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      yield* q.withQueue(disk, {}, (queue) => q.append(queue, "big", 2_000_000))
      const options = { maxLineBytes: 1000 }
      const first = yield* q.openClosable(disk, options)
      const hangAt = (until: Deferred.Deferred<void>, write: number) => {
        let count = 0
        memory.inject((call) =>
          call.operation === "write" && isLetters(call) && ++count === write
            ? { type: "wait", until: Deferred.await(until) }
            : undefined
        )
      }
      const [a, b] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      hangAt(a, 3)
      yield* Effect.forkDaemon(q.deliver(first.queue, new Set()))
      yield* settle
      yield* closeOver(first)
      hangAt(b, 4)
      const next = yield* Effect.either(q.openClosable(disk, options))
      if (next._tag === "Left") return assert.strictEqual(next.left._tag, "QueueLocked")
      const done = yield* Effect.forkDaemon(q.deliver(next.right.queue, new Set()))
      yield* settle
      yield* Deferred.succeed(a, undefined)
      yield* settle
      yield* Deferred.succeed(b, undefined)
      yield* Fiber.join(done)
      yield* next.right.close
      assert.lengthOf(yield* q.segmentNames(disk), 0)
      const line = q.lineOf("big", 2_000_000).trimEnd()
      const copies = (yield* q.letters(disk)).filter(({ bytes }) => bytes.toString("utf8") === line)
      assert.isAbove(copies.length, 0, "an acknowledged event is lost")
    })
  )

  it.scopedLive(
    "writes no letter twice: 100 letters of 15 ms each, shutdownTimeout 500 ms, a real disk",
    () =>
      Effect.gen(function* () {
        const directory = yield* q.temporaryDirectory
        const real = yield* q.nodeDisk
        const slow: Disk["Type"] = {
          ...real,
          open: (path, mode) =>
            Effect.map(real.open(path, mode), (file) =>
              mode === "append" && path.endsWith("dead-letter.ndjson")
                ? { ...file, write: (bytes) => Effect.zipRight(Effect.sleep("15 millis"), file.write(bytes)) }
                : file
            )
        }
        yield* q.withQueue(real, { directory }, (queue) =>
          Effect.forEach(q.idsOf("e", 100), (id) => queue.append(`{"kind":"other","id":"${id}"}\n`, id))
        )
        const settings = { directory, shutdownTimeout: "500 millis" } as const
        const { uploader } = slowDatabase()
        const first = yield* openAudit(settings, { uploader, disk: slow })
        yield* Effect.sleep("100 millis")
        yield* first.close
        const next = yield* Effect.either(openAudit(settings, { uploader }))
        if (next._tag === "Left") return assert.strictEqual(next.left._tag, "QueueLocked")
        yield* Effect.sleep("2 seconds")
        const ids = (yield* q.letters(real, directory)).map(({ id }) => id)
        assert.strictEqual(ids.length, new Set(ids).size, "both owners have written letters")
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.effect("keeps the lock if opening is interrupted during the write of its cursor", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const plain = memory.startProcess()
      // as in NodeDisk, interrupting the caller does not stop the call
      const leave = <A, E>(call: Effect.Effect<A, E>) => Effect.flatMap(Effect.forkDaemon(call), Fiber.join)
      const disk: Disk["Type"] = {
        ...plain,
        open: (path, mode) =>
          Effect.map(plain.open(path, mode), (file) => ({
            ...file,
            writeAt: (bytes, offset) => leave(file.writeAt(bytes, offset))
          }))
      }
      yield* q.withQueue(disk, {}, (queue) =>
        Effect.zipRight(q.append(queue, "e0"), q.deliver(queue, new Set()))
      )
      const answer = yield* Deferred.make<void>()
      memory.inject((call) =>
        call.operation === "writeAt" && call.step === "data"
          ? { type: "wait", until: Deferred.await(answer) }
          : undefined
      )
      const opening = yield* Effect.forkDaemon(Effect.scoped(q.openQueue(disk)))
      yield* settle
      yield* Fiber.interrupt(opening)
      memory.inject(() => undefined)
      const next = yield* Effect.either(q.openClosable(disk, { segmentBytes: 60 }))
      if (next._tag === "Left") return assert.strictEqual(next.left._tag, "QueueLocked")
      yield* lateCursor(next.right.queue)
      yield* Deferred.succeed(answer, undefined)
      yield* settle
      yield* judgeNextProcess(memory)
    })
  )

  for (const [what, isHanging] of [
    ["a decision", (call: Call) => call.operation === "append" && isLetters(call)],
    [
      "the removal of a request",
      (call: Call) => call.operation === "remove" && call.path.includes("requests/")
    ]
  ] as const) {
    it.effect(`keeps the lock while ${what} hangs over the close`, () =>
      Effect.gen(function* () {
        const { disk, first, memory } = yield* owned
        yield* q.deliver(first.queue, new Set(), { isRejected: () => true })
        yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "operator" })
        memory.inject((call) => (isHanging(call) ? { type: "wait", until: Effect.never } : undefined))
        yield* Effect.forkDaemon(first.queue.carryOutRequests)
        yield* settle
        yield* closeOver(first)
        memory.inject(() => undefined)
        assert.strictEqual((yield* Effect.flip(q.openClosable(disk)))._tag, "QueueLocked")
      })
    )
  }

  it.effect("releases the lock when the disk has answered a slow write of the cursor", () =>
    Effect.gen(function* () {
      const { disk, first, memory } = yield* owned
      const answer = yield* Deferred.make<void>()
      memory.inject((call) =>
        call.operation === "writeAt" ? { type: "wait", until: Deferred.await(answer) } : undefined
      )
      yield* Effect.forkDaemon(q.deliver(first.queue, new Set()))
      yield* settle
      yield* closeOver(first)
      memory.inject(() => undefined)
      yield* Deferred.succeed(answer, undefined)
      yield* settle
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(q.openClosable(disk))))
    })
  )

  it.effect("carries out no request again after a power cut", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      const { queue } = yield* q.openClosable(disk)
      yield* q.append(queue, "a")
      yield* q.deliver(queue, new Set(), { isRejected: () => true })
      yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "operator" })
      yield* disk.syncDirectory("/audit")
      yield* queue.carryOutRequests
      yield* q.append(queue, "b")
      yield* q.deliver(queue, new Set(), { isRejected: () => true })
      memory.cutPower(() => 0)
      const next = yield* q.openClosable(memory.startProcess())
      yield* next.queue.carryOutRequests
      assert.include(yield* q.books(next.queue), { dead: 1, discarded: 1 })
    })
  )
})
