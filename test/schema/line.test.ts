/** Events and lines: the compiled encoder and decoder agree with the Schema for any input. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, DateTime, Either, FastCheck as fc, Option, Schema, SchemaAST } from "effect"
import { isDeepStrictEqual } from "node:util"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { compile, makeDecoder, sqlDateTime, type SqlValue } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Maybe } from "../support/kinds.js"

const runs = process.env.AUDIT_LONG === "1" ? 20_000 : 400
const ID = "01890a5d-ac96-774b-bcce-b302099a8057"
const TIME = Date.UTC(2026, 0, 31, 8)

class Odd extends AuditEvent.Class<Odd>()("odd", {
  table: "odd",
  fields: {
    date: Schema.Date,
    dateOrNull: Schema.NullOr(Schema.Date),
    big: Schema.BigInt,
    numberText: Schema.NumberFromString,
    nested: Schema.Struct({ whole: Schema.Int, texts: Schema.Array(Schema.String) }),
    tuple: Schema.Tuple(Schema.String, Schema.Boolean),
    byName: Schema.Record({ key: Schema.String, value: Schema.Number }),
    literal: Schema.Literal("a", "b", 1, true),
    mixed: Schema.Union(Schema.String, Schema.Number, Schema.Null),
    branded: Schema.String.pipe(Schema.minLength(2), Schema.brand("Branded")),
    bounded: Schema.Number.pipe(Schema.between(-5, 5)),
    isSo: Schema.Boolean
  }
}) {}

const kinds: ReadonlyArray<AuditEvent.Any> = [UseLog, LoginLog, Odd, Maybe]

const junk: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    undefined,
    "",
    "a",
    0,
    -0,
    1.5,
    NaN,
    Infinity,
    -Infinity,
    2 ** 53,
    1n,
    true,
    "\ud800",
    "x\udfffy",
    "12",
    "2020-01-01T00:00:00.000Z",
    new Date(0),
    new Date(NaN),
    Symbol("x"),
    () => 1,
    Option.none()
  ),
  fc.string({ unit: "binary" }),
  fc.anything({ withNullPrototype: true, withBigInt: true, withDate: true, withSparseArray: true })
)

/** Objects with the fields of a kind: mostly valid, some absent or nonsense. */
const inputs = (
  definition: AuditEvent.Any,
  valueOf: (field: Schema.Struct.Field) => fc.Arbitrary<unknown>
) => {
  const fields = Object.fromEntries(
    Object.entries(definition.fields).map(([name, field]) => [
      name,
      fc.oneof({ weight: 40, arbitrary: valueOf(field) }, { weight: 1, arbitrary: junk })
    ])
  )
  return fc.oneof(fc.record(fields), fc.record(fields, { requiredKeys: [] }))
}

interface Box {
  readonly field?: unknown
}
const boxOf = (field: Schema.Struct.Field) => Schema.Struct({ field }) as unknown as Schema.Schema<Box, Box>

const eventInputs = (definition: AuditEvent.Any) =>
  inputs(definition, (field) => Arbitrary.make(Schema.typeSchema(boxOf(field))).map((box) => box.field))

const wireInputs = (definition: AuditEvent.Any) =>
  inputs(definition, (field) =>
    Arbitrary.make(Schema.typeSchema(boxOf(field))).map((box) => {
      const wire = Schema.encodeEither(boxOf(field))(box)
      return Either.isRight(wire) ? wire.right.field : undefined
    })
  )

const json = (value: unknown): unknown => JSON.parse(JSON.stringify(value))
/** Removes differences that JSON cannot carry: absent keys and the sign of zero. */
const plain = (value: unknown): unknown => {
  if (Object.is(value, -0)) return 0
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== "object" || value === null || value instanceof Date) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key, plain(item)])
  )
}
const isJson = (value: unknown) => {
  try {
    return isDeepStrictEqual(json(value), plain(value))
  } catch {
    return false
  }
}

const constructorOf = (definition: AuditEvent.Any) => definition as unknown as new (input: unknown) => object

