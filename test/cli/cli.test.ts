/** The command: real child processes, with a terminal where the command draws. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule, Stream } from "effect"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { judge } from "../../src/cli/verdict.js"
import type { Inspection } from "../../src/internal/queue/inspect.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import { DiskError } from "../../src/services/Disk.js"
import { away, openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import { makeCertificates } from "../support/certificates.js"
import { effectAudit, fill, hasPty, inTerminal, useLine } from "../support/cli.js"
import { createReferenceTables } from "../support/database.js"
import { connectionOptions, account, mysqlDatabase, PASSWORD } from "../support/mysql.js"
import { startServer } from "../support/mysqlServer.js"
import { nodeDisk, temporaryDirectory } from "../support/queue.js"

const uses = (count: number) =>
  Array.from({ length: count }, (_, index) => useLine({ prompt: `prompt ${index}` }))

const DEAD = "a dead letter"

describe("usage", () => {
  it.scopedLive("explains itself, and says what is wrong with a call", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const [alone, help, ofFlush, completions, wrong, absent, queueless] = yield* Effect.all(
        [
          effectAudit(directory, []),
          effectAudit(directory, ["--help"]),
          effectAudit(directory, ["flush", "--help"]),
          effectAudit(directory, ["--completions", "zsh"]),
          effectAudit(directory, ["flsh"]),
          effectAudit(directory, ["status", "-d", path.join(directory, "absent")]),
          effectAudit(directory, ["tail"])
        ],
        { concurrency: 3 }
      )
      assert.include(alone.stdout, "dead list")
      assert.strictEqual(help.stdout, alone.stdout)
      assert.include(ofFlush.stdout, "--ask-password")
      assert.include(completions.stdout, "#compdef effect-audit")
      assert.deepInclude(wrong, { code: 64, stdout: "" })
      assert.include(wrong.stderr, "flush")
      assert.strictEqual(absent.code, 2)
      assert.include(absent.stderr, "There is no queue in")
      assert.include(queueless.stderr, "There is no queue in")
      for (const { stderr, stdout } of [alone, help, ofFlush, wrong])
        assert.notInclude(stdout + stderr, "\x1b[")
    })
  )
})

describe("status", () => {
  it.scopedLive("says what waits if nobody delivers, and if the database is away", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({}, { at: Date.now() - 3_725_000 }), ...uses(2)])
      const waiting = yield* effectAudit(directory, ["status"])
      assert.strictEqual(waiting.code, 1)
      assert.match(waiting.stdout, /3 events wait, the oldest for 1 h 2 min, and no program delivers/)
      assert.match(waiting.stdout, /3 accepted = 0 delivered \+ 3 waiting; 0 missing/)
      assert.notInclude(waiting.stdout, "\x1b[")

      const audit = yield* openAudit({ directory })
      yield* audit.use("one more")
      yield* Effect.sleep("1200 millis")
      const offline = yield* effectAudit(directory, ["status", "--json"])
      assert.strictEqual(offline.code, 1)
      const { queues } = offline.json()[0] as { queues: ReadonlyArray<Record<string, unknown>> }
      const { failure: _, lastDelivery, state, failures, nextTry, ...books } = yield* audit.status
      assert.strictEqual(state, "offline")
      assert.isUndefined(lastDelivery)
      assert.isAbove(failures, 0)
      assert.isDefined(nextTry)
      assert.deepInclude(queues[0], { ...books, state: "offline", owner: { pid: process.pid } })
      assert.include(String(queues[0]!.sentences), "the database is away (ECONNREFUSED)")
    })
  )

  it.scopedLive("exits with 0 if everything is delivered, and with 2 for a dead letter", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const audit = yield* openAudit({ directory }, { uploader: slowDatabase().uploader })
      yield* audit.use("one")
      yield* audit.flush
      yield* Effect.sleep("1200 millis")
      const fine = yield* effectAudit(directory, ["status"])
      assert.strictEqual(fine.code, 0)
      assert.match(fine.stdout, /idle: everything is delivered/)
      assert.match(fine.stdout, /1 accepted = 1 delivered/)
      yield* audit.close

      yield* fill(directory, uses(1), [{ class: "rejected", reason: DEAD }])
      const dead = yield* effectAudit(directory, ["status"])
      assert.strictEqual(dead.code, 2)
      assert.match(dead.stdout, /1 dead letter: see "effect-audit dead list"/)
    })
  )

  it.scopedLive("keeps the reason after the program has ended, as long as events wait", () =>
    Effect.gen(function* () {
      for (const [cls, code] of [
        ["operator", 2],
        ["transient", 1]
      ] as const) {
        const directory = yield* temporaryDirectory
        const failing = new UploadError({ class: cls, code: "1142", reason: "the INSERT right is missing" })
        const audit = yield* openAudit({ directory }, { uploader: { concurrency: 1, upload: () => failing } })
        yield* audit.use("one")
        yield* audit.close
        const ended = yield* effectAudit(directory, ["status", "--json"])
        assert.strictEqual(ended.code, code)
        const [queue] = ended.json()[0]!.queues as ReadonlyArray<Record<string, unknown>>
        assert.strictEqual(queue!.state, cls === "operator" ? "needsOperator" : "waiting")
        assert.include(String(queue!.sentences), "the INSERT right is missing (1142)")
        assert.deepInclude(queue!.delivery, { state: "closed", nextTry: null })

        // If the last delivery succeeds, then no reason remains.
        const again = yield* openAudit({ directory }, { uploader: slowDatabase().uploader })
        yield* again.close
        const fine = yield* effectAudit(directory, ["status", "--json"])
        assert.strictEqual(fine.code, 0)
        const [delivered] = fine.json()[0]!.queues as ReadonlyArray<Record<string, unknown>>
        assert.deepInclude(delivered!.delivery, { state: "closed", failure: null })
      }
    })
  )

  it.effect("estimates when a backlog will be delivered, and reports one that is too old", () =>
    Effect.sync(() => {
      const now = 1_000_000_000
      const limits = { lag: 300_000, minFreeBytes: 0 }
      const queue = (age: number): Inspection => ({
        directory: "/audit",
        owner: { pid: 1 },
        repair: undefined,
        isIdentified: true,
        accepted: 1500,
        delivered: 300,
        waiting: 1200,
        dead: 0,
        retried: 0,
        discarded: 0,
        torn: 0,
        missing: 0,
        waitingBytes: 340_000,
        oldest: now - age,
        nextSequence: 1500,
        delivery: {
          format: 1,
          pid: 1,
          at: now,
          state: "delivering",
          failure: null,
          failures: 0,
          nextTry: null,
          lastDelivery: now,
          rate: 20
        },
        brokenRequests: 0,
        volume: { freeBytes: 1, type: "ext4", network: false }
      })
      assert.deepStrictEqual(judge(queue(5000), now, limits), {
        code: 0,
        state: "delivering",
        sentences: ["delivering: 1,200 events wait, the oldest for 5 s, done in about 1 min"]
      })
      assert.strictEqual(judge(queue(300_001), now, limits).code, 1)
    })
  )

  it.scopedLive("reports a damaged cursor, and sums up several instances", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      for (const [index, count] of [2, 3].entries()) {
        const instance = path.join(directory, `instance-${index}`)
        yield* fill(instance, uses(count))
      }
      const both = yield* effectAudit(directory, ["status"])
      assert.strictEqual(both.code, 1)
      assert.include(both.stdout, "2 queues: 5 waiting, 0 delivered, 0 dead, 0 missing")

      fs.writeFileSync(path.join(directory, "instance-1", "cursor"), "x".repeat(1024))
      const [damaged, verified] = yield* Effect.all(
        [effectAudit(directory, ["status", "--json"]), effectAudit(directory, ["verify"])],
        { concurrency: 2 }
      )
      assert.strictEqual(damaged.code, 3)
      assert.include(damaged.stdout, "both slots of the cursor are damaged")
      assert.strictEqual(verified.code, 3)
      assert.match(verified.stdout, /failure {2}instance-1 cursor: damaged and damaged/)
    })
  )
})

describe("tail and show", () => {
  const hostile = "\x1b[2J\u202egnp.exe \u{1f98a}"

  it.scopedLive("mask prompts by default, and escape what could control the terminal", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const secret = useLine({ prompt: "PROMPT", userName: hostile })
      yield* fill(directory, [...uses(3), secret])
      const [tail, revealed, shown, json, unknown] = yield* Effect.all(
        [
          effectAudit(directory, ["tail", "-n", "2"]),
          effectAudit(directory, ["tail", "--reveal"]),
          effectAudit(directory, ["show", secret.eventId]),
          effectAudit(directory, ["show", "--json", "--reveal", secret.eventId.toUpperCase()]),
          effectAudit(directory, ["show", "0:1"])
        ],
        { concurrency: 3 }
      )
      assert.lengthOf(tail.stdout.trim().split("\n"), 2)
      for (const { stdout } of [tail, shown]) {
        assert.notInclude(stdout, "PROMPT")
        assert.include(stdout, "[6 characters, masked]")
      }
      for (const { stdout } of [tail, revealed, shown]) {
        for (const character of ["\x1b", "\u202e"]) assert.notInclude(stdout, character)
        assert.include(stdout, "\u{1f98a}")
      }
      assert.include(revealed.stdout, "PROMPT")
      assert.deepInclude(json.json()[0], { eventId: secret.eventId, sequence: 3 })
      assert.deepInclude(json.json()[0]!.event, { prompt: "PROMPT", user_name: hostile })
      assert.strictEqual(unknown.code, 64)
      assert.include(unknown.stderr, "No event 0:1 waits")
    })
  )
})

describe("dead", () => {
  it.scopedLive("shows, exports, retries and discards letters of a queue without an owner", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const secret = useLine({ prompt: "PROMPT" })
      yield* fill(
        directory,
        [secret, ...uses(3)],
        [
          { class: "rejected", reason: "Data too long: PROMPT" },
          { class: "unknownKind", reason: "add it to `events`" }
        ]
      )
      const dead = (...args: ReadonlyArray<string>) => effectAudit(directory, ["dead", ...args])
      const [list, show, revealed, exported, none, careful] = yield* Effect.all(
        [
          dead("list"),
          dead("show", "0:0"),
          dead("show", "0:0", "--reveal", "--json"),
          dead("export"),
          dead("retry"),
          dead("discard", "--all")
        ],
        { concurrency: 3 }
      )
      assert.match(list.stdout, /^0:0 .*use_log .*rejected 1406/m)
      for (const { stdout } of [list, show]) assert.notInclude(stdout, "PROMPT")
      assert.include(revealed.stdout, "Data too long: PROMPT")
      assert.deepInclude(revealed.json()[0]!.event, { prompt: "PROMPT" })
      assert.strictEqual(exported.json()[0]!.line, secret.line.trimEnd())
      assert.strictEqual(none.code, 64)
      assert.strictEqual(careful.code, 64)
      assert.include(
        careful.stderr,
        "2 events would be given up for good: repeat it with --yes. Nothing was changed."
      )

      const retried = yield* dead("retry", "0:0")
      assert.deepInclude(retried, { code: 0, stdout: "1 dead letter appended again.\n" })
      const discarded = yield* dead("discard", "--class", "unknownKind", "--yes", "--json")
      assert.deepStrictEqual(discarded.json()[0], { discard: 1, stay: [] })
      const [after, again, gone] = yield* Effect.all(
        [
          effectAudit(directory, ["status", "--json"]),
          effectAudit(directory, ["tail", "-n", "1"]),
          dead("retry", "0:0")
        ],
        { concurrency: 3 }
      )
      const [queue] = after.json()[0]!.queues as ReadonlyArray<Record<string, unknown>>
      assert.deepInclude(queue, { accepted: 5, waiting: 3, dead: 0, retried: 1, discarded: 1, missing: 0 })
      assert.include(again.stdout, secret.eventId)
      assert.include(gone.stderr, "No dead letter 0:0 waits for a decision")
      const file = fs.readFileSync(path.join(directory, "dead-letter.ndjson"), "utf8")
      assert.match(file, /"type":"discarded","id":"[^"]+","at":"[^"]+","by":"[^"]+@[^"]+"/)
    })
  )

  it.scopedLive("discards letters refused before a date or an age, with an owner and without", () =>
    Effect.gen(function* () {
      for (const isOwned of [false, true]) {
        const directory = yield* temporaryDirectory
        yield* fill(
          directory,
          uses(3),
          uses(3).map(() => ({ class: "rejected", reason: DEAD }) as const)
        )
        // One refused in January, one 40 days ago, one now.
        const file = path.join(directory, "dead-letter.ndjson")
        const times = ["2026-01-01T12:00:00.000Z", new Date(Date.now() - 40 * 86_400_000).toISOString()]
        const text = fs.readFileSync(file, "utf8")
        fs.writeFileSync(
          file,
          text.replace(/"at":"[^"]+"/g, (now) => (times.length > 0 ? `"at":"${times.shift()!}"` : now))
        )
        if (isOwned) yield* openAudit({ directory }, { uploader: away })
        const discard = (before: string) =>
          effectAudit(directory, ["dead", "discard", "--before", before, "--yes", "--wait", "2 minutes"])
        const dead = [
          yield* discard("2025-12-31"),
          yield* discard("2026-01-02"),
          yield* discard("30 days"),
          yield* discard("1 day")
        ]
        assert.deepStrictEqual(
          dead.map(({ code, stdout }) => [code, stdout]),
          [0, 1, 1, 0].map((count) => [0, `${count} dead letter${count === 1 ? "" : "s"} discarded.\n`])
        )
        const list = yield* effectAudit(directory, ["dead", "list", "--json"])
        assert.deepStrictEqual(
          list.json().map(({ class: cls }) => cls),
          ["rejected"]
        )
        for (const wrong of ["yesterday", "2026-13-45", ""]) {
          const refused = yield* discard(wrong)
          assert.strictEqual(refused.code, 64, wrong)
          assert.include(refused.stderr, "say 2026-01-31")
        }
      }
    })
  )

  it.scopedLive("asks an idle owner, which retries at once and delivers", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, uses(2), [
        { class: "rejected", reason: DEAD },
        { class: "rejected", reason: DEAD }
      ])
      const database = slowDatabase()
      const audit = yield* openAudit({ directory }, { uploader: database.uploader })
      // without a request it looks again in a minute
      const wait = ["--wait", "2 minutes"]
      const retried = yield* effectAudit(directory, ["dead", "retry", "--all", ...wait])
      assert.strictEqual(retried.code, 0)
      assert.include(retried.stderr, `Process ${process.pid} owns`)
      assert.include(retried.stdout, "2 dead letters appended again.")
      yield* audit.flush
      assert.strictEqual(database.events.size, 2)
    })
  )

  it.scopedLive("retries through an owner whose database is away, without an attempt to deliver", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const dead = { class: "rejected", reason: DEAD } as const
      yield* fill(directory, uses(3), [dead, dead])
      const owner = yield* auditProcess()
      yield* owner.open({ directory })
      // the next attempt comes in 6 to 8 seconds
      yield* Effect.repeat(owner.status, {
        until: ({ failures }) => failures === 3,
        schedule: Schedule.spaced("20 millis")
      })
      const { nextTry } = yield* owner.status
      const results = yield* Effect.all(
        [
          effectAudit(directory, ["dead", "retry", "0:0", "--wait", "2 minutes"]),
          effectAudit(directory, ["dead", "discard", "--class", "rejected", "--yes", "--wait", "2 minutes"])
        ],
        { concurrency: 1 }
      )
      assert.deepStrictEqual(
        results.map(({ code, stdout }) => [code, stdout]),
        [
          [0, "1 dead letter appended again.\n"],
          [0, "1 dead letter discarded.\n"]
        ]
      )
      const after = yield* owner.status
      assert.deepInclude(after, { dead: 0, retried: 1, discarded: 1, waiting: 2 })
      // On a loaded machine the scheduled attempt may have come first.
      if (Date.now() < nextTry!) assert.strictEqual(after.failures, 3)
    })
  )

  it.scopedLive("reports an owner that does not answer", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, uses(1), [{ class: "rejected", reason: DEAD }])
      const disk = yield* nodeDisk
      // as if the system's limit of watches were reached
      const watch = (path: string) =>
        Stream.fail(new DiskError({ operation: "watch", path, code: "ENOSPC", cause: undefined }))
      const database = slowDatabase()
      const audit = yield* openAudit({ directory }, { disk: { ...disk, watch }, uploader: database.uploader })
      yield* audit.flush
      const waited = yield* effectAudit(directory, [
        "dead",
        "discard",
        "--all",
        "--yes",
        "--wait",
        "200 millis"
      ])
      assert.strictEqual(waited.code, 1)
      assert.include(waited.stderr, "the request stays")
    })
  )
})

describe("commands for the database", () => {
  it.scopedLive("migrate, deliver and examine", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase()
      const env = { AUDIT_MYSQL_URL: database.url }
      yield* fill(directory, uses(25))

      const [printed, unready] = yield* Effect.all(
        [effectAudit(directory, ["migrate", "--print"]), effectAudit(directory, ["doctor", "--json"], env)],
        { concurrency: 2 }
      )
      assert.include(printed.stdout, "CREATE TABLE IF NOT EXISTS `nano_banana_user_use_log`")
      assert.strictEqual(unready.code, 2)
      assert.deepInclude(
        unready.json().find(({ subject }) => subject === "nano_banana_user_use_log"),
        { level: "failure" }
      )

      const flushed = yield* effectAudit(directory, ["flush"], env)
      assert.strictEqual(flushed.code, 2)
      assert.include(flushed.stdout, "0 delivered, 25 wait: ")

      const migrated = yield* effectAudit(directory, ["migrate"], env)
      assert.deepInclude(migrated, {
        code: 0,
        stdout: "Ready: nano_banana_user_use_log, nano_banana_user_log\n"
      })
      const [healthy, delivered, long] = yield* Effect.all(
        [
          effectAudit(directory, ["doctor"], env),
          effectAudit(directory, ["flush", "--json"], env),
          effectAudit(directory, ["doctor"], { ...env, AUDIT_MAX_LINE_BYTES: "1000000000" })
        ],
        { concurrency: 3 }
      )
      assert.match(healthy.stdout, /ok {7}packet: /)
      assert.match(long.stdout, /warning {2}packet: max_allowed_packet is .* 2.0 GB are enough for all/)
      assert.strictEqual(healthy.code, 0)
      for (const line of [
        /ok {7}connect: /,
        /ok {7}login: /,
        /ok {7}TLS: none, on the way within this machine/,
        /ok {7}clock: /,
        /may insert/
      ]) {
        assert.match(healthy.stdout, line)
      }
      assert.deepInclude(delivered.json()[0], { delivered: 25, dead: 0, waiting: 0 })
      const rows = yield* Effect.promise(() => database.query("SELECT id FROM nano_banana_user_use_log"))
      assert.lengthOf(rows, 25)
      assert.strictEqual((yield* effectAudit(directory, ["status"])).code, 0)
    })
  )

  it.scopedLive("doctor and flush name the fault: rights, password, name or port", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(database))
      const { username } = yield* account(database, "SELECT")
      const { host, port } = database.config
      const url = `mysql://${username!}@${host}:${port}/${database.config.database}`
      yield* fill(directory, uses(1))
      const [poor, wrong, nowhere, closed, away] = yield* Effect.all(
        [
          effectAudit(directory, ["doctor", "--url", url], { AUDIT_MYSQL_PASSWORD: PASSWORD }),
          effectAudit(directory, ["doctor", "--url", url], { AUDIT_MYSQL_PASSWORD: "wrong" }),
          effectAudit(directory, ["doctor", "--host", "db.invalid", "--database", "app"]),
          effectAudit(directory, ["doctor", "--host", "127.0.0.1:1", "--database", "app"]),
          effectAudit(directory, ["flush", "--host", "127.0.0.1:1", "--database", "app"])
        ],
        { concurrency: 3 }
      )
      assert.match(poor.stdout, /may not insert into event_id, .*GRANT INSERT ON/)
      assert.match(wrong.stdout, /failure {2}login: .*\(1045\)/)
      assert.match(nowhere.stdout, /failure {2}name: db\.invalid is not known here/)
      assert.match(closed.stdout, /failure {2}connect: 127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)/)
      for (const { code, stderr, stdout } of [poor, wrong, nowhere, closed]) {
        assert.strictEqual(code, 2)
        assert.notInclude(stdout + stderr, PASSWORD)
      }
      assert.strictEqual(away.code, 1)
      assert.match(away.stdout, /0 delivered, 1 wait: The database at 127\.0\.0\.1:1 cannot be reached/)
    })
  )

  it.scopedLive("doctor reports encryption and clock", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const certificates = yield* Effect.acquireRelease(
        Effect.promise(() => makeCertificates("localhost")),
        (made) => Effect.sync(() => fs.rmSync(made.directory, { recursive: true, maxRetries: 10 }))
      )
      const server = yield* Effect.acquireRelease(
        Effect.promise(() =>
          startServer({
            args: [
              `--ssl-cert=${certificates.certificate}`,
              `--ssl-key=${certificates.key}`,
              // For all accounts but root: connected an hour ahead, and stopped from then on.
              "--init-connect=SET timestamp = UNIX_TIMESTAMP() + 3600"
            ]
          })
        ),
        (server) => Effect.promise(() => server.stop())
      )
      const database = yield* mysqlDatabase(server.rootUrl)
      yield* MysqlUploader.migrate(connectionOptions(database))
      const { username } = yield* account(database, "INSERT")
      const to = ["--host", `localhost:${server.port}`, "--database", database.config.database]
      const [encrypted, plain] = yield* Effect.all(
        [
          effectAudit(directory, ["doctor", ...to, "--username", "root", "--ssl-ca", certificates.authority]),
          effectAudit(directory, ["doctor", ...to, "--username", username!], {
            AUDIT_MYSQL_PASSWORD: PASSWORD
          })
        ],
        { concurrency: 2 }
      )
      assert.strictEqual(encrypted.stderr, "")
      assert.match(encrypted.stdout, /ok {7}TLS: TLS_/)
      assert.match(encrypted.stdout, /ok {7}clock: agrees with ours/)
      assert.match(plain.stdout, /ok {7}TLS: none/)
      assert.match(plain.stdout, /warning {2}clock: the server's differs from ours by 3(600|5\d\d) s/)
    })
  )

  it.scopedLive("doctor examines each column of each table", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase()
      yield* Effect.promise(async () => {
        await createReferenceTables(database)
        await database.query("ALTER TABLE nano_banana_user_use_log CONVERT TO CHARACTER SET latin1")
        await database.query(
          "ALTER TABLE nano_banana_user_log ADD event_id BINARY(16), ADD event_time DATETIME(6)"
        )
      })
      const { code, stdout } = yield* effectAudit(yield* temporaryDirectory, [
        "doctor",
        "--url",
        database.url
      ])
      assert.strictEqual(code, 2)
      for (const line of [
        /failure {2}nano_banana_user_use_log: has no column event_id, event_time: run "effect-audit migrate"/,
        /warning {2}nano_banana_user_use_log: user_name, .*prompt.* cannot hold every character: ALTER TABLE/,
        /ok {7}nano_banana_user_log: all columns are there/,
        /failure {2}nano_banana_user_log: has no unique key over event_id: run "effect-audit migrate"/,
        /ok {7}sql_mode: .*our sessions are strict/
      ]) {
        assert.match(stdout, line)
      }
    })
  )

  it.scopedLive("doctor warns of a unique key that repeated events cannot be told apart by", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(database))
      yield* Effect.promise(() =>
        database.query(
          "ALTER TABLE nano_banana_user_use_log ADD UNIQUE KEY own (user_name, device_name), ENGINE = MyISAM"
        )
      )
      const { host, port, database: name } = database.config
      const examined = (rights: string) =>
        Effect.gen(function* () {
          const { username } = yield* account(database, rights)
          const { stdout } = yield* effectAudit(
            yield* temporaryDirectory,
            ["doctor", "--host", `${host}:${port}`, "--database", name, "--username", username!],
            { AUDIT_MYSQL_PASSWORD: PASSWORD }
          )
          return stdout
        })
      const advice =
        /warning {2}nano_banana_user_use_log: has a unique key of its own.* GRANT SELECT \(event_id\)/
      assert.match(yield* examined("INSERT"), advice)
      assert.notMatch(yield* examined("INSERT, SELECT"), advice)
    })
  )

  it.scopedLive("flush leaves delivery to the owner, and refuses events of an unknown kind", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const own = useLine({})
      yield* fill(directory, [{ ...own, line: own.line.replace("use_log", "payment") }])
      const flush = ["flush", "--host", "127.0.0.1:1", "--database", "app"]
      const unknown = yield* effectAudit(directory, flush)
      assert.strictEqual(unknown.code, 64)
      assert.include(unknown.stderr, `An event of kind "payment" waits: name the module`)

      yield* openAudit({ directory })
      const owned = yield* effectAudit(directory, flush)
      assert.include(owned.stderr, `process ${process.pid} owns the queue, and delivers it itself`)
    })
  )
})

describe.skipIf(process.platform === "win32")("a path that cannot be read", () => {
  it.scopedLive.each(["a loop of links", "below a file", "too long"])(
    "gives an error of one line: %s",
    (what) =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        fs.symlinkSync("two", `${directory}/one`)
        fs.symlinkSync("one", `${directory}/two`)
        fs.writeFileSync(`${directory}/file`, "")
        const name = { "a loop of links": "one", "below a file": "file/x", "too long": "x".repeat(300) }[what]
        const file = `${directory}/${String(name)}`
        for (const args of [
          ["status", "--directory", file],
          ["adopt", file],
          ["verify", "--events", file],
          ["flush", "--url", "mysql://a@127.0.0.1:1/a", "--ssl-ca", file]
        ]) {
          const { code, stderr } = yield* effectAudit(directory, args)
          assert.strictEqual(code, 2, `${args.join(" ")}: ${stderr}`)
          assert.include(stderr, file)
          assert.lengthOf(stderr.trimEnd().split("\n"), 1, stderr)
        }
      })
  )
})

describe("adopt and verify", () => {
  it.scopedLive("refuse to adopt any part of a queue", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const other = `${directory}/other`
      yield* fill(directory, uses(3))
      yield* fill(other, uses(1))
      const before = digest(directory)
      for (const file of ["00000000000000000000.ndjson", "cursor", "queue.json", "other/lock"]) {
        const { code, stderr } = yield* effectAudit(directory, ["adopt", `${directory}/${file}`])
        assert.strictEqual(code, 64, file)
        assert.include(stderr, "is a part of a queue")
        assert.strictEqual(digest(directory), before, file)
      }
    })
  )

  it.scopedLive("adopt the file of the Python class, and verify it without changing it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, uses(3))
      const old = path.join(yield* temporaryDirectory, "pending_logs.jsonl")
      fs.writeFileSync(
        old,
        `{"kind":"use_log","user_name":"li","status":"success","ts":"2026-01-31T08:00:00"}\n`.repeat(2)
      )
      const adopted = yield* effectAudit(directory, ["adopt", old])
      assert.strictEqual(adopted.code, 0)
      assert.include(adopted.stdout, "2 lines of")
      assert.isFalse(fs.existsSync(old))

      const before = digest(directory)
      const verified = yield* effectAudit(directory, ["verify", "--json"])
      assert.strictEqual(verified.code, 0)
      assert.deepEqual(new Set(verified.json().map(({ level }) => level)), new Set(["ok"]))
      assert.strictEqual(digest(directory), before)

      const [first] = fs.readdirSync(directory).filter((name) => name.endsWith(".ndjson"))
      const lines = fs.readFileSync(path.join(directory, first!), "utf8").split("\n")
      fs.writeFileSync(path.join(directory, first!), [lines[0], "not JSON", ""].join("\n"))
      const broken = yield* effectAudit(directory, ["verify"])
      assert.strictEqual(broken.code, 3)
      assert.match(broken.stdout, /failure {2}0+\.ndjson: 1 line after number 0 is missing/)
      assert.match(
        broken.stdout,
        /warning {2}0+\.ndjson: 1 line cannot be read \(byte \d+: the line is not JSON\)/
      )
    })
  )
})

it.scopedLive("commands accept lines up to the program's own limit", () =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    yield* fill(directory, [useLine({ prompt: "x".repeat(9 * 1024 * 1024) })])
    const env = { AUDIT_MAX_LINE_BYTES: String(16 * 1024 * 1024) }
    const [byDefault, verified, shown, status] = yield* Effect.all(
      [
        effectAudit(directory, ["verify"]),
        effectAudit(directory, ["verify"], env),
        effectAudit(directory, ["show", "0:0"], env),
        effectAudit(directory, ["status", "--json"], env)
      ],
      { concurrency: 2 }
    )
    assert.include(byDefault.stdout, "the line is longer than maxLineBytes")
    assert.include(verified.stdout, "1 line waits")
    assert.include(shown.stdout, "[9,437,184 characters, masked]")
    const [queue] = status.json()[0]!.queues as ReadonlyArray<{ readonly oldest: number }>
    assert.closeTo(queue!.oldest, Date.now(), 60_000)
  })
)

/** The hash of all files of a directory. */
const digest = (directory: string): string => {
  const hash = createHash("sha256")
  for (const name of fs.readdirSync(directory).sort()) {
    const file = path.join(directory, name)
    if (fs.statSync(file).isFile()) hash.update(name).update(fs.readFileSync(file))
  }
  return hash.digest("hex")
}

