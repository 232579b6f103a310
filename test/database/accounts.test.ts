/**
 * Accounts as administrators make them, on both servers: some can deliver, and the others get advice that names their
 * fault.
 */
import { assert, beforeAll, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { TestDatabase } from "../support/database.js"
import { uses } from "../support/events.js"
import { connectionOptions, failureOf, mysqlDatabase, PASSWORD, uploaderOf } from "../support/mysql.js"
import { startServer } from "../support/mysqlServer.js"
import { onEachFlavour, onEachServer } from "../support/servers.js"

let names = 0

/** A name for an account or a role. */
const fresh = (what: string) => `${what}_${process.pid}_${names++}`

const sql = (database: TestDatabase, text: string) => Effect.promise(() => database.query(text))

/** An account without rights, and how it connects. */
const poor = (database: TestDatabase, how = `IDENTIFIED BY '${PASSWORD}'`) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const username = fresh("poor")
      yield* sql(database, `CREATE USER '${username}'@'%' ${how}`)
      const options = { ...connectionOptions(database), username, password: Redacted.make(PASSWORD) }
      return { user: `'${username}'@'%'`, options }
    }),
    ({ user }) => sql(database, `DROP USER IF EXISTS ${user}`)
  )

/** A role with the right to INSERT, which the account has been granted. */
const roleOf = (database: TestDatabase, user: string) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const role = fresh("role")
      yield* sql(database, `CREATE ROLE ${role}`)
      yield* sql(database, `GRANT INSERT ON ${tableOf(database)} TO ${role}`)
      yield* sql(database, `GRANT ${role} TO ${user}`)
      return role
    }),
    (role) => sql(database, `DROP ROLE ${role}`)
  )

const tableOf = ({ config }: TestDatabase, table: string = UseLog.table) =>
  `\`${config.database}\`.\`${table}\``

/** Delivers two events over a separate connection. */
const deliver = (options: MysqlUploader.Options, tables: MysqlUploader.Options["tables"] = {}) =>
  Effect.scoped(
    Effect.flatMap(uploaderOf({ ...options, tables }), ({ upload }) =>
      upload({ definition: UseLog, events: uses(2) })
    )
  )

const delivers = (options: MysqlUploader.Options) =>
  Effect.map(deliver(options), (result) => assert.deepStrictEqual(result, { rejected: [] }))

const refused = (
  options: MysqlUploader.Options,
  code: string,
  reason: RegExp,
  tables?: MysqlUploader.Options["tables"]
) =>
  Effect.map(failureOf(deliver(options, tables)), (error) => {
    assert.deepStrictEqual([error.class, error.code], ["operator", code], error.message)
    assert.match(error.reason, reason)
    return error.reason
  })

const migrated = (rootUrl: string) =>
  Effect.tap(mysqlDatabase(rootUrl), (database) => MysqlUploader.migrate(connectionOptions(database)))

