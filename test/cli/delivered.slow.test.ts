/** `effect-audit events`: search, count, export, and the record of who has read. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { Activity } from "effect-audit"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { effectAudit, fill, hasPty, inTerminal, serve, useLine } from "../support/cli.js"
import { login, stored, use } from "../support/events.js"
import { account, connectionOptions, mysqlDatabase, PASSWORD } from "../support/mysql.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachServer } from "../support/servers.js"
import { makeSlow } from "../support/trail.js"

const T0 = Date.UTC(2026, 0, 31, 8)

const EVENTS: ReadonlyArray<readonly [AuditEvent.Any, ReadonlyArray<StoredEvent>]> = [
  [
    UseLog,
    [
      use({ userName: "li", prompt: "PROMPT one", model: "a" }, { time: T0 }),
      use({ userName: "Li", prompt: "=cmd|' /C calc'!A0", model: '=HYPERLINK("x")' }, { time: T0 + 1000 }),
      use({ userName: "wang", prompt: 'two\nlines, "quoted"', durationMs: -5 }, { time: T0 + 2000 })
    ]
  ],
  [
    LoginLog,
    [login({ userName: "li", localIp: "10.0.0.5", loginTime: "2026-01-31 08:00:00" }, { time: T0 + 500 })]
  ],
  [
    Activity,
    [
      stored(
        Activity,
        {
          action: "document.delete",
          outcome: "denied",
          actorName: "li",
          reason: "REASON",
          metadata: { secret: "METADATA" }
        },
        { time: T0 + 3000 }
      )
    ]
  ]
]

const deliver = (layer: Layer.Layer<Uploader>) =>
  Effect.gen(function* () {
    const uploader = Context.get(yield* Layer.build(layer), Uploader)
    for (const [definition, events] of EVENTS) yield* uploader.upload({ definition, events })
  }).pipe(Effect.scoped)

/** An SQLite file with the events, and a directory for queues. */
const filled = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  const file = path.join(directory, "audit.db")
  yield* deliver(SqliteUploader.layer({ filename: file }))
  const run = (...args: ReadonlyArray<string>) =>
    effectAudit(directory, ["events", ...args], { AUDIT_SQLITE_FILE: file })
  return { directory, file, run }
})