/** The Schema's encoding of an input: the fields of the line by key; undefined if it refuses. */
const encodedBySchema = (definition: AuditEvent.Any, input: object): unknown => {
  const struct = Schema.Struct(definition.fields) as unknown as Schema.Schema.AnyNoContext
  const instance = new (constructorOf(definition))(input)
  // Stricter than a Schema: a value written unchanged must be JSON, so that nothing changes silently.
  const instanceFields = instance as Readonly<Record<string, unknown>>
  const isChanged = (field: string) => {
    const schema = definition.fields[field]!
    return Schema.isPropertySignature(schema) || SchemaAST.typeAST(schema.ast) !== schema.ast
  }
  if (Object.keys(definition.fields).some((field) => !isChanged(field) && !isJson(instanceFields[field])))
    return undefined
  // an optional field that is undefined counts as absent, also where the Schema is `exact`
  const given = Object.entries(instance).filter(([, value]) => value !== undefined)
  const encoded = Schema.encodeUnknownEither(struct)(Object.fromEntries(given))
  if (Either.isLeft(encoded) || !isJson(encoded.right)) return undefined
  const fields = encoded.right as Record<string, unknown>
  // a record keeps all its keys, while the Schema's copy drops this one
  const isCut = (field: string) =>
    !isChanged(field) && Object.hasOwn(Object(instanceFields[field]) as object, "__proto__")
  const valueOf = (field: string) => (isCut(field) ? instanceFields[field] : fields[field])
  return plain(Object.fromEntries(definition.columns.map(({ field, key }) => [key, valueOf(field)])))
}

/** The Schema's decoding of a line: the columns; undefined if it refuses. */
const decodedBySchema = (definition: AuditEvent.Any, wire: Readonly<Record<string, unknown>>) => {
  const struct = Schema.Struct(definition.fields) as unknown as Schema.Schema.AnyNoContext
  const decoded = Schema.decodeUnknownEither(struct)(wire)
  if (Either.isLeft(decoded)) return undefined
  const fields = decoded.right as Record<string, unknown>
  return definition.columns.map(({ field }) => column(fields[field], wire[field]))
}

const column = (value: unknown, wire: unknown): SqlValue => {
  if (value === undefined || value === null) return null
  if (typeof value === "boolean") return Number(value)
  if (typeof value === "number" || typeof value === "bigint") return value
  if (typeof value === "string") return value.toWellFormed()
  if (value instanceof Date) return sqlDateTime(value.getTime())
  if (wire === undefined || wire === null) return null
  return typeof wire === "string"
    ? wire.toWellFormed()
    : typeof wire === "number"
      ? wire
      : JSON.stringify(wire)
}

describe.each(kinds.map((kind) => [kind.kind, kind] as const))("lines of %s", (_, definition) => {
  const codec = compile(definition)
  const filled = Object.keys(definition.fromTime)

  it("are encoded as the Schema encodes them", () => {
    let right = 0
    fc.assert(
      fc.property(eventInputs(definition), (input) => {
        const line = codec.encode(input, ID, TIME)
        const expected = encodedBySchema(definition, input)
        assert.strictEqual(Either.isRight(line), expected !== undefined)
        if (Either.isLeft(line)) return
        right++
        assert.isTrue(line.right.endsWith("\n") && !line.right.slice(0, -1).includes("\n"))
        const { event_id, kind, ts, ...fields } = JSON.parse(line.right) as Record<string, unknown>
        assert.deepStrictEqual([kind, event_id, ts], [definition.kind, ID, "2026-01-31T08:00:00.000Z"])
        const given = expected as Record<string, unknown>
        for (const name of filled) {
          const { key } = definition.columns.find(({ field }) => field === name)!
          if (given[key] === null || given[key] === "") given[key] = fields[key]
        }
        assert.deepStrictEqual(fields, given)
      }),
      { numRuns: runs }
    )
    assert.isAbove(right, runs / 10)
  })

  it("are decoded as the Schema decodes them", () => {
    let right = 0
    fc.assert(
      fc.property(
        wireInputs(definition).filter((wire) => isJson(wire)),
        (input) => {
          const wire = json(input) as Record<string, unknown>
          const line = Object.fromEntries(
            definition.columns
              .filter(({ field }) => field in wire)
              .map(({ field, key }) => [key, wire[field]])
          )
          const row = codec.row(line)
          const expected = decodedBySchema(definition, wire)
          assert.strictEqual(Either.isRight(row), expected !== undefined, JSON.stringify(wire))
          if (Either.isLeft(row)) return
          right++
          assert.deepStrictEqual(row.right, expected)
        }
      ),
      { numRuns: runs }
    )
    assert.isAbove(right, runs / 10)
  })

  it("survive a round trip", () => {
    fc.assert(
      fc.property(eventInputs(definition), (input) => {
        const line = codec.encode(input, ID, TIME)
        if (Either.isLeft(line)) return
        const event = decode(line.right)
        assert.isTrue(Either.isRight(event), line.right)
      }),
      { numRuns: runs / 5 }
    )
  })
})

