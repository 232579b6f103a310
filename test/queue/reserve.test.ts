/** The reserve: on a full disk, refused events find room in it, and delivery continues. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Logger, LogLevel } from "effect"
import * as fc from "fast-check"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { setImmediate, setTimeout as sleep } from "node:timers/promises"
import * as requests from "../../src/internal/queue/requests.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import type { Options } from "../../src/layers/QueueFileLive.js"
import type { Disk } from "../../src/services/Disk.js"
import { effectAudit } from "../support/cli.js"
import * as q from "../support/queue.js"

const RESERVE = "/audit/reserve"
const BYTES = 8000
const OPTIONS: Partial<Options> = { reserveBytes: BYTES, segmentBytes: 1000 }

const sizeOf = (disk: Disk["Type"], file = RESERVE) => Effect.map(disk.info(file), (info) => info?.size ?? 0)

/** The owner makes the reserve in the background. */
const awaitReserve = (disk: Disk["Type"], file = RESERVE, bytes = BYTES) =>
  Effect.promise(() => sleep(1)).pipe(
    Effect.zipRight(sizeOf(disk, file)),
    Effect.repeat({ until: (size) => size === bytes })
  )

/** Fills the disk to the last byte. */
const fill = (memory: MemoryDisk.MemoryDisk, disk: Disk["Type"]) =>
  Effect.gen(function* () {
    memory.capacity = Number.MAX_SAFE_INTEGER
    memory.capacity -= (yield* disk.volume("/")).freeBytes
  })

/** The database refuses every fourth event. */
const isRejected = (id: string) => Number(/\d+$/.exec(id)![0]) % 4 === 0

describe("a full disk", () => {
  it.live("delivers past refused events, and makes the reserve again", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      yield* q.withQueue(disk, OPTIONS, (queue) =>
        Effect.gen(function* () {
          yield* awaitReserve(disk)
          yield* q.appendAll(queue, q.idsOf("e", 40), 300)
          yield* fill(memory, disk)
          const database = new Set<string>()
          // several refused events in a batch
          yield* q.deliverAll(queue, database, { isRejected })
          assert.include(yield* q.books(queue), { waiting: 0, delivered: 30, dead: 10, balanced: true })
          yield* awaitReserve(disk)
          // there is room for events again
          yield* q.append(queue, "e41", 300)
          yield* q.deliverAll(queue, database, { isRejected })
          assert.lengthOf([...database], 31)
        })
      )
      const letters = yield* q.letters(disk)
      assert.deepStrictEqual(
        letters.map(({ bytes }) => q.idOf({ bytes, problem: undefined })),
        q.idsOf("e", 40).filter(isRejected)
      )
    })
  )

  it.live("records nothing before it restores a reserve that a killed process emptied", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      let disk = memory.startProcess()
      const database = new Set<string>()
      yield* q.withQueue(disk, OPTIONS, (queue) =>
        Effect.gen(function* () {
          yield* awaitReserve(disk)
          yield* q.appendAll(queue, q.idsOf("e", 40), 300)
          yield* fill(memory, disk)
          // the segment of this letter stays, so only the rest of the reserve is free
          yield* q.deliver(queue, database, { maxRecords: 1, isRejected })
          assert.strictEqual(yield* sizeOf(disk), 0)
          memory.kill()
        })
      )
      disk = memory.startProcess()
      yield* q.withQueue(disk, OPTIONS, (queue) =>
        Effect.gen(function* () {
          for (let more = 0; more < 20; more++) {
            const refused = yield* Effect.flip(q.append(queue, "more1", 300))
            assert.strictEqual(refused._tag, "QueueFull")
          }
          yield* q.deliverAll(queue, database, { isRejected })
          assert.include(yield* q.books(queue), { waiting: 0, delivered: 30, dead: 10, balanced: true })
          yield* awaitReserve(disk)
        })
      )
    })
  )

  it.live("uses the reserve's room after the sync of the emptied file", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      yield* q.withQueue(disk, OPTIONS, (queue) =>
        Effect.gen(function* () {
          yield* awaitReserve(disk)
          yield* q.append(queue, "e0", 300)
          let isGiven = false
          memory.inject(({ operation, path }) => {
            if (operation === "sync" && path === RESERVE) isGiven = true
            return operation === "write" && path === "/audit/dead-letter.ndjson" && !isGiven
              ? { type: "fail", code: "ENOSPC" }
              : undefined
          })
          yield* q.deliver(queue, new Set(), { isRejected })
          assert.include(yield* q.books(queue), { waiting: 0, dead: 1, balanced: true })
        })
      )
    })
  )

  it.live("knows after a power cut that a reserve was begun", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      const { close } = yield* q.openClosable(disk, OPTIONS)
      yield* awaitReserve(disk)
      yield* Effect.promise(() => setImmediate())
      memory.cutPower(() => 0)
      yield* close
      assert.isDefined(yield* memory.startProcess().info(RESERVE))
    })
  )

  it.live("carries out a decision without more room", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      yield* q.withQueue(disk, OPTIONS, (queue) =>
        Effect.gen(function* () {
          yield* awaitReserve(disk)
          yield* q.appendAll(queue, q.idsOf("e", 8), 300)
          yield* q.deliverAll(queue, new Set(), { isRejected })
          yield* requests.submit(disk, "/audit", { action: "discard", letters: ["0:0"], by: "li" })
          yield* fill(memory, disk)
          yield* queue.carryOutRequests
          assert.include(yield* q.books(queue), { dead: 1, discarded: 1, balanced: true })
        })
      )
    })
  )

  it("delivers every event on a disk that is full at times", { timeout: 600_000 }, () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            events: fc.nat(6),
            padding: fc.integer({ min: 250, max: 400 }),
            isFull: fc.boolean(),
            maxRecords: fc.integer({ min: 1, max: 4 }),
            batches: fc.nat(4),
            end: fc.constantFrom("goes on", "kill", "power"),
            call: fc.nat(25)
          }),
          { minLength: 1, maxLength: 8 }
        ),
        fc.array(fc.nat(1_000_000), { maxLength: 40 }),
        async (steps, dice) => {
          await setImmediate()
          await Effect.runPromise(fullByTurns(steps, dice))
        }
      ),
      { numRuns: process.env.AUDIT_LONG === "1" ? 2000 : 60 }
    )
  )
})

