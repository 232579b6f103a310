/**
 * The uploader against two real servers: one whose global settings this file changes, and one with the oddest defaults.
 */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Redacted,
  Schedule,
  Schema,
  Scope
} from "effect"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import { promisify } from "node:util"
import { createConnection } from "mysql2/promise"
import { classify } from "../../src/internal/database/mysql/errors.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { UploadError } from "../../src/schema/Errors.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { openAudit } from "../support/auditHere.js"
import { eventually } from "../support/clock.js"
import { createReferenceTables, type TestDatabase } from "../support/database.js"
import { login, stored, use, uses } from "../support/events.js"
import { account, connectionOptions, failureOf, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import type { Flavour, MysqlServer } from "../support/mysqlServer.js"
import { makeCertificates, type Certificates } from "../support/certificates.js"
import { findServer, startServer } from "../support/mysqlServer.js"
import { nodeDisk, temporaryDirectory } from "../support/queue.js"
import { onEachFlavour } from "../support/servers.js"
import { type Address, lyingProxy, refusingPort, silentServer, tcpProxy } from "../support/net.js"

/** The servers of the running tests. */
let server: MysqlServer
let odd: MysqlServer
let certificates: Certificates

const running = new Map<Flavour, readonly [MysqlServer, MysqlServer]>()

const start = async (flavour: Flavour) =>
  running.set(
    flavour,
    await Promise.all([
      // otherwise MySQL makes certificates for itself
      startServer({ flavour, args: flavour === "mysql" ? ["--tls-version="] : [] }),
      startServer({
        flavour,
        args: [
          "--lc-messages=fr_FR",
          "--sql-mode=NO_BACKSLASH_ESCAPES",
          "--autocommit=OFF",
          "--default-time-zone=+08:00",
          "--max-error-count=1",
          "--max-allowed-packet=1M",
          "--loose-skip-character-set-client-handshake",
          `--ssl-ca=${certificates.authority}`,
          `--ssl-cert=${certificates.certificate}`,
          `--ssl-key=${certificates.key}`
        ]
      })
    ])
  )

beforeAll(async () => {
  certificates = await makeCertificates("db.test")
  const flavours: ReadonlyArray<Flavour> = ["mariadb", "mysql"]
  await Promise.all(flavours.filter((flavour) => findServer(flavour)).map(start))
}, 180_000)

afterAll(async () => {
  await Promise.all([...running.values()].flat().map((one) => one.stop()))
  fs.rmSync(certificates.directory, { recursive: true })
})

/** Runs the tests on the servers of each flavour. */
const onEachPair = (what: string, tests: (flavour: Flavour) => void) =>
  onEachFlavour(what, (flavour) => {
    beforeAll(() => {
      ;[server, odd] = running.get(flavour)!
    })
    tests(flavour)
  })

// ------------------------------------------------------------------------------------------------------ helpers

/** A database on this file's server with the tables as `migrate` makes them. */
const migrated = (rootUrl = server.rootUrl) =>
  Effect.tap(mysqlDatabase(rootUrl), (database) => MysqlUploader.migrate(connectionOptions(database)))

const sql = <Row = Record<string, unknown>>(database: TestDatabase, text: string) =>
  Effect.promise(() => database.query<Row>(text))

const upload = ({ upload }: Uploader["Type"], events: ReadonlyArray<StoredEvent>, definition = UseLog) =>
  upload({ definition, events })

const uploadLogins = ({ upload }: Uploader["Type"], events: ReadonlyArray<StoredEvent>) =>
  upload({ definition: LoginLog, events })

/** How many INSERTs the server has seen. */
const insertsOf = (database: TestDatabase) =>
  Effect.map(sql<{ Value: string }>(database, "SHOW GLOBAL STATUS LIKE 'Com_insert'"), ([row]) =>
    Number(row!.Value)
  )

/** The prompts in the order of the rows. */
const prompts = (database: TestDatabase) =>
  Effect.map(sql<{ prompt: string }>(database, `SELECT prompt FROM ${UseLog.table} ORDER BY id`), (rows) =>
    rows.map((row) => row.prompt)
  )

const count = (database: TestDatabase) =>
  Effect.map(sql<{ n: number }>(database, `SELECT COUNT(*) AS n FROM ${UseLog.table}`), (rows) => rows[0]!.n)

/** Extra time on a loaded machine. An upload that waits for the server takes 10 seconds, or for ever. */
const SLACK_MILLIS = 7000

/** Runs an effect, and returns its duration in milliseconds too. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration, value]) => [Duration.toMillis(duration), value] as const)

const expectFailure = (error: UploadError, cls: "transient" | "operator", code: string | number) =>
  assert.deepStrictEqual([error.class, error.code], [cls, String(code)], error.message)

const acquire = <A>(open: () => Promise<A>, close: (resource: A) => unknown) =>
  Effect.acquireRelease(Effect.promise(open), (resource) => Effect.promise(async () => close(resource)))

/** A second client, for locks and long transactions. */
const client = (database: TestDatabase) =>
  acquire(
    () => createConnection({ uri: database.url }),
    (connection) => connection.destroy()
  )

/** A proxy in front of the server. */
const proxied = acquire(
  () => tcpProxy({ target: server }),
  (proxy) => proxy.close()
)
/** How root connects to the database through it. */
const through = ({ host, port }: Address, database: TestDatabase): MysqlUploader.Options => ({
  ...connectionOptions(database),
  host,
  port
})

// ---------------------------------------------------------------------------------------------------- accounts

onEachPair("an account with INSERT alone", () => {
  it.scopedLive("delivers, and delivers a batch again without duplicates", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
      const events = uses(20)
      assert.deepStrictEqual(yield* upload(uploader, events.slice(0, 10)), { rejected: [] })
      assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      assert.deepStrictEqual(
        yield* prompts(database),
        events.map((event) => String(event.row[2]))
      )
    })
  )

  it.scopedLive("logs in without TLS, also after a restart", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const options = yield* account(database, "INSERT")
      for (let round = 0; round < 2; round++) {
        assert.deepStrictEqual(yield* upload(yield* uploaderOf(options), uses(2)), { rejected: [] })
        // A restarted server has cached no password, so caching_sha2_password asks for it again.
        yield* Effect.promise(server.restart)
      }
      assert.strictEqual(yield* count(database), 4)
    })
  )
})

// -------------------------------------------------------------------------------------- failures for an operator

