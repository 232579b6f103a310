/** The fast export: its lines equal those of events that were decoded whole. */
import { assert, describe, it } from "@effect/vitest"
import { Chunk, FastCheck as fc, Schema } from "effect"
import { Activity } from "effect-audit"
import { collecting, lining, UnfitLine } from "../../src/cli/exported.js"
import { jsonOf } from "../../src/cli/format.js"
import { asCsv, asJson, showing } from "../../src/cli/shown.js"
import { kindOfTable } from "../../src/cli/trail.js"
import { type Cells, ReadRow, type Row } from "../../src/internal/database/walk.js"
import { foundOf } from "../../src/layers/TrailLive.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { sqlDateTime } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Maybe } from "../support/kinds.js"

const runs = process.env.AUDIT_LONG === "1" ? 20_000 : 150

class Odd extends AuditEvent.Class<Odd>()("odd\u202e", {
  table: "odd",
  fields: {
    kind: AuditEvent.optional(Schema.String),
    time: AuditEvent.optional(Schema.String),
    text: AuditEvent.optional(Schema.String)
  },
  sensitive: ["text"]
}) {}

class Values extends AuditEvent.Class<Values>()("values", {
  table: "values",
  fields: {
    tags: AuditEvent.optional(Schema.Array(Schema.String)),
    at: AuditEvent.optional(Schema.Date),
    big: AuditEvent.optional(Schema.BigInt),
    isSo: AuditEvent.optional(Schema.Boolean),
    ratio: AuditEvent.optional(Schema.Number),
    "odd\u202ename": AuditEvent.optional(Schema.String)
  },
  sensitive: ["big"]
}) {}

/** A kind whose constructor changes or refuses what its Schema accepts. */
class Own extends AuditEvent.Class<Own>()("own", { table: "own", fields: { text: Schema.String } }) {
  constructor(input: AuditEvent.InputOf<typeof Own>) {
    if (input.text.length > 3) throw new Error("too long")
    super({ text: `${input.text}!` })
  }
}

const table = kindOfTable("payments", [
  { name: "account", holds: "text" },
  { name: "cents", holds: "whole" },
  { name: "ratio", holds: "number" }
])

const raws = fc.oneof(
  fc.constantFrom(null, "", "=1+1", "-5", "+1", "@x", "\ttab", " a", "a ", 'a"b', "a,b", "a\r\nb", "\uff1d1"),
  fc.constantFrom(
    "0",
    "007",
    "-0",
    "1e300",
    "9007199254740993",
    "1",
    "[1]",
    '["a\u202e"]',
    "{}",
    "未知",
    "未知用户 a, b",
    "狐狸",
    "é狐",
    "狐 ",
    "12",
    "-12",
    "123456789012345",
    "1234567890123456",
    "\ud83e"
  ),
  fc.constantFrom("2026-01-31 08:00:00.000", "\u0000", "\u007f", "\u200b", "a\\b", "x".repeat(1500)),
  fc.maxSafeInteger().map(String),
  fc.double().map(String),
  fc.string({ unit: "binary" })
)

const rowsOf = (kind: AuditEvent.Any) =>
  fc
    .tuple(
      fc.option(fc.integer({ min: 0, max: 4e12 })),
      fc.option(fc.oneof(fc.constant("01890a5d-ac96-774b-bcce-b302099a8057"), fc.string())),
      fc.array(raws, { minLength: kind.columns.length, maxLength: kind.columns.length })
    )
    .map(([time, id, values]) => new ReadRow(id, time, values))

/** A text as a server stores it: well-formed Unicode. */
const stored = (value: Row["values"][number]) => (value === null ? null : String(value).toWellFormed())

