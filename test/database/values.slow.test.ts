/**
 * Values: the database stores what was recorded. Events go alone or together, once or again, among refused rows, and to
 * a server with daylight saving time.
 */
import { Effect, Exit, Redacted, Schema, Scope } from "effect"
import fc from "fast-check"
import { isDeepStrictEqual } from "node:util"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { AuditEvent } from "../../src/index.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import type { Uploader } from "../../src/services/Uploader.js"
import type { TestDatabase } from "../support/database.js"
import { freshDatabase } from "../support/database.js"
import { stored } from "../support/events.js"
import { account, connectionOptions, uploaderOf } from "../support/mysql.js"
import type { MysqlServer } from "../support/mysqlServer.js"
import { startServer } from "../support/mysqlServer.js"
import { isTurnOf, onEachFlavour } from "../support/servers.js"

const isLong = process.env.AUDIT_LONG === "1"
const SEED = Number(process.env.AUDIT_SEED ?? (isLong ? Date.now() % 2 ** 31 : 20_261_129))
console.log(`values: AUDIT_SEED=${SEED}`)
const RUNS = isLong ? 2 : 1

// ------------------------------------------------------------------------------------------------- fields

interface Field {
  readonly schema: Schema.Struct.Field
  readonly values: fc.Arbitrary<unknown>
  /** The recorded value as a text column shows it. */
  readonly text: (value: never) => string | null
}

const field = <A>(
  schema: Schema.Struct.Field,
  values: fc.Arbitrary<A>,
  text: (value: A) => string | null = String
): Field => ({ schema, values, text })

const HOSTILE = [
  "",
  " ",
  "trailing  ",
  "it's",
  "\\",
  "\\'",
  "a\\",
  '"',
  "`",
  "\0",
  "\x1a",
  "\r\n\t\b",
  "?",
  "??",
  ":name",
  "--",
  "/*",
  "*/;",
  "#",
  "%_",
  "NULL",
  "null",
  "0",
  "-1",
  "1",
  "2",
  " 2",
  "+3",
  "00002",
  "A",
  "1.5",
  "1e3",
  "true",
  "a",
  "é",
  "ß",
  "红狐狸",
  "👩‍💻",
  "\u{10ffff}",
  "\ud800",
  "\udfff x",
  "\ufeff",
  "\u2028",
  "2026-03-29 02:30:00",
  "0x41",
  "[]",
  '{"a":1}',
  "x".repeat(300),
  "红👩".repeat(70_000)
]

const texts = fc.oneof(
  fc.constantFrom(...HOSTILE),
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.string({
    unit: fc.constantFrom("'", "\\", '"', "\0", "?", "-", "%", "é", "👩", "\ud800", " "),
    maxLength: 12
  }),
  fc.string({ maxLength: 20 })
)

const numbers = fc.oneof(
  fc.constantFrom(
    ...[0, -0, 1, 2, -1, 5e-324, 1.7976931348623157e308, 2 ** 53 - 1, 2 ** 53, 2 ** 53 + 2, -(2 ** 53), 0.1],
    ...[
      1e21,
      1e-7,
      123456.789,
      1234567890123456,
      127,
      128,
      255,
      256,
      2147483647,
      2147483648,
      0.5,
      1.5,
      2 ** 60,
      2 ** 63,
      1e19,
      2 ** 64,
      -(2 ** 63),
      1e30
    ]
  ),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.integer()
)

const ints = fc.oneof(
  fc.constantFrom(0, 1, 2, -1, 1234567890123456, 127, 128),
  fc.maxSafeInteger(),
  fc.integer()
)

const bigints = fc.oneof(
  fc.constantFrom(0n, 1n, -1n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 63n, 2n ** 64n - 1n),
  fc.constantFrom(2n ** 64n, 2n ** 64n + 5n, -(2n ** 63n) - 1n, 10n ** 30n),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
)

/** Dates around both clock changes in Europe/Berlin, and at the ends of the columns' ranges. */
const dates = fc.oneof(
  fc.integer({ min: Date.UTC(2026, 2, 29, 0), max: Date.UTC(2026, 2, 29, 3) }).map((ms) => new Date(ms)),
  fc.integer({ min: Date.UTC(2026, 9, 25, 0), max: Date.UTC(2026, 9, 25, 3) }).map((ms) => new Date(ms)),
  fc
    .constantFrom(
      ...["2026-03-29T01:59:59.999Z", "2026-03-29T02:30:00.000Z", "2026-03-29T01:00:00.000Z"],
      ...[
        "2026-10-25T00:30:00.000Z",
        "2026-10-25T01:30:00.000Z",
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:01.000Z"
      ],
      ...[
        "2038-01-19T03:14:07.999Z",
        "2038-01-19T03:14:08.000Z",
        "0001-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z"
      ],
      ...["0000-01-01T00:00:00.000Z", "-000001-01-01T00:00:00.000Z", "+010000-01-01T00:00:00.000Z"]
    )
    .map((iso) => new Date(iso)),
  fc.date({ min: new Date(1000), max: new Date("2038-01-19T03:14:07Z"), noInvalidDate: true })
)

