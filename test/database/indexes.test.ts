/** Indexes for reading: `--index` adds them to any table, and new tables get those that their kinds name. */
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Activity, AuditEvent } from "effect-audit"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { createReferenceTables, type TestDatabase } from "../support/database.js"
import { use } from "../support/events.js"
import { connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"

const indexes = (database: TestDatabase, table: string) =>
  Effect.map(
    Effect.promise(() =>
      database.query<{ columns: string }>(
        "SELECT GROUP_CONCAT(column_name ORDER BY seq_in_index) AS columns FROM information_schema.statistics " +
          `WHERE table_schema = DATABASE() AND table_name = '${table}' AND index_name <> 'PRIMARY' GROUP BY index_name`
      )
    ),
    (rows) => rows.map(({ columns }) => columns).sort()
  )

onEachServer("indexes", ({ rootUrl }) => {
  it.scopedLive("over time and id are created by --index only, and those of a kind with new tables", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* Effect.promise(() => createReferenceTables(database))
      yield* MysqlUploader.migrate(options, [UseLog, Activity])
      const named = ["actor_id,event_time,event_id", "event_id", "target_type,target_id,event_time,event_id"]
      assert.deepStrictEqual(yield* indexes(database, Activity.table), named)
      assert.deepStrictEqual(yield* indexes(database, UseLog.table), ["event_id"])

      const uploader = yield* uploaderOf(options)
      yield* uploader.upload({ definition: UseLog, events: [use()] })
      // twice at once, and once more
      const withIndex = MysqlUploader.migrate(options, [UseLog, Activity], { index: true })
      yield* Effect.all([withIndex, withIndex], { concurrency: 2 })
      yield* withIndex
      assert.deepStrictEqual(yield* indexes(database, UseLog.table), ["event_id", "event_time,event_id"])
      const all = [...named, "event_time,event_id"].sort()
      assert.deepStrictEqual(yield* indexes(database, Activity.table), all)
      // a new table gets them too
      yield* Effect.promise(() => database.query(`DROP TABLE ${Activity.table}`))
      yield* withIndex
      assert.deepStrictEqual(yield* indexes(database, Activity.table), all)
      yield* uploader.upload({ definition: UseLog, events: [use()] })
    })
  )

  it.scopedLive("are not created if others serve the same purpose", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [UseLog])
      yield* Effect.promise(async () => {
        await database.query(`ALTER TABLE ${UseLog.table} ADD KEY theirs (event_time, event_id, user_name)`)
        await database.query(`ALTER TABLE ${UseLog.table} ADD KEY other (event_time)`)
      })
      const before = yield* indexes(database, UseLog.table)
      yield* MysqlUploader.migrate(options, [UseLog], { index: true })
      assert.deepStrictEqual(yield* indexes(database, UseLog.table), before)
    })
  )

  it.scopedLive("on a column without a length are refused with advice", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      class Long extends AuditEvent.Class<Long>()("long", {
        table: "long_texts",
        fields: { text: Schema.String },
        indexes: [["text"]]
      }) {}
      const error = yield* Effect.flip(MysqlUploader.migrate(connectionOptions(database), [Long]))
      assert.include(error.message, "`type` in `columns`")
    })
  )

  it.scopedLive("are in the printed SQL, which runs by itself", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const sql = MysqlUploader.migrationSql({}, [Activity], { index: true })
      const [create, ...comments] = sql.split("-- if the table was there before")
      yield* Effect.promise(() => database.query(create!.trim().replace(/;$/, "")))
      assert.include(yield* indexes(database, Activity.table), "event_time,event_id")
      const add = /--\s+(ALTER TABLE .* ADD KEY .*);/.exec(comments.join())![1]!
      yield* Effect.promise(async () => {
        for (const name of [
          "effect_audit_event_time",
          "effect_audit_actor_id",
          "effect_audit_target_type_target_id"
        ])
          await database.query(`ALTER TABLE ${Activity.table} DROP KEY ${name}`)
        await database.query(add)
      })
      assert.lengthOf(yield* indexes(database, Activity.table), 4)
    })
  )
})
