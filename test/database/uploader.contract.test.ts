/**
 * The contract of every Uploader, with every field of the two kinds of the reference.
 */
import { assert, describe, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Context, Effect, Layer } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { SqlValue, StoredEvent } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { login, use, uses } from "../support/events.js"
import { connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"
import { openSqlite } from "../support/sqlite.js"

/** An uploader to an empty database, and a view of that which is independent of the uploader. */
interface Target {
  readonly uploader: Uploader["Type"]
  /** The columns of the events of a kind, in the order in which they were stored. */
  readonly rows: (definition: AuditEvent.Any) => Effect.Effect<ReadonlyArray<ReadonlyArray<SqlValue>>>
  /** The ids and times of those events (UTC, milliseconds). */
  readonly identities: (definition: AuditEvent.Any) => Effect.Effect<ReadonlyArray<Identity>>
  /** Makes the database refuse uses of the device `bad`, each by itself. */
  readonly refuseBad: Effect.Effect<void>
}

interface Identity {
  readonly id: string
  readonly time: string | null
}

const build = (layer: Layer.Layer<Uploader>): Effect.Effect<Uploader["Type"], never, Scope.Scope> =>
  Effect.map(Layer.build(layer), Context.get(Uploader))

const quoted = (names: ReadonlyArray<string>, quote: string) =>
  names.map((name) => `${quote}${name}${quote}`).join(", ")

const columnNames = (definition: AuditEvent.Any) => definition.columns.map((column) => column.name)

const mysql = (rootUrl: string) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    const options = connectionOptions(database)
    yield* MysqlUploader.migrate(options)
    const select = (what: string, definition: AuditEvent.Any) =>
      Effect.promise(() => database.query(`SELECT ${what} FROM ${definition.table} ORDER BY id`))
    return {
      uploader: yield* build(MysqlUploader.layer(options)),
      rows: (definition) =>
        Effect.map(select(quoted(columnNames(definition), "`"), definition), (rows) =>
          rows.map((row) => columnNames(definition).map((name) => row[name] as SqlValue))
        ),
      identities: (definition) =>
        Effect.map(select("LOWER(HEX(event_id)) AS id, LEFT(event_time, 23) AS time", definition), (rows) =>
          rows.map((row) => row as unknown as Identity)
        ),
      refuseBad: Effect.promise(() =>
        database.query(`ALTER TABLE ${UseLog.table} ADD CONSTRAINT no_bad CHECK (device_name <> 'bad')`)
      )
    } satisfies Target
  })

const sqlite = Effect.gen(function* () {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "audit-sqlite-"))),
    (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true }))
  )
  const filename = path.join(directory, "a 100% odd #name?.db")
  const uploader = yield* build(SqliteUploader.layer({ filename }))
  const database = yield* openSqlite(filename)
  return {
    uploader,
    rows: (definition) =>
      // as bytes, since libsql ends a text at its first NUL
      database(
        `SELECT ${columnNames(definition)
          .map((name) => `typeof("${name}") || ':' || hex("${name}") AS "${name}"`)
          .join(", ")} FROM "${definition.table}" ORDER BY id`
      ).pipe(
        Effect.map((rows) =>
          rows.map((row) => columnNames(definition).map((name) => fromHex(row[name] as string)))
        )
      ),
    identities: (definition) =>
      Effect.map(
        database(
          `SELECT lower(hex(event_id)) AS id, event_time AS time FROM "${definition.table}" ORDER BY id`
        ),
        (rows) => rows.map((row) => ({ id: row.id as string, time: row.time as string | null }))
      ),
    refuseBad: Effect.gen(function* () {
      // SQLite cannot add a CHECK to an existing table, and the first upload makes the table
      yield* uploader
        .upload({ definition: UseLog, events: [use({ deviceName: "first" })] })
        .pipe(Effect.orDie)
      yield* database(
        `CREATE TRIGGER no_bad BEFORE INSERT ON "${UseLog.table}" WHEN NEW.device_name = 'bad' ` +
          `BEGIN SELECT RAISE(ABORT, 'no_bad'); END`
      )
      yield* database(`DELETE FROM "${UseLog.table}"`)
    })
  } satisfies Target
})

