/** The file of the reserve: what it holds, owes, and gives away. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import * as Reserve from "../../src/internal/queue/reserve.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import { DiskError } from "../../src/services/Disk.js"

const PATH = "/audit/reserve"
const MiB = 1 << 20

const FULL = new DiskError({
  operation: "write",
  path: "/audit/letters",
  code: "ENOSPC",
  cause: new Error("full")
})

interface Given {
  readonly bytes?: number
  readonly minFreeBytes?: number
  /** what stands there before, bytes */
  readonly before?: number
  readonly makes?: boolean
}

const start = ({ before, bytes = MiB, makes = true, minFreeBytes = 0 }: Given = {}) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* disk.makeDirectory("/audit")
    if (before !== undefined) yield* put(disk, PATH, before)
    const calls: Array<MemoryDisk.Call> = []
    const written = { times: 0 }
    memory.inject((call) => {
      calls.push(call)
      return undefined
    })
    const reserve = yield* Reserve.make(disk, "/audit", {
      bytes,
      makes,
      minFreeBytes,
      writing: (write) =>
        Effect.zipRight(
          Effect.sync(() => written.times++),
          write
        )
    })
    const size = Effect.map(disk.info(PATH), (info) => info?.size)
    /** From now on so much is free. */
    const leave = (free: number) =>
      Effect.gen(function* () {
        memory.capacity = Number.MAX_SAFE_INTEGER
        memory.capacity -= (yield* disk.volume("/")).freeBytes - free
      })
    return { memory, disk, reserve, size, leave, calls, written }
  })

const put = (disk: ReturnType<MemoryDisk.MemoryDisk["startProcess"]>, path: string, bytes: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const file = yield* disk.open(path, "append")
      yield* file.write(Buffer.alloc(bytes, "x"))
      yield* file.sync
    })
  )

/** A write that finds no room so often, and then some; how often it was tried. */
const failing = (times: number, error = FULL) => {
  const tried = { times: 0 }
  const write = Effect.suspend(() => (++tried.times <= times ? error : Effect.succeed("written")))
  return { tried, write }
}

describe("a write without room", () => {
  it.effect("runs again with the room of the reserve, which is owed from then on", () =>
    Effect.gen(function* () {
      const { reserve, size } = yield* start({ before: MiB })
      assert.strictEqual(reserve.owed(), 0)
      const { tried, write } = failing(1)
      assert.strictEqual(yield* reserve.withRoom(write), "written")
      assert.strictEqual(tried.times, 2)
      assert.strictEqual(yield* size, 0)
      assert.strictEqual(reserve.owed(), MiB)
      assert.isFalse(reserve.isWhole())
    })
  )

  it.effect("fails where nothing is left of it, and touches nothing", () =>
    Effect.gen(function* () {
      const { calls, reserve } = yield* start({ before: 0 })
      const { tried, write } = failing(1)
      calls.length = 0
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(write)), FULL)
      assert.strictEqual(tried.times, 1)
      assert.deepStrictEqual(calls, [])
    })
  )

  it.effect("fails once more if the reserve did not help", () =>
    Effect.gen(function* () {
      const { reserve } = yield* start({ before: MiB })
      const { tried, write } = failing(2)
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(write)), FULL)
      assert.strictEqual(tried.times, 2)
    })
  )

  it.effect("that failed for another reason leaves the reserve as it is", () =>
    Effect.gen(function* () {
      const { reserve, size } = yield* start({ before: MiB })
      const ill = new DiskError({
        operation: "write",
        path: "/audit/letters",
        code: "EIO",
        cause: new Error("ill")
      })
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(failing(1, ill).write)), ill)
      assert.strictEqual(yield* size, MiB)
    })
  )

  it.effect("runs again where somebody has removed the reserve, of which nothing is owed then", () =>
    Effect.gen(function* () {
      const { disk, reserve } = yield* start({ before: MiB })
      yield* disk.remove(PATH)
      assert.strictEqual(yield* reserve.withRoom(failing(1).write), "written")
      assert.strictEqual(reserve.owed(), 0)
    })
  )

  it.effect("takes nothing that stands under the name and is no file", () =>
    Effect.gen(function* () {
      const { disk, reserve } = yield* start()
      yield* disk.makeDirectory(PATH)
      yield* reserve.look
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(failing(1).write)), FULL)
      assert.strictEqual(reserve.owed(), 0)
    })
  )

  it.effect("waits for the piece that is being written", () =>
    Effect.gen(function* () {
      const { memory, reserve, size } = yield* start({ before: 1000 })
      const answered = yield* Deferred.make<void>()
      const begun = yield* Deferred.make<void>()
      const order: Array<string> = []
      memory.inject(({ operation, step }) => {
        order.push(`${operation} ${step}`)
        if (operation !== "write") return undefined
        Deferred.unsafeDone(begun, Effect.void)
        return { type: "wait", until: Deferred.await(answered) }
      })
      const refilling = yield* Effect.fork(reserve.refill)
      yield* Deferred.await(begun)
      const writing = yield* Effect.fork(reserve.withRoom(failing(1).write))
      yield* Effect.repeatN(Effect.yieldNow(), 20)
      assert.notInclude(order, "truncate data")
      yield* Deferred.succeed(answered, undefined)
      yield* Fiber.join(writing)
      yield* Fiber.join(refilling)
      assert.isAbove(order.indexOf("truncate data"), order.indexOf("write data"))
      assert.isAtLeast((yield* size) ?? -1, 0)
    })
  )
})

