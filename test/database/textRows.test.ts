/** Rows of texts in packets: the server's values or a failure, and never bytes beyond the row. */
import { assert, it } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import type { Querying } from "../../src/internal/database/mysql/driver.js"
import { queryTexts, TextRow } from "../../src/internal/database/mysql/textRows.js"

const textsOf = (packet: Parameters<TextRow["read"]>[0], columns: number) => {
  const row = new TextRow(columns)
  row.take(new Array<string>(columns).fill("before"))
  row.read(packet)
  return row.all
}

const runs = process.env.AUDIT_LONG === "1" ? 20_000 : 1000

/** A length in MySQL's protocol ("Protocol Data Types"). */
const lengthOf = (length: number): Buffer => {
  if (length < 0xfb) return Buffer.from([length])
  const bytes = length < 1 << 16 ? 2 : length < 1 << 24 ? 3 : 8
  const coded = Buffer.alloc(1 + bytes)
  coded[0] = bytes === 2 ? 0xfc : bytes === 3 ? 0xfd : 0xfe
  coded.writeUIntLE(length, 1, Math.min(6, bytes))
  return coded
}

/** A packet with the row, between bytes of other packets. */
const packetOf = (values: ReadonlyArray<string | null>) => {
  const row = Buffer.concat(
    values.map((value) => {
      if (value === null) return Buffer.from([0xfb])
      const bytes = Buffer.from(value)
      return Buffer.concat([lengthOf(bytes.length), bytes])
    })
  )
  const around = Buffer.from([1, 2, 0xfe, 250])
  return {
    buffer: Buffer.concat([around, row, around]),
    offset: around.length,
    end: around.length + row.length,
    isEOF: () => false
  }
}

const texts = fc.oneof(
  fc.string({ unit: "binary" }).map((text) => text.toWellFormed()),
  fc.constantFrom("", "未知用户", "🦊", "a\0b", "\ufffd", "\u00e9", "null"),
  fc.constantFrom(126, 127, 128, 250, 251, 255, 256, 65_535, 65_536).map((length) => "x".repeat(length)),
  fc.constantFrom(40, 84, 90).map((length) => "狐".repeat(length))
)

it("text rows are read as they were written", () =>
  fc.assert(
    fc.property(fc.array(fc.option(texts), { minLength: 1, maxLength: 14 }), (values) => {
      assert.deepStrictEqual(textsOf(packetOf(values), values.length), values)
    }),
    { numRuns: runs }
  ))

it("text rows fail if they end early or have other columns, and never show what lies behind them", () =>
  fc.assert(
    fc.property(fc.array(fc.option(texts), { minLength: 1, maxLength: 5 }), fc.nat(), (values, cut) => {
      const packet = packetOf(values)
      const size = packet.end - packet.offset
      const shorter = { ...packet, end: packet.offset + (cut % size) }
      assert.throws(() => textsOf(shorter, values.length))
      assert.throws(() => textsOf(packet, values.length + 1))
      if (values.length > 1) assert.throws(() => textsOf(packet, values.length - 1))
    }),
    { numRuns: runs }
  ))

it("text rows are refused if a length exceeds the packet", () => {
  for (const bytes of [
    [0xfe, 255, 255, 255, 255, 255, 255, 255, 255],
    [0xfd, 255, 255, 255],
    [0xfc, 4],
    [0xff, 1, 0, 0, 0, 0, 0, 0, 0],
    []
  ]) {
    const buffer = Buffer.from(bytes)
    assert.throws(() => textsOf({ buffer, offset: 0, end: buffer.length, isEOF: () => false }, 1))
  }
})

it("text rows are accepted from a driver that parses them itself, if they are texts", () => {
  const byDriver =
    (rows: unknown): Querying["query"] =>
    (_, done) => {
      queueMicrotask(() => done(null, rows))
      return { row: () => undefined }
    }
  const read = (rows: unknown) =>
    new Promise<ReadonlyArray<unknown>>((resolve, reject) => {
      const found: Array<unknown> = []
      queryTexts(
        { query: byDriver(rows) },
        "SELECT",
        2,
        (row) => found.push(row.all),
        (error) => (error === null ? resolve(found) : reject(error))
      )
    })
  return Promise.all([
    read([["a", null]]).then((found) => assert.deepStrictEqual(found, [["a", null]])),
    ...[[["a"]], [["a", 1]], [{ c0: "a", c1: "b" }], [[], []]].map((rows) =>
      read(rows).then(
        () => assert.fail("other rows are no texts"),
        (error: unknown) => assert.include(String(error), "another kind")
      )
    )
  ])
})
