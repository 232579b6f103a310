/**
 * `prove`: what it finds, and what it must accept. Another implementation writes rows and seals
 * (test/support/seals.ts). Then comes one attack at a time (test/support/attacks.ts), on each database.
 */
import { createClient } from "@libsql/client"
import { Effect } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { createConnection } from "mysql2/promise"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { openSource as openMysql } from "../../src/cli/mysqlSource.js"
import { openSource as openSqliteSource } from "../../src/cli/sqliteSource.js"
import type { Options, Progress } from "../../src/internal/proof/verify.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import {
  type Attack,
  ATTACKS,
  LAWFUL,
  Measure,
  type Place,
  type Scene,
  stage,
  TABLE,
  uuid
} from "../support/attacks.js"
import { effectAudit } from "../support/cli.js"
import { freshDatabase, type TestDatabase } from "../support/database.js"
import { connectionOptions } from "../support/mysql.js"
import { verified } from "../support/proven.js"
import { handOf, newKey } from "../support/seals.js"
import { onEachServer } from "../support/servers.js"

const prove = async (scene: Pick<Scene, "open" | "key">, options: Partial<Options> = {}) => {
  let last: Progress = { seals: 0, rows: 0 }
  const progress = (done: Progress) => Effect.sync(() => void (last = done))
  const { findings, summary } = await Effect.runPromise(
    verified(scene.open, scene.key.publicPem, { progress, ...options })
  )
  expect(summary.findings).toBe(findings.length)
  expect(last).toEqual({ seals: summary.seals, rows: summary.rows })
  const lines = findings.map(
    ({ eventId, kind, subject, text }) => `${kind}: ${subject} ${eventId ?? ""} ${text}`
  )
  return { summary, lines, kinds: findings.map(({ kind }) => kind).sort() }
}

