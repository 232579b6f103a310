/**
 * Delivery with a proof: each stored row has its seal, whatever happened to the program or its directory. If nobody
 * changed the database, `prove` finds nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Redacted, Schema } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { v7 } from "uuid"
import type { AuditLog } from "../../src/services/AuditLog.js"
import { UploadError } from "../../src/schema/Errors.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { openAudit } from "../support/auditHere.js"
import { effectAudit } from "../support/cli.js"
import { openSource } from "../../src/cli/mysqlSource.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { account, connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { lifeOf, PROVEN, type ProvenDatabase, proving } from "../support/proven.js"
import { newKey } from "../support/seals.js"
import { onEachServer } from "../support/servers.js"
import { temporaryDirectory } from "../support/queue.js"

class Note extends AuditEvent.Class<Note>()("note", {
  table: "notes",
  fields: {
    text: Schema.String,
    n: AuditEvent.optional(Schema.Number),
    at: AuditEvent.optional(Schema.Date)
  },
  columns: { text: { type: "VARCHAR(20) NOT NULL CHECK (text <> 'bad')" } }
}) {}

class Measure extends AuditEvent.Class<Measure>()("measure", {
  table: "measures",
  fields: { whole: Schema.NumberFromString, number: Schema.NumberFromString },
  columns: { whole: { type: "BIGINT NOT NULL" } }
}) {}

const KINDS = [UseLog, LoginLog, Note]
const TABLES = ["nano_banana_user_use_log", "nano_banana_user_log", "notes"]

const life: typeof lifeOf = (database, directory, use, options) =>
  lifeOf(database, directory, use, { events: [Note], ...options })

/** Records events of all kinds. The database refuses every tenth, if it can. */
const record = (log: AuditLog["Type"], count: number) =>
  Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    (index) =>
      index % 3 === 0
        ? log.record("use_log", { prompt: `Ä ${index}\0`, status: "success", durationMs: index })
        : index % 3 === 1
          ? log.record("login_log", { userName: "li ", localIp: "10.0.0.5" })
          : log.record("note", {
              text: index % 10 === 8 ? "much too long for this column" : `note ${index} `,
              n: index / 7,
              at: index % 2 === 0 ? null : new Date(index)
            }),
    { concurrency: "unbounded" }
  )

const countRows = (database: ProvenDatabase) =>
  Effect.map(
    Effect.forEach(TABLES, (table) => database.query(`SELECT COUNT(*) AS n FROM ${table}`)),
    (counts) => counts.reduce((sum, [row]) => sum + Number(row!.n), 0)
  )

/** Checks that `prove` finds nothing, and that every row has a seal. */
const assertProven = (database: ProvenDatabase, chains: number | "any" = 1) =>
  Effect.gen(function* () {
    const proved = yield* database.prove({ isExclusive: true })
    assert.deepStrictEqual(proved.findings, [])
    assert.strictEqual(proved.rows, yield* countRows(database))
    if (chains !== "any") assert.lengthOf(proved.chains, chains)
    return proved
  })

/** The first seals are committed, but their answers are lost. */
const losing =
  (answers: number) =>
  (uploader: Uploader["Type"]): Uploader["Type"] => {
    const { sealing } = uploader
    let left = answers
    return {
      ...uploader,
      sealing: {
        ...sealing!,
        upload: (...parts) =>
          Effect.flatMap(sealing!.upload(...parts), (answer) =>
            left-- > 0
              ? new UploadError({ class: "transient", code: "ECONNRESET", reason: "the answer was lost" })
              : Effect.succeed(answer)
          )
      }
    }
  }

/** The first transactions fail after the rows, before the seal. */
const failingAtTheSeal =
  (times: number) =>
  (uploader: Uploader["Type"]): Uploader["Type"] => {
    const { sealing } = uploader
    let left = times
    return {
      ...uploader,
      sealing: {
        ...sealing!,
        upload: (first, next, seal) =>
          sealing!.upload(first, next, (stored) => {
            if (left-- > 0) throw new Error("the test")
            return seal(stored)
          })
      }
    }
  }

const untilDelivered = (log: AuditLog["Type"]) =>
  Effect.retry(log.flush, { times: 20 }).pipe(Effect.zipRight(log.status))

