/**
 * A Trail under hard conditions: if a server is slow, breaks off or holds much, then it continues in smaller steps.
 *
 * @module
 */
import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { Activity } from "effect-audit"
import { createConnection } from "mysql2/promise"
import { createHash } from "node:crypto"
import * as MysqlTrail from "../../src/layers/MysqlTrail.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Progress } from "../../src/services/Trail.js"
import type { TestDatabase } from "../support/database.js"
import { use, uses } from "../support/events.js"
import { account, connectionOptions, mysqlDatabase, PASSWORD, uploaderOf } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"
import { all, makeSlow, REPEATED } from "../support/trail.js"

/** A database with the tables, and an account that may read them. */
const readable = (rootUrl: string) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    const options = connectionOptions(database)
    yield* MysqlUploader.migrate(options, [UseLog, LoginLog, Activity], { index: true })
    const reader = yield* account(database, "SELECT")
    return { database, options, reader, uploader: yield* uploaderOf(options) }
  })

/** Multiplies the rows by a power of two, all in one millisecond. */
const multiply = (database: TestDatabase, doublings: number) =>
  Effect.promise(async () => {
    for (let n = 0; n < doublings; n++) {
      await database.query(
        `INSERT INTO ${UseLog.table} (event_id, event_time, user_name, device_name, prompt, status) ` +
          `SELECT UNHEX(LEFT(SHA2(CONCAT(HEX(event_id), ${n}), 256), 32)), event_time, user_name, device_name, 'more', status FROM ${UseLog.table}`
      )
    }
  })

const T0 = Date.UTC(2026, 0, 31, 8)