interface Step {
  readonly events: number
  readonly padding: number
  readonly isFull: boolean
  readonly maxRecords: number
  readonly batches: number
  readonly end: "goes on" | "kill" | "power"
  /** the call to the disk at which the process dies */
  readonly call: number
}

const fullByTurns = (steps: ReadonlyArray<Step>, dice: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    const database = new Set<string>()
    const acknowledged = new Set<string>()
    let count = 0
    let die = 0
    let open = yield* q.openClosable(disk, OPTIONS)
    yield* awaitReserve(disk)
    for (const { batches, call, end, events, isFull, maxRecords, padding } of steps) {
      let hasDied = false
      const isAlive = () => !hasDied
      let calls = 0
      memory.inject(() => {
        if (end === "goes on" || calls++ < call || hasDied) return undefined
        hasDied = true
        if (end === "kill") memory.kill()
        else memory.cutPower((bound) => (dice[die++] ?? 0) % bound)
        return undefined
      })
      for (const id of Array.from({ length: events }, (_, index) => `e${count + index}`)) {
        const result = yield* Effect.exit(q.append(open.queue, id, padding))
        if (Exit.isSuccess(result) && isAlive()) acknowledged.add(id)
      }
      count += events
      // Another file that takes owed room stops delivery, so wait for the whole reserve.
      // Only the next commit tries a piece again that had no room.
      if (isFull && isAlive() && memory.capacity === Number.POSITIVE_INFINITY) {
        const whole = Effect.timeout(awaitReserve(disk), "200 millis")
        yield* Effect.ignore(Effect.zipRight(whole, fill(memory, disk)))
      }
      for (let batch = 0; batch < batches; batch++) {
        const delivered = yield* Effect.exit(q.deliver(open.queue, database, { maxRecords, isRejected }))
        if (isAlive()) assert.isTrue(Exit.isSuccess(delivered), String(delivered))
      }
      memory.inject(() => undefined)
      if (!isAlive()) {
        yield* open.close
        disk = memory.startProcess()
        open = yield* q.openClosable(disk, OPTIONS)
      } else if (!isFull) memory.capacity = Number.POSITIVE_INFINITY
    }
    yield* q.deliverAll(open.queue, database, { isRejected })
    const books = yield* q.books(open.queue)
    assert.include(books, { waiting: 0, missing: 0, balanced: true })
    const letters = (yield* q.letters(disk)).map(({ bytes }) => q.idOf({ bytes, problem: undefined }))
    assert.sameMembers(
      [...new Set(letters), ...database].filter((id) => acknowledged.has(id!)),
      [...acknowledged]
    )
    yield* open.close
  }).pipe(Logger.withMinimumLogLevel(LogLevel.None))

