/** The cursor: which lines it counts again after a repair, and what a slot holds. */
import { assert, describe, it } from "@effect/vitest"
import { crc32 } from "node:zlib"
import {
  decodeSlot,
  empty,
  encodeSlot,
  isCounted,
  SLOT_BYTES,
  type Cursor
} from "../../src/internal/queue/cursor.js"
import { recover } from "../../src/internal/queue/recovery.js"
import type { QueueRecord } from "../../src/services/QueueFile.js"

const lineAt = (segment: number, offset: number, sequence: number, surplus: boolean): QueueRecord => {
  const bytes = Buffer.from("{}")
  return { segment, offset, sequence, surplus, bytes, length: 2, text: "{}", problem: undefined }
}

/** Lines 0, one without a number, and 1 were delivered; then a repair set the position back to the start. */
const repaired: Cursor = {
  ...empty,
  settled: 2,
  delivered: 3,
  surplus: 1,
  repeatedSegment: 1,
  repeatedOffset: 50
}

describe("a repaired cursor", () => {
  it("counts the lines before its position, with a number or without", () => {
    const counted = (...line: Parameters<typeof lineAt>) => isCounted(repaired, lineAt(...line))
    assert.isTrue(counted(0, 0, 0, false))
    assert.isTrue(counted(0, 20, 1, true))
    assert.isTrue(counted(1, 0, 1, false))
    assert.isTrue(counted(1, 40, 2, true))
    assert.isFalse(counted(1, 50, 2, true))
    assert.isFalse(counted(1, 40, 2, false))
  })

  it("counts by line numbers if an earlier version wrote no start position", () => {
    const { repeatedOffset: _, repeatedSegment: __, ...old } = repaired
    const body = JSON.stringify({ generation: 7, ...old }).padEnd(SLOT_BYTES - 9)
    const slot = decodeSlot(Buffer.from(`${body}${crc32(body).toString(16).padStart(8, "0")}\n`))
    assert.deepStrictEqual(slot, { ...repaired, repeatedSegment: 0, repeatedOffset: 0, generation: 7 })
    assert.isTrue(isCounted(slot!, lineAt(0, 20, 1, true)))
  })

  it("keeps its position if a second repair comes before delivery is back there", () => {
    const again = (cursor: Cursor) =>
      recover({
        segments: [
          { first: 0, bytes: 40 },
          { first: 1, bytes: 40 }
        ],
        tailLines: 1,
        cursor,
        cursorAtLine: false,
        lettersBefore: { letters: 0, torn: 0 },
        minimumSequence: 0
      }).cursor
    assert.include(again({ ...repaired, segment: 0, offset: 7 }), { repeatedSegment: 1, repeatedOffset: 50 })
    assert.include(again({ ...repaired, segment: 1, offset: 60, sequence: 2 }), {
      repeatedSegment: 1,
      repeatedOffset: 60
    })
  })
})

describe("a cursor slot", () => {
  it("is damaged if its generation has no successor", () => {
    for (const generation of [2 ** 53 - 1, 2 ** 53 - 2]) {
      assert.isUndefined(decodeSlot(encodeSlot(generation, empty)))
    }
    assert.strictEqual(decodeSlot(encodeSlot(7, empty))?.generation, 7)
  })
})

describe("a cursor with a seal", () => {
  const seal = { chain: "0f".repeat(16), number: 7, head: "a0".repeat(32) }

  it("keeps the last seal, with the largest numbers", () => {
    const most = Number.MAX_SAFE_INTEGER
    const counts = Object.fromEntries(Object.keys(empty).map((field) => [field, most])) as typeof empty
    const cursor = {
      ...counts,
      refused: 0,
      torn: 0,
      missing: most,
      seal: { ...seal, number: most, forked: 1, bare: 1 }
    } satisfies Cursor
    // with the most digits
    const generation = 2 ** 52
    const slot = encodeSlot(generation, cursor)
    assert.lengthOf(slot, SLOT_BYTES)
    assert.deepStrictEqual(decodeSlot(slot), { generation, ...cursor })
  })

  it("omits the field without a seal", () => {
    assert.notInclude(Buffer.from(encodeSlot(1, empty)).toString(), "seal")
    assert.notProperty(decodeSlot(encodeSlot(1, empty)), "seal")
  })

  it("ignores an invalid seal", () => {
    for (const wrong of [
      null,
      7,
      "x",
      {},
      { ...seal, chain: "0F".repeat(16) },
      { ...seal, number: -1 },
      { ...seal, number: "7" },
      { ...seal, head: "a0" }
    ]) {
      const slot = decodeSlot(encodeSlot(3, { ...repaired, seal: wrong } as unknown as Cursor))
      assert.deepStrictEqual(slot, { ...repaired, generation: 3 })
    }
  })
})
