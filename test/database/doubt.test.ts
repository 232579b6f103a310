import { assert, describe, it } from "@effect/vitest"
import { Effect, Either } from "effect"
import * as fc from "fast-check"
import { Doubted, makeDoubts } from "../../src/internal/database/doubt.js"
import { UploadError } from "../../src/schema/Errors.js"

/** A table in a database that refuses statements with an unknown code. */
class Database {
  readonly stored = new Set<number>()
  statements = 0

  constructor(
    /** The events that it refuses. */
    readonly bad: ReadonlySet<number>,
    /** Whether it refuses any statement, by the statement's number. */
    readonly isIll: (statement: number) => boolean,
    readonly isLikely: boolean,
    readonly isKnown = false,
    /** Events of {@link LARGE} bytes; all others have one byte. */
    readonly large: ReadonlySet<number> = new Set(),
    /** The connection breaks under a statement of more bytes. */
    readonly limit = Number.POSITIVE_INFINITY
  ) {}

  bytesOf(events: ReadonlyArray<number>): number {
    return events.reduce((bytes, event) => bytes + (this.large.has(event) ? LARGE : 1), 0)
  }

  insert(events: ReadonlyArray<number>): Effect.Effect<number, Doubted | UploadError> {
    return Effect.suspend((): Effect.Effect<number, Doubted | UploadError> => {
      if (this.bytesOf(events) > this.limit) return broken
      if (this.isIll(this.statements++) || events.some((event) => this.bad.has(event))) {
        return new Doubted({
          code: "31999",
          reason: "no",
          error,
          isLikely: this.isLikely,
          isKnown: this.isKnown
        })
      }
      const fresh = events.filter((event) => !this.stored.has(event))
      for (const event of fresh) this.stored.add(event)
      return Effect.succeed(fresh.length)
    })
  }
}

const LARGE = 10

const error = new UploadError({ class: "transient", code: "31999", reason: "unknown" })
const broken = new UploadError({ class: "transient", code: "ECONNRESET", reason: "the connection is gone" })

interface Pass {
  readonly failure: UploadError | undefined
  readonly statements: number
}

/** A queue that is delivered pass by pass, in batches; after a failure that asks for it, in larger ones. */
class Queue {
  next = 0
  readonly rejected = new Set<number>()
  private readonly doubts = makeDoubts()
  private factor = 1

  constructor(
    readonly database: Database,
    readonly length: number,
    readonly batchRecords: number
  ) {}

  get isDelivered(): boolean {
    return this.next === this.length
  }

  /** Delivers until nothing waits, or a batch fails. */
  readonly pass: Effect.Effect<Pass> = Effect.gen(this, function* () {
    const before = this.database.statements
    let factor = this.factor
    while (!this.isDelivered) {
      const batch = Array.from(
        { length: Math.min(factor * this.batchRecords, this.length - this.next) },
        (_, index) => this.next + index
      )
      factor = 1
      const result = yield* Effect.either(this.upload(batch))
      if (Either.isLeft(result)) {
        this.factor = result.left.wantsMore === true ? Math.min(this.factor + 1, 8) : 1
        return { failure: result.left, statements: this.database.statements - before }
      }
      this.factor = 1
      for (const event of result.right) this.rejected.add(event)
      this.next += batch.length
    }
    return { failure: undefined, statements: this.database.statements - before }
  })

