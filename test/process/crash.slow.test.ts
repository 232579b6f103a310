/**
 * SIGKILL at named points, by the disk or the driver: no acknowledged event is lost or stored twice. With a proof,
 * `prove` finds nothing.
 */
import { Effect } from "effect"
import { randomInt } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { TestContext } from "vitest"
import { afterAll, describe, expect, test } from "vitest"
import { ENTRY_BYTES } from "../../src/internal/proof/seal.js"
import { databasePoints, type Point, points } from "../crash/points.js"
import { migratedDatabase } from "../support/mysql.js"
import { judge, readBooks, readRows } from "../support/oracle.js"
import { run, start, temporaryDirectory } from "../support/program.js"
import { type MakeProven, openProven, type OpenProven, PROVEN } from "../support/proven.js"
import { openSqlite } from "../support/sqlite.js"

const isLong = process.env.AUDIT_LONG === "1"
/** kills at each point, and at random under load */
const ROUNDS = isLong ? 10 : 1
const RANDOM = isLong ? 100 : 5
/** kills at each point of the disk, on each database with a proof, in the long run */
const ROUNDS_PROVEN = 3

const program = "test/crash/program.ts"

// --------------------------------------------------------------------------------------------------------- figures

interface Figure {
  kills: number
  lost: number
  doubled: number
}
const figures = new Map<string, Figure>()
const figure = (name: string): Figure => {
  const found = figures.get(name) ?? { kills: 0, lost: 0, doubled: 0 }
  figures.set(name, found)
  return found
}

afterAll(() => {
  const order = [...points, ...databasePoints, RANDOM_POINT].map(({ name }) => name)
  const rows = [...figures]
    .map(([point, found]) => ({ point, ...found }))
    .sort((a, b) => order.indexOf(a.point) - order.indexOf(b.point))
  const sum = (of: (row: Figure) => number) => rows.reduce((total, row) => total + of(row), 0)
  const total = {
    point: "all",
    kills: sum(({ kills }) => kills),
    lost: sum(({ lost }) => lost),
    doubled: sum(({ doubled }) => doubled)
  }
  const line = ({ doubled, kills, lost, point }: typeof total) =>
    `${point.padEnd(55)}${String(kills).padStart(7)}${String(lost).padStart(6)}${String(doubled).padStart(9)}`
  console.log([`${"killed at".padEnd(55)}  kills  lost  doubled`, ...rows.map(line), line(total)].join("\n"))
})

// ---------------------------------------------------------------------------------------------------------- ordeal

const RANDOM_POINT: Point = { name: "at random, under load", call: "none directory before", among: 1 }

interface Ordeal {
  readonly points: ReadonlyArray<Point>
  /** an operator retries and discards dead letters meanwhile */
  readonly requests?: boolean
  /** more waits than is delivered, and nothing is refused */
  readonly backlog?: boolean
  readonly adopting?: "near" | "far"
  /** a database with a proof, or a name without one */
  readonly database: "sqlite" | "mysql" | MakeProven
}

/** Kills programs on one directory at each point in turn, judges each kill, and ends a last program in order. */
const ordeal = async (
  { adopting, backlog = false, database: kind, points, requests = false }: Ordeal,
  context: TestContext
) => {
  const { path: cwd, remove } = temporaryDirectory()
  context.onTestFinished(remove)
  const directory = path.join(cwd, "audit")
  const old = path.join(cwd, "old.ndjson")
  const { address, findings, key, query } = await openDatabase(kind, cwd, context)
  const live = (events: number, point?: Point) => ({
    cwd,
    env: {
      CRASH_DIRECTORY: directory,
      CRASH_DATABASE: address,
      CRASH_EVENTS: String(events),
      // the last program must leave nothing, so nobody retries letters while it ends
      CRASH_REQUESTS: String(requests && point !== undefined),
      CRASH_BACKLOG: String(backlog),
      CRASH_FAR: String(adopting === "far"),
      ...(adopting === undefined ? {} : { CRASH_OLD: old }),
      ...(key === undefined ? {} : { CRASH_PROOF_KEY: key }),
      ...(point === undefined
        ? {}
        : { CRASH_CALL: point.call, CRASH_OCCURRENCE: String(1 + randomInt(point.among)) })
    }
  })
  const acknowledged: Array<string> = []
  const refused = () => {
    const memory = `${directory}.refused`
    return fs.existsSync(memory) ? fs.readFileSync(memory, "utf8").split("\n") : []
  }
  const judgeAll = (kills: number) =>
    readRows(query).then((rows) => {
      // a retry appends letters in batches of 1,000, so a kill may leave a whole batch in the queue
      const interruptedRetries = requests ? kills * 1000 : 0
      return judge({
        acknowledged,
        books: readBooks(directory),
        rows,
        interruptedRetries,
        refused: refused()
      })
    })
  let oldLines = 0
  const writeOld = () => {
    if (adopting === undefined || fs.existsSync(old)) return
    for (let line = 0; line < 10; line++) {
      const prompt = `old ${oldLines++}`
      fs.appendFileSync(old, `${JSON.stringify({ kind: "use_log", ts: "2026-01-01T00:00:00", prompt })}\n`)
    }
  }
  const end = async (events: number) => {
    const ended = await run(program, live(events))
    expect(ended, ended.stderr).toMatchObject({ code: 0 })
    acknowledged.push(...ids(ended.stdout))
  }

  // the first program creates the directory and the tables
  await end(20)
  let kills = 0
  for (const point of points) {
    writeOld()
    const child = start(program, live(0, point))
    const isRandom = point === RANDOM_POINT
    if (isRandom) {
      await child.prints(/\n/)
      await sleep(randomInt(300))
      child.kill("SIGKILL")
    }
    const timer = setTimeout(() => child.kill("SIGTERM"), 300_000)
    const ended = await child.ended
    clearTimeout(timer)
    expect(ended.signal, `${point.name} was never reached:\n${ended.stderr}`).toBe("SIGKILL")
    acknowledged.push(...ids(ended.stdout))
    kills++
    const found = figure(point.name)
    found.kills++
    const verdict = await judgeAll(kills)
    if (verdict.some((claim) => claim.includes("lost") || claim.includes("missing"))) found.lost++
    if (verdict.some((claim) => claim.includes("twice"))) found.doubled++
    expect(verdict, `killed at "${point.name}"`).toEqual([])
    expect(await findings(), `killed at "${point.name}"`).toEqual([])
  }
  await end(20)
  // a request that a kill left may take longer than that program lives: its lines come behind the last drain
  for (let ends = 1; requests && ends < 20 && readBooks(directory).waiting > 0; ends++) await end(20)

  expect(await judgeAll(kills)).toEqual([])
  expect(await findings()).toEqual([])
  expect(readBooks(directory)).toMatchObject({ waiting: 0, missing: 0 })
  if (backlog) {
    const [largest] = (await query("SELECT MAX(LENGTH(entries)) AS n FROM effect_audit_seal")) as [
      { n: number }
    ]
    expect(largest.n / ENTRY_BYTES, "a seal of several batches").toBeGreaterThan(20)
  }
  if (adopting !== undefined) {
    const stored = await query("SELECT prompt FROM nano_banana_user_use_log WHERE prompt LIKE 'old %'")
    const prompts = (stored as ReadonlyArray<{ readonly prompt: string }>).map(({ prompt }) => prompt)
    expect(new Set(prompts).size, "no adopted event is lost").toBe(oldLines)
    expect(prompts, "none is doubled").toHaveLength(oldLines)
  }
}

