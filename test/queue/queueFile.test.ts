/** The queue: append, take, commit and compact, on a real disk and in memory. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, Stream, TestClock } from "effect"
import { setImmediate } from "node:timers/promises"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import type { QueueClosed, QueueFull } from "../../src/schema/Errors.js"
import type { Batch, Refusal } from "../../src/services/QueueFile.js"
import * as q from "../support/queue.js"

const memory = Effect.sync(() => ({ disk: MemoryDisk.make().startProcess(), directory: "/audit" }))
const files = Effect.gen(function* () {
  return { disk: yield* q.nodeDisk, directory: `${yield* q.temporaryDirectory}/audit` }
})

describe.each([
  ["memory", memory],
  ["files", files]
] as const)("a queue in %s", (_, place) => {
  it.scoped("delivers in order, with balanced counts", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory, segmentBytes: 200 })
      const ids = q.idsOf("e", 50)
      const numbers = yield* q.appendAll(queue, ids)
      assert.deepStrictEqual(numbers, [...ids.keys()])
      assert.deepStrictEqual(yield* q.waitingIds(queue), ids)
      assert.isAbove((yield* q.segmentNames(disk, directory)).length, 3)

      const database = new Set<string>()
      yield* q.deliver(queue, database, { maxRecords: 7, isRejected: (id) => id === "e3" })
      const some = yield* q.books(queue)
      assert.include(some, { accepted: 50, waiting: 43, delivered: 6, dead: 1, missing: 0, balanced: true })
      yield* q.deliverAll(queue, database, { maxRecords: 7 })
      assert.deepStrictEqual(
        [...database],
        ids.filter((id) => id !== "e3")
      )
      assert.lengthOf(yield* q.segmentNames(disk, directory), 1)
      // the writer keeps its guard during the turn of an append
      yield* Effect.promise(() => setImmediate())
      yield* queue.compact
      assert.lengthOf(yield* q.segmentNames(disk, directory), 0)
      assert.include(yield* q.books(queue), { accepted: 50, waiting: 0, waitingBytes: 0, balanced: true })
      assert.strictEqual(yield* q.append(queue, "next"), 50)
    })
  )

  it.scoped("continues at its position after each of ten restarts", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const database = new Set<string>()
      for (let round = 0; round < 10; round++) {
        yield* q.withQueue(disk, { directory, segmentBytes: 200 }, (queue) =>
          Effect.gen(function* () {
            yield* q.appendAll(queue, q.idsOf(`${round}-`, 5))
            yield* q.deliver(queue, database, { maxRecords: 4 })
            const books = yield* q.books(queue)
            assert.include(books, { accepted: 5 * (round + 1), missing: 0, balanced: true })
            assert.strictEqual(books.delivered, database.size)
          })
        )
      }
      yield* q.withQueue(disk, { directory }, (queue) => q.deliverAll(queue, database))
      assert.strictEqual(database.size, 50)
      assert.lengthOf(yield* q.segmentNames(disk, directory), 0)
    })
  )

  it.scoped("commits concurrent appends together", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory })
      let commits = 0
      yield* queue.onAppend(() => commits++)
      const ids = q.idsOf("e", 1000)
      const numbers = yield* Effect.forEach(ids, (id) => q.append(queue, id), { concurrency: "unbounded" })
      assert.deepStrictEqual(numbers, [...ids.keys()])
      assert.isBelow(commits, 50)
      assert.deepStrictEqual(yield* q.waitingIds(queue), ids)
    })
  )

  it.scoped("leaves the event of an interrupted caller whole or absent, and others alone", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory })
      const acknowledged = new Set<string>()
      for (let round = 0; round < 20; round++) {
        const fibers = yield* Effect.forEach(q.idsOf(`${round}-`, 40), (id) =>
          q.append(queue, id, 100).pipe(
            Effect.tap(() => Effect.sync(() => acknowledged.add(id))),
            Effect.fork
          )
        )
        for (let turn = 0; turn < round; turn++) yield* Effect.yieldNow()
        yield* Effect.forEach(fibers, (fiber, index) =>
          index % 2 === 0 ? Fiber.interrupt(fiber) : Fiber.await(fiber)
        )
      }
      const records = yield* q.readAll(queue)
      const ids = records.map(q.idOf)
      assert.notInclude(ids, undefined)
      assert.strictEqual(new Set(ids).size, ids.length)
      for (const id of acknowledged) assert.include(ids, id)
      assert.isAtLeast(acknowledged.size, 400)
      assert.strictEqual((yield* q.books(queue)).accepted, ids.length)
    })
  )

  it.scoped("reads from a position without moving the cursor", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory, segmentBytes: 100 })
      yield* q.appendAll(queue, q.idsOf("e", 9))
      const limits = { maxRecords: 2, maxBytes: 1000 }
      const first = yield* queue.take(limits)
      const second = yield* queue.take({ from: first.end, ...limits })
      const all = ({ records }: Batch) =>
        Array.from(records, ({ bytes, length, offset, problem, segment, sequence, surplus, text }) => {
          return { bytes, length, offset, problem, segment, sequence, surplus, text }
        })
      const again = yield* queue.take(limits)
      assert.deepStrictEqual([again.start, again.end, all(again)], [first.start, first.end, all(first)])
      assert.strictEqual(second.records.at(0)!.sequence, first.records.at(-1)!.sequence + 1)
      yield* queue.commit(first, [])
      assert.deepStrictEqual(all(yield* queue.take(limits)), all(second))
    })
  )

  it.scoped("continues an empty newest segment instead of adding another", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      yield* q.withQueue(disk, { directory }, (queue) => q.append(queue, "a"))
      yield* Effect.scoped(disk.open(`${directory}/${"1".padStart(20, "0")}.ndjson`, "create"))
      for (let round = 0; round < 3; round++) yield* q.withQueue(disk, { directory }, () => Effect.void)
      yield* q.withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          assert.strictEqual(yield* q.append(queue, "b"), 1)
          assert.deepStrictEqual(yield* q.waitingIds(queue), ["a", "b"])
        })
      )
      assert.lengthOf(yield* q.segmentNames(disk, directory), 2)
    })
  )

  it.scoped("refuses appends beyond maxQueueBytes until something is delivered", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory, maxQueueBytes: 300 })
      const exits = yield* Effect.forEach(q.idsOf("e", 20), (id) => Effect.either(q.append(queue, id)))
      const accepted = exits.filter((exit) => exit._tag === "Right").length
      assert.isTrue(accepted > 5 && accepted < 20)
      const last = exits.at(-1)! as unknown as { readonly left: QueueFull }
      assert.include(last.left, {
        _tag: "QueueFull",
        limit: "maxQueueBytes",
        outcome: "absent",
        eventId: "e19"
      })
      assert.isAtMost((yield* q.books(queue)).waitingBytes, 300)
      yield* q.deliverAll(queue, new Set())
      yield* q.append(queue, "again")
    })
  )

  it.scoped("announces a request as soon as it arrives", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const queue = yield* q.openQueue(disk, { directory })
      const looking = yield* Deferred.make<void>()
      const seen = yield* queue.requests.pipe(
        Stream.tap(() => Deferred.succeed(looking, undefined)),
        Stream.mapEffect(() => requests.list(disk, directory)),
        Stream.takeUntil((open) => open.length > 0),
        Stream.runDrain,
        Effect.fork
      )
      yield* Deferred.await(looking)
      yield* requests.submit(disk, directory, { action: "discard", letters: "all", by: "li" })
      yield* Fiber.join(seen)
    })
  )

  it.scoped("refuses appends after its close, and releases the directory", () =>
    Effect.gen(function* () {
      const { disk, directory } = yield* place
      const { close, queue } = yield* q.openClosable(disk, { directory })
      yield* q.append(queue, "a")
      const second = yield* Effect.flip(Effect.scoped(q.openQueue(disk, { directory })))
      assert.include(second, { _tag: "QueueLocked", pid: process.pid, sameProcess: true })
      const last = yield* Effect.fork(q.append(queue, "b"))
      yield* Effect.yieldNow()
      yield* close
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(last)))
      const error = (yield* Effect.flip(q.append(queue, "c"))) as QueueClosed
      assert.include(error, { _tag: "QueueClosed", eventId: "c", outcome: "absent" })
      yield* q.withQueue(disk, { directory }, (next) =>
        Effect.map(q.waitingIds(next), (ids) => assert.deepStrictEqual(ids, ["a", "b"]))
      )
    })
  )
})

it.effect("decides no letter before the cursor has counted it", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const queue = yield* q.openQueue(memory.startProcess())
      yield* q.append(queue, "a")
      const cursor = yield* Deferred.make<void>()
      memory.inject(({ operation }) =>
        operation === "writeAt" ? { type: "wait", until: Deferred.await(cursor) } : undefined
      )
      const delivering = yield* Effect.fork(q.deliver(queue, new Set(), { isRejected: () => true }))
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      const retrying = yield* Effect.fork(queue.retry(() => true, "li"))
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      const meanwhile = yield* queue.status
      yield* Deferred.succeed(cursor, undefined)
      assert.include(meanwhile, { waiting: 1, dead: 0, retried: 0 })
      yield* Fiber.join(delivering)
      assert.strictEqual(yield* Fiber.join(retrying), 1)
      assert.include(yield* q.books(queue), { waiting: 1, dead: 0, retried: 1, balanced: true })
    })
  )
)

describe("a retried letter", () => {
  /** The line as a retry appends it, after a refusal of this class. */
  const again = (queue: q.Queue, line: string, cls: Refusal["class"]) =>
    Effect.gen(function* () {
      yield* queue.append(`${line}\n`, "a")
      const batch = yield* queue.take({ maxRecords: 1, maxBytes: 1 })
      yield* queue.commit(batch, [{ record: batch.records.at(0)!, class: cls, reason: "" }])
      assert.strictEqual(yield* queue.retry(() => true, "li"), 1)
      const next = yield* queue.take({ maxRecords: 1, maxBytes: 1 })
      yield* queue.commit(next, [])
      return next.records.at(0)!.text!
    })

  it.scoped("keeps its text, and gets one mark if the database had refused it", () =>
    Effect.gen(function* () {
      const queue = yield* q.openQueue(MemoryDisk.make().startProcess())
      const line = '{"event_id":"a","big":12345678901234567890,"big":1.10}'
      const marked = `${line.slice(0, -1)},"$retried":true}`
      assert.strictEqual(yield* again(queue, ` ${line} `, "rejected"), marked)
      assert.strictEqual(yield* again(queue, marked, "rejected"), marked)
      // no table was tried, so nobody knows whether the line fits one
      assert.strictEqual(yield* again(queue, line, "unknownKind"), line)
      const old = yield* again(queue, '{"kind":"use_log","big":12345678901234567890}', "rejected")
      assert.match(
        old,
        /^\{"event_id":"[0-9a-f-]{36}","kind":"use_log","big":12345678901234567890,"\$retried":true\}$/
      )
    })
  )

  it.scoped("stays a letter if its line cannot be an event", () =>
    Effect.gen(function* () {
      const queue = yield* q.openQueue(MemoryDisk.make().startProcess())
      for (const line of ["[1,2]", "{}", '{"event_id":5}', "torn"]) yield* queue.append(`${line}\n`, "a")
      const batch = yield* queue.take({ maxRecords: 9, maxBytes: 1000 })
      yield* queue.commit(
        batch,
        [...batch.records].map((record) => ({ record, class: "malformed", reason: "" }))
      )
      assert.strictEqual(yield* queue.retry(() => true, "li"), 0)
      assert.include(yield* q.books(queue), { dead: 4, retried: 0, waiting: 0 })
    })
  )

  it.scoped("is appended and delivered although its mark makes the line too long", () =>
    Effect.gen(function* () {
      const queue = yield* q.openQueue(MemoryDisk.make().startProcess(), { maxLineBytes: 100 })
      const database = new Set<string>()
      for (const id of ["a", "bb", "ccc"]) {
        const line = q.lineOf(id, 100 - q.lineOf(id, 1).length + 2)
        assert.lengthOf(line, 101)
        yield* queue.append(line, id)
      }
      const isRejected = (id: string) => id !== "a"
      for (let tries = 1; tries <= 3; tries++) {
        yield* q.deliverAll(queue, database, tries === 3 ? {} : { isRejected })
        const dead = tries === 3 ? 0 : 2
        assert.include(yield* q.books(queue), { dead, waiting: 0, balanced: true })
        assert.strictEqual(yield* queue.retry(() => true, "li"), dead)
      }
      assert.sameMembers([...database], ["a", "bb", "ccc"])
    })
  )

  it.scoped("stays a letter if its line is too long", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      const queue = yield* q.openQueue(disk, { maxLineBytes: 100 })
      // in one read with the line before it
      for (const padding of [1, 90, 300]) yield* queue.append(q.lineOf("a", padding), "a")
      yield* q.deliverAll(queue, new Set())
      assert.deepStrictEqual(
        (yield* q.letters(disk)).map((letter) => letter.class),
        ["oversize", "oversize"]
      )
      assert.strictEqual(yield* queue.retry(() => true, "li"), 0)
    })
  )
})

