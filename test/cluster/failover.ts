/**
 * The audit log over a cluster whose nodes die, leave, hang and are cut off, one after the other, each while it is the
 * one in use, and at least 100,000 events are recorded at a steady rate.
 *
 * @module
 */
import { assert } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, Schedule } from "effect"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { openAudit } from "../support/auditHere.js"
import { uploaderOf } from "../support/mysql.js"
import { temporaryDirectory } from "../support/queue.js"
import { FAULTS, type Node, until } from "./node.js"

const EVENTS = 100_000
const EVENTS_PER_SECOND = 1250

/** What was seen between two moments. */
interface Phase {
  readonly name: string
  /** milliseconds that each append took */
  readonly appends: Array<number>
  /** why uploads failed */
  readonly codes: Array<string>
  /** the longest time without a delivery, milliseconds */
  gap: number
}

const percentile = (values: ReadonlyArray<number>, share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * (values.length - 1))] ?? Number.NaN

const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Harms each node in use, and judges; `first` takes writes at the beginning. */
export const survives = (nodes: ReadonlyArray<Node>, first: Node) =>
  Effect.gen(function* () {
    const options = yield* Effect.promise(() => prepare(first, nodes))
    const uploader = yield* uploaderOf(options)
    const phases: Array<Phase> = []
    const enter = (name: string) =>
      Effect.sync(() => void phases.push({ name, appends: [], codes: [], gap: 0 }))
    yield* enter("before")
    const observed: Uploader["Type"] = {
      ...uploader,
      upload: (batch) =>
        Effect.tapError(uploader.upload(batch), ({ code }) =>
          Effect.sync(() => void phases.at(-1)!.codes.push(code))
        )
    }
    const audit = yield* openAudit({ directory: yield* temporaryDirectory }, { uploader: observed })

    // ------------------------------------------------------------------------------ events, at a steady rate
    const ids = new Set<string>()
    let areHarmed = false
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
        while (ids.size < EVENTS || !areHarmed) {
          const due = Math.floor((((yield* now) - start) / 1000) * EVENTS_PER_SECOND)
          const count = due - ids.size
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
        node.query(`SELECT 1 FROM information_schema.processlist WHERE user = '${options.username}'`)
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
    yield* enter("after")
    yield* Effect.sleep("5 seconds")
    areHarmed = true
    yield* Fiber.join(producer)
    yield* Effect.retry(audit.flush, { schedule: Schedule.spaced("100 millis"), times: 100 })
    yield* Fiber.interrupt(observer)

    // ------------------------------------------------------------------------------------------------ result
    console.log(`${ids.size} events, ${EVENTS_PER_SECOND} a second; milliseconds`)
    console.table(
      phases.map(({ appends, codes, gap, name }) => ({
        phase: name,
        events: appends.length,
        "append, median": Math.round(percentile(appends, 0.5)),
        "append, 99 %": Math.round(percentile(appends, 0.99)),
        "longest gap in delivery": Math.round(gap),
        codes: codes.join(" ")
      }))
    )
    yield* Effect.promise(() => eachOnceOn(nodes, options.database, ids))
    const { accepted, dead, missing, waiting } = yield* audit.status
    assert.deepStrictEqual(
      { accepted, dead, missing, waiting },
      { accepted: ids.size, dead: 0, missing: 0, waiting: 0 }
    )
    for (const { appends, gap, name } of phases) {
      // an append that waited for a server would wait for a time-out of seconds
      assert.isBelow(percentile(appends, 0.5), 1000, name)
      assert.isBelow(gap, 30_000, name)
    }
  })

let databases = 0

/**
 * A database with the tables, made on a node that takes writes, and how an account with the right to INSERT connects.
 * Nothing is dropped: the servers are not kept.
 */
export const prepare = async (node: Node, nodes: ReadonlyArray<Node>) => {
  const database = `audit_${++databases}`
  const username = `writer_${databases}`
  const password = "secret"
  await node.query(
    `CREATE DATABASE ${database} CHARACTER SET utf8mb4`,
    `CREATE USER ${username}@'%' IDENTIFIED BY '${password}'`,
    `GRANT INSERT ON ${database}.* TO ${username}@'%'`
  )
  const { host, port } = node.server
  await Effect.runPromise(
    MysqlUploader.migrate({ host, port, username: "root", database, serverPublicKey: "trust" })
  )
  return {
    database,
    username,
    password: Redacted.make(password),
    // MySQL's passwords go over a network that is no loopback
    serverPublicKey: "trust",
    hosts: nodes.map(({ server }) => `${server.host}:${server.port}`),
    connectTimeout: "2 seconds",
    statementTimeout: "3 seconds"
  } satisfies MysqlUploader.Options
}

/** Each of the events is once on each of the nodes, which may be behind for a while, and nothing else is. */
export const eachOnceOn = async (
  nodes: ReadonlyArray<Node>,
  database: string,
  ids: ReadonlySet<string>
): Promise<void> => {
  const expected = [...ids].map((id) => id.replaceAll("-", "").toUpperCase()).sort()
  for (const { query, name } of nodes) {
    const table = `${database}.${UseLog.table}`
    await until(`${name} has all rows`, async () => {
      const [count] = await query<{ n: number }>(`SELECT COUNT(*) AS n FROM ${table}`)
      return count!.n >= expected.length
    })
    const stored = await query<{ id: string }>(`SELECT HEX(event_id) AS id FROM ${table}`)
    assert.isTrue(
      JSON.stringify(stored.map(({ id }) => id).sort()) === JSON.stringify(expected),
      `${name} has ${stored.length} rows for ${expected.length} events`
    )
  }
}
