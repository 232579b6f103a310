/** A failing disk: errors are typed, no acknowledged event is lost, and the queue recovers with the disk. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Either, Exit, Fiber, Scope, TestClock } from "effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { setImmediate } from "node:timers/promises"
import { AuditTest } from "../../src/testing.js"
import * as Audit from "../../src/Audit.js"
import { UseLog } from "../../src/schema/UseLog.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import type { Call, Fault } from "../../src/layers/MemoryDisk.js"
import type { QueueWriteError } from "../../src/schema/Errors.js"
import * as q from "../support/queue.js"

const isSegment = ({ path }: Pick<Call, "path">) => /\d{20}\.ndjson$/.test(path)

/** Waits until all fibers wait: the disk in memory answers in microtasks. */
const settle = Effect.promise(() => setImmediate())

/** A queue with one acknowledged event. */
const start = (options: Parameters<typeof q.openQueue>[1] = {}) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const scope = yield* Scope.make()
    const queue = yield* Scope.extend(q.openQueue(disk, options), scope)
    yield* q.append(queue, "before")
    /** gives the next matching call this fault, and no other call */
    const once = (fits: (call: Call) => boolean, fault: Fault) => {
      let done = false
      memory.inject((call) => {
        if (done || !fits(call)) return undefined
        done = true
        return fault
      })
    }
    return { memory, disk, queue, once, close: Scope.close(scope, Exit.void) }
  })

const failing = (queue: q.Queue, id: string) =>
  Effect.map(Effect.flip(q.append(queue, id)), (error) => error as QueueWriteError)

/** What holds after each fault: this process and the next find the acknowledged events, in few segments. */
const mended = (
  { close, disk, memory, queue }: Effect.Effect.Success<ReturnType<typeof start>>,
  expected: ReadonlyArray<string>
) =>
  Effect.gen(function* () {
    memory.inject(() => undefined)
    yield* q.append(queue, "after")
    assert.includeMembers(yield* q.waitingIds(queue), [...expected, "after"])
    assert.isAtMost((yield* q.segmentNames(disk)).length, 3)
    yield* close
    const database = new Set<string>()
    yield* q.withQueue(disk, {}, (next) =>
      Effect.gen(function* () {
        yield* q.deliverAll(next, database)
        yield* next.compact
        assert.include(yield* q.books(next), { missing: 0, waiting: 0, balanced: true })
      })
    )
    assert.includeMembers([...database], [...expected, "after"])
    assert.lengthOf(yield* q.segmentNames(disk), 0)
  })