describe("compaction", () => {
  it.scoped("leaves no delivered line if the queue closes right after an append", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      const { close, queue } = yield* q.openClosable(disk)
      yield* q.append(queue, "delivered")
      yield* q.deliverAll(queue, new Set())
      yield* close
      assert.lengthOf(yield* q.segmentNames(disk), 0)
    })
  )

  it.scoped("does not wait for a pending write", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const queue = yield* q.openQueue(memory.startProcess())
      const database = new Set<string>()
      yield* q.append(queue, "delivered")
      yield* q.deliverAll(queue, database)
      const answer = yield* Deferred.make<void>()
      memory.inject(({ operation, path }) =>
        operation === "append" && path.endsWith(".ndjson")
          ? { type: "wait", until: Deferred.await(answer) }
          : undefined
      )
      const append = yield* Effect.fork(q.append(queue, "under way"))
      yield* TestClock.adjust(0)
      const compact = yield* Effect.fork(queue.compact)
      yield* TestClock.adjust(0)
      assert.isNotNull(compact.unsafePoll())
      yield* Deferred.succeed(answer, undefined)
      assert.strictEqual(yield* Fiber.join(append), 1)
      assert.deepStrictEqual(yield* q.waitingIds(queue), ["under way"])
    })
  )
})

describe("a delivered segment that cannot be removed", () => {
  it.scoped("delays neither delivery nor other removals, is logged once, and goes later", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      const logs: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => logs.push(`${logLevel.label} ${String(message)}`))
      yield* Effect.gen(function* () {
        const queue = yield* q.openQueue(disk, { segmentBytes: 1 })
        const database = new Set<string>()
        // one segment for each event
        yield* q.appendAll(queue, q.idsOf("early", 5))
        const [first] = yield* q.segmentNames(disk)
        memory.inject(({ operation, path }) =>
          operation === "remove" && path.endsWith(first!) ? { type: "fail", code: "EPERM" } : undefined
        )
        for (let batch = 0; batch < 5; batch++) yield* q.deliver(queue, database, { maxRecords: 1 })
        assert.strictEqual(database.size, 5)
        assert.lengthOf(yield* q.segmentNames(disk), 2)
        // the writer keeps the guard until the event loop turns
        yield* Effect.promise(() => setImmediate())
        assert.strictEqual((yield* Effect.flip(queue.compact))._tag, "QueueAccessError")
        assert.deepStrictEqual(yield* q.segmentNames(disk), [first])
        assert.include(yield* q.books(queue), { delivered: 5, waiting: 0, missing: 0 })
        const warnings = logs.filter((line) => line.startsWith("WARN"))
        assert.lengthOf(warnings, 1)
        assert.match(warnings[0]!, /stays on disk: .*immutable \(lsattr\).*tried again/)

        memory.inject(() => undefined)
        yield* q.appendAll(queue, q.idsOf("late", 2))
        for (let batch = 0; batch < 2; batch++) yield* q.deliver(queue, database, { maxRecords: 1 })
        assert.notInclude(yield* q.segmentNames(disk), first)
        assert.include(yield* q.books(queue), { delivered: 7, waiting: 0, missing: 0 })
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )
})

describe("a take beside a commit", () => {
  it.scoped("skips no segment while earlier ones are removed", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const queue = yield* q.openQueue(memory.startProcess(), { segmentBytes: 1 })
      // one segment for each event
      yield* q.appendAll(queue, ["a", "b", "c", "d"])
      const a = yield* queue.take({ maxRecords: 1, maxBytes: 1000 })
      const b = yield* queue.take({ from: a.end, maxRecords: 1, maxBytes: 1000 })
      // the status replaces the reader, so the next take must open the file
      yield* queue.status
      const opened = yield* Deferred.make<void>()
      memory.inject(({ operation }) =>
        operation === "open" ? { type: "wait", until: Deferred.await(opened) } : undefined
      )
      const taking = yield* Effect.fork(queue.take({ from: b.end, maxRecords: 1, maxBytes: 1000 }))
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      yield* queue.commit(a, [])
      yield* queue.commit(b, [])
      yield* Deferred.succeed(opened, undefined)
      assert.deepStrictEqual(Array.from((yield* Fiber.join(taking)).records, q.idOf), ["c"])
    })
  )

  it.scoped("reads nothing of a segment whose first append fails", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const queue = yield* q.openQueue(memory.startProcess())
      const database = new Set<string>()
      const [written, opening, opened] = yield* Effect.all([
        Deferred.make<void>(),
        Deferred.make<void>(),
        Deferred.make<void>()
      ])
      let opens = 0
      memory.inject(({ operation, path, step }) => {
        if (!path.endsWith(".ndjson")) return undefined
        // the second open is for reading
        if (operation === "open" && ++opens === 2) {
          const until = Effect.zipRight(Deferred.succeed(opening, undefined), Deferred.await(opened))
          return { type: "wait", until }
        }
        if (operation !== "append") return undefined
        return step === "data"
          ? { type: "wait", until: Deferred.await(written) }
          : { type: "fail", code: "EIO" }
      })
      const failing = yield* Effect.fork(Effect.exit(q.append(queue, "failed")))
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      const delivering = yield* Effect.fork(q.deliver(queue, database))
      yield* Deferred.await(opening)
      yield* Deferred.succeed(written, undefined)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(failing)))
      yield* Deferred.succeed(opened, undefined)
      yield* Fiber.join(delivering)
      memory.inject(() => undefined)

      assert.deepStrictEqual(yield* q.appendAll(queue, ["a", "b"]), [0, 1])
      yield* q.deliverAll(queue, database)
      assert.deepStrictEqual([...database], ["a", "b"])
      assert.include(yield* q.books(queue), { delivered: 2, waiting: 0, missing: 0, balanced: true })
    })
  )

  it.scoped("looks again for the oldest line if its segment is removed", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      let beforeSize: Effect.Effect<void> = Effect.void
      const slow: typeof disk = {
        ...disk,
        open: (path, mode) =>
          Effect.map(disk.open(path, mode), (file) => ({
            ...file,
            size: Effect.zipRight(
              Effect.suspend(() => beforeSize),
              file.size
            )
          }))
      }
      const queue = yield* q.openQueue(slow, { segmentBytes: 1 })
      yield* q.appendAll(queue, ["a", "b", "c"])
      const a = yield* queue.take({ maxRecords: 1, maxBytes: 1000 })
      const b = yield* queue.take({ from: a.end, maxRecords: 1, maxBytes: 1000 })
      const removed = yield* Deferred.make<void>()
      beforeSize = Deferred.await(removed)
      const looking = yield* Effect.fork(queue.status)
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      yield* queue.commit(a, [])
      yield* queue.commit(b, [])
      yield* Deferred.succeed(removed, undefined)
      assert.include(yield* Fiber.join(looking), { delivered: 2, waiting: 1 })
    })
  )

  it.scoped("closes its files if it is interrupted", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      let open = 0
      const counting: typeof disk = {
        ...disk,
        open: (path, mode) =>
          Effect.tap(disk.open(path, mode), () =>
            Effect.acquireRelease(
              Effect.sync(() => open++),
              () => Effect.sync(() => open--)
            )
          )
      }
      yield* q.withQueue(counting, {}, (queue) =>
        Effect.gen(function* () {
          yield* q.append(queue, "a")
          const taking = yield* Effect.fork(queue.take({ maxRecords: 1, maxBytes: 1000 }))
          memory.inject(({ operation }) =>
            operation === "open" ? { type: "wait", until: Effect.sleep(1000) } : undefined
          )
          yield* Effect.repeatN(Effect.yieldNow(), 100)
          const interrupting = yield* Effect.fork(Fiber.interrupt(taking))
          yield* TestClock.adjust("1 second")
          yield* Fiber.join(interrupting)
          memory.inject(() => undefined)
        })
      )
      assert.strictEqual(open, 0)
    })
  )
})
