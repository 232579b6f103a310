/** The examples of the API, run as programs. */
import { Effect, Layer } from "effect"
import { Uploader, UseLog } from "effect-audit"
import { EventEmitter } from "node:events"
import * as path from "node:path"
import { expect, onTestFinished, test, vi } from "vitest"
import { main, type IpcMain } from "../../examples/electron-main.js"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { freePort } from "../support/net.js"
import { run, start, temporaryDirectory } from "../support/program.js"
import { openSqlite } from "../support/sqlite.js"

const workplace = () => {
  const { path: cwd, remove } = temporaryDirectory()
  onTestFinished(remove)
  const query = (sql: string) =>
    Effect.runPromise(
      Effect.scoped(Effect.flatMap(openSqlite(path.join(cwd, "audit.db")), (query) => query(sql)))
    )
  return { cwd, query }
}

const fullDisk = { AUDIT_MIN_FREE_BYTES: "1e15" }

test("http-api-actor takes the actor from the authentication", async () => {
  const { cwd, query } = workplace()
  const port = await freePort()
  const server = start("examples/http-api-actor.ts", { cwd, env: { PORT: String(port) } })
  await server.prints("Listening")
  const post = (path: string, token: string, body: unknown) =>
    fetch(`http://127.0.0.1:${port}${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(body)
    })
  expect((await post("/login", "li-studio-3", {})).status).toBe(204)
  const answered = await post("/images", "li-studio-3", { prompt: "a red fox" })
  expect(await answered.json()).toEqual({ path: "out/a%20red%20fox.png" })
  expect((await post("/images", "wang-pc", { prompt: "a dragon" })).status).toBe(503)
  expect((await post("/images", "nobody", { prompt: "a red fox" })).status).toBe(401)
  const remove = (id: string) =>
    fetch(`http://127.0.0.1:${port}/images/${id}`, {
      method: "DELETE",
      headers: { authorization: "Bearer li-studio-3", "x-request-id": `request-${id}`, "user-agent": "test" }
    })
  expect((await remove("0042")).status).toBe(204)
  expect((await remove("1")).status).toBe(404)
  server.kill("SIGTERM")
  expect(await server.ended).toMatchObject({ code: 0, stderr: "" })

  const activities = await query("SELECT * FROM audit_activity ORDER BY rowid")
  expect(activities).toMatchObject([
    { target_id: "0042", outcome: "success", request_id: "request-0042" },
    { target_id: "1", outcome: "failure", request_id: "request-1" }
  ])
  for (const activity of activities) {
    expect(activity).toMatchObject({ actor_name: "li", actor_type: "user", user_agent: "test" })
    expect(activity.ip).toMatch(/127\.0\.0\.1$/)
    expect(activity.trace_id).toMatch(/^[\da-f]{32}$/)
  }
  expect(await query("SELECT user_name, device_name FROM nano_banana_user_log")).toMatchObject([
    { user_name: "li", device_name: "studio-3" }
  ])
  expect(
    await query(
      "SELECT user_name, device_name, prompt, status, result_path FROM nano_banana_user_use_log ORDER BY id"
    )
  ).toMatchObject([
    { user_name: "li", device_name: "studio-3", status: "success", result_path: "out/a%20red%20fox.png" },
    { user_name: "wang", device_name: "pc", prompt: "a dragon", status: "failure", result_path: null }
  ])
})

test("strict does nothing that it cannot record", async () => {
  const { cwd, query } = workplace()
  const refused = await run("examples/strict.ts", { cwd, env: fullDisk })
  expect(refused.code).toBe(0)
  expect(refused.stdout).toContain("not generated: the audit log has no room (minFreeBytes)")
  expect(refused.stdout).not.toContain("generated out/")

  const done = await run("examples/strict.ts", { cwd, args: ["a blue fox"] })
  expect(done.stdout).toContain("generated out/a%20blue%20fox.png")
  expect(await query("SELECT status FROM nano_banana_user_use_log ORDER BY id")).toMatchObject([
    { status: "started" },
    { status: "success" }
  ])
})

test("on-append-failure: log continues, die ends, call calls, and none shows redacted values", async () => {
  const { cwd } = workplace()
  const answer = (form: string) => run("examples/on-append-failure.ts", { cwd, args: [form], env: fullDisk })

  const log = await answer("log")
  expect(log).toMatchObject({ code: 0 })
  expect(log.stdout).toMatch(/ERROR .*Event [0-9a-f-]{36} was not recorded: the disk has/)
  expect(log.stdout).toContain("the program goes on")

  const die = await answer("die")
  expect(die.code).toBe(1)
  expect(die.stdout).not.toContain("the program goes on")

  const call = await answer("call")
  expect(call.stdout).toMatch(
    /PAGER: use_log [0-9a-f-]{36} was not recorded \(QueueFull\): \{"userName":"li"/
  )
  expect(call.stdout).toContain("the program goes on")
  for (const { stdout, stderr } of [log, die, call]) expect(stdout + stderr).not.toContain("a red fox")
})

test("electron-main audits the windows' requests, and quits after closing the log", async () => {
  const { cwd } = workplace()
  const database = Effect.runSync(makeMemoryUploader())
  const quit = vi.fn(() => {
    app.emit("will-quit", { preventDefault })
  })
  const preventDefault = vi.fn()
  const app = Object.assign(new EventEmitter(), { quit })
  let generate: Parameters<IpcMain["handle"]>[1] | undefined
  const ipcMain: IpcMain = { handle: (_, listener) => (generate = listener) }

  await main(app, ipcMain, {
    directory: path.join(cwd, "audit"),
    uploader: Layer.succeed(Uploader, database.uploader)
  })
  expect(await generate!({}, "a red fox")).toBe("out/a%20red%20fox.png")
  await expect(generate!({}, "a dragon")).rejects.toThrow("the model refused")

  app.emit("will-quit", { preventDefault })
  expect(preventDefault).toHaveBeenCalledTimes(1)
  await vi.waitFor(() => expect(quit).toHaveBeenCalledTimes(1), { timeout: 120_000 })
  // the log is closed, so the second quit is not prevented
  expect(preventDefault).toHaveBeenCalledTimes(1)
  const rows = Effect.runSync(database.stored(UseLog)).map(({ row }) => row)
  expect(rows.map((row) => [row[2], row[4], row[5]])).toEqual([
    ["a red fox", "success", null],
    ["a dragon", "failure", "Error: the model refused"]
  ])
})