describe("a failing disk", () => {
  const faults: ReadonlyArray<readonly [string, (call: Call) => boolean, Fault, "absent" | "unknown"]> = [
    ...["ENOSPC", "EIO", "EROFS", "EDQUOT"].map(
      (code) =>
        [
          `${code} on write`,
          (call: Call) => call.operation === "append" && call.step === "data" && isSegment(call),
          { type: "fail", code },
          "absent"
        ] as const
    ),
    [
      "EIO on fsync",
      (call) => call.operation === "append" && call.step === "sync" && isSegment(call),
      { type: "fail", code: "EIO" },
      "unknown"
    ],
    [
      "a short write",
      (call) => call.operation === "append" && call.step === "data" && isSegment(call),
      { type: "short", bytes: 7, code: "ENOSPC" },
      "unknown"
    ]
  ]
  for (const [name, fits, fault, outcome] of faults) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const place = yield* start()
        place.once(fits, fault)
        const error = yield* failing(place.queue, "failed")
        const code = "code" in fault ? fault.code! : ""
        assert.include(error, { _tag: "QueueWriteError", code, eventId: "failed", outcome })
        assert.match(error.path, /^\/audit\/\d{20}\.ndjson$/)
        yield* mended(place, ["before"])
      })
    )
  }

  for (const [code, operation] of [
    ["EMFILE", "open"],
    ["EACCES", "open"],
    ["EROFS", "open"],
    ["EIO", "syncDirectory"],
    ["EIO", "info"]
  ] as const) {
    it.effect(`recovers from ${code} on ${operation} of the next segment, a hundred times`, () =>
      Effect.gen(function* () {
        const place = yield* start({ segmentBytes: 30 })
        place.memory.inject((call) => {
          const hit = call.operation === operation && (operation === "syncDirectory" || isSegment(call))
          return hit ? { type: "fail", code } : undefined
        })
        for (const id of q.idsOf("failed", 100)) {
          const error = yield* failing(place.queue, id)
          assert.include(error, { _tag: "QueueWriteError", code, eventId: id, outcome: "absent" })
        }
        assert.isAtMost((yield* q.segmentNames(place.disk)).length, 2)
        yield* mended(place, ["before"])
      })
    )
  }

  it.effect("loses no event with a fault in a tenth of all calls, and restarts", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      const acknowledged = new Set<string>()
      const database = new Set<string>()
      let state = 42
      const random = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648
      for (let round = 0; round < 20; round++) {
        memory.inject(() => undefined)
        yield* q.withQueue(disk, { segmentBytes: 300 }, (queue) =>
          Effect.gen(function* () {
            memory.inject(({ operation }) => {
              if (random() >= 0.1) return undefined
              if (operation === "append" && random() < 0.5)
                return { type: "short", bytes: Math.floor(random() * 60), code: "ENOSPC" }
              return { type: "fail", code: "EIO" }
            })
            for (const id of q.idsOf(`${round}-`, 30)) {
              const result = yield* Effect.either(q.append(queue, id))
              if (Either.isRight(result)) acknowledged.add(id)
              if (random() < 0.3) yield* Effect.ignore(q.deliver(queue, database, { maxRecords: 3 }))
              if (random() < 0.1) yield* Effect.ignore(queue.compact)
            }
            memory.inject(() => undefined)
          })
        )
      }
      const books = yield* q.withQueue(disk, {}, (queue) =>
        Effect.zipRight(q.deliverAll(queue, database), q.books(queue))
      )
      assert.isAbove(acknowledged.size, 300)
      assert.includeMembers([...database], [...acknowledged])
      assert.include(books, { missing: 0, waiting: 0, balanced: true })
    })
  )

  it.effect("fails an append after appendTimeout if the write hangs, and accepts the next one", () =>
    Effect.gen(function* () {
      const place = yield* start({ appendTimeout: "10 seconds" })
      const answer = yield* Deferred.make<void>()
      place.once((call) => call.operation === "append" && call.step === "data", {
        type: "wait",
        until: Deferred.await(answer)
      })
      const stuck = yield* Effect.fork(failing(place.queue, "stuck"))
      yield* TestClock.adjust("9 seconds")
      const behind = yield* Effect.fork(q.append(place.queue, "behind"))
      assert.isNull(yield* Fiber.poll(stuck).pipe(Effect.map((exit) => (exit._tag === "None" ? null : exit))))
      yield* TestClock.adjust("1 seconds")
      const error = yield* Fiber.join(stuck)
      assert.include(error, { code: "ETIMEDOUT", outcome: "unknown", eventId: "stuck" })
      yield* Fiber.join(behind)
      // the disk answers after all: the event appears, and nothing else changes
      yield* Deferred.succeed(answer, undefined)
      yield* mended(place, ["before", "behind"])
    })
  )

  /** An append whose call to the disk hangs longer than its caller waits; `answer` ends the call, too late. */
  const givenUp = (
    place: Effect.Effect.Success<ReturnType<typeof start>>,
    fits: (call: Call) => boolean,
    code?: string
  ) =>
    Effect.gen(function* () {
      const answer = yield* Deferred.make<void>()
      place.once(fits, { type: "wait", until: Deferred.await(answer), code })
      const caller = yield* Effect.fork(failing(place.queue, "given up"))
      yield* settle
      yield* TestClock.adjust("10 seconds")
      assert.include(yield* Fiber.join(caller), { code: "ETIMEDOUT", outcome: "unknown" })
      return Effect.zipRight(Deferred.succeed(answer, undefined), settle)
    })

  it.effect("writes no group late if its check of free space hung", () =>
    Effect.gen(function* () {
      const place = yield* start()
      yield* TestClock.adjust("2 seconds")
      const answer = yield* givenUp(place, ({ operation }) => operation === "volume")
      // the disk still has this write when the late answer comes; a second write beside it would fail
      const written = yield* Deferred.make<void>()
      let syncs = 0
      place.memory.inject((call) => {
        if (call.operation !== "append" || call.step !== "sync") return undefined
        return ++syncs === 1
          ? { type: "wait", until: Deferred.await(written) }
          : { type: "fail", code: "EIO" }
      })
      const slow = yield* Effect.fork(q.append(place.queue, "slow"))
      yield* settle
      yield* answer
      place.memory.inject(() => undefined)
      yield* Deferred.succeed(written, undefined)
      yield* Fiber.join(slow)
      yield* mended(place, ["before", "slow"])
    })
  )

  it.effect("keeps the next owner's segment if a check of free space hangs over the close", () =>
    Effect.gen(function* () {
      const place = yield* start()
      yield* q.deliverAll(place.queue, new Set())
      yield* TestClock.adjust("2 seconds")
      const answer = yield* givenUp(place, ({ operation }) => operation === "volume")
      yield* place.close
      yield* q.withQueue(place.disk, {}, (next) =>
        Effect.gen(function* () {
          yield* q.append(next, "next")
          yield* answer
          assert.deepStrictEqual(yield* q.waitingIds(next), ["next"])
        })
      )
      yield* q.withQueue(place.disk, {}, (last) =>
        Effect.map(q.waitingIds(last), (ids) => assert.deepStrictEqual(ids, ["next"]))
      )
    })
  )

  it.effect("waits for no file that hangs in close", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const plain = memory.startProcess()
      const closed = yield* Deferred.make<void>()
      const disk: typeof plain = {
        ...plain,
        open: (path, mode) =>
          Effect.tap(plain.open(path, mode), () =>
            mode === "read" || !isSegment({ path })
              ? Effect.void
              : Effect.addFinalizer(() => Deferred.await(closed))
          )
      }
      const scope = yield* Scope.make()
      const queue = yield* Scope.extend(q.openQueue(disk, { segmentBytes: 40 }), scope)
      const ids = q.idsOf("e", 6)
      yield* q.appendAll(queue, ids)
      yield* Deferred.succeed(closed, undefined)
      yield* settle
      yield* q.append(queue, "after")
      assert.deepStrictEqual(yield* q.waitingIds(queue), [...ids, "after"])
      yield* Scope.close(scope, Exit.void)
    })
  )

  it.effect("removes the line of a write that fails after its caller gave up", () =>
    Effect.gen(function* () {
      const place = yield* start()
      const isSync = (call: Call) => call.operation === "append" && call.step === "sync" && isSegment(call)
      const answer = yield* givenUp(place, isSync, "EIO")
      // the line may be in the page cache, but not on the disk
      assert.deepStrictEqual(yield* q.waitingIds(place.queue), ["before"])
      yield* answer
      assert.deepStrictEqual(yield* q.waitingIds(place.queue), ["before"])
      place.memory.kill()
      yield* q.withQueue(place.memory.startProcess(), {}, (next) =>
        Effect.map(q.waitingIds(next), (ids) => assert.deepStrictEqual(ids, ["before"]))
      )
    })
  )

  it.effect("delivers the line of a write once if it succeeds after its caller gave up", () =>
    Effect.gen(function* () {
      const place = yield* start()
      const isData = (call: Call) => call.operation === "append" && call.step === "data" && isSegment(call)
      const answer = yield* givenUp(place, isData)
      assert.deepStrictEqual(yield* q.waitingIds(place.queue), ["before"])
      yield* answer
      assert.deepStrictEqual(yield* q.waitingIds(place.queue), ["before", "given up"])
      yield* q.deliverAll(place.queue, new Set())
      assert.include(yield* q.books(place.queue), { accepted: 2, delivered: 2, missing: 0, balanced: true })
    })
  )

  it.effect("delivers again and counts once if the cursor cannot be written", () =>
    Effect.gen(function* () {
      const place = yield* start()
      const database = new Set<string>()
      place.once((call) => call.operation === "writeAt" && call.step === "sync", {
        type: "fail",
        code: "EIO"
      })
      const error = yield* Effect.flip(q.deliver(place.queue, database))
      assert.include(error, { _tag: "QueueAccessError", code: "EIO", path: "/audit/cursor" })
      yield* q.deliver(place.queue, database)
      assert.include(yield* q.books(place.queue), { delivered: 1, accepted: 1, waiting: 0, balanced: true })
    })
  )

  it.effect("takes back a letter if the cursor failed and the next delivery succeeds", () =>
    Effect.gen(function* () {
      const place = yield* start()
      const database = new Set<string>()
      const isCursor = (call: Call) => call.operation === "writeAt"
      place.once(isCursor, { type: "fail", code: "EIO" })
      yield* Effect.flip(q.deliver(place.queue, database, { isRejected: () => true }))
      assert.lengthOf(yield* q.letters(place.disk), 1)
      yield* q.deliver(place.queue, database)
      assert.lengthOf(yield* q.letters(place.disk), 0)

      const nothingToRetry = (queue: q.Queue) =>
        Effect.gen(function* () {
          assert.strictEqual(yield* queue.retry(() => true, "test"), 0)
          assert.include(yield* q.books(queue), {
            accepted: 1,
            delivered: 1,
            dead: 0,
            retried: 0,
            waiting: 0
          })
        })
      yield* nothingToRetry(place.queue)
      yield* place.close
      yield* q.withQueue(place.disk, {}, nothingToRetry)
    })
  )

  it.effect("delivers a line whose letter had no room", () =>
    Effect.gen(function* () {
      const { disk, memory, queue } = yield* start()
      const database = new Set<string>()
      memory.inject(({ operation, path }) =>
        operation !== "open" && path.endsWith("/dead-letter.ndjson")
          ? { type: "fail", code: "ENOSPC" }
          : undefined
      )
      yield* Effect.flip(q.deliver(queue, database, { isRejected: () => true }))
      // no letter was written, so taking one back needs no room
      yield* q.deliver(queue, database)
      assert.include(yield* q.books(queue), { delivered: 1, dead: 0, waiting: 0 })
      memory.inject(() => undefined)
      assert.lengthOf(yield* q.letters(disk), 0)
    })
  )

  it.effect("frees a full disk by delivery", () =>
    Effect.gen(function* () {
      const { disk, memory, queue } = yield* start({ segmentBytes: 500 })
      memory.capacity = 6000
      let count = 0
      while (Either.isRight(yield* Effect.either(q.append(queue, `e${count}`)))) count++
      assert.isAbove(count, 50)
      const database = new Set<string>()
      // nobody can write a letter or create a file, but the cursor is overwritten in place
      yield* q.deliverAll(queue, database, { maxRecords: 10 })
      assert.isAtLeast(database.size, count + 1)
      yield* q.append(queue, "after")
      assert.include(yield* q.books(queue), { missing: 0, balanced: true, waiting: 1 })
      assert.isAtMost((yield* q.segmentNames(disk)).length, 2)
    })
  )

  it.effect("records again after the disk has recovered", () =>
    Effect.gen(function* () {
      yield* Audit.recordUse({ status: "a" })
      yield* AuditTest.diskFails("EIO")
      const error = yield* Effect.flip(Audit.recordUse({ status: "b" }))
      yield* AuditTest.diskWorks
      yield* Audit.recordUse({ status: "b" }, { eventId: error.eventId })
      yield* Audit.flush
      assert.deepStrictEqual(
        (yield* AuditTest.delivered(UseLog)).map(({ status }) => status),
        ["a", "b"]
      )
    }).pipe(Effect.provide(AuditTest.layer))
  )
})

