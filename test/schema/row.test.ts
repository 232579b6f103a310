/** Rows and events: a row is read back as the event that was recorded. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Either, FastCheck as fc, Schema } from "effect"
import { Activity } from "../../src/schema/Activity.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { compile, INVALID, type SqlValue } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import {
  isScalarField,
  millisOf,
  type Raw,
  restoring,
  restoringField,
  restoringValues,
  Unfit
} from "../../src/schema/Row.js"
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

/** A line as data, without differences that JSON cannot carry. */
const parsed = (line: string): unknown =>
  JSON.parse(line.toWellFormed(), (_, value: unknown) =>
    typeof value === "string" ? value.toWellFormed() : value
  )

/** A row as drivers return it: MySQL's all texts, SQLite's with numbers. */
const forms: ReadonlyArray<readonly [string, (value: SqlValue) => Raw]> = [
  ["as texts", (value) => (value === null ? null : String(value))],
  ["with numbers", (value) => (typeof value === "bigint" ? String(value) : value)]
]

describe.each(
  [UseLog, LoginLog, Activity, Rich, Maybe].map((kind) => [kind.kind, kind as AuditEvent.Any] as const)
)("rows of %s", (_, definition) => {
  const codec = compile(definition)
  it.each(forms)("are restored to the event, %s", (_, show) => {
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

class Own extends AuditEvent.Class<Own>()("own", { table: "own", fields: { whole: Schema.Int } }) {
  readonly twice: number
  constructor(input: AuditEvent.InputOf<typeof Own>) {
    super({ whole: input.whole + 1 })
    this.twice = 2 * this.whole
  }
}

/** Raw values that a column of any type may hold. */
const raws = fc.oneof(
  fc.constantFrom(null, "", "0", "-0", "007", "1.5", "-12", "1e3", " 1", "+1", "NaN", "999999999999999"),
  fc.constantFrom(
    "9007199254740993",
    "1234567890123456",
    "true",
    "2026-01-31 08:00:00.000",
    "未知",
    "[1]",
    "{}"
  ),
  fc.maxSafeInteger(),
  fc.maxSafeInteger().map(String),
  fc.double().map(String),
  fc.string({ unit: "binary" })
)

it.each(
  [UseLog, LoginLog, Activity, Rich, Maybe, Own].map((kind) => [kind.kind, kind as AuditEvent.Any] as const)
)("reading %s without its Schema gives what the Schema reads", (_, definition) => {
  const slow = definition.columns.map(({ field }) => restoringField(definition.fields[field]!))
  const Event = definition as unknown as new (input: object) => object
  const row = fc.array(raws, { minLength: slow.length, maxLength: slow.length })
  const values = restoringValues(definition)
  const restore = restoring(definition)
  let right = 0
  const check = (raw: ReadonlyArray<Raw>) => {
    const expected = slow.map((read, index) => read(raw[index]!))
    const unfit = definition.columns.flatMap(({ field }, i) => (expected[i] === INVALID ? [field] : []))
    const found = values(raw)
    const event = restore(raw)
    if (found instanceof Unfit) {
      assert.deepStrictEqual(
        found.issues.map(({ field }) => field),
        unfit
      )
      assert.isTrue(Either.isLeft(event))
      return
    }
    right++
    assert.deepStrictEqual([...found], expected)
    const input = Object.fromEntries(
      definition.columns.flatMap(({ field }, i) => (expected[i] === undefined ? [] : [[field, expected[i]]]))
    )
    const given = Either.getOrThrow(event)
    const whole = new Event(input)
    assert.strictEqual(Object.getPrototypeOf(given), Object.getPrototypeOf(whole))
    assert.deepStrictEqual(Object.entries(given), Object.entries(whole))
  }
  fc.assert(fc.property(row, check), { numRuns: 2 * runs })
  const codec = compile(definition)
  fc.assert(
    fc.property(inputs(definition), (input) => {
      const line = codec.encode(input, ID, TIME)
      if (Either.isLeft(line)) return
      const stored = codec.row(JSON.parse(line.right) as Record<string, unknown>)
      if (Either.isRight(stored)) for (const [, show] of forms) check(stored.right.map(show))
    }),
    { numRuns: runs }
  )
  assert.isAbove(right, runs / 2)
})

it("times are parsed as Date parses them", () => {
  const byDate = (text: string) => {
    const [, date, clock, fraction = ""] =
      /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?Z?$/.exec(text) ?? []
    if (date === undefined) return Number.NaN
    return Date.parse(`${date}T${clock!}.${fraction.slice(0, 3).padEnd(3, "0")}Z`)
  }
  const time = fc
    .integer({ min: Date.UTC(0), max: Date.UTC(9999, 11, 31) })
    .map((millis) => new Date(millis).toISOString().replace("T", " ").slice(0, -1))
  const oneOff = fc
    .tuple(time, fc.nat(25), fc.constantFrom("0", "9", "5", " ", "-", "T", ":", ".", "Z", ""))
    .map(([text, at, other]) => text.slice(0, at) + other + text.slice(at + 1))
  const cut = fc
    .tuple(time, fc.constantFrom(19, 23), fc.constantFrom("", "0", "999", "4567"))
    .map(([text, length, more]) => text.slice(0, length) + (length === 23 ? more : ""))
  fc.assert(
    fc.property(fc.oneof(time, oneOff, cut), (text) => {
      assert.deepStrictEqual(millisOf(text), byDate(text), text)
    }),
    { numRuns: 10 * runs }
  )
})

describe("a row that does not fit", () => {
  it("names its fields, and what was expected", () => {
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

  it("gets the default of a field that was added later", () => {
    const nulls = Maybe.columns.map(() => null)
    const found = Either.getOrThrow(restoring(Maybe)(nulls)) as Maybe
    assert.strictEqual(found.required, "old")
    assert.strictEqual(found.defaulted, 7)
    assert.isNull(found.defaultedOrNull)
    assert.isNull(found.whole)
  })

  it("never causes an exception, whatever the columns hold", () => {
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

it("only texts, numbers, booleans and dates can be searched for", () => {
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
