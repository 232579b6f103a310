/** Tables in use: other programs keep writing to them during the migration and afterwards. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { createConnection } from "mysql2/promise"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { createReferenceTables, type TestDatabase } from "../support/database.js"
import { login, use } from "../support/events.js"
import { account, connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { root } from "../support/program.js"
import { onEachServer } from "../support/servers.js"

/** The statements of the Python class. */
const REFERENCE = {
  use:
    "INSERT INTO `nano_banana_user_use_log` (`user_name`, `device_name`, `prompt`, `result_path`, `status`, " +
    "`error_message`, `model`, `duration_ms`, `finish_reason`) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
  login:
    "INSERT INTO `nano_banana_user_log` (`user_name`, `local_ip`, `public_ip`, `device_name`, `login_time`) " +
    "VALUES (%s, %s, %s, %s, %s)"
}

const tablesInUse = (rootUrl: string) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    yield* Effect.promise(() => createReferenceTables(database))
    return database
  })

const sql = <Row = Record<string, unknown>>(database: TestDatabase, text: string) =>
  Effect.promise(() => database.query<Row>(text))

/** A connection of another program. */
const client = (database: TestDatabase) =>
  Effect.acquireRelease(
    Effect.promise(() => createConnection({ uri: database.url })),
    (connection) => Effect.sync(() => connection.destroy())
  )

describe("the reference", () => {
  const source = process.env.AUDIT_REFERENCE ?? path.join(root, "../shared/reference/audit_logger.py")
  it.skipIf(!fs.existsSync(source))("inserts with these statements (skipped without its source)", () => {
    const text = fs.readFileSync(source, "utf8").replace(/\s+/g, " ")
    for (const statement of Object.values(REFERENCE)) assert.include(text, statement)
  })
})

onEachServer("the reference", ({ rootUrl }) => {
  it.scopedLive("keeps writing to migrated tables, beside us", () =>
    Effect.gen(function* () {
      const database = yield* tablesInUse(rootUrl)
      const reference = yield* client(database)
      const execute = (statement: string, ...values: ReadonlyArray<string | number | null>) =>
        Effect.promise(() => reference.execute(statement.replaceAll("%s", "?"), [...values]))
      const insertBoth = Effect.gen(function* () {
        const prompt = "一只红狐 🦊"
        yield* execute(REFERENCE.use, "li", "studio-3", prompt, null, "success", null, "gemini", 1840, "STOP")
        yield* execute(REFERENCE.login, "li", "10.0.0.5", null, "studio-3", "2026-01-31 08:00:00")
      })
      const columns = (table: string) => sql(database, `SELECT * FROM ${table} ORDER BY id`)

      yield* insertBoth
      const before = [...(yield* columns(UseLog.table)), ...(yield* columns(LoginLog.table))]
      yield* MysqlUploader.migrate(connectionOptions(database))
      // a statement prepared before the migration, and NULL in the key a second and third time
      yield* insertBoth
      yield* insertBoth
      const { upload } = yield* uploaderOf(yield* account(database, "INSERT"))
      yield* upload({ definition: UseLog, events: [use()] })
      yield* upload({ definition: LoginLog, events: [login()] })

      for (const [index, table] of [UseLog.table, LoginLog.table].entries()) {
        const theirs = yield* columns(table)
        assert.deepStrictEqual(
          theirs.map(({ event_id, event_time }) => event_id !== null && event_time !== null),
          [false, false, false, true]
        )
        for (const row of theirs.slice(0, 3)) {
          const { created_at: _, id: __, ...expected } = before[index]!
          assert.deepInclude(row, { ...expected, event_id: null, event_time: null })
        }
      }
    })
  )
})

onEachServer("a table of 1,000,000 rows", ({ name, rootUrl }) => {
  it.scopedLive.skipIf(process.env.AUDIT_LONG !== "1")(
    "is migrated while another connection inserts, and behind a slow reader (AUDIT_LONG=1)",
    () =>
      Effect.gen(function* () {
        const database = yield* tablesInUse(rootUrl)
        const writer = yield* client(database)
        const reader = yield* client(database)
        yield* sql(
          database,
          `INSERT INTO ${UseLog.table} (user_name, device_name, prompt, status)
           WITH ten AS (SELECT 1 ${"UNION ALL SELECT 1 ".repeat(9)})
           SELECT 'li', 'studio-3', 'a red fox in the snow', 'success' FROM ten a, ten b, ten c, ten d, ten e, ten f`
        )
        const values = ["li", "pc", "theirs", null, "ok", null, null, null, null]
        const insert = Effect.promise(() => writer.query(REFERENCE.use.replaceAll("%s", "?"), values))

        /** Migrates while the writer inserts. Returns the total time and the writer's longest wait, milliseconds. */
        const migrate = Effect.gen(function* () {
          const done = yield* Deferred.make<void>()
          let longest = 0
          const inserts = yield* Effect.fork(
            Effect.gen(function* () {
              while (!(yield* Deferred.isDone(done))) {
                const [wait] = yield* Effect.timed(insert)
                longest = Math.max(longest, Duration.toMillis(wait))
                yield* Effect.sleep("1 millis")
              }
            })
          )
          const [took] = yield* Effect.timed(MysqlUploader.migrate(connectionOptions(database)))
          yield* Deferred.succeed(done, undefined)
          yield* Fiber.join(inserts)
          return { took: Duration.toMillis(took), longest }
        })

        const alone = yield* migrate
        yield* sql(
          database,
          `ALTER TABLE ${UseLog.table} DROP KEY effect_audit_event_id, DROP COLUMN event_id, DROP COLUMN event_time`
        )
        yield* Effect.promise(() => reader.query("START TRANSACTION"))
        yield* Effect.promise(() => reader.query(`SELECT 1 FROM ${UseLog.table} LIMIT 1`))
        yield* Effect.promise(() => reader.query("COMMIT")).pipe(Effect.delay("8 seconds"), Effect.fork)
        const behind = yield* migrate

        const seconds = (millis: number) => `${(millis / 1000).toFixed(2)} s`
        console.log(
          `${name}, 1,000,000 rows: ${seconds(alone.took)}, longest wait of another writer ${seconds(alone.longest)}; ` +
            `behind a reader of 8 s: ${seconds(behind.took)}, ${seconds(behind.longest)}`
        )
        // an ALTER waits 2 s for a lock before it gives way
        assert.isBelow(alone.longest, 2000)
        assert.isBelow(behind.longest, 5000)
        const { upload } = yield* uploaderOf(yield* account(database, "INSERT"))
        assert.deepStrictEqual(yield* upload({ definition: UseLog, events: [use()] }), { rejected: [] })
      }),
    180_000
  )
})
