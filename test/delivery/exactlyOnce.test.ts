/** Exactly once: a real server stores no event twice that it committed before the cursor moved. */
import { assert, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Logger, Redacted, Schedule } from "effect"
import * as fs from "node:fs"
import { openSource } from "../../src/cli/mysqlSource.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { openAudit } from "../support/auditHere.js"
import type { TestDatabase } from "../support/database.js"
import { account, connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { tcpProxy } from "../support/net.js"
import { proving } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"
import { newKey } from "../support/seals.js"
import { onEachServer } from "../support/servers.js"

const migrated = (rootUrl: string) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    yield* MysqlUploader.migrate(yield* account(database, "CREATE, ALTER, INDEX, INSERT"))
    return { database, options: yield* account(database, "INSERT") }
  })

const long = process.env.AUDIT_LONG === "1"
const ROUNDS = long ? 100 : 20
const REPLAYED = long ? 50_000 : 10_000

const quiet = Logger.remove(Logger.defaultLogger)

const rows = (database: TestDatabase) =>
  Effect.map(
    Effect.promise(() => database.query<{ n: number }>(`SELECT COUNT(*) AS n FROM ${UseLog.table}`)),
    ([row]) => row!.n
  )

/** Waits until the server has committed more than `count` rows. */
const committedBeyond = (database: TestDatabase, count: number) =>
  rows(database).pipe(
    Effect.filterOrFail((now) => now > count),
    Effect.retry({ schedule: Schedule.spaced("2 millis"), times: 60_000 }),
    Effect.orDie
  )

onEachServer("an event whose answer was lost", ({ name, rootUrl }) => {
  it.scopedLive(`is stored once: ${ROUNDS} lost answers to an INSERT and ${ROUNDS} to a COMMIT`, () =>
    Effect.gen(function* () {
      const { database, options } = yield* migrated(rootUrl)
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => tcpProxy({ target: { host: options.host!, port: options.port! } })),
        (proxy) => Effect.promise(proxy.close)
      )
      const audit = yield* openAudit(
        { directory: yield* temporaryDirectory },
        { uploader: yield* uploaderOf({ ...options, host: proxy.host, port: proxy.port }) }
      )
      const ids: Array<string> = []
      const record = (count: number, prompt: string) =>
        Effect.forEach(
          Array.from({ length: count }),
          () => Effect.map(audit.use(prompt), ({ eventId }) => ids.push(eventId)),
          { concurrency: "unbounded", discard: true }
        )
      const hangUp = Effect.sync(() => {
        proxy.cut()
        proxy.resume()
      })

      for (let round = 0; round < ROUNDS; round++) {
        const before = yield* rows(database)
        proxy.whenAsked(`of round ${round}.`, proxy.dropReplies)
        yield* record((round % 7) + 1, `of round ${round}.`)
        const stored = yield* committedBeyond(database, before)
        yield* hangUp
        // some events are stored already, so the uploader uses INSERT IGNORE in a transaction
        yield* record((round % 5) + 1, "one more")
        proxy.whenAsked("COMMIT", proxy.dropReplies)
        const unheard = yield* Effect.fork(Effect.exit(audit.flush))
        yield* committedBeyond(database, stored)
        yield* hangUp
        assert.isTrue(Exit.isFailure(yield* unheard))
        yield* audit.flush
      }

      const found = yield* Effect.promise(() =>
        database.query<{ id: string }>(`SELECT HEX(event_id) AS id FROM ${UseLog.table}`)
      )
      assert.deepStrictEqual(
        found.map(({ id }) => id).sort(),
        ids.map((id) => id.replaceAll("-", "").toUpperCase()).sort()
      )
      const { accepted, dead, delivered, waiting } = yield* audit.status
      assert.deepStrictEqual(
        { accepted, dead, delivered, waiting },
        {
          accepted: ids.length,
          delivered: ids.length,
          dead: 0,
          waiting: 0
        }
      )
    }).pipe(Effect.provide(quiet))
  )

  it.scopedLive(`is stored and sealed once: ${ROUNDS} lost answers to a COMMIT`, () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [UseLog], { proof: true })
      const { privatePem, publicPem } = newKey()
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(() => tcpProxy({ target: { host: options.host!, port: options.port! } })),
        (proxy) => Effect.promise(proxy.close)
      )
      const audit = yield* openAudit(
        { directory: yield* temporaryDirectory, proof: { key: Redacted.make(privatePem) } },
        { uploader: yield* uploaderOf({ ...options, host: proxy.host, port: proxy.port }) }
      )
      for (let round = 0; round < ROUNDS; round++) {
        // a new connection reads the table first; from here on each COMMIT is one of rows and their seal
        yield* Effect.zipRight(audit.use("before it"), Effect.retry(audit.flush, { times: 20 }))
        const before = yield* rows(database)
        proxy.whenAsked("COMMIT", proxy.dropReplies)
        yield* Effect.replicateEffect(audit.use(`of round ${round}`), (round % 7) + 1, {
          concurrency: "unbounded"
        })
        const unheard = yield* Effect.fork(Effect.exit(audit.flush))
        yield* committedBeyond(database, before)
        proxy.cut()
        proxy.resume()
        yield* Fiber.join(unheard)
      }
      yield* Effect.retry(audit.flush, { times: 20 })
      const { accepted, delivered } = yield* audit.status
      assert.strictEqual(delivered, accepted)
      const proved = yield* proving(openSource(options), publicPem)({ isExclusive: true })
      assert.deepStrictEqual(
        [proved.findings, proved.rows, yield* rows(database), proved.chains.length],
        [[], accepted, accepted, 1]
      )
    }).pipe(Effect.provide(quiet))
  )

  it.scopedLive(
    `is found in a restored snapshot: ${REPLAYED} rows replay in at most 5 times their first delivery`,
    () =>
      Effect.gen(function* () {
        const { database, options } = yield* migrated(rootUrl)
        const parent = yield* temporaryDirectory
        const [directory, snapshot] = [`${parent}/audit`, `${parent}/snapshot`]
        const offline = yield* openAudit({ directory })
        yield* Effect.forEach(Array.from({ length: REPLAYED }), () => offline.use("a red fox".repeat(10)), {
          concurrency: 2000,
          discard: true
        })
        yield* offline.close
        fs.cpSync(directory, snapshot, { recursive: true })

        const delivery = (directory: string) =>
          Effect.gen(function* () {
            const audit = yield* openAudit({ directory }, { uploader: yield* uploaderOf(options) })
            const [duration] = yield* Effect.timed(audit.flush)
            assert.strictEqual((yield* audit.status).delivered, REPLAYED)
            return Duration.toMillis(duration)
          })
        const first = yield* delivery(directory)
        const second = yield* delivery(snapshot)
        assert.strictEqual(yield* rows(database), REPLAYED)
        console.log(
          `${name}, ${REPLAYED} rows: first delivery ${first.toFixed(0)} ms, replay ${second.toFixed(0)} ms (${(second / first).toFixed(2)} times)`
        )
        assert.isBelow(second, 5 * first)
      }).pipe(Effect.provide(quiet))
  )
})