  private upload(batch: ReadonlyArray<number>): Effect.Effect<ReadonlyArray<number>, UploadError> {
    const { database } = this
    const rejected: Array<number> = []
    const reject = (index: number) => Effect.sync(() => void rejected.push(batch[index]!))
    const ids = batch.map((event) => ({ eventId: String(event) }))
    /** Stores in order, in halves where a connection breaks. An event that breaks one alone is rejected. */
    const store = (from: number, to: number): Effect.Effect<void, Stopped | UploadError> =>
      Effect.matchEffect(database.insert(batch.slice(from, to)), {
        onSuccess: () => Effect.void,
        onFailure: (error) => {
          if (error._tag === "Doubted")
            return Effect.fail<Stopped>({ _tag: "Stopped", doubted: error, at: from })
          if (to - from === 1) return reject(from)
          const middle = (from + to) >>> 1
          return Effect.zipRight(store(from, middle), store(middle, to))
        }
      })
    const fitting = (from: number) => {
      let count = 1
      while (from + count < batch.length && database.bytesOf(batch.slice(from, from + count + 1)) < LARGE)
        count++
      return count
    }
    return Effect.catchTag(store(0, batch.length), "Stopped", ({ at, doubted }) =>
      this.doubts.isDue(ids[0]!.eventId, doubted)
        ? this.doubts.search({
            onOneConnection: (use) => {
              let isGone = false
              return use((from, to) =>
                isGone
                  ? Effect.fail(broken)
                  : Effect.tapErrorTag(database.insert(batch.slice(from, to)), "UploadError", () =>
                      Effect.sync(() => (isGone = true))
                    )
              )
            },
            asLargeAs: (broken) =>
              database.large.has(batch[broken]!)
                ? batch.flatMap((event, index) => (database.large.has(event) ? [index] : []))
                : [],
            settleApart: (index) =>
              Effect.matchEffect(database.insert([batch[index]!]), {
                onSuccess: () => Effect.succeed(undefined),
                onFailure: (error) =>
                  error._tag === "Doubted"
                    ? Effect.fail(error)
                    : Effect.succeed({ code: "1153", reason: "large" })
              }),
            from: at,
            to: batch.length,
            doubted,
            fitting,
            idOf: (index) => ids[index]!.eventId,
            onRejected: ({ index }) => reject(index)
          })
        : Effect.fail(doubted.error)
    ).pipe(
      Effect.map(() => {
        this.doubts.settle(ids)
        return rejected
      })
    )
  }
}

/** A store that met an event in doubt; everything before it is stored or rejected. */
interface Stopped {
  readonly _tag: "Stopped"
  readonly doubted: Doubted
  readonly at: number
}

const run = (queue: Queue, passes: number): Effect.Effect<ReadonlyArray<Pass>> =>
  Effect.gen(function* () {
    const done: Array<Pass> = []
    while (!queue.isDelivered && done.length < passes) done.push(yield* queue.pass)
    return done
  })

const healthy = () => false