onEachServer("an account", ({ flavour, rootUrl }) => {
  it.scopedLive("delivers with INSERT on the table, on the database, or on all columns", () =>
    Effect.gen(function* () {
      const database = yield* migrated(rootUrl)
      const columns = ["event_id", "event_time", ...UseLog.columns.map(({ name }) => name)]
      for (const right of [
        `INSERT ON ${tableOf(database)}`,
        `INSERT ON \`${database.config.database}\`.*`,
        `INSERT (${columns.join(", ")}) ON ${tableOf(database)}`
      ]) {
        const { options, user } = yield* poor(database)
        yield* sql(database, `GRANT ${right} TO ${user}`)
        yield* delivers(options)
      }
      // without a right on one column
      const { options, user } = yield* poor(database)
      yield* sql(database, `GRANT INSERT (${columns.slice(1).join(", ")}) ON ${tableOf(database)} TO ${user}`)
      yield* refused(options, "1054", /event_id/)
    })
  )

  it.scopedLive(
    "delivers with a default role, and a role that is not active gets advice on SET DEFAULT ROLE",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(rootUrl)
        const { options, user } = yield* poor(database)
        const role = yield* roleOf(database, user)
        yield* refused(options, "1044", /SET DEFAULT ROLE/)
        yield* sql(database, `SET DEFAULT ROLE ${role} ${flavour === "mariadb" ? "FOR" : "TO"} ${user}`)
        yield* delivers(options)
      })
  )

  it.scopedLive("gets advice about the missing right, the password, the database or the lock", () =>
    Effect.gen(function* () {
      const database = yield* migrated(rootUrl)
      const { options, user } = yield* poor(database)
      yield* refused(options, "1044", /GRANT INSERT/)
      yield* sql(database, `GRANT SELECT ON ${tableOf(database)} TO ${user}`)
      yield* refused(options, "1142", /GRANT INSERT/)
      yield* refused({ ...options, password: Redacted.make("wrong") }, "1045", /check its password/)
      const lost = yield* poor(database)
      yield* sql(database, `GRANT INSERT ON *.* TO ${lost.user}`)
      yield* refused({ ...lost.options, database: "nowhere" }, "1049", /no database nowhere/)
      const locked = yield* poor(database, `IDENTIFIED BY '${PASSWORD}' ACCOUNT LOCK`)
      yield* sql(database, `GRANT INSERT ON ${tableOf(database)} TO ${locked.user}`)
      yield* refused(locked.options, flavour === "mariadb" ? "4151" : "3118", /locked/)
    })
  )

  it.scopedLive("is not blamed if the definer of a trigger is gone or has lost a right", () =>
    Effect.gen(function* () {
      const database = yield* migrated(rootUrl)
      const { options, user } = yield* poor(database)
      yield* sql(database, `GRANT INSERT ON \`${database.config.database}\`.* TO ${user}`)
      const notOurs = (reason: string) => {
        assert.notMatch(reason, /account poor|GRANT INSERT to it|migrate/)
      }

      // a trigger whose definer lost the right to have triggers there
      const definer = yield* poor(database)
      yield* sql(database, `GRANT ALL ON \`${database.config.database}\`.* TO ${definer.user}`)
      yield* sql(database, "CREATE TABLE copies (prompt LONGTEXT)")
      yield* sql(
        database,
        `CREATE DEFINER = ${definer.user} TRIGGER copy AFTER INSERT ON ${UseLog.table} FOR EACH ROW ` +
          "INSERT INTO copies VALUES (NEW.prompt)"
      )
      yield* delivers(options)
      yield* sql(database, `REVOKE TRIGGER ON \`${database.config.database}\`.* FROM ${definer.user}`)
      notOurs(yield* refused(options, "1142", /definer .*TRIGGER/))
      yield* sql(database, `GRANT TRIGGER ON \`${database.config.database}\`.* TO ${definer.user}`)
      yield* sql(database, `REVOKE INSERT ON \`${database.config.database}\`.* FROM ${definer.user}`)
      notOurs(yield* refused(options, "1142", /definer .*INSERT on copies/))
      yield* sql(database, `DROP USER ${definer.user}`)
      notOurs(yield* refused(options, "1449", /behind the table/))
      yield* sql(database, "DROP TRIGGER copy")
      yield* delivers(options)
    })
  )

  it.scopedLive("is not blamed for a view whose definer is gone", () =>
    Effect.gen(function* () {
      const database = yield* migrated(rootUrl)
      const { options, user } = yield* poor(database)
      yield* sql(database, `GRANT INSERT ON \`${database.config.database}\`.* TO ${user}`)
      const definer = yield* poor(database)
      yield* sql(database, `GRANT ALL ON \`${database.config.database}\`.* TO ${definer.user}`)
      yield* sql(
        database,
        `CREATE DEFINER = ${definer.user} SQL SECURITY DEFINER VIEW logs AS SELECT * FROM ${UseLog.table}`
      )
      const tables = { use_log: "logs" }
      // the uploader cannot see the key behind a view
      const through = { ...options, deduplication: "none" } as const
      assert.deepStrictEqual(yield* deliver(through, tables), { rejected: [] })
      yield* sql(database, `DROP USER ${definer.user}`)
      const error = yield* failureOf(deliver(through, tables))
      assert.strictEqual(error.class, "operator", error.message)
      assert.match(error.reason, /definer/)
      assert.notMatch(error.reason, /password|migrate|account poor/)
    })
  )

  it.scopedLive("gets the advice to widen id when the ids are used up", () =>
    Effect.gen(function* () {
      const database = yield* migrated(rootUrl)
      const { options, user } = yield* poor(database)
      yield* sql(database, `GRANT INSERT ON ${tableOf(database)} TO ${user}`)
      yield* sql(database, `ALTER TABLE ${UseLog.table} MODIFY id TINYINT NOT NULL AUTO_INCREMENT`)
      yield* sql(database, `ALTER TABLE ${UseLog.table} AUTO_INCREMENT = 126`)
      const error = yield* failureOf(
        Effect.gen(function* () {
          const { upload } = yield* uploaderOf(options)
          for (let batch = 0; batch < 3; batch++) {
            const result = yield* upload({ definition: UseLog, events: uses(2) })
            assert.deepStrictEqual(result, { rejected: [] })
          }
        })
      )
      assert.strictEqual(error.class, "operator", error.message)
      assert.match(error.reason, /widen id/)
      yield* sql(database, `ALTER TABLE ${UseLog.table} MODIFY id BIGINT NOT NULL AUTO_INCREMENT`)
      yield* delivers(options)
    })
  )
})

// tls.test.ts tests caching_sha2_password and sha256_password with and without TLS

onEachFlavour("a server without TLS", (flavour) => {
  let server: Awaited<ReturnType<typeof startServer>>
  beforeAll(async () => {
    server = await startServer({ flavour, args: flavour === "mysql" ? ["--tls-version="] : [] })
    return () => server.stop()
  }, 60_000)

  it.scopedLive("delivers on loopback after a restart, when the server has cached no password", () =>
    Effect.gen(function* () {
      const database = yield* migrated(server.rootUrl)
      const { options, user } = yield* poor(database)
      yield* sql(database, `GRANT INSERT ON ${tableOf(database)} TO ${user}`)
      yield* delivers(options)
      yield* Effect.promise(() => server.restart())
      yield* delivers(options)
      yield* refused({ ...options, password: Redacted.make("wrong") }, "1045", /check its password/)
    })
  )
})
