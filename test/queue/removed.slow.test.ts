/** A directory removed under its program, by `rm -rf` or a cleaner of /tmp: no loss goes uncounted. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Logger, LogLevel, Schedule, Stream } from "effect"
import * as fc from "fast-check"
import { execFile, execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as inspection from "../../src/internal/queue/inspect.js"
import * as requests from "../../src/internal/queue/requests.js"
import { make as makeShutdown } from "../../src/internal/shutdown.js"
import type { Disk } from "../../src/services/Disk.js"
import { QueueWriteError } from "../../src/schema/Errors.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import * as q from "../support/queue.js"

const remove = (directory: string) => fs.rmSync(directory, { recursive: true })
const queueIdIn = (directory: string) =>
  (JSON.parse(fs.readFileSync(`${directory}/queue.json`, "utf8")) as { queueId: string }).queueId

/** Checks that `inspect` counts exactly the lines on disk as waiting. */
const waitingIsThere = (disk: Disk["Type"], directory: string) =>
  Effect.gen(function* () {
    const owner = yield* inspection.ownerOf(disk, directory)
    const found = yield* inspection.snapshot(disk, directory, owner)
    const { accepted, missing, waiting, ...rest } = yield* inspection.inspect(disk, directory)
    assert.strictEqual(waiting, yield* Stream.runCount(inspection.waitingLines(disk, found)))
    const { dead, delivered, discarded, retried, torn } = rest
    assert.strictEqual(accepted, delivered + waiting + dead + retried + discarded + torn + missing)
  })

