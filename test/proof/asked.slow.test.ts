/**
 * A seal without rows, which only permits something. If its commit fails or its answer is lost, one seal still records
 * the request. `prove` finds nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Redacted, Schedule } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { v7 } from "uuid"
import { anchorsIn } from "../../src/internal/proof/verify.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import type { AuditLog } from "../../src/services/AuditLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { type TcpProxy, tcpProxy } from "../support/net.js"
import { lifeOf, PROVEN, type ProvenDatabase } from "../support/proven.js"
import { nodeDisk, temporaryDirectory } from "../support/queue.js"

const EVENT = v7()

/** Requests a seal that permits the erasure of the event, and returns the request's file. */
const ask = (directory: string) =>
  Effect.flatMap(nodeDisk, (disk) =>
    requests.submit(disk, directory, { action: "erase", kind: "use_log", events: [EVENT], by: "a test" })
  )

const record = (log: AuditLog["Type"], eventId = v7()) =>
  Effect.zipRight(log.record("use_log", { prompt: "a fox", status: "success" }, { eventId }), log.flush)

/** Flushes until the request's file is gone: a flush waits for no backoff. */
const untilCarriedOut = (log: AuditLog["Type"], file: string) =>
  Effect.retry(
    Effect.zipRight(
      Effect.ignore(log.flush),
      Effect.suspend(() => (fs.existsSync(file) ? Effect.fail(`${file} waits`) : Effect.void))
    ),
    Schedule.intersect(Schedule.spaced("50 millis"), Schedule.recurs(400))
  )

/** Checks that one seal records the request, and that `prove` finds nothing. */
const assertSaidOnce = (database: ProvenDatabase) =>
  Effect.gen(function* () {
    const rows = yield* database.query("SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal")
    const text = rows.map(({ notices }) => String(notices)).join("")
    assert.strictEqual(text.split(`5:erase,7:use_log,36:${EVENT},`).length - 1, 1)
    const { chains, findings } = yield* database.prove({ isExclusive: true })
    assert.deepStrictEqual([findings, chains.length], [[], 1])
  })

type Sealing = NonNullable<Uploader["Type"]["sealing"]>

/** Replaces the upload of the first seals without rows. */
const sealingAlone =
  (times: number, send: (sealing: Sealing) => Sealing["upload"]) =>
  (uploader: Uploader["Type"]): Uploader["Type"] => {
    const sealing = uploader.sealing!
    let left = times
    const upload: Sealing["upload"] = (...parts) =>
      parts[0].batches.length === 0 && left-- > 0 ? send(sealing)(...parts) : sealing.upload(...parts)
    return { ...uploader, sealing: { ...sealing, upload } }
  }

/** The seal is committed, but its answer is lost. */
const losing = (times: number) =>
  sealingAlone(
    times,
    (sealing) =>
      (...parts) =>
        Effect.zipRight(
          sealing.upload(...parts),
          new UploadError({ class: "transient", code: "ECONNRESET", reason: "the answer was lost" })
        )
  )

/** The transaction fails before its seal. */
const failing = (times: number) =>
  sealingAlone(
    times,
    (sealing) => (first, next) =>
      sealing.upload(first, next, () => {
        throw new Error("the test")
      })
  )

/** The database is away from the first seal without rows on. `commits`: it has stored that seal. */
const cutting =
  (link: { isCut: boolean }, commits: boolean) =>
  (uploader: Uploader["Type"]): Uploader["Type"] => {
    const sealing = uploader.sealing!
    const away = new UploadError({
      class: "transient",
      code: "AWAY",
      reason: "the database is away for a while"
    })
    const unlessCut = <A>(effect: Effect.Effect<A, UploadError>) =>
      Effect.suspend(() => (link.isCut ? away : effect))
    const cut = Effect.suspend(() => {
      link.isCut = true
      return away
    })
    return {
      ...uploader,
      sealing: {
        read: (chain, from) => unlessCut(sealing.read(chain, from)),
        heads: unlessCut(sealing.heads),
        prepare: sealing.prepare,
        upload: (...parts) =>
          parts[0].batches.length > 0
            ? unlessCut(sealing.upload(...parts))
            : unlessCut(
                Effect.zipRight(
                  Effect.when(sealing.upload(...parts), () => commits),
                  cut
                )
              )
      }
    }
  }

/** What happens to the connection before the seal, or its COMMIT, reaches the server. */
const BREAKS: ReadonlyArray<readonly [name: string, act: (proxy: TcpProxy) => void]> = [
  ["breaks at the seal", (proxy) => proxy.whenAsked("5:erase,", proxy.cut)],
  [
    "breaks before the COMMIT arrives",
    (proxy) => proxy.whenAsked("5:erase,", () => proxy.whenAsked("COMMIT", proxy.cut))
  ],
  [
    "breaks before the COMMIT is answered",
    (proxy) =>
      proxy.whenAsked("5:erase,", () =>
        proxy.whenAsked("COMMIT", () => {
          proxy.dropReplies()
          setTimeout(() => {
            proxy.cut()
            proxy.resume()
          }, 500)
        })
      )
  ]
]

