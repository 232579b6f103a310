import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as segmentFiles from "../../src/internal/queue/segments.js"

describe("segments", () => {
  it.scoped("keep their successors if one is removed before a read", () =>
    Effect.gen(function* () {
      const disk = MemoryDisk.make().startProcess()
      yield* disk.makeDirectory("/queue")
      const segments = yield* segmentFiles.make(disk, "/queue", 1)
      yield* segments.append(Buffer.from("old\n"), 1, 0)
      yield* segments.append(Buffer.from("new\n"), 1, 1)
      const [old] = segments.all
      // as compaction does, between the search for the segment and its open
      yield* segments.remove(old!)
      assert.strictEqual((yield* Effect.flip(segments.reader(old!))).code, "ENOENT")
      assert.deepStrictEqual(
        segments.all.map(({ first }) => first),
        [1]
      )
    })
  )
})
