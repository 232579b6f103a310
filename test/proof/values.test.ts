/**
 * Sealed values: the line, the driver's row and the database's text of an event give one leaf. This holds for every
 * type that `migrate` makes, and every column that it accepts, on each database.
 */
import { Effect, Either, Schema, Scope, Exit } from "effect"
import fc from "fast-check"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { v7 } from "uuid"
import { afterAll, assert, beforeAll, describe, expect, test } from "vitest"
import { createClient } from "@libsql/client"
import { pathToFileURL } from "node:url"
import { keeperOf as mysqlKeeperOf, provable } from "../../src/internal/database/mysql/provable.js"
import { numberText } from "../../src/internal/database/provable.js"
import { open } from "../../src/internal/database/mysql/connection.js"
import { endpointsOf } from "../../src/internal/database/mysql/endpoints.js"
import { selectRows } from "../../src/internal/database/mysql/seals.js"
import { columnsOf, type Column } from "../../src/internal/database/mysql/table.js"
import { type Keepers, prove, withProof } from "../../src/internal/database/proven.js"
import { open as openSqliteFile } from "../../src/internal/database/sqlite/connection.js"
import { provable as sqliteProvable } from "../../src/internal/database/sqlite/provable.js"
import { typesOf } from "../../src/internal/database/sqlite/proofMigration.js"
import { selectRows as selectSqliteRows } from "../../src/internal/database/sqlite/seals.js"
import { erasableHash, leafOf, type Manifest, saltAt } from "../../src/internal/proof/row.js"
import { decodeEntries } from "../../src/internal/proof/seal.js"
import type { ShownRow } from "../../src/internal/proof/verify.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { compile, type SqlValue, type StoredEvent } from "../../src/schema/Line.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { freshDatabase, type TestDatabase } from "../support/database.js"
import { connectionOptions } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"

const SEED = Number(process.env.AUDIT_SEED ?? 20_261_130)
console.log(`proof values: AUDIT_SEED=${SEED}`)
const RUNS = process.env.AUDIT_LONG === undefined ? 30 : 1000

const FIELDS = {
  text: AuditEvent.optional(Schema.String),
  literal: AuditEvent.optional(Schema.Literal("a", "B", "é")),
  whole: AuditEvent.optional(Schema.Int),
  number: AuditEvent.optional(Schema.Number),
  flag: AuditEvent.optional(Schema.Boolean),
  moment: AuditEvent.optional(Schema.Date),
  big: AuditEvent.optional(Schema.BigInt),
  mixed: AuditEvent.optional(Schema.Union(Schema.String, Schema.Number, Schema.Boolean)),
  list: AuditEvent.optional(Schema.Array(Schema.String)),
  short: AuditEvent.optional(Schema.String),
  tiny: AuditEvent.optional(Schema.String),
  latin: AuditEvent.optional(Schema.String),
  sorted: AuditEvent.optional(Schema.String),
  rounded: AuditEvent.optional(Schema.Number),
  clock: AuditEvent.optional(Schema.String),
  clock6: AuditEvent.optional(Schema.String),
  moment6: AuditEvent.optional(Schema.Date)
}

class Everything extends AuditEvent.Class<Everything>()("everything", {
  table: "everything",
  fields: FIELDS,
  columns: {
    short: { type: "VARCHAR(8) NULL" },
    tiny: { type: "TINYTEXT NULL" },
    latin: { type: "VARCHAR(40) CHARACTER SET latin1 NULL" },
    sorted: { name: 'sorted `by" case', type: "VARCHAR(40) COLLATE utf8mb4_general_ci NULL" },
    rounded: { type: "BIGINT NULL" },
    clock: { type: "DATETIME NULL" },
    clock6: { type: "DATETIME(6) NULL" },
    moment6: { type: "DATETIME(6) NULL" }
  }
}) {}

const MANIFEST: Manifest = {
  kind: Everything.kind,
  table: Everything.table,
  columns: Everything.columns.map(({ name }) => name),
  erasable: ["text", "short", "number"]
}