for (const [name, make] of PROVEN) {
  describe(`a seal without rows (${name})`, () => {
    const given = Effect.gen(function* () {
      return { database: yield* make(), directory: path.join(yield* temporaryDirectory, "audit") }
    })

    for (const [what, wrap] of [
      ["its answer is lost twice", losing(2)],
      ["it fails twice before its commit", failing(2)]
    ] as const)
      it.scopedLive(`${what}: one seal records the request, and the request is removed`, () =>
        Effect.gen(function* () {
          const { database, directory } = yield* given
          yield* lifeOf(
            database,
            directory,
            (log) =>
              Effect.gen(function* () {
                yield* record(log, EVENT)
                const file = yield* ask(directory)
                yield* untilCarriedOut(log, file)
                yield* record(log)
              }),
            { wrap }
          )
          yield* assertSaidOnce(database)
        })
      )

    for (const [what, commits] of [
      ["before the answer", true],
      ["before the commit", false]
    ] as const)
      it.scopedLive(`the program ends ${what}: the next start has one seal record the request`, () =>
        Effect.gen(function* () {
          const { database, directory } = yield* given
          const link = { isCut: false }
          const file = yield* lifeOf(
            database,
            directory,
            (log) =>
              Effect.gen(function* () {
                yield* record(log, EVENT)
                const file = yield* ask(directory)
                yield* Effect.repeat(Effect.zipRight(Effect.sleep("20 millis"), Effect.ignore(log.flush)), {
                  until: () => link.isCut
                })
                return file
              }),
            { wrap: cutting(link, commits) }
          )
          assert.isTrue(fs.existsSync(file))
          yield* lifeOf(database, directory, (log) =>
            Effect.zipRight(untilCarriedOut(log, file), record(log))
          )
          yield* assertSaidOnce(database)
        })
      )

    it.scopedLive(
      "is the queue's last one: the log names it, and the next start notices that it is gone",
      () =>
        Effect.gen(function* () {
          const { database, directory } = yield* given
          const lines: Array<string> = []
          const log = Logger.replace(
            Logger.defaultLogger,
            Logger.make(({ message }) => void lines.push(String(message)))
          )
          yield* lifeOf(
            database,
            directory,
            (log) =>
              Effect.gen(function* () {
                yield* record(log, EVENT)
                yield* untilCarriedOut(log, yield* ask(directory))
              }),
            { log }
          )
          const [row] = yield* database.query("SELECT MAX(number) AS last FROM effect_audit_seal")
          const last = Number(row!.last)
          assert.strictEqual(lines.flatMap(anchorsIn).at(-1)!.number, last)
          yield* database.query(`DELETE FROM effect_audit_seal WHERE number = ${last}`)
          const failure = yield* lifeOf(database, directory, (log) => Effect.flip(record(log)), {
            settings: { shutdownTimeout: "1 second" }
          })
          assert.include(String(failure), "The chain of seals is not as it was left")
        })
    )

    it.scopedLive("records an equal request about later seals again", () =>
      Effect.gen(function* () {
        const { database, directory } = yield* given
        yield* lifeOf(
          database,
          directory,
          (log) =>
            Effect.gen(function* () {
              yield* record(log)
              const disk = yield* nodeDisk
              const [chain = ""] = (yield* database.prove()).chains
              for (let time = 0; time < 2; time++) {
                const asked = { action: "purge", chain, before: 1000, by: "a test" } as const
                yield* untilCarriedOut(log, yield* requests.submit(disk, directory, asked))
              }
            }),
          { wrap: losing(1) }
        )
        const rows = yield* database.query("SELECT CAST(notices AS CHAR) AS notices FROM effect_audit_seal")
        const said = rows.filter(({ notices }) => String(notices).includes("5:purge,"))
        assert.isAtLeast(said.length, 2)
        assert.deepStrictEqual((yield* database.prove()).findings, [])
      })
    )

    if (name === "SQLite") return
    for (const [what, act] of BREAKS)
      it.scopedLive(`its connection ${what}: one seal records the request, and the request is removed`, () =>
        Effect.gen(function* () {
          const { database, directory } = yield* given
          const url = new URL(database.address)
          const proxy = yield* Effect.acquireRelease(
            Effect.promise(() => tcpProxy({ target: { host: url.hostname, port: Number(url.port) } })),
            (proxy) => Effect.promise(proxy.close)
          )
          url.hostname = proxy.host
          url.port = String(proxy.port)
          const uploader = MysqlUploader.make({ url: Redacted.make(url.href) })
          yield* lifeOf({ ...database, uploader }, directory, (log) =>
            Effect.gen(function* () {
              yield* record(log, EVENT)
              const { accepted } = proxy
              act(proxy)
              yield* untilCarriedOut(log, yield* ask(directory))
              assert.isAbove(proxy.accepted, accepted)
              yield* record(log)
            })
          )
          yield* assertSaidOnce(database)
        })
      )
  })
}
