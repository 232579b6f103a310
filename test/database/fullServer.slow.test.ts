/**
 * Servers that refuse connections: full ones with many more programs than places, and one without an account for our
 * address. No program ends, and each event is stored once in the end.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Logger, Schedule } from "effect"
import { openAuditLogger } from "effect-audit"
import * as path from "node:path"
import { createConnection } from "mysql2/promise"
import { onTestFinished } from "vitest"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { openAudit } from "../support/auditHere.js"
import { effectAudit } from "../support/cli.js"
import type { TestDatabase } from "../support/database.js"
import { account, connectionOptions, migratedDatabase, PASSWORD, uploaderOf } from "../support/mysql.js"
import { startServer, type MysqlServer } from "../support/mysqlServer.js"
import { readBooks, readRows } from "../support/oracle.js"
import { start, temporaryDirectory as directoryOf } from "../support/program.js"
import { temporaryDirectory } from "../support/queue.js"
import { collectUncaught } from "../support/uncaught.js"

const long = process.env.AUDIT_LONG === "1"

const quiet = Logger.remove(Logger.defaultLogger)

const uncaught = collectUncaught()

describe("max_connections = 10", () => {
  let server: MysqlServer
  let database: TestDatabase
  beforeAll(async () => {
    server = await startServer({ args: ["--max-connections=10"] })
    database = await migratedDatabase(server.rootUrl)
  })
  afterAll(async () => {
    await database.drop()
    await server.stop()
  })

  /** Each program records an event every 200 ms for some seconds. Some programs end early, and make room. */
  const logFor = (layers: number, seconds: number) =>
    Effect.gen(function* () {
      const options = yield* account(database, "INSERT")
      const directories = yield* Effect.replicateEffect(temporaryDirectory, layers)
      const acknowledged: Array<string> = []
      const refused = new Set<number>()
      const before = uncaught.length
      yield* Effect.forEach(
        directories,
        (directory, index) =>
          Effect.gen(function* () {
            const uploader = yield* uploaderOf(options)
            const audit = yield* openAudit({ directory, shutdownTimeout: "1 second" }, { uploader })
            yield* Effect.repeat(
              Effect.gen(function* () {
                acknowledged.push((yield* audit.use(`layer ${index}`)).eventId)
                if ((yield* audit.status).failure?.code === "1040") refused.add(index)
              }),
              Schedule.spaced("200 millis").pipe(
                Schedule.intersect(Schedule.recurs(5 * (index % 3 === 0 ? 1 : seconds)))
              )
            )
          }).pipe(Effect.scoped),
        { concurrency: "unbounded", discard: true }
      )
      // otherwise the test proves nothing
      assert.isAbove(refused.size, 0)

      // programs without a connection kept their events on disk
      yield* Effect.forEach(
        directories.filter((directory) => readBooks(directory).waiting > 0),
        (directory) =>
          Effect.gen(function* () {
            const uploader = yield* uploaderOf(options)
            yield* (yield* openAudit({ directory }, { uploader })).flush
          }).pipe(Effect.scoped),
        { concurrency: 4 }
      )
      assert.deepStrictEqual(uncaught.slice(before), [])
      const rows = yield* Effect.promise(() => readRows(database.query))
      const ours = new Set(acknowledged)
      const stored = rows.filter((id) => ours.has(id))
      assert.strictEqual(stored.length, acknowledged.length)
      assert.strictEqual(new Set(stored).size, acknowledged.length)
      for (const directory of directories) {
        assert.deepInclude(readBooks(directory), { waiting: 0, missing: 0, deadIds: [] })
      }
    })

  for (const [layers, seconds] of long
    ? ([
        [12, 20],
        [40, 20],
        [100, 20]
      ] as const)
    : ([
        [12, 2],
        [40, 3]
      ] as const)) {
    it.scopedLive(`${layers} programs for ${seconds} s deliver all events once`, () =>
      Effect.provide(logFor(layers, seconds), quiet)
    )
  }

  it.skipIf(!long)("12 processes (AUDIT_LONG=1)", async () => {
    const worker = "test/support/worker.ts"
    const { path: cwd, remove } = directoryOf()
    onTestFinished(remove)
    const directories = Array.from({ length: 12 }, (_, index) => path.join(cwd, String(index)))
    const startOne = (directory: string, events: number) =>
      start(worker, {
        cwd,
        env: {
          WORKER_DIRECTORY: directory,
          WORKER_DATABASE: database.url,
          WORKER_EVENTS: String(events),
          WORKER_THEN: events > 0 ? "end" : "flush"
        }
      })
    const ended = await Promise.all(directories.map((directory) => startOne(directory, 500).ended))
    const acknowledged = ended.flatMap(({ stdout }) => stdout.trim().split("\n"))
    for (const { code, stderr } of ended) assert.strictEqual(code, 0, stderr)
    for (const directory of directories) {
      const uploader = { uploader: MysqlUploader.layer(connectionOptions(database)) }
      await using audit = await openAuditLogger({ directory, ...uploader, minFreeBytes: 0 })
      await audit.flush()
    }
    const rows = new Set(await readRows(database.query))
    assert.deepStrictEqual(
      acknowledged.filter((id) => !rows.has(id)),
      []
    )
    for (const directory of directories) {
      assert.deepInclude(readBooks(directory), { waiting: 0, missing: 0 })
    }
  })
})