const tmpfs = process.platform === "linux" && process.getuid?.() === 0

describe("a full tmpfs (needs root: mount)", () => {
  // the default reserve, as large as the longest letter
  const options = { maxLineBytes: 50_000, segmentBytes: 100_000, reserveBytes: undefined }

  /** A small file system for a queue; `isThere` waits for the reserve. */
  const mounted = Effect.gen(function* () {
    const mount = yield* q.temporaryDirectory
    const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", mount])
    if (status !== 0) return undefined
    yield* Effect.addFinalizer(() => Effect.sync(() => spawnSync("umount", ["-l", mount])))
    const directory = `${mount}/audit`
    const disk = yield* q.nodeDisk
    const open = (options: Partial<Options>) => q.openQueue(disk, { directory, ...options })
    const reserve = `${directory}/reserve`
    const isThere = Effect.repeat(
      Effect.zipRight(
        Effect.promise(() => sleep(5)),
        sizeOf(disk, reserve)
      ),
      { until: (size) => size > 100_000 }
    )
    return { directory, disk, foreign: `${mount}/foreign`, isThere, open, reserve }
  })

  it.scopedLive.skipIf(!tmpfs)("filled by another file stops no delivery", () =>
    Effect.gen(function* () {
      const found = yield* mounted
      if (found === undefined) return yield* Effect.log("no tmpfs could be mounted: not tested")
      const { directory, foreign, isThere, open, reserve } = found
      const queue = yield* open(options)
      yield* isThere
      // not a sparse file
      assert.isAtLeast(fs.statSync(reserve).blocks * 512, fs.statSync(reserve).size)
      yield* q.appendAll(queue, q.idsOf("e", 200), 5000)
      assert.throws(() => fs.writeFileSync(foreign, Buffer.alloc(4_000_000)), /ENOSPC/)
      const database = new Set<string>()
      yield* q.deliverAll(queue, database, { isRejected })
      assert.include(yield* q.books(queue), { waiting: 0, delivered: 150, dead: 50, balanced: true })
      yield* queue.compact
      const verify = yield* effectAudit(directory, ["verify"])
      assert.strictEqual(verify.code, 0, verify.stdout)
      fs.rmSync(foreign)
      yield* q.append(queue, "e201")
      yield* q.deliverAll(queue, database, { isRejected })
      yield* isThere
    })
  )

  it.scopedLive.skipIf(!tmpfs)("filled by the queue stops no delivery", () =>
    Effect.gen(function* () {
      const found = yield* mounted
      if (found === undefined) return yield* Effect.log("no tmpfs could be mounted: not tested")
      const { isThere, open } = found
      const queue = yield* open(options)
      yield* isThere
      const database = new Set<string>()
      let recorded = 0
      for (let round = 0; round < 3; round++) {
        for (;;) {
          const result = yield* Effect.exit(q.append(queue, `e${recorded}`, 5000))
          if (Exit.isFailure(result)) break
          recorded++
        }
        yield* q.deliverAll(queue, database, { isRejected })
        yield* queue.compact
        // open letters would keep the room
        yield* queue.retry(() => true, "li")
        yield* q.deliverAll(queue, database)
        yield* isThere
      }
      assert.isAbove(recorded, 600)
      assert.lengthOf([...database], recorded)
      assert.include(yield* q.books(queue), { waiting: 0, dead: 0, missing: 0, balanced: true })
    })
  )
})
