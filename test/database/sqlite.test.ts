/** The SQLite uploader: what SQLite refuses, and why. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Schedule, Schema } from "effect"
import type { Scope } from "effect"
import * as fc from "fast-check"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { UploadFailureClass } from "../../src/schema/Errors.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { openAudit } from "../support/auditHere.js"
import { stored, uses } from "../support/events.js"
import { openSqlite } from "../support/sqlite.js"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: {
    cents: Schema.BigInt,
    rate: AuditEvent.optional(Schema.Number),
    paid: Schema.Boolean,
    tags: Schema.Array(Schema.String)
  }
}) {}

const directory = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "audit-sqlite-"))),
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true }))
)

const uploaderTo = (filename: string, tables?: SqliteUploader.Options["tables"]) =>
  Effect.map(Layer.build(SqliteUploader.layer({ filename, tables })), Context.get(Uploader))

const upload = ({ upload }: Uploader["Type"], events = uses(3)) => upload({ definition: UseLog, events })

const expectFailure = (uploader: Uploader["Type"], cls: UploadFailureClass, code: string) =>
  Effect.map(Effect.flip(upload(uploader)), (error) => {
    assert.deepStrictEqual([error.class, error.code], [cls, code])
    assert.isAbove(error.reason.length, 30)
  })

describe("SqliteUploader", () => {
  it.scopedLive(
    "needs an operator for a file that it cannot open or that is not SQLite, until that is mended",
    () =>
      Effect.gen(function* () {
        const home = yield* directory
        const missing = path.join(home, "later", "audit.db")
        const uploader = yield* uploaderTo(missing)
        yield* expectFailure(uploader, "operator", "SQLITE_CANTOPEN")
        fs.mkdirSync(path.dirname(missing))
        assert.deepStrictEqual(yield* upload(uploader), { rejected: [] })

        const other = path.join(home, "other")
        fs.writeFileSync(other, "something else ".repeat(100))
        yield* expectFailure(yield* uploaderTo(other), "operator", "SQLITE_NOTADB")
      })
  )

  it.scopedLive(
    "needs an operator for a table without our columns, and reports a locked file as transient",
    () =>
      Effect.gen(function* () {
        const filename = path.join(yield* directory, "audit.db")
        const other = yield* openSqlite(filename)
        yield* other("CREATE TABLE theirs (user_name TEXT)")
        yield* expectFailure(yield* uploaderTo(filename, { use_log: "theirs" }), "operator", "SQLITE_ERROR")

        const uploader = yield* uploaderTo(filename, { use_log: 'odd "name' })
        yield* upload(uploader)
        yield* other("BEGIN IMMEDIATE")
        yield* expectFailure(uploader, "transient", "SQLITE_BUSY")
        yield* other("ROLLBACK")
        assert.deepStrictEqual(yield* upload(uploader), { rejected: [] })
        const [row] = yield* other('SELECT COUNT(*) AS n FROM "odd ""name"')
        assert.strictEqual(row?.n, 6)
      })
  )

  it.scopedLive(
    "rejects a record that violates NOT NULL, CHECK or 64 bits, and needs an operator for another unique key",
    () =>
      Effect.gen(function* () {
        const filename = path.join(yield* directory, "audit.db")
        const other = yield* openSqlite(filename)
        yield* other(
          `CREATE TABLE payments (id INTEGER PRIMARY KEY, cents INTEGER CHECK (cents <> 13), rate REAL NOT NULL,
           paid INTEGER, tags TEXT UNIQUE, event_id BLOB UNIQUE, event_time TEXT)`
        )
        const uploader = yield* uploaderTo(filename)
        const pay = (cents: bigint, tag: string, rate: number | null = 0.1) =>
          stored(Payment, new Payment({ cents, rate, paid: true, tags: [tag] }))
        const { rejected } = yield* uploader.upload({
          definition: Payment,
          events: [
            pay(2n ** 63n - 1n, "a"),
            pay(13n, "b"),
            pay(1n, "c", null),
            pay(2n ** 63n, "d"),
            pay(-(2n ** 63n), "e")
          ]
        })
        assert.deepStrictEqual(
          rejected.map(({ code, index }) => [index, code]),
          [
            [1, "SQLITE_CONSTRAINT_CHECK"],
            [2, "SQLITE_CONSTRAINT_NOTNULL"],
            [3, "RangeError"]
          ]
        )
        assert.deepStrictEqual(
          (yield* other(
            "SELECT CAST(cents AS TEXT) AS cents, rate, paid, tags FROM payments ORDER BY id"
          )).map((row) => ({ ...row })),
          [
            { cents: "9223372036854775807", rate: 0.1, paid: 1, tags: '["a"]' },
            { cents: "-9223372036854775808", rate: 0.1, paid: 1, tags: '["e"]' }
          ] as ReadonlyArray<unknown>
        )
        const error = yield* Effect.flip(uploader.upload({ definition: Payment, events: [pay(1n, "a")] }))
        assert.deepStrictEqual([error.class, error.code], ["operator", "SQLITE_CONSTRAINT_UNIQUE"])
      })
  )
})

class Reading extends AuditEvent.Class<Reading>()("reading", {
  table: "readings",
  columns: { id: "ID" },
  fields: {
    id: Schema.Number,
    createdAt: Schema.Number,
    value: Schema.Union(Schema.Number, Schema.String),
    noted: Schema.Number
  }
}) {}

describe("recorded values are stored unchanged", () => {
  it.scopedLive("a number in a text column is stored as its digits, in our tables and in others", () =>
    Effect.gen(function* () {
      const home = yield* directory
      let files = 0
      const property = fc.asyncProperty(
        fc.array(
          fc.record({
            id: fc.double({ noNaN: true, noDefaultInfinity: true }),
            createdAt: fc.integer(),
            value: fc.oneof(
              fc.constantFrom<number | string>(5, 1234567890123456, 0.1 + 0.2, 1e21, -0, "5.0"),
              fc.double({ noNaN: true, noDefaultInfinity: true }),
              fc.string().filter((text) => !text.includes("\0"))
            ),
            noted: fc.maxSafeInteger()
          }),
          { minLength: 1, maxLength: 5 }
        ),
        fc.boolean(),
        (readings, isTheirs) =>
          Effect.gen(function* () {
            const filename = path.join(home, `${files++}.db`)
            const other = yield* openSqlite(filename)
            if (isTheirs) {
              yield* other(
                "CREATE TABLE readings (ID REAL, CREATED_AT INT, Value VARCHAR(9), noted NCLOB, event_id BLOB UNIQUE, event_time)"
              )
            }
            const uploader = yield* uploaderTo(filename)
            const events = readings.map((reading) => stored(Reading, new Reading(reading)))
            assert.deepStrictEqual(yield* uploader.upload({ definition: Reading, events }), { rejected: [] })
            const rows = yield* other("SELECT id, created_at, value, noted FROM readings ORDER BY rowid")
            assert.deepStrictEqual(
              rows.map((row) => [Number(row[0]), Number(row[1]), row[2], row[3]]),
              readings.map(({ createdAt, id, noted, value }) => [
                id + 0,
                createdAt,
                String(value),
                isTheirs ? String(noted) : noted
              ])
            )
          }).pipe(Effect.scoped, Effect.runPromise)
      )
      yield* Effect.promise(() => fc.assert(property, { numRuns: 60 }))
    })
  )
})

// ------------------------------------------------------------------------------------------ faults of the disk

const run = (...[command, ...args]: readonly [string, ...ReadonlyArray<string>]) =>
  spawnSync(command, args).status === 0

const isRoot = process.getuid?.() === 0

/** Whether we may mount a file system, as root on Linux usually may. */
const mounts = (() => {
  if (process.platform !== "linux" || !isRoot) return false
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-mount-"))
  const allowed = run("mount", "--bind", home, home) && run("umount", home)
  fs.rmdirSync(home)
  return allowed
})()

