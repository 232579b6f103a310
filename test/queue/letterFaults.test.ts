/** Dead letters that are damaged, lost, or decided on a failing disk: no open letter is erased or forgotten. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger } from "effect"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as q from "../support/queue.js"
import type { Disk } from "../../src/services/Disk.js"

const LETTERS = "/audit/dead-letter.ndjson"

const patch = (disk: Disk["Type"], file: string, at: number, bytes: Buffer) =>
  Effect.scoped(
    Effect.gen(function* () {
      const handle = yield* disk.open(file, "patch")
      yield* handle.overwrite(bytes, at)
      yield* handle.sync
    })
  )

/** Flips one bit of the first letter's number, so that the line is no entry any more. */
const damageFirst = (disk: Disk["Type"]) =>
  Effect.gen(function* () {
    const text = yield* q.textOf(disk, LETTERS)
    const at = text.indexOf('"sequence":') + '"sequence":'.length
    yield* patch(disk, LETTERS, at, Buffer.from([text.charCodeAt(at) ^ 0x40]))
  })

/** The database refuses the next lines. */
const refuse = (queue: q.Queue, count = 1) =>
  Effect.gen(function* () {
    const batch = yield* queue.take({ maxRecords: count, maxBytes: 1 << 24 })
    const refusals = [...batch.records].map(
      (record) => ({ record, class: "rejected", code: "1", reason: "" }) as const
    )
    yield* queue.commit(batch, refusals)
  })

const discardAll = (disk: Disk["Type"], queue: q.Queue) =>
  Effect.zipRight(
    requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "li" }),
    queue.carryOutRequests
  )

const failWritingCursor = ({ operation }: MemoryDisk.Call): MemoryDisk.Fault | undefined =>
  operation === "writeAt" ? { type: "fail", code: "EIO" } : undefined

/** Two letters, A and B, that wait for a decision; then `then`. */
const twoLetters = (disk: Disk["Type"], then: Effect.Effect<void> = Effect.void) =>
  q.withQueue(disk, {}, (queue) =>
    Effect.gen(function* () {
      yield* q.appendAll(queue, ["A-secret", "B-secret"])
      yield* refuse(queue)
      yield* refuse(queue)
      yield* then
    })
  )

const keepsTheLetter = (disk: Disk["Type"]) =>
  Effect.map(q.textOf(disk, LETTERS), (text) => assert.include(text, "A-secret", "the letter is gone"))

const erasedTheLine = (disk: Disk["Type"]) =>
  Effect.gen(function* () {
    for (const name of yield* disk.list("/audit")) {
      if (name === "requests") continue
      assert.notInclude(yield* q.textOf(disk, `/audit/${name}`), "A-secret", `the line is still in ${name}`)
    }
  })