describe("events", () => {
  it.scopedLive(
    "shows the newest events of all kinds, and masks sensitive fields unless they are revealed",
    () =>
      Effect.gen(function* () {
        const { run } = yield* filled
        const shown = yield* run("--json")
        assert.strictEqual(shown.code, 0, shown.stderr)
        assert.lengthOf(shown.json(), 5)
        const few = yield* run("--json", "--limit", "2")
        assert.deepStrictEqual(
          few.json().map(({ kind, time }) => [kind, time]),
          [
            ["activity", "2026-01-31T08:00:03.000Z"],
            ["use_log", "2026-01-31T08:00:02.000Z"]
          ]
        )
        for (const secret of ["PROMPT", "REASON", "METADATA"]) assert.notInclude(shown.stdout, secret)
        assert.include(shown.stdout, "[10 characters, masked]")
        assert.include(shown.stderr, "--reveal")
        const revealed = yield* run("--json", "--reveal")
        for (const secret of ["PROMPT one", "REASON", "METADATA"]) assert.include(revealed.stdout, secret)
      })
  )

  it.scopedLive("searches by kind, user, time and conditions, and counts", () =>
    Effect.gen(function* () {
      const { run } = yield* filled
      const users = (...args: ReadonlyArray<string>) =>
        Effect.map(run("--json", ...args), (ran) =>
          ran.stdout === "" ? [] : ran.json().map((event) => event.user_name ?? event.actor_name)
        )
      assert.deepStrictEqual(yield* users("--kind", "use_log", "--user", "li"), ["li"])
      assert.deepStrictEqual(yield* users("--kind", "use_log", "--where", "user_name^=L"), ["Li"])
      assert.deepStrictEqual(yield* users("--kind", "use_log", "--where", "durationMs:null"), ["Li", "li"])
      assert.deepStrictEqual(yield* users("--kind", "use_log", "--where", "duration_ms<0"), ["wang"])
      assert.deepStrictEqual(
        yield* users("--kind", "use_log", "--where", "duration_ms>=0", "--where", "model=a"),
        []
      )
      assert.deepStrictEqual(
        yield* users(
          "--kind",
          "use_log",
          "--since",
          "2026-01-31T08:00:01Z",
          "--until",
          "2026-01-31T08:00:02Z"
        ),
        ["Li"]
      )
      assert.deepStrictEqual(yield* users("--since", "1 hour"), [])
      assert.strictEqual((yield* run("--kind", "use_log", "--count")).stdout, "3\n")
      assert.include((yield* run("--count")).stdout, "login_log: 1")
      for (const [args, reason] of [
        [["--kind", "use_log", "--where", "nome=1"], "no field nome"],
        [["--kind", "use_log", "--where", "user_name"], "is no condition"],
        [["--kind", "use_log", "--where", "duration_ms>=x"], "is no value"],
        [["--since", "yesterday"], "is no date"],
        [["--csv"], "say one by --kind"],
        [["--id", ""], '"" is no id of an event'],
        [["--kind", "nowhere"], "no table nowhere"],
        [["--kind", "use_logs"], "say one of use_log, login_log, activity"]
      ] as const) {
        const ran = yield* run(...args)
        assert.include(ran.stderr, reason)
        assert.notStrictEqual(ran.code, 0)
      }
    })
  )

  it.scopedLive("exports CSV that no spreadsheet reads as formulas", () =>
    Effect.gen(function* () {
      const { run } = yield* filled
      const { stdout } = yield* run("--kind", "use_log", "--csv", "--reveal")
      const [head, ...rows] = stdout.split("\r\n")
      assert.strictEqual(
        head,
        "time,event_id,user_name,device_name,prompt,result_path,status,error_message,model,duration_ms,finish_reason"
      )
      assert.include(stdout, `'=cmd|' /C calc'!A0`)
      assert.include(stdout, `"'=HYPERLINK(""x"")"`)
      assert.include(stdout, `"two\nlines, ""quoted"""`)
      assert.match(rows[0]!, /^2026-01-31T08:00:02.000Z,[\da-f-]{36},wang,/)
      assert.include(rows[0]!, ",-5,")
      assert.strictEqual(rows.length, 4)
    })
  )

  it.scopedLive("reads a table without the class of its kind", () =>
    Effect.gen(function* () {
      const { run } = yield* filled
      const ran = yield* run("--kind", "nano_banana_user_log", "--json")
      assert.strictEqual(ran.json()[0]!.kind, "login_log")
      const { file, directory } = yield* filled
      const { createClient } = yield* Effect.promise(() => import("@libsql/client"))
      const client = createClient({ url: `file:${file}` })
      yield* Effect.promise(() =>
        client.executeMultiple(
          "CREATE TABLE payments AS SELECT event_id, event_time, user_name AS account, 9007199254740993 AS cents " +
            "FROM nano_banana_user_use_log"
        )
      )
      client.close()
      const of = (...args: ReadonlyArray<string>) =>
        effectAudit(directory, ["events", "--kind", "payments", "--json", ...args], {
          AUDIT_SQLITE_FILE: file
        })
      const masked = yield* of()
      assert.lengthOf(masked.json(), 3)
      assert.notInclude(masked.stdout, "wang")
      const [first] = (yield* of("--reveal", "--where", "account=wang")).json()
      assert.deepInclude(first, { account: "wang", cents: "9007199254740993" })
    })
  )

  it.scopedLive("finds one event wherever it is", () =>
    Effect.gen(function* () {
      const { directory, file } = yield* filled
      const queue = path.join(directory, "queue")
      const [dead, waiting] = [useLine({ prompt: "PROMPT" }), useLine({ prompt: "PROMPT" })]
      yield* fill(queue, [dead, waiting], [{ class: "rejected", reason: "Data too long" }])
      const find = (id: string, ...args: ReadonlyArray<string>) =>
        effectAudit(directory, ["events", "--id", id, "-d", queue, ...args], { AUDIT_SQLITE_FILE: file })
      const delivered = EVENTS[0]![1][0]!
      const found = yield* find(delivered.eventId)
      assert.include(found.stdout, "delivered")
      assert.notInclude(found.stdout, "PROMPT")
      assert.include((yield* find(delivered.eventId, "--reveal")).stdout, "PROMPT one")
      assert.include((yield* find(waiting.eventId)).stdout, "waiting in the queue")
      const letter = yield* find(dead.eventId)
      assert.include(letter.stdout, "dead letter 0:0")
      assert.notInclude(letter.stdout, "PROMPT")
      assert.include((yield* find("01936f2a-89ab-7cde-8f01-23456789abcd")).stderr, "There is no event")
    })
  )

  it.scopedLive("records who searches before it shows anything, and shows nothing if it cannot record", () =>
    Effect.gen(function* () {
      const { directory, run } = yield* filled
      const audit = path.join(directory, "readings")
      yield* run("--json", "--reveal", "--user", "li", "--kind", "use_log", "--audit", audit)
      yield* run("--id", EVENTS[0]![1][0]!.eventId, "--audit", audit)
      yield* run("--count", "--audit", audit)
      const recorded = (yield* effectAudit(audit, ["tail", "--json", "--reveal"])).json()
      assert.lengthOf(recorded, 2)
      const [exported, got] = recorded.map(({ event }) => event as Record<string, unknown>)
      assert.deepInclude(exported, {
        kind: "activity",
        action: "audit.export",
        target_id: "use_log",
        actor_type: "operator",
        outcome: "success"
      })
      assert.match(String(exported!.actor_name), /.+@.+/)
      assert.deepInclude(exported!.metadata as object, { reveal: true, user: "li" })
      assert.deepInclude(got, { action: "audit.get", target_id: EVENTS[0]![1][0]!.eventId })

      fs.writeFileSync(path.join(directory, "file"), "")
      const refused = yield* run("--json", "--reveal", "--audit", path.join(directory, "file"))
      assert.notStrictEqual(refused.code, 0)
      assert.notInclude(refused.stdout, "PROMPT")
    })
  )

  it.scopedLive("fits the width of a terminal", () =>
    Effect.gen(function* () {
      if (!hasPty) return
      const { directory, file } = yield* filled
      for (const columns of [60, 100, 200]) {
        const ran = yield* Effect.promise(
          () => inTerminal(directory, ["events"], { AUDIT_SQLITE_FILE: file, NO_COLOR: "1" }, columns).ended
        )
        assert.strictEqual(ran.code, 0, ran.stdout)
        const lines = ran.stdout.split(/\r?\n/)
        assert.include(ran.stdout, "TIME (UTC)")
        for (const line of lines) assert.isAtMost(line.length, columns, line)
      }
    })
  )
})