describe("a failing real disk", () => {
  it.scoped("appends at the end of a file that was cut off", () =>
    Effect.gen(function* () {
      const disk = yield* q.nodeDisk
      const path = `${yield* q.temporaryDirectory}/file`
      const file = yield* disk.open(path, "create")
      yield* file.append(Buffer.from("whole\ntor"))
      yield* file.truncate(6)
      assert.strictEqual(yield* file.size, 6)
      yield* file.append(Buffer.from("next\n"))
      assert.strictEqual(fs.readFileSync(path, "utf8"), "whole\nnext\n")
      const readOnly = yield* disk.open(path, "read")
      assert.include(yield* Effect.flip(readOnly.truncate(0)), { operation: "truncate", path })
    })
  )

  const tmpfs = process.platform === "linux" && process.getuid?.() === 0
  it.scoped.skipIf(!tmpfs)("refuses appends on a full tmpfs, and recovers (needs root: mount)", () =>
    Effect.gen(function* () {
      const mount = yield* q.temporaryDirectory
      const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", mount])
      if (status !== 0) return yield* Effect.log("no tmpfs could be mounted: not tested")
      yield* Effect.addFinalizer(() => Effect.sync(() => spawnSync("umount", [mount])))
      const directory = `${mount}/audit`
      const disk = yield* q.nodeDisk
      const database = new Set<string>()
      const acknowledged = new Set<string>()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const queue = yield* q.openQueue(disk, { directory, segmentBytes: 20_000 })
          for (let round = 0; round < 3; round++) {
            let error: QueueWriteError | undefined
            for (let i = 0; error === undefined; i++) {
              const id = `${round}-${i}`
              const result = yield* Effect.either(q.append(queue, id, 500))
              if (Either.isRight(result)) acknowledged.add(id)
              else error = result.left as QueueWriteError
            }
            assert.include(error, { _tag: "QueueWriteError", code: "ENOSPC" })
            for (const id of q.idsOf(`full-${round}-`, 20)) yield* Effect.ignore(q.append(queue, id, 5000))
            yield* q.deliverAll(queue, database)
            yield* queue.compact
            // the next append replaces the rest of the last failed one
            assert.isAtMost((yield* q.segmentNames(disk, directory)).length, 1)
          }
          // a line that was written in part counts as nothing
          assert.include(yield* q.books(queue), { missing: 0, waiting: 0, torn: 0, balanced: true })
        })
      )
      assert.isAbove(acknowledged.size, 600)
      assert.includeMembers([...database], [...acknowledged])
    })
  )
})