const unmountAtTheEnd = (at: string) => Effect.addFinalizer(() => Effect.sync(() => run("umount", "-l", at)))

/** Makes a file or directory read-only, for root too, whom permission bits do not bind. */
const readOnly = (at: string) =>
  Effect.gen(function* () {
    if (!isRoot) {
      const { mode } = fs.statSync(at)
      fs.chmodSync(at, mode & ~0o222)
      return Effect.sync(() => fs.chmodSync(at, mode))
    }
    assert.isTrue(run("mount", "--bind", at, at))
    yield* unmountAtTheEnd(at)
    assert.isTrue(run("mount", "-o", "remount,bind,ro", at))
    return Effect.sync(() => assert.isTrue(run("mount", "-o", "remount,bind,rw", at)))
  })

const fill = (file: string) =>
  Effect.sync(() => {
    const filler = fs.openSync(file, "w")
    assert.throws(() => {
      for (;;) fs.writeSync(filler, Buffer.alloc(4096))
    }, "ENOSPC")
    fs.closeSync(filler)
    return Effect.sync(() => fs.rmSync(file))
  })

interface Trouble {
  readonly name: string
  readonly isPossible: boolean
  readonly class: UploadFailureClass
  readonly code: string
  /** Runs before the file exists. */
  readonly prepare?: (home: string) => Effect.Effect<unknown, never, Scope.Scope>
  /** Returns the effect that ends the fault. */
  readonly inflict: (file: string) => Effect.Effect<Effect.Effect<unknown>, never, Scope.Scope>
}