onEachPair("a failure for the operator keeps the queue waiting and blames no event", () => {
  it.scopedLive("1045, 1049, 1044: password, database, rights", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const options = yield* account(database, "INSERT")
      const wrong = yield* uploaderOf({ ...options, password: Redacted.make("PROMPT-wrong") })
      expectFailure(yield* failureOf(upload(wrong, uses(1))), "operator", 1045)
      const nowhere = yield* uploaderOf({ ...connectionOptions(database), database: "nowhere" })
      expectFailure(yield* failureOf(upload(nowhere, uses(1))), "operator", 1049)
      const elsewhere = yield* uploaderOf({ ...options, database: "mysql" })
      expectFailure(yield* failureOf(upload(elsewhere, uses(1))), "operator", 1044)
    })
  )

  it.scopedLive(
    "1146, 1054, no key: the reason names `effect-audit migrate`, and delivery continues after it",
    () =>
      Effect.gen(function* () {
        const database = yield* mysqlDatabase(server.rootUrl)
        const uploader = yield* uploaderOf(connectionOptions(database))
        const events = uses(20)
        const fails = (code: string | number) =>
          Effect.map(failureOf(upload(uploader, events)), (error) => {
            expectFailure(error, "operator", code)
            assert.include(error.reason, "effect-audit migrate")
          })
        const delivers = Effect.zipRight(
          MysqlUploader.migrate(connectionOptions(database)),
          Effect.map(upload(uploader, events), ({ rejected }) => assert.deepStrictEqual(rejected, []))
        )
        yield* fails(1146)
        yield* Effect.promise(() => createReferenceTables(database))
        yield* fails(1054)
        yield* delivers
        // while the session knows the old table
        yield* sql(database, `ALTER TABLE ${UseLog.table} DROP COLUMN event_time`)
        yield* fails(1054)
        yield* delivers
        yield* sql(database, `DROP TABLE ${UseLog.table}`)
        yield* fails(1146)
        yield* delivers
        // the next session sees it: a session never sends the same events twice
        yield* sql(database, `ALTER TABLE ${UseLog.table} DROP KEY effect_audit_event_id`)
        const another = yield* uploaderOf(connectionOptions(database))
        expectFailure(yield* failureOf(upload(another, events)), "operator", "NO_UNIQUE_KEY")
        yield* delivers
        assert.strictEqual(yield* count(database), 20)
      })
  )

  it.scopedLive("1142, 1364, 1062 on another key", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const reader = yield* uploaderOf(yield* account(database, "SELECT"))
      const denied = yield* failureOf(upload(reader, uses(3)))
      expectFailure(denied, "operator", 1142)
      assert.include(denied.reason, "GRANT INSERT")

      const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
      yield* sql(database, `ALTER TABLE ${UseLog.table} ADD COLUMN theirs INT NOT NULL`)
      expectFailure(yield* failureOf(upload(uploader, uses(3))), "operator", 1364)
      yield* sql(
        database,
        `ALTER TABLE ${UseLog.table} MODIFY COLUMN theirs INT NULL, ADD UNIQUE KEY event_id (user_name)`
      )
      expectFailure(
        yield* failureOf(
          upload(
            uploader,
            uses(3, () => ({ userName: "PROMPT" }))
          )
        ),
        "operator",
        1062
      )
      // the first event already has the name
      assert.strictEqual(yield* count(database), 1)
    })
  )

  it.scopedLive(
    "rejects a text with characters that its column cannot hold, with the ALTER as advice, and stores it after that",
    () =>
      Effect.gen(function* () {
        const database = yield* mysqlDatabase(server.rootUrl)
        yield* sql(database, `ALTER DATABASE CHARACTER SET latin1`)
        yield* MysqlUploader.migrate(connectionOptions(database))
        yield* sql(
          database,
          `ALTER TABLE ${UseLog.table} MODIFY model VARCHAR(255) CHARACTER SET latin1, MODIFY prompt LONGTEXT CHARACTER SET utf8mb3 NOT NULL`
        )
        const uploader = yield* uploaderOf(connectionOptions(database))
        const events = [
          ...uses(4, () => ({ model: "café", prompt: "中文" })),
          use({ model: "模型" }),
          use({ prompt: "🦊 PROMPT" }),
          ...uses(4)
        ]
        const { rejected } = yield* upload(uploader, events)
        assert.deepStrictEqual(
          rejected.map(({ code, index }) => [index, code]),
          [
            [4, "1366"],
            [5, "1366"]
          ]
        )
        assert.include(rejected[0]!.reason, `latin1 of ${UseLog.table}.model`)
        assert.include(rejected[1]!.reason, `utf8mb3 of ${UseLog.table}.prompt`)
        const alter = /ALTER TABLE .*/.exec(rejected[1]!.reason)![0]
        yield* sql(database, alter)
        // on the same connection, like dead letters that are retried
        assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
        assert.deepStrictEqual(
          (yield* prompts(database)).toSorted(),
          events.map((event) => String(event.row[2])).toSorted()
        )
        assert.deepStrictEqual(
          yield* sql(database, `SELECT model FROM ${UseLog.table} WHERE model LIKE '模%'`),
          [{ model: "模型" }]
        )
      })
  )

  it.scopedLive("rejects invalid URLs, and settings without a database", () =>
    Effect.gen(function* () {
      for (const url of [
        "s3cr3t-ключ",
        "http://a:s3cr3t-ключ@b/c",
        "mysql://a:s3cr3t-ключ@b:port/c",
        "mysql://a:%E0%A4@b/c"
      ]) {
        expectFailure(
          yield* failureOf(upload(yield* uploaderOf({ url: Redacted.make(url) }), uses(1))),
          "operator",
          "CONFIG"
        )
      }
      expectFailure(
        yield* failureOf(upload(yield* uploaderOf({ host: "127.0.0.1" }), uses(1))),
        "operator",
        "CONFIG"
      )
    })
  )
})

// -------------------------------------------------------------------------------------------- transient failures

