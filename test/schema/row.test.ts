/** Rows and events: what a row is read back to is what was recorded. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Either, FastCheck as fc, Schema } from "effect"
import { Activity } from "../../src/schema/Activity.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { compile, type SqlValue } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { isScalarField, type Raw, restoring } from "../../src/schema/Row.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Maybe } from "../support/kinds.js"

const runs = process.env.AUDIT_LONG === "1" ? 20_000 : 400
const ID = "01890a5d-ac96-774b-bcce-b302099a8057"
const TIME = Date.UTC(2026, 0, 31, 8)

class Rich extends AuditEvent.Class<Rich>()("rich", {
  table: "rich",
  fields: {
    date: Schema.Date,
    dateOrNull: Schema.NullOr(Schema.Date),
    validDate: Schema.ValidDateFromSelf.pipe(Schema.optional),
    big: Schema.BigInt,
    numberText: Schema.NumberFromString,
    nested: Schema.Struct({ whole: Schema.Int, texts: Schema.Array(Schema.String), when: Schema.Date }),
    nestedOrNull: AuditEvent.optional(Schema.Struct({ text: Schema.String })),
    tuple: Schema.Tuple(Schema.String, Schema.Boolean),
    byName: Schema.Record({ key: Schema.String, value: Schema.Number }),
    literal: Schema.Literal("a", "b", 1),
    textOrStructure: Schema.Union(Schema.String.pipe(Schema.maxLength(3)), Schema.Array(Schema.Int)),
    parsed: Schema.parseJson(Schema.Struct({ n: Schema.Number })),
    branded: Schema.String.pipe(Schema.minLength(2), Schema.brand("Branded")),
    bounded: Schema.Number.pipe(Schema.between(-5, 5)),
    isSo: Schema.Boolean,
    isSoOrNull: Schema.NullOr(Schema.Boolean),
    template: Schema.TemplateLiteral("id-", Schema.Number)
  }
}) {}

const inputs = (definition: AuditEvent.Any) => {
  const struct = Schema.Struct(definition.fields) as unknown as Schema.Schema<Record<string, unknown>>
  return Arbitrary.make(Schema.typeSchema(struct))
}

/** What a line is apart from what JSON does not tell apart. */
const parsed = (line: string): unknown =>
  JSON.parse(line.toWellFormed(), (_, value: unknown) =>
    typeof value === "string" ? value.toWellFormed() : value
  )

/** A row as MySQL shows it, all texts, and as SQLite does. */
const forms: ReadonlyArray<readonly [string, (value: SqlValue) => Raw]> = [
  ["as texts", (value) => (value === null ? null : String(value))],
  ["with numbers", (value) => (typeof value === "bigint" ? String(value) : value)]
]

describe.each(
  [UseLog, LoginLog, Activity, Rich, Maybe].map((kind) => [kind.kind, kind as AuditEvent.Any] as const)
)("rows of %s", (_, definition) => {
  const codec = compile(definition)
  it.each(forms)("are read back to the event, %s", (_, show) => {
    let right = 0
    fc.assert(
      fc.property(inputs(definition), (input) => {
        const line = codec.encode(input, ID, TIME)
        if (Either.isLeft(line)) return
        const row = codec.row(JSON.parse(line.right) as Record<string, unknown>)
        if (Either.isLeft(row)) return
        right++
        const event = restoring(definition)(row.right.map(show))
        assert.isTrue(Either.isRight(event), line.right)
        const found = Either.getOrThrow(event)
        assert.instanceOf(found, definition as never)
        const again = Either.getOrThrow(codec.encode(found, ID, TIME))
        assert.deepStrictEqual(parsed(again), parsed(line.right))
      }),
      { numRuns: runs }
    )
    assert.isAbove(right, runs / 4)
  })
})

describe("a row that does not fit", () => {
  it("says which fields, and what was expected", () => {
    const row = Array.from({ length: Rich.columns.length }, () => "?")
    const found = restoring(Rich)(row)
    assert.isTrue(Either.isLeft(found))
    const issues = Either.isLeft(found) ? found.left : []
    assert.includeMembers(
      issues.map(({ field }) => field),
      ["date", "big", "nested", "isSo", "bounded", "literal"]
    )
    assert.deepInclude(issues, { field: "isSo", expected: "boolean" })
  })

  it("has the defaults of a field that was added later", () => {
    const nulls = Maybe.columns.map(() => null)
    const found = Either.getOrThrow(restoring(Maybe)(nulls)) as Maybe
    assert.strictEqual(found.required, "old")
    assert.strictEqual(found.defaulted, 7)
    assert.isNull(found.defaultedOrNull)
    assert.isNull(found.whole)
  })

  it("is never an exception, whatever the columns hold", () => {
    const raw = fc.oneof(
      fc.constant(null),
      fc.string({ unit: "binary" }),
      fc.double(),
      fc.jsonValue().map((value) => JSON.stringify(value))
    )
    for (const definition of [UseLog, Rich, Maybe]) {
      const row = fc.array(raw, {
        minLength: definition.columns.length,
        maxLength: definition.columns.length
      })
      fc.assert(
        fc.property(row, (values) => {
          restoring(definition)(values)
        }),
        { numRuns: runs }
      )
    }
  })
})

it("texts, numbers, booleans and dates can be searched for", () => {
  const scalar = Object.keys(Rich.fields).filter((name) =>
    isScalarField((Rich.fields as AuditEvent.Any["fields"])[name]!)
  )
  assert.sameMembers(scalar, [
    "date",
    "dateOrNull",
    "validDate",
    "big",
    "numberText",
    "literal",
    "branded",
    "bounded",
    "isSo",
    "isSoOrNull",
    "template"
  ])
})
