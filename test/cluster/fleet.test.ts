/** A fleet: many programs deliver to one primary, which is killed, and move to the next one. */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Either, Fiber, Random, Schedule } from "effect"
import { createConnection, type RowDataPacket } from "mysql2/promise"
import { backoff } from "../../src/layers/SchedulerLive.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { uses } from "../support/events.js"
import { uploaderOf } from "../support/mysql.js"
import { type Group, startGroup } from "./group.js"
import { eachOnceOn, prepare } from "./load.js"
import type { Node } from "./node.js"

const PROGRAMS = 1000

/** The average time between two events of a program, milliseconds. */
const INTERVAL_MILLIS = 5000

let group: Group
beforeAll(async () => {
  group = await startGroup()
})
afterAll(() => group.stop())

/** How many connections a member has ever had, asked over a connection that stays open. */
const connectionsOf = ({ server }: Node) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => createConnection({ user: "root", socketPath: server.socket })),
      (connection) => Effect.sync(() => connection.destroy())
    ),
    (connection) =>
      Effect.promise(async () => {
        const [rows] = await connection.query<Array<RowDataPacket>>("SHOW GLOBAL STATUS LIKE 'Connections'")
        return Number(rows[0]!.Value)
      })
  )

it.scopedLive(
  "a fleet reaches the new primary with fewer than four new connections a program",
  () =>
    Effect.gen(function* () {
      const old = yield* Effect.promise(group.primary)
      const options = yield* Effect.promise(() => prepare(old, group.members))
      for (const { query } of group.members)
        yield* Effect.promise(() => query(`SET GLOBAL max_connections = ${3 * PROGRAMS}`))
      // before the fleet starts, since its logins keep this process busy
      const survivors = group.members.filter((member) => member !== old)
      const counters = yield* Effect.forEach(survivors, connectionsOf)
      const count = Effect.all(counters)

      const stored = new Set<string>()
      const lastStored = new Map<number, number>()
      const codes: Record<string, number> = {}
      let isFinished = false
      // ten programs connect at a time
      const starts = yield* Effect.makeSemaphore(10)
      const allStarted = yield* Deferred.make<void>()
      // Without a queue each, which would need more processors; the delays are those of the worker.
      const program = (index: number) =>
        Effect.gen(function* () {
          yield* starts.take(1)
          // the default time-outs, since all programs share one processor with the servers
          const { upload } = yield* uploaderOf({
            ...options,
            connectTimeout: undefined,
            statementTimeout: undefined
          })
          const delays = yield* Schedule.driver(backoff)
          const pause = Effect.orDie(delays.next(undefined))
          while (!isFinished) {
            const events = uses(1)
            for (;;) {
              const result = yield* Effect.either(upload({ definition: UseLog, events }))
              if (Either.isRight(result)) break
              const { code } = result.left
              codes[code] = (codes[code] ?? 0) + 1
              yield* pause
            }
            yield* delays.reset
            const isFirst = !lastStored.has(index)
            stored.add(events[0]!.eventId)
            lastStored.set(index, yield* Clock.currentTimeMillis)
            if (isFirst) yield* starts.release(1)
            if (isFirst) yield* Deferred.await(allStarted)
            yield* Effect.sleep(INTERVAL_MILLIS * (yield* Random.nextRange(0.5, 1.5)))
          }
        })
      const programs = yield* Effect.fork(
        Effect.forEach(
          Array.from({ length: PROGRAMS }, (_, index) => index),
          (index) => Effect.scoped(program(index)),
          { concurrency: "unbounded", discard: true }
        )
      )
      yield* Effect.repeat(Effect.sleep("100 millis"), { until: () => lastStored.size === PROGRAMS })
      yield* Deferred.succeed(allStarted, undefined)
      yield* Effect.sleep("10 seconds")

      const atFirst = yield* count
      yield* Effect.promise(() => old.server.kill9())
      const killedAt = yield* Clock.currentTimeMillis

      const seconds: Array<Record<string, number>> = []
      let before = atFirst
      const back = new Set<number>()
      yield* Effect.gen(function* () {
        const now = yield* count
        for (const [index, at] of lastStored) if (at > killedAt) back.add(index)
        seconds.push({
          second: seconds.length + 1,
          ...Object.fromEntries(survivors.map(({ name }, index) => [name, now[index]! - before[index]!])),
          "programs that deliver again": back.size
        })
        before = now
      }).pipe(
        Effect.repeat({
          schedule: Schedule.fixed("1 second"),
          until: () => Effect.succeed(back.size === PROGRAMS)
        })
      )
      const primary = yield* Effect.promise(group.primary)
      console.log(
        `${PROGRAMS} programs; ${old.name} was killed, ${primary.name} is the primary; new connections`
      )
      console.table(seconds.filter((second) => survivors.some(({ name }) => second[name]! > 0)))
      console.log(`all deliver again after ${seconds.length} s; failures, by code:`, codes)
      const made = before.map((now, index) => now - atFirst[index]!)
      const most = survivors.map(({ name }) => Math.max(...seconds.map((second) => second[name]!)))
      for (const [index, { name }] of survivors.entries()) {
        console.log(
          `${name}: ${(made[index]! / PROGRAMS).toFixed(2)} connections a program, at most ${most[index]!} a second`
        )
      }
      assert.strictEqual(back.size, PROGRAMS)

      isFinished = true
      yield* Fiber.join(programs)
      yield* Effect.promise(() => eachOnceOn(survivors, options.database, stored))
      // If a fleet connected again and again, then the group could not elect a primary.
      for (const total of made) assert.isBelow(total, 4 * PROGRAMS)
    }),
  900_000
)
