/**
 * A proof over outside changes. If a database is set back, `prove` finds the gap and nothing else. If a directory is
 * moved, copied or taken over, it finds nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { UploadError } from "../../src/schema/Errors.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { ahead } from "../support/clock.js"
import { lifeOf, PROVEN, type ProvenDatabase } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"

const TABLES = [UseLog.table, LoginLog.table]

const record = (log: AuditLog["Type"], count: number) =>
  Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    (index) =>
      index % 3 === 0
        ? log.record("login_log", { userName: "li", localIp: "10.0.0.5" })
        : log.record("use_log", { prompt: `fox ${index}`, status: "success" }),
    { concurrency: "unbounded" }
  )

const deliver = (count: number) => (log: AuditLog["Type"]) => Effect.zipRight(record(log, count), log.flush)

const eachTable = <A>(use: (table: string) => Effect.Effect<A>) => Effect.forEach(TABLES, use)

const countRows = ({ query }: ProvenDatabase) =>
  Effect.map(
    eachTable((table) => query(`SELECT COUNT(*) AS n FROM ${table}`)),
    (counts) => counts.reduce((sum, [row]) => sum + Number(row!.n), 0)
  )

/** Backs up the database; the result restores it. */
const backUp = ({ query }: ProvenDatabase) =>
  Effect.gen(function* () {
    const last = yield* eachTable((table) => query(`SELECT COALESCE(MAX(id), 0) AS n FROM ${table}`))
    const [seals] = yield* query("SELECT COALESCE(MAX(number), -1) AS n FROM effect_audit_seal")
    return Effect.gen(function* () {
      for (const [at, table] of TABLES.entries())
        yield* query(`DELETE FROM ${table} WHERE id > ${Number(last[at]![0]!.n)}`)
      yield* query(`DELETE FROM effect_audit_seal WHERE number > ${Number(seals!.n)}`)
    })
  })

/** Runs with a clock that `later` puts forward: the sealer waits a minute for a chain that has changed. */
const withClock = <A, E, R>(use: (later: Effect.Effect<void>) => Effect.Effect<A, E, R>) =>
  Effect.flatMap(Effect.clock, (clock) => {
    let offset = 0
    const later = Effect.sync(() => void (offset += 61_000))
    return Effect.withClock(
      use(later),
      ahead(clock, () => offset)
    )
  })

/** Delivers although seals are missing, in the new chain that begins after a minute. */
const deliverAnew = (log: AuditLog["Type"], later: Effect.Effect<void>) =>
  Effect.gen(function* () {
    yield* record(log, 5)
    // the minute begins with the first look at the chain, which a seal that was refused comes before
    for (let tries = 0; tries < 2; tries++) {
      const { cause } = yield* Effect.flip(log.flush)
      assert.strictEqual((cause as UploadError).code, "SEAL_MISSING")
    }
    yield* later
    yield* log.flush
    const { seal, waiting } = yield* log.status
    assert.deepStrictEqual([waiting, seal?.forked], [0, 1])
  })

/** Checks that one seal is missing, which the new chain records, and that each row has its seal. */
const assertGap = (database: ProvenDatabase) =>
  Effect.gen(function* () {
    const { chains, findings, rows } = yield* database.prove({ isExclusive: true })
    assert.deepStrictEqual(
      findings.map(({ kind, subject }) => [kind, subject.replace(/:\d+$/, "")]),
      [["gap", `seal ${chains[0]!}`]]
    )
    assert.lengthOf(chains, 2)
    assert.strictEqual(rows, yield* countRows(database))
  })

const assertProven = (database: ProvenDatabase, expected: number) =>
  Effect.gen(function* () {
    const { chains, findings, rows } = yield* database.prove({ isExclusive: true })
    assert.deepStrictEqual([findings, rows, yield* countRows(database)], [[], expected, expected])
    return chains
  })

const away: UploadError = new UploadError({ class: "transient", code: "AWAY", reason: "the test" })

