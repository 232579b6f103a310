import * as fs from "node:fs"
import { expect, onTestFinished, test } from "vitest"
import { freshDatabase } from "../support/database.js"
import { run, temporaryDirectory } from "../support/program.js"

const demo = async (options: { readonly args?: ReadonlyArray<string>; readonly url?: string } = {}) => {
  const { path: cwd, remove } = temporaryDirectory()
  onTestFinished(remove)
  const ended = await run("examples/demo.ts", {
    cwd,
    tsx: true,
    args: options.args ?? [],
    env: { TMPDIR: cwd, ...(options.url === undefined ? {} : { AUDIT_MYSQL_URL: options.url }) }
  })
  // the demo removed its temporary directory
  expect(fs.readdirSync(cwd).filter((name) => name.startsWith("effect-audit"))).toEqual([])
  expect(ended.stderr).toBe("")
  return ended
}

const BOOKS = /accepted = delivered \+ waiting \+ refused \+ torn\n +1,000 = +1,000 \+ +0 \+ +0 \+ +0\n/

test("the demo loses nothing, and reports it", async () => {
  const { code, stdout } = await demo()
  expect(stdout).toMatch(/00000000000000000000\.ndjson, 1,000 lines/)
  expect(stdout).toMatch(/kill -9 \d+/)
  expect(stdout).toMatch(/█{40} 1,000 \/ 1,000/)
  expect(stdout).toMatch(BOOKS)
  expect(stdout).toMatch(/火锅店.*🍲/)
  expect(stdout).toContain("✓ each of the 1,000 acknowledged events is in the database, once")
  expect(code).toBe(0)
})

test("the demo creates the tables of MySQL and delivers to them", async () => {
  const database = await freshDatabase()
  onTestFinished(database.drop)
  const { code, stdout } = await demo({ url: database.url })
  expect(stdout).toMatch(BOOKS)
  expect(code).toBe(0)
  const [counts] = await database.query<{ readonly uses: number; readonly logins: number }>(
    "SELECT (SELECT COUNT(*) FROM nano_banana_user_use_log) AS uses, (SELECT COUNT(*) FROM nano_banana_user_log) AS logins"
  )
  expect(counts).toEqual({ uses: 875, logins: 125 })
})

test("the demo fails if a row disappears from the database", async () => {
  const { code, stdout } = await demo({ args: ["--tamper"] })
  expect(stdout).toContain("✗ 1 acknowledged events are not in the database")
  expect(stdout).toContain("✗ delivered 1000, but the database has 999 rows")
  expect(stdout).not.toContain("✓")
  expect(code).toBe(1)
})