const fromHex = (text: string): SqlValue => {
  const [type, hex = ""] = text.split(":")
  if (type === "null") return null
  const value = Buffer.from(hex, "hex").toString()
  return type === "integer" || type === "real" ? Number(value) : value
}

const memory = Effect.gen(function* () {
  const { reject, stored, uploader } = yield* makeMemoryUploader()
  return {
    uploader,
    rows: (definition) => Effect.map(stored(definition), (events) => events.map((event) => event.row)),
    identities: (definition) =>
      Effect.map(stored(definition), (events) =>
        events.map(({ eventId, time }) => ({
          id: eventId.replaceAll("-", ""),
          time: time === null ? null : new Date(time).toISOString().replace("T", " ").slice(0, 23)
        }))
      ),
    refuseBad: reject((event) => (event.row[1] === "bad" ? { code: "bad", reason: "no_bad" } : undefined))
  } satisfies Target
})

/** The tests that every uploader must pass. */
const contract = (open: Effect.Effect<Target, unknown, Scope.Scope>) => {
  /** Delivers, and expects nothing rejected. */
  const deliver = ({ uploader }: Target, definition: AuditEvent.Any, events: ReadonlyArray<StoredEvent>) =>
    Effect.map(uploader.upload({ definition, events }), ({ rejected }) =>
      assert.deepStrictEqual(rejected, [])
    )

  const test = <E>(what: string, body: (target: Target) => Effect.Effect<unknown, E, Scope.Scope>) =>
    it.scopedLive(what, () => Effect.flatMap(open, body))

  test("stores every field of both kinds as it was given", (target) =>
    Effect.gen(function* () {
      const fullUse = {
        userName: "李小龙",
        deviceName: "studio-3",
        prompt: "a red fox 🦊 in the snow",
        resultPath: "out/1.png",
        status: "success",
        errorMessage: "none",
        model: "gemini-2.5-flash-image",
        durationMs: 1840,
        finishReason: "STOP"
      }
      const texts = [
        "",
        "two\nlines\r\n\tand a tab",
        `quotes ' " \` \\ \\' %s ? ; -- /* */ $1 :x`,
        "NUL \0 in the middle, and other controls \u0001\u001a\u007f",
        "emoji 👩‍👩‍👧‍👦 🏴‍☠️, 中文, العربية, e\u0301, \u2028 \ufeff",
        "x".repeat(64 * 1024),
        "狐".repeat(64 * 1024)
      ]
      const events = [
        use(fullUse),
        use({ status: "error" }),
        use({
          userName: "",
          deviceName: "",
          prompt: "",
          resultPath: "",
          errorMessage: "",
          model: "",
          finishReason: ""
        }),
        use({
          userName: null,
          deviceName: null,
          prompt: null,
          resultPath: null,
          durationMs: null,
          model: null
        }),
        ...texts.map((prompt) =>
          use({ prompt, errorMessage: prompt.slice(0, 100), userName: prompt.slice(0, 20) })
        ),
        use({ prompt: "lone \ud83e surrogates \udd8a" }),
        ...[0, -1, 1, 2 ** 31, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER].map((durationMs) =>
          use({ durationMs })
        )
      ]
      yield* deliver(target, UseLog, events)
      const rows = yield* target.rows(UseLog)
      assert.deepStrictEqual(
        rows,
        events.map((event) => event.row)
      )
      // test/schema/line.test.ts tests `row` itself; this test holds the promises of the reference
      const none = null
      assert.deepStrictEqual(rows[0], Object.values(fullUse))
      assert.deepStrictEqual(rows[1], ["未知用户", "未知设备", "", none, "error", none, none, none, none])
      assert.deepStrictEqual(
        rows[2],
        ["未知用户", "未知设备", "", "", "success", "", "", none, ""].with(5, "")
      )
      assert.deepStrictEqual(rows[3], ["未知用户", "未知设备", "", none, "success", none, none, none, none])
      assert.strictEqual(rows[4 + texts.length]?.[2], "lone \ufffd surrogates \ufffd")

      const fullLogin = {
        userName: "li",
        localIp: "10.0.0.5",
        publicIp: "2001:db8::1",
        deviceName: "studio-3",
        loginTime: "2026-01-31 08:00:00"
      }
      const loginTime = fullLogin.loginTime
      const logins = [
        login(fullLogin),
        login({ loginTime }),
        login({ userName: "", localIp: "", publicIp: "", deviceName: "", loginTime }),
        login({ userName: null, localIp: null, publicIp: null, deviceName: null, loginTime })
      ]
      yield* deliver(target, LoginLog, logins)
      assert.deepStrictEqual(yield* target.rows(LoginLog), [
        Object.values(fullLogin),
        [none, none, none, none, loginTime],
        ["", "", "", "", loginTime],
        [none, none, none, none, loginTime]
      ])
    }))

  test("stores the id and the time of an event", (target) =>
    Effect.gen(function* () {
      const eventId = "01936f2a-89ab-7cde-8f01-23456789abcd"
      const event = use({}, { eventId, time: Date.UTC(2026, 0, 31, 8, 0, 0, 123) })
      const untimed = { ...use(), time: null }
      yield* deliver(target, UseLog, [event, untimed])
      assert.deepStrictEqual(yield* target.identities(UseLog), [
        { id: "01936f2a89ab7cde8f0123456789abcd", time: "2026-01-31 08:00:00.123" },
        { id: untimed.eventId.replaceAll("-", ""), time: null }
      ])
    }))

  test("keeps the order of a batch, and of batches", (target) =>
    Effect.gen(function* () {
      const events = uses(777)
      yield* deliver(target, UseLog, events.slice(0, 643))
      yield* deliver(target, UseLog, events.slice(643))
      const prompts = (yield* target.rows(UseLog)).map((row) => Number(row[2]))
      assert.deepStrictEqual(prompts, Array.from(prompts.keys()))
      assert.strictEqual(prompts.length, 777)
    }))

  test("stores each event once in repeated batches, overlapping ones, and twice in one", (target) =>
    Effect.gen(function* () {
      const events = uses(250)
      yield* deliver(target, UseLog, events.slice(0, 150))
      yield* deliver(target, UseLog, events.slice(0, 150))
      yield* deliver(target, UseLog, events.slice(100))
      yield* deliver(target, UseLog, [events[7]!])
      const again = use()
      yield* deliver(target, UseLog, [again, events[3]!, again])
      assert.deepStrictEqual(
        (yield* target.identities(UseLog)).map((identity) => identity.id),
        [...events, again].map((event) => event.eventId.replaceAll("-", ""))
      )
    }))

  test("rejects the events that the database refuses, and delivers all others in order", (target) =>
    Effect.gen(function* () {
      yield* target.refuseBad
      for (const bad of [[0], [99], [57], [3, 10, 11, 12, 40, 41, 42, 43, 44, 98]]) {
        const events = uses(100, (index) => (bad.includes(index) ? { deviceName: "bad" } : {}))
        const before = (yield* target.rows(UseLog)).length
        const { rejected } = yield* target.uploader.upload({ definition: UseLog, events })
        assert.deepStrictEqual(
          rejected.map((rejection) => rejection.index),
          bad
        )
        for (const { code, reason } of rejected) assert.isTrue(code !== "" && reason.includes("no_bad"))
        const good = events.filter((_, index) => !bad.includes(index))
        assert.deepStrictEqual(
          (yield* target.rows(UseLog)).slice(before),
          good.map((event) => event.row)
        )
        // again, as after a crash
        const again = yield* target.uploader.upload({ definition: UseLog, events })
        assert.strictEqual(again.rejected.length, bad.length)
        assert.strictEqual((yield* target.rows(UseLog)).length, before + good.length)
      }
    }))
}

onEachServer("Uploader: mysql", ({ rootUrl }) => contract(mysql(rootUrl)))
describe("Uploader: sqlite", () => contract(sqlite))
describe("Uploader: memory", () => contract(memory))
