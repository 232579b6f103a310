/**
 * SIGKILL at random moments, under load: no acknowledged event is lost or stored twice. With a proof, `prove` finds
 * nothing.
 */
import { Effect } from "effect"
import { randomInt } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { TestContext } from "vitest"
import { describe, expect, inject, test, vi } from "vitest"
import { migratedDatabase } from "../support/mysql.js"
import { judge, readBooks, readRows } from "../support/oracle.js"
import type { Program } from "../support/program.js"
import { run, start, temporaryDirectory } from "../support/program.js"
import { openProven, type OpenProven, PROVEN } from "../support/proven.js"
import { openSqlite } from "../support/sqlite.js"

const worker = "test/support/worker.ts"

const long = process.env.AUDIT_LONG === "1"
const KILLS = long ? 25 : 6
const KILLS_SQLITE = long ? 5 : 3
const KILLS_PROVEN = long ? 110 : 2
const KILLS_INSTANCES = long ? 20 : 1

interface Database {
  readonly address: string
  readonly query: (sql: string) => Promise<ReadonlyArray<unknown>>
  /** the key that seals deliveries; it and `findings` only with a proof */
  readonly key?: OpenProven["key"]
  readonly findings?: OpenProven["findings"]
}

type Open = (directory: string, context: TestContext) => Promise<Database>

const mysqlAt =
  (rootUrl?: string): Open =>
  async (_directory, { onTestFinished }) => {
    const database = await migratedDatabase(rootUrl)
    onTestFinished(database.drop)
    return { address: database.url, query: database.query }
  }

const mariadb = mysqlAt()
const oracle = inject("oracleRootUrl")

const sqlite = async (directory: string): Promise<Database> => {
  const address = path.join(directory, "audit.db")
  return {
    address,
    query: (sql) =>
      Effect.runPromise(Effect.scoped(Effect.flatMap(openSqlite(address), (query) => query(sql))))
  }
}

const ids = (stdout: string) => stdout.split("\n").filter((line) => line.length === 36)

/** Kills the program at a random moment: mostly under load, sometimes during its start. */
const killSoon = async (program: Program) => {
  if (randomInt(5) > 0) {
    await program.prints("\n")
    // counts events, not time, so that a slow machine has a load too
    const enough = program.prints(new RegExp(`(?:.+\\n){${randomInt(1, 200)}}`))
    await Promise.race([enough.catch(() => undefined), sleep(2000)])
    await sleep(randomInt(30))
  } else {
    await sleep(randomInt(500))
  }
  program.kill("SIGKILL")
  return program.ended
}

/** Starts and kills programs on one directory, judges each kill, and ends a last program in order. */
const ordeal = async (context: TestContext, kills: number, open: Open) => {
  const { path: cwd, remove } = temporaryDirectory()
  context.onTestFinished(remove)
  const database = await open(cwd, context)
  const directory = path.join(cwd, "audit")
  const env = (events: number) => ({
    WORKER_DIRECTORY: directory,
    WORKER_DATABASE: database.address,
    WORKER_EVENTS: String(events),
    // with two connections, seals must still be stored in order
    WORKER_CONNECTIONS: String(randomInt(1, 3)),
    ...(database.key === undefined ? {} : { WORKER_PROOF_KEY: database.key })
  })
  const nothing = database.key === undefined ? undefined : []
  const acknowledged: Array<string> = []
  const evidence = async () => ({
    acknowledged,
    books: readBooks(directory),
    rows: await readRows(database.query)
  })

  // the first program creates the directory and the tables
  const first = await run(worker, { cwd, env: env(10) })
  expect(first).toMatchObject({ code: 0 })
  acknowledged.push(...ids(first.stdout))
  for (let kill = 1; kill <= kills; kill++) {
    const ended = await killSoon(start(worker, { cwd, env: env(0) }))
    acknowledged.push(...ids(ended.stdout))
    expect(ended, ended.stderr).toMatchObject({ code: null, signal: "SIGKILL" })
    expect(judge(await evidence()), `after kill ${kill}`).toEqual([])
    expect(await database.findings?.(), `after kill ${kill}`).toEqual(nothing)
  }
  const last = await run(worker, { cwd, env: env(100) })
  expect(last, last.stderr).toMatchObject({ code: 0 })
  acknowledged.push(...ids(last.stdout))

  const { books, rows } = await evidence()
  expect(judge({ acknowledged, books, rows })).toEqual([])
  expect(books).toMatchObject({ waiting: 0, refused: 0, missing: 0, delivered: rows.length })
  expect(await database.findings?.()).toEqual(nothing)
  // the programs were under load
  expect(acknowledged.length).toBeGreaterThan(kills * 20)
  const sealed = database.key === undefined ? "without a proof" : "with a proof"
  console.log(`${context.task.name}, ${sealed}: ${kills} kills, ${acknowledged.length} events acknowledged`)
}

