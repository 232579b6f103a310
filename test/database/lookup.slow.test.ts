/** Name services that answer, stay silent, or are absent: real ones with real processes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import * as dgram from "node:dgram"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { auditProcess } from "../support/auditProcess.js"
import { effectAudit, fill, useLine } from "../support/cli.js"
import { connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { temporaryDirectory } from "../support/queue.js"

/** An address whose port 53 is free, for the name service and the server. */
const ADDRESS = "127.0.0.77"

// A process gets its own files under /etc, and port 53 needs root.
const canTry =
  process.platform === "linux" &&
  process.getuid?.() === 0 &&
  spawnSync("unshare", ["-m", "sh", "-c", "mount --bind /etc/hosts /etc/resolv.conf"]).status === 0

/** A name service that knows some names of 127.0.0.1, and answers only while it may. */
const nameService = (names: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const socket = dgram.createSocket("udp4")
      const state = { isSilent: false, questions: [] as Array<string> }
      socket.on("message", (query, from) => {
        const labels: Array<string> = []
        let at = 12
        for (let length = query[at]!; length > 0; length = query[at]!) {
          labels.push(query.subarray(at + 1, at + 1 + length).toString())
          at += length + 1
        }
        const name = labels.join(".").toLowerCase()
        const type = query.readUInt16BE(at + 1)
        state.questions.push(name)
        if (state.isSilent) return
        const isKnown = names.includes(name)
        const header = Buffer.from(query.subarray(0, 12))
        header.writeUInt16BE(isKnown ? 0x8180 : 0x8183, 2)
        header.writeUInt16BE(isKnown && type === 1 ? 1 : 0, 6)
        header.writeUInt32BE(0, 8)
        const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1])
        const parts = [header, query.subarray(12, at + 5), ...(isKnown && type === 1 ? [answer] : [])]
        socket.send(Buffer.concat(parts), from.port, from.address)
      })
      await new Promise<void>((resolve) => socket.bind(53, ADDRESS, resolve))
      return { socket, state }
    }),
    ({ socket }) => Effect.sync(() => socket.close())
  )

/** A process that sees these files under /etc. */
const processWith = (files: { readonly resolv: string; readonly hosts: string }, at = temporaryDirectory) =>
  Effect.gen(function* () {
    const directory = yield* at
    const script = ["resolv.conf", "hosts"].map(
      (name) => `mount --bind ${path.join(directory, name)} /etc/${name}`
    )
    fs.writeFileSync(path.join(directory, "resolv.conf"), files.resolv)
    fs.writeFileSync(path.join(directory, "hosts"), files.hosts)
    return yield* auditProcess({
      under: ["unshare", "-m", "sh", "-c", `${script.join(" && ")} && exec "$@"`, "sh"]
    })
  })

const database = Effect.gen(function* () {
  const found = yield* mysqlDatabase()
  yield* MysqlUploader.migrate(connectionOptions(found))
  const { database, port, username } = found.config
  return {
    at: (host: string) => ({ mysql: { host, port, username, database } }),
    count: Effect.promise(async () => (await found.query(`SELECT * FROM ${UseLog.table}`)).length),
    cutConnections: Effect.promise(async () => {
      const sql = `SELECT id FROM information_schema.processlist WHERE db = '${database}' AND id <> CONNECTION_ID()`
      for (const { id } of await found.query<{ readonly id: number }>(sql)) await found.query(`KILL ${id}`)
    })
  }
})

const HOSTS = "127.0.0.1 localhost\n"

/** The shutdown may take two seconds. A loaded machine needs the rest to end a process. */
const settings = (directory: string) =>
  ({ directory, shutdownTimeout: "2 seconds", minFreeBytes: 0 }) as const
const SLACK = 5000

