/** docs/auditing.md: its commands run in their order, unchanged, against a real server. */
import { assert, it } from "@effect/vitest"
import { Effect, Logger, Redacted } from "effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { openSource } from "../../src/cli/mysqlSource.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import { connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { run } from "../support/program.js"
import { lifeOf, type ProvenDatabase, proving } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"

const COMMANDS = fs
  .readFileSync("docs/auditing.md", "utf8")
  .split("\n")
  .filter((line) => /^ {4}(?:openssl|effect-audit) /.test(line))
  .map((line) => line.trim())

/** Splits a command into words, as a shell does. */
const wordsOf = (command: string) =>
  [...command.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare!)

/** The event that is erased. */
const ERASED = "01890a5d-ac96-774b-bcce-b302099a8057"
const URL = "mysql://auditor@db.internal/app"

it.scopedLive("the commands of docs/auditing.md do what the document says", () =>
  Effect.gen(function* () {
    const home = yield* temporaryDirectory
    const database = yield* mysqlDatabase()
    const directory = path.join(home, "audit")
    const query = (sql: string) => Effect.promise(() => database.query(sql))
    const proven = (): ProvenDatabase => {
      const privatePem = fs.readFileSync(path.join(home, "audit-key.pem"), "utf8")
      return {
        key: Redacted.make(privatePem),
        privatePem,
        address: database.url,
        uploader: MysqlUploader.make(connectionOptions(database)),
        query,
        prove: proving(
          openSource(connectionOptions(database)),
          fs.readFileSync(path.join(home, "audit-key.pub"), "utf8")
        )
      }
    }
    const program = <A>(use: (log: AuditLog["Type"]) => Effect.Effect<A, unknown>) =>
      lifeOf(proven(), directory, use, {
        log: Logger.replace(
          Logger.defaultLogger,
          Logger.make(({ message }) =>
            fs.appendFileSync(path.join(home, "program.log"), `${String(message)}\n`)
          )
        )
      })
    const command = (text: string) =>
      Effect.gen(function* () {
        const [line, file] = text.split(" > ")
        const [, ...args] = wordsOf(line!.replace(URL, database.url))
        const env = { AUDIT_DIRECTORY: directory, AUDIT_MYSQL_URL: database.url }
        const { code, stderr, stdout } = yield* Effect.promise(() =>
          run("src/cli/main.ts", { cwd: home, args, env })
        )
        assert.strictEqual(code, 0, `${text}: ${stderr}`)
        if (file !== undefined) fs.writeFileSync(path.join(home, file), stdout)
        return stdout
      })
    const runFile = (file: string) =>
      Effect.forEach(
        fs.readFileSync(path.join(home, file), "utf8").split("\n").filter(Boolean),
        (statement) => query(statement)
      )

    const seen: Array<string> = []
    for (const text of COMMANDS) {
      const [name, verb] = text.split(" ")
      seen.push(name === "openssl" ? name : verb!)
      if (name === "openssl") execFileSync("openssl", wordsOf(text).slice(1), { cwd: home, stdio: "ignore" })
      else if (verb === "migrate") {
        yield* command(text)
        yield* program((log) =>
          Effect.zipRight(
            log.record("use_log", { prompt: "a fox", status: "success" }, { eventId: ERASED }),
            log.flush
          )
        )
      } else if (verb === "prove") {
        const stdout = yield* command(text)
        assert.match(stdout, /1 row and 1 seal looked at, all as they were sealed/)
        if (text.includes("--anchors")) assert.match(stdout, /anchored up to seal [0-9a-f]{32}:0/)
      } else if (verb === "erase" || verb === "purge") {
        const rows = yield* program(() =>
          Effect.gen(function* () {
            yield* command(verb === "purge" ? text.replace("400 days", "0 days") : text)
            yield* runFile(`${verb}.sql`)
            return yield* query("SELECT prompt FROM nano_banana_user_use_log")
          })
        )
        assert.deepStrictEqual(rows, verb === "erase" ? [{ prompt: "" }] : [])
        assert.deepStrictEqual((yield* proven().prove({ isExclusive: true })).findings, [])
      } else assert.fail(`nobody has tried ${text}`)
    }
    assert.deepStrictEqual(seen, ["openssl", "openssl", "migrate", "prove", "prove", "erase", "purge"])
  })
)
