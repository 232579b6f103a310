/** A program's own kinds: they take the same way as UseLog and LoginLog, from the call to the table. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Audit, AuditEvent, AuditLayer, logUse, Uploader } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import * as path from "node:path"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import { temporaryDirectory } from "../support/queue.js"
import { openSqlite } from "../support/sqlite.js"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: {
    account: Schema.String,
    cents: Schema.Int,
    isRefund: AuditEvent.optional(Schema.Boolean)
  },
  columns: { account: "account_no", cents: { type: "INT UNSIGNED NOT NULL" } }
}) {}

/** The same kind one release later, with one more field. */
class PaymentOfToday extends AuditEvent.Class<PaymentOfToday>()("payment", {
  table: "payments",
  fields: {
    account: Schema.String,
    cents: Schema.Int,
    isRefund: AuditEvent.optional(Schema.Boolean),
    currency: AuditEvent.text("EUR")
  }
}) {}

const outage = new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "down" })

describe("own kinds", () => {
  it.scopedLive("reach their table", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const filename = path.join(directory, "audit.db")
      const AuditLive = AuditLayer.layer({
        directory: path.join(directory, "audit"),
        events: [Payment]
      }).pipe(Layer.provide(SqliteUploader.layer({ filename })))
      yield* Effect.gen(function* () {
        yield* Audit.record(new Payment({ account: "0042", cents: 1999, isRefund: true }))
        yield* logUse({ status: "success" })
        yield* Audit.log(new Payment({ account: "0043", cents: 1 }))
        yield* Audit.flush
      }).pipe(Effect.provide(AuditLive))

      const query = yield* openSqlite(filename)
      const rows = yield* query("SELECT account_no, cents, is_refund FROM payments ORDER BY id")
      assert.deepStrictEqual(
        rows.map((row) => [row.account_no, row.cents, row.is_refund]),
        [
          ["0042", 1999, 1],
          ["0043", 1, null]
        ]
      )
      assert.lengthOf(yield* query("SELECT * FROM nano_banana_user_use_log"), 1)
    })
  )

  it.scopedLive("refuse an event that does not fit, by name, and write nothing", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      const AuditLive = AuditLayer.layer({ directory, events: [Payment] }).pipe(
        Layer.provide(Layer.succeed(Uploader, uploader))
      )
      yield* Effect.gen(function* () {
        const error = yield* Effect.flip(Audit.record(new Payment({ account: "0042", cents: 19.99 })))
        assert.strictEqual(error._tag, "InvalidEvent")
        assert.include(error.message, "cents: expected Int")
        assert.notInclude(error.message, "19.99")
        assert.strictEqual((yield* Audit.status).accepted, 0)
      }).pipe(Effect.provide(AuditLive))
    })
  )

  it.scopedLive("pass what cannot be recorded to onAppendFailure: `log` never fails", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      const failures: Array<string> = []
      const AuditLive = AuditLayer.layer({
        directory,
        events: [Payment],
        onAppendFailure: ({ error, kind }) => Effect.sync(() => void failures.push(`${kind} ${error._tag}`))
      }).pipe(Layer.provide(Layer.succeed(Uploader, uploader)))
      yield* Effect.gen(function* () {
        yield* Audit.log(new Payment({ account: "0042", cents: 19.99 }))
        yield* Audit.log(new Payment({ account: "0042", cents: 1999 }))
        assert.strictEqual((yield* Audit.status).accepted, 1)
      }).pipe(Effect.provide(AuditLive))
      assert.deepStrictEqual(failures, ["payment InvalidEvent"])
    })
  )

  it.scopedLive("give a line from before a field was added the field's default", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* makeMemoryUploader()
      const UploaderTest = Layer.succeed(Uploader, database.uploader)

      yield* database.outage(outage)
      yield* Audit.record(new Payment({ account: "0042", cents: 1999 })).pipe(
        Effect.provide(Layer.provide(AuditLayer.layer({ directory, events: [Payment] }), UploaderTest))
      )
      yield* database.recover
      yield* Audit.flush.pipe(
        Effect.provide(Layer.provide(AuditLayer.layer({ directory, events: [PaymentOfToday] }), UploaderTest))
      )

      const [stored] = yield* database.stored(PaymentOfToday)
      assert.deepStrictEqual(stored?.row, ["0042", 1999, null, "EUR"])
    })
  )

  it.scopedLive("make a line of an unknown kind a dead letter, which blocks no other", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* makeMemoryUploader()
      const UploaderTest = Layer.succeed(Uploader, database.uploader)

      yield* database.outage(outage)
      yield* Effect.gen(function* () {
        yield* logUse({ status: "first" })
        yield* Audit.record(new Payment({ account: "0042", cents: 1999 }))
        yield* logUse({ status: "second" })
      }).pipe(Effect.provide(Layer.provide(AuditLayer.layer({ directory, events: [Payment] }), UploaderTest)))
      yield* database.recover

      const status = yield* Effect.zipRight(Audit.flush, Audit.status).pipe(
        Effect.provide(Layer.provide(AuditLayer.layer({ directory }), UploaderTest))
      )
      assert.deepInclude(status, { accepted: 3, delivered: 2, waiting: 0, dead: 1, missing: 0 })
      assert.lengthOf(yield* database.stored(Payment), 0)
    })
  )

  it.scopedLive("with unknownKind: wait a line waits for the first program that carries its kind", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* makeMemoryUploader()
      const UploaderTest = Layer.succeed(Uploader, database.uploader)
      const wait = { directory, unknownKind: "wait" } as const
      const withPayments = Layer.provide(AuditLayer.layer({ ...wait, events: [Payment] }), UploaderTest)
      const without = Layer.provide(AuditLayer.layer(wait), UploaderTest)

      yield* database.outage(outage)
      yield* Audit.record(new Payment({ account: "0042", cents: 1999 })).pipe(Effect.provide(withPayments))
      yield* database.recover
      // an older version of the program runs twice
      yield* Effect.provide(Audit.flush, without)
      const kept = yield* Effect.provide(Effect.zipRight(Audit.flush, Audit.status), without)
      assert.deepInclude(kept, { delivered: 0, waiting: 0, dead: 1, missing: 0 })

      const status = yield* Effect.provide(Effect.zipRight(Audit.flush, Audit.status), withPayments)
      assert.deepInclude(status, { accepted: 2, delivered: 1, waiting: 0, dead: 0, retried: 1, missing: 0 })
      assert.lengthOf(yield* database.stored(Payment), 1)
    })
  )

  it.scopedLive("refuse two classes of one kind when the layer is built", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      const error = yield* AuditLayer.layer({ directory, events: [Payment, PaymentOfToday] }).pipe(
        Layer.provide(Layer.succeed(Uploader, uploader)),
        Layer.build,
        Effect.flip
      )
      assert.include(error.message, 'two classes of events are of kind "payment"')
    })
  )

  it.scopedLive("refuse sizes that would stop delivery for ever", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      for (const settings of [{ batchRecords: 0 }, { batchBytes: -1 }, { maxLineBytes: 1.5 }]) {
        const error = yield* AuditLayer.layer({ directory, ...settings }).pipe(
          Layer.provide(Layer.succeed(Uploader, uploader)),
          Layer.build,
          Effect.flip
        )
        assert.include(error.message, `${Object.keys(settings)[0]!} is ${Object.values(settings)[0]!}`)
      }
    })
  )
})
