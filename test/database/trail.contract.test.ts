/**
 * The contract of every Trail: it finds each delivered event exactly, in order, and once.
 *
 * @module
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, FastCheck as fc, Option, Schema, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import { inspect } from "node:util"
import { v7 } from "uuid"
import { AuditEvent, type Condition } from "effect-audit"
import { textOf } from "../../src/schema/EventId.js"
import { compile, type StoredEvent } from "../../src/schema/Line.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { fill, useLine } from "../support/cli.js"
import { stored, use } from "../support/events.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachServer } from "../support/servers.js"
import { all, mysqlTarget, type ReadTarget, sqliteTarget } from "../support/trail.js"

const FIELDS = {
  /** A text under a collation that treats many different texts as equal. */
  name: AuditEvent.optional(Schema.String),
  note: AuditEvent.optional(Schema.String),
  whole: AuditEvent.optional(Schema.Int),
  ratio: AuditEvent.optional(Schema.Number),
  big: AuditEvent.optional(Schema.BigInt),
  isOpen: AuditEvent.optional(Schema.Boolean),
  at: AuditEvent.optional(Schema.Date),
  state: AuditEvent.optional(Schema.Literal("open", "closed")),
  digits: AuditEvent.optional(Schema.Number),
  tags: AuditEvent.optional(Schema.Array(Schema.String))
}

class Doc extends AuditEvent.Class<Doc>()("doc", {
  table: "docs",
  fields: FIELDS,
  columns: {
    name: { type: "VARCHAR(200) COLLATE utf8mb4_general_ci NULL" },
    digits: { type: "VARCHAR(40) NULL" },
    big: { type: "DECIMAL(40) NULL" }
  },
  indexes: [["name"]]
}) {}

/** The same table, read by a program with stricter fields. */
class Strict extends AuditEvent.Class<Strict>()("strict", {
  table: "docs",
  fields: { ...FIELDS, name: Schema.String.pipe(Schema.minLength(3)), whole: Schema.Int },
  columns: { digits: "digits" }
}) {}

const T0 = Date.UTC(2026, 0, 31, 8)

const randomId = () => textOf(randomBytes(16))

const doc = (input: AuditEvent.InputOf<typeof Doc>, time = T0, eventId = v7()) =>
  stored(Doc, input, { time, eventId })

/** The recorded fields, as they are in a line. */
const lineOf = (event: object) =>
  Either.getOrThrow(compile(Doc).encode(event, "01890a5d-ac96-774b-bcce-b302099a8057", T0))

const sorted = (events: ReadonlyArray<StoredEvent>) =>
  [...events]
    .sort((a, b) => a.time! - b.time! || (a.eventId < b.eventId ? -1 : 1))
    .map(({ eventId }) => eventId)

const idsOf = (found: ReadonlyArray<{ readonly eventId: string | null }>) =>
  found.map(({ eventId }) => eventId)

const texts = fc.oneof(
  fc.constantFrom(
    "",
    " ",
    "a",
    "A",
    "a ",
    "a\0",
    "ä",
    "å",
    "e\u0301",
    "é",
    "ss",
    "ß",
    "%",
    "_",
    "\\",
    "'",
    '"',
    "|"
  ),
  fc.constantFrom("a%", "ab", "aB", "a_b", "🦊", "\uffff", "狐", "x".repeat(150), "NULL", "1", "0x1"),
  fc.string({ unit: "binary", maxLength: 12 })
)

const inputs = fc.record({
  name: fc.option(texts),
  note: fc.option(texts),
  whole: fc.option(fc.oneof(fc.constantFrom(0, 1, -1), fc.maxSafeInteger())),
  ratio: fc.option(
    fc.oneof(
      fc.constantFrom(0, 0.1, 1e300, 5e-324, -1.5),
      fc.double({ noNaN: true, noDefaultInfinity: true })
    )
  ),
  big: fc.option(fc.constantFrom(0n, -1n, 2n ** 53n + 1n, 2n ** 62n, -(2n ** 63n))),
  isOpen: fc.option(fc.boolean()),
  at: fc.option(fc.integer({ min: 0, max: 4e12 }).map((millis) => new Date(millis))),
  state: fc.option(fc.constantFrom("open" as const, "closed" as const)),
  digits: fc.option(fc.oneof(fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true }))),
  tags: fc.option(fc.array(texts, { maxLength: 3 }))
})

