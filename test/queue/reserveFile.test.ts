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
  /** the size of an existing reserve, in bytes */
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
    /** Leaves this much free space, in bytes. */
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

/** A write that fails this many times, and then succeeds; and its attempts. */
const failing = (times: number, error = FULL) => {
  const tried = { times: 0 }
  const write = Effect.suspend(() => (++tried.times <= times ? error : Effect.succeed("written")))
  return { tried, write }
}

describe("a write without room", () => {
  it.effect("runs again in the room of the reserve, which is then owed", () =>
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

  it.effect("fails if the reserve is empty, and changes nothing", () =>
    Effect.gen(function* () {
      const { calls, reserve } = yield* start({ before: 0 })
      const { tried, write } = failing(1)
      calls.length = 0
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(write)), FULL)
      assert.strictEqual(tried.times, 1)
      assert.deepStrictEqual(calls, [])
    })
  )

  it.effect("fails again if the reserve is too small", () =>
    Effect.gen(function* () {
      const { reserve } = yield* start({ before: MiB })
      const { tried, write } = failing(2)
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(write)), FULL)
      assert.strictEqual(tried.times, 2)
    })
  )

  it.effect("keeps the reserve if it failed for another reason", () =>
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

  it.effect("runs again if somebody removed the reserve, which then owes nothing", () =>
    Effect.gen(function* () {
      const { disk, reserve } = yield* start({ before: MiB })
      yield* disk.remove(PATH)
      assert.strictEqual(yield* reserve.withRoom(failing(1).write), "written")
      assert.strictEqual(reserve.owed(), 0)
    })
  )

  it.effect("leaves anything but a file under the reserve's name alone", () =>
    Effect.gen(function* () {
      const { disk, reserve } = yield* start()
      yield* disk.makeDirectory(PATH)
      yield* reserve.look
      assert.strictEqual(yield* Effect.flip(reserve.withRoom(failing(1).write)), FULL)
      assert.strictEqual(reserve.owed(), 0)
    })
  )

  it.effect("waits for a pending piece of the reserve", () =>
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
  it.effect("is written under the lock, and not by a short command", () =>
    Effect.gen(function* () {
      const { reserve, written } = yield* start()
      assert.isFalse(reserve.isWhole())
      yield* reserve.refill
      assert.isAtLeast(written.times, 1)
      assert.isTrue((yield* start({ makes: false })).reserve.isWhole())
    })
  )

  it.effect("is made in pieces, each synced before the next", () =>
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

  it.effect("is not made if it would leave too little free space, to the byte", () =>
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

  it.effect("owes nothing if it is too large", () =>
    Effect.gen(function* () {
      const { reserve, size } = yield* start({ before: 2 * MiB })
      assert.strictEqual(reserve.owed(), 0)
      assert.isTrue(reserve.isWhole())
      yield* reserve.refill
      assert.strictEqual(yield* size, 2 * MiB)
    })
  )

  it.effect("owes the rest of a piece that was written in part", () =>
    Effect.gen(function* () {
      const { memory, reserve } = yield* start({ before: 0 })
      memory.inject(({ operation }) =>
        operation === "write" ? { type: "short", bytes: 1000, code: "EIO" } : undefined
      )
      yield* Effect.flip(reserve.refill)
      assert.strictEqual(reserve.owed(), MiB - 1000)
    })
  )

  it.effect("holds bytes that no file system can compress", () =>
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
