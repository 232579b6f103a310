/** The last seal and the lasting alarm, in status, doctor, the page and the metrics. */
import { assert, it } from "@effect/vitest"
import { Clock, Effect, Layer, Logger, Metric } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { anchorsIn } from "../../src/internal/proof/verify.js"
import { decode, encodeSlot, SLOT_BYTES } from "../../src/internal/queue/cursor.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import { effectAudit } from "../support/cli.js"
import { lifeOf, PROVEN } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"

const gaugesOf = (directory: string) =>
  Object.fromEntries(
    Metric.unsafeSnapshot()
      .filter(
        ({ metricKey: { name, tags } }) =>
          /^effect_audit_(?:seal_number|forked_chain)$/.test(name) &&
          [...tags].some(({ key, value }) => key === "queue" && value === directory)
      )
      .map(({ metricKey: { name }, metricState }) => [
        name,
        (metricState as unknown as { value: number }).value
      ])
  )

/** An SQLite database with tables for a proof, and a directory for a queue. */
const given = Effect.gen(function* () {
  const [, make] = PROVEN.at(-1)!
  return { database: yield* make(), directory: path.join(yield* temporaryDirectory, "audit") }
})

const record = (log: AuditLog["Type"]) =>
  Effect.zipRight(log.record("use_log", { prompt: "a fox", status: "success" }), log.flush)

it.scopedLive(
  "status shows chain, number and head, and permanently a chain that was set back or changed",
  () =>
    Effect.gen(function* () {
      const { database, directory } = yield* given
      const plain = yield* lifeOf(database, directory, (log) => log.status)
      assert.notProperty(plain, "seal")
      const { seal } = yield* lifeOf(database, directory, (log) => Effect.zipRight(record(log), log.status))
      const { chain, head, number } = seal!
      assert.deepStrictEqual({ ...seal }, { chain, number: 0, head })
      const status = yield* effectAudit(directory, ["status"])
      assert.strictEqual(status.code, 0, status.stdout)
      assert.match(
        status.stdout.replaceAll(/\s+/g, " "),
        new RegExp(`sealed up to seal ${chain}:${number}, head ${head}`)
      )
      const json = yield* effectAudit(directory, ["status", "--json"])
      assert.include(JSON.stringify(json.json()), JSON.stringify({ chain, number, head }))
      const doctor = yield* effectAudit(directory, ["doctor", "--json"])
      assert.strictEqual(doctor.code, 0, doctor.stdout)
      assert.include(doctor.stdout, `up to seal ${chain}:${number}, head ${head}`)

      // as a start leaves the cursor if its chain was set back or changed
      const file = path.join(directory, "cursor")
      const { cursor, generation } = decode(fs.readFileSync(file))!
      const slot = encodeSlot(generation + 1, { ...cursor, seal: { ...cursor.seal!, forked: 1 } })
      fs.writeFileSync(file, Buffer.concat([slot, Buffer.alloc(SLOT_BYTES, " ")]))
      for (let time = 0; time < 2; time++) {
        const alarmed = yield* effectAudit(directory, ["status"])
        assert.strictEqual(alarmed.code, 3)
        assert.match(
          alarmed.stdout.replaceAll(/\s+/g, " "),
          /was set back or changed; run "effect-audit prove"/
        )
        const ill = yield* effectAudit(directory, ["doctor"])
        assert.strictEqual(ill.code, 2)
        assert.include(ill.stdout, "effect-audit prove")
        yield* lifeOf(database, directory, (log) =>
          Effect.gen(function* () {
            yield* record(log)
            const isSeen = Effect.suspend(() =>
              gaugesOf(directory).effect_audit_seal_number === time + 1 ? Effect.void : Effect.fail("not yet")
            )
            yield* Effect.retry(Effect.delay(isSeen, "100 millis"), { times: 100 })
            assert.deepStrictEqual(gaugesOf(directory), {
              effect_audit_seal_number: time + 1,
              effect_audit_forked_chain: 1
            })
          })
        )
      }
      assert.deepStrictEqual((yield* database.prove()).findings, [])
    })
)

