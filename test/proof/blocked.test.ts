/**
 * Rejected events, with a proof: each becomes a dead letter that a seal records. Everything else is delivered, as
 * without a proof.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Redacted, Schema } from "effect"
import * as path from "node:path"
import { v7 } from "uuid"
import { openSource } from "../../src/cli/mysqlSource.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import { account, connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { limitingProxy } from "../support/net.js"
import { lifeOf, type ProvenDatabase, proving } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"
import { newKey } from "../support/seals.js"
import { onEachServer } from "../support/servers.js"

class Note extends AuditEvent.Class<Note>()("note", {
  table: "notes",
  fields: { text: Schema.String },
  columns: { text: { type: "LONGTEXT NOT NULL" } }
}) {}

/** Flushes until nothing waits, as often as the worker would try within minutes. */
const untilDelivered = (log: AuditLog["Type"]) =>
  Effect.retry(log.flush, { times: 12 }).pipe(Effect.ignore, Effect.zipRight(log.status))

onEachServer("a queue with a proof", ({ rootUrl }) => {
  const prepare = (rights: string) =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      yield* MysqlUploader.migrate(connectionOptions(database), [Note], { proof: true })
      const query = (sql: string) => Effect.promise(() => database.query(sql))
      const options = yield* account(database, rights)
      yield* query(`GRANT SELECT ON effect_audit_seal TO '${options.username!}'@'%'`)
      const { privatePem, publicPem } = newKey()
      const proven = (port = options.port): ProvenDatabase => ({
        key: Redacted.make(privatePem),
        privatePem,
        address: database.url,
        uploader: MysqlUploader.make({ ...options, port }),
        query,
        prove: proving(openSource(connectionOptions(database)), publicPem)
      })
      const { host, port } = database.config
      return {
        proven,
        query,
        target: { host, port },
        directory: path.join(yield* temporaryDirectory, "audit")
      }
    })
  const life = <A>(
    database: ProvenDatabase,
    directory: string,
    use: (log: AuditLog["Type"]) => Effect.Effect<A, unknown>,
    options: { readonly proof?: false } = {}
  ) => lifeOf(database, directory, use, { events: [Note], ...options })
  const record = (log: AuditLog["Type"], texts: ReadonlyArray<string>) =>
    Effect.forEach(texts, (text) => log.record("note", { text }), { concurrency: "unbounded" })
  const deadIn = (database: ProvenDatabase) =>
    Effect.map(database.query("SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal"), (rows) =>
      rows.flatMap(({ notices }) =>
        [...String(notices).matchAll(/4:dead,[^,]+,36:[^,]+,\d+:(\w+),/g)].map(([, code]) => code)
      )
    )

  it.scopedLive(
    "delivers past events at whose size a proxy hangs up",
    () =>
      Effect.gen(function* () {
        const { directory, proven, target } = yield* prepare("INSERT")
        const proxy = yield* Effect.acquireRelease(
          Effect.promise(() => limitingProxy({ target, limit: 1_000_000 })),
          (proxy) => Effect.promise(proxy.close)
        )
        const database = proven(proxy.port)
        // many texts that are too large together, and some that are too large alone
        const texts = Array.from({ length: 30 }, (_, index) =>
          index % 10 === 7 ? "y".repeat(1_100_000 + index) : index % 3 === 0 ? "'".repeat(200_000) : "1"
        )
        const status = yield* life(database, directory, (log) =>
          Effect.zipRight(record(log, texts), untilDelivered(log))
        )
        assert.deepStrictEqual([status.delivered, status.dead, status.waiting], [27, 3, 0])
        const { findings, rows } = yield* database.prove({ isExclusive: true })
        assert.deepStrictEqual(findings, [])
        assert.strictEqual(rows, 27)
        assert.deepStrictEqual(yield* deadIn(database), ["1153", "1153", "1153"])
      }),
    120_000
  )

  for (const rights of ["INSERT", "INSERT, SELECT"]) {
    it.scopedLive(`delivers past duplicates of another unique key, with ${rights}`, () =>
      Effect.gen(function* () {
        const { directory, proven, query } = yield* prepare(rights)
        // the server names a primary key before the one over event_id
        yield* query("ALTER TABLE notes DROP COLUMN id, MODIFY text VARCHAR(40) NOT NULL PRIMARY KEY")
        const theirs = v7()
        yield* query(`INSERT INTO notes (event_id, text) VALUES (x'${theirs.replaceAll("-", "")}', 'theirs')`)
        const database = proven()
        const texts = Array.from({ length: 40 }, (_, index) =>
          index % 10 === 7 ? "theirs" : `note ${index}`
        )
        const status = yield* life(database, directory, (log) =>
          Effect.gen(function* () {
            yield* record(log, texts)
            // this event is stored already, which the other key hides
            yield* log.record("note", { text: "theirs" }, { eventId: theirs })
            return yield* untilDelivered(log)
          })
        )
        const isTold = rights.includes("SELECT")
        assert.deepStrictEqual(
          [status.delivered, status.dead, status.waiting],
          isTold ? [37, 4, 0] : [36, 5, 0]
        )
        const { bare, findings, rows } = yield* database.prove()
        assert.deepStrictEqual(findings, [])
        assert.deepStrictEqual([rows, bare], [36, 1])
        assert.deepStrictEqual(
          yield* deadIn(database),
          Array.from({ length: status.dead }, () => "1062")
        )
      })
    )
  }
})