/**
 * A database that is away for a while. It reads no seals either: an answer from before the restore would show the chain
 * unchanged.
 */
const awayWhile =
  (isAway: () => boolean) =>
  (uploader: Uploader["Type"]): Uploader["Type"] => {
    const { sealing } = uploader
    const unlessAway = <A>(answer: Effect.Effect<A, UploadError>) =>
      Effect.suspend(() => (isAway() ? away : answer))
    return {
      ...uploader,
      sealing: {
        ...sealing!,
        read: (chain, from) => unlessAway(sealing!.read(chain, from)),
        upload: (...parts) => unlessAway(sealing!.upload(...parts))
      }
    }
  }
const nothingArrives = awayWhile(() => true)

for (const [name, make] of PROVEN) {
  describe(`a proof over outside changes (${name})`, () => {
    it.scopedLive(
      "finds a gap, and nothing else, if the database is set back while the program is stopped",
      () =>
        withClock((later) =>
          Effect.gen(function* () {
            const database = yield* make()
            const directory = path.join(yield* temporaryDirectory, "audit")
            yield* lifeOf(database, directory, deliver(30))
            const setBack = yield* backUp(database)
            yield* lifeOf(database, directory, deliver(30))
            yield* setBack
            yield* lifeOf(database, directory, (log) => deliverAnew(log, later))
            assert.strictEqual(yield* countRows(database), 35)
            yield* assertGap(database)
            // a later start changes nothing
            yield* lifeOf(database, directory, deliver(10))
            yield* assertGap(database)
          })
        )
    )

    it.scopedLive("finds it by the next seal, if the database is set back while the program runs", () =>
      withClock((later) =>
        Effect.gen(function* () {
          const database = yield* make()
          const directory = path.join(yield* temporaryDirectory, "audit")
          // nothing breaks the connection
          yield* lifeOf(database, directory, (log) =>
            Effect.gen(function* () {
              yield* deliver(30)(log)
              const setBack = yield* backUp(database)
              yield* deliver(30)(log)
              yield* setBack
              yield* deliverAnew(log, later)
            })
          )
          assert.strictEqual(yield* countRows(database), 35)
          yield* assertGap(database)
        })
      )
    )

    it.scopedLive("finds it by the next seal, if the last one is changed while the program runs", () =>
      withClock((later) =>
        Effect.gen(function* () {
          const database = yield* make()
          const directory = path.join(yield* temporaryDirectory, "audit")
          // nothing breaks the connection
          yield* lifeOf(database, directory, (log) =>
            Effect.gen(function* () {
              yield* deliver(30)(log)
              const { seal } = yield* log.status
              yield* database.query(`UPDATE effect_audit_seal SET head = prev WHERE number = ${seal!.number}`)
              yield* deliverAnew(log, later)
            })
          )
          assert.strictEqual(yield* countRows(database), 35)
          const { chains, findings } = yield* database.prove({ isExclusive: true })
          assert.lengthOf(chains, 2)
          assert.isNotEmpty(findings)
        })
      )
    )

    it.scopedLive("begins a new chain if the database is set back, and its connection was lost", () =>
      withClock((later) =>
        Effect.gen(function* () {
          const database = yield* make()
          const directory = path.join(yield* temporaryDirectory, "audit")
          let isAway = false
          yield* lifeOf(
            database,
            directory,
            (log) =>
              Effect.gen(function* () {
                yield* deliver(30)(log)
                const setBack = yield* backUp(database)
                yield* deliver(30)(log)
                isAway = true
                yield* Effect.flip(deliver(5)(log))
                yield* setBack
                isAway = false
                yield* deliverAnew(log, later)
              }),
            { wrap: awayWhile(() => isAway) }
          )
          assert.strictEqual(yield* countRows(database), 40)
          yield* assertGap(database)
        })
      )
    )

    it.scopedLive("needs an anchor to find a database and a directory that were set back together", () =>
      Effect.gen(function* () {
        const database = yield* make()
        const home = yield* temporaryDirectory
        const [directory, copy] = [path.join(home, "audit"), path.join(home, "copy")]
        yield* lifeOf(database, directory, deliver(30))
        fs.cpSync(directory, copy, { recursive: true })
        const setBack = yield* backUp(database)
        const last = yield* lifeOf(database, directory, (log) =>
          Effect.zipRight(deliver(30)(log), log.status)
        )
        yield* setBack
        fs.rmSync(directory, { recursive: true })
        fs.renameSync(copy, directory)
        yield* lifeOf(database, directory, deliver(5))
        yield* assertProven(database, 35)
        const { findings } = yield* database.prove({ anchors: [last.seal!] })
        assert.deepStrictEqual(
          findings.map(({ kind }) => kind),
          ["anchor"]
        )
      })
    )

    it.scopedLive("continues the chain of a moved directory", () =>
      Effect.gen(function* () {
        const database = yield* make()
        const home = yield* temporaryDirectory
        yield* lifeOf(database, path.join(home, "audit"), deliver(20))
        yield* lifeOf(database, path.join(home, "audit"), (log) => record(log, 10), { wrap: nothingArrives })
        fs.renameSync(path.join(home, "audit"), path.join(home, "moved"))
        yield* lifeOf(database, path.join(home, "moved"), deliver(5))
        assert.lengthOf(yield* assertProven(database, 35), 1)
      })
    )

    it.scopedLive("stores and seals each event once while a directory and its copy deliver", () =>
      Effect.gen(function* () {
        const database = yield* make()
        const home = yield* temporaryDirectory
        const directories = ["audit", "copy"].map((name) => path.join(home, name))
        yield* lifeOf(database, directories[0]!, deliver(20))
        // both directories have these events
        yield* lifeOf(database, directories[0]!, (log) => record(log, 20), { wrap: nothingArrives })
        fs.cpSync(directories[0]!, directories[1]!, { recursive: true })
        const some = (log: AuditLog["Type"]) =>
          Effect.repeatN(
            Effect.zipRight(
              record(log, 10),
              // the other program may have taken the number of the next seal
              Effect.retry(log.flush, { times: 1000, schedule: Schedule.spaced("20 millis") })
            ),
            5
          )
        yield* Effect.forEach(directories, (directory) => lifeOf(database, directory, some), {
          concurrency: "unbounded"
        })
        yield* assertProven(database, 40 + 2 * 60)
      })
    )

    it.scopedLive("takes over a directory with its chain, also if the database was set back", () =>
      withClock((later) =>
        Effect.gen(function* () {
          const database = yield* make()
          const parent = yield* temporaryDirectory
          const left = path.join(parent, "instance-1")
          const setBack = yield* backUp(database)
          yield* lifeOf(database, left, deliver(20))
          yield* lifeOf(database, left, (log) => record(log, 10), { wrap: nothingArrives })
          const settings = { instances: 2, pollInterval: "100 millis" } as const
          const arrive = (rows: number) =>
            Effect.retry(
              Effect.filterOrFail(countRows(database), (count) => count === rows),
              { times: 300, schedule: Schedule.spaced("100 millis") }
            )
          yield* lifeOf(database, parent, () => arrive(30), { settings })
          assert.lengthOf(yield* assertProven(database, 30), 1)

          yield* lifeOf(database, left, (log) => record(log, 10), { wrap: nothingArrives })
          yield* setBack
          // each search for the chain takes a second or two
          yield* lifeOf(
            database,
            parent,
            () => Effect.zipRight(Effect.delay(later, "2 seconds"), arrive(10)),
            { settings }
          )
          const { findings } = yield* database.prove({ isExclusive: true })
          assert.deepStrictEqual(
            findings.map(({ kind }) => kind),
            ["gap"]
          )
        })
      )
    )
  })
}