onEachPair("a failure that passes by itself", (flavour) => {
  it.scopedLive("1205, 1213, and 1969 of MariaDB: locks and time limits", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(connectionOptions(database))
      yield* upload(uploader, uses(1))
      const events = uses(2)
      const id = (event: StoredEvent) => `UNHEX('${event.eventId.replaceAll("-", "")}')`
      const other = yield* client(database)
      const says = (text: string) => Effect.promise(() => other.query(text))
      const insert = (event: StoredEvent) =>
        `INSERT INTO ${UseLog.table} (user_name, device_name, prompt, status, event_id) VALUES ('', '', '', '', ${id(event)})`

      // The other client has inserted our second event, and then wants the first one, which we hold.
      yield* says("START TRANSACTION")
      for (const heavy of uses(20)) yield* says(insert(heavy))
      yield* says(insert(events[1]!))
      const ours = yield* Effect.fork(failureOf(upload(uploader, events)))
      yield* Effect.sleep("300 millis")
      yield* says(insert(events[0]!))
      expectFailure(yield* Fiber.join(ours), "transient", 1213)

      expectFailure(yield* failureOf(upload(uploader, events)), "transient", 1205)
      // The server ends the statement no later than we do, by max_statement_time. MySQL has that for SELECT only.
      const hasty = yield* uploaderOf({ ...connectionOptions(database), statementTimeout: "1 second" })
      const { class: cls, code } = yield* failureOf(upload(hasty, events))
      assert.strictEqual(cls, "transient")
      // a lock wait takes at least a second, which is our own limit here
      assert.oneOf(code, flavour === "mysql" ? ["ETIMEDOUT", "1205"] : ["1969", "1205"])

      yield* says("ROLLBACK")
      assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      assert.strictEqual(yield* count(database), 3)
    })
  )

  it.scopedLive("a server that refuses or is silent: ECONNREFUSED, ETIMEDOUT", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const silent = yield* acquire(silentServer, (listener) => listener.close())
      const nobody = yield* Effect.promise(refusingPort)
      const at = (address: { host: string; port: number }) =>
        uploaderOf({ ...connectionOptions(database), ...address, connectTimeout: "300 millis" })
      const scope = yield* Scope.make()
      expectFailure(yield* failureOf(upload(yield* at(nobody), uses(1))), "transient", "ECONNREFUSED")
      const [waited, error] = yield* timed(
        failureOf(Effect.flatMap(Scope.extend(at(silent), scope), (uploader) => upload(uploader, uses(1))))
      )
      expectFailure(error, "transient", "ETIMEDOUT")
      assert.isBelow(waited, SLACK_MILLIS)
      yield* Scope.close(scope, Exit.void)
      yield* eventually(() => assert.strictEqual(silent.connections, 0))
    })
  )

  it.scopedLive("a connection killed at work fails, and one closed while idle causes no failure", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(connectionOptions(database))
      const kill = Effect.gen(function* () {
        const connections = yield* sql<{ Id: number; db: string; Info: string | null }>(
          database,
          "SHOW PROCESSLIST"
        )
        const ours = connections.filter(
          (_) => _.db === database.config.database && _.Info?.startsWith("SHOW") !== true
        )
        for (const { Id } of ours)
          yield* Effect.promise(() => database.query(`KILL ${Id}`).catch(() => undefined))
      })
      yield* upload(uploader, uses(1))
      const locker = yield* client(database)
      yield* Effect.promise(() => locker.query("SELECT 1"))
      locker.destroy()
      yield* kill
      yield* Effect.sleep("100 millis")
      assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })

      const table = yield* client(database)
      yield* Effect.promise(() => table.query(`LOCK TABLES ${UseLog.table} WRITE`))
      const blocked = yield* Effect.fork(failureOf(upload(uploader, uses(1))))
      yield* Effect.sleep("200 millis")
      yield* kill
      const error = yield* Fiber.join(blocked)
      assert.strictEqual(error.class, "transient")
      assert.oneOf(error.code, ["1927", "1317", "1158", "PROTOCOL_CONNECTION_LOST", "ECONNRESET"])
      assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })
    })
  )

  it.scopedLive("a server that restarts or crashes: events are delivered afterwards", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(connectionOptions(database))
      yield* upload(uploader, uses(1))
      yield* Effect.promise(server.restart)
      assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })

      const locker = yield* client(database)
      yield* Effect.promise(() => locker.query(`LOCK TABLES ${UseLog.table} WRITE`))
      const events = uses(5)
      const under = yield* Effect.fork(failureOf(upload(uploader, events)))
      yield* Effect.sleep("200 millis")
      yield* Effect.promise(server.kill9)
      const broken = yield* Fiber.join(under)
      assert.strictEqual(broken.class, "transient")
      assert.oneOf(broken.code, ["PROTOCOL_CONNECTION_LOST", "ECONNRESET"])
      expectFailure(yield* failureOf(upload(uploader, events)), "transient", "ECONNREFUSED")
      yield* Effect.promise(server.restart)
      assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      assert.strictEqual(yield* count(database), 7)
    }).pipe(
      Effect.ensuring(
        Effect.suspend(() => (server.pid === undefined ? Effect.promise(server.restart) : Effect.void))
      )
    )
  )

  it.scopedLive("1040: too many connections", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const options = yield* account(database, "INSERT")
      const [before] = yield* sql<{ n: number }>(database, "SELECT @@max_connections AS n")
      yield* Effect.addFinalizer(() => sql(database, `SET GLOBAL max_connections = ${before!.n}`))
      yield* sql(database, "SET GLOBAL max_connections = 10")
      for (let open = 0; open < 10; open++) {
        yield* acquire(
          () =>
            createConnection({
              host: server.host,
              port: server.port,
              user: options.username!,
              password: Redacted.value(options.password!)
            }).catch(() => undefined),
          (connection) => connection?.destroy()
        )
      }
      expectFailure(yield* failureOf(upload(yield* uploaderOf(options), uses(1))), "transient", 1040)
    })
  )

  it.scopedLive("concurrent uploads open no more connections than allowed", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      for (const connections of [1, 2]) {
        const proxy = yield* proxied
        const uploader = yield* uploaderOf({ ...through(proxy, database), connections })
        const uploads = Array.from({ length: 6 }, () => upload(uploader, uses(5)))
        yield* Effect.all(uploads, { concurrency: "unbounded" })
        assert.strictEqual(proxy.connections, connections)
      }
      assert.strictEqual(yield* count(database), 60)
    })
  )

  it.scopedLive("1290: an attempt goes on from a read-only server to the next host", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const options = yield* account(database, "INSERT")
      const proxy = yield* proxied
      const nobody = yield* Effect.promise(refusingPort)
      const silent = yield* acquire(silentServer, (listener) => listener.close())
      const address = ({ host, port }: { host: string; port: number }) => `${host}:${port}`
      const uploader = yield* uploaderOf({
        ...options,
        hosts: [nobody, silent, proxy, server].map(address),
        // a busy machine takes longer than 200 ms for a login
        connectTimeout: "3 seconds"
      })
      // the first two do not answer, so the batch goes to the third
      assert.deepStrictEqual(yield* upload(uploader, uses(5)), { rejected: [] })
      assert.strictEqual(proxy.connections, 1)

      yield* Effect.addFinalizer(() => sql(database, "SET GLOBAL read_only = OFF"))
      yield* sql(database, "SET GLOBAL read_only = ON")
      expectFailure(yield* failureOf(upload(uploader, uses(1))), "transient", 1290)
      yield* sql(database, "SET GLOBAL read_only = OFF")
      assert.deepStrictEqual(yield* upload(uploader, uses(5)), { rejected: [] })
      assert.strictEqual(yield* count(database), 10)
    })
  )
})

// --------------------------------------------------------------------------------------------- a refused record

