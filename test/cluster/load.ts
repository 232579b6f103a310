/**
 * A load: events at a steady rate into an audit log of this process, with figures for each phase of their delivery.
 *
 * @module
 */
import { assert } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, Schedule } from "effect"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { openSource } from "../../src/cli/mysqlSource.js"
import type { UploadError } from "../../src/schema/Errors.js"
import { openAudit } from "../support/auditHere.js"
import { uploaderOf } from "../support/mysql.js"
import { proving } from "../support/proven.js"
import { temporaryDirectory } from "../support/queue.js"
import type { KeyPair } from "../support/seals.js"
import { type Node, until } from "./node.js"

/** The figures between two moments. */
interface Phase {
  readonly name: string
  /** The duration of each append, milliseconds. */
  readonly appends: Array<number>
  /** The codes of failed uploads. */
  readonly codes: Array<string>
  /** The longest time without a delivery, milliseconds. */
  gap: number
  /** How many events reached the disk during that time. */
  appendedInGap: number
}

/** A longer gap counts as an outage, milliseconds. */
const OUTAGE_MILLIS = 2000

const percentile = (values: ReadonlyArray<number>, share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * (values.length - 1))] ?? Number.NaN

const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Records events at a steady rate until `finish`. The scope closes the audit log; a key seals the rows. */
export const startLoad = (options: MysqlUploader.Options, perSecond: number, key?: KeyPair) =>
  Effect.gen(function* () {
    const phases: Array<Phase> = []
    const enter = (name: string) =>
      Effect.sync(() => void phases.push({ name, appends: [], codes: [], gap: 0, appendedInGap: 0 }))
    yield* enter("before")
    const uploader = yield* uploaderOf(options)
    const observing = <A>(upload: Effect.Effect<A, UploadError>) =>
      Effect.tapError(upload, ({ code }) => Effect.sync(() => void phases.at(-1)!.codes.push(code)))
    const { sealing } = uploader
    const observed: Uploader["Type"] = {
      ...uploader,
      upload: (batch) => observing(uploader.upload(batch)),
      sealing: sealing && {
        ...sealing,
        upload: (...parts) => observing(sealing.upload(...parts))
      }
    }
    const audit = yield* openAudit(
      {
        directory: yield* temporaryDirectory,
        ...(key === undefined ? {} : { proof: { key: Redacted.make(key.privatePem) } })
      },
      { uploader: observed }
    )

    const ids = new Set<string>()
    let least = Number.POSITIVE_INFINITY
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
        while (ids.size < least) {
          const due = Math.floor((((yield* now) - start) / 1000) * perSecond)
          yield* Effect.replicateEffect(record, due - ids.size, { concurrency: "unbounded", discard: true })
          yield* Effect.sleep("20 millis")
        }
      })
    )

    let delivered = 0
    let last = yield* now
    let appendedAtLast = 0
    const observer = yield* Effect.gen(function* () {
      const status = yield* audit.status
      const at = yield* now
      const phase = phases.at(-1)!
      if (at - last > phase.gap) {
        phase.gap = at - last
        phase.appendedInGap = ids.size - appendedAtLast
      }
      if (status.delivered > delivered) {
        delivered = status.delivered
        last = at
        appendedAtLast = ids.size
      }
    }).pipe(Effect.repeat(Schedule.spaced("25 millis")), Effect.fork)

    /** Records the remaining events, delivers all, prints the figures, and judges. */
    const finish = (events: number, nodes: ReadonlyArray<Node>) =>
      Effect.gen(function* () {
        least = events
        yield* Fiber.join(producer)
        yield* Effect.retry(audit.flush, { schedule: Schedule.spaced("100 millis"), times: 100 })
        yield* Fiber.interrupt(observer)
        console.log(`${ids.size} events, ${perSecond} a second; milliseconds`)
        console.table(
          phases.map(({ appendedInGap, appends, codes, gap, name }) => ({
            phase: name,
            events: appends.length,
            "append, median": Math.round(percentile(appends, 0.5)),
            "append, 99 %": Math.round(percentile(appends, 0.99)),
            "longest gap in delivery": Math.round(gap),
            "appended in it": appendedInGap,
            codes: codes.join(" ")
          }))
        )
        yield* Effect.promise(() => eachOnceOn(nodes, options.database!, ids))
        if (key !== undefined) yield* provenOn(nodes, options.database!, key, ids.size)
        const { accepted, dead, failure, missing, state, waiting } = yield* audit.status
        assert.deepStrictEqual(
          { accepted, dead, failure, missing, state, waiting },
          { accepted: ids.size, dead: 0, failure: undefined, missing: 0, state: "idle", waiting: 0 }
        )
        // an append that waited for a server would delay the next batch
        for (const { appendedInGap, gap, name } of phases)
          if (gap > OUTAGE_MILLIS) assert.isAbove(appendedInGap, 0, name)
      })

    return { audit, ids, enter, phases, finish }
  })

let databases = 0

/**
 * Makes a database with the tables on a node that takes writes, and an account with the right to INSERT.
 * With a key its rows are to be proved.
 * Drops nothing, since the servers are not kept.
 */
export const prepare = async (node: Node, nodes: ReadonlyArray<Node>, key?: KeyPair) => {
  const database = `audit_${++databases}`
  const username = `writer_${databases}`
  const password = "secret"
  await node.query(
    `CREATE DATABASE ${database} CHARACTER SET utf8mb4`,
    `CREATE USER ${username}@'%' IDENTIFIED BY '${password}'`,
    `GRANT INSERT ON ${database}.* TO ${username}@'%'`
  )
  const { host, port } = node.server
  const proof = key !== undefined
  await Effect.runPromise(
    MysqlUploader.migrate({ host, port, username: "root", database }, undefined, { proof })
  )
  if (proof) await node.query(`GRANT SELECT ON ${database}.effect_audit_seal TO ${username}@'%'`)
  return {
    database,
    username,
    password: Redacted.make(password),
    // MySQL's passwords cross a network that is not loopback
    serverPublicKey: "trust",
    hosts: nodes.map(({ server }) => `${server.host}:${server.port}`),
    connectTimeout: "2 seconds",
    statementTimeout: "3 seconds"
  } satisfies MysqlUploader.Options
}

/** Asserts that each node has each event once and nothing else; a node may lag behind for a while. */
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

/** Asserts that each node shows one chain without findings. */
const provenOn = (nodes: ReadonlyArray<Node>, database: string, { publicPem }: KeyPair, events: number) =>
  Effect.forEach(nodes, ({ name, server: { host, port } }) =>
    Effect.gen(function* () {
      const prove = proving(openSource({ host, port, username: "root", database }), publicPem)
      const { chains, findings, rows, seals } = yield* prove({ isExclusive: true })
      console.log(`${name}: ${rows} rows and ${seals} seals proved`)
      assert.deepStrictEqual([findings, rows, chains.length], [[], events, 1])
    })
  )
