/** Dead letters that are damaged, lost or decided while the disk fails: none is erased that waits, and none forgotten. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as q from "../support/queue.js"
import type { Disk } from "../../src/services/Disk.js"
type D = Disk["Type"]
const text = (disk: D, path: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const f = yield* disk.open(path, "read")
      return Buffer.from(yield* f.readAt(0, yield* f.size)).toString("utf8")
    })
  )
const patch = (disk: D, path: string, at: number, bytes: Buffer) =>
  Effect.scoped(
    Effect.gen(function* () {
      const f = yield* disk.open(path, "patch")
      yield* f.overwrite(bytes, at)
      yield* f.sync
    })
  )
const DL = "/audit/dead-letter.ndjson"
const refuseAll = (queue: q.Queue, max = 1) =>
  Effect.gen(function* () {
    const batch = yield* queue.take({ maxRecords: max, maxBytes: 1 << 24 })
    yield* queue.commit(
      batch,
      [...batch.records].map((record) => ({ record, class: "rejected" as const, code: "1", reason: "r" }))
    )
  })
const all = (disk: D) =>
  Effect.gen(function* () {
    let out = ""
    for (const name of yield* disk.list("/audit"))
      if (name !== "requests") out += `\n## ${name}\n` + (yield* text(disk, `/audit/${name}`)).slice(0, 3000)
    return out
  })
const flip = (disk: D) =>
  Effect.gen(function* () {
    // damages the "type" of the first letter: one bit
    const t = yield* text(disk, DL)
    const at = t.indexOf('"sequence":') + 11
    yield* patch(disk, DL, at, Buffer.from([t.charCodeAt(at) ^ 0x40]))
  })

it.effect("keeps a damaged letter, beside one that the cursor has not counted", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* Effect.scoped(
      Effect.gen(function* () {
        const queue = yield* q.openQueue(disk)
        yield* q.appendAll(queue, ["A-secret", "B-secret"])
        yield* refuseAll(queue)
        memory.inject(({ operation }) =>
          operation === "writeAt" ? { type: "fail", code: "EIO" } : undefined
        )
        yield* Effect.exit(refuseAll(queue))
        memory.kill()
      })
    )
    memory.inject(() => undefined)
    disk = memory.startProcess()
    yield* flip(disk)
    assert.include(yield* text(disk, DL), "A-secret")
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    assert.include(yield* text(disk, DL), "A-secret", "the letter is gone")
  })
)
it.effect("keeps a damaged letter where both slots of the cursor are damaged and its line is gone", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A-secret", "B-secret"])
        yield* refuseAll(queue)
        yield* refuseAll(queue)
      })
    )
    yield* flip(disk)
    yield* patch(disk, "/audit/cursor", 0, Buffer.from("x"))
    yield* patch(disk, "/audit/cursor", 512, Buffer.from("x"))
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    assert.include(yield* text(disk, DL), "A-secret", "the letter is gone")
  })
)
it.effect("keeps a damaged letter where the newest slot of the cursor is damaged", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* Effect.scoped(
      Effect.gen(function* () {
        const queue = yield* q.openQueue(disk)
        yield* q.appendAll(queue, ["A-secret", "B-secret"])
        yield* refuseAll(queue)
        yield* refuseAll(queue)
        memory.kill()
      })
    )
    disk = memory.startProcess()
    yield* flip(disk)
    const c = yield* text(disk, "/audit/cursor")
    const g = [0, 512].map((at) => Number(/"generation":(\d+)/.exec(c.slice(at, at + 512))?.[1] ?? -1))
    yield* patch(disk, "/audit/cursor", g[0]! > g[1]! ? 0 : 512, Buffer.from("x"))
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    assert.include(yield* text(disk, DL), "A-secret", "the letter is gone")
  })
)
it.effect("keeps a damaged letter while others are retried", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A-secret", "B-secret"])
        yield* refuseAll(queue)
        yield* refuseAll(queue)
      })
    )
    yield* flip(disk)
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.zipRight(
        queue.retry(() => true, "li"),
        q.books(queue)
      )
    )
    assert.include(yield* text(disk, DL), "A-secret", "the letter is gone")
  })
)
it.effect("erases the line of a discarded letter later, if the disk has failed", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* Effect.scoped(
      Effect.gen(function* () {
        const queue = yield* q.openQueue(disk)
        yield* q.appendAll(queue, ["A-secret", "B"])
        yield* refuseAll(queue)
        memory.inject(({ operation, path }) =>
          operation === "overwrite" && path.endsWith(".ndjson") && !path.includes("dead")
            ? { type: "fail", code: "EIO" }
            : undefined
        )
        yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "li" })
        yield* queue.carryOutRequests
        memory.inject(() => undefined)
        yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "li" })
        yield* queue.carryOutRequests
        memory.kill()
      })
    )
    disk = memory.startProcess()
    yield* q.withQueue(disk, {}, () => Effect.void)
    yield* q.withQueue(disk, {}, () => Effect.void)
    assert.notInclude(yield* all(disk), "A-secret", "the line is still there")
  })
)
it.effect("erases the line of a discarded letter, if the request is interrupted", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* Effect.scoped(
      Effect.gen(function* () {
        const queue = yield* q.openQueue(disk)
        yield* q.appendAll(queue, ["A-secret", "B"])
        yield* refuseAll(queue)
        yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "li" })
        const isErasing = yield* Deferred.make<void>()
        memory.inject(({ operation, path }) => {
          if (operation === "overwrite" && path === DL) Deferred.unsafeDone(isErasing, Exit.void)
          return undefined
        })
        const deciding = yield* Effect.fork(queue.carryOutRequests)
        yield* Deferred.await(isErasing)
        yield* Fiber.interrupt(deciding)
      })
    )
    yield* q.withQueue(disk, {}, () => Effect.void)
    assert.notInclude(yield* all(disk), "A-secret", "the line is still there")
  })
)
it.effect("counts letters that were removed as missing, if the first try to restore the file fails", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const books = yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuseAll(queue)
        yield* refuseAll(queue)
        yield* queue.retry(({ id }) => id === "0:0", "li")
        yield* disk.remove(DL)
        let n = 0
        memory.inject(({ operation, path, step }) =>
          operation === "append" && step === "data" && path === DL && n++ === 0
            ? { type: "fail", code: "ENOSPC" }
            : undefined
        )
        assert.isTrue(Exit.isFailure(yield* Effect.exit(q.deliver(queue, new Set(), { maxRecords: 1 }))))
        yield* q.deliverAll(queue, new Set())
        return yield* q.books(queue)
      })
    )
    assert.deepInclude(books, { dead: 0, missing: 1, retried: 1, balanced: true })
  })
)
it.effect("does not count a removed letter as missing that the cursor had not counted", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const books = yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuseAll(queue)
        yield* queue.retry(() => true, "li")
        memory.inject(({ operation }) =>
          operation === "writeAt" ? { type: "fail", code: "EIO" } : undefined
        )
        yield* Effect.exit(refuseAll(queue))
        memory.inject(() => undefined)
        yield* disk.remove(DL)
        yield* q.deliverAll(queue, new Set())
        return yield* q.books(queue)
      })
    )
    assert.deepInclude(books, { dead: 0, missing: 0, retried: 1, balanced: true })
  })
)
it.effect("says format 2 again, if queue.json alone is removed", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuseAll(queue)
        yield* queue.retry(() => true, "li")
        assert.include(yield* text(disk, "/audit/queue.json"), '"format":2')
        yield* disk.remove("/audit/queue.json")
        yield* q.deliverAll(queue, new Set())
      })
    )
    assert.include(yield* text(disk, "/audit/queue.json"), '"format":2')
  })
)

/** Some letters were discarded; those of three more lines were written, then the cursor could not be: these come again. */
const takenBackBesideARetry = (letters: number, lead: number) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const refuse = (queue: q.Queue, count: number) =>
      Effect.gen(function* () {
        const batch = yield* queue.take({ maxRecords: count, maxBytes: 1 << 24 })
        const refusals = [...batch.records].map(
          (record) => ({ record, class: "rejected", code: "1", reason: "" }) as const
        )
        yield* queue.commit(batch, refusals)
      })
    const first = memory.startProcess()
    yield* q.withQueue(first, {}, (queue) =>
      Effect.gen(function* () {
        yield* Effect.forEach(q.idsOf("e", letters), (id) => q.append(queue, id), {
          concurrency: "unbounded"
        })
        yield* refuse(queue, letters)
        yield* requests.submit(first, "/audit", { action: "discard", letters: "all", by: "li" })
        yield* queue.carryOutRequests
        yield* q.appendAll(queue, q.idsOf("k", 3))
        memory.inject(({ operation }) =>
          operation === "writeAt" ? { type: "fail", code: "EIO" } : undefined
        )
        yield* Effect.exit(refuse(queue, 3))
        memory.kill()
      })
    )
    memory.inject(() => undefined)
    const disk = memory.startProcess()
    const turn = Effect.async<void>((resume) => queueMicrotask(() => resume(Effect.void)))
    const before = yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        const retry = Effect.zipRight(
          Effect.repeatN(turn, lead),
          queue.retry(() => true, "li")
        )
        yield* Effect.all([retry, q.deliverAll(queue, new Set())], { concurrency: 2 })
        return yield* q.books(queue)
      })
    )
    const after = yield* q.withQueue(disk, {}, q.books)
    assert.deepStrictEqual([after.dead, after.discarded], [before.dead, before.discarded])
    assert.strictEqual(before.discarded, letters)
  })

it.effect("replaces the file once, if a delivery takes letters back beside a retry", () =>
  Effect.forEach([5, 600], (letters) =>
    Effect.forEach(
      Array.from({ length: 10 }, (_, index) => 10 * index),
      (lead) => takenBackBesideARetry(letters, lead)
    )
  )
)
