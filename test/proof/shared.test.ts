/**
 * Batches that share a seal: while more waits, they follow one another in a transaction. Whatever happens to it, each
 * event is stored once, and `prove` finds nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as path from "node:path"
import { Delivery, type Instruments, type Settings } from "../../src/internal/delivery/delivery.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { UploadError } from "../../src/schema/Errors.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import type { Part, Sealing, Stored } from "../../src/services/Sealing.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { standing } from "../support/clock.js"
import { lifeOf, PROVEN, type ProvenDatabase } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"

class Note extends AuditEvent.Class<Note>()("note", {
  table: "notes",
  fields: { text: Schema.String },
  columns: { text: { type: "VARCHAR(20) NOT NULL CHECK (text <> 'bad')" } }
}) {}

const KINDS = [UseLog, LoginLog, Note]

type Upload = Sealing["upload"]

const away = new UploadError({ class: "transient", code: "AWAY", reason: "the database is away for a while" })

/** Counts the parts of each transaction; `change` may do what it likes with one. */
const watched = (change: (upload: Upload, transaction: number) => Upload = (upload) => upload) => {
  /** for each transaction its parts, and for each part its events by kind */
  const transactions: Array<Array<Record<string, number>>> = []
  /** the parts with a dead letter: whether another one has followed */
  const refused: Array<boolean> = []
  const eventsIn = ({ batches }: Part) =>
    Object.fromEntries(batches.map(({ definition, events }) => [definition.kind, events.length]))
  const wrap = (uploader: Uploader["Type"]): Uploader["Type"] => {
    const sealing = uploader.sealing!
    const counting: Upload = (first, next, seal) => {
      const parts = [eventsIn(first)]
      transactions.push(parts)
      return change(sealing.upload, transactions.length)(
        first,
        (stored) => {
          const following = next(stored)
          if (following !== undefined) parts.push(eventsIn(following))
          if (stored.some(({ rejected }) => rejected.length > 0)) refused.push(following !== undefined)
          return following
        },
        seal
      )
    }
    // so the next batch is ready before the first one is stored, however busy the machine is
    const upload: Upload = (...parts) =>
      Effect.delay(
        Effect.suspend(() => counting(...parts)),
        "20 millis"
      )
    return { ...uploader, sealing: { ...sealing, upload } }
  }
  return { transactions, refused, wrap }
}

/** Records while the database is away. */
const backlog = (
  database: ProvenDatabase,
  directory: string,
  record: (log: AuditLog["Type"]) => Effect.Effect<unknown, unknown>
) =>
  lifeOf(database, directory, record, {
    events: [Note],
    settings: { shutdownTimeout: "1 second" },
    wrap: (uploader) => ({ ...uploader, sealing: { ...uploader.sealing!, upload: () => away } })
  })

const uses = (count: number) => (log: AuditLog["Type"]) =>
  Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    (index) => log.record("use_log", { prompt: `prompt ${index}`, status: "success" }),
    { concurrency: "unbounded" }
  )

/** Delivers all of it. By a clock that stands still, no transaction takes so long that nothing joins it any more. */
const deliver = (
  database: ProvenDatabase,
  directory: string,
  wrap: (uploader: Uploader["Type"]) => Uploader["Type"],
  batchRecords = 20
) =>
  Effect.flatMap(Effect.clock, (clock) =>
    lifeOf(
      database,
      directory,
      (log) => Effect.zipRight(Effect.retry(log.flush, { times: 20 }), log.status),
      { events: [Note], wrap, settings: { batchRecords } }
    ).pipe(Effect.withClock(standing(clock)))
  )

const assertProven = (database: ProvenDatabase, rows: number) =>
  Effect.gen(function* () {
    const proved = yield* database.prove({ isExclusive: true })
    assert.deepStrictEqual(proved.findings, [])
    assert.strictEqual(proved.rows, rows)
    assert.lengthOf(proved.chains, 1)
    return proved
  })

const seals = (database: ProvenDatabase) =>
  Effect.map(database.query("SELECT COUNT(*) AS n FROM effect_audit_seal"), ([row]) => Number(row!.n))

const partsOf = (transactions: ReadonlyArray<ReadonlyArray<unknown>>) =>
  transactions.map((parts) => parts.length)

it("batches that share a seal end the slow start as others do: by ten of a size", () => {
  const delivery = new Delivery({ maxRecords: 500 } as Settings, {} as Instruments)
  const slow = 10
  for (let transactions = 0; transactions < 2; transactions++) {
    assert.strictEqual(delivery.maxRecords, 100)
    delivery.adapt(500, 500, slow, 5)
  }
  assert.strictEqual(delivery.maxRecords, 200)
  for (let batches = 0; batches < 10; batches++) delivery.adapt(200, 200, slow)
  assert.strictEqual(delivery.maxRecords, 400)
})

