import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { createConnection } from "mysql2/promise"
import { afterEach, expect, test, vi } from "vitest"
import { createReferenceTables, freshDatabase } from "./database.js"
import type { MysqlServer, ServerOptions } from "./mysqlServer.js"
import { findServer, startServer } from "./mysqlServer.js"

const started: Array<MysqlServer> = []
afterEach(async () => {
  await Promise.all(started.splice(0).map((server) => server.stop()))
})

const start = async (options?: ServerOptions) => {
  const server = await startServer(options)
  started.push(server)
  return server
}

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Connects and runs a query within three seconds. */
const ask = async (server: Pick<MysqlServer, "rootUrl">) => {
  const connection = await createConnection({ uri: server.rootUrl, connectTimeout: 3000 })
  try {
    const [rows] = await connection.query("SELECT 1 AS one")
    return rows
  } finally {
    connection.destroy()
  }
}

test("the run's server creates databases with the tables of the reference", async () => {
  const one = await freshDatabase()
  const other = await freshDatabase()
  await createReferenceTables(one)
  await one.query(
    "INSERT INTO nano_banana_user_use_log (user_name, device_name, prompt, status) VALUES (?, ?, ?, ?)",
    ["李", "studio-3", "🦊", "success"]
  )
  await one.query("INSERT INTO nano_banana_user_log (user_name, login_time) VALUES (?, ?)", [
    "li",
    "2026-01-02 03:04:05"
  ])
  expect(await one.query("SELECT id, user_name, prompt, duration_ms FROM nano_banana_user_use_log")).toEqual([
    { id: 1, user_name: "李", prompt: "🦊", duration_ms: null }
  ])
  expect(await one.query("SELECT login_time FROM nano_banana_user_log")).toEqual([
    { login_time: "2026-01-02 03:04:05" }
  ])
  expect(await other.query("SHOW TABLES")).toEqual([])
  await one.drop()
  expect(await other.query("SHOW DATABASES LIKE ?", [one.config.database])).toEqual([])
  await other.drop()
})

test.skipIf(findServer("mysql") === undefined)(
  "Oracle's MySQL creates databases, restarts after kill -9, and leaves no files",
  async () => {
    const server = await start({ flavour: "mysql" })
    const database = await freshDatabase(server.rootUrl)
    const [found] = await database.query<{ version: string; comment: string; engine: string }>(
      "SELECT VERSION() AS version, @@version_comment AS comment, @@default_storage_engine AS engine"
    )
    expect(found!.engine).toBe("InnoDB")
    expect(`${found!.version} ${found!.comment}`).not.toMatch(/MariaDB/i)
    await createReferenceTables(database)
    await database.query("INSERT INTO nano_banana_user_log (user_name) VALUES (?)", ["李 🦊"])
    await server.kill9()
    await server.restart()
    expect(await database.query("SELECT user_name FROM nano_banana_user_log")).toEqual([
      { user_name: "李 🦊" }
    ])
    server.sigstop()
    await expect(ask(server)).rejects.toMatchObject({ code: "ETIMEDOUT" })
    server.sigcont()
    await expect(ask(server)).resolves.toEqual([{ one: 1 }])
    await database.drop()
    const pid = server.pid!
    await server.stop()
    expect(isAlive(pid)).toBe(false)
    expect(fs.existsSync(server.dataDirectory)).toBe(false)
  }
)

test("two servers run at once, and stop leaves neither process nor files", async () => {
  const [one, other] = await Promise.all([start(), start({ args: ["--max-allowed-packet=1M"] })])
  expect(one.port).not.toBe(other.port)
  const database = await freshDatabase(other.rootUrl)
  expect(await database.query("SELECT @@port AS port, @@max_allowed_packet AS packet")).toEqual([
    { port: other.port, packet: 1024 * 1024 }
  ])
  await database.drop()

  const pid = one.pid!
  expect(isAlive(pid)).toBe(true)
  await one.stop()
  expect(one.pid).toBeUndefined()
  expect(isAlive(pid)).toBe(false)
  expect(fs.existsSync(one.dataDirectory)).toBe(false)
  await expect(ask(one)).rejects.toMatchObject({ code: "ECONNREFUSED" })
  await expect(ask(other)).resolves.toEqual([{ one: 1 }])
})

test("SIGSTOP silences a server, SIGCONT wakes it, and a frozen server can be stopped", async () => {
  const server = await start()
  server.sigstop()
  await expect(ask(server)).rejects.toMatchObject({ code: "ETIMEDOUT" })
  server.sigcont()
  await expect(ask(server)).resolves.toEqual([{ one: 1 }])
  const pid = server.pid!
  server.sigstop()
  await server.stop()
  expect(isAlive(pid)).toBe(false)
})

test("a frozen server answers nothing, not even requests that are sent at once", async () => {
  const server = await start()
  const connection = await createConnection({ uri: server.rootUrl })
  try {
    for (let round = 0; round < 200; round++) {
      server.sigstop()
      const answer = connection.query("SELECT 1")
      const answered = await Promise.race([answer.then(() => true), sleep(5, false)])
      server.sigcont()
      await answer
      expect(answered, `round ${round}`).toBe(false)
    }
  } finally {
    connection.destroy()
  }
})

test("restart keeps the data after an orderly end and after kill -9", async () => {
  const server = await start()
  const database = await freshDatabase(server.rootUrl)
  await database.query("CREATE TABLE t (n INT)")
  await database.query("INSERT INTO t VALUES (1)")
  const before = server.pid
  await server.restart()
  expect(server.pid).not.toBe(before)
  await database.query("INSERT INTO t VALUES (2)")
  await server.kill9()
  expect(server.pid).toBeUndefined()
  await expect(ask(server)).rejects.toMatchObject({ code: "ECONNREFUSED" })
  await server.restart()
  expect(await database.query("SELECT n FROM t ORDER BY n")).toEqual([{ n: 1 }, { n: 2 }])
  await database.drop()
})

test("a server ends with the process that started it, even if that is killed", async () => {
  const program = `
    import { startServer } from ${JSON.stringify(new URL("./mysqlServer.ts", import.meta.url).href)}
    const { pid, dataDirectory } = await startServer()
    console.log(JSON.stringify({ pid, dataDirectory }))
    setInterval(() => {}, 1000)`
  const owner = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", program], {
    stdio: ["ignore", "pipe", "inherit"]
  })
  const [output] = (await once(owner.stdout, "data")) as [Buffer]
  const { dataDirectory, pid } = JSON.parse(output.toString()) as { pid: number; dataDirectory: string }
  expect(isAlive(pid)).toBe(true)
  owner.kill("SIGKILL")
  await vi.waitFor(
    () => {
      expect(isAlive(pid)).toBe(false)
      expect(fs.existsSync(dataDirectory)).toBe(false)
    },
    { timeout: 120_000 }
  )
})
