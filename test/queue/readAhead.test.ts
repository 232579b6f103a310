/** Reading ahead: the same bytes in fewer reads. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fc from "fast-check"
import * as readAhead from "../../src/internal/readAhead.js"
import type { DiskError, File } from "../../src/services/Disk.js"

const KiB = 1024
const MiB = KiB * KiB

/** A file of this size whose bytes follow from their position, and its reads. */
const fileOf = (size: number, salt = 0) => {
  const bytes = Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + (i >>> 8) + salt) & 0xff))
  const reads: Array<readonly [offset: number, length: number]> = []
  const readAt = (offset: number, length: number): Effect.Effect<Uint8Array, DiskError> =>
    Effect.sync(() => {
      reads.push([offset, length])
      return bytes.subarray(offset, offset + length)
    })
  return { bytes, reads, file: { readAt } as unknown as File }
}

describe("reading ahead", () => {
  it("returns the file's bytes for any range, and never reads past the end", () => {
    const files = [fileOf(3 * MiB), fileOf(3 * MiB, 7)]
    const ask = fc.record({
      which: fc.constantFrom(0, 1),
      offset: fc.nat(3 * MiB),
      length: fc.oneof(fc.nat(64 * KiB), fc.nat(2 * MiB)),
      end: fc.integer({ min: 1, max: 3 * MiB })
    })
    return fc.assert(
      fc.asyncProperty(fc.array(ask, { maxLength: 12 }), async (asks) => {
        const ahead = readAhead.make()
        for (const { end, length, offset, which } of asks) {
          const { bytes, file, reads } = files[which]!
          if (offset >= end) continue
          const wanted = Math.min(length, end - offset)
          reads.length = 0
          const read = await Effect.runPromise(ahead.over(file, end).readAt(offset, wanted))
          assert.isTrue(bytes.subarray(offset, offset + wanted).equals(read))
          for (const [from, count] of reads) assert.isAtMost(from + count, end)
        }
      }),
      { numRuns: 100 }
    )
  })

  it.effect("serves several batches of one file with one read", () =>
    Effect.gen(function* () {
      const one = fileOf(2 * MiB)
      const other = fileOf(2 * MiB, 1)
      const ahead = readAhead.make()
      const readIn = ({ bytes, file }: typeof one, offset: number) =>
        Effect.map(ahead.over(file, 2 * MiB).readAt(offset, 200 * KiB), (read) => {
          assert.isTrue(bytes.subarray(offset, offset + 200 * KiB).equals(read))
        })
      for (let batch = 0; batch < 5; batch++) yield* readIn(one, batch * 200 * KiB)
      assert.deepStrictEqual(one.reads, [[0, MiB]])
      yield* readIn(other, 200 * KiB)
      assert.lengthOf(other.reads, 1)
      ahead.forget()
      yield* readIn(other, 200 * KiB)
      assert.lengthOf(other.reads, 2)
    })
  )

  it.effect("does not advance by a look", () =>
    Effect.gen(function* () {
      const { file, reads } = fileOf(2 * MiB)
      const ahead = readAhead.make().over(file, 2 * MiB)
      yield* ahead.readAt(10, 4 * KiB)
      assert.deepStrictEqual(reads, [[10, 4 * KiB]])
    })
  )
})