const tests = (get: () => Place, isMysql: boolean) => {
  let scene: Scene
  beforeEach(async () => {
    scene = await stage(get())
  })
  const applies = ({ only }: Attack) => only === undefined || (only === "mysql") === isMysql
  const check = async ({ finds, run, says, tells, with: options }: Attack) => {
    await run(scene)
    const { kinds, lines, summary } = await prove(scene, options?.(scene))
    expect(kinds, lines.join("\n")).toEqual([...finds].sort())
    expect(summary).toMatchObject(says?.(scene) ?? {})
    for (const text of tells?.(scene) ?? []) expect(lines.join("\n")).toContain(text)
    // prove holds the ids of a larger table in parts
    if (finds.includes("foreign"))
      expect((await prove(scene, { ...options?.(scene), partIds: 2 })).kinds).toEqual(kinds)
  }
  describe("leaves alone", () => {
    for (const attack of LAWFUL.filter(applies)) test(attack.name, () => check(attack))
  })
  describe("finds", () => {
    for (const attack of ATTACKS.filter(applies)) test(attack.name, () => check(attack))
  })
  test("the command reports what it proved, and exits with 3 if something is wrong", async () => {
    const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-prove-"))
    const [keyFile, log] = [path.join(home, "audit-key.pub"), path.join(home, "program.log")]
    fs.writeFileSync(keyFile, scene.key.publicPem)
    fs.writeFileSync(
      log,
      `something\ntimestamp=x level=INFO message="audit: sealed" ${scene.sealer.anchor}\n`
    )
    const run = (...args: ReadonlyArray<string>) =>
      Effect.runPromise(effectAudit(home, ["prove", "--key", keyFile, ...scene.args, ...args]))
    const chain = scene.sealer.chain.toString("hex")
    const good = await run("--anchors", log)
    expect(good.stderr).toBe("")
    expect(good.code).toBe(0)
    expect(good.stdout).toContain("12 rows and 3 seals looked at, all as they were sealed")
    expect(good.stdout).toContain(`proved up to seal ${chain}:2 of 2026-02-01 00:00:00.000002`)
    expect(good.stdout).toContain(`anchored up to seal ${chain}:2`)
    // its own output is an anchor, too
    for (const args of [[], ["--json"]]) {
      fs.writeFileSync(log, (await run(...args)).stdout)
      expect((await run("--anchors", log)).stdout).toContain(`anchored up to seal ${chain}:2`)
    }
    const otherKey = path.join(home, "other.pub")
    fs.writeFileSync(otherKey, newKey().publicPem)
    expect((await run("--key", otherKey)).code).toBe(0)

    await scene.run(`UPDATE ${TABLE} SET model = 'x' WHERE ${scene.where(2)}`)
    const bad = await run()
    expect([bad.code, bad.stderr]).toEqual([3, ""])
    expect(bad.stdout).toContain(
      `table ${TABLE} ${uuid(scene.uses[6]!.id)}: changed: the row is not what was sealed in seal ${chain}:2`
    )
    const json = await run("--json", "--since", `${chain}:1`)
    expect(json.code).toBe(3)
    expect(json.json()[0]).toMatchObject({
      level: "failure",
      kind: "changed",
      eventId: uuid(scene.uses[6]!.id)
    })
    expect(json.json()[1]).toMatchObject({ level: "summary", rows: 4, seals: 3, bare: 0, findings: 1 })

    const unclear = await run("--since", chain)
    expect([unclear.code, unclear.stdout]).toEqual([64, ""])
    expect(unclear.stderr).toContain("names no seal: write CHAIN:NUMBER")
    const gone = await run("--since", `${chain}:7`)
    expect(gone.code).toBe(3)
    expect(gone.stdout).toContain(`seal ${chain}:7: gap: it is missing, and an earlier proof came to it`)
    fs.writeFileSync(log, "nothing\n")
    const empty = await run("--anchors", log)
    expect([empty.code, empty.stdout]).toEqual([64, ""])
    expect(empty.stderr).toContain("holds no head")
    fs.writeFileSync(log, `chain=${"00".repeat(16)} number=0 head=${"00".repeat(32)}\n`)
    const other = await run("--anchors", log)
    expect(other.code).toBe(3)
    expect(other.stdout.replaceAll(/\s+/g, " ")).toContain(
      `no head of chain ${chain} was written down elsewhere`
    )

    fs.writeFileSync(log, `chain=${chain} number=7 head=${"00".repeat(32)}\n`)
    const cut = await run("--anchors", log)
    expect(cut.stdout).toContain(`seal ${chain}:7: anchor: it is missing`)
    expect(cut.stdout).not.toContain("was written down elsewhere")

    fs.writeFileSync(keyFile, scene.key.privatePem)
    const secret = await run()
    expect(secret.code).toBe(64)
    expect(secret.stderr).toContain("openssl pkey -in audit-key.pem -pubout")
    fs.writeFileSync(keyFile, newKey().publicPem)
    expect((await run()).code).toBe(3)
    fs.rmSync(home, { recursive: true })
  })
}

onEachServer("prove", ({ rootUrl }) => {
  let database: TestDatabase
  let place: Place
  let connection: Awaited<ReturnType<typeof createConnection>>
  beforeAll(async () => {
    database = await freshDatabase(rootUrl)
    const { config, url } = database
    connection = await createConnection({ uri: url })
    await connection.query("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
    place = {
      hand: {
        name: config.database,
        run: async (sql, params = []) => {
          const [rows] = await connection.query(sql, [...params])
          return Array.isArray(rows) ? (rows as ReadonlyArray<Record<string, unknown>>) : []
        },
        bytes: (value) => `x'${Buffer.from(value).toString("hex")}'`,
        quote: (name) => `\`${name}\``
      },
      open: openMysql(connectionOptions(database)),
      migrate: () =>
        Effect.runPromise(
          MysqlUploader.migrate(connectionOptions(database), [UseLog, Measure], { proof: true })
        ),
      args: ["--url", url],
      isMysql: true
    }
  })
  afterAll(async () => {
    await connection.end()
    await database.drop()
  })
  tests(() => place, true)
})

describe("prove (SQLite)", () => {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-prove-"))
  const filename = path.join(home, "audit.db")
  const client = createClient({ url: pathToFileURL(filename).href })
  const place: Place = {
    hand: handOf(client),
    open: openSqliteSource(filename),
    migrate: () => Effect.runPromise(SqliteUploader.migrateProof({ filename }, [UseLog, Measure])),
    args: ["--sqlite", filename],
    isMysql: false
  }
  afterAll(() => {
    client.close()
    fs.rmSync(home, { recursive: true })
  })
  tests(() => place, false)
})
