/** The walk through a table: it finds each row once, whatever a statement costs. */
import { assert, it } from "@effect/vitest"
import { Chunk, Effect, FastCheck as fc, identity, Stream } from "effect"
import {
  eachRow,
  type Key,
  Made,
  ReadRow,
  TooMuch,
  walk,
  type Walkable
} from "../../src/internal/database/walk.js"
import { TrailError } from "../../src/schema/Errors.js"

const error = new TrailError({ class: "transient", code: "3024", reason: "too slow" })

interface Table {
  readonly times: ReadonlyArray<number>
  /** One in so many rows matches. */
  readonly every: number
  /** A statement that looks at more rows fails. */
  readonly mostRows: number
  /** A page of more rows fails. */
  readonly mostFound: number
  readonly hasConditions: boolean
}

/** A table in memory, whose statements cost the rows that they look at. */
const tableOf = ({ every, hasConditions, mostFound, mostRows, times }: Table) => {
  const rows = times
    .map((time, index) => ({ time, id: String(index).padStart(8, "0"), fits: index % every === 0 }))
    .sort((a, b) => a.time - b.time || (a.id < b.id ? -1 : 1))
  const keyOf = ({ id, time }: (typeof rows)[number]): Key => [String(time), id]
  const places = new Map(rows.map((row, index) => [keyOf(row).join(), index]))
  const placeOf = (key: Key | undefined) => (key === undefined ? -1 : places.get(key.join())!)
  let statements = 0
  const examined = (count: number) =>
    Effect.suspend(() => {
      statements++
      return count > mostRows ? new TooMuch({ what: "slow", error }) : Effect.void
    })
  const table: Walkable = {
    hasConditions,
    start: undefined,
    noWindows: undefined,
    timeOf: ([time]) => Number(time),
    page: ({ after, limit, upTo }, collect) =>
      Effect.gen(function* () {
        const from = placeOf(after) + 1
        const to = upTo === undefined ? rows.length : placeOf(upTo) + 1
        const { add, result } = collect()
        let count = 0
        let last: Key | undefined
        let size = 0
        let at = from
        for (; at < to && count < limit; at++) {
          const row = rows[at]!
          if (!hasConditions || row.fits) {
            last = keyOf(row)
            size += row.time % 7
            count++
            add(new ReadRow(row.id, row.time, ["x".repeat(row.time % 7)]))
          }
        }
        yield* examined(at - from)
        if (count > mostFound) return yield* new TooMuch({ what: "large", error })
        return new Made(result(), count, last, size)
      }),
    // by the index alone, at almost no cost
    ahead: (after, count) =>
      Effect.sync(() => {
        const row = rows[placeOf(after) + count]
        return row === undefined ? undefined : keyOf(row)
      })
  }
  const expected = rows.filter(({ fits }) => !hasConditions || fits).map(({ id }) => id)
  return { expected, statements: () => statements, table }
}

const tables: fc.Arbitrary<Table> = fc.record({
  times: fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 600 }),
  every: fc.integer({ min: 1, max: 50 }),
  mostRows: fc.integer({ min: 1, max: 300 }),
  mostFound: fc.integer({ min: 1, max: 300 }),
  hasConditions: fc.boolean()
})

it.effect("the walk takes few pages if each of them reads the whole table", () =>
  Effect.gen(function* () {
    const pagesOf = (noWindows: TrailError | undefined) =>
      Effect.gen(function* () {
        const { expected, statements, table } = tableOf({
          times: Array.from({ length: 100_000 }, (_, index) => index),
          every: 1,
          mostRows: Number.POSITIVE_INFINITY,
          mostFound: Number.POSITIVE_INFINITY,
          hasConditions: false
        })
        const walked = walk(
          { ...table, noWindows },
          { limit: Number.POSITIVE_INFINITY, onProgress: () => Effect.void },
          eachRow(identity)
        )
        assert.strictEqual(yield* Stream.runCount(walked), expected.length)
        return statements()
      })
    assert.isAbove(yield* pagesOf(undefined), 90)
    assert.isBelow(yield* pagesOf(error), 15)
  })
)

it("the walk finds each row once, in order, with any bound on statements", () =>
  fc.assert(
    fc.asyncProperty(tables, fc.option(fc.integer({ min: 0, max: 700 })), (given, most) =>
      Effect.gen(function* () {
        const { expected, table } = tableOf(given)
        const limit = most ?? Number.POSITIVE_INFINITY
        const found = yield* Stream.runCollect(
          walk(table, { limit, onProgress: () => Effect.void }, eachRow(identity))
        )
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(found).map(({ eventId }) => eventId),
          expected.slice(0, limit)
        )
      }).pipe(Effect.runPromise)
    ),
    { numRuns: process.env.AUDIT_LONG === "1" ? 5000 : 300 }
  ))

it.effect("the walk makes progress, and reports it, if no row matches", () =>
  Effect.gen(function* () {
    const { table } = tableOf({
      // all in one millisecond
      times: Array.from({ length: 50_000 }, () => 7),
      every: 1_000_000,
      mostRows: 5000,
      mostFound: 1000,
      hasConditions: true
    })
    const seen: Array<number | null> = []
    yield* Stream.runDrain(
      walk(
        table,
        {
          limit: Number.POSITIVE_INFINITY,
          onProgress: (time) => Effect.sync(() => void seen.push(time))
        },
        eachRow(identity)
      )
    )
    assert.isAbove(seen.length, 10)
    assert.isNull(seen.at(-1))
    assert.isTrue(seen.slice(0, -1).every((time) => time === 7))
  })
)

it.effect("the walk asks once if an index knows the answer", () =>
  Effect.gen(function* () {
    const { statements, table } = tableOf({
      times: Array.from({ length: 50_000 }, (_, index) => index),
      every: 10_000,
      mostRows: 1_000_000,
      mostFound: 1000,
      hasConditions: true
    })
    const found = yield* Stream.runCollect(
      walk(table, { limit: 1000, onProgress: () => Effect.void }, eachRow(identity))
    )
    assert.strictEqual(found.length, 5)
    assert.strictEqual(statements(), 1)
  })
)

it.effect("the walk fails if one row is too much", () =>
  Effect.gen(function* () {
    const { table } = tableOf({ times: [1, 2], every: 1, mostRows: 100, mostFound: 0, hasConditions: false })
    const failure = yield* Effect.flip(
      Stream.runDrain(walk(table, { limit: 10, onProgress: () => Effect.void }, eachRow(identity)))
    )
    assert.strictEqual(failure.code, "3024")
  })
)