describe("doubt", () => {
  it.effect("rejects the bad events and no others, if there are others to compare them with", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 60 }),
          fc.uniqueArray(fc.nat(149), { maxLength: 15 }),
          fc.boolean(),
          fc.boolean(),
          async (batchRecords, bad, isLikely, isKnown) => {
            const database = new Database(new Set(bad), healthy, isLikely, isKnown)
            // good events follow, as in a program that continues
            const queue = new Queue(database, 400, Math.max(batchRecords, 8))
            await Effect.runPromise(run(queue, 400))
            assert.isTrue(queue.isDelivered)
            assert.deepStrictEqual(
              [...queue.rejected].toSorted((a, b) => a - b),
              [...bad].toSorted((a, b) => a - b)
            )
            assert.strictEqual(database.stored.size, 400 - bad.length)
          }
        ),
        { numRuns: 300 }
      )
    )
  )

  it.effect("rejects events whose size breaks the connection, and blocks nothing", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 8, max: 60 }),
          fc.uniqueArray(fc.nat(149), { maxLength: 8 }),
          fc.uniqueArray(fc.nat(149), { maxLength: 8 }),
          // one limit below LARGE, so that large events break the connection, and two that let them pass
          fc.constantFrom(LARGE - 1, LARGE, 5 * LARGE),
          fc.boolean(),
          fc.boolean(),
          async (batchRecords, bad, large, limit, isLikely, isKnown) => {
            const database = new Database(new Set(bad), healthy, isLikely, isKnown, new Set(large), limit)
            const queue = new Queue(database, 400, batchRecords)
            await Effect.runPromise(run(queue, 400))
            assert.isTrue(queue.isDelivered)
            const expected = new Set([...bad, ...(limit < LARGE ? large : [])])
            assert.sameMembers([...queue.rejected], [...expected])
            assert.strictEqual(database.stored.size, 400 - expected.size)
          }
        ),
        { numRuns: 300 }
      )
    )
  )

  it.effect("rejects no good event if the database falls ill and recovers, up to twice, at any moment", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 40 }),
          fc.array(fc.nat(120), { minLength: 4, maxLength: 4 }),
          fc.uniqueArray(fc.nat(99), { maxLength: 5 }),
          fc.boolean(),
          fc.boolean(),
          async (batchRecords, moments, bad, isLikely, isKnown) => {
            const [a, b, c, d] = moments.toSorted((one, other) => one - other) as [
              number,
              number,
              number,
              number
            ]
            const isIll = (statement: number) =>
              (statement >= a && statement < b) || (statement >= c && statement < d)
            const queue = new Queue(new Database(new Set(bad), isIll, isLikely, isKnown), 300, batchRecords)
            await Effect.runPromise(run(queue, 300))
            assert.deepStrictEqual(
              [...queue.rejected].filter((event) => !bad.includes(event)),
              []
            )
          }
        ),
        { numRuns: 200 }
      )
    )
  )

  it.effect("asks an ill database a few times a pass, blames no event, and needs an operator", () =>
    Effect.gen(function* () {
      for (const isLikely of [true, false]) {
        const queue = new Queue(new Database(new Set(), () => true, isLikely), 5000, 500)
        const passes = yield* run(queue, 10)
        assert.strictEqual(queue.rejected.size, 0)
        for (const { failure, statements } of passes) {
          assert.strictEqual(failure?.code, "31999")
          assert.isAtMost(statements, 15)
        }
        assert.deepStrictEqual(
          passes.map(({ failure }) => failure?.class),
          isLikely
            ? Array<"operator">(10).fill("operator")
            : ["transient", "transient", ...Array<"operator">(8).fill("operator")]
        )
      }
    })
  )

  it.effect("keeps the meaning of a known code, and asks an ill database twice more once that is due", () =>
    Effect.gen(function* () {
      for (const isLikely of [true, false]) {
        const queue = new Queue(new Database(new Set(), () => true, isLikely, true), 5000, 500)
        const passes = yield* run(queue, 12)
        assert.strictEqual(queue.rejected.size, 0)
        for (const { failure } of passes) {
          assert.deepInclude(failure, { class: "transient", code: "31999", reason: "unknown" })
        }
        assert.deepStrictEqual(
          passes.map(({ statements }) => statements),
          [...Array<number>(isLikely ? 0 : 6).fill(1), ...Array<number>(isLikely ? 12 : 6).fill(3)]
        )
      }
    })
  )

  it.effect("needs an operator for a single event, and decides once others follow", () =>
    Effect.gen(function* () {
      const database = new Database(new Set([0]), healthy, true)
      const alone = new Queue(database, 1, 500)
      const passes = yield* run(alone, 4)
      assert.deepStrictEqual(
        passes.map(({ failure }) => failure?.class),
        ["transient", "operator", "operator", "operator"]
      )
      assert.isTrue(passes.every(({ statements }) => statements <= 3))
      Object.assign(alone, { length: 9 })
      yield* run(alone, 4)
      assert.isTrue(alone.isDelivered)
      assert.deepStrictEqual([...alone.rejected], [0])
    })
  )

  it.effect("takes two passes, or a third one if nothing followed in the batch", () =>
    Effect.gen(function* () {
      for (const [bad, most] of [
        [0, 2],
        [250, 2],
        [499, 4]
      ] as const) {
        const queue = new Queue(new Database(new Set([bad]), healthy, true), 2000, 500)
        const passes = yield* run(queue, 20)
        assert.isTrue(queue.isDelivered)
        assert.isAtLeast(passes.length, 2)
        assert.isAtMost(passes.length, most, `event ${bad}`)
      }
    })
  )
})
