/** Help and errors: what the command tells people on any screen, and programs. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fc from "fast-check"
import * as fs from "node:fs"
import * as path from "node:path"
import { nearest } from "../../src/cli/call.js"
import { formatTable, widthOf } from "../../src/cli/format.js"
import { overview } from "../../src/cli/overview.js"
import { fit, type Line, type Part } from "../../src/cli/terminal.js"
import { openAudit } from "../support/auditHere.js"
import { effectAudit, fill, hasPty, inTerminal, useLine } from "../support/cli.js"
import { temporaryDirectory } from "../support/queue.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"

const lettersOf = (text: string) => fc.constantFrom(...Array.from(text))

const NAMES = ["status", "tail", "show", "flush", "dead", "doctor", "migrate", "adopt", "verify", "serve"]

describe("a misspelt word", () => {
  it("has as its nearest name the one that differs in one letter", () => {
    const letter = lettersOf("abcdefghijklmnopqrstuvwxyz")
    const misspelt = fc.constantFrom(...NAMES).chain((name) =>
      fc
        .tuple(fc.constant(name), fc.nat(name.length - 1), letter, fc.constantFrom(0, 1, 2, 3))
        .map(([name, at, by, how]) => {
          const [before, after] = [name.slice(0, at), name.slice(at + 1)]
          if (how === 0) return { name, word: before + after }
          if (how === 1) return { name, word: before + by + name.slice(at) }
          if (how === 2) return { name, word: before + by + after }
          return {
            name,
            word: before + name.slice(at + 1, at + 2) + name.slice(at, at + 1) + name.slice(at + 2)
          }
        })
    )
    fc.assert(fc.property(misspelt, ({ name, word }) => nearest(word, NAMES) === name))
    assert.isUndefined(nearest("xyzzy", NAMES))
  })

  it.scopedLive("is answered with the right one, for commands and flags", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      for (const [args, said] of [
        [["flsh"], 'There is no command "flsh": did you mean "flush"?'],
        [["dead", "retyr", "0:0"], 'There is no command "dead retyr": did you mean "dead retry"?'],
        [["dead", "frobnicate"], "say one of discard, export, list, retry, show"],
        [["status", "--jsn"], "--json"],
        [["flush", "--ask-pasword"], "--ask-password"]
      ] as const) {
        const { code, stderr, stdout } = yield* effectAudit(directory, args)
        assert.include(stderr, said)
        assert.deepStrictEqual([code, stdout], [64, ""])
      }
    })
  )
})

describe("a call", () => {
  it.scopedLive("accepts the directory and --json before the command and after its arguments", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const use = useLine({ prompt: "a" })
      yield* fill(directory, [use], [])
      const env = { AUDIT_DIRECTORY: path.join(directory, "elsewhere") }
      for (const args of [
        ["show", use.eventId, "--json", "-d", directory],
        ["-d", directory, "--json", "show", use.eventId],
        ["--directory", directory, "show", "--json", use.eventId],
        [`--directory=${directory}`, "show", use.eventId, "--json"]
      ]) {
        const shown = yield* effectAudit(directory, args, env)
        assert.strictEqual(shown.code, 0, `${args.join(" ")}\n${shown.stderr}`)
        assert.deepInclude(shown.json()[0], { eventId: use.eventId })
      }
    })
  )

  it.scopedLive("that fails under --json reports every failure as JSON", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      for (const [args, exitCode] of [
        [["status"], 2],
        [["flsh"], 64],
        [["status", "--jsn"], 64],
        [["status", "--lag", "a while"], 64],
        [["flush"], 2],
        [["migrate", "--url", "mysql://app@127.0.0.1:1/app"], 1],
        [["dead", "retry"], 64],
        [["tail", "-n", "many"], 64]
      ] as const) {
        const { code, stderr, stdout } = yield* effectAudit(directory, [...args, "--json"])
        assert.strictEqual(stdout, "")
        assert.strictEqual(code, exitCode, stderr)
        const last = JSON.parse(stderr.trim().split("\n").at(-1)!) as Record<string, unknown>
        assert.strictEqual(last.exitCode, exitCode)
        assert.isString(last.error)
        assert.isNotEmpty(last.error)
      }
    })
  )
})

describe("the help", () => {
  it.scopedLive("shows the whole call, and the environment variable of each option that has one", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const [status, flush, list] = yield* Effect.all(
        [
          ["status", "--help"],
          ["flush", "-h"],
          ["dead", "list", "--help"]
        ].map((args) => effectAudit(directory, args)),
        { concurrency: 3 }
      )
      assert.include(status!.stdout, "$ effect-audit status ")
      assert.include(list!.stdout, "$ effect-audit dead list ")
      assert.include(status!.stdout, "AUDIT_DIRECTORY")
      const words = flush!.stdout.replaceAll(/\s+/g, " ")
      for (const name of [
        "AUDIT_DIRECTORY",
        "AUDIT_EVENTS",
        "AUDIT_SQLITE_FILE",
        ...["URL", "HOST", "PORT", "USERNAME", "PASSWORD", "DATABASE", "SSL", "SSL_CA"].map(
          (name) => `AUDIT_MYSQL_${name}`
        ),
        ...["SERVER_PUBLIC_KEY", "TABLES", "DEDUPLICATION"].map((name) => `AUDIT_MYSQL_${name}`)
      ])
        assert.include(words, name)
    })
  )
})

const isParts = (line: Line): line is ReadonlyArray<Part> => Array.isArray(line)

const textOf = (line: Line): string =>
  (isParts(line) ? line : [line]).map((part) => (typeof part === "string" ? part : part.text)).join("")

describe("on a screen of 60, 80 or 200 columns", () => {
  const widths = fc.constantFrom(60, 80, 200)
  const cell = fc.oneof(
    fc.string({ maxLength: 30, unit: lettersOf("abc 漢字é") }),
    fc.constantFrom("0:0", "2026-01-31T00:00:00.000Z", "rejected 1406")
  )
  const row = fc.tuple(cell, cell, cell, fc.string({ maxLength: 300, unit: lettersOf("ab 漢") }))

  it("every table fits, and loses nothing", () => {
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 5 }), widths, (rows, columns) => {
        const lines = formatTable(rows, columns)
        for (const line of lines.flat()) assert.isAtMost(widthOf(line), columns)
        const letters = (text: string) => text.replaceAll(/\s/g, "")
        assert.deepStrictEqual(
          lines.map((lines) => letters(lines.join("")).length),
          rows.map((cells) => letters(cells.join("")).length)
        )
      })
    )
  })

  it("long lines break between words", () => {
    const words = fc.array(fc.string({ minLength: 1, maxLength: 20, unit: lettersOf("abc漢") }))
    fc.assert(
      fc.property(words, widths, (words, columns) => {
        const lines = fit(words.join(" "), 4, columns).map(textOf)
        for (const line of lines) assert.isAtMost(widthOf(line.trimEnd()), columns)
        assert.deepStrictEqual(lines.join("").split(/\s+/).filter(Boolean), words)
      })
    )
  })

  it("the overview fits", () => {
    for (const columns of [60, 80, 200])
      for (const line of overview("1.2.3", columns)) assert.isAtMost(widthOf(textOf(line)), columns)
  })

  it.scopedLive.skipIf(!hasPty)("status, dead list and verify fit (skipped without python3)", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(
        directory,
        [1, 2, 3].map((n) => useLine({ prompt: `prompt ${n}` })),
        [{ class: "rejected", reason: "Data too long for column 'prompt' at row 1" }]
      )
      for (const columns of [60, 80, 200])
        for (const args of [["status"], ["dead", "list"], ["verify"]]) {
          const program = inTerminal(directory, args, { NO_COLOR: "1" }, columns)
          program.stdin.end()
          const { stdout } = yield* Effect.promise(() => program.ended)
          for (const line of stdout.split(/ *\r?\n/)) assert.isAtMost(widthOf(line), columns, line)
        }
    })
  )
})

describe("a queue that is delivered to SQLite", () => {
  it.scopedLive("is flushed and examined by its file's name, which status shows", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const directory = path.join(home, "audit")
      const file = path.join(home, "audit.db")
      yield* fill(directory, [useLine({ prompt: "a" }), useLine({ prompt: "b" })])
      const before = yield* effectAudit(directory, ["doctor", "--sqlite", file])
      assert.include(before.stdout, "does not exist yet: the first delivery makes it")
      assert.isFalse(fs.existsSync(file))

      // Its directory is missing, and the program that owned the queue has reported that.
      const audit = yield* openAudit(
        { directory },
        { uploader: yield* SqliteUploader.make({ filename: path.join(home, "absent", "audit.db") }) }
      )
      yield* Effect.ignore(audit.flush)
      yield* audit.close
      const status = yield* effectAudit(directory, ["status"])
      assert.include(status.stdout, "SQLITE_CANTOPEN")

      const unnamed = yield* effectAudit(directory, ["flush"])
      assert.include(unnamed.stderr, "--sqlite FILE")
      const flushed = yield* effectAudit(directory, ["flush", "--sqlite", file])
      assert.deepInclude(flushed, { code: 0, stdout: "2 delivered\n" })
      const [doctor, again] = yield* Effect.all([
        effectAudit(directory, ["doctor"], { AUDIT_SQLITE_FILE: file }),
        effectAudit(directory, ["doctor", "--sqlite", path.join(directory, "queue.json")])
      ])
      assert.strictEqual(doctor.code, 0, doctor.stdout)
      assert.match(doctor.stdout, /ok {7}table nano_banana_user_use_log: \d+ columns/)
      assert.match(doctor.stdout, /warning {2}table nano_banana_user_log: does not exist yet/)
      assert.strictEqual(again.code, 2)
      assert.include(again.stdout, "cannot be read as SQLite")
    })
  )
})

describe("--events", () => {
  const MODULE = `
    import { Schema } from "effect"
    import { AuditEvent } from "effect-audit"
    enum Currency { EUR = "EUR" }
    export class Payment extends AuditEvent.Class<Payment>()("payment", {
      table: "payments",
      fields: { currency: Schema.String, cents: Schema.Int }
    }) {}
    export const first = Currency.EUR`

  it.scopedLive("suggests tsx if Node cannot read TypeScript", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const file = path.join(directory, "..", `${path.basename(directory)}-payment.ts`)
      fs.writeFileSync(file, MODULE)
      yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(file)))
      const { code, stderr } = yield* effectAudit(directory, ["verify", "--events", file])
      assert.strictEqual(code, 64)
      assert.include(stderr, "NODE_OPTIONS='--import tsx'")
    })
  )
})
