import { Effect } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { expect, onTestFinished, test, vi } from "vitest"
import { freePort } from "../support/net.js"
import { migratedDatabase } from "../support/mysql.js"
import { fill, useLine } from "../support/cli.js"
import { run, start, temporaryDirectory } from "../support/program.js"
import { openSqlite } from "../support/sqlite.js"

/** A directory for one test, with access to what the example leaves there. */
const workplace = () => {
  const directory = temporaryDirectory()
  onTestFinished(directory.remove)
  const cwd = directory.path
  return {
    cwd,
    query: (sql: string, file = "audit.db") =>
      Effect.runPromise(
        Effect.scoped(Effect.flatMap(openSqlite(path.join(cwd, file)), (query) => query(sql)))
      ),
    /** The segments of the queue, joined. */
    queued: () =>
      fs
        .readdirSync(path.join(cwd, "audit"))
        .filter((name) => /^\d+\.ndjson$/.test(name))
        .map((name) => fs.readFileSync(path.join(cwd, "audit", name), "utf8"))
        .join("")
  }
}

const USE =
  "SELECT user_name, device_name, prompt, status, duration_ms FROM nano_banana_user_use_log ORDER BY id"
const LOGIN = "SELECT user_name, local_ip, device_name FROM nano_banana_user_log ORDER BY id"
const li = {
  login: { user_name: "li", local_ip: "10.0.0.5", device_name: "studio-3" },
  use: {
    user_name: "li",
    device_name: "studio-3",
    prompt: "a red fox",
    status: "success",
    duration_ms: 1840
  }
}

test("first-program delivers to the embedded database", async () => {
  const { cwd, query, queued } = workplace()
  expect(await run("examples/first-program.ts", { cwd })).toMatchObject({ code: 0, stderr: "" })
  expect(await query(LOGIN)).toMatchObject([li.login])
  expect(await query(USE)).toMatchObject([li.use])
  expect(queued()).toBe("")
})

test("first-program delivers to MySQL", async () => {
  const { cwd, queued } = workplace()
  const database = await migratedDatabase()
  onTestFinished(database.drop)
  const env = { AUDIT_MYSQL_URL: database.url }
  expect(await run("examples/first-program.ts", { cwd, env })).toMatchObject({ code: 0, stderr: "" })
  expect(await database.query(LOGIN)).toEqual([li.login])
  expect(await database.query(USE)).toEqual([li.use])
  expect(queued()).toBe("")
})

test("http-server records the user of each request, failed ones included", async () => {
  const { cwd, query, queued } = workplace()
  const port = await freePort()
  const server = start("examples/http-server.ts", { cwd, env: { PORT: String(port) } })
  await server.prints("Listening")

  const post = (user: string, body: string) =>
    fetch(`http://127.0.0.1:${port}/images`, {
      method: "POST",
      headers: { "x-user": user, "user-agent": "test", "content-type": "application/json" },
      body
    })
  const answered = await post("li", '{"prompt":"a red fox"}')
  expect([answered.status, await answered.json()]).toEqual([200, { image: "a%20red%20fox.png" }])
  // the event is on disk before the response
  expect(queued()).toContain('"user_name":"li"')
  expect((await post("wang", '{"prompt":""}')).status).toBe(400)
  expect((await fetch(`http://127.0.0.1:${port}/nowhere`)).status).toBe(404)

  server.kill("SIGTERM")
  expect(await server.ended).toMatchObject({ code: 0, stderr: "" })
  expect(await query(USE)).toMatchObject([
    { user_name: "li", device_name: "test", prompt: "POST /images", status: "success" },
    { user_name: "wang", device_name: "test", prompt: "POST /images", status: "failure" },
    { user_name: "未知用户", prompt: "GET /nowhere", status: "failure" }
  ])
  expect(queued()).toBe("")
})

test("plain-server records without Effect before it answers, and closes after the last response", async () => {
  const { cwd, query, queued } = workplace()
  const port = await freePort()
  const server = start("examples/plain-server.ts", { cwd, env: { PORT: String(port) } })
  await server.prints("Listening")
  const post = (user: string, body: string) =>
    fetch(`http://127.0.0.1:${port}/images`, { method: "POST", headers: { "x-user": user }, body })
  expect(await (await post("li", "a red fox")).text()).toBe("painted\n")
  expect(queued()).toContain('"user_name":"li"')
  expect((await post("wang", "")).status).toBe(400)
  server.kill("SIGTERM")
  expect(await server.ended).toMatchObject({ code: 0, stderr: "" })
  expect(await query(USE)).toMatchObject([
    { user_name: "li", prompt: "a red fox", status: "success" },
    { user_name: "wang", prompt: "", status: "failure" }
  ])
  expect(queued()).toBe("")
})

test("desktop quits cleanly during an outage, and its next start delivers", async () => {
  const { cwd, query, queued } = workplace()
  const outage = start("examples/desktop.ts", { cwd })
  outage.stdin.write("a red fox\n一只狐狸\n")
  await outage.prints('painted "一只狐狸"; 3 events wait on disk')
  outage.stdin.write("quit\n")
  expect(await outage.ended).toMatchObject({ code: 0, stderr: "" })
  expect(queued().trimEnd().split("\n")).toHaveLength(3)

  fs.mkdirSync(path.join(cwd, "server"))
  const restarted = start("examples/desktop.ts", { cwd })
  await vi.waitFor(() => expect(queued()).toBe(""), { timeout: 120_000 })
  restarted.stdin.end()
  expect(await restarted.ended).toMatchObject({ code: 0, stderr: "" })
  const prompts = await query("SELECT prompt FROM nano_banana_user_use_log ORDER BY id", "server/audit.db")
  expect(prompts.map((row) => row.prompt)).toEqual(["a red fox", "一只狐狸"])
  expect(await query("SELECT count(*) AS count FROM nano_banana_user_log", "server/audit.db")).toMatchObject([
    { count: 2 }
  ])
})

test("health answers 503 when events cannot be recorded or an operator is needed", async () => {
  const { cwd } = workplace()
  const probe = async (env: Record<string, string>) => {
    const port = await freePort()
    const server = start("examples/health.ts", { cwd, env: { PORT: String(port), ...env } })
    await server.prints("Listening")
    const get = async (file: string) => {
      const response = await fetch(`http://127.0.0.1:${port}/${file}`)
      return [response.status, await response.text()] as const
    }
    return { get, server }
  }
  const good = await probe({})
  expect(await good.get("live")).toEqual([200, "alive\n"])
  const [status, body] = await good.get("ready")
  expect([status, JSON.parse(body)]).toMatchObject([200, { state: "idle", waiting: 0, missing: 0 }])
  good.server.kill("SIGTERM")
  await good.server.ended

  // an event waits, and nobody can open the database file
  fs.mkdirSync(path.join(cwd, "is-a-directory.db"))
  const env = { AUDIT_SQLITE_FILE: "./is-a-directory.db", AUDIT_DIRECTORY: path.join(cwd, "audit") }
  await Effect.runPromise(fill(path.join(cwd, "audit"), [useLine({})]))
  const bad = await probe(env)
  await vi.waitFor(async () => {
    const [status, body] = await bad.get("ready")
    expect([status, JSON.parse(body)]).toMatchObject([503, { state: "needsOperator", waiting: 1 }])
  })
  expect((await bad.get("live"))[0]).toBe(200)
  bad.server.kill("SIGTERM")
  await bad.server.ended
})