it.scopedLive("the log names the last head within the hour, although nothing follows", () =>
  Effect.gen(function* () {
    const { database, directory } = yield* given
    const heads: Array<number> = []
    const logger = Logger.make(
      ({ message }) => void heads.push(...anchorsIn(String(message)).map(({ number }) => number))
    )
    const real = yield* Effect.clock
    let ahead = 0n
    const clock: Clock.Clock = {
      [Clock.ClockTypeId]: Clock.ClockTypeId,
      unsafeCurrentTimeMillis: () => real.unsafeCurrentTimeMillis(),
      unsafeCurrentTimeNanos: () => real.unsafeCurrentTimeNanos() + ahead,
      currentTimeMillis: real.currentTimeMillis,
      currentTimeNanos: Effect.map(real.currentTimeNanos, (now) => now + ahead),
      sleep: (duration) => real.sleep(duration)
    }
    yield* lifeOf(
      database,
      directory,
      (log) =>
        Effect.gen(function* () {
          yield* record(log)
          yield* record(log)
          assert.deepStrictEqual(heads, [0])
          ahead = 3_600_000_000_000n
          yield* log.flush
          // the flush is answered while the pass ends
          yield* Effect.retry(
            Effect.delay(
              Effect.suspend(() => (heads.length === 2 ? Effect.void : Effect.fail("not yet"))),
              "50 millis"
            ),
            { times: 100 }
          )
          assert.deepStrictEqual(heads, [0, 1])
        }),
      { log: Layer.merge(Logger.replace(Logger.defaultLogger, logger), Layer.setClock(clock)) }
    )
  })
)

for (const [name, make] of PROVEN)
  it.scopedLive(`doctor examines what seals need, if it is given the key (${name})`, () =>
    Effect.gen(function* () {
      const database = yield* make()
      const directory = yield* temporaryDirectory
      const flag = name === "SQLite" ? "--sqlite" : "--url"
      const doctor = (address = database.address) =>
        effectAudit(directory, ["doctor", flag, address], { AUDIT_PROOF_KEY: database.privatePem })
      const good = yield* doctor()
      assert.strictEqual(good.code, 0, good.stdout)
      const pathGiven = yield* effectAudit(directory, ["doctor"], { AUDIT_PROOF_KEY: "audit-key.pem" })
      assert.strictEqual(pathGiven.code, 2, pathGiven.stdout)
      assert.match(pathGiven.stdout.replaceAll(/\s+/g, " "), /failure key: AUDIT_PROOF_KEY: .* not its path/)
      assert.include(good.stdout, "effect_audit_seal")
      if (name !== "SQLite") {
        const url = new URL(database.address)
        const user = `blind_${process.pid}`
        yield* Effect.acquireRelease(database.query(`CREATE USER ${user} IDENTIFIED BY 'secret'`), () =>
          database.query(`DROP USER ${user}`)
        )
        yield* database.query(`GRANT INSERT ON \`${url.pathname.slice(1)}\`.* TO ${user}`)
        url.username = user
        url.password = "secret"
        const blind = yield* doctor(url.href)
        assert.strictEqual(blind.code, 2, blind.stdout)
        assert.match(blind.stdout.replaceAll(/\s+/g, " "), /GRANT SELECT, INSERT ON \S+\.effect_audit_seal/)
      }
      yield* database.query("ALTER TABLE nano_banana_user_use_log DROP COLUMN audit_proof")
      yield* database.query("DROP TABLE effect_audit_seal")
      const bad = yield* doctor()
      assert.strictEqual(bad.code, 2, bad.stdout)
      const failures = bad.stdout.replaceAll(/\n +/g, " ").match(/^failure .*migrate --proof.*$/gm) ?? []
      assert.lengthOf(failures, 2, bad.stdout)
      const without = yield* effectAudit(directory, ["doctor", flag, database.address])
      assert.strictEqual(without.code, 0, without.stdout)
    })
  )

it.scopedLive("the next seal records events that were delivered without one", () =>
  Effect.gen(function* () {
    const { database, directory } = yield* given
    const textsOf = Effect.map(
      database.query("SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal ORDER BY number"),
      (rows) => rows.map(({ notices }) => String(notices).includes("8:unsealed,"))
    )
    for (const proof of [true, true, false, false, true, true])
      yield* lifeOf(database, directory, record, proof ? {} : { proof: false })
    assert.deepStrictEqual(yield* textsOf, [false, false, true, false])
    const { bare, findings, unsealed } = yield* database.prove()
    assert.deepStrictEqual([findings, bare, unsealed], [[], 2, 1])
  })
)
