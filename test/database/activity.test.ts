/**
 * Activity on real servers and in SQLite: the table that `migrate` makes, and its rows.
 *
 * @module
 */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as path from "node:path"
import { Activity, Audit, AuditLayer, logActivity } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { effectAudit } from "../support/cli.js"
import { connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachServer } from "../support/servers.js"
import { openSqlite } from "../support/sqlite.js"

const record = Effect.gen(function* () {
  const span = yield* logActivity({
    action: "document.delete",
    targetType: "document",
    targetId: "0042 ",
    targetName: "名前 🦊",
    outcome: "denied",
    metadata: { pages: 12, "key with 'quotes'": ["\u0000", null] }
  }).pipe(Effect.zipRight(Effect.currentSpan), Effect.withSpan("request"))
  yield* logActivity({ action: "login", outcome: "failure", actorId: "8" })
  yield* Audit.flush
  return span
}).pipe(
  Audit.withContext({ actor: { id: "7", name: "li", type: "user" }, ip: "10.0.0.5", requestId: "4f1c" })
)

const check = (rows: ReadonlyArray<Readonly<Record<string, unknown>>>, traceId: string) => {
  const [denied, failed] = rows
  assert.deepInclude(denied, {
    actor_id: "7",
    actor_name: "li",
    actor_type: "user",
    action: "document.delete",
    target_type: "document",
    target_id: "0042 ",
    target_name: "名前 🦊",
    outcome: "denied",
    reason: null,
    ip: "10.0.0.5",
    user_agent: null,
    request_id: "4f1c",
    trace_id: traceId
  })
  assert.deepStrictEqual(JSON.parse(denied!.metadata as string), {
    pages: 12,
    "key with 'quotes'": ["\u0000", null]
  })
  assert.deepInclude(failed, { actor_id: "8", actor_name: "li", action: "login", metadata: null })
}

onEachServer("activity", ({ rootUrl }) => {
  it.scopedLive("gets its table from `migrate --activity` only, and its rows there", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase(rootUrl)
      const env = { AUDIT_MYSQL_URL: database.url }
      yield* effectAudit(directory, ["migrate"], env)
      const before = yield* effectAudit(directory, ["doctor", "--activity"], env)
      assert.strictEqual(before.code, 2)
      assert.include(before.stdout, "audit_activity")
      assert.notInclude((yield* effectAudit(directory, ["doctor"], env)).stdout, "audit_activity")
      const migrated = yield* effectAudit(directory, ["migrate", "--activity"], env)
      assert.include(migrated.stdout, "audit_activity")
      assert.strictEqual((yield* effectAudit(directory, ["doctor", "--activity"], env)).code, 0)

      const layer = AuditLayer.layer({ directory, events: [Activity] }).pipe(
        Layer.provide(MysqlUploader.layer(connectionOptions(database)))
      )
      const { traceId } = yield* Effect.provide(record, layer)
      const rows = yield* Effect.promise(() => database.query(`SELECT * FROM ${Activity.table} ORDER BY id`))
      check(rows, traceId)
      const [{ type }] = (yield* Effect.promise(() =>
        database.query(
          `SELECT column_type AS type FROM information_schema.columns ` +
            `WHERE table_schema = DATABASE() AND table_name = '${Activity.table}' AND column_name = 'outcome'`
        )
      )) as unknown as [{ type: string }]
      assert.strictEqual(type, "varchar(64)")
    })
  )

  it.scopedLive("is delivered by the command's flush", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase(rootUrl)
      yield* Effect.scoped(
        Effect.provide(
          logActivity({ action: "a", outcome: "success" }),
          AuditLayer.layer({ directory, events: [Activity], shutdownTimeout: 0 }).pipe(
            Layer.provide(MysqlUploader.layer({ host: "127.0.0.1:1", database: "app" }))
          )
        )
      )
      const env = { AUDIT_MYSQL_URL: database.url, AUDIT_ACTIVITY: "true" }
      yield* effectAudit(directory, ["migrate"], env)
      assert.strictEqual((yield* effectAudit(directory, ["flush"], env)).code, 0)
      const rows = yield* Effect.promise(() => database.query(`SELECT action FROM ${Activity.table}`))
      assert.lengthOf(rows, 1)
    })
  )
})

it.scopedLive("is stored in SQLite too", () =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    const filename = path.join(directory, "audit.db")
    const layer = AuditLayer.layer({ directory: path.join(directory, "queue"), events: [Activity] }).pipe(
      Layer.provide(SqliteUploader.layer({ filename }))
    )
    const { traceId } = yield* Effect.provide(record, layer)
    const query = yield* openSqlite(filename)
    check(yield* query(`SELECT * FROM ${Activity.table} ORDER BY rowid`), traceId)
  })
)