for (const [name, make] of PROVEN) {
  describe(`delivery with a proof (${name})`, () => {
    it.scopedLive("seals every row over several starts, and records dead letters", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        let dead = 0
        for (let time = 0; time < 3; time++) {
          dead = (yield* life(database, directory, (log) =>
            Effect.zipRight(record(log, 60), untilDelivered(log))
          )).dead
        }
        // SQLite's columns have no lengths, so it refuses nothing
        assert.strictEqual(dead, name === "SQLite" ? 0 : 6)
        const { rows, seals } = yield* assertProven(database)
        assert.strictEqual(rows, 180 - dead)
        assert.isAtLeast(seals, 3)
        const notices = yield* database.query(
          "SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal"
        )
        const text = notices.map(({ notices }) => String(notices)).join("")
        assert.strictEqual(text.split("4:dead,").length - 1, dead)
        assert.notInclude(text, "8:previous,")
      })
    )

    it.scopedLive("looks up a lost answer: no row twice, none without its seal, and one chain", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        const status = yield* life(
          database,
          directory,
          (log) => Effect.zipRight(record(log, 100), untilDelivered(log)),
          { wrap: losing(3) }
        )
        assert.strictEqual(status.delivered + status.dead, 100)
        const { rows } = yield* assertProven(database)
        assert.strictEqual(rows, status.delivered)
        assert.strictEqual(status.dead, name === "SQLite" ? 0 : 4)
      })
    )

    it.scopedLive("stores nothing of a batch that fails at its end", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* life(
          database,
          directory,
          (log) =>
            Effect.gen(function* () {
              yield* record(log, 30)
              yield* Effect.flip(log.flush)
              assert.strictEqual(yield* countRows(database), 0)
              yield* untilDelivered(log)
            }),
          { wrap: failingAtTheSeal(5) }
        )
        yield* assertProven(database)
      })
    )

    it.scopedLive("continues after the stored seals if the program ended before the answer", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* life(database, directory, (log) => Effect.zipRight(record(log, 10), log.flush))
        yield* life(
          database,
          directory,
          (log) => Effect.zipRight(record(log, 50), Effect.ignore(log.flush)),
          { wrap: losing(1000) }
        )
        const before = yield* countRows(database)
        assert.isAbove(before, 10)
        const status = yield* life(database, directory, (log) =>
          Effect.zipRight(record(log, 5), untilDelivered(log))
        )
        assert.strictEqual(status.delivered + status.dead, 65)
        const { rows } = yield* assertProven(database)
        assert.strictEqual(rows, status.delivered)
        const notices = yield* database.query(
          "SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal"
        )
        assert.notInclude(notices.map(({ notices }) => String(notices)).join(""), "4:twin,")
      })
    )

    it.scopedLive("delivers and seals the events of an older copy of the directory once", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const home = yield* temporaryDirectory
        const directory = path.join(home, "audit")
        const record20 = (log: AuditLog["Type"]) => Effect.zipRight(record(log, 20), Effect.ignore(log.flush))
        yield* life(database, directory, record20)
        // a copy with undelivered events
        yield* life(database, directory, record20, {
          wrap: (uploader) => ({
            ...uploader,
            sealing: {
              ...uploader.sealing!,
              upload: () =>
                new UploadError({
                  class: "transient",
                  code: "AWAY",
                  reason: "the database is away for a while"
                })
            }
          })
        })
        fs.cpSync(directory, path.join(home, "copy"), { recursive: true })
        yield* life(database, directory, record20)
        const rows = yield* countRows(database)
        const status = yield* life(database, path.join(home, "copy"), (log) =>
          Effect.zipRight(record(log, 20), untilDelivered(log))
        )
        assert.strictEqual(status.waiting, 0)
        const added = yield* countRows(database)
        assert.strictEqual(added - rows, name === "SQLite" ? 20 : 19)
        yield* assertProven(database)
      })
    )

    it.scopedLive("finds the chain of a lost cursor again, or records it in a new chain", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        yield* life(database, directory, (log) => Effect.zipRight(record(log, 30), log.flush))
        fs.rmSync(path.join(directory, "cursor"))
        yield* life(database, directory, (log) => Effect.zipRight(record(log, 30), log.flush))
        const { chains } = yield* assertProven(database, "any")
        if (chains.length === 1) return
        const notices = yield* database.query(
          "SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal"
        )
        assert.include(notices.map(({ notices }) => String(notices)).join(""), "7:witness,32:")
      })
    )

    it.scopedLive(
      "records a row of another writer without a seal, and stores an event recorded twice once",
      () =>
        Effect.gen(function* () {
          const database = yield* make(KINDS)
          const directory = path.join(yield* temporaryDirectory, "audit")
          const [theirs, twice] = [v7(), v7()]
          yield* database.query(
            `INSERT INTO notes (event_id, text) VALUES (x'${theirs.replaceAll("-", "")}', 'theirs')`
          )
          yield* life(database, directory, (log) =>
            Effect.gen(function* () {
              const note = (eventId: string, text: string) => log.record("note", { text }, { eventId })
              yield* Effect.all([note(twice, "a"), note(theirs, "b"), note(twice, "c"), record(log, 10)], {
                concurrency: "unbounded"
              })
              yield* log.flush
              yield* note(twice, "d")
              yield* log.flush
            })
          )
          const { bare, findings, rows } = yield* database.prove()
          assert.deepStrictEqual(findings, [])
          assert.strictEqual(bare, 1)
          assert.strictEqual(rows, (yield* countRows(database)) - 1)
          const notices = yield* database.query(
            "SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal"
          )
          const text = notices.map(({ notices }) => String(notices)).join("")
          assert.include(text, `4:twin,4:note,36:${theirs},`)
          assert.strictEqual(text.split(`4:twin,4:note,36:${twice},`).length - 1, 2)
        })
    )

    it.scopedLive("seals no row without the option, and continues the chain with it", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        const some = (log: AuditLog["Type"]) => Effect.zipRight(record(log, 6), log.flush)
        yield* life(database, directory, some)
        yield* life(database, directory, some, { proof: false })
        yield* life(database, directory, some)
        const { bare, chains, findings, rows } = yield* database.prove()
        assert.deepStrictEqual([findings, bare, rows, chains.length], [[], 6, 12, 1])
      })
    )

    it.scopedLive("needs the previous key no longer after the seal that names the new one", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        const one = (log: AuditLog["Type"]) => record(log, 1)
        yield* life(database, directory, one)
        const renewed = Redacted.make(newKey().privatePem)
        yield* life(database, directory, one, { keys: { key: renewed, previousKey: database.key } })
        for (let start = 0; start < 2; start++)
          yield* life(database, directory, one, { keys: { key: renewed } })
        const { seals } = yield* assertProven(database)
        assert.deepStrictEqual([seals, yield* countRows(database)], [4, 4])
      })
    )

    it.scopedLive("makes a dead letter of a number that is not finite, and seals the rows around it", () =>
      Effect.gen(function* () {
        const database = yield* make([Measure])
        const directory = path.join(yield* temporaryDirectory, "audit")
        const status = yield* lifeOf(
          database,
          directory,
          (log) =>
            Effect.gen(function* () {
              for (const value of [1, Infinity, -Infinity, Number.NaN, 2 ** 60])
                for (const field of ["whole", "number"])
                  yield* log.record("measure", { whole: 0, number: 0, [field]: value })
              yield* log.flush
              return yield* log.status
            }),
          { events: [Measure] }
        )
        assert.deepStrictEqual([status.waiting, status.dead], [0, 6])
        const proved = yield* database.prove({ isExclusive: true })
        assert.deepStrictEqual([proved.findings, proved.rows], [[], 4])
      })
    )

    it.scopedLive("logs heads, which prove reads as anchors", () =>
      Effect.gen(function* () {
        const database = yield* make(KINDS)
        const directory = path.join(yield* temporaryDirectory, "audit")
        const lines: Array<string> = []
        const logger = Logger.replace(
          Logger.defaultLogger,
          Logger.make(({ message }) => void lines.push(String(message)))
        )
        yield* life(database, directory, (log) => Effect.zipRight(record(log, 60), log.flush), {
          log: logger
        })
        const { anchorsIn } = yield* Effect.promise(() => import("../../src/internal/proof/verify.js"))
        const anchors = lines.flatMap(anchorsIn)
        assert.isAtLeast(anchors.length, 1)
        assert.deepStrictEqual((yield* database.prove({ anchors })).findings, [])
        const last = yield* database.query("SELECT MAX(number) AS n FROM effect_audit_seal")
        assert.strictEqual(anchors.at(-1)!.number, Number(last[0]!.n))
        yield* database.query(`DELETE FROM effect_audit_seal`)
        const { findings } = yield* database.prove({ anchors })
        assert.include(
          findings.map(({ kind }) => kind),
          "anchor"
        )
      })
    )
  })
}