const contract = (open: Effect.Effect<ReadTarget, unknown, Scope.Scope>) => {
  const test = <E>(what: string, body: (target: ReadTarget) => Effect.Effect<unknown, E, Scope.Scope>) =>
    it.scopedLive(what, () => Effect.flatMap(open, body))

  test("finds every event as it was recorded", ({ deliver, trail }) =>
    Effect.gen(function* () {
      const given = fc.sample(inputs, { numRuns: 400, seed: 20_261_130 })
      const events = given.map((input, index) => doc(input, T0 + index))
      yield* deliver(Doc, events)
      const found = yield* all(trail.find(Doc))
      assert.deepStrictEqual(idsOf(found), idsOf(events))
      found.forEach((it, index) => {
        assert.strictEqual(it._tag, "Event", inspect(it))
        if (it._tag !== "Event") return
        assert.instanceOf(it.event, Doc)
        assert.strictEqual(it.time.getTime(), T0 + index)
        const { line } = events[index]!
        const expected = Object.fromEntries(
          Object.entries(line).filter(([key]) => !["kind", "event_id", "ts"].includes(key))
        )
        const { event_id, kind, ts, ...fields } = JSON.parse(lineOf(it.event)) as Record<string, unknown>
        assert.deepStrictEqual([event_id, kind, ts].length, 3)
        assert.deepStrictEqual(
          fields,
          JSON.parse(
            JSON.stringify(expected)
              .toWellFormed()
              .replaceAll(/\\ud[89a-f][\da-f]{2}/g, "\ufffd")
          )
        )
      })
    }))

  test("pages over ties, clocks set back and ids that do not grow, in both orders", ({ deliver, trail }) =>
    Effect.gen(function* () {
      const events = Array.from({ length: 3000 }, (_, index) => {
        // Most events share a few milliseconds, and a clock is set back in the middle.
        const time = index < 1000 ? T0 + 5 : T0 + ((index * 7) % 4) - (index > 2000 ? 2 : 0)
        return doc({ whole: index }, time, index % 3 === 0 ? randomId() : v7())
      })
      yield* deliver(Doc, events)
      const expected = sorted(events)
      assert.deepStrictEqual(idsOf(yield* all(trail.find(Doc))), expected)
      assert.deepStrictEqual(
        idsOf(yield* all(trail.find(Doc, { order: "descending" }))),
        [...expected].reverse()
      )
      assert.deepStrictEqual(
        idsOf(yield* all(trail.find(Doc, { order: "descending", limit: 1234 }))),
        [...expected].reverse().slice(0, 1234)
      )
      const within = (from: number, to: number) =>
        sorted(events.filter(({ time }) => time! >= T0 + from && time! < T0 + to))
      for (const [from, to] of [
        [0, 3],
        [-2, 0],
        [5, 6],
        [3, 3],
        [9, 99]
      ] as const) {
        const query = { from: T0 + from, to: new Date(T0 + to) }
        assert.deepStrictEqual(idsOf(yield* all(trail.find(Doc, query))), within(from, to))
      }
      const seen: Array<number> = []
      yield* all(trail.find(Doc, { onProgress: ({ found }) => Effect.sync(() => void seen.push(found)) }))
      assert.isAbove(seen.length, 1)
      assert.strictEqual(seen.at(-1), 3000)
      assert.deepStrictEqual(idsOf(yield* all(trail.find(Doc, { limit: 0 }))), [])
      assert.strictEqual(yield* trail.count(Doc), 3000)
      assert.strictEqual(yield* trail.count(Doc, { where: { whole: { from: 2990 } } }), 10)

      for (const order of ["ascending", "descending"] as const) {
        const [all500, next] = [
          yield* all(trail.find(Doc, { order, limit: 500 })),
          order === "ascending" ? expected : [...expected].reverse()
        ]
        const { eventId, time } = all500.at(-1)!
        const rest = yield* all(trail.find(Doc, { order, after: { eventId, time }, limit: 700 }))
        assert.deepStrictEqual(idsOf(rest), next.slice(500, 1200))
      }
    }))

  test("finds exactly what was searched for, whatever the collation", ({ deliver, trail }) =>
    Effect.gen(function* () {
      const given = fc
        .sample(inputs, { numRuns: 500, seed: 7 })
        .map((input) => ({ ...input, digits: input.whole }))
      const events = given.map((input, index) => doc(input, T0 + index))
      yield* deliver(Doc, events)
      const rows = given.map((input, index) => ({ input, eventId: events[index]!.eventId }))
      const bytes = (text: string) => Buffer.from(text.toWellFormed())

      const check = <F extends keyof typeof FIELDS>(
        field: F,
        condition: Condition<string | number | bigint | boolean | Date>,
        fits: (value: NonNullable<(typeof given)[number][F]> | null) => boolean
      ) =>
        Effect.gen(function* () {
          const found = yield* all(trail.find(Doc, { where: { [field]: condition } }))
          const places = new Map(events.map(({ eventId }, index) => [eventId, index]))
          assert.deepStrictEqual(
            found.map(({ eventId }) => places.get(eventId)),
            rows.flatMap(({ input }, index) => (fits(input[field] ?? null) ? [index] : [])),
            `${field}: ${inspect(condition)}`
          )
        })

      const values = [
        "a",
        "A",
        "a ",
        "a\0",
        "ä",
        "ß",
        "%",
        "\\",
        "'",
        "",
        " ",
        "a_b",
        "🦊",
        "nowhere",
        "\ud83e"
      ]
      for (const field of ["name", "note"] as const) {
        for (const value of values) {
          yield* check(field, value, (it) => it !== null && bytes(it).equals(bytes(value)))
          yield* check(field, { prefix: value } as never, (it) => {
            if (it === null) return false
            const prefix = bytes(value)
            return bytes(it).subarray(0, prefix.length).equals(prefix)
          })
          yield* check(
            field,
            { from: "a", to: value },
            (it) => it !== null && bytes(it).compare(bytes("a")) >= 0 && bytes(it).compare(bytes(value)) < 0
          )
        }
        yield* check(
          field,
          { in: values },
          (it) => it !== null && values.some((value) => bytes(it).equals(bytes(value)))
        )
        yield* check(field, { in: [] }, () => false)
        yield* check(field, null, (it) => it === null)
      }
      for (const field of ["whole", "digits"] as const) {
        for (const value of [0, 1, -1, given.find(({ whole }) => Math.abs(whole ?? 0) > 1e6)!.whole!]) {
          yield* check(field, value, (it) => it === value)
          // compared as a number, a text loses digits beyond 2^53
          yield* check(field, { from: value }, (it) => it !== null && it >= value)
        }
      }
      yield* check(
        "ratio",
        { in: [0.1, 1e300, -1.5] },
        (it) => it !== null && [0.1, 1e300, -1.5].includes(it)
      )
      yield* check("ratio", { from: -2, to: 0.1 }, (it) => it !== null && it >= -2 && it < 0.1)
      yield* check("big", 2n ** 53n + 1n, (it) => it === 2n ** 53n + 1n)
      yield* check("isOpen", true, (it) => it === true)
      yield* check("isOpen", { in: [false] }, (it) => it === false)
      const at = given.find((input) => input.at !== null)!.at!
      yield* check("at", at, (it) => it?.getTime() === at.getTime())
      yield* check("at", { from: at }, (it) => it !== null && it >= at)
      yield* check("state", "open", (it) => it === "open")

      const both = yield* all(trail.find(Doc, { where: { name: "a", isOpen: true }, order: "descending" }))
      assert.deepStrictEqual(
        idsOf(both),
        rows
          .flatMap(({ eventId, input }) => (input.name === "a" && input.isOpen === true ? [eventId] : []))
          .reverse()
      )
    }))

  test("reports rows that do not fit the kind any more, and continues after them", ({ deliver, trail }) =>
    Effect.gen(function* () {
      const events = Array.from({ length: 300 }, (_, index) =>
        doc(
          { name: index % 3 === 0 ? "x" : "long enough", whole: index % 5 === 0 ? null : index },
          T0 + index
        )
      )
      yield* deliver(Doc, events)
      const found = yield* all(trail.find(Strict))
      assert.deepStrictEqual(idsOf(found), idsOf(events))
      found.forEach((it, index) => {
        const issues = [...(index % 3 === 0 ? ["name"] : []), ...(index % 5 === 0 ? ["whole"] : [])]
        assert.strictEqual(it._tag, issues.length === 0 ? "Event" : "UnfitRow")
        if (it._tag === "Event") return
        assert.deepStrictEqual(
          it.issues.map(({ field }) => field),
          issues
        )
        assert.strictEqual(it.raw.name, index % 3 === 0 ? "x" : "long enough")
      })
    }))

  test("leaves rows without a time or an id to a separate search", ({ deliver, execute, trail }) =>
    Effect.gen(function* () {
      const events = Array.from({ length: 200 }, (_, index) => doc({ whole: index }, T0 + index))
      yield* deliver(Doc, events)
      const untimed = { ...doc({ name: "untimed" }), time: null }
      yield* deliver(Doc, [untimed])
      for (let n = 0; n < 300; n++) yield* execute(`INSERT INTO docs (name, whole) VALUES ('old', ${n})`)
      assert.deepStrictEqual(idsOf(yield* all(trail.find(Doc))), idsOf(events))
      const found = yield* all(trail.withoutTime(Doc))
      assert.deepStrictEqual(
        found.map((it) => [it.eventId, it._tag === "Event" ? it.event.whole : undefined]),
        [[untimed.eventId, null], ...Array.from({ length: 300 }, (_, n) => [null, n])]
      )
      assert.isNull(found[0]!.time)
      const last = yield* all(
        trail.withoutTime(Doc, { where: { name: "old" }, order: "descending", limit: 2 })
      )
      assert.deepStrictEqual(
        last.map((it) => (it._tag === "Event" ? it.event.whole : undefined)),
        [299, 298]
      )
    }))

  test("reads tables without a suitable index", ({ deliver, execute, trail }) =>
    Effect.gen(function* () {
      const events = Array.from({ length: 500 }, (_, index) =>
        doc({ whole: index }, T0 + (index % 9), randomId())
      )
      yield* deliver(Doc, events)
      yield* execute("CREATE TABLE bare AS SELECT * FROM docs")
      yield* execute("DROP TABLE docs")
      yield* execute("ALTER TABLE bare RENAME TO docs")
      assert.deepStrictEqual(idsOf(yield* all(trail.find(Doc))), sorted(events))
      const odd = yield* all(trail.find(Doc, { where: { whole: { in: [1, 3] } } }))
      assert.lengthOf(odd, 2)
    }))

  test("says where an event is: delivered, waiting, a dead letter, or nowhere", ({
    deliver,
    execute,
    other
  }) =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const trail = yield* other({ directory: `${directory}/audit`, events: [UseLog, Doc] })
      const delivered = use({ prompt: "delivered" })
      yield* deliver(UseLog, [delivered])
      const [dead, waiting] = [useLine({ prompt: "dead" }), useLine({ prompt: "waiting" })]
      yield* fill(`${directory}/audit`, [dead, waiting], [{ class: "rejected", reason: "Data too long" }])

      const here = Option.getOrThrow(yield* trail.get(delivered.eventId))
      assert.strictEqual(here._tag, "Delivered")
      const typed = Option.getOrThrow(yield* trail.get(UseLog, delivered.eventId.toUpperCase()))
      assert.isTrue(
        typed._tag === "Delivered" && typed.found._tag === "Event" && typed.found.event.prompt === "delivered"
      )
      const there = Option.getOrThrow(yield* trail.get(waiting.eventId))
      assert.isTrue(there._tag === "Waiting" && there.line.prompt === "waiting")
      const refused = Option.getOrThrow(yield* trail.get(dead.eventId))
      assert.isTrue(refused._tag === "DeadLetter")
      assert.deepInclude(refused, { letter: "0:0", code: "1406", class: "rejected" })
      assert.isTrue(Option.isNone(yield* trail.get(v7())))
      assert.isTrue(
        Option.isNone(
          yield* trail.get(Doc, delivered.eventId).pipe(Effect.catchAll(() => Effect.succeedNone))
        )
      )
      for (const id of ["12", undefined, null, 7, {}, Symbol("id")]) {
        const misused = yield* Effect.flip(trail.get(id as string))
        assert.strictEqual(misused.code, "QUERY")
      }

      // If the table is missing, then only the events of the queue are known.
      yield* execute(`DROP TABLE ${UseLog.table}`)
      const own = (eventId: string) => trail.get(UseLog, eventId)
      assert.strictEqual(Option.getOrThrow(yield* own(waiting.eventId))._tag, "Waiting")
      assert.strictEqual(Option.getOrThrow(yield* own(dead.eventId))._tag, "DeadLetter")
      assert.strictEqual((yield* Effect.flip(own(delivered.eventId))).code, "1146")
    }))

  test("refuses a meaningless search", ({ deliver, trail }) =>
    Effect.gen(function* () {
      yield* deliver(Doc, [doc({})])
      const failing = (query: object) => Effect.flip(all(trail.find(Doc, query)))
      for (const [query, reason] of [
        [{ where: { nome: "a" } }, "no field nome"],
        [{ where: { tags: "a" } }, "tags is no text"],
        [{ where: { whole: {} } }, "is none"],
        [{ where: { whole: 1.5 } }, "cannot have"],
        [{ from: "yesterday" }, "`from` is no time"]
      ] as const) {
        const error = yield* failing(query)
        assert.include(error.message, reason)
        assert.strictEqual(error.class, "operator")
      }
    }))

  test("names the missing table or right", ({ deliver, other, trail }) =>
    Effect.gen(function* () {
      yield* deliver(Doc, [doc({})])
      const elsewhere = yield* other({ tables: { doc: "nowhere" } })
      assert.include((yield* Effect.flip(all(elsewhere.find(Doc)))).message, "no table nowhere")
      class Wide extends AuditEvent.Class<Wide>()("wide", {
        table: "docs",
        fields: { ...FIELDS, more: Schema.String }
      }) {}
      assert.include((yield* Effect.flip(all(trail.find(Wide)))).message, "no column more")
    }))
}

onEachServer("Trail: mysql", ({ rootUrl }) => contract(mysqlTarget(rootUrl, [UseLog, Doc])))
describe("Trail: sqlite", () => contract(sqliteTarget))
