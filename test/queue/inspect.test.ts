/** Inspect: another process reads from the files what the owner reports. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { inspect, ownerOf, queuesIn, snapshot, waitingLines } from "../../src/internal/queue/inspect.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import type { Disk } from "../../src/services/Disk.js"
import {
  appendAll,
  deliver,
  idOf,
  idsOf,
  nodeDisk,
  openClosable,
  temporaryDirectory
} from "../support/queue.js"
import type { Queue } from "../support/queue.js"

/** The fields that both report. */
const common = <A extends Effect.Effect.Success<Queue["status"]>>({
  accepted,
  dead,
  delivered,
  discarded,
  missing,
  nextSequence,
  oldest,
  retried,
  torn,
  waiting,
  waitingBytes
}: A) => ({
  accepted,
  dead,
  delivered,
  discarded,
  missing,
  nextSequence,
  oldest,
  retried,
  torn,
  waiting,
  waitingBytes
})

const agree = (disk: Disk["Type"], queue: Queue, directory: string) =>
  Effect.gen(function* () {
    const outside = yield* inspect(disk, directory)
    assert.deepStrictEqual(common(outside), common(yield* queue.status))
    assert.strictEqual(outside.repair, undefined)
    return outside
  })

/** Does everything that changes the books, in segments of a few lines. */
const life = (disk: Disk["Type"], directory: string) =>
  Effect.gen(function* () {
    const { close, queue } = yield* openClosable(disk, { directory, segmentBytes: 400 })
    const database = new Set<string>()
    yield* agree(disk, queue, directory)

    yield* appendAll(queue, idsOf("a", 30))
    yield* queue.append(`{"event_id":"dated","ts":"2026-01-31T08:00:00.000Z"}\n`, "dated")
    yield* agree(disk, queue, directory)

    yield* deliver(queue, database, { maxRecords: 7 })
    const isRejected = (id: string) => id === "a8" || id === "a9" || id === "a10"
    yield* deliver(queue, database, { maxRecords: 5, isRejected })
    const rejected = yield* agree(disk, queue, directory)
    assert.strictEqual(rejected.dead, 3)

    yield* queue.retry(({ sequence }) => sequence === 8, "test")
    const retried = yield* agree(disk, queue, directory)
    assert.strictEqual(retried.retried, 1)

    yield* Effect.repeat(deliver(queue, database, { maxRecords: 1 }), { times: 17 })
    const dated = yield* agree(disk, queue, directory)
    assert.strictEqual(dated.oldest, Date.parse("2026-01-31T08:00:00.000Z"))

    const waiting = yield* Stream.runCollect(waitingLines(disk, yield* snapshot(disk, directory, undefined)))
    assert.deepStrictEqual(
      [...waiting].map(({ bytes, sequence }) => [sequence, idOf({ bytes, problem: undefined })]),
      [
        [30, "dated"],
        [31, "a8"]
      ]
    )

    yield* Effect.repeat(deliver(queue, database), { until: (count) => count === 0 })
    yield* agree(disk, queue, directory)
    yield* queue.compact
    const compacted = yield* agree(disk, queue, directory)
    assert.deepInclude(compacted, { accepted: 32, delivered: 29, dead: 2, waiting: 0, waitingBytes: 0 })

    assert.deepStrictEqual(yield* ownerOf(disk, directory), { pid: process.pid })
    yield* close
    const closed = yield* inspect(disk, directory)
    assert.strictEqual(closed.owner, undefined)
    assert.deepStrictEqual(common(closed), common(compacted))
  })

describe("inspect", () => {
  it.scoped("agrees with the owner", () =>
    Effect.suspend(() => life(MemoryDisk.make().startProcess(), "/audit"))
  )

  it.scopedLive("agrees with the owner on this machine's disk", () =>
    Effect.gen(function* () {
      yield* life(yield* nodeDisk, yield* temporaryDirectory)
    })
  )

  it.scoped("counts an incomplete last line only if no owner writes it", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const disk = memory.startProcess()
      const { queue } = yield* openClosable(disk)
      yield* appendAll(queue, idsOf("a", 3))
      const [segment] = (yield* snapshot(disk, "/audit", undefined)).segments
      yield* Effect.scoped(
        Effect.flatMap(disk.open(segment!.path, "append"), (file) => file.append(Buffer.from(`{"event_id"`)))
      )
      assert.strictEqual((yield* inspect(disk, "/audit")).accepted, 3)
      memory.kill()
      const next = memory.startProcess()
      assert.strictEqual((yield* inspect(next, "/audit")).accepted, 4)
      const { queue: reopened } = yield* openClosable(next)
      assert.strictEqual((yield* reopened.status).accepted, 4)
    })
  )

  it.scoped("counts the remaining lines if the owner cuts off a failed append meanwhile", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      const { queue } = yield* openClosable(disk)
      yield* appendAll(queue, idsOf("a", 3))
      const [segment] = (yield* snapshot(disk, "/audit", undefined)).segments
      const { bytes, path } = segment!
      yield* Effect.scoped(
        Effect.flatMap(disk.open(path, "append"), (file) => file.append(Buffer.from(`{"event_id"`)))
      )
      const cutOff = Effect.scoped(Effect.flatMap(disk.open(path, "update"), (file) => file.truncate(bytes)))
      const watched: Disk["Type"] = {
        ...disk,
        open: (file, mode) =>
          Effect.zipRight(file === path ? Effect.orDie(cutOff) : Effect.void, disk.open(file, mode))
      }
      assert.strictEqual((yield* inspect(watched, "/audit")).accepted, 3)
    })
  )

  it.scoped("lists the queues of several instances in order", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      for (const path of ["/audit", "/audit/instance-10", "/audit/instance-2", "/audit/requests"]) {
        yield* disk.makeDirectory(path)
      }
      assert.deepStrictEqual(yield* queuesIn(disk, "/audit"), ["/audit/instance-2", "/audit/instance-10"])
      assert.deepStrictEqual(yield* queuesIn(disk, "/audit/requests"), ["/audit/requests"])
    })
  )
})