it.effect("keeps a damaged letter beside one that the cursor has not counted", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A-secret", "B-secret"])
        yield* refuse(queue)
        memory.inject(failWritingCursor)
        yield* Effect.exit(refuse(queue))
        memory.kill()
      })
    )
    memory.inject(() => undefined)
    disk = memory.startProcess()
    yield* keepsTheLetter(disk)
    yield* damageFirst(disk)
    yield* keepsTheLetter(disk)
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    yield* keepsTheLetter(disk)
  })
)
it.effect("keeps a damaged letter if both cursor slots are damaged and its line is gone", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* twoLetters(disk)
    yield* damageFirst(disk)
    yield* patch(disk, "/audit/cursor", 0, Buffer.from("x"))
    yield* patch(disk, "/audit/cursor", 512, Buffer.from("x"))
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    yield* keepsTheLetter(disk)
  })
)
it.effect("keeps a damaged letter if the newest cursor slot is damaged", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* twoLetters(disk, Effect.sync(memory.kill))
    disk = memory.startProcess()
    yield* damageFirst(disk)
    const slots = yield* q.textOf(disk, "/audit/cursor")
    const generations = [0, 512].map((at) =>
      Number(/"generation":(\d+)/.exec(slots.slice(at, at + 512))?.[1] ?? -1)
    )
    yield* patch(disk, "/audit/cursor", generations[0]! > generations[1]! ? 0 : 512, Buffer.from("x"))
    yield* q.withQueue(disk, {}, (queue) => q.books(queue))
    yield* keepsTheLetter(disk)
  })
)
it.effect("keeps a damaged letter while it retries others", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* twoLetters(disk)
    yield* damageFirst(disk)
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.zipRight(
        queue.retry(() => true, "li"),
        q.books(queue)
      )
    )
    yield* keepsTheLetter(disk)
  })
)
it.effect("erases the line of a discarded letter later if the disk failed", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A-secret", "B"])
        yield* refuse(queue)
        memory.inject(({ operation, path }) =>
          operation === "overwrite" && path.endsWith(".ndjson") && !path.includes("dead")
            ? { type: "fail", code: "EIO" }
            : undefined
        )
        yield* discardAll(disk, queue)
        memory.inject(() => undefined)
        yield* discardAll(disk, queue)
        memory.kill()
      })
    )
    disk = memory.startProcess()
    yield* q.withQueue(disk, {}, () => Effect.void)
    yield* q.withQueue(disk, {}, () => Effect.void)
    yield* erasedTheLine(disk)
  })
)
it.effect("erases the line of a discarded letter if the request is interrupted", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A-secret", "B"])
        yield* refuse(queue)
        yield* requests.submit(disk, "/audit", { action: "discard", letters: "all", by: "li" })
        const isErasing = yield* Deferred.make<void>()
        memory.inject(({ operation, path }) => {
          if (operation === "overwrite" && path === LETTERS) Deferred.unsafeDone(isErasing, Exit.void)
          return undefined
        })
        const deciding = yield* Effect.fork(queue.carryOutRequests)
        yield* Deferred.await(isErasing)
        yield* Fiber.interrupt(deciding)
      })
    )
    yield* q.withQueue(disk, {}, () => Effect.void)
    yield* erasedTheLine(disk)
  })
)
it.effect("counts removed letters as missing if the first attempt to restore the file fails", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const books = yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuse(queue)
        yield* refuse(queue)
        yield* queue.retry(({ id }) => id === "0:0", "li")
        yield* disk.remove(LETTERS)
        let n = 0
        memory.inject(({ operation, path, step }) =>
          operation === "append" && step === "data" && path === LETTERS && n++ === 0
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
it.effect("does not count a removed letter as missing if the cursor had not counted it", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const books = yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuse(queue)
        yield* queue.retry(() => true, "li")
        memory.inject(failWritingCursor)
        yield* Effect.exit(refuse(queue))
        memory.inject(() => undefined)
        yield* disk.remove(LETTERS)
        yield* q.deliverAll(queue, new Set())
        return yield* q.books(queue)
      })
    )
    assert.deepInclude(books, { dead: 0, missing: 0, retried: 1, balanced: true })
  })
)
it.effect("writes format 2 again if somebody removes only queue.json", () =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, ["A", "B", "C"])
        yield* refuse(queue)
        yield* queue.retry(() => true, "li")
        assert.include(yield* q.textOf(disk, "/audit/queue.json"), '"format":2')
        yield* disk.remove("/audit/queue.json")
        yield* q.deliverAll(queue, new Set())
      })
    )
    assert.include(yield* q.textOf(disk, "/audit/queue.json"), '"format":2')
  })
)

it.effect("warns once about content it cannot erase, not after each commit", () =>
  Effect.gen(function* () {
    const warnings: Array<string> = []
    const collect = Logger.make(({ logLevel, message }) => {
      if (logLevel._tag === "Warning") warnings.push(String(message))
    })
    const memory = MemoryDisk.make()
    yield* twoLetters(memory.startProcess())
    let disk = memory.startProcess()
    yield* q.withQueue(disk, {}, (queue) =>
      Effect.gen(function* () {
        yield* q.append(queue, "C")
        memory.inject(failWritingCursor)
        yield* Effect.exit(refuse(queue))
        memory.kill()
      })
    )
    memory.inject(({ operation }) => (operation === "overwrite" ? { type: "fail", code: "EIO" } : undefined))
    disk = memory.startProcess()
    yield* Effect.provide(
      q.withQueue(disk, {}, (queue) =>
        Effect.forEach(q.idsOf("e", 5), (id) =>
          Effect.zipRight(q.append(queue, id), q.deliverAll(queue, new Set()))
        )
      ),
      Logger.replace(Logger.defaultLogger, collect)
    )
    assert.lengthOf(
      warnings.filter((warning) => warning.includes("what was decided is not erased")),
      1
    )
  })
)

/** Some letters are discarded. Three more are written, but the cursor fails, so their lines come again. */
const takenBackBesideARetry = (letters: number, lead: number) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const first = memory.startProcess()
    yield* q.withQueue(first, {}, (queue) =>
      Effect.gen(function* () {
        yield* Effect.forEach(q.idsOf("e", letters), (id) => q.append(queue, id), {
          concurrency: "unbounded"
        })
        yield* refuse(queue, letters)
        yield* discardAll(first, queue)
        yield* q.appendAll(queue, q.idsOf("k", 3))
        memory.inject(failWritingCursor)
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

it.effect("replaces the file once if a delivery takes letters back during a retry", () =>
  Effect.forEach([5, 600], (letters) =>
    Effect.forEach(
      Array.from({ length: 10 }, (_, index) => 10 * index),
      (lead) => takenBackBesideARetry(letters, lead)
    )
  )
)
