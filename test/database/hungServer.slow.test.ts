/**
 * A server that stops answering (SIGSTOP) at the worst moments while a program ends. The audit log closes within
 * `shutdownTimeout`, and the process exits by itself.
 */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import { Duration, Effect, Logger, Schedule } from "effect"
import { UseLog } from "../../src/schema/UseLog.js"
import { openAudit } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import type { TestDatabase } from "../support/database.js"
import { use } from "../support/events.js"
import { connectionOptions, migratedDatabase, uploaderOf } from "../support/mysql.js"
import type { Flavour, MysqlServer } from "../support/mysqlServer.js"
import { startServer } from "../support/mysqlServer.js"
import type { TcpProxy } from "../support/net.js"
import { tcpProxy } from "../support/net.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachFlavour } from "../support/servers.js"

let server: MysqlServer
let database: TestDatabase

const start = async (flavour: Flavour) => {
  server = await startServer({ flavour })
  database = await migratedDatabase(server.rootUrl)
  await database.query(`ALTER TABLE ${UseLog.table} ADD CONSTRAINT c CHECK (prompt <> 'refused')`)
}

const stop = async () => {
  await database.drop()
  await server.stop()
}

const SHUTDOWN_MILLIS = 500
/** Extra time on a loaded machine. A program that waits for the server takes 10 seconds (the driver), or for ever. */
const SLACK_MILLIS = 7000

/** A queue with waiting events. The database has stored the first ones, which the queue does not know. */
const filledQueue = ({ stored = [], waiting }: Pick<Case, "stored" | "waiting">) =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    const audit = yield* openAudit({ directory, shutdownTimeout: 0 })
    const receipts = yield* Effect.forEach(stored, audit.use)
    yield* Effect.forEach(waiting, audit.use)
    yield* audit.close
    if (receipts.length > 0) {
      const { upload } = yield* uploaderOf(connectionOptions(database))
      yield* upload({ definition: UseLog, events: receipts.map(({ eventId }) => use({}, { eventId })) })
    }
    return directory
  }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))

interface Case {
  readonly stored?: ReadonlyArray<string>
  readonly waiting: ReadonlyArray<string>
  /** Texts that the program sends in turn before the server is stopped; if empty, the server is stopped at once. */
  readonly stopAfter: ReadonlyArray<string>
  /** What happens to the connection after that. */
  readonly then?: (proxy: TcpProxy) => void
}

const stopServerAfter = (
  proxy: TcpProxy,
  [text, ...others]: ReadonlyArray<string>,
  stop: () => void
): void => (text === undefined ? stop() : proxy.whenAsked(text, () => stopServerAfter(proxy, others, stop)))

const endsInTime = ({ stopAfter, then, ...events }: Case) =>
  Effect.gen(function* () {
    const directory = yield* filledQueue(events)
    const proxy = yield* Effect.acquireRelease(
      Effect.promise(() => tcpProxy({ target: server })),
      (proxy) => Effect.promise(proxy.close)
    )
    const audit = yield* auditProcess()

    let isStopped = false
    yield* Effect.addFinalizer(() => Effect.sync(server.sigcont))
    stopServerAfter(proxy, stopAfter, () => {
      server.sigstop()
      then?.(proxy)
      isStopped = true
    })
    const { database: name, username } = database.config
    const settings = { directory, shutdownTimeout: SHUTDOWN_MILLIS, minFreeBytes: 0 }
    const mysql = { host: proxy.host, port: proxy.port, username, database: name }
    assert.isUndefined(yield* audit.open(settings, { mysql }))
    yield* Effect.repeat(
      Effect.sync(() => isStopped && proxy.connections === (then === undefined ? 1 : 0)),
      { schedule: Schedule.spaced("10 millis"), until: (reached) => reached, times: 12_000 }
    )
    assert.isTrue(isStopped)

    const [closing] = yield* Effect.timed(audit.close)
    const [exiting, { code, stderr }] = yield* Effect.timed(audit.end)
    assert.isBelow(Duration.toMillis(closing), SHUTDOWN_MILLIS + SLACK_MILLIS)
    assert.isBelow(Duration.toMillis(exiting), SLACK_MILLIS)
    assert.strictEqual(code, 0)
    const left = (events.stored?.length ?? 0) + events.waiting.length
    assert.include(stderr, `${left} events wait on disk for the next start`)
  })

onEachFlavour("a program ends while its server hangs", (flavour) => {
  beforeAll(() => start(flavour), 180_000)
  afterAll(stop)

  it.scopedLive("while it connects", () => endsInTime({ waiting: ["connecting"], stopAfter: [] }))

  it.scopedLive("while it inserts", () => endsInTime({ waiting: ["inserting"], stopAfter: ["inserting"] }))

  it.scopedLive("while it narrows a batch", () =>
    endsInTime({ waiting: ["narrowing 1", "2", "3", "refused"], stopAfter: ["refused", "narrowing 1"] })
  )

  it.scopedLive("while it commits", () =>
    endsInTime({ stored: ["stored"], waiting: ["committing"], stopAfter: ["COMMIT"] })
  )

  it.scopedLive("while it rolls back", () =>
    endsInTime({ stored: ["stored"], waiting: ["refused"], stopAfter: ["ROLLBACK"] })
  )

  it.scopedLive("while it backs off", () =>
    endsInTime({ waiting: ["backing off"], stopAfter: ["backing off"], then: (proxy) => proxy.cut() })
  )
})