onEachServer("an account that may insert, and read only the seals", ({ rootUrl }) => {
  it.scopedLive("leaves no row without its seal, whatever rows exist already", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      yield* MysqlUploader.migrate(connectionOptions(database), KINDS, { proof: true })
      const query = (sql: string) => Effect.promise(() => database.query(sql))
      yield* query("ALTER TABLE notes ADD UNIQUE KEY own (text)")
      const options = yield* account(database, "INSERT")
      yield* query(`GRANT SELECT ON effect_audit_seal TO '${options.username!}'@'%'`)
      const { privatePem, publicPem } = newKey()
      const proven: ProvenDatabase = {
        key: Redacted.make(privatePem),
        privatePem,
        address: database.url,
        uploader: MysqlUploader.make(options),
        query,
        prove: proving(openSource(connectionOptions(database)), publicPem)
      }
      const theirs = v7()
      yield* query(`INSERT INTO notes (event_id, text) VALUES (x'${theirs.replaceAll("-", "")}', 'theirs')`)
      const directory = path.join(yield* temporaryDirectory, "audit")
      yield* life(
        proven,
        directory,
        (log) =>
          Effect.gen(function* () {
            // the transaction fails after a query for existing rows, which must commit nothing
            const note = (text: string, eventId?: string) =>
              log.record("note", { text }, eventId === undefined ? {} : { eventId })
            // the row of another writer has the same id
            yield* Effect.all([note("w"), note("x", theirs), record(log, 10), note("y"), note("z")], {
              concurrency: "unbounded"
            })
            for (let time = 0; time < 3; time++) {
              yield* Effect.ignore(log.flush)
              assert.strictEqual(yield* countRows(proven), 1)
            }
            yield* untilDelivered(log)
          }),
        { wrap: failingAtTheSeal(10) }
      )
      const { bare, findings, rows } = yield* proven.prove()
      assert.deepStrictEqual(findings, [])
      assert.strictEqual(bare, 1)
      assert.strictEqual(rows, (yield* countRows(proven)) - 1)
    })
  )
})

