/** `erase` and `purge`: `prove` finds an erasure or a removal unless a seal permits it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Stream } from "effect"
import * as path from "node:path"
import { v7 } from "uuid"
import { openSource as openMysql } from "../../src/cli/mysqlSource.js"
import { openSource as openSqlite } from "../../src/cli/sqliteSource.js"
import { erasing, sealedRows } from "../../src/internal/proof/permitted.js"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import { effectAudit } from "../support/cli.js"
import { lifeOf, PROVEN, type ProvenDatabase } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"

const TABLE = "nano_banana_user_use_log"

const recordUses = (log: AuditLog["Type"], ids: ReadonlyArray<string>) =>
  Effect.forEach(ids, (eventId) =>
    log.record("use_log", { userName: "li", prompt: `a fox ${eventId}`, status: "success" }, { eventId })
  )

const idsIn = (sql: string) => sql.split("x'").length - 1

const kindsOf = (findings: ReadonlyArray<{ readonly kind: string }>) => findings.map(({ kind }) => kind)

for (const [name, make] of PROVEN) {
  const isSqlite = name === "SQLite"
  const addressed = ({ address }: ProvenDatabase) => [isSqlite ? "--sqlite" : "--url", address]
  const run = (database: ProvenDatabase, stdout: string) =>
    Effect.forEach(
      stdout.split("\n").filter((line) => line !== ""),
      (line) => database.query(line)
    )
  const promptOf = (database: ProvenDatabase, id: string) =>
    Effect.map(
      database.query(`SELECT prompt FROM ${TABLE} WHERE event_id = x'${id.replaceAll("-", "")}'`),
      ([row]) => row?.prompt
    )

  describe(`erase and purge (${name})`, () => {
    it.scopedLive("erase: a seal permits it first; prove finds an erasure without one", () =>
      Effect.gen(function* () {
        const database = yield* make()
        const directory = path.join(yield* temporaryDirectory, "audit")
        const ids = Array.from({ length: 5 }, () => v7())
        const [first, second, third] = ids as [string, string, string]
        const erase = (...args: ReadonlyArray<string>) =>
          effectAudit(directory, ["erase", "--kind", "use_log", ...args, ...addressed(database)])
        yield* lifeOf(database, directory, (log) =>
          Effect.gen(function* () {
            yield* recordUses(log, ids)
            yield* log.flush
            const unknown = yield* erase(v7())
            assert.strictEqual(unknown.code, 64, unknown.stderr)
            assert.include(unknown.stderr, "No seal is about an event")
            const { code, stderr, stdout } = yield* erase(first, second)
            assert.strictEqual(code, 0, stderr)
            assert.deepStrictEqual((yield* database.prove()).findings, [])
            yield* run(database, stdout)
            // the column of SQLite may be NULL
            const empty = isSqlite ? null : ""
            assert.deepStrictEqual(
              [yield* promptOf(database, first), yield* promptOf(database, second)],
              [empty, empty]
            )
            assert.deepStrictEqual((yield* database.prove({ isExclusive: true })).findings, [])
            const again = yield* erase(first, second)
            assert.deepStrictEqual([again.code, again.stdout], [0, ""])
            assert.include(again.stderr, "erased already")
            // later seals follow
            yield* recordUses(log, [v7()])
            yield* log.flush
          })
        )
        assert.deepStrictEqual((yield* database.prove()).findings, [])
        // no program owns the queue
        const alone = yield* erase(third)
        assert.strictEqual(alone.code, 2, alone.stderr)
        assert.include(alone.stderr, "start the program")
        // by hand, as the command would
        const open = isSqlite
          ? openSqlite(database.address)
          : openMysql({ url: Redacted.make(database.address) })
        const lines = yield* Effect.gen(function* () {
          const source = yield* open
          const found = yield* sealedRows(source, "use_log", (id) => id === third)
          return yield* Stream.runCollect(erasing(source, found[0]!))
        }).pipe(Effect.scoped, Effect.provide(NodeDisk.layer), Effect.orDie)
        for (const line of lines) yield* database.query(line)
        assert.deepStrictEqual(kindsOf((yield* database.prove()).findings), ["erased"])
        // nobody may write to a permitted erasure afterwards
        yield* database.query(
          `UPDATE ${TABLE} SET prompt = 'forged' WHERE event_id = x'${first.replaceAll("-", "")}'`
        )
        assert.sameMembers(kindsOf((yield* database.prove()).findings), ["erased", "changed"])
      })
    )

    it.scopedLive("purge: removes the rows of earlier seals, and no others", () =>
      Effect.gen(function* () {
        const database = yield* make()
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* lifeOf(database, directory, (log) =>
          Effect.gen(function* () {
            for (let round = 0; round < 4; round++) {
              yield* recordUses(log, [v7(), v7()])
              yield* log.flush
            }
            const { chains, seals } = yield* database.prove()
            const purge = (before: string) =>
              effectAudit(directory, ["purge", "--before", before, ...addressed(database)])
            for (const unknown of [`${chains[0]!}:${seals}`, `${"0f".repeat(16)}:0`]) {
              const refused = yield* purge(unknown)
              assert.deepStrictEqual([refused.code, refused.stdout], [64, ""])
              assert.include(refused.stderr, `There is no seal ${unknown}`)
            }
            const first = yield* purge(`${chains[0]!}:0`)
            assert.deepStrictEqual([first.code, first.stdout], [0, ""])
            assert.strictEqual((yield* database.prove()).seals, seals)
            const { code, stderr, stdout } = yield* purge(`${chains[0]!}:2`)
            assert.strictEqual(code, 0, stderr)
            yield* run(database, stdout)
            const [count] = yield* database.query(`SELECT COUNT(*) AS n FROM ${TABLE}`)
            const removed = idsIn(stdout)
            assert.isAtLeast(removed, 2)
            assert.strictEqual(Number(count!.n), 8 - removed)
            assert.deepStrictEqual((yield* database.prove({ isExclusive: true })).findings, [])
            const nothing = yield* purge("2020-01-31")
            assert.deepStrictEqual([nothing.code, nothing.stdout], [0, ""])
            const all = yield* purge("0 seconds")
            assert.strictEqual(all.code, 0, all.stderr)
            assert.strictEqual(idsIn(all.stdout), 8)
          })
        )
        yield* lifeOf(database, directory, (log) => Effect.zipRight(recordUses(log, [v7()]), log.flush))
        assert.deepStrictEqual((yield* database.prove()).findings, [])
        yield* database.query(
          isSqlite
            ? `DELETE FROM ${TABLE} WHERE id = (SELECT MAX(id) FROM ${TABLE})`
            : `DELETE FROM ${TABLE} ORDER BY id DESC LIMIT 1`
        )
        assert.deepStrictEqual(kindsOf((yield* database.prove()).findings), ["removed"])
      })
    )
  })
}
