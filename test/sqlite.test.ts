/** What SQLite refuses, and why. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Schema } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as SqliteUploader from "../src/layers/SqliteUploader.js"
import * as AuditEvent from "../src/schema/AuditEvent.js"
import type { UploadFailureClass } from "../src/schema/Errors.js"
import { UseLog } from "../src/schema/UseLog.js"
import { Uploader } from "../src/services/Uploader.js"
import { stored, uses } from "./support/events.js"
import { openSqlite } from "./support/sqlite.js"

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
    "a file that cannot be opened, or is none of SQLite's, is an operator's matter until it is mended",
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

  it.scopedLive("a table of others is an operator's matter; a locked file passes by itself", () =>
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

  it.scopedLive("NOT NULL, CHECK and 64 bits blame a record, another unique key the operator", () =>
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
        (yield* other("SELECT CAST(cents AS TEXT) AS cents, rate, paid, tags FROM payments ORDER BY id")).map(
          (row) => ({ ...row })
        ),
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