describe("1130: the only account is for another host", () => {
  let server: MysqlServer
  beforeAll(async () => {
    // so that 127.0.0.1 is not localhost
    server = await startServer({ args: ["--skip-name-resolve"] })
    const root = await createConnection({ uri: server.rootUrl })
    await root.query("CREATE DATABASE app")
    await root.query(`CREATE USER 'audit'@'192.0.2.1' IDENTIFIED BY '${PASSWORD}'`)
    await root.query("DROP USER 'root'@'127.0.0.1'")
    root.destroy()
  })
  afterAll(async () => {
    await server.stop()
  })

  const options = (): MysqlUploader.Options => ({
    host: server.host,
    port: server.port,
    username: "audit",
    database: "app"
  })

  it.scopedLive("the layer, openAuditLogger and the command ask for an operator", () =>
    Effect.gen(function* () {
      const before = uncaught.length
      const needsOperator = <E>(
        status: Effect.Effect<{ readonly state: string; readonly failure: unknown }, E>
      ) =>
        Effect.gen(function* () {
          const { failure, state } = yield* status.pipe(
            Effect.filterOrFail(({ failure }) => failure !== null && failure !== undefined),
            Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 2400 })
          )
          assert.strictEqual(state, "needsOperator")
          assert.deepInclude(failure, { code: "1130" })
        })
      const directory = yield* temporaryDirectory
      const audit = yield* openAudit({ directory }, { uploader: yield* uploaderOf(options()) })
      yield* audit.use("waits")
      yield* needsOperator(audit.status)
      yield* audit.close

      const other = yield* temporaryDirectory
      const logger = yield* Effect.promise(() =>
        openAuditLogger({ directory: other, uploader: MysqlUploader.layer(options()), minFreeBytes: 0 })
      )
      yield* Effect.promise(() => logger.logUse({ status: "success" }))
      yield* needsOperator(Effect.promise(() => logger.status()))
      yield* Effect.promise(() => logger.shutdown())

      const env = { AUDIT_MYSQL_URL: `mysql://audit@${server.host}:${server.port}/app` }
      const [doctor, migrate, flush] = yield* Effect.all(
        [
          effectAudit(directory, ["doctor"], env),
          effectAudit(directory, ["migrate"], env),
          effectAudit(directory, ["flush"], env)
        ],
        { concurrency: 2 }
      )
      assert.match(doctor.stdout, /failure {2}login: .*create audit for its address \(1130\)/)
      assert.include(migrate.stdout + migrate.stderr, "create audit for its address")
      assert.match(flush.stdout, /0 delivered, 1 wait: .*create audit for its address/)
      for (const { code, stderr } of [doctor, migrate, flush]) {
        assert.strictEqual(code, 2, stderr)
        assert.notInclude(stderr, "    at ")
      }
      assert.deepStrictEqual(uncaught.slice(before), [])
    }).pipe(Effect.provide(quiet))
  )
})