onEachServer("events", ({ flavour, rootUrl }) => {
  it.scopedLive("draws the progress of a long export on the terminal, and not into the export", () =>
    Effect.gen(function* () {
      if (!hasPty || flavour === "mysql") return
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [UseLog], { index: true })
      const uploader = Context.get(yield* Layer.build(MysqlUploader.layer(options)), Uploader)
      // enough for more than a second of the server, on a fast machine too
      const events = Array.from({ length: 6400 }, (_, index) =>
        use({ prompt: "another" }, { time: T0 + index })
      )
      yield* uploader.upload({ definition: UseLog, events })
      yield* makeSlow(database)
      const { database: name, host, port } = database.config
      const { username } = yield* account(database, "SELECT")
      const file = path.join(directory, "uses.csv")
      const ran = yield* Effect.promise(
        () =>
          inTerminal(
            directory,
            ["events", "--kind", "use_log", "--csv"],
            {
              AUDIT_MYSQL_URL: `mysql://${username!}@${host}:${port}/${name}`,
              AUDIT_MYSQL_PASSWORD: PASSWORD,
              NO_COLOR: "1"
            },
            100,
            file
          ).ended
      )
      assert.strictEqual(ran.code, 0, ran.stdout)
      assert.lengthOf(fs.readFileSync(file, "utf8").trimEnd().split("\r\n"), 6401)
      const drawn = [...ran.stdout.matchAll(/(█*)(░*) {2}([\d,]+) events/g)]
      assert.isNotEmpty(drawn)
      for (const [, full = "", empty = ""] of drawn) assert.lengthOf(full + empty, 30)
      assert.deepStrictEqual(drawn.at(-1)!.slice(1), ["█".repeat(30), "", "6,400"])
      assert.include(ran.stdout, "--reveal")
    })
  )

  it.scopedLive("needs nothing but SELECT, and names the right that is missing", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [UseLog, LoginLog, Activity], { index: true })
      yield* deliver(MysqlUploader.layer(options))
      const { database: name, host, port } = database.config
      const run = (username: string, ...args: ReadonlyArray<string>) =>
        effectAudit(directory, ["events", ...args], {
          AUDIT_MYSQL_URL: `mysql://${username}@${host}:${port}/${name}`,
          AUDIT_MYSQL_PASSWORD: PASSWORD
        })
      const reader = yield* account(database, "SELECT")
      const ran = yield* run(reader.username!, "--json", "--user", "li")
      assert.strictEqual(ran.code, 0, ran.stderr)
      assert.deepStrictEqual(
        ran
          .json()
          .map(({ kind }) => kind)
          .sort(),
        ["activity", "login_log", "use_log"]
      )
      assert.strictEqual((yield* run(reader.username!, "--kind", "use_log", "--count")).stdout, "3\n")
      assert.notInclude(ran.stderr, "Without")
      const stranger = yield* account(database, "CREATE VIEW")
      yield* Effect.promise(() =>
        database.query(`GRANT SELECT ON ${name}.${UseLog.table} TO '${stranger.username!}'@'%'`)
      )
      const part = yield* run(stranger.username!, "--json")
      assert.deepStrictEqual([...new Set(part.json().map(({ kind }) => kind))], ["use_log"])
      assert.include(
        part.stderr,
        "Without login_log, activity: there is no such table, or the account may not"
      )
      const id = "01936f2a-89ab-7cde-8f01-23456789abcd"
      const nowhere = yield* run(stranger.username!, "--id", id)
      assert.strictEqual(nowhere.code, 64)
      assert.include(nowhere.stderr, `There is no event ${id}.`)
      assert.include(
        nowhere.stderr,
        "Without login_log, activity: there is no such table, or the account may"
      )
      // the page says the same
      const queue = path.join(directory, "queue")
      yield* fill(queue, [useLine({})])
      const { origin, token } = yield* serve(queue, [
        "--url",
        `mysql://${stranger.username!}:${PASSWORD}@${host}:${port}/${name}`
      ])
      const answer = yield* Effect.promise(async () => {
        const headers = { authorization: `Bearer ${token}` }
        return (await fetch(`${origin}/api/event?id=${id}`, { headers })).text()
      })
      assert.include(answer, "Without login_log, activity: there is no such table, or the account may")
      const nobody = yield* account(database, "CREATE VIEW")
      // No table could be searched, so the answer is unknown.
      const unknown = yield* run(nobody.username!, "--id", id)
      assert.strictEqual(unknown.code, 2, unknown.stderr)
      // the command in the message can be pasted
      const [, command = ""] = /run `effect-audit ([^`]+)`/.exec(unknown.stderr) ?? []
      const migrated = yield* effectAudit(directory, command.split(" "), {
        AUDIT_MYSQL_URL: `mysql://root@${host}:${port}/${name}`
      })
      assert.strictEqual(migrated.code, 0, migrated.stderr)
      yield* Effect.promise(() =>
        database.query(`REVOKE CREATE VIEW ON ${name}.* FROM '${nobody.username!}'@'%'`)
      )
      const nothing = yield* run(nobody.username!, "--json")
      assert.strictEqual(nothing.code, 2)
      assert.include(nothing.stderr, "GRANT SELECT")
      assert.notInclude(nothing.stderr, "INSERT")
      const writer = yield* account(database, "INSERT")
      const refused = yield* run(writer.username!, "--kind", "use_log")
      assert.strictEqual(refused.code, 2)
      assert.include(refused.stderr, "GRANT SELECT")
    })
  )
})