const dateText = (date: Date) => date.toISOString().replace("T", " ").replace("Z", "")
const boolText = (value: boolean) => (value ? "1" : "0")
const wellFormed = (text: string) => text.toWellFormed()
const orNull =
  <A>(text: (value: A) => string | null) =>
  (value: A | null | undefined) =>
    value === null || value === undefined ? null : text(value)
const mixed = (value: string | number | boolean) =>
  typeof value === "boolean" ? boolText(value) : String(value).toWellFormed()

const FIELDS = {
  text: field(Schema.String, texts, wellFormed),
  number: field(Schema.Number, numbers),
  int: field(Schema.Int, ints),
  bigint: field(Schema.BigInt, bigints),
  boolean: field(Schema.Boolean, fc.boolean(), boolText),
  date: field(Schema.Date, dates, dateText),
  dateOfNumber: field(Schema.DateFromNumber, dates, dateText),
  literal: field(Schema.Literal("a", "b", "1"), fc.constantFrom("a", "b", "1")),
  numberLiteral: field(Schema.Literal(1, 2, 10), fc.constantFrom(1, 2, 10)),
  mixed: field(
    Schema.Union(Schema.String, Schema.Number, Schema.Boolean),
    fc.oneof(texts, numbers, fc.boolean()),
    mixed
  ),
  dateOrText: field(
    Schema.Union(Schema.Date, Schema.Literal("never")),
    fc.oneof(dates, fc.constant("never" as const)),
    (value) => (typeof value === "string" ? value : dateText(value))
  ),
  nullOrNumber: field(Schema.NullOr(Schema.Number), fc.option(numbers), orNull(String)),
  nullOrDate: field(Schema.NullOr(Schema.Date), fc.option(dates), orNull(dateText)),
  optionalText: field(AuditEvent.optional(Schema.String), fc.option(texts), orNull(wellFormed)),
  optionalInt: field(AuditEvent.optional(Schema.Int), fc.option(ints), orNull(String)),
  optionalBoolean: field(
    Schema.optional(Schema.Boolean),
    fc.option(fc.boolean(), { nil: undefined }),
    orNull(boolText)
  ),
  numberFromText: field(Schema.NumberFromString, numbers),
  redacted: field(
    Schema.Redacted(Schema.String),
    texts.map((text) => Redacted.make(text)),
    (value) => Redacted.value(value).toWellFormed()
  ),
  struct: field(
    Schema.Struct({ a: Schema.String, n: Schema.Number }),
    fc.record({ a: texts, n: numbers }),
    JSON.stringify
  ),
  array: field(
    Schema.Array(Schema.NullOr(Schema.Number)),
    fc.array(fc.option(numbers), { maxLength: 4 }),
    JSON.stringify
  )
} satisfies Record<string, Field>

// ------------------------------------------------------------------------------------------------ columns

/** Whether the stored text equals the record; `text` is the expected text, `value` the value itself. */
type Holds = (stored: string | null, text: string | null, value: unknown) => boolean

const sameText: Holds = (stored, text) => stored === text
/** JSON does not distinguish 0 and -0, and neither does the queue. */
const sameNumber: Holds = (stored, text) =>
  stored === null ? text === null : Number(stored) === Number(text)
const sameJson: Holds = (stored, text) =>
  stored === null ? text === null : isDeepStrictEqual(JSON.parse(stored), JSON.parse(text!))
const bytes: Holds = (stored, text) =>
  (stored === null ? null : Buffer.from(stored, "hex").toString("utf8")) === text
const sameMember: Holds = (stored, text) => stored?.toLowerCase() === text?.toLowerCase().replace(/ +$/, "")
/** Compares in two's complement; fractions are rounded away from zero. */
const bits: Holds = (stored, text, value) => {
  if (stored === null || text === null) return stored === text
  const whole =
    typeof value === "number" ? BigInt(Math.sign(value) * Math.round(Math.abs(value))) : BigInt(text)
  return stored === String(BigInt.asUintN(64, whole)) && whole >= -(2n ** 63n) && whole < 2n ** 64n
}
/** Compares an exact decimal with ten digits after the point; further digits are rounded. */
const decimal: Holds = (stored, text) => {
  if (stored === null || text === null) return stored === text
  if (/^-?\d+$/.test(text)) return stored === `${text === "-0" ? "0" : text}.0000000000`
  return /^-?\d+\.\d{1,10}$/.test(text)
    ? Number(stored) === Number(text)
    : Math.abs(Number(stored) - Number(text)) <= Math.max(5.1e-11, Math.abs(Number(text)) * 2 ** -52)
}
const time =
  (show: (text: string) => string): Holds =>
  (stored, text) =>
    stored === (text === null ? null : show(text))
const seconds =
  (digits: string): Holds =>
  (stored, _, value) =>
    stored === (value === null ? null : `${((value as Date).getTime() / 1000).toFixed(3)}${digits}`)