/** A queue with three delivered and sealed events, and three that wait. */
const halfDelivered = Effect.gen(function* () {
  const [, make] = PROVEN.at(-1)!
  const database = yield* make(KINDS)
  const directory = path.join(yield* temporaryDirectory, "audit")
  const uses = (log: AuditLog["Type"]) =>
    Effect.forEach([1, 2, 3], (n) => log.record("use_log", { prompt: String(n), status: "success" }))
  yield* life(database, directory, (log) => Effect.zipRight(uses(log), log.flush))
  yield* life(database, directory, (log) => Effect.zipRight(uses(log), Effect.ignore(log.flush)), {
    wrap: failingAtTheSeal(1000)
  })
  return { database, directory }
})

describe("effect-audit flush", () => {
  it.scopedLive("seals with the program's key, and delivers nothing without the key", () =>
    Effect.gen(function* () {
      const { database, directory } = yield* halfDelivered
      const flush = (env: Readonly<Record<string, string>>) =>
        effectAudit(directory, ["flush", "--sqlite", database.address], env)
      const without = yield* flush({})
      assert.strictEqual(without.code, 64, without.stderr)
      assert.include(without.stderr, "set AUDIT_PROOF_KEY to its key")
      const wrong = yield* flush({ AUDIT_PROOF_KEY: "s3cret" })
      assert.strictEqual(wrong.code, 64)
      assert.include(wrong.stderr, "openssl genpkey -algorithm ed25519")
      assert.strictEqual((yield* assertProven(database)).rows, 3)
      const { code, stderr } = yield* flush({ AUDIT_PROOF_KEY: database.privatePem })
      assert.strictEqual(code, 0, stderr)
      assert.strictEqual((yield* assertProven(database)).rows, 6)
    })
  )
})

describe("effect-audit flush, to a database that was set back", () => {
  it.scopedLive.skipIf(process.env.AUDIT_LONG !== "1")("waits for the missing seals, and continues", () =>
    Effect.gen(function* () {
      const { database, directory } = yield* halfDelivered
      yield* database.query("DELETE FROM effect_audit_seal")
      const { code, stderr } = yield* effectAudit(directory, ["flush", "--sqlite", database.address], {
        AUDIT_PROOF_KEY: database.privatePem
      })
      assert.strictEqual(code, 0, stderr)
      assert.include(
        (yield* database.prove()).findings.map(({ kind }) => kind),
        "gap"
      )
    })
  )
})

describe("the option proof", () => {
  it.scopedLive("refuses at the start an invalid key, and an uploader that cannot seal", () =>
    Effect.gen(function* () {
      const [, make] = PROVEN.at(-1)!
      const { key, uploader } = yield* make()
      const directory = path.join(yield* temporaryDirectory, "audit")
      const bad = yield* Effect.flip(
        openAudit({ directory, proof: { key: Redacted.make("s3cret") } }, { uploader: yield* uploader })
      )
      assert.strictEqual(bad._tag, "QueueOpenError")
      assert.include(bad.message, "openssl genpkey -algorithm ed25519")
      assert.notInclude(bad.message, "s3cret")
      const own = yield* Effect.flip(openAudit({ directory, proof: { key } }))
      assert.include(own.message, "proof needs an uploader that seals")
      assert.isFalse(fs.existsSync(directory))
    })
  )
})
