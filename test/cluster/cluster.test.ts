/**
 * The audit log over a Galera cluster whose nodes die, leave, hang and are cut off, one after the other, each while it
 * is the one in use, and 100,000 events are recorded at a steady rate.
 */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Schedule } from "effect"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { openAudit } from "../support/auditHere.js"
import { account, connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { temporaryDirectory } from "../support/queue.js"
import type { Node } from "./galera.js"
import { startCluster, stopCluster } from "./galera.js"

const EVENTS = 100_000
const EVENTS_PER_SECOND = 1250

let nodes: ReadonlyArray<Node> = []
beforeAll(async () => {
  nodes = await startCluster()
})
afterAll(() => stopCluster(nodes))

/** A fault of a node, and how it is mended. */
interface Fault {
  readonly name: string
  readonly inflict: (node: Node) => Promise<void>
  readonly mend: (node: Node) => Promise<void>
}

const FAULTS: ReadonlyArray<Fault> = [
  {
    name: "killed (SIGKILL)",
    inflict: ({ server }) => server.kill9(),
    mend: ({ server }) => server.restart()
  },
  {
    name: "shut down and started again",
    inflict: ({ server }) => server.restart(),
    mend: async () => undefined
  },
  {
    name: "hangs (SIGSTOP)",
    inflict: async ({ server }) => server.sigstop(),
    mend: async ({ server }) => server.sigcont()
  },
  { name: "cut off, non-primary", inflict: ({ isolate }) => isolate(), mend: ({ rejoin }) => rejoin() }
]

/** What was seen between two moments. */
interface Phase {
  readonly name: string
  /** milliseconds that each append took */
  readonly appends: Array<number>
  /** the longest time without a delivery, milliseconds */
  gap: number
}

const percentile = (values: ReadonlyArray<number>, share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * (values.length - 1))] ?? Number.NaN

const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

it.scopedLive("all events arrive, each once, and appends are as fast as ever", () =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(nodes[0]!.server.rootUrl)
    yield* MysqlUploader.migrate(connectionOptions(database))
    const options = yield* account(database, "INSERT")
    const uploader = yield* uploaderOf({
      ...options,
      hosts: nodes.map(({ server }) => `${server.host}:${server.port}`),
      connectTimeout: "2 seconds",
      statementTimeout: "3 seconds"
    })
    const audit = yield* openAudit({ directory: yield* temporaryDirectory }, { uploader })

    const phases: Array<Phase> = []
    const enter = (name: string) => Effect.sync(() => void phases.push({ name, appends: [], gap: 0 }))
    yield* enter("before")

    // ------------------------------------------------------------------------------ events, at a steady rate
    const ids = new Set<string>()
    const record = Effect.gen(function* () {
      const phase = phases.at(-1)!
      const start = yield* now
      const { eventId } = yield* audit.use("a red fox in the snow, in the style of a woodcut")
      phase.appends.push((yield* now) - start)
      ids.add(eventId)
    })
    const producer = yield* Effect.fork(
      Effect.gen(function* () {
        const start = yield* now
        while (ids.size < EVENTS) {
          const due = Math.floor((((yield* now) - start) / 1000) * EVENTS_PER_SECOND)
          const count = Math.min(due, EVENTS) - ids.size
          yield* Effect.replicateEffect(record, count, { concurrency: "unbounded", discard: true })
          yield* Effect.sleep("20 millis")
        }
      })
    )

    // --------------------------------------------------------------------------------- how delivery is going
    let delivered = 0
    let last = yield* now
    const observer = yield* Effect.gen(function* () {
      const status = yield* audit.status
      const at = yield* now
      const phase = phases.at(-1)!
      phase.gap = Math.max(phase.gap, at - last)
      if (status.delivered > delivered) {
        delivered = status.delivered
        last = at
      }
    }).pipe(Effect.repeat(Schedule.spaced("25 millis")), Effect.fork)

    // ------------------------------------------------------------------------------------------------ faults
    const sessionsOn = (node: Node) =>
      Effect.promise(() =>
        node.query(`SELECT 1 FROM information_schema.processlist WHERE user = '${options.username!}'`)
      )
    const inUse = Effect.gen(function* () {
      const [node, ...others] = yield* Effect.filter(nodes, (node) =>
        Effect.map(sessionsOn(node), (sessions) => sessions.length > 0)
      )
      return node !== undefined && others.length === 0 ? node : yield* Effect.fail("none, or several")
    }).pipe(Effect.retry({ schedule: Schedule.spaced("200 millis"), times: 100 }))

    yield* Effect.sleep("8 seconds")
    for (const { inflict, mend, name } of FAULTS) {
      const node = yield* inUse
      yield* enter(`${node.name} ${name}`)
      yield* Effect.promise(() => inflict(node))
      yield* Effect.sleep("8 seconds")
      yield* Effect.promise(() => mend(node))
      for (const each of nodes) yield* Effect.promise(() => each.synced(nodes.length))
      yield* Effect.sleep("2 seconds")
    }
    assert.isBelow(ids.size, EVENTS, "the faults are to fall into the time of recording")
    yield* enter("after")
    yield* Fiber.join(producer)
    yield* Effect.retry(audit.flush, { schedule: Schedule.spaced("100 millis"), times: 100 })
    yield* Fiber.interrupt(observer)

    // ------------------------------------------------------------------------------------------------ result
    console.log(`${EVENTS} events, ${EVENTS_PER_SECOND} a second; milliseconds`)
    console.table(
      phases.map(({ appends, gap, name }) => ({
        phase: name,
        events: appends.length,
        "append, median": Math.round(percentile(appends, 0.5)),
        "append, 99 %": Math.round(percentile(appends, 0.99)),
        "longest gap in delivery": Math.round(gap)
      }))
    )
    const expected = [...ids].map((id) => id.replaceAll("-", "").toUpperCase()).sort()
    for (const { query, name } of nodes) {
      const stored = yield* Effect.promise(() =>
        query<{ id: string }>(`SELECT HEX(event_id) AS id FROM ${database.config.database}.${UseLog.table}`)
      )
      assert.isTrue(
        JSON.stringify(stored.map(({ id }) => id).sort()) === JSON.stringify(expected),
        `${name} has ${stored.length} rows for ${expected.length} events`
      )
    }
    const { accepted, dead, missing, waiting } = yield* audit.status
    assert.deepStrictEqual(
      { accepted, dead, missing, waiting },
      { accepted: EVENTS, dead: 0, missing: 0, waiting: 0 }
    )
    const before = percentile(phases[0]!.appends, 0.5)
    for (const { appends, gap, name } of phases) {
      assert.isBelow(percentile(appends, 0.5), 2 * before, name)
      assert.isBelow(gap, 20_000, name)
    }
  })
)
