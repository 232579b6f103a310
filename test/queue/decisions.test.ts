/** Decisions about many letters: a retry appends as many as there is room for, beside events. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, FastCheck, Fiber } from "effect"
import { turnEventLoop } from "../../src/internal/turnEventLoop.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as q from "../support/queue.js"
import type { Disk } from "../../src/services/Disk.js"

const ask = (
  disk: Disk["Type"],
  queue: q.Queue,
  action: requests.Decision["action"],
  letters: "all" | Iterable<string>
) => Effect.zipRight(requests.submit(disk, "/audit", { action, letters, by: "li" }), queue.carryOutRequests)

/** Makes this many letters, which wait for a decision. */
const refuseAll = (queue: q.Queue, count: number, padding: number) =>
  Effect.zipRight(
    q.appendAll(queue, q.idsOf("L", count), padding),
    q.deliverAll(queue, new Set(), { isRejected: () => true })
  )

describe("a retry", () => {
  it.effect.prop(
    "appends each letter once, and leaves the numbers of concurrent events as acknowledged",
    [
      FastCheck.integer({ min: 1, max: 30 }),
      FastCheck.integer({ min: 0, max: 5 }),
      FastCheck.integer({ min: 0, max: 5 }),
      FastCheck.constantFrom(0, 10_000)
    ],
    ([letters, before, behind, padding]) =>
      Effect.gen(function* () {
        const memory = MemoryDisk.make()
        const disk = memory.startProcess()
        yield* q.withQueue(disk, {}, (queue) =>
          Effect.gen(function* () {
            yield* refuseAll(queue, letters, padding)
            const answer = yield* Deferred.make<void>()
            memory.inject(({ operation, path }) =>
              operation === "append" && /\d\.ndjson$/.test(path)
                ? { type: "wait", until: Deferred.await(answer) }
                : undefined
            )
            const told = new Map<string, number>()
            /** Waits for the disk, or joins the group that already waits. */
            const append = (prefix: string, count: number) =>
              Effect.forkAll(
                q
                  .idsOf(prefix, count)
                  .map((id) => Effect.map(q.append(queue, id), (number) => told.set(id, number)))
              )
            const first = yield* append("a", 1 + before)
            yield* turnEventLoop
            const asked = yield* Effect.fork(ask(disk, queue, "retry", "all"))
            yield* Effect.repeatN(turnEventLoop, 20)
            const beside = yield* append("b", behind)
            yield* turnEventLoop
            yield* Deferred.succeed(answer, undefined)
            yield* Fiber.join(Fiber.zip(Fiber.zip(first, beside), asked))
            const lines = yield* q.readAll(queue)
            for (const line of lines) {
              const number = told.get(q.idOf(line)!)
              if (number !== undefined) assert.strictEqual(line.sequence, number)
            }
            const ids = lines.map((line) => q.idOf(line)!)
            assert.sameMembers(ids, [...told.keys(), ...q.idsOf("L", letters)])
            assert.include(yield* q.books(queue), { dead: 0, retried: letters, balanced: true })
          })
        )
      }),
    { fastCheck: { numRuns: 30 } }
  )

  it.effect.prop(
    "appends as many letters as the queue has room for, and keeps the others",
    [FastCheck.integer({ min: 1, max: 40 }), FastCheck.integer({ min: 0, max: 40 })],
    ([letters, room]) =>
      Effect.gen(function* () {
        const disk = MemoryDisk.make().startProcess()
        yield* q.withQueue(disk, {}, (queue) => refuseAll(queue, letters, 1000))
        // a retried line has a mark, and an id of at most two digits
        const lineBytes = Buffer.byteLength(q.lineOf("L10", 1000)) + 20
        yield* q.withQueue(disk, { maxQueueBytes: room * lineBytes }, (queue) =>
          Effect.gen(function* () {
            const retried = Math.min(letters, room)
            const exit = yield* Effect.exit(ask(disk, queue, "retry", "all"))
            assert.strictEqual(Exit.isSuccess(exit), retried === letters)
            assert.include(yield* q.books(queue), { dead: letters - retried, retried, balanced: true })
            assert.deepStrictEqual(yield* q.waitingIds(queue), q.idsOf("L", letters).slice(0, retried))
          })
        )
      }),
    { fastCheck: { numRuns: 30 } }
  )
})