onEachPair("a record that the database never accepts", (flavour) => {
  it.scopedLive(
    "1048, 1264, 1265, 1292, 1366, 1406 and a CHECK: is rejected with the code, and the others are delivered",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated()
        const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
        yield* sql(
          database,
          `ALTER TABLE ${UseLog.table} MODIFY duration_ms INT NULL, MODIFY result_path VARCHAR(20) NOT NULL DEFAULT '',
          MODIFY model ENUM('a', 'b') NULL, MODIFY finish_reason INT NULL, ADD CONSTRAINT c CHECK (status <> 'odd')`
        )
        const good = { resultPath: "out" }
        const cases: ReadonlyArray<readonly [number, StoredEvent]> = [
          [1048, use()],
          [1264, use({ ...good, durationMs: 2 ** 31 })],
          [1265, use({ ...good, model: "c" })],
          [1366, use({ ...good, finishReason: "STOP" })],
          [1406, use({ resultPath: "x".repeat(21) })],
          [flavour === "mysql" ? 3819 : 4025, use({ ...good, status: "odd" })]
        ]
        const events = cases.flatMap(([, event]) => [...uses(7, () => good), event, ...uses(7, () => good)])
        const { rejected } = yield* upload(uploader, events)
        assert.deepStrictEqual(
          rejected.map(({ code, index }) => [index, code]),
          cases.map(([code], index) => [15 * index + 7, String(code)])
        )
        for (const { reason } of rejected) assert.isAbove(reason.length, 10)
        assert.strictEqual(yield* count(database), 14 * cases.length)

        const late = [login(), login({ loginTime: "yesterday" }), login()]
        const outcome = yield* uploadLogins(uploader, late)
        assert.deepStrictEqual(
          outcome.rejected.map(({ code, index }) => [index, code]),
          [[1, "1292"]]
        )
      })
  )

  it.scopedLive("among 500 costs at most 2 log2 n further statements, wherever it is", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(connectionOptions(database))
      const inserts = insertsOf(database)
      yield* upload(uploader, uses(1))
      for (const bad of [0, 1, 123, 249, 250, 498, 499]) {
        const events = uses(500, (index) => (index === bad ? { userName: "x".repeat(300) } : {}))
        const before = yield* inserts
        const { rejected } = yield* upload(uploader, events)
        const statements = (yield* inserts) - before
        assert.deepStrictEqual(
          rejected.map(({ code, index }) => [index, code]),
          [[bad, "1406"]]
        )
        assert.isAtMost(statements, 1 + 2 * Math.log2(500))
      }
      const inOrder = yield* prompts(database)
      assert.strictEqual(inOrder.length, 1 + 7 * 499)
      assert.deepStrictEqual(
        inOrder.slice(1, 500),
        Array.from({ length: 499 }, (_, index) => String(index + 1))
      )
    })
  )

  it.scopedLive("is not rejected if most of a batch is refused for one reason: the schema has drifted", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(connectionOptions(database))
      const long = { userName: "x".repeat(300) }
      const odd = (period: number) => uses(100, (index) => (index % period === 0 ? long : {}))
      assert.strictEqual((yield* upload(uploader, odd(2))).rejected.length, 50)
      const mostly = uses(100, (index) => (index < 51 ? long : {}))
      const drifted = yield* failureOf(upload(uploader, mostly))
      expectFailure(drifted, "operator", 1406)
      assert.include(drifted.reason, UseLog.table)
      yield* sql(database, `ALTER TABLE ${UseLog.table} MODIFY user_name VARCHAR(300) NOT NULL`)
      assert.deepStrictEqual(yield* upload(uploader, mostly), { rejected: [] })
      assert.strictEqual(yield* count(database), 150)
    })
  )

  it.scopedLive(
    "in a quiet program is rejected up to nine times in a row, and then the schema has drifted",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated()
        const uploader = yield* uploaderOf(connectionOptions(database))
        const bad = () => use({ userName: "x".repeat(300) })
        const rejects = (times: number) =>
          Effect.gen(function* () {
            for (let n = 0; n < times; n++)
              assert.strictEqual((yield* upload(uploader, [bad()])).rejected.length, 1)
          })
        yield* rejects(9)
        // a stored event shows that the table still fits
        yield* upload(uploader, uses(1))
        yield* rejects(9)
        const next = bad()
        for (let n = 0; n < 3; n++)
          expectFailure(yield* failureOf(upload(uploader, [next])), "operator", 1406)
        // other tables are not affected
        assert.deepStrictEqual(yield* uploadLogins(uploader, [login()]), { rejected: [] })
        yield* sql(database, `ALTER TABLE ${UseLog.table} MODIFY user_name VARCHAR(300) NOT NULL`)
        assert.deepStrictEqual(yield* upload(uploader, [next]), { rejected: [] })
      })
  )

  it.scopedLive("becomes a dead letter again if it is retried, and stops nothing", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      yield* sql(database, `ALTER TABLE ${UseLog.table} MODIFY prompt VARCHAR(4) NOT NULL`)
      const directory = yield* temporaryDirectory
      const disk = yield* nodeDisk
      const audit = yield* openAudit(
        { directory },
        { uploader: yield* uploaderOf(connectionOptions(database)) }
      )
      const record = (prompt: string, times = 1) =>
        Effect.zipRight(Effect.replicateEffect(audit.use(prompt), times), audit.flush)
      for (let n = 0; n < 2; n++) {
        yield* record("too long", 9)
        yield* record("good")
      }
      assert.deepInclude(yield* audit.status, { dead: 18, retried: 0 })
      yield* requests.submit(disk, directory, { action: "retry", letters: "all", by: "li" })
      yield* Effect.repeat(audit.status, {
        until: ({ dead, retried }) => dead === 18 && retried === 18,
        schedule: Schedule.spaced("20 millis")
      })
      yield* record("good")
      assert.deepInclude(yield* audit.status, { state: "idle" })
      assert.deepStrictEqual(yield* prompts(database), ["good", "good", "good"])
    }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
  )

  it.scopedLive("1644: does not stop the others if a trigger refuses it", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      yield* sql(
        database,
        `CREATE TRIGGER refuse BEFORE INSERT ON ${UseLog.table} FOR EACH ROW ` +
          "IF NEW.prompt = 'bad' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
      )
      const uploader = yield* uploaderOf(connectionOptions(database))
      const { rejected } = yield* upload(uploader, [...uses(3), use({ prompt: "bad" }), ...uses(3)])
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [code, index]),
        [["1644", 3]]
      )
      assert.lengthOf(yield* prompts(database), 6)
    })
  )

  it.scopedLive("is not stored cut off in a table without transactions", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      yield* sql(database, `ALTER TABLE ${UseLog.table} ENGINE=MyISAM`)
      const uploader = yield* uploaderOf(connectionOptions(database))
      const events = uses(20, (index) => (index === 13 ? { model: "m".repeat(300) } : {}))
      const { rejected } = yield* upload(uploader, events)
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [code, index]),
        [["1406", 13]]
      )
      assert.lengthOf(yield* prompts(database), 19)
    })
  )

  it.scopedLive('is not stored again at each attempt with deduplication "none"', () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(server.rootUrl)
      yield* Effect.promise(() => createReferenceTables(database))
      yield* sql(
        database,
        `CREATE TRIGGER copy BEFORE INSERT ON ${UseLog.table} FOR EACH ROW IF NEW.prompt = 'copied' THEN ` +
          `SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1142, MESSAGE_TEXT = 'no right to copy'; END IF`
      )
      const uploader = yield* uploaderOf({ ...connectionOptions(database), deduplication: "none" })
      // The first bad event causes narrowing. The last ones are most of the rest, but not most of the batch.
      const tooLong = () => ({ model: "m".repeat(300) })
      const bad = [20, ...Array.from({ length: 11 }, (_, index) => 41 + index)]
      const events = [
        ...uses(20),
        ...uses(1, tooLong),
        ...uses(19),
        use({ prompt: "copied" }),
        ...uses(11, tooLong)
      ]
      for (let round = 0; round < 3; round++) {
        assert.include(yield* Effect.flip(upload(uploader, events)), { class: "operator", code: "1142" })
      }
      yield* sql(database, "DROP TRIGGER copy")
      const { rejected } = yield* upload(uploader, events)
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [code, index]),
        bad.map((index) => ["1406", index])
      )
      assert.lengthOf(yield* prompts(database), 40)
      // the event may be repeated, but not by our own retries
      yield* upload(uploader, events.slice(0, 1))
      assert.lengthOf(yield* prompts(database), 41)
    })
  )

  it.scopedLive("without a key a shutdown during a statement stores nothing twice", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(server.rootUrl)
      yield* Effect.promise(() => createReferenceTables(database))
      yield* sql(
        database,
        `CREATE TRIGGER slow BEFORE INSERT ON ${UseLog.table} FOR EACH ROW SET NEW.model = SLEEP(0.1)`
      )
      const uploader = yield* uploaderOf({ ...connectionOptions(database), deduplication: "none" })
      const audit = yield* openAudit({ directory: yield* temporaryDirectory }, { uploader })
      const recorded = Array.from({ length: 10 }, (_, index) => String(index))
      yield* Effect.forEach(recorded, audit.use, { concurrency: "unbounded", discard: true })
      const isInserting = sql(
        database,
        `SELECT 1 FROM information_schema.processlist WHERE info LIKE 'INSERT%' AND db = DATABASE()`
      )
      yield* Effect.repeat(isInserting, {
        until: (statements) => statements.length > 0,
        schedule: Schedule.spaced("10 millis")
      })
      yield* audit.close
      assert.sameMembers(yield* prompts(database), recorded)
    }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
  )

  it.scopedLive("in one batch with repeated events is rejected, and the rest is stored once", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
      const events = uses(500, (index) => (index % 100 === 50 ? { userName: "x".repeat(300) } : {}))
      yield* upload(uploader, events.slice(30, 40))
      yield* upload(uploader, events.slice(320, 333))
      const { rejected } = yield* upload(uploader, events)
      assert.deepStrictEqual(
        rejected.map(({ index }) => index),
        [50, 150, 250, 350, 450]
      )
      assert.strictEqual(yield* count(database), 495)
      assert.strictEqual((yield* upload(uploader, events)).rejected.length, 5)
      assert.strictEqual(yield* count(database), 495)
    })
  )
})