onEachServer("Trail", ({ rootUrl }) => {
  it.scopedLive("continues after the connection breaks halfway", () =>
    Effect.gen(function* () {
      const { database, reader, uploader } = yield* readable(rootUrl)
      const events = uses(2000)
      yield* uploader.upload({ definition: UseLog, events })
      const trail = yield* MysqlTrail.make(reader)
      let kills = 0
      const found = yield* all(
        trail.find(UseLog, {
          onProgress: () =>
            Effect.promise(async () => {
              if (kills >= 2) return
              const sessions = await database.query<{ id: number }>(
                `SELECT id FROM information_schema.processlist WHERE user = '${reader.username!}'`
              )
              for (const { id } of sessions) {
                kills++
                await database.query(`KILL ${id}`).catch(() => undefined)
              }
            })
        })
      )
      assert.isAbove(kills, 1)
      assert.deepStrictEqual(
        found.map(({ eventId }) => eventId).sort(),
        events.map(({ eventId }) => eventId).sort()
      )
    })
  )

  it.scopedLive("reads rows of which a page would exceed the limit of an answer", () =>
    Effect.gen(function* () {
      const { database, reader, uploader } = yield* readable(rootUrl)
      yield* uploader.upload({ definition: UseLog, events: [use({ prompt: "x".repeat(4 << 20) })] })
      yield* Effect.promise(async () => {
        for (let n = 0; n < 24; n++) {
          await database.query(
            `INSERT INTO ${UseLog.table} (event_id, event_time, user_name, device_name, prompt, status) SELECT UNHEX(LEFT(SHA2(${n}, 256), 32)), ` +
              `event_time, user_name, device_name, prompt, status FROM ${UseLog.table} LIMIT 1`
          )
        }
      })
      const trail = yield* MysqlTrail.make(reader)
      const found = yield* all(trail.find(UseLog))
      assert.lengthOf(found, 25)
      for (const it of found) assert.isTrue(it._tag === "Event" && it.event.prompt.length === 4 << 20)
    })
  )

  it.scopedLive("finds a rare match among many rows of one millisecond, and reports its progress", () =>
    Effect.gen(function* () {
      const { database, reader, uploader } = yield* readable(rootUrl)
      yield* uploader.upload({ definition: UseLog, events: [use({ prompt: "the one" })] })
      yield* multiply(database, 16)
      const trail = yield* MysqlTrail.make({ ...reader, statementTimeout: "1 second" })
      const seen: Array<Date | null> = []
      const found = yield* all(
        trail.find(UseLog, {
          where: { prompt: "the one" },
          onProgress: ({ time }) => Effect.sync(() => void seen.push(time))
        })
      )
      assert.lengthOf(found, 1)
      assert.isNull(seen.at(-1))
      assert.strictEqual(yield* trail.count(UseLog), 2 ** 16)
      assert.strictEqual(
        yield* trail.count(UseLog, { where: { prompt: { in: ["more", "the one"] } } }),
        2 ** 16
      )
    })
  )

  it.scopedLive(
    "continues in smaller windows if the server ends slow statements, and reports its progress",
    () =>
      Effect.gen(function* () {
        const { database, reader, uploader } = yield* readable(rootUrl)
        const events = Array.from({ length: 1500 }, (_, index) =>
          use({ prompt: index === 1200 ? "the one" : "another" }, { time: T0 + index })
        )
        yield* uploader.upload({ definition: UseLog, events })
        yield* makeSlow(database)
        const exceeded = Effect.promise(async () => {
          const [found] = await database.query<{ Value: string }>(
            "SHOW GLOBAL STATUS LIKE 'Max\\_%\\_time\\_exceeded'"
          )
          return Number(found!.Value)
        })
        const before = yield* exceeded
        const trail = yield* MysqlTrail.make({ ...reader, statementTimeout: "500 millis" })
        const seen: Array<Progress> = []
        const search = trail.find(UseLog, {
          where: { errorMessage: createHash("sha512").update("the one".repeat(REPEATED)).digest("hex") },
          onProgress: (progress) => Effect.sync(() => void seen.push(progress))
        })
        assert.deepStrictEqual(
          (yield* all(search)).map(({ eventId }) => eventId),
          [events[1200]!.eventId]
        )
        assert.isAbove(yield* exceeded, before)
        const times = seen.slice(0, -1).map(({ time }) => time!.getTime())
        assert.isAbove(times.length, 3)
        assert.deepStrictEqual(
          times,
          [...times].sort((a, b) => a - b)
        )
        assert.isTrue(seen.some(({ found, time }) => found === 0 && time !== null))
        assert.deepStrictEqual(seen.at(-1), { time: null, found: 1 })

        yield* Effect.promise(() =>
          database.query(`ALTER TABLE ${UseLog.table} DROP INDEX effect_audit_event_time`)
        )
        const error = yield* Effect.flip(all(search))
        assert.strictEqual(error.code, "NO_INDEX")
        assert.include(error.message, "migrate --index")
      })
  )

  it.scopedLive("waits for no lock beyond the statement's time limit", () =>
    Effect.gen(function* () {
      const { database, reader, uploader } = yield* readable(rootUrl)
      yield* uploader.upload({ definition: UseLog, events: uses(3) })
      const trail = yield* MysqlTrail.make({ ...reader, statementTimeout: "1 second" })
      assert.lengthOf(yield* all(trail.find(UseLog)), 3)
      const holder = yield* Effect.acquireRelease(
        Effect.promise(() => createConnection(database.url)),
        (connection) => Effect.promise(() => connection.end())
      )
      yield* Effect.promise(() => holder.query(`LOCK TABLES ${UseLog.table} WRITE`))
      const error = yield* Effect.flip(all(trail.find(UseLog)))
      assert.strictEqual(error.class, "transient")
      yield* Effect.promise(() => holder.query("UNLOCK TABLES"))
      assert.lengthOf(yield* all(trail.find(UseLog)), 3)
    })
  )

  it.scopedLive("tells an account without SELECT what to do, and never shows the password", () =>
    Effect.gen(function* () {
      const { database, uploader } = yield* readable(rootUrl)
      yield* uploader.upload({ definition: UseLog, events: [use({ prompt: "PROMPT" })] })
      const writer = yield* account(database, "INSERT")
      const trail = yield* MysqlTrail.make(writer)
      const refused = yield* Effect.flip(all(trail.find(UseLog)))
      assert.strictEqual(refused.class, "operator")
      assert.include(refused.message, "GRANT SELECT")
      const wrong = yield* MysqlTrail.make({ ...writer, password: Redacted.make("wrong") })
      const error = yield* Effect.flip(all(wrong.find(UseLog)))
      assert.strictEqual(error.class, "operator")
      const away = yield* MysqlTrail.make({ ...writer, port: 1, connectTimeout: "1 second" })
      const offline = yield* Effect.flip(all(away.find(UseLog)))
      assert.strictEqual(offline.class, "transient")
      for (const { message } of [refused, error, offline]) {
        assert.notInclude(message, PASSWORD)
        assert.notInclude(message, "deliver")
      }
    })
  )
})