const SKIP_PTY = "in a terminal (skipped where python3 cannot imitate one)"

describe.skipIf(!hasPty)(SKIP_PTY, () => {
  it.scopedLive("colours its output, unless NO_COLOR is set", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, uses(1))
      const [colourful, plain] = yield* Effect.promise(() =>
        Promise.all([
          inTerminal(directory, ["status"]).ended,
          inTerminal(directory, ["status"], { NO_COLOR: "1" }).ended
        ])
      )
      assert.deepInclude([colourful.code, plain.code], 1)
      assert.include(colourful.stdout, "\x1b[33m●")
      assert.include(plain.stdout, "● 1 event waits")
      assert.notInclude(plain.stdout, "\x1b[")
    })
  )

  it.scopedLive("redraws a watched status in place", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const audit = yield* openAudit({ directory }, { uploader: away })
      yield* audit.use("one")
      const watching = inTerminal(directory, ["status", "--watch"])
      yield* Effect.promise(() => watching.prints("1 event"))
      yield* audit.use("two")
      yield* Effect.promise(() => watching.prints("2 events"))
      assert.include(watching.stdout(), "A\r\x1b[J")
      watching.kill("SIGKILL")
    })
  )

  it.scopedLive("draws the progress of a flush", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(database))
      yield* fill(directory, uses(60))
      const flushing = inTerminal(directory, ["flush"], { AUDIT_MYSQL_URL: database.url })
      const { code, stdout } = yield* Effect.promise(() => flushing.ended)
      assert.strictEqual(code, 0)
      assert.match(stdout, /█{30}.* 60 of 60 events, [\d,]+ a second/)
      assert.include(stdout, "60 delivered")
    })
  )

  it.scopedLive("prompts for the password, and does not echo it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase()
      const { username } = yield* account(database, "ALL")
      const { database: name, host, port } = database.config
      const flags = [
        "--host",
        `${host}:${port}`,
        "--username",
        username!,
        "--database",
        name,
        "--ask-password"
      ]
      const migrating = inTerminal(directory, ["migrate", ...flags])
      yield* Effect.promise(() => migrating.prints("Password of the database"))
      migrating.stdin.write(`${PASSWORD}\r`)
      const { code, stdout } = yield* Effect.promise(() => migrating.ended)
      assert.strictEqual(code, 0)
      assert.include(stdout, "Ready: ")
      assert.notInclude(stdout, PASSWORD)
    })
  )

  it.scopedLive("refuses to export letters to the terminal", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, uses(1), [{ class: "rejected", reason: DEAD }])
      const { code, stdout } = yield* Effect.promise(() => inTerminal(directory, ["dead", "export"]).ended)
      assert.strictEqual(code, 64)
      assert.include(stdout, "send them to a file, or say --reveal")
    })
  )
})