for (const [name, make] of PROVEN) {
  describe(`batches that share a seal (${name})`, () => {
    it.scopedLive("are those that wait", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* backlog(database, directory, uses(300))
        const { transactions, wrap } = watched()
        const status = yield* deliver(database, directory, wrap)
        assert.deepStrictEqual([status.waiting, status.dead], [0, 0])
        assert.isAbove(Math.max(...partsOf(transactions)), 1)
        assert.strictEqual(yield* seals(database), transactions.length)
        yield* assertProven(database, 300)
      })
    )

    it.scopedLive("have at most 4,000 events together", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* backlog(database, directory, uses(9000))
        const { transactions, wrap } = watched()
        yield* deliver(database, directory, wrap, 1500)
        const sizes = transactions.map((parts) => parts.reduce((sum, { use_log: n = 0 }) => sum + n, 0))
        assert.isAtMost(Math.max(...sizes), 4000)
        assert.isAbove(Math.max(...sizes), 1500)
        yield* assertProven(database, 9000)
      })
    )

    it.scopedLive("have one each for a while after their transaction has failed", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* backlog(database, directory, uses(300))
        let failed = 0
        const { transactions, wrap } = watched((upload) => (first, next, seal) => {
          let parts = 1
          return upload(
            first,
            (stored) => {
              const following = next(stored)
              if (following !== undefined) parts++
              return following
            },
            (stored) => {
              if (parts === 1 || failed > 0) return seal(stored)
              failed = parts
              throw new Error("the test")
            }
          )
        })
        const status = yield* deliver(database, directory, wrap)
        assert.isAbove(failed, 1)
        assert.deepStrictEqual([status.waiting, status.dead], [0, 0])
        const parts = partsOf(transactions)
        const at = parts.findIndex((count) => count > 1)
        assert.strictEqual(parts[at], failed)
        const later = parts.slice(at + 1, at + 1 + failed)
        assert.isNotEmpty(later)
        for (const count of later) assert.strictEqual(count, 1)
        yield* assertProven(database, 300)
      })
    )

    it.scopedLive("have one each for ever longer if they always fail together", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* backlog(database, directory, uses(600))
        let failures = 0
        const { wrap } = watched((upload) => (first, next, seal) => {
          const none = (stored: ReadonlyArray<Stored>) => {
            if (next(stored) === undefined) return undefined
            failures++
            throw new Error("the test")
          }
          return upload(first, none, seal)
        })
        const status = yield* deliver(database, directory, wrap)
        assert.deepStrictEqual([status.waiting, status.dead], [0, 0])
        // two batches alone after the first failure, 4, 8 ...; always two would make 15 failures or more
        assert.isAtMost(failures, 6)
        assert.isAbove(failures, 1)
        yield* assertProven(database, 600)
      })
    )

    it.scopedLive("are known by their seal if the answer to its commit is lost", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* backlog(database, directory, uses(300))
        let lost = 0
        const { transactions, wrap } = watched(
          (upload, transaction) =>
            (...parts) =>
              Effect.flatMap(upload(...parts), () => {
                const count = transactions[transaction - 1]!.length
                if (lost > 0 || count === 1) return Effect.void
                lost = count
                return away
              })
        )
        const status = yield* deliver(database, directory, wrap)
        assert.isAbove(lost, 1)
        assert.deepStrictEqual([status.waiting, status.dead], [0, 0])
        yield* assertProven(database, 300)
        // an event that is sent again would be taken for another's, which a notice says
        const notices = yield* database.query("SELECT notices FROM effect_audit_seal")
        for (const { notices: bytes } of notices)
          assert.notInclude(Buffer.from(bytes as Uint8Array).toString(), "4:twin,")
      })
    )

    it.scopedLive("end with the first one that has a dead letter, or another kind", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        const note = (text: string) => (log: AuditLog["Type"]) => log.record("note", { text })
        const times = (count: number, record: (log: AuditLog["Type"]) => Effect.Effect<unknown, unknown>) => {
          const all = Array<typeof record>(count).fill(record)
          return (log: AuditLog["Type"]) => Effect.forEach(all, (each) => each(log))
        }
        const steps = [uses(64), times(40, note("good")), note("bad"), times(40, note("good")), uses(60)]
        yield* backlog(database, directory, (log) =>
          Effect.forEach(steps, (step): Effect.Effect<unknown, unknown> => step(log))
        )
        const { refused, transactions, wrap } = watched()
        const status = yield* deliver(database, directory, wrap)
        // no column of an SQLite file refuses anything
        const dead = name === "SQLite" ? [] : [false]
        assert.deepStrictEqual([status.waiting, status.dead], [0, dead.length])
        assert.deepStrictEqual(refused, dead)
        assert.isAbove(Math.max(...partsOf(transactions)), 1)
        for (const parts of transactions)
          for (const kinds of parts) assert.includeMembers(Object.keys(parts[0]!), Object.keys(kinds))
        yield* assertProven(database, 205 - dead.length)
      })
    )
  })
}
