/** The lock: one owner for each directory, among processes, layers, namespaces and instances. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Option } from "effect"
import { spawnSync } from "node:child_process"
import { tryLock } from "fs-native-extensions"
import * as fs from "node:fs"
import { QueueLocked } from "../../src/schema/Errors.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import { eventually } from "../support/clock.js"
import { temporaryDirectory } from "../support/queue.js"

const TRIES = process.env.AUDIT_LONG === "1" ? 100 : 25

/** How a layer fails to open. */
const lockedOut = (settings: Parameters<typeof openAudit>[0]) =>
  Effect.map(Effect.flip(Effect.scoped(openAudit(settings))), (error) => {
    assert.instanceOf(error, QueueLocked)
    return error
  })

describe("the lock", () => {
  it.scopedLive("keeps a second process out at once, and a second layer of the same process", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const owner = yield* auditProcess()
      yield* owner.open({ directory })

      const [duration, refused] = yield* Effect.timed(lockedOut({ directory }))
      assert.include(refused, { directory, pid: owner.pid, sameProcess: false })
      assert.include(refused.message, `in use by process ${owner.pid}`)
      // without lockWait a start does not wait; the shortest wait, for the command, is 10 seconds
      assert.isBelow(Duration.toMillis(duration), 9000)

      const again = yield* owner.open({ directory })
      assert.include(again, { _tag: "QueueLocked", pid: owner.pid, sameProcess: true })
      assert.include(again?.message, "already open in this process")
    })
  )

  it.scopedLive("is free once its owner is killed", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const owner = yield* auditProcess()
      yield* owner.open({ directory })
      yield* owner.use("a", "b")
      yield* owner.kill
      const { status } = yield* openAudit({ directory })
      assert.strictEqual((yield* status).waiting, 2)
    })
  )

  it.scopedLive(
    `goes to one of two processes that start at the same instant: ${TRIES} tries`,
    () =>
      Effect.gen(function* () {
        const parent = yield* temporaryDirectory
        const racers = yield* Effect.all([auditProcess(), auditProcess()], { concurrency: 2 })
        const wins = [0, 0]
        for (let attempt = 0; attempt < TRIES; attempt++) {
          const directory = `${parent}/${attempt}`
          const at = Date.now() + 5
          const race = racers.map((racer) => racer.open({ directory }, { at }))
          const [first, second] = yield* Effect.all(race, { concurrency: 2 })
          const loser = first ?? second
          assert.include(loser, { _tag: "QueueLocked", directory })
          const winner = loser === first ? 1 : 0
          assert.isUndefined([first, second][winner], "one of them has it")
          wins[winner]!++
          yield* racers[winner].close
        }
        assert.isAbove(Math.min(...wins), 0, `the same process won always (${wins.join(" : ")}): no race`)
      }),
    300_000
  )

  const hasNamespaces = process.platform === "linux" && spawnSync("unshare", ["-n", "true"]).status === 0
  it.scopedLive.skipIf(!hasNamespaces)(
    "holds across network namespaces (skipped where `unshare -n` is not allowed)",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const [owner, other] = yield* Effect.all([auditProcess(), auditProcess({ under: ["unshare", "-n"] })])
        yield* owner.open({ directory })
        const refused = yield* other.open({ directory })
        assert.include(refused, { _tag: "QueueLocked", pid: owner.pid })
        yield* owner.close
        assert.isUndefined(yield* other.open({ directory }))
        yield* lockedOut({ directory })
      })
  )

  it.scopedLive.skipIf(process.platform !== "linux")("leaves no descriptor open if it is refused", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* openAudit({ directory })
      const openFiles = () => fs.readdirSync("/proc/self/fd").length
      const before = openFiles()
      yield* lockedOut({ directory, lockWait: "1 second" })
      for (let attempt = 0; attempt < 20; attempt++) yield* lockedOut({ directory })
      assert.isAtMost(openFiles(), before)
    })
  )

  it.scopedLive(
    "is refused while another process looks at its owner without end, and free after the look",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const owner = yield* openAudit({ directory })
        yield* owner.close
        // as NodeDisk.lockHolder does, but for longer
        const fd = fs.openSync(`${directory}/lock`, "r")
        assert.isTrue(tryLock(fd, { shared: true }))
        const [duration] = yield* Effect.timed(lockedOut({ directory }))
        assert.isBelow(Duration.toMillis(duration), 5000)
        const next = yield* Effect.fork(openAudit({ directory }))
        yield* Effect.sleep("100 millis")
        fs.closeSync(fd)
        yield* Fiber.join(next)
      })
  )

  it.scopedLive("is taken with lockWait once the owner leaves", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const owner = yield* openAudit({ directory })
      yield* owner.use("of the old version")
      yield* lockedOut({ directory, lockWait: "300 millis" })
      const next = yield* Effect.fork(openAudit({ directory, lockWait: "1 minute" }))
      yield* Effect.sleep("400 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(next)))
      yield* owner.close
      const { status } = yield* Fiber.join(next)
      assert.strictEqual((yield* status).waiting, 1)
    })
  )
})

describe("instances", () => {
  it.scopedLive("take the first free sub-directory; the error for one too many names the remedy", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const settings = { directory, instances: 2 }
      const first = yield* openAudit(settings)
      const second = yield* openAudit(settings)
      yield* first.use("first")
      yield* second.use("second")
      const { message } = yield* lockedOut({ ...settings, lockWait: "100 millis" })
      assert.include(message, "2 instances")
      assert.match(message, /raise instances/i)

      yield* first.close
      yield* openAudit(settings)
      const waiting = (yield* second.status).waiting
      assert.strictEqual(waiting, 1)
      assert.deepStrictEqual(fs.readdirSync(directory).sort(), ["instance-0", "instance-1"])
    })
  )

  it.scopedLive("take over and deliver the events of a killed process", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const settings = { directory, instances: 3, pollInterval: "200 millis" } as const
      const { prompts, uploader } = slowDatabase()
      const survivor = yield* openAudit(settings, { uploader })
      const victim = yield* auditProcess()
      yield* victim.open(settings)
      const left = Array.from({ length: 50 }, (_, index) => `left ${index}`)
      yield* victim.use(...left)
      yield* survivor.use("own")
      yield* victim.kill

      yield* eventually(() => assert.sameMembers(prompts(), [...left, "own"]))
      yield* eventually(() =>
        assert.isFalse(fs.readdirSync(`${directory}/instance-1`).some((name) => /^\d+\.ndjson$/.test(name)))
      )
      // the sub-directory is free again
      yield* openAudit(settings)
    })
  )

  it.scopedLive("start while a slow take-over runs", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const settings = { directory, instances: 2, pollInterval: "100 millis", batchRecords: 1 } as const
      const keeper = yield* openAudit(settings)
      const orphan = yield* openAudit(settings)
      yield* Effect.forEach(Array.from({ length: 100 }), (_, index) => orphan.use(String(index)))
      yield* orphan.close
      yield* keeper.close

      // 100 batches of 300 milliseconds each: 30 seconds
      const { events, uploader } = slowDatabase("300 millis")
      yield* openAudit(settings, { uploader })
      yield* eventually(() => assert.isAbove(events.size, 0))
      for (let attempt = 0; attempt < 2; attempt++) {
        const started = yield* openAudit(settings)
        yield* started.close
      }
    })
  )
})