const HOSTILE = [
  ...[
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
    "a\0b",
    "\x1a",
    "\r\n\t\b",
    "?",
    "--",
    "NULL"
  ],
  ...[
    "0",
    "-0",
    "007",
    "1e3",
    "true",
    "A",
    "a",
    "é",
    "e\u0301",
    "ß",
    "ss",
    "红狐狸",
    "👩‍💻",
    "\u{10ffff}",
    "\ufeff"
  ],
  ...[
    "\ud800",
    "\udfff x",
    "\u00a0",
    "x".repeat(300),
    `x${" ".repeat(300)}`,
    `x${" \t\n".repeat(100)}`,
    " ".repeat(300)
  ],
  ...[
    "2026-03-29 02:30:00",
    "2026-01-31",
    "2026-01-31T08:00",
    "2026-01-31T08:00:00.120",
    "2026-01-31 08:00:00.1234567"
  ],
  ...[
    "0000-00-00 00:00:00",
    "2026-01-31T08:00:00Z",
    "20260131",
    "26-1-1",
    "2026-01-31 08:00:00.999999",
    "2026-02-31"
  ],
  ..."0123456789".split(""),
  "\u0080\u0081\u009f\u00ff"
]

const text = fc.oneof(
  { weight: 2, arbitrary: fc.constantFrom(...HOSTILE) },
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.string({ unit: "grapheme", maxLength: 12 })
)
const number = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(
    -0,
    0,
    5e-324,
    -5e-324,
    0.1 + 0.2,
    1e15,
    1e16,
    123456789012345.6,
    1e-14,
    1e-15,
    1e-16,
    2 ** 53,
    2 ** 60
  ),
  fc.constantFrom(
    1.7976931348623157e308,
    0.5,
    1.5,
    2.5,
    -2.5,
    1e21,
    123456789.12345679,
    -1e100,
    4294967295,
    1e14
  )
)
const time = fc.oneof(
  { weight: 1, arbitrary: text },
  {
    weight: 20,
    arbitrary: fc
      .date({ noInvalidDate: true, min: new Date("1000-01-01"), max: new Date("9999-12-31T23:59:59.999Z") })
      .map((date) => date.toISOString().replace("T", " ").slice(0, 19))
  }
)
const date = fc.date({
  noInvalidDate: true,
  min: new Date("1000-01-01"),
  max: new Date("9999-12-31T23:59:59.999Z")
})
const whole = fc.oneof(
  fc.maxSafeInteger(),
  fc.constantFrom(0, -1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER)
)
/** fitting values, and now and then one that may not fit */
const mostly = (fitting: fc.Arbitrary<string>) =>
  fc.oneof({ weight: 20, arbitrary: fitting }, { weight: 1, arbitrary: text })
const optional = <A>(values: fc.Arbitrary<A>) => fc.option(values, { freq: 6 })

const input = fc.record({
  text: optional(text),
  literal: optional(fc.constantFrom("a" as const, "B" as const, "é" as const)),
  whole: optional(whole),
  number: optional(number),
  flag: optional(fc.boolean()),
  moment: optional(date),
  big: optional(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n)),
  mixed: optional(fc.oneof(text, number, fc.boolean())),
  list: optional(fc.array(text, { maxLength: 3 })),
  short: optional(mostly(fc.string({ unit: "binary", maxLength: 4 }))),
  tiny: optional(mostly(fc.string({ unit: "binary", maxLength: 40 }))),
  latin: optional(
    mostly(fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) }))
  ),
  sorted: optional(mostly(fc.string({ unit: "grapheme", maxLength: 10 }))),
  rounded: optional(number),
  clock: optional(time),
  clock6: optional(time),
  moment6: optional(date)
})

/** The events as read from lines. */
const eventsOf = (inputs: ReadonlyArray<unknown>): ReadonlyArray<StoredEvent> =>
  inputs.map((input, index) => {
    const codec = compile(Everything)
    const eventId = v7()
    const line = Either.getOrThrow(codec.encode(input, eventId, 1_790_000_000_000 + index))
    const parsed = JSON.parse(line) as Record<string, unknown>
    const row = Either.getOrThrowWith(codec.row(parsed), (issues) => new Error(JSON.stringify(issues)))
    return { definition: Everything, eventId, time: 1_790_000_000_000 + index, row, line: parsed }
  })