describe("the reserve", () => {
  it.effect(
    "is written while no other owner may come, and is no business of a command that leaves soon",
    () =>
      Effect.gen(function* () {
        const { reserve, written } = yield* start()
        assert.isFalse(reserve.isWhole())
        yield* reserve.refill
        assert.isAtLeast(written.times, 1)
        assert.isTrue((yield* start({ makes: false })).reserve.isWhole())
      })
  )

  it.effect("is made in pieces, each of which is on disk before the next one", () =>
    Effect.gen(function* () {
      const { calls, reserve, size } = yield* start({ bytes: 3 * MiB })
      assert.strictEqual(reserve.owed(), 0)
      calls.length = 0
      yield* reserve.refill
      assert.strictEqual(yield* size, 3 * MiB)
      assert.isTrue(reserve.isWhole())
      const steps = calls.map(({ operation }) => operation).filter((it) => it === "write" || it === "sync")
      assert.deepStrictEqual(steps, ["write", "sync", "write", "sync", "write", "sync"])
    })
  )

  it.effect("is not made where less would stay free than is asked for, to the byte", () =>
    Effect.gen(function* () {
      const { leave, reserve, size } = yield* start({ before: 0, minFreeBytes: 5000 })
      yield* leave(MiB + 4999)
      yield* reserve.refill
      assert.strictEqual(yield* size, 0)
      yield* leave(MiB + 5000)
      yield* reserve.refill
      assert.strictEqual(yield* size, MiB)
    })
  )

  it.effect("that is larger than it need be owes nothing", () =>
    Effect.gen(function* () {
      const { reserve, size } = yield* start({ before: 2 * MiB })
      assert.strictEqual(reserve.owed(), 0)
      assert.isTrue(reserve.isWhole())
      yield* reserve.refill
      assert.strictEqual(yield* size, 2 * MiB)
    })
  )

  it.effect("owes what is lacking after a piece of which only a part was written", () =>
    Effect.gen(function* () {
      const { memory, reserve } = yield* start({ before: 0 })
      memory.inject(({ operation }) =>
        operation === "write" ? { type: "short", bytes: 1000, code: "EIO" } : undefined
      )
      yield* Effect.flip(reserve.refill)
      assert.strictEqual(reserve.owed(), MiB - 1000)
    })
  )

  it.effect("holds nothing that a file system could press together", () =>
    Effect.gen(function* () {
      const { disk, reserve } = yield* start()
      yield* reserve.refill
      const bytes = yield* Effect.scoped(
        Effect.flatMap(disk.open(PATH, "read"), (file) => file.readAt(0, 4096))
      )
      assert.isAbove(new Set(bytes).size, 200)
    })
  )
})
