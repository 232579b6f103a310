/** Processes: real programs start, end, and end by real signals, whatever their database does. */
import { Effect } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { expect, onTestFinished, test, vi } from "vitest"
import { errorPacket, mutatingProxy, packetOf, scriptedServer } from "../support/badPeers.js"
import { migratedDatabase } from "../support/mysql.js"
import { refusingPort, silentServer } from "../support/net.js"
import { judge, readBooks, readRows } from "../support/oracle.js"
import { start, temporaryDirectory } from "../support/program.js"
import { onEachServer } from "../support/servers.js"
import { openSqlite } from "../support/sqlite.js"

const EVENTS = 50
/** The worker's timeout, plus time for a loaded machine, in ms; a wait for a server would take 10 seconds. */
const END_WITHIN = 2000 + 7000
const MARKER = "红狐狸"

const worker = "test/support/worker.ts"

/** Runs workers in a new directory. */
const workplace = () => {
  const { path: cwd, remove } = temporaryDirectory()
  onTestFinished(remove)
  const directory = path.join(cwd, "audit")
  const acknowledged: Array<string> = []
  return {
    cwd,
    directory,
    acknowledged,
    /** Starts a worker, and waits for the acknowledgement of its events. */
    startAndLog: async (database: string, then: "flush" | "end" | "stay") => {
      const program = start(worker, {
        cwd,
        env: {
          WORKER_DIRECTORY: directory,
          WORKER_DATABASE: database,
          WORKER_EVENTS: String(EVENTS),
          WORKER_THEN: then
        }
      })
      await program.prints(new RegExp(`(?:.+\\n){${EVENTS}}`))
      acknowledged.push(...program.stdout().trim().split("\n"))
      return program
    },
    /** the content of all files of the queue */
    content: () =>
      fs
        .readdirSync(directory, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => fs.readFileSync(path.join(entry.parentPath, entry.name), "utf8"))
        .join("\n")
  }
}

const readSqlite = (file: string) =>
  Effect.runPromise(
    Effect.scoped(
      Effect.flatMap(openSqlite(file), (query) =>
        Effect.promise(() => readRows((sql) => Effect.runPromise(query(sql))))
      )
    )
  )

/** A server that sends these bytes to each client, and keeps the connection. */
const saying = async (url: string, first: Buffer) => {
  const server = await scriptedServer({ steps: [first], atOnce: true, then: "stay" })
  onTestFinished(server.close)
  return Object.assign(new URL(url), { port: String(server.port) }).href
}

/** Troubles that prevent delivery. */
const troubles: Record<string, (url: string) => Promise<string>> = {
  "nobody listening": async (url) => {
    const { port } = await refusingPort()
    return Object.assign(new URL(url), { port: String(port) }).href
  },
  "a wrong password": async (url) => Object.assign(new URL(url), { password: "wrong" }).href,
  "a server that stays silent": async (url) => {
    const server = await silentServer()
    onTestFinished(server.close)
    return Object.assign(new URL(url), { port: String(server.port) }).href
  },
  "a server that is full": (url) => saying(url, errorPacket(1040, "Too many connections")),
  "a server that does not know this host": (url) => saying(url, errorPacket(1130, "Host is not allowed")),
  "a server that sends zeros": (url) => saying(url, Buffer.alloc(64)),
  "a server that adds packets after the login": async (url) => {
    const { hostname: host, port } = new URL(url)
    const proxy = await mutatingProxy({
      target: { host, port: Number(port) },
      // one byte of an error packet, less than the driver reads
      mutation: { packet: 1, change: "insert", at: 1, bytes: packetOf(Buffer.from([0xff]), 0) }
    })
    onTestFinished(proxy.close)
    return Object.assign(new URL(url), { port: String(proxy.port) }).href
  }
}

test.for(Object.entries(troubles))(
  "with %s a program starts, logs and ends, by itself and by SIGTERM, and the next start delivers",
  async ([_, trouble]) => {
    const database = await migratedDatabase()
    onTestFinished(database.drop)
    const { acknowledged, directory, startAndLog } = workplace()
    const troubled = await trouble(database.url)

    for (const [starts, signal] of [
      [1, undefined],
      [2, "SIGTERM"]
    ] as const) {
      const program = await startAndLog(troubled, signal === undefined ? "end" : "stay")
      const asked = Date.now()
      if (signal !== undefined) program.kill(signal)
      const ended = await program.ended
      expect(Date.now() - asked).toBeLessThan(END_WITHIN)
      expect(ended).toMatchObject({ code: 0, signal: null })
      expect(ended.stderr).not.toContain("    at ")
      expect(ended.stderr).toContain(`${starts * EVENTS} events wait on disk for the next start`)
      expect(readBooks(directory)).toMatchObject({ accepted: starts * EVENTS, waiting: starts * EVENTS })
    }

    const next = await startAndLog(database.url, "flush")
    expect(await next.ended).toMatchObject({ code: 0 })
    const [books, rows] = [readBooks(directory), await readRows(database.query)]
    expect(judge({ acknowledged, books, rows })).toEqual([])
    expect(books).toMatchObject({ accepted: 3 * EVENTS, delivered: 3 * EVENTS, waiting: 0 })
  }
)