const digitsOf =
  (length: number): Holds =>
  (stored, text, value) =>
    value instanceof Date
      ? stored === text!.slice(0, 10)
      : stored === text ||
        (stored !== null && stored.replaceAll(/\D/g, "").slice(0, length) === text!.padEnd(length, "0"))

const INTEGERS = ["int", "bigint", "boolean", "numberLiteral", "optionalInt", "optionalBoolean"]
const NUMBERS = [...INTEGERS, "number", "nullOrNumber", "numberFromText"]
const DATES = ["date", "dateOfNumber", "nullOrDate"]

interface Column {
  /** If undefined, the column that `migrate` makes for the field. */
  readonly type?: string
  /** An SQL expression that shows the value as text. */
  readonly read?: string
  readonly holds: Holds
  /** The fields whose values it keeps or refuses. For all others only equal results in all ways are promised. */
  readonly keeps: ReadonlyArray<string>
}

const CHAR = "CAST(value AS CHAR)"
const ALL = Object.keys(FIELDS)
const text = (type: string): Column => ({
  type,
  read: "CONVERT(value USING utf8mb4)",
  holds: sameText,
  keeps: ALL
})

const COLUMNS: Record<string, Column> = {
  varchar: text("VARCHAR(1000) NULL"),
  text: text("TEXT NULL"),
  latin1: text("VARCHAR(255) CHARACTER SET latin1 NULL"),
  utf8mb3: text("LONGTEXT CHARACTER SET utf8mb3 NULL"),
  // blanks at the end are not part of the value
  char: {
    ...text("CHAR(40) NULL"),
    holds: (stored, text) => stored === (text === null ? null : text.replace(/ +$/, ""))
  },
  // neither case nor blanks at the end make a different member
  enum: { ...text("ENUM('a', 'b', '1') NULL"), holds: sameMember },
  set: { ...text("SET('a', 'b', '1', '16') NULL"), holds: sameMember },
  varbinary: { type: "VARBINARY(255) NULL", read: "HEX(value)", holds: bytes, keeps: ALL },
  blob: { type: "LONGBLOB NULL", read: "HEX(value)", holds: bytes, keeps: ALL },
  tinyint: { type: "TINYINT NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  int: { type: "INT NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  bigint: { type: "BIGINT NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  unsigned: { type: "BIGINT UNSIGNED NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  boolean: { type: "BOOLEAN NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  bit: { type: "BIT(1) NULL", read: "CAST(value + 0 AS CHAR)", holds: bits, keeps: INTEGERS },
  bits: { type: "BIT(64) NULL", read: "CAST(value + 0 AS CHAR)", holds: bits, keeps: NUMBERS },
  // 0000 is a valid year
  year: { type: "YEAR NULL", read: CHAR, holds: sameNumber, keeps: INTEGERS },
  time: { type: "TIME NULL", read: CHAR, holds: sameText, keeps: INTEGERS },
  double: {
    type: "DOUBLE NULL",
    holds: sameNumber,
    keeps: NUMBERS.filter((name) => name !== "bigint")
  },
  float: { type: "FLOAT NULL", holds: sameNumber, keeps: ["boolean", "numberLiteral", "optionalBoolean"] },
  decimal: { type: "DECIMAL(30,10) NULL", read: CHAR, holds: decimal, keeps: NUMBERS },
  json: { type: "JSON NULL", read: CHAR, holds: sameJson, keeps: [...NUMBERS, "struct", "array"] },
  // a number of eight digits is a date, and one of fourteen a date with its time
  date: { type: "DATE NULL", holds: digitsOf(8), keeps: [...DATES, ...INTEGERS] },
  datetime: { type: "DATETIME NULL", holds: digitsOf(14), keeps: INTEGERS },
  datetime3: { type: "DATETIME(3) NULL", holds: sameText, keeps: DATES },
  datetime6: { type: "DATETIME(6) NULL", holds: time((text) => `${text}000`), keeps: DATES },
  timestamp3: {
    type: "TIMESTAMP(3) NULL",
    read: "CAST(UNIX_TIMESTAMP(value) AS CHAR)",
    holds: seconds(""),
    keeps: DATES
  },
  timestamp6: {
    type: "TIMESTAMP(6) NULL",
    read: "CAST(UNIX_TIMESTAMP(value) AS CHAR)",
    holds: seconds("000"),
    keeps: DATES
  }
}

/** The column that `migrate` makes: it holds any value of the field, except beyond BIGINT and DATETIME. */
const ownColumn = (name: string): Column => ({
  read: INTEGERS.includes(name) && name !== "numberLiteral" ? CHAR : "value",
  holds: NUMBERS.includes(name)
    ? INTEGERS.includes(name) && name !== "numberLiteral"
      ? sameText
      : sameNumber
    : sameText,
  keeps: ALL
})
const fitsOwn = (name: string, value: unknown): boolean =>
  typeof value === "bigint"
    ? BigInt.asIntN(64, value) === value
    : !(DATES.includes(name) && value instanceof Date) ||
      (value.getUTCFullYear() >= 0 && value.getUTCFullYear() <= 9999)

const kindOf = (name: string, table: string, { type }: Column): AuditEvent.Any =>
  AuditEvent.Class()(name, {
    table,
    fields: {
      value: (FIELDS as Record<string, Field>)[name]!.schema,
      mark: Schema.String,
      filler: Schema.String
    },
    columns: {
      value: type === undefined ? {} : { type },
      mark: { type: "VARCHAR(3) NOT NULL" },
      filler: { type: "LONGTEXT NOT NULL" }
    }
  })

// ------------------------------------------------------------------------------------------------- delivery

/** The outcome of a value: the stored text, or the code of its refusal. */
type Outcome = { readonly stored: string | null } | { readonly code: string }

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect)

onEachFlavour("values", (flavour) => {
  let server: MysqlServer
  let database: TestDatabase
  let uploader: Uploader["Type"]
  const scope = Effect.runSync(Scope.make())
  beforeAll(async () => {
    server = await startServer({
      flavour,
      env: { TZ: "Europe/Berlin" },
      args: ["--innodb-flush-log-at-trx-commit=0"]
    })
    database = await freshDatabase(server.rootUrl)
    uploader = await run(Scope.extend(uploaderOf(connectionOptions(database)), scope))
  })
  afterAll(async () => {
    await run(Scope.close(scope, Exit.void))
    await database.drop()
    await server.stop()
  })

  const eventOf = (definition: AuditEvent.Any, value: unknown, mark = "ok", filler = ""): StoredEvent => ({
    ...stored(definition, { value, mark, filler }),
    // the drift guard would count the other events, and stop the queue
    retried: true
  })

  /** Uploads the events, and returns the outcome of each. */
  const outcomes = async (definition: AuditEvent.Any, read: string, events: ReadonlyArray<StoredEvent>) => {
    const { rejected } = await run(uploader.upload({ definition, events }))
    const rows = await database.query<{ id: string; value: string | number | null }>(
      `SELECT LOWER(HEX(event_id)) AS id, ${read} AS value FROM \`${definition.table}\``
    )
    const byId = new Map(rows.map(({ id, value }) => [id, value === null ? null : String(value)]))
    const codes = new Map(rejected.map(({ code, index }) => [index, code]))
    return events.map(({ eventId }, index): Outcome => {
      const id = eventId.replaceAll("-", "")
      const code = codes.get(index)
      expect(byId.has(id)).toBe(code === undefined)
      return code === undefined ? { stored: byId.get(id)! } : { code }
    })
  }

  /** The outcomes of the values, which must be equal in all ways that an event can take. */
  const inAllWays = async (definition: AuditEvent.Any, column: Column, values: ReadonlyArray<unknown>) => {
    const read = column.read ?? "value"
    await database.query(`DELETE FROM \`${definition.table}\``)
    const singles = values.map((value) => eventOf(definition, value))
    const alone: Array<Outcome> = []
    for (const event of singles) alone.push(...(await outcomes(definition, read, [event])))
    // so large that every server gets it prepared
    const large = eventOf(definition, values[0], "ok", "x".repeat(600_000))
    expect(await outcomes(definition, read, [large])).toEqual([alone[0]])
    const isStored = (index: number) => "stored" in alone[index % values.length]!
    const good = values.map((_, index) => index).filter(isStored)
    if (good.length > 0) {
      for (const count of [7, 100, 101]) {
        const indexes = Array.from({ length: count }, (_, index) => good[index % good.length]!)
        const together = await outcomes(
          definition,
          read,
          indexes.map((index) => eventOf(definition, values[index]))
        )
        expect(together).toEqual(indexes.map((index) => alone[index]))
      }
      const again = [
        ...good.map((index) => singles[index]!),
        ...good.map((index) => eventOf(definition, values[index]))
      ]
      expect(await outcomes(definition, read, again)).toEqual([...good, ...good].map((index) => alone[index]))
    }
    const narrowed = [...values, ...values].map((value) => eventOf(definition, value))
    narrowed.splice(values.length, 0, eventOf(definition, values[0], "too long"))
    const found = await outcomes(definition, read, narrowed)
    expect(found.splice(values.length, 1)[0]).toHaveProperty("code")
    expect(found).toEqual([...alone, ...alone])
    return alone
  }

  const check = (name: string, table: string, column: Column) => async () => {
    const { text, values }: Field = (FIELDS as Record<string, Field>)[name]!
    const definition = kindOf(name, table, column)
    await run(MysqlUploader.migrate(connectionOptions(database), [definition]))
    await fc.assert(
      fc.asyncProperty(fc.array(values, { minLength: 1, maxLength: 6 }), async (values) => {
        const found = await inAllWays(definition, column, values)
        found.forEach((outcome, index) => {
          const value = values[index]
          if (column.type === undefined && fitsOwn(name, value)) expect(outcome).toHaveProperty("stored")
          if (!("stored" in outcome) || !column.keeps.includes(name)) return
          const recorded = text(value as never)
          if (!column.holds(outcome.stored, recorded, value)) expect(outcome.stored).toBe(recorded)
        })
      }),
      { numRuns: RUNS, seed: SEED }
    )
  }

  describe("a column that `migrate` creates for", () => {
    for (const name of ALL) test(name, check(name, `own_${name}`, ownColumn(name)))
  })

  for (const [place, [columnName, column]] of Object.entries(COLUMNS).entries()) {
    describe(columnName, () => {
      // a TIMESTAMP that gets dates and texts is refused by name, as a test below shows
      const names = columnName.startsWith("timestamp") ? ALL.filter((name) => name !== "dateOrText") : ALL
      // Fields and columns alternate between the servers like the squares of a chessboard.
      const isHere = (_: string, field: number) => isTurnOf(flavour, place + field)
      for (const name of names.filter(isHere)) test(name, check(name, `t_${columnName}`, column))
    })
  }

  /** A kind with one field, in a column of this type. */
  const single = async (schema: Schema.Struct.Field, type: string) => {
    const table = type.replaceAll(/\W/g, "_")
    const kind = `of_${table}`
    const definition = AuditEvent.Class()(kind, {
      table: kind,
      fields: { value: schema },
      columns: { value: { type } }
    }) as unknown as AuditEvent.Any
    await run(MysqlUploader.migrate(connectionOptions(database), [definition]))
    return definition
  }
  /** MariaDB takes one event and a hundred as parameters, and two as literals. MySQL takes all as literals. */
  const COUNTS = [1, 2, 100]

  test("stores a whole number with the same digits alone and together", async () => {
    const cases: ReadonlyArray<[schema: Schema.Struct.Field, type: string, value: unknown, stored: string]> =
      [
        [Schema.Number, "BIGINT NULL", 2 ** 60, "1152921504606846976"],
        [Schema.Number, "BIGINT NULL", -(2 ** 63), "-9223372036854775808"],
        [Schema.Number, "BIGINT UNSIGNED NULL", 2 ** 63, "9223372036854775808"],
        [Schema.BigInt, "YEAR NULL", 0n, "0000"],
        [Schema.BigInt, "YEAR NULL", 2026n, "2026"]
      ]
    for (const [schema, type, value, text] of cases) {
      const definition = await single(schema, type)
      for (const count of COUNTS) {
        const events = Array.from({ length: count }, () => ({
          ...stored(definition, { value }),
          retried: true
        }))
        expect(await outcomes(definition, CHAR, events)).toEqual(events.map(() => ({ stored: text })))
      }
      await database.query(`DROP TABLE \`${definition.table}\``)
    }
  })

  test("rejects numbers that are not finite, unless the column holds texts", async () => {
    const NUMBERS = ["DOUBLE", "FLOAT", "DECIMAL(20,2)", "INT", "BIGINT", "BIT(1)", "BIT(64)", "YEAR", "JSON"]
    const TYPES = [
      ...NUMBERS,
      "TIME",
      "DATE",
      "DATETIME",
      "TIMESTAMP(3)",
      "ENUM('a')",
      "VARCHAR(20)",
      "ENUM('NaN')"
    ]
    for (const type of TYPES) {
      const definition = await single(Schema.NumberFromString, `${type} NULL`)
      for (const value of [Infinity, -Infinity, NaN]) {
        const isHeld = type === "VARCHAR(20)" || (type === "ENUM('NaN')" && Number.isNaN(value))
        for (const count of COUNTS) {
          const events = Array.from({ length: count }, () => ({
            ...stored(definition, { value }),
            retried: true
          }))
          const { rejected } = await run(uploader.upload({ definition, events }))
          expect([type, value, count, rejected.length]).toEqual([type, value, count, isHeld ? 0 : count])
        }
      }
    }
  })

  test("rejects text that is not a member of an ENUM or a SET, and more bits than fit", async () => {
    const definition = AuditEvent.Class()("silent", {
      table: "silent",
      fields: {
        e: Schema.NullOr(Schema.String),
        s: Schema.NullOr(Schema.String),
        b: Schema.NullOr(Schema.BigInt)
      },
      columns: {
        e: { type: "ENUM('a', 'b') NULL" },
        s: { type: "SET('a', 'b') NULL" },
        b: { type: "BIT(64) NULL" }
      }
    }) as unknown as AuditEvent.Any
    await run(MysqlUploader.migrate(connectionOptions(database), [definition]))
    const none = { e: null, s: null, b: null }
    const places = ["0", "1", "2", " 2", "+1", "00001", "2 "]
    const bad = [
      ...places.flatMap((place) => [
        { ...none, e: place },
        { ...none, s: place }
      ]),
      ...[2n ** 64n, 2n ** 64n + 5n, -(2n ** 63n) - 1n].map((b) => ({ ...none, b }))
    ]
    const good = [{ e: "a", s: "a,b", b: 2n ** 64n - 1n }, { e: "b", s: "", b: -1n }, none]
    const events = [...good, ...bad].map((input) => ({ ...stored(definition, input), retried: true }))
    // alone, and together
    for (const event of events.slice(good.length)) {
      expect((await run(uploader.upload({ definition, events: [event] }))).rejected).toHaveLength(1)
    }
    const { rejected } = await run(uploader.upload({ definition, events }))
    expect(rejected.map(({ index }) => index)).toEqual(bad.map((_, index) => good.length + index))
    expect(await database.query("SELECT e, s, CAST(b + 0 AS CHAR) AS b FROM silent ORDER BY id")).toEqual([
      { e: "a", s: "a,b", b: "18446744073709551615" },
      { e: "b", s: "", b: "18446744073709551615" },
      none
    ])
  })

  test("rejects what a time column would guess at, and stores what states the time", async () => {
    const TYPES = { y: "YEAR", t: "TIME", d: "DATE", dt: "DATETIME", ts: "TIMESTAMP(3)" }
    const definition = AuditEvent.Class()("guessed", {
      table: "guessed",
      fields: Object.fromEntries(
        Object.keys(TYPES).map((name) => [name, Schema.NullOr(Schema.Union(Schema.String, Schema.Number))])
      ),
      columns: Object.fromEntries(
        Object.entries(TYPES).map(([name, type]) => [name, { type: `${type} NULL` }])
      )
    }) as unknown as AuditEvent.Any
    await run(MysqlUploader.migrate(connectionOptions(database), [definition]))
    const none = { y: null, t: null, d: null, dt: null, ts: null }
    const short = [0, 1, 101, 70101, 990101, "0", "101", "10:11:12", "26-03-29", "1-1-1", " 1-1-1", "-1", ""]
    const bad = [
      ...[1, 69, 70, 99, 0.6, 1.5, "0", "00", "1", " 1", "+1", "01", "0001", "1e1", "99"].map((y) => ({
        ...none,
        y
      })),
      ...[0, 1, 130, 101112, 1.5, "130", "101112", " 5", "1e3"].map((t) => ({ ...none, t })),
      ...short.flatMap((value) => [
        { ...none, d: value },
        { ...none, dt: value },
        { ...none, ts: value }
      ])
    ]
    const good = [
      { ...none, y: 0, t: "10:11:12", d: "2026-03-28", dt: "2026-03-28 01:02:03" },
      { ...none, y: "0000", t: "-100:00:00", d: 20260328, dt: 20260328010203 },
      { ...none, y: 2026, t: "2026-03-28 10:11:12", d: "20260328", dt: "20260328010203" },
      { ...none, y: "1901", d: " 2026-03-28", dt: "2026-3-28 1:2:3" },
      { ...none, y: 2155, ts: "2026-03-28 01:02:03.004" }
    ]
    const events = [...good, ...bad].map((input) => ({ ...stored(definition, input), retried: true }))
    for (const [index, event] of events.entries()) {
      const { rejected } = await run(uploader.upload({ definition, events: [event] }))
      expect([index, rejected.length]).toEqual([index, index < good.length ? 0 : 1])
    }
    const { rejected } = await run(uploader.upload({ definition, events }))
    expect(rejected.map(({ index }) => index)).toEqual(bad.map((_, index) => good.length + index))
    const rows = await database.query("SELECT CAST(y AS CHAR) AS y, t, d, dt, ts FROM guessed ORDER BY id")
    expect(rows).toEqual([
      { y: "0000", t: "10:11:12", d: "2026-03-28", dt: "2026-03-28 01:02:03", ts: null },
      { y: "0000", t: "-100:00:00", d: "2026-03-28", dt: "2026-03-28 01:02:03", ts: null },
      { y: "2026", t: "10:11:12", d: "2026-03-28", dt: "2026-03-28 01:02:03", ts: null },
      { y: "1901", t: null, d: "2026-03-28", dt: "2026-03-28 01:02:03", ts: null },
      { y: "2155", t: null, d: null, dt: null, ts: "2026-03-28 01:02:03.004" }
    ])
  })

  test("prepares rows again if a column was altered after they were prepared", async () => {
    const definition = AuditEvent.Class()("altered", {
      table: "altered",
      fields: { n: Schema.Number },
      columns: { n: { type: "DOUBLE NULL" } }
    }) as unknown as AuditEvent.Any
    await run(MysqlUploader.migrate(connectionOptions(database), [definition]))
    const fresh = (count: number) =>
      Array.from({ length: count }, () => stored(definition, { n: 1234567890123456 }))
    for (const count of [1, 7, 100]) {
      await database.query("ALTER TABLE altered MODIFY n DOUBLE NULL")
      await run(uploader.upload({ definition, events: fresh(1) }))
      await database.query("DELETE FROM altered")
      // prepares its rows now, for the table as it is
      const ahead = uploader.upload({ definition, events: fresh(count) })
      await database.query("ALTER TABLE altered MODIFY n VARCHAR(40) NULL")
      const sessions = await database.query<{ id: number }>(
        `SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND command = 'Sleep' AND id <> CONNECTION_ID()`
      )
      const [pool] = await database.query<{ id: number }>("SELECT CONNECTION_ID() AS id")
      for (const { id } of sessions) if (id !== pool!.id) await database.query(`KILL ${id}`)
      await run(Effect.retry(ahead, { times: 3 }))
      const rows = await database.query<{ n: string }>("SELECT n FROM altered")
      expect(rows.map(({ n }) => n)).toEqual(Array.from({ length: count }, () => "1234567890123456"))
      await database.query("DELETE FROM altered")
    }
  })

  // ------------------------------------------------------------------------------------------- time zones

  const Moment = (
    kind: string,
    fields: Schema.Struct.Fields,
    columns: Record<string, AuditEvent.ColumnOptions>
  ) => AuditEvent.Class()(kind, { table: kind, fields, columns }) as unknown as AuditEvent.Any
  const TIMESTAMP = { type: "TIMESTAMP(3) NULL" }
  const dated = (kind: string) => Moment(kind, { at: Schema.Date }, { at: TIMESTAMP })
  const migrate = (...definitions: ReadonlyArray<AuditEvent.Any>) =>
    run(MysqlUploader.migrate(connectionOptions(database), definitions))
  const upload = (definition: AuditEvent.Any, inputs: ReadonlyArray<unknown>, by = uploader) =>
    by.upload({ definition, events: inputs.map((input) => stored(definition, input)) })
  const momentsOf = async (table: string) =>
    (
      await database.query<{ at: string }>(
        `SELECT CAST(UNIX_TIMESTAMP(at) AS CHAR) AS at FROM \`${table}\` ORDER BY id`
      )
    ).map(({ at }) => new Date(Math.round(Number(at) * 1000)).toISOString())

  /** Every quarter of an hour around both changes: in March 01:00 UTC is skipped, in October 00:00 UTC is doubled. */
  const CHANGES = [Date.UTC(2026, 2, 29), Date.UTC(2026, 9, 25)].flatMap((from) =>
    Array.from({ length: 16 }, (_, index) => new Date(from + index * 900_000 + 7))
  )
  const isoOf = (moments: ReadonlyArray<Date>) => moments.map((at) => at.toISOString())

  test("the server has a daylight saving time", async () => {
    const [zone] = await database.query<{ summer: string; winter: string }>(
      "SELECT FROM_UNIXTIME(1782907200) AS summer, FROM_UNIXTIME(1767268800) AS winter"
    )
    expect(zone).toMatchObject({ summer: "2026-07-01 14:00:00", winter: "2026-01-01 13:00:00" })
  })

  test("stores a Date in a TIMESTAMP exactly in hours that a clock change skips or doubles", async () => {
    const definition = dated("changes")
    await migrate(definition)
    for (const at of CHANGES) expect(await run(upload(definition, [{ at }]))).toEqual({ rejected: [] })
    expect(
      await run(
        upload(
          definition,
          CHANGES.map((at) => ({ at }))
        )
      )
    ).toEqual({ rejected: [] })
    expect(await momentsOf("changes")).toEqual(isoOf([...CHANGES, ...CHANGES]))
    // a time set by the server agrees with the rows of others
    await database.query("INSERT INTO changes (at) VALUES (NULL)")
    const [other] = await database.query<{ apart: number }>(
      "SELECT MAX(UNIX_TIMESTAMP(created_at)) - MIN(UNIX_TIMESTAMP(created_at)) AS apart FROM changes"
    )
    expect(Number(other?.apart)).toBeLessThan(1800)
  })

  test("keeps the time zone of two kinds that alternate on one session", async () => {
    const utc = dated("turns_utc")
    const local = Moment("turns_local", { at: Schema.String, moment: Schema.Date }, { at: TIMESTAMP })
    await migrate(utc, local)
    await database.query("ALTER TABLE turns_local ADD COLUMN made DATETIME DEFAULT CURRENT_TIMESTAMP")
    for (const at of CHANGES) {
      await run(upload(utc, [{ at }]))
      await run(upload(local, [{ at: "2026-07-01 12:00:00", moment: at }]))
    }
    expect(await momentsOf("turns_utc")).toEqual(isoOf(CHANGES))
    expect(new Set(await momentsOf("turns_local"))).toEqual(new Set(["2026-07-01T10:00:00.000Z"]))
    const rows = await database.query<{ moment: string; late: number }>(
      "SELECT moment, TIMESTAMPDIFF(SECOND, made, NOW()) AS late FROM turns_local ORDER BY id"
    )
    expect(rows.map(({ moment }) => moment)).toEqual(CHANGES.map(dateText))
    for (const { late } of rows) expect(late).toBeLessThan(1800)
  })

  /** Kinds that one session cannot write without shifting a time. */
  const REFUSED: ReadonlyArray<readonly [string, AuditEvent.Any, string?]> = [
    [
      "dates and texts into two TIMESTAMPs",
      Moment("refused_two", { at: Schema.Date, text: Schema.String }, { at: TIMESTAMP, text: TIMESTAMP })
    ],
    [
      "dates and texts into one TIMESTAMP",
      Moment("refused_one", { at: Schema.Union(Schema.Date, Schema.String) }, { at: TIMESTAMP })
    ],
    [
      "dates beside a DATETIME of the server's clock",
      dated("refused_default"),
      "made DATETIME DEFAULT CURRENT_TIMESTAMP"
    ]
  ]

  /** Columns beside a TIMESTAMP, and whether the server fills them by the session's clock. */
  const CLOCKS: Record<string, boolean> = {
    "DATETIME DEFAULT (NOW() - INTERVAL 1 DAY)": true,
    "DATETIME DEFAULT (FROM_UNIXTIME(1782907200))": true,
    "DATE DEFAULT (CURRENT_DATE)": true,
    "TIME DEFAULT (CURTIME())": true,
    "VARCHAR(30) DEFAULT (DATE_FORMAT(NOW(), '%H:%i'))": true,
    "INT DEFAULT (HOUR(LOCALTIME()))": true,
    "VARCHAR(30) AS (CAST(at AS CHAR)) STORED": true,
    "VARCHAR(30) AS (CAST(at AS CHAR)) VIRTUAL": false,
    "VARCHAR(30) AS (CONCAT('at ', mark)) STORED": false,
    "VARCHAR(30) AS (REPLACE(mark, 'at', 'the `at`')) STORED": false,
    "INT AS (at IS NULL) STORED": false,
    "INT AS (at IS NOT NULL AND mark <> 'at') STORED": false,
    "VARCHAR(30) AS (IF(at IS NULL, '', CAST(at AS CHAR))) STORED": true,
    "DATETIME DEFAULT (UTC_TIMESTAMP())": false,
    "BIGINT DEFAULT (UNIX_TIMESTAMP())": false,
    "TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP": false,
    "DATETIME DEFAULT '2026-01-01' ON UPDATE CURRENT_TIMESTAMP": false,
    "VARCHAR(30) DEFAULT 'from now on'": false
  }

  test.for(Object.entries(CLOCKS).map((clock, index) => [index, ...clock] as const))(
    "does not shift column %i, %s, beside dates in a TIMESTAMP",
    async ([index, column, isRefused]) => {
      const definition = dated(`clock_${index}`)
      await migrate(definition)
      await database.query(
        `ALTER TABLE clock_${index} ADD mark VARCHAR(9) DEFAULT 'at', ADD COLUMN made ${column}`
      )
      await run(
        Effect.scoped(
          Effect.gen(function* () {
            const fresh = yield* uploaderOf(yield* account(database, "INSERT"))
            const result = yield* Effect.either(upload(definition, [{ at: CHANGES[0] }], fresh))
            if (isRefused) expect(result).toMatchObject({ left: { class: "operator", code: "TIME_ZONE" } })
            else expect(result).toMatchObject({ right: { rejected: [] } })
          })
        )
      )
    }
  )

  test.for(REFUSED)(
    "refuses the kind by name unless the server is in UTC: %s",
    async ([_, definition, column]) => {
      await migrate(definition)
      if (column !== undefined) await database.query(`ALTER TABLE ${definition.table} ADD COLUMN ${column}`)
      const inputs = CHANGES.map((at) => ({ at, text: dateText(at) }))
      const error = await run(Effect.flip(upload(definition, inputs)))
      expect(error).toMatchObject({ class: "operator", code: "TIME_ZONE" })
      expect(error.reason).toContain(`The events ${definition.kind} write dates to TIMESTAMP columns`)
      expect(error.reason).toContain("(at)")
      expect(await database.query(`SELECT * FROM ${definition.table}`)).toEqual([])

      await database.query("SET GLOBAL time_zone = '+00:00'")
      try {
        await run(
          Effect.scoped(
            Effect.flatMap(uploaderOf(connectionOptions(database)), (fresh) =>
              upload(definition, inputs, fresh)
            )
          )
        )
      } finally {
        await database.query("SET GLOBAL time_zone = SYSTEM")
      }
      expect(await momentsOf(definition.table)).toEqual(isoOf(CHANGES))
    }
  )

  test("needs no time zone for texts in TIMESTAMPs and dates in DATETIMEs", async () => {
    const definition = Moment("harmless", { at: Schema.String, moment: Schema.Date }, { at: TIMESTAMP })
    await migrate(definition)
    await database.query("ALTER TABLE harmless ADD COLUMN made DATETIME DEFAULT CURRENT_TIMESTAMP")
    await run(
      upload(
        definition,
        CHANGES.map((moment) => ({ at: "2026-01-01 12:00:00", moment }))
      )
    )
    expect(new Set(await momentsOf("harmless"))).toEqual(new Set(["2026-01-01T11:00:00.000Z"]))
    const rows = await database.query<{ moment: string }>("SELECT moment FROM harmless ORDER BY id")
    expect(rows.map(({ moment }) => moment)).toEqual(CHANGES.map(dateText))
  })

  test("needs INSERT and no other right", async () => {
    const definition = dated("insert_only")
    await migrate(definition)
    await run(
      Effect.scoped(
        Effect.gen(function* () {
          const options = yield* account(database, "INSERT")
          const uploader = yield* uploaderOf(options)
          yield* upload(
            definition,
            CHANGES.map((at) => ({ at })),
            uploader
          )
        })
      )
    )
    expect(await momentsOf("insert_only")).toEqual(isoOf(CHANGES))
  })
})