/** Uploads events with their salts, checks that each stored row has its sealed leaf, and returns their number. */
const compare = (
  upload: Uploader["Type"]["upload"],
  keepers: Keepers,
  select: (where: string) => Effect.Effect<ReadonlyArray<ShownRow>, unknown>,
  inputs: ReadonlyArray<unknown>
) =>
  Effect.gen(function* () {
    const given = eventsOf(inputs)
    const { entries, events, places, refused, salts } = prove(Everything, MANIFEST, keepers, given)
    const sealed = decodeEntries(entries)!
    const rejected = new Set<number>()
    // one by one: a table that refuses most events counts as drifted
    for (const [index, event] of events.entries()) {
      const result = yield* upload({
        definition: withProof(Everything),
        // no event has bytes as a value, but drivers take them
        events: [
          { ...event, row: [...event.row, saltAt(salts, index) as unknown as SqlValue], retried: true }
        ]
      })
      if (result.rejected.length > 0) rejected.add(index)
    }
    let rows = 0
    for (const [index, event] of events.entries()) {
      const found = yield* select(`event_id = x'${event.eventId.replaceAll("-", "")}'`)
      if (rejected.has(index)) {
        assert.lengthOf(found, 0)
        continue
      }
      const [row] = found
      assert.isDefined(row)
      const sent = event.row.map((value, i) => keepers.columns[i]!.textOf(value))
      assert.deepStrictEqual(
        row.values,
        sent,
        JSON.stringify(inputs[places[index]!], (_, v: unknown) => (typeof v === "bigint" ? String(v) : v))
      )
      assert.isFalse(row.isStrange)
      assert.strictEqual(row.proof?.length, 16)
      const leaf = leafOf(MANIFEST, row, erasableHash(MANIFEST, row, row.proof!))
      assert.deepStrictEqual(leaf, sealed[index]!.leaf)
      rows++
    }
    // only the form of a time can be unpredictable
    for (const { reason } of refused) assert.match(reason, /in which form clock6?(?:, clock6?)* of /)
    return rows
  })

const check = (run: (inputs: ReadonlyArray<unknown>) => Promise<number>) => async () => {
  let rows = 0
  await fc.assert(
    fc.asyncProperty(fc.array(input, { minLength: 20, maxLength: 20 }), async (inputs) => {
      rows += await run(inputs)
    }),
    { seed: SEED, numRuns: RUNS, endOnFailure: process.env.CI !== undefined }
  )
  console.log(`proof values: ${rows} rows compared`)
  expect(rows).toBeGreaterThan(10 * RUNS)
  // one hostile value at a time: no other value makes the database refuse the row
  for (const field of Object.keys(FIELDS) as ReadonlyArray<keyof typeof FIELDS>) {
    const isText = ["text", "mixed", "short", "tiny", "latin", "sorted", "clock", "clock6"].includes(field)
    if (isText) await run(HOSTILE.map((value) => ({ [field]: value })))
  }
}