test.for(["SIGINT", "SIGTERM"] as const)("%s makes the program drain, and exit with 0", async (signal) => {
  const { acknowledged, cwd, directory, startAndLog } = workplace()
  const server = path.join(cwd, "server")
  const program = await startAndLog(path.join(server, "audit.db"), "stay")
  expect(readBooks(directory)).toMatchObject({ accepted: EVENTS, delivered: 0 })
  // the next retry is seconds away, so only the drain can deliver
  fs.mkdirSync(server)
  program.kill(signal)
  expect(await program.ended).toMatchObject({ code: 0, signal: null })
  const books = readBooks(directory)
  const rows = await readSqlite(path.join(server, "audit.db"))
  expect(judge({ acknowledged, books, rows })).toEqual([])
  expect(books).toMatchObject({ accepted: EVENTS, delivered: EVENTS, waiting: 0 })
})

/** Databases that the worker can name, and that the test reads afterwards. */
const databases: Record<
  string,
  (cwd: string) => Promise<{ address: string; rows: () => ReturnType<typeof readRows> }>
> = {
  MariaDB: async () => {
    const database = await migratedDatabase()
    onTestFinished(database.drop)
    return { address: database.url, rows: () => readRows(database.query) }
  },
  // its first delivery creates the tables, and nothing can interrupt its driver
  SQLite: (cwd) => {
    const address = path.join(cwd, "audit.db")
    return Promise.resolve({ address, rows: () => readSqlite(address) })
  }
}

test.for(Object.keys(databases))(
  "a signal at any moment of a delivery to %s ends the program in order",
  async (name) => {
    const { acknowledged, cwd, directory, startAndLog } = workplace()
    const database = await databases[name]!(cwd)
    for (const moment of [0, 5, 10, 20, 40, 80]) {
      const program = await startAndLog(database.address, "stay")
      await sleep(moment)
      program.kill("SIGTERM")
      expect(await program.ended).toMatchObject({ code: 0, signal: null })
      const [books, rows] = [readBooks(directory), await database.rows()]
      expect(judge({ acknowledged, books, rows }), `after ${moment} ms`).toEqual([])
      expect(books, `after ${moment} ms`).toMatchObject({ waiting: 0, delivered: rows.length })
    }
  }
)

/** Runs a program with a defect in its logger or uploader: its output, and the stored events. */
const runWithDefect = async (defect: string) => {
  const { cwd, directory } = workplace()
  const program = start("test/support/defects.ts", { cwd, env: { DIRECTORY: directory, DEFECT: defect } })
  const { code, signal, stderr, stdout } = await program.ended
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: "" })
  const stored = path.join(cwd, "stored")
  return {
    printed: JSON.parse(stdout) as { readonly eventId: string; readonly failure?: { readonly code: string } },
    stored: fs.existsSync(stored) ? fs.readFileSync(stored, "utf8") : "",
    status: JSON.parse(fs.readFileSync(path.join(directory, "status.json"), "utf8")) as unknown
  }
}

test.for([
  ["logger", "ECONNREFUSED"],
  ["throws", "DEFECT"],
  ["interrupts", "DEFECT"],
  ["hangs", "ETIMEDOUT"]
] as const)(
  "a defect (%s) does not end the worker of openAuditLogger",
  { timeout: 300_000 },
  async ([defect, code]) => {
    const { printed, status, stored } = await runWithDefect(defect)
    expect(printed).toMatchObject({ failure: { code }, state: "idle", delivered: 1, waiting: 0 })
    expect(stored).toBe(`${printed.eventId}\n`)
    expect(status).toMatchObject({ state: "closed", failure: null })
  }
)

test("a program that ends before its first delivery fails leaves the reason", async () => {
  const { status, stored } = await runWithDefect("operator")
  expect(stored).toBe("")
  expect(status).toMatchObject({ state: "closed", failure: { class: "operator", code: "1142" } })
})

test("after a complete delivery and an idle second, no event is left in the directory", async () => {
  const database = await migratedDatabase()
  onTestFinished(database.drop)
  const { content, directory, startAndLog } = workplace()
  const program = await startAndLog(database.url, "stay")
  await vi.waitFor(async () => expect(await readRows(database.query)).toHaveLength(EVENTS), {
    timeout: 120_000
  })
  await vi.waitFor(() => expect(content()).not.toContain(MARKER), { timeout: 120_000, interval: 100 })
  expect(fs.readdirSync(directory).filter((name) => name.endsWith(".ndjson"))).toEqual([])
  program.kill("SIGTERM")
  expect(await program.ended).toMatchObject({ code: 0 })
})

onEachServer("with code generation from strings disallowed", ({ rootUrl }) => {
  test("delivers events", async () => {
    const database = await migratedDatabase(rootUrl)
    onTestFinished(database.drop)
    const { cwd, directory } = workplace()
    const program = start(worker, {
      cwd,
      execArgv: ["--disallow-code-generation-from-strings"],
      env: { WORKER_DIRECTORY: directory, WORKER_DATABASE: database.url, WORKER_EVENTS: String(EVENTS) }
    })
    const { code, stdout } = await program.ended
    expect(code).toBe(0)
    const [books, rows] = [readBooks(directory), await readRows(database.query)]
    expect(judge({ acknowledged: stdout.trim().split("\n"), books, rows })).toEqual([])
    expect(books).toMatchObject({ accepted: EVENTS, delivered: EVENTS, waiting: 0 })
  })
})