const TROUBLES: ReadonlyArray<Trouble> = [
  {
    name: "a read-only file",
    isPossible: !isRoot || mounts,
    class: "operator",
    code: "SQLITE_READONLY",
    inflict: readOnly
  },
  {
    name: "a read-only directory, without the file",
    isPossible: !isRoot || mounts,
    class: "operator",
    code: "SQLITE_CANTOPEN",
    inflict: (file) => {
      for (const name of fs.readdirSync(path.dirname(file))) fs.rmSync(path.join(path.dirname(file), name))
      return readOnly(path.dirname(file))
    }
  },
  {
    name: "a file that another connection has locked",
    isPossible: true,
    class: "transient",
    code: "SQLITE_BUSY",
    inflict: (file) =>
      Effect.gen(function* () {
        const other = yield* openSqlite(file)
        yield* other("BEGIN IMMEDIATE")
        return other("ROLLBACK")
      })
  },
  {
    name: "a full disk",
    isPossible: mounts,
    class: "transient",
    code: "SQLITE_FULL",
    prepare: (home) => {
      assert.isTrue(run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", home))
      return unmountAtTheEnd(home)
    },
    inflict: (file) => fill(path.join(path.dirname(file), "filler"))
  }
]

describe("a worker that delivers to a file", () => {
  const endure = ({ class: cls, code, inflict, name, prepare }: Trouble) =>
    Effect.gen(function* () {
      const home = yield* directory
      const queue = yield* directory
      yield* prepare?.(home) ?? Effect.void
      const filename = path.join(home, "audit.db")
      // the tables and a row exist already
      yield* Effect.scoped(Effect.flatMap(uploaderTo(filename), (uploader) => upload(uploader, uses(1))))
      const end = yield* inflict(filename)

      const audit = yield* openAudit({ directory: queue }, { uploader: yield* uploaderTo(filename) })
      const prompts = ["1", "2", "3"].map((number) => number.repeat(5000))
      yield* Effect.forEach(prompts, audit.use)
      const until = (isReached: (status: Effect.Effect.Success<typeof audit.status>) => boolean) =>
        Effect.repeat(audit.status, {
          schedule: Schedule.spaced("20 millis"),
          until: isReached,
          times: 6000
        }).pipe(Effect.zipRight(audit.status))
      const { failure, waiting } = yield* until((status) => status.failure !== undefined)
      assert.deepStrictEqual(
        { class: failure?.class, code: failure?.code, waiting },
        { class: cls, code, waiting: 3 },
        name
      )

      yield* end
      const { dead, delivered, missing } = yield* until((status) => status.waiting === 0)
      assert.deepStrictEqual({ dead, delivered, missing }, { dead: 0, delivered: 3, missing: 0 }, name)
      yield* audit.close

      // As after a crash: the copy has the file and its log, but none of the process's memory.
      const copy = yield* directory
      for (const suffix of ["", "-wal"])
        fs.copyFileSync(filename + suffix, path.join(copy, `audit.db${suffix}`))
      const look = yield* openSqlite(path.join(copy, "audit.db"))
      const rows = yield* look(`SELECT prompt FROM ${UseLog.table} WHERE prompt <> '0' ORDER BY id`)
      assert.deepStrictEqual(
        rows.map((row) => row.prompt),
        prompts,
        name
      )
    })

  const possible = TROUBLES.filter(({ isPossible }) => isPossible)
  it.scopedLive(
    `loses nothing and continues by itself after ${possible.map(({ name }) => name).join("; ")}`,
    () =>
      Effect.forEach(possible, (trouble) => Effect.scoped(endure(trouble)), {
        concurrency: "unbounded",
        discard: true
      }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
  )
})