/** The row as MySQL sends it. */
const sent = ({ eventId, time, values }: Row, digits: string): Row => {
  const id = eventId === null ? null : eventId.replaceAll("-", "").toUpperCase()
  const texts = [...values.map(stored), time === null ? null : sqlDateTime(time) + digits, id]
  const buffers = texts.map((text) => (text === null ? null : Buffer.from(text)))
  const cells: Cells = {
    // bytes of other rows surround the row
    buffer: Buffer.concat([
      Buffer.from("before"),
      ...buffers.map((bytes) => bytes ?? Buffer.alloc(0)),
      Buffer.from("after")
    ]),
    starts: buffers.map((_, index) => offsetOf(buffers, index)),
    ends: buffers.map((bytes, index) => (bytes === null ? -1 : offsetOf(buffers, index) + bytes.length))
  }
  return new ReadRow(eventId, time, texts.slice(0, -2), cells)
}

const offsetOf = (buffers: ReadonlyArray<Buffer | null>, index: number): number =>
  buffers.slice(0, index).reduce((total, bytes) => total + (bytes?.length ?? 0), "before".length)

const ID = "01890a5d-ac96-774b-bcce-b302099a8057"

const KINDS: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog, Activity, Maybe, Odd, Values, Own, table]

describe.each(KINDS.map((kind) => [kind.kind, kind] as const))("an export of %s", (_, kind) => {
  it("writes the same lines as showing each event", () => {
    for (const isRevealed of [true, false]) {
      const show = showing(kind, isRevealed)
      const whole = (row: Row) => show(foundOf(kind)(row))
      const [csv, json, text] = (["csv", "json", "text"] as const).map((format) =>
        lining(kind, isRevealed, format, foundOf)
      )
      fc.assert(
        fc.property(rowsOf(kind), (row) => {
          const shown = whole(row)
          const line = (text: string) => (shown.unfit === undefined ? text : new UnfitLine(text))
          assert.deepStrictEqual(csv!(row), line(asCsv(shown)))
          assert.deepStrictEqual(json!(row), line(`${jsonOf(asJson(shown))}\n`))
          assert.deepStrictEqual(
            text!(row),
            line(`${shown.time ?? "-"}  ${shown.kind}  ${jsonOf(asJson(shown))}\n`)
          )
        }),
        { numRuns: runs }
      )
    }
  })

  it("writes the same lines from the bytes of a row", () => {
    const sentRows = fc.array(
      fc
        .tuple(rowsOf(kind), fc.constantFrom(ID, null), fc.constantFrom("", "000", "999"))
        .map(([row, id, digits]) => sent(new ReadRow(id, row.time, row.values), digits)),
      { maxLength: 4 }
    )
    for (const isRevealed of [true, false]) {
      for (const format of ["csv", "json", "text"] as const) {
        const lineOf = lining(kind, isRevealed, format, foundOf)
        const collect = collecting(kind, isRevealed, format, foundOf)
        fc.assert(
          fc.property(sentRows, (rows) => {
            const lines = rows.map(lineOf)
            const { add, result } = collect()
            for (const row of rows) add(row)
            const { bytes, unfit } = Chunk.unsafeHead(result())
            const text = lines.map((line) => (line instanceof UnfitLine ? line.text : line)).join("")
            assert.strictEqual(Buffer.from(bytes).toString(), text.toWellFormed())
            assert.strictEqual(unfit, lines.filter((line) => line instanceof UnfitLine).length)
          }),
          { numRuns: runs }
        )
      }
    }
  })
})

it("a value that ends inside a character takes no bytes of the next value", () => {
  const row = sent(new ReadRow(ID, 0, ["狐", "狐", "狐"]), "")
  const { buffer, ends, starts } = row.cells!
  const cut: Cells = { buffer, starts, ends: Array.from(ends, (end, index) => (index === 0 ? end - 1 : end)) }
  const { add, result } = collecting(Odd, true, "csv", foundOf)()
  add(new ReadRow(ID, 0, row.values, cut))
  const [, , first, second] = Buffer.from(Chunk.unsafeHead(result()).bytes).toString().split(",")
  assert.deepStrictEqual([first, second], ["\ufffd", "狐"])
})