describe.skipIf(!canTry)("host names (needs unshare -m, as root)", () => {
  it.scopedLive(
    "in the hosts file are resolved although the name service is silent, and so is localhost",
    () =>
      Effect.gen(function* () {
        const { state } = yield* nameService([])
        state.isSilent = true
        const to = yield* database
        const child = yield* processWith({
          resolv: `nameserver ${ADDRESS}\n`,
          hosts: "127.0.0.1 other DB # ours\n"
        })
        for (const [index, host] of ["db", "localhost"].entries()) {
          const directory = yield* temporaryDirectory
          assert.isUndefined(yield* child.open(settings(directory), to.at(host)))
          yield* child.use(`prompt ${index}`)
          yield* child.flush
          assert.strictEqual((yield* child.status).delivered, 1)
          yield* child.close
        }
        assert.deepStrictEqual(state.questions, [])
      })
  )

  it.scopedLive(
    "in a search domain are resolved, and used again at the end although the service is silent by then",
    () =>
      Effect.gen(function* () {
        const { state } = yield* nameService(["db.corp.example"])
        const to = yield* database
        const child = yield* processWith({
          resolv: `search corp.example\nnameserver ${ADDRESS}\noptions timeout:5 attempts:2\n`,
          hosts: HOSTS
        })
        const directory = yield* temporaryDirectory
        assert.isUndefined(yield* child.open(settings(directory), to.at("db")))
        yield* child.use("one")
        yield* child.flush
        assert.strictEqual((yield* child.status).delivered, 1)
        state.isSilent = true
        yield* to.cutConnections
        yield* child.use("two")
        yield* Effect.repeat(child.status, { until: ({ failures }) => failures > 0 })
        assert.isAbove(state.questions.length, 0)
        state.questions = []
        const began = performance.now()
        yield* child.close
        assert.strictEqual((yield* child.end).code, 0)
        assert.isBelow(performance.now() - began, 2000 + SLACK)
        assert.deepStrictEqual(state.questions, [])
        assert.strictEqual(yield* to.count, 2)
      })
  )

  it.scopedLive("are resolved anew for each connection, so that an address may change", () =>
    Effect.gen(function* () {
      const to = yield* database
      const files = yield* temporaryDirectory
      // nothing listens at the first address
      const hostsOf = (address: string) => `${HOSTS}${address} db\n`
      const child = yield* processWith(
        { resolv: `nameserver ${ADDRESS}\n`, hosts: hostsOf("127.0.0.9") },
        Effect.succeed(files)
      )
      const directory = yield* temporaryDirectory
      assert.isUndefined(yield* child.open(settings(directory), to.at("db")))
      const move = (address: string) =>
        Effect.zipRight(
          Effect.sync(() => fs.writeFileSync(path.join(files, "hosts"), hostsOf(address))),
          to.cutConnections
        )
      yield* child.use("one")
      yield* Effect.repeat(child.status, { until: ({ failures }) => failures > 0 })
      yield* move("127.0.0.1")
      yield* child.flush
      yield* move("127.0.0.9")
      yield* child.use("two")
      yield* Effect.repeat(child.status, { until: ({ failures }) => failures > 0 })
      yield* move("127.0.0.1")
      yield* child.flush
      assert.strictEqual(yield* to.count, 2)
    })
  )

  for (const [what, resolv] of [
    ["absent", "nameserver 127.0.0.78\n"],
    ["not named at all", ""]
  ] as const) {
    it.scopedLive(`known to the system only are resolved: the name service is ${what}`, () =>
      Effect.gen(function* () {
        const to = yield* database
        const child = yield* processWith({ resolv, hosts: HOSTS })
        const directory = yield* temporaryDirectory
        // As with LDAP or NIS: only getaddrinfo(3) resolves it, no hosts file or name service.
        assert.isUndefined(yield* child.open(settings(directory), to.at("127.1")))
        yield* child.use("one")
        yield* child.flush
        assert.strictEqual((yield* child.status).delivered, 1)
      })
    )
  }

  for (const [what, resolv] of [
    ["silent", `nameserver ${ADDRESS}\n`],
    // nothing listens there
    ["absent", "nameserver 127.0.0.78\n"],
    ["silent, and its substitute absent", `nameserver ${ADDRESS}\nnameserver 127.0.0.78\n`],
    ["absent, and its substitute silent", `nameserver 127.0.0.78\nnameserver ${ADDRESS}\n`],
    ["not named at all", ""]
  ] as const) {
    it.scopedLive(`are not waited for at the end: the name service is ${what}`, () =>
      Effect.gen(function* () {
        const { state } = yield* nameService([])
        state.isSilent = true
        const directory = yield* temporaryDirectory
        const child = yield* processWith({ resolv, hosts: HOSTS })
        assert.isUndefined(
          yield* child.open(settings(directory), {
            mysql: { host: "db.example.com", port: 3306, username: "app", database: "app" }
          })
        )
        yield* child.use("one")
        // in the middle of an attempt, and again after it
        yield* Effect.sleep("300 millis")
        const began = performance.now()
        yield* child.close
        const closed = performance.now() - began
        const { code } = yield* child.end
        const took = performance.now() - began
        assert.strictEqual(code, 0)
        assert.isBelow(took, 2000 + SLACK, `closed after ${closed} ms, gone after ${took} ms`)
        yield* Effect.logInfo(
          `${what}: closed after ${Math.round(closed)} ms, gone after ${Math.round(took)} ms`
        )
      })
    )
  }

  it.scopedLive("with several addresses are reached by any of them, and doctor says so", () =>
    Effect.gen(function* () {
      const found = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(found))
      // the server has one of two addresses, and nothing listens at the other
      const proxy = net.createServer((client) => {
        const server = net.connect(found.config.port, "127.0.0.1")
        for (const [from, to] of [
          [client, server],
          [server, client]
        ] as const)
          from.on("error", () => to.destroy()).pipe(to)
      })
      yield* Effect.acquireRelease(
        Effect.promise(() => new Promise<void>((resolve) => proxy.listen(0, "127.0.0.92", resolve))),
        () => Effect.sync(() => proxy.close())
      )
      const files = yield* temporaryDirectory
      const hosts = path.join(files, "hosts")
      fs.writeFileSync(
        hosts,
        `${HOSTS}127.0.0.93 one\n127.0.0.92 one\n127.0.0.92 another\n127.0.0.93 another\n` +
          `127.0.0.94 half\n127.0.0.92 half\n`
      )
      const { port } = proxy.address() as net.AddressInfo
      const under = ["unshare", "-m", "sh", "-c", `mount --bind ${hosts} /etc/hosts && exec "$@"`, "sh"]
      const silent = net.createServer(() => undefined)
      yield* Effect.acquireRelease(
        Effect.promise(() => new Promise<void>((resolve) => silent.listen(port, "127.0.0.94", resolve))),
        () => Effect.sync(() => silent.close())
      )
      yield* fill(files, [useLine({})])
      {
        const url = `mysql://${found.config.username}@half:${port}/${found.config.database}`
        const { stdout } = yield* effectAudit(files, ["doctor", "--json", "--url", url], {}, under)
        assert.include(stdout, "127.0.0.94, an address of half, takes connections and stays silent")
        assert.include(stdout, "all columns are there")
        const flushed = yield* effectAudit(files, ["flush", "--json", "--url", url], {}, under)
        assert.deepInclude(flushed, { code: 0 }, flushed.stderr)
      }
      for (const name of ["one", "another"]) {
        const url = `mysql://${found.config.username}@${name}:${port}/${found.config.database}`
        const { stdout } = yield* effectAudit(files, ["doctor", "--json", "--url", url], {}, under)
        assert.include(stdout, `${name}:${port}`)
        assert.notInclude(stdout, "does not answer")
        assert.include(stdout, "all columns are there")
      }
    })
  )
})