// ------------------------------------------------------------------------------------------------- hung servers

onEachPair("a server that hangs", () => {
  it.scopedLive("holds up neither a time-out, nor an interruption, nor the end of the scope", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const proxy = yield* proxied
      const options = through(proxy, database)
      const open = proxy.connections
      const scope = yield* Scope.make()
      const uploader = yield* Scope.extend(uploaderOf({ ...options, statementTimeout: "500 millis" }), scope)
      const events = uses(50)
      yield* upload(uploader, events.slice(0, 10))

      yield* Effect.addFinalizer(() => Effect.sync(server.sigcont))
      server.sigstop()
      const [waited, error] = yield* timed(failureOf(upload(uploader, events)))
      expectFailure(error, "transient", "ETIMEDOUT")
      assert.isBelow(waited, SLACK_MILLIS)
      const [connecting, again] = yield* timed(
        failureOf(upload(yield* uploaderOf({ ...options, connectTimeout: "500 millis" }), events))
      )
      expectFailure(again, "transient", "ETIMEDOUT")
      assert.isBelow(connecting, SLACK_MILLIS)
      server.sigcont()
      assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      assert.deepStrictEqual(
        yield* prompts(database),
        events.map((event) => event.row[2] as string)
      )

      // interrupted during a statement, and while connecting
      for (const warm of [true, false]) {
        const other = yield* uploaderOf(options)
        if (warm) yield* upload(other, uses(1))
        server.sigstop()
        const fiber = yield* Effect.fork(upload(other, uses(5)))
        yield* Effect.sleep("200 millis")
        const [stopping] = yield* timed(Fiber.interrupt(fiber))
        assert.isBelow(stopping, SLACK_MILLIS)
        server.sigcont()
      }

      // a closing scope says goodbye to a server that does not answer
      server.sigstop()
      const [closing] = yield* timed(Scope.close(scope, Exit.void))
      assert.isBelow(closing, SLACK_MILLIS)
      yield* eventually(() => assert.strictEqual(proxy.connections, open))
      server.sigcont()
    })
  )

  it.live("does not keep the process from ending", () =>
    Effect.gen(function* () {
      const silent = yield* Effect.promise(silentServer)
      const script = `
        import { Context, Effect, Fiber, Redacted } from "effect"
        import * as MysqlUploader from ${JSON.stringify(new URL("../../src/layers/MysqlUploader.ts", import.meta.url).href)}
        import { Uploader } from ${JSON.stringify(new URL("../../src/services/Uploader.ts", import.meta.url).href)}
        import { uses } from ${JSON.stringify(new URL("../support/events.ts", import.meta.url).href)}
        import { UseLog } from ${JSON.stringify(new URL("../../src/schema/UseLog.ts", import.meta.url).href)}
        const program = Effect.gen(function* () {
          const uploader = yield* Uploader
          const fiber = yield* Effect.fork(uploader.upload({ definition: UseLog, events: uses(1) }))
          yield* Effect.sleep("200 millis")
          yield* Fiber.interrupt(fiber)
        })
        const url = Redacted.make("mysql://root@${silent.host}:${silent.port}/audit")
        await Effect.runPromise(Effect.provide(program, MysqlUploader.layer({ url, connectTimeout: "10 minutes" })))
        console.log(performance.now())`
      const run = promisify(execFile)(process.execPath, [
        "--import",
        "tsx",
        "--input-type=module",
        "--eval",
        script
      ])
      const { stdout } = yield* Effect.promise(() => run)
      // execFile resolves when the process has ended
      assert.isAbove(Number(stdout), 0)
      yield* Effect.promise(() => silent.close())
    }).pipe(Effect.timeout("1 minute"))
  )

  it.scopedLive("gets smaller statements while it is slow, and larger ones again afterwards", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      yield* sql(database, `CREATE TRIGGER slow BEFORE INSERT ON ${UseLog.table} FOR EACH ROW DO SLEEP(0.02)`)
      const uploader = yield* uploaderOf({ ...connectionOptions(database), statementTimeout: "1 second" })
      const events = uses(100)
      const tries = Effect.retry(upload(uploader, events), { times: 5 })
      assert.include(yield* Effect.flip(upload(uploader, events)), { class: "transient" })
      assert.deepStrictEqual(yield* tries, { rejected: [] })
      assert.lengthOf(yield* prompts(database), 100)
      yield* sql(database, "DROP TRIGGER slow")
      const statements = (n: number) =>
        Effect.gen(function* () {
          const before = yield* insertsOf(database)
          yield* upload(uploader, uses(n))
          return (yield* insertsOf(database)) - before
        })
      assert.isAbove(yield* statements(100), 1)
      yield* statements(2000)
      assert.strictEqual(yield* statements(100), 1)
    })
  )

  it.scopedLive("loses the answer to a commit: the batch is sent again and stored once", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const proxy = yield* proxied
      const uploader = yield* uploaderOf({ ...through(proxy, database), statementTimeout: "200 millis" })
      const all: Array<StoredEvent> = []
      for (let round = 0; round < 5; round++) {
        // describes the session first, so that the INSERT loses its answer
        yield* upload(uploader, uses(1))
        const events = uses(100)
        all.push(...events)
        proxy.dropReplies()
        expectFailure(yield* failureOf(upload(uploader, events)), "transient", "ETIMEDOUT")
        proxy.resume()
        assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      }
      assert.strictEqual(yield* count(database), all.length + 5)
    })
  )
})

