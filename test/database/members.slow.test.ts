/** Several servers, of which one takes writes: read-only members, hung members, and a new primary. */
import { assert, it } from "@effect/vitest"
import { FastCheck as fc, Effect, Fiber } from "effect"
import { createConnection } from "mysql2/promise"
import { parse } from "uuid"
import { afterAll, beforeAll } from "vitest"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { uses } from "../support/events.js"
import { ahead } from "../support/clock.js"
import { account, connectionOptions, mysqlDatabase, PASSWORD, uploaderOf } from "../support/mysql.js"
import type { MysqlServer } from "../support/mysqlServer.js"
import { startServer } from "../support/mysqlServer.js"
import { tcpProxy } from "../support/net.js"
import { onEachFlavour } from "../support/servers.js"

const upload = ({ upload }: Uploader["Type"], events: ReadonlyArray<StoredEvent>) =>
  upload({ definition: UseLog, events })

onEachFlavour("members", (flavour) => {
  let servers: ReadonlyArray<MysqlServer> = []
  beforeAll(async () => {
    servers = await Promise.all([1, 2, 3].map(() => startServer({ flavour })))
  }, 180_000)
  afterAll(() => Promise.all(servers.map((server) => server.stop())))

  const say = async (server: MysqlServer, sql: string) => {
    const connection = await createConnection({ uri: server.rootUrl })
    await connection.query(sql)
    await connection.end()
  }
  const setReadOnly = (server: MysqlServer, mode: "ON" | "OFF") =>
    Effect.promise(() => say(server, `SET GLOBAL read_only = ${mode}`))

  /** The same database, tables and account on each server, behind a proxy. */
  const prepareWith = (more: MysqlUploader.Options) =>
    Effect.gen(function* () {
      const [first, ...others] = servers
      const database = yield* mysqlDatabase(first!.rootUrl)
      yield* MysqlUploader.migrate(connectionOptions(database))
      const options = yield* account(database, "INSERT")
      const name = database.config.database
      for (const server of others) {
        yield* Effect.promise(() => say(server, `CREATE DATABASE ${name} CHARACTER SET utf8mb4`))
        yield* Effect.addFinalizer(() => Effect.promise(() => say(server, `DROP DATABASE ${name}`)))
        yield* MysqlUploader.migrate({ ...connectionOptions(database), port: server.port })
        yield* Effect.promise(() =>
          say(server, `CREATE USER '${options.username!}'@'%' IDENTIFIED BY '${PASSWORD}'`)
        )
        yield* Effect.addFinalizer(() =>
          Effect.promise(() => say(server, `DROP USER '${options.username!}'@'%'`))
        )
        yield* Effect.promise(() => say(server, `GRANT INSERT ON ${name}.* TO '${options.username!}'@'%'`))
      }
      const proxies = yield* Effect.forEach(servers, ({ host, port }) =>
        Effect.acquireRelease(
          Effect.promise(() => tcpProxy({ target: { host, port } })),
          (proxy) => Effect.promise(proxy.close)
        )
      )
      yield* Effect.addFinalizer(() => Effect.forEach(servers, (server) => setReadOnly(server, "OFF")))
      const uploader = yield* uploaderOf({
        ...options,
        hosts: proxies.map(({ host, port }) => `${host}:${port}`),
        connectTimeout: "3 seconds",
        statementTimeout: "1 second",
        ...more
      })
      const rowsOn = (server: MysqlServer) =>
        Effect.promise(async () => {
          const connection = await createConnection({ uri: server.rootUrl })
          const [rows] = await connection.query(`SELECT id FROM ${name}.${UseLog.table}`)
          await connection.end()
          return (rows as Array<unknown>).length
        })
      return { database: name, proxies, uploader, rows: Effect.forEach(servers, rowsOn) }
    })
  const prepare = prepareWith({})

  it.scopedLive("an attempt passes over read-only members", () =>
    Effect.gen(function* () {
      const { rows, uploader } = yield* prepare
      yield* setReadOnly(servers[0]!, "ON")
      yield* setReadOnly(servers[1]!, "ON")
      assert.deepStrictEqual(yield* upload(uploader, uses(5)), { rejected: [] })
      assert.deepStrictEqual(yield* rows, [0, 0, 5])
    })
  )

  it.scopedLive.prop(
    "a planned switch-over between two batches causes no failure",
    {
      turns: fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 6 }),
      connections: fc.integer({ min: 1, max: 3 })
    },
    ({ connections, turns }) =>
      Effect.gen(function* () {
        const { proxies, rows, uploader } = yield* prepareWith({ connections })
        const stored = servers.map(() => 0)
        for (const turn of turns) {
          for (const [index, server] of servers.entries())
            yield* setReadOnly(server, index === turn ? "OFF" : "ON")
          // at once, to open several connections
          const batches = Array.from({ length: connections }, () => upload(uploader, uses(2)))
          for (const result of yield* Effect.all(batches, { concurrency: "unbounded" })) {
            assert.deepStrictEqual(result, { rejected: [] })
          }
          stored[turn]! += 2 * connections
          const open = proxies.reduce((sum, proxy) => sum + proxy.connections, 0)
          assert.isAtMost(open, connections)
        }
        assert.deepStrictEqual(yield* rows, stored)
      }).pipe(Effect.scoped),
    { fastCheck: { numRuns: 8 } }
  )

  it.scopedLive("migrate goes on to the member that takes writes, and reports if there is none", () =>
    Effect.gen(function* () {
      const hosts = servers.map(({ host, port }) => `${host}:${port}`)
      const database = yield* mysqlDatabase(servers[1]!.rootUrl)
      const name = database.config.database
      const tables = Effect.forEach(servers, ({ rootUrl }) =>
        Effect.promise(async () => {
          const connection = await createConnection({ uri: rootUrl })
          const sql = `SELECT table_name FROM information_schema.tables WHERE table_schema = '${name}'`
          const [rows] = await connection.query(sql)
          await connection.end()
          return (rows as Array<unknown>).length
        })
      )
      for (const server of [servers[0]!, servers[2]!]) {
        yield* Effect.promise(() => say(server, `CREATE DATABASE ${name} CHARACTER SET utf8mb4`))
        yield* Effect.addFinalizer(() => Effect.promise(() => say(server, `DROP DATABASE ${name}`)))
      }
      yield* Effect.addFinalizer(() => Effect.forEach(servers, (server) => setReadOnly(server, "OFF")))
      const options = { ...connectionOptions(database), hosts }
      for (const server of servers) yield* setReadOnly(server, "ON")
      // root could write there nevertheless
      const error = yield* Effect.flip(MysqlUploader.migrate(options))
      assert.deepStrictEqual([error.class, error.code], ["operator", "1290"])
      assert.match(error.reason, /takes no writes/)
      assert.deepStrictEqual(yield* tables, [0, 0, 0])
      yield* setReadOnly(servers[1]!, "OFF")
      yield* MysqlUploader.migrate(options)
      assert.deepStrictEqual(yield* tables, [0, 2, 0])
    })
  )

  it.scopedLive("an upload waits for a new primary while all members are read-only", () =>
    Effect.gen(function* () {
      const { proxies, rows, uploader } = yield* prepare
      for (const server of servers) yield* setReadOnly(server, "ON")
      const uploading = yield* Effect.fork(upload(uploader, uses(5)))
      // each member was asked
      yield* Effect.repeat(Effect.sleep("20 millis"), {
        until: () => proxies.every(({ accepted }) => accepted > 0)
      })
      yield* setReadOnly(servers[1]!, "OFF")
      assert.deepStrictEqual(yield* Fiber.join(uploading), { rejected: [] })
      assert.deepStrictEqual(yield* rows, [0, 5, 0])
    })
  )

  it.scopedLive(
    "if all members stay read-only, the INSERT decides: a transient failure, or a privileged account stores",
    () =>
      Effect.gen(function* () {
        const { rows, uploader } = yield* prepare
        for (const server of servers) yield* setReadOnly(server, "ON")
        const error = yield* Effect.flip(upload(uploader, uses(1)))
        assert.deepStrictEqual([error.class, error.code], ["transient", "1290"])
        assert.deepStrictEqual(yield* rows, [0, 0, 0])
        const database = yield* mysqlDatabase(servers[2]!.rootUrl)
        yield* MysqlUploader.migrate(connectionOptions(database))
        const root = yield* uploaderOf(connectionOptions(database))
        assert.deepStrictEqual(yield* upload(root, uses(1)), { rejected: [] })
      })
  )

  it.scopedLive(
    "an upload leaves a member that hangs after the statement's time-out, and asks it last for a while",
    () =>
      Effect.gen(function* () {
        const { proxies, rows, uploader } = yield* prepare
        const [first, second, third] = proxies
        assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })
        first!.pause()
        const events = uses(3)
        assert.strictEqual((yield* Effect.flip(upload(uploader, events))).code, "ETIMEDOUT")
        assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
        // the next two fail, so it is the first one's turn
        for (const proxy of [second!, third!]) {
          proxy.cut()
          const more = uses(1)
          yield* Effect.retry(upload(uploader, more), { times: 3 })
        }
        assert.strictEqual(first!.accepted, 1)
        assert.strictEqual(
          (yield* rows).reduce((sum, n) => sum + n, 0),
          6
        )
        // only the first is left
        first!.resume()
        first!.cut()
        yield* Effect.promise(() => Promise.all([second!.close(), third!.close()]))
        yield* Effect.retry(upload(uploader, uses(1)), { times: 3 })
        assert.strictEqual(first!.accepted, 2)
      })
  )

  it.scopedLive("an upload leaves a member for as long if the hung statement holds its locks", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = ahead(yield* Effect.clock, () => offset)
      const prepared = yield* Effect.withClock(prepareWith({ statementTimeout: "3 seconds" }), clock)
      const { database, proxies, rows, uploader } = prepared
      const [first, ...others] = proxies
      assert.deepStrictEqual(yield* upload(uploader, uses(1)), { rejected: [] })
      // As in a primary cut off from its group: the first statement hangs, and holds its rows.
      const events = uses(1)
      const holder = yield* Effect.acquireRelease(
        Effect.promise(() => createConnection({ uri: servers[0]!.rootUrl })),
        (connection) => Effect.sync(() => connection.destroy())
      )
      const sql = `INSERT INTO ${database}.${UseLog.table} (event_id, event_time, user_name, device_name, prompt, status) VALUES (?, NOW(), '', '', '', '')`
      yield* Effect.promise(() => holder.query("START TRANSACTION"))
      yield* Effect.promise(() => holder.query(sql, [Buffer.from(parse(events[0]!.eventId))]))
      first!.pause()
      assert.strictEqual((yield* Effect.flip(upload(uploader, events))).code, "ETIMEDOUT")
      first!.resume()
      // no other member is there
      yield* Effect.promise(() => Promise.all(others.map((proxy) => proxy.close())))
      assert.strictEqual((yield* Effect.flip(upload(uploader, events))).code, "1205")
      // They return long after the first one hung.
      offset += 31_000
      for (const [index, { port }] of others.entries()) {
        const { host, port: to } = servers[index + 1]!
        yield* Effect.acquireRelease(
          Effect.promise(() => tcpProxy({ target: { host, port: to }, port })),
          (proxy) => Effect.promise(proxy.close)
        )
      }
      assert.deepStrictEqual(yield* upload(uploader, events), { rejected: [] })
      assert.deepStrictEqual(yield* rows, [1, 1, 0])
    })
  )
})