onEachServer("a sealed value", ({ rootUrl }) => {
  let database: TestDatabase
  let scope: Scope.CloseableScope
  beforeAll(async () => {
    database = await freshDatabase(rootUrl)
    scope = await Effect.runPromise(Scope.make())
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    await database.drop()
  })

  test("gives a line, its row and its text one leaf", async () => {
    const options = connectionOptions(database)
    await Effect.runPromise(MysqlUploader.migrate(options, [Everything], { proof: true }))
    const { keepers, present, session, uploader } = await Effect.runPromise(
      Effect.gen(function* () {
        const [endpoint] = yield* endpointsOf(options)
        const session = yield* open(endpoint)
        const present = yield* columnsOf(session, "everything")
        const found = provable(Everything, "everything", present)
        return {
          session,
          present,
          keepers: Either.getOrThrow(found),
          uploader: yield* MysqlUploader.make(options)
        }
      }).pipe(Scope.extend(scope))
    )
    await check((inputs) =>
      Effect.runPromise(
        compare(uploader.upload, keepers, (where) => selectRows(session, MANIFEST, present, where), inputs)
      )
    )()
  })

  test("predicts how the server prints numbers", async () => {
    await database.query("CREATE TABLE numbers (id INT PRIMARY KEY, n DOUBLE)")
    const numbers = fc.sample(number, { seed: SEED, numRuns: 2000 }).map((n) => n + 0)
    await database.query("INSERT INTO numbers VALUES ?", [numbers.map((n, index) => [index, String(n)])])
    const rows = await database.query<{ text: string }>(
      "SELECT CAST(n AS CHAR) AS text FROM numbers ORDER BY id"
    )
    // servers switch to an exponent at different sizes
    expect(rows.map(({ text }) => numberText(Number(text)))).toEqual(numbers.map(numberText))
    const plain = rows.filter((_, index) => Math.abs(numbers[index]!) > 0.001)
    expect(plain.map(({ text }) => text)).toEqual(numbers.filter((n) => Math.abs(n) > 0.001).map(numberText))
  })
})

describe("a sealed value (SQLite)", () => {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-proof-"))
  const filename = path.join(home, "audit.db")
  afterAll(() => fs.rmSync(home, { recursive: true }))

  test("gives a line, its row and its text one leaf", async () => {
    const client = createClient({ url: pathToFileURL(filename).href })
    await Effect.runPromise(
      Effect.gen(function* () {
        yield* SqliteUploader.migrateProof({ filename }, [Everything])
        const uploader = yield* SqliteUploader.make({ filename })
        const connection = yield* openSqliteFile(filename, [])
        const types = yield* typesOf(connection, "everything")
        const columns = Either.getOrThrow(sqliteProvable(Everything, "everything", types))
        const keepers = { eventTime: columns[0]!, columns }
        yield* Effect.promise(
          check((inputs) =>
            Effect.runPromise(
              compare(
                uploader.upload,
                keepers,
                (where) => selectSqliteRows(connection, MANIFEST, where),
                inputs
              )
            )
          )
        )
      }).pipe(Effect.scoped)
    )
    client.close()
  })
})

describe("a column that changes its values", () => {
  const column = (declared: string, charset: string | null = null): Column => ({
    charset,
    type: /^[a-z0-9]+/.exec(declared)![0],
    standard: null,
    extra: "",
    expression: null,
    length: Number(/\((\d+)\)/.exec(declared)?.[1] ?? 65535),
    nullable: "YES",
    rights: "insert,select",
    declared
  })
  test.each([
    ...[
      "char(8)",
      "enum('a')",
      "set('a')",
      "uuid",
      "inet6",
      "inet4",
      "float",
      "decimal(10,2)",
      "date",
      "time",
      "year"
    ],
    ...[
      "timestamp",
      "timestamp(6)",
      "binary(8)",
      "varbinary(8)",
      "blob",
      "json",
      "bit(8)",
      "geometry",
      "double(10,2)"
    ],
    ...["int(5) unsigned zerofill", "vector(3)", "datetime(2)"]
  ])("is refused: %s", (declared) => {
    for (const storage of ["text", "integer", "number", "boolean", "dateTime"] as const) {
      if (declared === "datetime(2)" && storage === "text") continue
      const found = mysqlKeeperOf(
        column(declared, /^(?:char|enum|set)/.test(declared) ? "utf8mb4" : null),
        storage
      )
      expect(Either.isLeft(found), storage).toBe(true)
    }
  })
  test.each([
    ["varchar(8)", "sjis"],
    ["longtext", "gbk"]
  ])("is refused: %s in %s", (declared, charset) => {
    expect(Either.isLeft(mysqlKeeperOf(column(declared, charset), "text"))).toBe(true)
  })
  test("is refused: a text in a numeric column", () => {
    for (const declared of ["int", "bigint", "double"])
      expect(Either.isLeft(mysqlKeeperOf(column(declared), "text")), declared).toBe(true)
  })
})