// ------------------------------------------------------------------------------------------- whatever the defaults

onEachPair("a server with odd defaults", () => {
  it.scopedLive(
    "changes nothing: French, NO_BACKSLASH_ESCAPES, autocommit off, +08:00, one warning, latin1",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(odd.rootUrl)
        assert.deepStrictEqual(
          yield* sql(
            database,
            "SELECT @@lc_messages AS m, @@sql_mode AS s, @@global.autocommit AS a, @@time_zone AS z"
          ),
          [{ m: "fr_FR", s: "IGNORE_SPACE,NO_BACKSLASH_ESCAPES", a: 0, z: "+08:00" }]
        )
        const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
        const hostile = `\\', '', '', ''); DROP TABLE ${UseLog.table}; -- `
        const events = [
          use({ prompt: hostile, userName: hostile, resultPath: `"\\"'\\\\'` }),
          use({ prompt: "emoji 🦊, lone \ud83e, NUL \0, 中文" }),
          use({ userName: "x".repeat(256) }),
          ...uses(40, () => ({ errorMessage: hostile }))
        ]
        for (let round = 0; round < 2; round++) {
          const { rejected } = yield* upload(uploader, events)
          assert.deepStrictEqual(
            rejected.map(({ code, index }) => [index, code]),
            [[2, "1406"]]
          )
        }
        const rows = yield* sql(
          database,
          `SELECT ${UseLog.columns.map((column) => column.name).join(", ")}, created_at,
           TIMESTAMPDIFF(SECOND, event_time, created_at) AS apart FROM ${UseLog.table} ORDER BY id`
        )
        const expected = events.toSpliced(2, 1)
        assert.deepStrictEqual(
          rows.map(({ apart: _, created_at: __, ...row }) => Object.values(row)),
          expected.map((event) => [...event.row])
        )
        // created_at is the server's local time, as for other writers; event_time is UTC
        for (const row of rows) assert.closeTo(Number(row.apart), 8 * 3600, 5)
      })
  )

  it.scopedLive("max_allowed_packet cuts batches, and rejects a record that cannot fit", () =>
    Effect.gen(function* () {
      const database = yield* migrated(odd.rootUrl)
      const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
      const large = (bytes: number) => use({ prompt: "'".repeat(bytes) })
      const events = [
        ...uses(20),
        ...Array.from({ length: 12 }, () => large(200_000)),
        large(1_100_000),
        large(900_000),
        large(1_030_000),
        ...uses(20)
      ]
      const { rejected } = yield* upload(uploader, events)
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [index, code]),
        [[32, "1153"]]
      )
      assert.deepStrictEqual(
        yield* prompts(database),
        events.filter((_, index) => index !== 32).map((event) => event.row[2] as string)
      )
    })
  )

  it.scopedLive.each([
    { audible: true, seen: ["1153"] },
    { audible: false, seen: ["ECONNRESET", "EPIPE", "PROTOCOL_CONNECTION_LOST"] }
  ])("a proxy takes larger packets than its server, which shows as $seen.0", ({ audible, seen }) =>
    Effect.gen(function* () {
      const database = yield* migrated(odd.rootUrl)
      const proxy = yield* acquire(
        () => lyingProxy({ target: odd, truth: 1_048_576, lie: 8_388_608, audible }),
        (proxy) => proxy.close()
      )
      const { host, port } = proxy
      const options = { ...(yield* account(database, "INSERT")), host, port }
      const user = options.username!
      const plain = yield* acquire(
        () => createConnection({ host, port, user, password: Redacted.value(options.password!) }),
        (connection) => connection.destroy()
      )
      const refusal: unknown = yield* Effect.promise(() =>
        plain.query("SELECT ?", ["x".repeat(1_100_000)]).catch((error: unknown) => error)
      )
      assert.oneOf(classify(refusal, { host, username: user, database: "" }).code, seen)

      const large = (bytes: number) => use({ prompt: "'".repeat(bytes) })
      const good = [...uses(20), ...Array.from({ length: 12 }, () => large(200_000)), large(900_000)]
      const { rejected } = yield* upload(yield* uploaderOf(options), good.toSpliced(32, 0, large(1_100_000)))
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [index, code]),
        [[32, "1153"]]
      )
      assert.deepStrictEqual(
        yield* prompts(database),
        good.map((event) => event.row[2] as string)
      )
    })
  )

  it.scopedLive("a connection that happens to break under a large event blames no event", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const proxy = yield* proxied
      const uploader = yield* uploaderOf(through(proxy, database))
      const large = () => use({ prompt: `PROMPT ${"x".repeat(600_000)}` })
      const one = large()
      proxy.whenAsked("PROMPT", proxy.cut)
      const { class: cls, code } = yield* failureOf(upload(uploader, [one]))
      assert.strictEqual(cls, "transient")
      assert.oneOf(code, ["ECONNRESET", "EPIPE", "PROTOCOL_CONNECTION_LOST"])
      assert.deepStrictEqual(yield* upload(uploader, [one]), { rejected: [] })
      // a batch of several events is only split
      proxy.whenAsked("PROMPT", proxy.cut)
      assert.deepStrictEqual(yield* upload(uploader, [large(), large(), large()]), { rejected: [] })
      assert.strictEqual(yield* count(database), 4)
    })
  )

  it.scopedLive(
    "a large event that is already stored is delivered, although it exceeds the packet when escaped",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(odd.rootUrl)
        const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
        const event = use({ prompt: "'".repeat(900_000) })
        for (let round = 0; round < 2; round++) {
          assert.deepStrictEqual(yield* upload(uploader, [event]), { rejected: [] })
        }
        assert.strictEqual(yield* count(database), 1)
      })
  )

  it.scopedLive("completion_type CHAIN without warnings commits repeated events and those that follow", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      yield* Effect.addFinalizer(() =>
        Effect.andThen(
          sql(database, "SET GLOBAL completion_type = DEFAULT"),
          sql(database, "SET GLOBAL max_error_count = DEFAULT")
        )
      )
      yield* sql(database, "SET GLOBAL completion_type = 'CHAIN'")
      yield* sql(database, "SET GLOBAL max_error_count = 0")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
          const events = uses(5)
          yield* upload(uploader, events)
          assert.deepStrictEqual(yield* upload(uploader, events.slice(0, 1)), { rejected: [] })
          assert.deepStrictEqual(yield* upload(uploader, [...events, ...uses(3)]), { rejected: [] })
          yield* upload(uploader, uses(2))
        })
      )
      assert.strictEqual(yield* count(database), 10)
    })
  )

  it.scopedLive("a lowered max_allowed_packet counts from the next connection on", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const proxy = yield* proxied
      const uploader = yield* uploaderOf(through(proxy, database))
      const events = () => uses(20, (index) => ({ prompt: "x".repeat(index === 10 ? 1_100_000 : 150_000) }))
      yield* Effect.addFinalizer(() => sql(database, "SET GLOBAL max_allowed_packet = 16777216"))
      assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })
      yield* sql(database, "SET GLOBAL max_allowed_packet = 1048576")
      assert.deepStrictEqual(yield* upload(uploader, events()), { rejected: [] })
      proxy.cut()
      yield* Effect.sleep("50 millis")
      const { rejected } = yield* upload(uploader, events())
      assert.deepStrictEqual(
        rejected.map(({ code, index }) => [index, code]),
        [[10, "1153"]]
      )
      assert.strictEqual(yield* count(database), 40)
    })
  )

  it.scopedLive("a raised max_allowed_packet counts for an event that was too large before", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const proxy = yield* proxied
      const large = () => uses(1, () => ({ prompt: "x".repeat(1_100_000) }))
      yield* Effect.addFinalizer(() => sql(database, "SET GLOBAL max_allowed_packet = 16777216"))
      yield* sql(database, "SET GLOBAL max_allowed_packet = 1048576")
      const uploader = yield* uploaderOf(through(proxy, database))
      assert.lengthOf((yield* upload(uploader, large())).rejected, 1)
      // no smaller event comes first, so only this event can make the uploader ask the server again
      yield* sql(database, "SET GLOBAL max_allowed_packet = 16777216")
      proxy.cut()
      yield* Effect.sleep("50 millis")
      assert.deepStrictEqual(yield* upload(uploader, large()), { rejected: [] })
      assert.strictEqual(yield* count(database), 1)
    })
  )

  it.scopedLive("TLS verifies authority and name", () =>
    Effect.gen(function* () {
      const database = yield* migrated(odd.rootUrl)
      const options = yield* account(database, "INSERT", "REQUIRE SSL")
      const ca = (file: string) => fs.readFileSync(file, "utf8")
      const trusted = { ca: ca(certificates.authority), servername: "db.test" }
      const at = (more: Partial<MysqlUploader.Options>) =>
        Effect.flatMap(uploaderOf({ ...options, ...more }), (uploader) => upload(uploader, uses(2)))

      assert.deepStrictEqual(yield* at({ ssl: trusted }), { rejected: [] })
      assert.deepStrictEqual(yield* at({ ssl: { rejectUnauthorized: false } }), { rejected: [] })
      const untrusted = [
        true,
        { ...trusted, ca: ca(certificates.stranger) },
        { ...trusted, servername: "db.other" },
        { ca: trusted.ca }
      ]
      for (const ssl of untrusted) {
        expectFailure(yield* failureOf(at({ ssl })), "operator", "HANDSHAKE_SSL_ERROR")
      }
      expectFailure(yield* failureOf(at({})), "operator", 1045)
      assert.strictEqual(yield* count(database), 4)

      const plain = yield* migrated()
      const error = yield* failureOf(
        Effect.flatMap(uploaderOf({ ...connectionOptions(plain), ssl: true }), (uploader) =>
          upload(uploader, uses(1))
        )
      )
      expectFailure(error, "operator", "HANDSHAKE_NO_SSL_SUPPORT")
    })
  )

  it.scopedLive(
    "TLS: uploads recover after a server that does not answer, and after connections that end",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(odd.rootUrl)
        const proxy = yield* acquire(
          () => tcpProxy({ target: odd }),
          (proxy) => proxy.close()
        )
        const ssl = { ca: fs.readFileSync(certificates.authority, "utf8"), servername: "db.test" }
        const credentials = yield* account(database, "INSERT", "REQUIRE SSL")
        const options = { ...credentials, host: proxy.host, port: proxy.port, ssl }
        const uploader = yield* uploaderOf({ ...options, statementTimeout: "500 millis" })
        const works = () =>
          Effect.map(upload(uploader, uses(1)), (result) => assert.deepStrictEqual(result, { rejected: [] }))
        yield* Effect.addFinalizer(() => Effect.sync(odd.sigcont))

        // with a statement prepared before, and with a new one
        for (const events of [uses(1), uses(100)]) {
          yield* works()
          odd.sigstop()
          expectFailure(yield* failureOf(upload(uploader, events)), "transient", "ETIMEDOUT")
          odd.sigcont()
        }
        // during a handshake, and during a statement
        odd.sigstop()
        const hasty = yield* uploaderOf({ ...options, connectTimeout: "300 millis" })
        expectFailure(yield* failureOf(upload(hasty, uses(1))), "transient", "ETIMEDOUT")
        odd.sigcont()
        yield* works()
        odd.sigstop()
        const fiber = yield* Effect.fork(upload(uploader, uses(1)))
        yield* Effect.sleep("100 millis")
        yield* Fiber.interrupt(fiber)
        odd.sigcont()
        // The connection is cut while idle, and during a statement.
        yield* works()
        proxy.cut()
        yield* Effect.sleep("50 millis")
        yield* works()
        odd.sigstop()
        const cut = yield* Effect.fork(failureOf(upload(uploader, uses(1))))
        yield* Effect.sleep("100 millis")
        proxy.cut()
        assert.include(yield* Fiber.join(cut), { class: "transient" })
        odd.sigcont()
        yield* works()
      })
  )

  it.scopedLive("options are taken from a URL and from a Config", () =>
    Effect.gen(function* () {
      const database = yield* migrated()
      const { password, username } = yield* account(database, "INSERT")
      const secret = encodeURIComponent(Redacted.value(password!))
      const url = `mysql://${username ?? ""}:${secret}@${server.host}:${server.port}/${database.config.database}`
      assert.deepStrictEqual(yield* upload(yield* uploaderOf({ url: Redacted.make(url) }), uses(1)), {
        rejected: []
      })
      assert.deepStrictEqual(
        yield* upload(yield* uploaderOf({ url: Redacted.make(`${url}?ssl=false`) }), uses(1)),
        { rejected: [] }
      )
      const configured = MysqlUploader.layerConfig({
        url: Config.redacted("URL"),
        statementTimeout: Config.duration("TIMEOUT"),
        connections: Config.integer("CONNECTIONS")
      }).pipe(
        Layer.provide(
          Layer.setConfigProvider(
            ConfigProvider.fromMap(
              new Map([
                ["URL", url],
                ["TIMEOUT", "3 seconds"],
                ["CONNECTIONS", "2"]
              ])
            )
          )
        )
      )
      const uploader = Context.get(yield* Layer.build(configured), Uploader)
      assert.strictEqual(uploader.concurrency, 2)
      const batches = Array.from({ length: 10 }, () => uses(20))
      yield* Effect.forEach(batches, (batch) => upload(uploader, batch), { concurrency: "unbounded" })
      assert.strictEqual(yield* count(database), 202)
    })
  )
})