const decodeIn = (timeZone?: string) =>
  makeDecoder(
    new Map(kinds.map((kind) => [kind.kind, compile(kind)])),
    timeZone === undefined ? {} : { timeZone: DateTime.zoneUnsafeMakeNamed(timeZone) }
  )
const decode = (line: string, timeZone?: string) => decodeIn(timeZone)(line, () => "made-from-the-line")
const decoded = (line: unknown, timeZone?: string) =>
  Either.getOrThrow(decode(JSON.stringify(line), timeZone))
const refused = (line: string) => Either.getOrThrow(Either.flip(decode(line))).class

describe("lines of the Python class", () => {
  const use = {
    kind: "use_log",
    ts: "2025-11-30T23:59:59",
    user_name: "未知用户",
    device_name: "studio-3",
    prompt: "一只红狐狸",
    result_path: null,
    status: "success",
    error_message: null,
    model: "m",
    duration_ms: 1840,
    finish_reason: null
  }

  it("get an id made from the line, and a time in the given zone", () => {
    const event = decoded(use, "Asia/Shanghai")
    assert.strictEqual(event.eventId, "made-from-the-line")
    assert.strictEqual(event.time, Date.UTC(2025, 10, 30, 15, 59, 59))
    assert.deepStrictEqual(event.row, [
      "未知用户",
      "studio-3",
      "一只红狐狸",
      null,
      "success",
      null,
      "m",
      1840,
      null
    ])
    assert.strictEqual(decoded(use, "America/New_York").time, Date.UTC(2025, 11, 1, 4, 59, 59))
    assert.strictEqual(
      decoded({ ...use, ts: "2025-11-30T23:59:59+02:00" }).time,
      Date.UTC(2025, 10, 30, 21, 59, 59)
    )
  })

  it("get the defaults of the class for missing fields", () => {
    const event = decoded({ kind: "use_log" })
    assert.strictEqual(event.time, null)
    assert.deepStrictEqual(event.row, ["未知用户", "未知设备", "", null, "unknown", null, null, null, null])
    assert.deepStrictEqual(decoded({ ...use, user_name: null, device_name: "" }).row.slice(0, 2), [
      "未知用户",
      "未知设备"
    ])
  })

  it("take the wall time of a login from login_time, or else from ts", () => {
    const login = { kind: "login_log", ts: "2025-11-30T23:59:59.123456", user_name: null }
    const time = (line: object) => decoded(line, "Asia/Shanghai").row.at(-1)
    assert.strictEqual(time({ ...login, login_time: "2025-01-01 00:00:00" }), "2025-01-01 00:00:00")
    assert.strictEqual(time(login), "2025-11-30 23:59:59")
    assert.strictEqual(time({ ...login, login_time: "" }), "2025-11-30 23:59:59")
  })

  it("get the values that MySQL stored, since the class checked nothing", () => {
    const duration = (duration_ms: unknown) => decoded({ ...use, duration_ms }).row[7]
    // What MariaDB stored of PyMySQL's values: a float came as a DOUBLE, a Decimal as text.
    const stored = [
      [1840.5, 1840],
      [1841.5, 1842],
      [0.5, 0],
      [1840.51, 1841],
      [-1.5, -2],
      [true, 1],
      ["1840.4", 1840],
      ["1840.5", 1841],
      ["-1.5", -2],
      [" +.5e1 ", 5]
    ] as const
    for (const [given, expected] of stored) assert.strictEqual(duration(given), expected, String(given))
    const texts = decoded({ ...use, user_name: 42, prompt: 1.5, model: false }).row
    assert.deepStrictEqual([texts[0], texts[2], texts[6]], ["42", "1.5", "0"])
    // a dead letter that is retried has an id
    assert.strictEqual(decoded({ ...use, event_id: ID, duration_ms: 0.4 }).row[7], 0)
  })

  it("are invalid if MySQL refused them, or if the stored value cannot be known", () => {
    for (const duration_ms of ["", "soon", "0x10", "\u00a012", "Infinity", [1], {}, 1e300]) {
      assert.strictEqual(refused(JSON.stringify({ ...use, duration_ms })), "invalid")
    }
    for (const user_name of ["12345678901234567890", "1e21", "1e-7"]) {
      const line = JSON.stringify(use).replace('"user_name":"未知用户"', `"user_name":${user_name}`)
      assert.strictEqual(refused(line), "invalid", user_name)
    }
    // the class does not write such times
    for (const ts of ["2025-11-30T23:59:59.000Z", "2025-11-30T23:59:59+08:00"]) {
      assert.strictEqual(refused(JSON.stringify({ ...use, ts, duration_ms: 1840.5 })), "invalid")
    }
  })

  it("never cause a defect, whatever their ts", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.constantFrom("Z", "xZ", "2025-13-40T99:99:99", "2025-01-01T00:00:00+99:99", "+00:00")
        ),
        (ts) => {
          for (const kind of ["use_log", "login_log"]) decode(JSON.stringify({ kind, ts }), "Asia/Shanghai")
        }
      ),
      { numRuns: runs }
    )
    // an unreadable time does not lose the rest of the event
    assert.strictEqual(decoded({ ...use, ts: "xZ" }).time, null)
    assert.strictEqual(decoded({ kind: "login_log", user_name: "li", ts: "xZ" }).row[0], "li")
  })
})

