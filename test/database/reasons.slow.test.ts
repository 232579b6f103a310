/**
 * Reasons of real servers for a refusal, as anybody may see them. Lists, status and log say what is wrong.
 * They show nothing of the event, even if the database's message repeats it.
 *
 * @module
 */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Schema } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as AuditLayer from "../../src/layers/AuditLayer.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { AuditLog } from "../../src/services/AuditLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { effectAudit, type Ran } from "../support/cli.js"
import { connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import type { Flavour } from "../support/mysqlServer.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachServer } from "../support/servers.js"

/** No output may contain this. */
const SECRET = /reilly|secret|42s/i

/** Values that imitate the server's messages about its own schema. */
const HOSTILE = [
  "O'Reilly secret-42s",
  "O'Reilly' for column 'secret_42s' at row 1",
  "' for column 'secret_42s' at row 1",
  "x; secret_42s is VARCHAR(42)",
  "Check constraint 'secret_42s' is violated.",
  "CONSTRAINT `secret_42s` failed for `a`.`b`"
]

interface Class {
  /** The column of the table, and what is made beside it. */
  readonly column: string
  readonly good: string | number
  /** The refused values; by default the hostile ones unchanged. */
  readonly bad?: (hostile: string) => string
  readonly trigger?: string
  readonly code: Readonly<Record<Flavour, number>>
  /** What `dead list` says beyond "the database refused it". */
  readonly says?: RegExp
}

const both = (code: number) => ({ mariadb: code, mysql: code })

/** A trigger that repeats the value, with its own code or a server's code. */
const signal = (code: number, state = "45000"): Class => ({
  column: "v VARCHAR(200)",
  good: "1",
  trigger: `IF NEW.v <> '1' THEN SET @t = NEW.v; SIGNAL SQLSTATE '${state}' SET MYSQL_ERRNO = ${code}, MESSAGE_TEXT = @t; END IF`,
  code: both(code)
})

const CLASSES: Readonly<Record<string, Class>> = {
  too_long: {
    column: "v VARCHAR(8)",
    good: "1",
    bad: (hostile) => `${hostile} and more`,
    code: both(1406),
    says: /1406: too long for v \(VARCHAR\(8\)\)/
  },
  no_number: { column: "v INT", good: "7", code: both(1366), says: /1366: not a value of v \(INT/ },
  beyond_latin1: {
    column: "v VARCHAR(200) CHARACTER SET latin1",
    good: "1",
    bad: (hostile) => `漢 ${hostile} 漢`,
    code: both(1366),
    says: /1366: not a value of v *$/
  },
  no_date: {
    column: "v DATE",
    good: "2025-02-28",
    code: both(1292),
    says: /1292: not a value of v \(DATE\)/
  },
  out_of_range: {
    column: "v TINYINT",
    good: 1,
    // such a column lets nothing through but a number of many digits
    bad: () => "4200000",
    code: both(1264),
    says: /1264: out of range for v \(TINYINT/
  },
  of_list: {
    column: "v ENUM('1')",
    good: "1",
    code: both(1265),
    says: /1265: not a value of v \(ENUM\)/
  },
  checked: {
    column: "v VARCHAR(200), CONSTRAINT short_v CHECK (v = '1')",
    good: "1",
    code: { mariadb: 4025, mysql: 3819 },
    says: /a CHECK refuses it \(short_v\)/
  },
  signalled: { ...signal(1644), says: /1644: a trigger refuses it/ },
  signalled_as_1406: signal(1406),
  signalled_as_1366: signal(1366),
  signalled_as_1048: signal(1048),
  signalled_as_3819: signal(3819),
  signalled_as_4025: signal(4025),
  // a server's number with another SQLSTATE
  imitated_3819: signal(3819, "23000"),
  imitated_4025: signal(4025, "22001"),
  imitated_1452: { ...signal(1452, "HY000"), says: /1452: a trigger refuses it/ },
  signalled_as_1452: { ...signal(1452), says: /1452: a trigger refuses it/ }
}

/** The columns that an existing table needs. */
const OWN = "event_id BINARY(16), event_time DATETIME(6), UNIQUE KEY events (event_id)"

onEachServer("reasons", ({ flavour, rootUrl }) => {
  /** Delivers events to real tables, and checks the log lines. Returns the number of letters, and the directory. */
  const refused = (
    definitions: ReadonlyArray<AuditEvent.Any>,
    events: ReadonlyArray<readonly [kind: string, fields: object]>,
    tables: ReadonlyArray<string>
  ) =>
    Effect.gen(function* () {
      const directory = `${yield* temporaryDirectory}/audit`
      const database = yield* mysqlDatabase(rootUrl)
      for (const sql of tables) yield* Effect.promise(() => database.query(sql))
      yield* MysqlUploader.migrate(connectionOptions(database))
      const uploader = yield* uploaderOf(connectionOptions(database))
      const lines: Array<string> = []
      const logger = Logger.map(Logger.logfmtLogger, (line) => void lines.push(line))
      const layer = AuditLayer.layerDisk({ directory, minFreeBytes: 0, events: definitions }).pipe(
        Layer.provide([
          Layer.succeed(Uploader, uploader),
          NodeDisk.layer,
          Logger.replace(Logger.defaultLogger, logger)
        ])
      )
      const dead = yield* Effect.scoped(
        Effect.gen(function* () {
          const log = Context.get(yield* Layer.build(layer), AuditLog)
          for (const [kind, fields] of events) yield* log.record(kind, fields)
          // a further unique key stops the queue, and flush fails
          yield* Effect.ignore(log.flush)
          return (yield* log.status).dead
        })
      )
      assert.isNotEmpty(lines)
      assert.notMatch(lines.join("\n"), SECRET)
      assert.notMatch(fs.readFileSync(path.join(directory, "status.json"), "utf8"), SECRET)
      return { dead, directory }
    })

  it.scopedLive(
    "show nothing of the event without --reveal, in any class of refusal",
    () =>
      Effect.gen(function* () {
        const kinds = Object.entries(CLASSES).map(([table, it]) => {
          class Note extends AuditEvent.Class<Note>()(table, {
            table,
            fields: { v: Schema.NullOr(Schema.Union(Schema.String, Schema.Number)) }
          }) {}
          return { ...it, table, definition: Note }
        })
        const { dead, directory } = yield* refused(
          kinds.map(({ definition }) => definition),
          [
            ...kinds.flatMap(({ bad = (hostile: string) => hostile, good, table }) => [
              [table, { v: good }] as const,
              ...HOSTILE.map((hostile) => [table, { v: bad(hostile) }] as const),
              // Most events of a table must be good, or the table itself is in doubt.
              ...HOSTILE.map(() => [table, { v: good }] as const)
            ])
          ],
          [
            ...kinds.map(({ column, table }) => `CREATE TABLE ${table} (${column}, ${OWN})`),
            ...kinds.flatMap(({ table, trigger }) =>
              trigger === undefined
                ? []
                : [`CREATE TRIGGER t_${table} BEFORE INSERT ON ${table} FOR EACH ROW ${trigger}`]
            )
          ]
        )
        assert.strictEqual(dead, kinds.length * HOSTILE.length)

        const run = (...args: ReadonlyArray<string>) => effectAudit(directory, args)
        const listed = yield* run("dead", "list", "--json")
        const letters = listed.json()
        assert.lengthOf(letters, dead)
        const oneOfEach = [...new Map(letters.map((letter) => [letter.kind, letter.id as string])).values()]
        const shown: ReadonlyArray<Ran> = yield* Effect.all(
          [
            run("dead", "list"),
            run("status"),
            run("status", "--json"),
            run("verify"),
            ...oneOfEach.map((id) => run("dead", "show", id))
          ],
          { concurrency: 2 }
        )
        for (const { stderr, stdout } of [listed, ...shown]) assert.notMatch(stdout + stderr, SECRET)
        for (const { stderr } of shown.slice(4)) assert.include(stderr, "--reveal")

        const rows = shown[0]!.stdout.split("\n")
        for (const { code, says, table } of kinds) {
          const ofTable = rows.filter((row) => row.includes(` ${table} `))
          assert.lengthOf(ofTable, HOSTILE.length, table)
          for (const row of ofTable) {
            assert.include(row, `rejected ${code[flavour]}`)
            if (says !== undefined) assert.match(row, says)
          }
        }
        // If only the database's message tells the reason, then the list names --reveal.
        assert.include(shown[0]!.stderr, "--reveal")
        const revealed = yield* run("dead", "show", oneOfEach[0]!, "--reveal")
        assert.match(revealed.stdout, SECRET)
      }),
    300_000
  )

  it.scopedLive("name no value if a unique key of the table's own stops the queue", () =>
    Effect.gen(function* () {
      class Order extends AuditEvent.Class<Order>()("order", {
        table: "orders",
        fields: { v: Schema.String, n: Schema.Number }
      }) {}
      const { dead, directory } = yield* refused(
        [Order],
        HOSTILE.flatMap((v) => [1, 2].map((n) => ["order", { v, n }] as const)),
        [`CREATE TABLE orders (v VARCHAR(200), n INT, UNIQUE KEY of_v (v), ${OWN})`]
      )
      assert.strictEqual(dead, 0)
      for (const args of [["status"], ["status", "--json"], ["verify"], ["dead", "list"]]) {
        const { stderr, stdout } = yield* effectAudit(directory, args)
        assert.notMatch(stdout + stderr, SECRET)
        if (args[0] === "status") assert.include(stdout, "1062")
      }
    })
  )

  it.scopedLive("name column and type of a text that is too long", () =>
    Effect.gen(function* () {
      const { dead, directory } = yield* refused(
        [],
        [
          ["use_log", { status: "success", userName: "li.wei" }],
          ["use_log", { status: "success", userName: "O'Reilly secret-42s ".repeat(20) }]
        ],
        []
      )
      assert.strictEqual(dead, 1)
      const { stderr, stdout } = yield* effectAudit(directory, ["dead", "list"])
      assert.include(stdout, "1406: too long for user_name (VARCHAR(255))")
      assert.notMatch(stdout + stderr, SECRET)
    })
  )
})