const ids = (stdout: string) => stdout.split("\n").filter((line) => line.length === 36)

/** Without a proof, a database has no key and no findings. */
type Database = Omit<OpenProven, "key"> & Partial<Pick<OpenProven, "key">>

const openDatabase = async (
  kind: Ordeal["database"],
  cwd: string,
  context: TestContext
): Promise<Database> => {
  const findings = () => Promise.resolve([])
  if (kind === "mysql") {
    const database = await migratedDatabase()
    context.onTestFinished(database.drop)
    return { address: database.url, query: database.query, findings }
  }
  if (kind !== "sqlite") return openProven(kind, context)
  const address = path.join(cwd, "audit.db")
  return {
    address,
    query: (sql) =>
      Effect.runPromise(Effect.scoped(Effect.flatMap(openSqlite(address), (query) => query(sql)))),
    findings
  }
}

const repeated = <A>(items: ReadonlyArray<A>, rounds = ROUNDS) =>
  Array.from({ length: rounds }, () => items).flat()

/** The points whose names begin with one of these. */
const startingWith = (...starts: ReadonlyArray<string>) =>
  points.filter(({ name }) => starts.some((start) => name.startsWith(start)))

const named = (...starts: ReadonlyArray<string>) => repeated(startingWith(...starts))

describe.concurrent("killed with SIGKILL", { timeout: isLong ? 3_600_000 : 600_000 }, () => {
  test("while it appends", (context) =>
    ordeal({ points: named("append", "seal", "create", "sync"), database: "sqlite" }, context))

  test("while it keeps the books", (context) =>
    ordeal({ points: named("write", "remove", "fsync"), database: "sqlite" }, context))

  test("while it carries out requests", (context) =>
    ordeal({ points: named("carry out"), requests: true, database: "sqlite" }, context))

  test("while it adopts a file", (context) =>
    ordeal({ points: named("adopt,"), adopting: "near", database: "sqlite" }, context))

  test("while it adopts a file of another file system", (context) =>
    ordeal({ points: named("adopt by copy"), adopting: "far", database: "sqlite" }, context))

  test("at random, delivering to MySQL", (context) =>
    ordeal({ points: Array.from({ length: RANDOM }, () => RANDOM_POINT), database: "mysql" }, context))
})

describe.concurrent("killed with SIGKILL, with a proof", { timeout: isLong ? 3_600_000 : 600_000 }, () => {
  for (const [name, make] of PROVEN)
    test(`while it stores rows and their seal (${name})`, (context) =>
      ordeal({ points: repeated(databasePoints), database: make }, context))

  // SQLite's driver blocks the program: another batch is rarely ready
  for (const [name, make] of PROVEN.filter(([name]) => name !== "SQLite"))
    test(`while batches share a seal (${name})`, (context) =>
      ordeal({ points: repeated(databasePoints), backlog: true, database: make }, context))

  if (!isLong) return
  const some = (...starts: ReadonlyArray<string>) => repeated(startingWith(...starts), ROUNDS_PROVEN)
  for (const [name, make] of PROVEN) {
    test(`while it appends and keeps the books (${name})`, (context) =>
      ordeal(
        { points: some("append", "seal", "create", "sync", "write", "remove", "fsync"), database: make },
        context
      ))

    test(`while it carries out requests (${name})`, (context) =>
      ordeal({ points: some("carry out"), requests: true, database: make }, context))

    test(`while it adopts a file (${name})`, (context) =>
      ordeal({ points: some("adopt,"), adopting: "near", database: make }, context))

    test(`while it adopts a file of another file system (${name})`, (context) =>
      ordeal({ points: some("adopt by copy"), adopting: "far", database: make }, context))
  }
})