const PROGRAMS = 3
/** one more for a program that is being replaced */
const INSTANCES = PROGRAMS + 1

/** Kills and restarts programs that share a directory, until one is left, which takes over. */
const instancesOrdeal = async (context: TestContext, kills: number, database: OpenProven) => {
  const { path: cwd, remove } = temporaryDirectory()
  context.onTestFinished(remove)
  const directory = path.join(cwd, "audit")
  const env = (events: number) => ({
    WORKER_DIRECTORY: directory,
    WORKER_DATABASE: database.address,
    WORKER_PROOF_KEY: database.key,
    WORKER_INSTANCES: String(INSTANCES),
    WORKER_EVENTS: String(events),
    WORKER_THEN: "stay"
  })
  const acknowledged: Array<string> = []
  const end = async (program: Program, signal: NodeJS.Signals) => {
    program.kill(signal)
    acknowledged.push(...ids((await program.ended).stdout))
  }
  const programs: Array<Program> = []
  for (let kill = 0; kill < kills + PROGRAMS; kill++) {
    const next = kill < kills ? randomInt(PROGRAMS) : kill - kills
    while (kill < kills && programs.length < PROGRAMS) programs.push(start(worker, { cwd, env: env(200) }))
    await programs[next]!.prints(new RegExp(`(?:.+\\n){${randomInt(1, 100)}}`))
    await end(programs[next]!, "SIGKILL")
    if (kill < kills) programs[next] = start(worker, { cwd, env: env(200) })
    // the first program may die before its first seal
    const found = (await database.findings()).filter(({ subject }) => subject !== "the chains")
    expect(found, `after kill ${kill + 1}`).toEqual([])
  }
  const last = start(worker, { cwd, env: env(10) })
  await last.prints(/(?:.+\n){10}/)
  const missing = async () => {
    const rows = new Set(await readRows(database.query))
    return acknowledged.filter((id) => !rows.has(id))
  }
  await vi.waitUntil(async () => (await missing()).length === 0, { timeout: 300_000, interval: 500 })
  await end(last, "SIGTERM")

  const books = Array.from({ length: INSTANCES }, (_, index) => path.join(directory, `instance-${index}`))
    .filter((instance) => fs.existsSync(instance))
    .map(readBooks)
  const rows = await readRows(database.query)
  expect(await missing()).toEqual([])
  expect(new Set(rows).size).toBe(rows.length)
  for (const { accepted, delivered, missing, refused, torn, waiting } of books)
    expect([waiting, missing, refused, accepted]).toEqual([0, 0, 0, delivered + torn])
  expect(books.reduce((sum, { delivered }) => sum + delivered, 0)).toBe(rows.length)
  expect(await database.findings()).toEqual([])
  console.log(`${context.task.name}: ${acknowledged.length} events acknowledged`)
}

describe.concurrent("SIGKILL under load", () => {
  test(`${KILLS} times, delivering to MariaDB`, { timeout: 300_000 }, (context) =>
    ordeal(context, KILLS, mariadb)
  )
  test.skipIf(oracle === undefined)(
    `${KILLS} times, delivering to MySQL, beside it`,
    { timeout: 300_000 },
    (context) => ordeal(context, KILLS, mysqlAt(oracle))
  )
})

test(`SIGKILL under load, ${KILLS_SQLITE} times, delivering to SQLite`, (context) =>
  ordeal(context, KILLS_SQLITE, sqlite))

describe.concurrent("SIGKILL under load, with a proof", () => {
  for (const [name, make] of PROVEN)
    test(`${KILLS_PROVEN} times, delivering to ${name}`, { timeout: KILLS_PROVEN * 60_000 }, (context) =>
      ordeal(context, KILLS_PROVEN, (_, context) => openProven(make, context))
    )

  for (const [name, make] of PROVEN)
    test(
      `${KILLS_INSTANCES} of ${PROGRAMS} instances, delivering to ${name}`,
      { timeout: (KILLS_INSTANCES + PROGRAMS) * 60_000 + 300_000 },
      async (context) => instancesOrdeal(context, KILLS_INSTANCES, await openProven(make, context))
    )
})