// ----------------------------------------------------------------------------------------------------- migrate

onEachPair("migrate", () => {
  const names = (database: TestDatabase) =>
    Effect.map(
      sql<{ n: string }>(
        database,
        "SELECT CONCAT(table_name, '.', column_name, ' ', column_type, ' ', is_nullable) AS n FROM information_schema.columns " +
          "WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
      ),
      // MySQL shows no width for integers
      (rows) => rows.map((row) => row.n.replace("bigint(20)", "bigint"))
    )

  it.scopedLive("creates the tables, and changes nothing when run again or twice at once", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(server.rootUrl)
      const migrate = MysqlUploader.migrate(yield* account(database, "CREATE, ALTER, INDEX, INSERT"))
      yield* Effect.all([migrate, migrate, migrate], { concurrency: "unbounded" })
      const before = yield* names(database)
      assert.include(before, `${UseLog.table}.event_id binary(16) YES`)
      assert.include(before, `${LoginLog.table}.event_time datetime(6) YES`)
      assert.include(before, `${UseLog.table}.id bigint unsigned NO`)
      yield* migrate
      assert.deepStrictEqual(yield* names(database), before)
    })
  )

  it.scopedLive("fits tables with rows while others write, twice at once, behind a slow reader", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(server.rootUrl)
      yield* Effect.promise(() => createReferenceTables(database))
      const theirs = `INSERT INTO ${UseLog.table} (user_name, device_name, prompt, status) VALUES ('li', 'pc', 'theirs', 'ok')`
      yield* sql(database, theirs)
      const before = yield* sql(database, `SELECT * FROM ${UseLog.table}`)

      const reader = yield* client(database)
      yield* Effect.promise(() => reader.query("START TRANSACTION"))
      yield* Effect.promise(() => reader.query(`SELECT * FROM ${UseLog.table}`))
      let longest = 0
      const writer = yield* Effect.fork(
        Effect.forever(
          Effect.zipLeft(
            Effect.tap(timed(sql(database, theirs)), ([millis]) =>
              Effect.sync(() => {
                longest = Math.max(longest, millis)
              })
            ),
            Effect.sleep("10 millis")
          )
        )
      )
      const migrate = MysqlUploader.migrate(connectionOptions(database))
      const both = yield* Effect.fork(Effect.all([migrate, migrate], { concurrency: "unbounded" }))
      yield* Effect.sleep("3 seconds")
      yield* Effect.promise(() => reader.query("COMMIT"))
      yield* Fiber.join(both)
      yield* Fiber.interrupt(writer)
      // an ALTER waits 2 s at a time, and then lets the writers behind it pass
      assert.isBelow(longest, 5000)

      const [first] = yield* sql(database, `SELECT * FROM ${UseLog.table} ORDER BY id LIMIT 1`)
      assert.deepStrictEqual(first, { ...before[0], event_id: null, event_time: null })
      const uploader = yield* uploaderOf(yield* account(database, "INSERT"))
      const rows = yield* count(database)
      for (let round = 0; round < 2; round++)
        yield* upload(uploader, [use({}, { eventId: "01936f2a-89ab-7cde-8f01-23456789abcd" })])
      assert.strictEqual(yield* count(database), rows + 1)
      yield* sql(database, theirs)
    })
  )

  it.scopedLive("takes the types of an own kind from its fields, or from what the kind says", () =>
    Effect.gen(function* () {
      class Payment extends AuditEvent.Class<Payment>()("payment", {
        table: "payments",
        fields: {
          account: Schema.String,
          cents: Schema.BigInt,
          count: AuditEvent.optional(Schema.Int),
          rate: Schema.Number,
          paid: Schema.Boolean,
          at: Schema.Date,
          state: Schema.Literal("open", "closed"),
          tags: Schema.Array(Schema.String)
        },
        columns: { account: { name: "account_no", type: "CHAR(4) NOT NULL" } }
      }) {}
      const database = yield* mysqlDatabase(server.rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [Payment])
      assert.deepStrictEqual(
        (yield* names(database)).map((name) => name.replace("payments.", "")),
        [
          ...["id bigint unsigned NO", "account_no char(4) NO", "cents bigint YES", "count bigint YES"],
          ...[
            "rate double YES",
            "paid tinyint(1) YES",
            "at datetime(3) YES",
            "state varchar(64) YES",
            "tags longtext YES"
          ],
          ...["created_at timestamp NO", "event_id binary(16) YES", "event_time datetime(6) YES"]
        ]
      )
      const at = new Date("2026-01-31T08:00:00.123Z")
      const payment = {
        account: "0042",
        cents: 2n ** 63n - 1n,
        count: null,
        rate: 0.1,
        paid: true,
        at,
        state: "open" as const,
        tags: ["a", "狐"]
      }
      const uploader = yield* uploaderOf(options)
      // one event is sent prepared, a few as text
      for (const number of [1, 2]) {
        const events = Array.from({ length: number }, () => stored(Payment, new Payment(payment)))
        assert.deepStrictEqual(yield* uploader.upload({ definition: Payment, events }), { rejected: [] })
      }
      const rows = yield* sql(
        database,
        "SELECT account_no, CAST(cents AS CHAR) AS cents, `count`, rate, paid, at, state, tags FROM payments"
      )
      for (const row of rows) {
        assert.deepStrictEqual(Object.values(row), [
          "0042",
          "9223372036854775807",
          null,
          0.1,
          1,
          "2026-01-31 08:00:00.123",
          "open",
          '["a","狐"]'
        ])
      }
      assert.strictEqual(rows.length, 3)
    })
  )

  it.scopedLive("fails without the right as an operator's error that offers the SQL, and the SQL works", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(server.rootUrl)
      const options = yield* account(database, "INSERT")
      const denied = yield* failureOf(MysqlUploader.migrate(options))
      expectFailure(denied, "operator", 1142)
      const text = MysqlUploader.migrationSql()
      const statements = (sql: string) =>
        sql
          .split(";\n")
          .map((_) => _.replace(/^-- .*\n/gm, "").trim())
          .filter((_) => _ !== "" && !_.startsWith("--"))
      for (const statement of statements(text)) yield* sql(database, statement)
      assert.deepStrictEqual(yield* upload(yield* uploaderOf(options), uses(3)), { rejected: [] })
      // the commented half of the SQL is for existing tables
      const existing = yield* mysqlDatabase(server.rootUrl)
      yield* Effect.promise(() => createReferenceTables(existing))
      for (const [, statement] of text.matchAll(/^-- {3}(.*);$/gm)) yield* sql(existing, statement!)
      assert.deepStrictEqual(yield* upload(yield* uploaderOf(connectionOptions(existing)), uses(3)), {
        rejected: []
      })
    })
  )

  it.scopedLive(
    'deduplication "none" delivers into tables as they are, at least once, also into renamed ones',
    () =>
      Effect.gen(function* () {
        const database = yield* mysqlDatabase(server.rootUrl)
        yield* Effect.promise(() => createReferenceTables(database))
        yield* sql(database, `RENAME TABLE ${UseLog.table} TO \`odd \`\`name\``)
        const uploader = yield* uploaderOf({
          ...(yield* account(database, "INSERT")),
          deduplication: "none",
          tables: { use_log: "odd `name" }
        })
        const events = uses(150)
        for (let round = 0; round < 2; round++)
          assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
        yield* uploadLogins(uploader, [login()])
        const [rows] = yield* sql<{ n: number }>(database, "SELECT COUNT(*) AS n FROM `odd ``name`")
        assert.strictEqual(rows!.n, 300)
      })
  )
})
