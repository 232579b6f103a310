/** Killed with SIGKILL under load, with a proof: each row that is there has its seal, and nothing is found. */
import { Effect, Exit, Scope } from "effect"
import { randomInt } from "node:crypto"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { describe, expect, test } from "vitest"
import { run, start, temporaryDirectory } from "../support/program.js"
import { PROVEN } from "../support/proven.js"

const worker = "test/support/worker.ts"
const KILLS = process.env.AUDIT_LONG === "1" ? 100 : 4

const ids = (stdout: string) => stdout.split("\n").filter((line) => line.length === 36)

describe("killed under load, with a proof", () => {
  for (const [name, make] of PROVEN) {
    test(`${KILLS} times (${name})`, { timeout: KILLS * 60_000 }, async ({ onTestFinished }) => {
      const { path: cwd, remove } = temporaryDirectory()
      onTestFinished(remove)
      const scope = await Effect.runPromise(Scope.make())
      onTestFinished(() => Effect.runPromise(Scope.close(scope, Exit.void)))
      const database = await Effect.runPromise(Scope.extend(make(), scope))
      const env = (events: number) => ({
        WORKER_DIRECTORY: path.join(cwd, "audit"),
        WORKER_DATABASE: database.address,
        WORKER_PROOF_KEY: database.privatePem,
        WORKER_EVENTS: String(events)
      })
      const acknowledged: Array<string> = []
      for (let kill = 0; kill < KILLS; kill++) {
        const program = start(worker, { cwd, env: env(0) })
        await program.prints("\n")
        const enough = program.prints(new RegExp(`(?:.+\\n){${randomInt(1, 400)}}`))
        await Promise.race([enough.catch(() => undefined), sleep(2000)])
        await sleep(randomInt(60))
        program.kill("SIGKILL")
        acknowledged.push(...ids((await program.ended).stdout))
        const proved = await Effect.runPromise(database.prove({ isExclusive: true }))
        // a program that was killed before its first seal leaves nothing to prove
        expect(proved.findings.filter(({ subject }) => subject !== "the chains")).toEqual([])
      }
      const last = await run(worker, { cwd, env: env(100) })
      expect(last.code, last.stderr).toBe(0)
      acknowledged.push(...ids(last.stdout))
      const proved = await Effect.runPromise(database.prove({ isExclusive: true }))
      expect(proved.findings).toEqual([])
      const rows = await Effect.runPromise(
        Effect.forEach(["nano_banana_user_use_log", "nano_banana_user_log"], (table) =>
          database.query(`SELECT LOWER(HEX(event_id)) AS id FROM ${table}`)
        )
      )
      const stored = rows.flat().map(({ id }) => String(id))
      expect(proved.rows).toBe(stored.length)
      expect(new Set(stored).size).toBe(stored.length)
      const missing = acknowledged.filter((id) => !stored.includes(id.replaceAll("-", "")))
      expect(missing).toEqual([])
      console.log(
        `${name}: ${KILLS} kills, ${stored.length} rows, ${proved.seals} seals in ${proved.chains.length} chains`
      )
    })
  }
})