describe("odd lines and inputs", () => {
  it("treat null as absent, unless null is a value of the field", () => {
    const fieldsOf = (input: unknown) => {
      const line = Either.getOrThrow(compile(Maybe).encode(input, ID, TIME))
      const { defaulted, defaulted_or_null } = JSON.parse(line) as Record<string, unknown>
      return [defaulted, defaulted_or_null]
    }
    const input = { option: Option.none(), asOption: Option.none(), required: "" } as const
    for (const [given, expected] of [
      [null, [7, null]],
      [undefined, [7, 7]]
    ] as const) {
      const whole = { ...input, defaulted: given, defaultedOrNull: given }
      assert.deepStrictEqual(fieldsOf(whole), [...expected])
      assert.deepStrictEqual(fieldsOf(new Maybe(whole)), [...expected])
    }
  })

  it("become an event or a refusal, and never a defect", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.json(),
          fc.json().map((text) => `{"kind":"use_log","x":${text}}`)
        ),
        (text) => {
          decode(text)
        }
      ),
      { numRuns: runs }
    )
    assert.deepStrictEqual(
      ["", "[]", "null", "1", '"x"', "{", '{"kind":1}', '{"kind":"use_log","event_id":"7"}'].map(refused),
      new Array(8).fill("malformed")
    )
    assert.strictEqual(refused('{"kind":"toString"}'), "unknownKind")
    assert.strictEqual(refused('{"kind":"__proto__"}'), "unknownKind")
    assert.strictEqual(refused('{"kind":"use_log","duration_ms":1.5}'), "invalid")
  })

  it("treat keys like __proto__ as ordinary keys", () => {
    const text = `{"__proto__":{"status":"forged","user_name":"forged"},"constructor":1,"kind":"use_log"}`
    const event = Either.getOrThrow(decode(text))
    assert.deepStrictEqual([event.row[0], event.row[4]], ["未知用户", "unknown"])
    assert.isUndefined(({} as Record<string, unknown>).status)
    const byName = JSON.parse('{"__proto__":{"status":"forged"},"a":2}') as Record<string, number>
    assert.isTrue(Either.isLeft(compile(Odd).encode({ ...VALID, byName }, ID, TIME)))
    assert.isUndefined(({} as Record<string, unknown>).status)
  })

  it("lose the keys that a nested Schema does not know", () => {
    const nested = { whole: 1, texts: [], secret: "x" }
    const line = compile(Odd).encode({ ...VALID, nested }, ID, TIME)
    assert.notInclude(Either.getOrThrow(line), "secret")
    const date = compile(Odd).encode({ ...VALID, byName: new Date(0) }, ID, TIME)
    assert.deepStrictEqual(
      Either.getOrThrow(Either.flip(date)).map(({ field }) => field),
      ["byName"]
    )
  })

  it("accept objects without a prototype, and refuse all but objects", () => {
    const input = Object.assign(Object.create(null) as object, { status: "success" })
    assert.isTrue(Either.isRight(compile(UseLog).encode(input, ID, TIME)))
    for (const none of [null, undefined, 1, "x", true, Symbol("x")]) {
      assert.isTrue(Either.isLeft(compile(UseLog).encode(none, ID, TIME)))
    }
  })

  it("refuse numbers that JSON cannot carry, by field, and accept lone surrogates", () => {
    const encode = (fields: object) => compile(UseLog).encode({ status: "s", ...fields }, ID, TIME)
    for (const durationMs of [NaN, Infinity, -Infinity, 1.5, 2 ** 53, "1", 1n]) {
      const issues = Either.getOrThrow(Either.flip(encode({ durationMs })))
      assert.deepStrictEqual(
        issues.map(({ field }) => field),
        ["durationMs"]
      )
    }
    const { row } = Either.getOrThrow(
      decode(Either.getOrThrow(encode({ durationMs: -0, prompt: "a\ud83d" })))
    )
    assert.deepStrictEqual([row[2], row[7]], ["a\ufffd", 0])
    assert.notInclude(Either.getOrThrow(encode({ prompt: "\u2028\n\r\u0000" })).slice(0, -1), "\n")
  })

  it("refuse an input whose getter throws", () => {
    const hostile = {
      get status(): string {
        throw new Error("no")
      }
    }
    assert.isTrue(Either.isLeft(compile(UseLog).encode(hostile, ID, TIME)))
  })

  it("refuse the line for which a Schema throws, and no other", () => {
    class Throwing extends AuditEvent.Class<Throwing>()("throwing", {
      table: "throwing",
      fields: {
        value: Schema.String.pipe(
          Schema.filter((text) => {
            if (text === "bad") throw new Error("a defect of the filter")
            return true
          })
        )
      }
    }) {}
    const codec = compile(Throwing)
    assert.isTrue(Either.isLeft(codec.row({ value: "bad" })))
    assert.isTrue(Either.isRight(codec.row({ value: "good" })))
    assert.isTrue(Either.isLeft(codec.encode({ value: "bad" }, ID, TIME)))
  })

  it("record the local time of a login", () => {
    const line = JSON.parse(Either.getOrThrow(compile(LoginLog).encode({}, ID, TIME))) as {
      login_time: string
    }
    const local = new Date(TIME)
    const two = (part: number) => String(part).padStart(2, "0")
    const day = [local.getFullYear(), two(local.getMonth() + 1), two(local.getDate())].join("-")
    const time = [local.getHours(), local.getMinutes(), local.getSeconds()].map(two).join(":")
    assert.strictEqual(line.login_time, `${day} ${time}`)
  })
})

const VALID = {
  date: new Date(0),
  dateOrNull: null,
  big: 1n,
  numberText: 1,
  nested: { whole: 1, texts: [] },
  tuple: ["a", true],
  byName: {},
  literal: "a",
  mixed: null,
  branded: "ab",
  bounded: 0,
  isSo: true
}