describe("a directory removed under the program", () => {
  it.scopedLive("is made again with its identity and numbers, and lost lines count as missing", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const { close, queue } = yield* q.openClosable(disk, { directory })
      const queueId = queueIdIn(directory)
      yield* q.appendAll(queue, q.idsOf("before", 3))
      const database = new Set<string>()
      yield* q.deliver(queue, database, { maxRecords: 1 })
      remove(directory)
      assert.strictEqual(yield* q.append(queue, "after"), 3)
      yield* q.deliverAll(queue, database)
      assert.isTrue(database.has("after"))
      const { delivered, missing } = yield* q.books(queue)
      // an open reader may still deliver lines of the removed file
      assert.strictEqual(delivered + missing, 4)
      assert.deepInclude(yield* q.books(queue), { accepted: 4, waiting: 0, balanced: true })
      assert.strictEqual(delivered, database.size)
      yield* q.append(queue, "waits")
      assert.strictEqual(queueIdIn(directory), queueId)
      yield* close

      const next = yield* q.openQueue(disk, { directory })
      assert.deepInclude(yield* q.books(next), {
        accepted: 5,
        delivered,
        missing,
        waiting: 1,
        balanced: true
      })
      assert.strictEqual(next.queueId, queueId)
      assert.strictEqual(yield* q.append(next, "of the next"), 5)
    })
  )

  it.scopedLive("brings the lost lines into the status at once, while the database is away", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const { close, queue } = yield* q.openClosable(disk, { directory })
      yield* q.appendAll(queue, q.idsOf("lost", 3))
      remove(directory)
      yield* q.append(queue, "after")
      const books = { accepted: 4, delivered: 0, waiting: 1, missing: 3, balanced: true }
      assert.deepInclude(yield* q.books(queue), books)
      yield* waitingIsThere(disk, directory)
      yield* close
      const next = yield* q.openQueue(disk, { directory })
      assert.deepInclude(yield* q.books(next), books)
      yield* q.deliverAll(next, new Set())
      assert.deepInclude(yield* q.books(next), { ...books, delivered: 1, waiting: 0 })
    })
  )

  it.scopedLive("is made again by a commit or a compaction, without an append", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const queue = yield* q.openQueue(yield* q.nodeDisk, { directory })
      yield* q.appendAll(queue, q.idsOf("lost", 5))
      remove(directory)
      const database = new Set<string>()
      yield* Effect.retry(q.deliverAll(queue, database), { times: 2 })
      yield* Effect.repeat(queue.compact, { until: (done) => done, times: 3 })
      const { delivered, missing } = yield* q.books(queue)
      assert.strictEqual(delivered, database.size)
      assert.strictEqual(delivered + missing, 5)
      assert.deepInclude(yield* q.books(queue), { waiting: 0, balanced: true })
    })
  )

  it.scopedLive("costs the letters that waited for a decision, which count as missing, but no decision", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const { close, queue } = yield* q.openClosable(disk, { directory })
      yield* q.appendAll(queue, q.idsOf("a", 4))
      const database = new Set<string>()
      yield* q.deliverAll(queue, database, { isRejected: (id) => id !== "a3" })
      yield* queue.retry(({ sequence }) => sequence === 0, "test")
      yield* q.deliverAll(queue, database)
      assert.deepInclude(yield* q.books(queue), { dead: 2, retried: 1, delivered: 2, missing: 0 })
      remove(directory)
      yield* q.append(queue, "after")
      yield* q.deliverAll(queue, database)
      const books = {
        dead: 0,
        retried: 1,
        missing: 2,
        delivered: 3,
        waiting: 0,
        accepted: 6,
        balanced: true
      }
      assert.deepInclude(yield* q.books(queue), books)
      yield* close
      assert.deepInclude(yield* q.books(yield* q.openQueue(disk, { directory })), books)
    })
  )

  it.scopedLive.each(["nothing", "an append", "a look at the state"] as const)(
    "costs the letters of an idle program, which the next start counts as missing, after %s",
    (before) =>
      Effect.gen(function* () {
        const directory = `${yield* q.temporaryDirectory}/audit`
        const disk = yield* q.nodeDisk
        const { close, queue } = yield* q.openClosable(disk, { directory })
        yield* q.appendAll(queue, q.idsOf("a", 4))
        yield* q.deliverAll(queue, new Set(), { isRejected: (id) => id !== "a3" })
        yield* queue.retry(({ sequence }) => sequence === 0, "test")
        yield* q.deliverAll(queue, new Set())
        yield* queue.compact
        remove(directory)
        if (before === "an append") yield* q.append(queue, "after")
        if (before === "a look at the state") yield* q.books(queue)
        yield* close
        const next = yield* q.openQueue(disk, { directory })
        const appended = before === "an append" ? 1 : 0
        const books = {
          dead: 0,
          retried: 1,
          missing: 2,
          delivered: 2,
          accepted: 5 + appended,
          balanced: true
        }
        assert.deepInclude(yield* q.books(next), books)
      })
  )

  it.scopedLive("in part gets its identity, cursor and decisions back", () =>
    Effect.gen(function* () {
      const disk = yield* q.nodeDisk
      for (const name of ["queue.json", "cursor", "dead-letter.ndjson"]) {
        for (const then of ["append", "commit", "close"] as const) {
          const directory = `${yield* q.temporaryDirectory}/audit`
          const { close, queue } = yield* q.openClosable(disk, { directory })
          yield* q.appendAll(queue, q.idsOf("a", 4))
          yield* q.deliverAll(queue, new Set(), { isRejected: (id) => id !== "a3" })
          yield* queue.retry(({ sequence }) => sequence === 0, "test")
          yield* queue.compact
          const queueId = queueIdIn(directory)
          // an append checks the space and the directory once a second
          if (then === "append") yield* Effect.sleep("1100 millis")
          fs.rmSync(`${directory}/${name}`)
          if (then === "append") yield* q.append(queue, "after")
          if (then === "commit") yield* q.deliverAll(queue, new Set())
          if (then !== "close") assert.isTrue(fs.existsSync(`${directory}/${name}`), `${name}, ${then}`)
          yield* close
          const next = yield* q.openQueue(disk, { directory })
          assert.strictEqual(next.queueId, queueId)
          const { accepted, balanced, dead, missing, retried } = yield* q.books(next)
          const isLost = name.startsWith("dead")
          assert.deepStrictEqual(
            { accepted, balanced, dead, missing, retried },
            {
              accepted: then === "append" ? 6 : 5,
              balanced: true,
              dead: isLost ? 0 : 2,
              missing: isLost ? 2 : 0,
              retried: 1
            },
            `${name}, ${then}`
          )
        }
      }
    })
  )

  it.scopedLive("and restored from a copy gets no append to the restored files", () =>
    Effect.gen(function* () {
      const disk = yield* q.nodeDisk
      for (const [index, reads] of [false, true].entries()) {
        const directory = `${yield* q.temporaryDirectory}/audit`
        const { close, queue } = yield* q.openClosable(disk, { directory })
        const database = new Set<string>()
        yield* q.appendAll(queue, q.idsOf("before", 3))
        if (reads) yield* q.deliver(queue, database, { maxRecords: 1 })
        execFileSync("mv", [directory, `${directory}.aside`])
        execFileSync("cp", ["-a", `${directory}.aside`, directory])
        yield* Effect.sleep("1100 millis")
        yield* q.appendAll(queue, q.idsOf("after", 3))
        if (reads) yield* q.deliver(queue, database, { maxRecords: 1 })
        yield* close
        const next = yield* q.openQueue(disk, { directory })
        yield* q.deliverAll(next, database)
        assert.sameMembers([...database], [...q.idsOf("before", 3), ...q.idsOf("after", 3)], `${index}`)
        assert.deepInclude(yield* q.books(next), { accepted: 6, delivered: 6, missing: 0, balanced: true })
      }
    })
  )

  it.scopedLive(
    "by a real rm -rf, at any moment, loses no event uncounted",
    () =>
      Effect.gen(function* () {
        const disk = yield* q.nodeDisk
        for (let round = 0; round < (process.env.AUDIT_LONG === "1" ? 100 : 10); round++) {
          const directory = `${yield* q.temporaryDirectory}/audit`
          const { close, queue } = yield* q.openClosable(disk, { directory, segmentBytes: 300 })
          const queueId = queueIdIn(directory)
          const database = new Set<string>()
          yield* q.appendAll(queue, q.idsOf("early", 1 + Math.floor(Math.random() * 400)))
          // more names, so that the removal takes a while
          for (let index = 0; index < 300; index++) fs.writeFileSync(`${directory}/x${index}`, "")
          let acknowledged = (yield* q.books(queue)).accepted
          const removing = execFile("rm", ["-rf", directory])
          const ended = new Promise<void>((resolve) => removing.on("exit", () => resolve()))
          for (let index = 0; index < 60; index++) {
            if (index % 20 === 7) yield* Effect.sleep(Math.random() * 10)
            const appended = yield* Effect.either(q.append(queue, `during ${index}`, 60))
            if (appended._tag === "Right") {
              assert.strictEqual(appended.right, acknowledged, "numbers go on")
              acknowledged++
            } else assert.strictEqual((appended.left as { outcome?: string }).outcome, "absent")
            yield* Effect.ignore(
              q.deliver(queue, database, { maxRecords: 3, isRejected: (id) => id.endsWith("0") })
            )
          }
          yield* Effect.promise(() => ended)
          // the queue notices the last removal within a second
          yield* Effect.sleep("1050 millis")
          yield* q.append(queue, "the last")
          acknowledged++
          yield* Effect.retry(q.deliverAll(queue, database), { times: 20 })
          const books = yield* q.books(queue)
          assert.deepInclude(books, { accepted: acknowledged, waiting: 0, balanced: true })
          assert.isTrue(database.has("the last"))
          // a batch whose commit failed may be lost before the next try
          assert.isAtMost(books.delivered, database.size)
          yield* close
          const next = yield* q.openQueue(disk, { directory })
          assert.strictEqual(next.queueId, queueId)
          const { accepted, dead, delivered, missing } = yield* q.books(next)
          assert.deepInclude(books, { accepted, dead, delivered, missing })
          // a letter may exist although its commit failed and its line was lost later
          const kept = new Set((yield* q.letters(disk, directory)).map(({ id }) => id))
          assert.isAtLeast(kept.size, dead)
        }
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
    600_000
  )

  it.scopedLive("during a read: the program does not take the lock again after its close", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const real = yield* q.nodeDisk
      const answer = yield* Deferred.make<void>()
      let isSlow = false
      const disk: Disk["Type"] = {
        ...real,
        lock: (file, content) =>
          Effect.map(real.lock(file, content), (result) =>
            result.acquired
              ? {
                  ...result,
                  isInPlace: Effect.suspend(() =>
                    isSlow ? Effect.zipRight(Deferred.await(answer), result.isInPlace) : result.isInPlace
                  )
                }
              : result
          )
      }
      const { close, queue } = yield* q.openClosable(disk, {
        directory,
        shutdown: yield* makeShutdown("50 millis")
      })
      yield* q.append(queue, "a")
      isSlow = true
      const reading = yield* Effect.fork(Effect.ignore(queue.take({ maxRecords: 1, maxBytes: 1 })))
      yield* Effect.sleep("50 millis")
      remove(directory)
      yield* close
      isSlow = false
      yield* Deferred.succeed(answer, undefined)
      yield* Fiber.join(reading)
      const error = yield* Effect.flip(queue.writing(Effect.void))
      assert.include(error, { code: "EBADF" })
      yield* Effect.retry(q.openQueue(disk, { directory }), {
        times: 20,
        schedule: Schedule.spaced("50 millis")
      })
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive(
    "receives requests once it is made again",
    () =>
      Effect.gen(function* () {
        const directory = `${yield* q.temporaryDirectory}/audit`
        const disk = yield* q.nodeDisk
        const refusing = slowDatabase()
        const uploader = {
          ...refusing.uploader,
          upload: () => Effect.succeed({ rejected: [{ index: 0, code: "1406", reason: "too long" }] })
        }
        const log = yield* openAudit({ directory, pollInterval: "1 hour" }, { uploader })
        for (const end of ["removed", "replaced"] as const) {
          yield* log.use("before")
          yield* log.flush
          if (end === "removed") remove(directory)
          else {
            execFileSync("mv", [directory, `${directory}.aside`])
            execFileSync("cp", ["-a", `${directory}.aside`, directory])
          }
          yield* Effect.sleep("1100 millis")
          yield* log.use("after")
          yield* log.flush
          const { dead } = yield* log.status
          assert.isAbove(dead, 0)
          const asked = yield* requests.submit(disk, directory, {
            action: "discard",
            letters: "all",
            by: "li"
          })
          yield* Effect.repeat(
            Effect.sync(() => fs.existsSync(asked)),
            {
              while: (isThere) => isThere,
              schedule: Schedule.spaced("100 millis")
            }
          ).pipe(Effect.timeout("30 seconds"))
          assert.strictEqual((yield* log.status).dead, 0)
        }
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
    120_000
  )

  it.scopedLive("and made again by another process fails appends, and keeps that process's files", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const other = yield* auditProcess()
      const { close, queue } = yield* q.openClosable(yield* q.nodeDisk, { directory })
      yield* q.append(queue, "before")
      const batch = yield* queue.take({ maxRecords: 1, maxBytes: 1 << 20 })
      remove(directory)
      assert.isUndefined(yield* other.open({ directory }))
      yield* other.use("of the other", "and one more")
      // the other process still makes its reserve, and writes its state each second
      const contents = () =>
        fs
          .readdirSync(directory)
          .filter((name) => name !== "reserve" && name !== "status.json")
          .map((name) => [
            name,
            fs.statSync(`${directory}/${name}`).isFile()
              ? fs.readFileSync(`${directory}/${name}`, "utf8")
              : ""
          ])
      const before = contents()
      for (let attempt = 0; attempt < 3; attempt++) {
        const error = yield* Effect.flip(q.append(queue, "during"))
        assert.instanceOf(error, QueueWriteError)
        assert.include(error, { outcome: "absent", code: "LOCK_LOST" })
        assert.include(error.message, "another process has made it anew")
        assert.include(error.message, "start this program again")
      }
      // neither its delivery nor its close touches them
      for (const attempt of [queue.commit(batch, []), queue.compact, q.deliver(queue, new Set())]) {
        const error = yield* Effect.flip(Effect.asVoid(attempt))
        assert.include(error, { _tag: "QueueAccessError", code: "LOCK_LOST" })
        assert.include(error.message, "start this program again")
      }
      yield* close
      assert.deepStrictEqual(contents(), before)
      yield* other.use("still works")
      yield* other.close

      const next = yield* openAudit({ directory })
      assert.deepInclude(yield* next.status, { accepted: 3, waiting: 3, missing: 0 })
    })
  )

  it.scopedLive(
    "and then left by another process is another queue, which the program does not take over",
    () =>
      Effect.gen(function* () {
        const directory = `${yield* q.temporaryDirectory}/audit`
        const log = yield* openAudit({ directory })
        yield* log.use("before")
        const other = yield* openAudit({ directory: `${directory}.other` })
        yield* other.use("of the other")
        yield* other.close
        // at once, before this program makes it again
        remove(directory)
        fs.renameSync(`${directory}.other`, directory)
        const status = fs.readFileSync(`${directory}/status.json`, "utf8")
        const error = yield* Effect.flip(log.use("during"))
        assert.include(error, { code: "LOCK_LOST" })
        yield* Effect.ignore(Effect.timeout(log.flush, "1 second"))
        yield* log.close
        assert.strictEqual(fs.readFileSync(`${directory}/status.json`, "utf8"), status)
        // a third program can open that queue
        const third = yield* openAudit({ directory }, slowDatabase())
        yield* third.flush
        assert.deepInclude(yield* third.status, { accepted: 1, delivered: 1, missing: 0 })
      })
  )

  it.scopedLive("and replaced by an older copy fails appends until the next start", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const log = yield* openAudit({ directory }, slowDatabase())
      yield* log.use("before")
      yield* log.flush
      fs.cpSync(directory, `${directory}.copy`, { recursive: true })
      yield* log.use("after the copy")
      yield* log.flush
      // at once, before this program makes it again
      remove(directory)
      fs.renameSync(`${directory}.copy`, directory)
      const { message } = yield* Effect.flip(log.use("during"))
      assert.include(message, "n older copy was put back", message)
      assert.include(message, "start this program again")
      assert.notInclude(message, "made it anew")
      yield* log.close
      const next = yield* openAudit({ directory })
      yield* next.use("next")
      assert.deepInclude(yield* next.status, { missing: 0, waiting: 1 })
    })
  )

  it.scopedLive("in parts, at any moment, leaves each acknowledged event delivered or missing", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const disk = yield* q.nodeDisk
      const step = fc.constantFrom(
        "append",
        "append",
        "deliver",
        "compact",
        "rm -rf",
        "rm lock",
        "rm segments",
        "reopen"
      )
      let rounds = 0
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), (steps) =>
            Effect.runPromise(
              Effect.scoped(
                Effect.gen(function* () {
                  const directory = `${parent}/${rounds++}`
                  const database = new Set<string>()
                  let acknowledged = 0
                  let { close, queue } = yield* q.openClosable(disk, { directory, segmentBytes: 200 })
                  let expected = 0
                  for (const [index, step] of steps.entries()) {
                    if (step === "append") {
                      for (const id of q.idsOf(`${index}-`, 3)) {
                        assert.strictEqual(yield* q.append(queue, id, 60), expected++)
                        acknowledged++
                      }
                    } else if (step === "deliver") {
                      yield* Effect.ignore(q.deliver(queue, database, { maxRecords: 2 }))
                    } else if (step === "compact") yield* Effect.ignore(queue.compact)
                    else if (step === "rm -rf")
                      fs.rmSync(directory, { recursive: true, force: true, maxRetries: 10 })
                    else if (step === "rm lock") fs.rmSync(`${directory}/lock`, { force: true })
                    else if (step === "rm segments" && fs.existsSync(directory)) {
                      for (const name of fs.readdirSync(directory)) {
                        if (/^\d{20}\.ndjson$/.test(name)) fs.rmSync(`${directory}/${name}`)
                      }
                    } else if (step === "reopen") {
                      // an append makes removed files again before the close
                      yield* q.append(queue, `last ${index}`, 60)
                      expected++
                      acknowledged++
                      yield* close
                      ;({ close, queue } = yield* q.openClosable(disk, { directory, segmentBytes: 200 }))
                    }
                    if (fs.existsSync(directory)) yield* waitingIsThere(disk, directory)
                  }
                  yield* q.append(queue, "the last")
                  acknowledged++
                  yield* Effect.retry(q.deliverAll(queue, database), { times: 20 })
                  const { accepted, balanced, delivered, missing, waiting } = yield* q.books(queue)
                  assert.isTrue(balanced)
                  assert.deepStrictEqual({ accepted, waiting }, { accepted: acknowledged, waiting: 0 })
                  assert.strictEqual(delivered + missing, acknowledged)
                  assert.isTrue(database.has("the last"))
                  yield* close
                })
              )
            )
          ),
          { numRuns: 60 }
        )
      )
    })
  )
})
