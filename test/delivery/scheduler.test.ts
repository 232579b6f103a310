/** The worker, under TestClock, over the real queue, with a scripted Uploader. */
import { assert, describe, it } from "@effect/vitest"
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  Either,
  Exit,
  Fiber,
  Logger,
  type LogLevel,
  Option,
  Random,
  Scope,
  Stream,
  TestClock,
  TestContext
} from "effect"
import * as fc from "fast-check"
import { v7 } from "uuid"
import * as cursorFile from "../../src/internal/queue/cursorFile.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import { make as makeShutdown } from "../../src/internal/shutdown.js"
import * as SchedulerLayer from "../../src/layers/SchedulerLive.js"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import { QueueAccessError, UploadError } from "../../src/schema/Errors.js"
import { compile } from "../../src/schema/Line.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { QueueFile } from "../../src/services/QueueFile.js"
import { Uploader, type UploadBatch, type UploadResult } from "../../src/services/Uploader.js"
import { shifted } from "../support/clock.js"
import * as q from "../support/queue.js"

type Answer = (batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>

const works: Answer = () => Effect.succeed({ rejected: [] })
const failing = (cls: UploadError["class"] = "transient", code = "ECONNREFUSED"): Answer => {
  return () => new UploadError({ class: cls, code, reason: "the database says no" })
}
const hangs: Answer = () => Effect.never

interface Setting {
  readonly answer?: Answer
  readonly concurrency?: number
  readonly atLeastOnce?: boolean
  readonly options?: Partial<SchedulerLayer.Options>
  readonly maxQueueBytes?: number
  /** wraps the queue for the worker */
  readonly over?: (queue: q.Queue) => q.Queue
}

/** A worker that starts over an empty queue. */
const start = ({
  answer = works,
  atLeastOnce,
  concurrency = 1,
  maxQueueBytes,
  options = {},
  over = (queue) => queue
}: Setting = {}) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const scope = yield* Scope.make()
    const shutdown = yield* makeShutdown("5 seconds")
    const queue = yield* Scope.extend(q.openQueue(disk, { shutdown, maxQueueBytes }), scope)
    const script = { answer }
    const uploads: Array<{
      readonly at: number
      readonly kind: string
      readonly rows: ReadonlyArray<unknown>
    }> = []
    const scheduler = yield* SchedulerLayer.make({ events: [UseLog, LoginLog], shutdown, ...options }).pipe(
      Effect.provideService(QueueFile, over(queue)),
      Effect.provideService(Uploader, {
        concurrency,
        atLeastOnce,
        upload: (batch) =>
          Effect.flatMap(Clock.currentTimeMillis, (at) => {
            const rows = batch.events.map(({ line }) => line.status ?? line.user_name)
            uploads.push({ at, kind: batch.definition.kind, rows })
            return script.answer(batch)
          })
      }),
      Scope.extend(scope),
      // the jitter at its maximum gives the documented delays
      Effect.withRandom(Random.fixed([1]))
    )
    const record = (definition: AuditEvent.Any, input: unknown) =>
      Effect.suspend(() => {
        const eventId = v7()
        return queue.append(Either.getOrThrow(compile(definition).encode(input, eventId, 0)), eventId)
      })
    const use = (status: string) => record(UseLog, { status })
    const login = (userName: string) => record(LoginLog, { userName })
    return {
      memory,
      disk,
      queue,
      script,
      uploads,
      scheduler,
      use,
      login,
      close: Scope.close(scope, Exit.void)
    }
  })

const seconds = (count: number) => TestClock.adjust(`${count} seconds`)
const settle = TestClock.adjust(0)

/** The log lines of the effect at Info or above. */
const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const lines: Array<readonly [LogLevel.LogLevel["label"], string]> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push([logLevel.label, String(message)])
    })
    yield* Effect.provide(effect, Logger.add(logger))
    return lines
  })

it.effect("reports a failure, not the interruption that it caused", () =>
  Effect.gen(function* () {
    const failed = Effect.zipRight(Effect.yieldNow(), failing("operator", "X")({} as UploadBatch))
    const both: Answer = () =>
      Effect.as(Effect.all([failed, Effect.never], { concurrency: 2 }), { rejected: [] })
    const { scheduler, use } = yield* start({ answer: both })
    yield* use("a")
    yield* settle
    assert.include(yield* scheduler.status, { state: "needsOperator" })
    const flush = yield* Effect.fork(Effect.flip(scheduler.flush))
    yield* settle
    assert.include(yield* Fiber.join(flush), { _tag: "FlushError", waiting: 1 })
  })
)

it.effect("lets no next owner in while the sync of a letter hangs over the close", () =>
  Effect.gen(function* () {
    const rejecting: Answer = () => Effect.succeed({ rejected: [{ index: 0, code: "1406", reason: "x" }] })
    const { close, disk, memory, use } = yield* start({ answer: rejecting })
    memory.inject((call) =>
      call.operation === "sync" && call.path.endsWith("/dead-letter.ndjson")
        ? { type: "wait", until: Effect.never }
        : undefined
    )
    yield* use("a")
    yield* settle
    const closing = yield* Effect.fork(close)
    yield* seconds(5)
    yield* Fiber.join(closing)
    // only the end of the process frees the lock
    assert.include(yield* Effect.flip(q.openQueue(disk)), { _tag: "QueueLocked" })
  }).pipe(Effect.scoped)
)

describe("the first batches are small, while their code is cold", () => {
  /** The sizes of the batches, of at most 50, that deliver these events at these microseconds a row. */
  const sizesAt = (micros: number, events: number) =>
    Effect.gen(function* () {
      const { script, uploads, use } = yield* start({ answer: failing(), options: { batchRecords: 50 } })
      // alone: its duration says nothing about larger batches
      yield* use("first")
      yield* settle
      script.answer = works
      yield* seconds(2)
      script.answer = (batch) =>
        Effect.delay(works(batch), Duration.micros(BigInt(batch.events.length * micros)))
      uploads.length = 0
      yield* Effect.forEach(q.idsOf("", events), use, { concurrency: "unbounded", discard: true })
      yield* Effect.replicateEffect(Effect.zipRight(settle, TestClock.adjust("10 millis")), 100)
      const sizes = uploads.map(({ rows }) => rows.length)
      assert.strictEqual(
        sizes.reduce((total, size) => total + size),
        events
      )
      return sizes
    })
  const times = (count: number, size: number) => Array<number>(count).fill(size)

  it.effect("doubles their size after ten", () =>
    Effect.gen(function* () {
      // eleven, since one batch is prepared ahead
      const sizes = [...times(11, 10), ...times(11, 20), ...times(11, 40), ...times(4, 50)]
      assert.deepStrictEqual(yield* sizesAt(200, 970), sizes)
    })
  )

  it.effect("doubles their size if one was stored fast", () =>
    Effect.gen(function* () {
      const sizes = [...times(2, 10), ...times(2, 20), ...times(2, 40), ...times(5, 50)]
      assert.deepStrictEqual(yield* sizesAt(20, 390), sizes)
    })
  )
})

describe("the worker's times", () => {
  it.effect("backs off 2, 4, 8 ... 256, 300, 300 seconds", () =>
    Effect.gen(function* () {
      const { scheduler, uploads, use } = yield* start({ answer: failing() })
      yield* use("a")
      yield* settle
      assert.lengthOf(uploads, 1)
      let attempts = 1
      for (const delay of [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]) {
        const now = yield* Clock.currentTimeMillis
        assert.include(yield* scheduler.status, { failures: attempts, nextTry: now + delay * 1000 })
        yield* TestClock.adjust(delay * 1000 - 1)
        assert.lengthOf(uploads, attempts, `before ${delay} seconds`)
        yield* TestClock.adjust(1)
        assert.lengthOf(uploads, ++attempts, `after ${delay} seconds`)
      }
    })
  )

  it.effect("resets the backoff after a success", () =>
    Effect.gen(function* () {
      const { script, scheduler, uploads, use } = yield* start({ answer: failing() })
      yield* use("a")
      yield* seconds(2)
      yield* seconds(4)
      script.answer = works
      yield* seconds(8)
      assert.include(yield* scheduler.status, { state: "idle", failures: 0, nextTry: undefined })
      script.answer = failing()
      const before = uploads.length
      yield* use("b")
      yield* settle
      assert.lengthOf(uploads, before + 1)
      yield* seconds(2)
      assert.lengthOf(uploads, before + 2)
    })
  )

  it.effect(
    "attempts nothing for an append during a backoff, and once for a flush, which keeps the backoff",
    () =>
      Effect.gen(function* () {
        const { scheduler, uploads, use } = yield* start({ answer: failing() })
        yield* use("a")
        yield* seconds(1)
        for (let i = 0; i < 50; i++) yield* use("more")
        yield* settle
        assert.lengthOf(uploads, 1)
        const error = yield* Effect.flip(scheduler.flush)
        assert.include(error, { _tag: "FlushError", waiting: 51 })
        assert.lengthOf(uploads, 2)
        yield* TestClock.adjust(999)
        assert.lengthOf(uploads, 2)
        yield* TestClock.adjust(1)
        assert.lengthOf(uploads, 3)
        yield* TestClock.adjust(3999)
        assert.lengthOf(uploads, 3)
        yield* TestClock.adjust(1)
        assert.lengthOf(uploads, 4)
      })
  )

  it.effect("removes delivered lines after an idle second", () =>
    Effect.gen(function* () {
      const { disk, uploads, use } = yield* start()
      yield* use("a")
      yield* TestClock.adjust(999)
      assert.lengthOf(uploads, 1)
      assert.lengthOf(yield* q.segmentNames(disk), 1)
      yield* TestClock.adjust(1)
      assert.lengthOf(yield* q.segmentNames(disk), 0)
    })
  )

  it.effect("removes delivered lines later if a removal fails", () =>
    Effect.gen(function* () {
      const { disk, memory, use } = yield* start()
      yield* use("a")
      memory.inject(({ operation }) => (operation === "remove" ? { type: "fail", code: "EIO" } : undefined))
      yield* seconds(1)
      memory.inject(() => undefined)
      assert.lengthOf(yield* q.segmentNames(disk), 1)
      yield* seconds(62)
      assert.lengthOf(yield* q.segmentNames(disk), 0)
    })
  )

  it.effect("removes delivered lines later if an append fails meanwhile", () =>
    Effect.gen(function* () {
      const { disk, memory, use } = yield* start()
      yield* use("a")
      memory.inject(({ operation }) =>
        operation === "append"
          ? { type: "wait", until: Effect.sleep("2 seconds"), code: "ENOSPC" }
          : undefined
      )
      const refused = yield* Effect.fork(Effect.flip(use("b")))
      yield* seconds(2)
      assert.include(yield* Fiber.join(refused), { _tag: "QueueWriteError", code: "ENOSPC" })
      assert.lengthOf(yield* q.segmentNames(disk), 1)
      yield* seconds(62)
      assert.lengthOf(yield* q.segmentNames(disk), 0)
    })
  )

  it.effect("removes delivered lines later if their removal failed at the commit", () =>
    Effect.gen(function* () {
      const { disk, memory, queue, scheduler, script, use } = yield* start()
      const failsTo = (operation: "append" | "remove") => {
        memory.inject((call) => (call.operation === operation ? { type: "fail", code: "EIO" } : undefined))
      }
      yield* use("a")
      // idle, with no segment on disk
      yield* seconds(2)
      script.answer = failing()
      yield* use("b")
      yield* settle
      failsTo("append")
      yield* Effect.flip(use("c"))
      memory.inject(() => undefined)
      // into the next segment, so that the segment of "b" goes once both are delivered
      yield* use("d")
      script.answer = works
      failsTo("remove")
      yield* seconds(2)
      assert.include(yield* scheduler.status, { state: "idle" })
      assert.include(yield* q.books(queue), { delivered: 3, waiting: 0 })
      assert.lengthOf(yield* q.segmentNames(disk), 2)
      memory.inject(() => undefined)
      yield* seconds(62)
      assert.lengthOf(yield* q.segmentNames(disk), 0)
    })
  )

  it.effect("compacts once after a delivery", () =>
    Effect.gen(function* () {
      let compactions = 0
      const over = (queue: q.Queue): q.Queue => ({
        ...queue,
        compact: Effect.suspend(() => (compactions++, queue.compact))
      })
      const { use } = yield* start({ over })
      yield* use("a")
      yield* seconds(600)
      assert.strictEqual(compactions, 1)
    })
  )

  it.effect("looks for events at least once a minute", () =>
    Effect.gen(function* () {
      let takes = 0
      const over = (queue: q.Queue): q.Queue => ({
        ...queue,
        take: (options) => Effect.suspend(() => (takes++, queue.take(options)))
      })
      yield* start({ over })
      yield* seconds(2)
      const before = takes
      yield* seconds(58)
      assert.strictEqual(takes, before)
      yield* seconds(2)
      assert.isAbove(takes, before)
    })
  )
})

describe("a request of another process", () => {
  /** A worker with two dead letters, scripted by the test from then on. */
  const startWithLetters = (options: Setting = {}) =>
    Effect.gen(function* () {
      const worker = yield* start({
        ...options,
        answer: ({ events }) =>
          Effect.succeed({
            rejected: events.map((_, index) => ({ index, code: "1406", reason: "too long" }))
          })
      })
      yield* Effect.all([worker.use("a"), worker.use("b")])
      yield* settle
      worker.script.answer = options.answer ?? works
      worker.uploads.length = 0
      assert.include(yield* q.books(worker.queue), { dead: 2, waiting: 0, balanced: true })
      const ask = (action: requests.Decision["action"], letters: "all" | Iterable<string> = "all") =>
        Effect.zipRight(
          requests.submit(worker.disk, "/audit", { action, letters, by: "li" }),
          // each step of a decision yields
          Effect.repeatN(settle, 10)
        )
      const open = Effect.map(requests.list(worker.disk, "/audit"), (files) => files.length)
      return { ...worker, ask, open }
    })

  it.effect("is carried out at once by an idle worker, which delivers the requested events", () =>
    Effect.gen(function* () {
      const { ask, open, queue, uploads } = yield* startWithLetters()
      yield* seconds(10)
      yield* ask("retry", ["0:0"])
      yield* ask("discard")
      assert.lengthOf(uploads, 1)
      assert.include(yield* q.books(queue), { retried: 1, discarded: 1, delivered: 1, balanced: true })
      assert.strictEqual(yield* open, 0)
    })
  )

  it.effect("is carried out during a backoff, without an attempt to deliver", () =>
    Effect.gen(function* () {
      const { ask, open, queue, script, uploads, use } = yield* startWithLetters({ answer: failing() })
      yield* use("c")
      yield* seconds(2 + 4)
      assert.lengthOf(uploads, 3)
      yield* ask("retry", ["0:0"])
      yield* ask("discard")
      assert.strictEqual(yield* open, 0)
      assert.include(yield* q.books(queue), { retried: 1, discarded: 1, waiting: 2, balanced: true })
      script.answer = works
      yield* TestClock.adjust(7999)
      assert.lengthOf(uploads, 3)
      yield* TestClock.adjust(1)
      assert.include(yield* q.books(queue), { delivered: 2, waiting: 0, balanced: true })
    })
  )

  it.effect("is carried out while the database hangs", () =>
    Effect.gen(function* () {
      const { ask, open, queue, use } = yield* startWithLetters({ answer: hangs })
      yield* use("c")
      yield* settle
      yield* ask("discard")
      assert.strictEqual(yield* open, 0)
      assert.include(yield* q.books(queue), { discarded: 2, waiting: 1, balanced: true })
    })
  )

  it.effect("waits for the next look if the directory cannot be watched", () =>
    Effect.gen(function* () {
      const { ask, open } = yield* startWithLetters({
        over: (queue) => ({
          ...queue,
          requests: Stream.fail(new QueueAccessError({ path: "/audit/requests", code: "ENOSPC", cause: "" }))
        })
      })
      yield* seconds(2)
      yield* ask("discard")
      yield* seconds(50)
      assert.strictEqual(yield* open, 1)
      yield* seconds(10)
      // the event loop turns meanwhile, and the clock does not wait for that
      yield* Effect.repeat(Effect.zipRight(settle, open), { until: (letters) => letters === 0 })
    })
  )

  it.effect("appends a letter once for several concurrent requests", () =>
    Effect.gen(function* () {
      const { ask, queue } = yield* startWithLetters({ answer: hangs })
      yield* Effect.all([ask("retry"), ask("retry"), queue.retry(() => true, "li"), queue.carryOutRequests], {
        concurrency: "unbounded"
      })
      assert.include(yield* q.books(queue), { accepted: 4, retried: 2, waiting: 2, balanced: true })
    })
  )
})

describe("the worker's log", () => {
  it.effect("reports each change of state once, and not each retry", () =>
    Effect.gen(function* () {
      const lines = yield* logged(
        Effect.gen(function* () {
          const { script, use } = yield* start({ answer: failing() })
          yield* use("a")
          for (const delay of [2, 4, 8]) yield* seconds(delay)
          script.answer = failing("operator", "1142")
          for (const delay of [16, 32]) yield* seconds(delay)
          script.answer = works
          yield* seconds(64)
        })
      )
      const about = lines.filter(([, text]) => text.startsWith("audit: "))
      assert.deepStrictEqual(
        about.map(([level, text]) => [level, text.split(":")[1]!.trim()]),
        [
          ["WARN", "1 events wait on disk"],
          ["ERROR", "1 events wait on disk"],
          ["INFO", "delivery has recovered"]
        ]
      )
    })
  )

  it.effect("provides the changes as a stream", () =>
    Effect.gen(function* () {
      const { script, scheduler, use } = yield* start({ answer: failing("operator", "1142") })
      yield* settle
      const states = yield* scheduler.changes.pipe(
        Stream.map(({ state }) => state),
        Stream.changes,
        Stream.takeUntil((state) => state === "needsOperator"),
        Stream.runCollect,
        Effect.fork
      )
      yield* settle
      yield* use("a")
      assert.deepStrictEqual([...(yield* Fiber.join(states))], ["idle", "delivering", "needsOperator"])
      assert.deepInclude((yield* scheduler.status).failure, { class: "operator", code: "1142" })
      script.answer = works
    })
  )
})

describe("the worker's end", () => {
  it.effect("delivers waiting events in a last drain", () =>
    Effect.gen(function* () {
      const { close, script, uploads, use } = yield* start({ answer: failing() })
      yield* use("a")
      yield* settle
      script.answer = works
      yield* close
      assert.lengthOf(uploads, 2)
    })
  )

  it.effect("delivers events on their way to the disk in a last drain", () =>
    Effect.gen(function* () {
      const { close, memory, uploads, use } = yield* start()
      yield* settle
      memory.inject(({ operation }) =>
        operation === "append" ? { type: "wait", until: Effect.sleep(1000) } : undefined
      )
      // its caller is gone, but the whole event is written
      yield* Effect.flatMap(Effect.fork(use("a")), (caller) =>
        Effect.zipRight(settle, Fiber.interrupt(caller))
      )
      const closing = yield* Effect.fork(close)
      yield* seconds(2)
      assert.isTrue(Option.isSome(yield* Fiber.poll(closing)))
      assert.lengthOf(uploads, 1)
    })
  )

  it.effect("is bounded if the database hangs, reports what waits, and fails a pending flush", () =>
    Effect.gen(function* () {
      const lines = yield* logged(
        Effect.gen(function* () {
          const { close, scheduler, use } = yield* start({ answer: hangs })
          yield* use("a")
          const flush = yield* Effect.fork(Effect.flip(scheduler.flush))
          yield* settle
          const closing = yield* Effect.fork(close)
          // a tenth of the 5 seconds is left for the layers that close later
          yield* TestClock.adjust(4499)
          assert.isTrue(Option.isNone(yield* Fiber.poll(closing)))
          yield* TestClock.adjust(1)
          assert.isTrue(Option.isSome(yield* Fiber.poll(closing)))
          assert.include(yield* Fiber.join(flush), { _tag: "FlushError", waiting: 1 })
          // a later flush would get no answer
          assert.include(yield* Effect.flip(scheduler.flush), { _tag: "FlushError", waiting: 1 })
        })
      )
      assert.isTrue(
        lines.some(
          ([level, text]) => level === "WARN" && text.includes("1 events wait on disk for the next start")
        )
      )
    })
  )

  for (const operation of ["append", "writeAt", "readAt", "remove"] as const) {
    it.effect(`is bounded if every ${operation} of the disk hangs`, () =>
      Effect.gen(function* () {
        const { close, memory, script, use } = yield* start({ answer: failing() })
        yield* use("a")
        yield* settle
        script.answer = works
        memory.inject((call) =>
          call.operation === operation ? { type: "wait", until: Effect.never } : undefined
        )
        yield* Effect.fork(use("b"))
        yield* settle
        const closing = yield* Effect.fork(close)
        yield* seconds(5)
        assert.isTrue(Option.isSome(yield* Fiber.poll(closing)))
      })
    )
  }
})

describe("a batch", () => {
  it.effect("does not send delivered kinds again if a later kind fails", () =>
    Effect.gen(function* () {
      const { login, queue, script, uploads, use } = yield* start({ answer: failing() })
      script.answer = (batch) => (batch.definition.kind === "login_log" ? failing()(batch) : works(batch))
      yield* Effect.all([use("a"), login("li"), use("b")], { concurrency: "unbounded" })
      yield* seconds(2)
      script.answer = works
      yield* seconds(4)
      assert.deepStrictEqual(
        uploads.map(({ kind, rows }) => [kind, rows]),
        [
          ["use_log", ["a", "b"]],
          ["login_log", ["li"]],
          ["login_log", ["li"]],
          ["login_log", ["li"]]
        ]
      )
      assert.include(yield* q.books(queue), { delivered: 3, waiting: 0, balanced: true })
    })
  )

  it.effect("keeps refused events refused if another kind is retried", () =>
    Effect.gen(function* () {
      const { disk, login, queue, script, uploads, use } = yield* start({ answer: failing() })
      const refuses: Answer = ({ events }) =>
        Effect.succeed({
          rejected: events.flatMap(({ line }, index) =>
            line.status === "refused" ? [{ index, code: "1406", reason: "too long" }] : []
          )
        })
      script.answer = (batch) => (batch.definition.kind === "login_log" ? failing()(batch) : refuses(batch))
      yield* Effect.all([use("a"), use("refused"), login("li")], { concurrency: "unbounded" })
      yield* seconds(2)
      script.answer = refuses
      // in one batch with the event that was tried already
      yield* Effect.all([use("refused"), use("b")], { concurrency: "unbounded" })
      yield* seconds(4)
      assert.deepStrictEqual(
        uploads.filter(({ kind }) => kind === "use_log").map(({ rows }) => rows),
        [
          ["a", "refused"],
          ["refused", "b"]
        ]
      )
      assert.lengthOf(yield* q.letters(disk), 2)
      assert.include(yield* q.books(queue), { delivered: 3, dead: 2, waiting: 0, balanced: true })
    })
  )

  it.effect("does not mistake a line that a hung disk writes late for a delivered one", () =>
    Effect.gen(function* () {
      const { login, memory, queue, script, uploads, use } = yield* start({ answer: failing() })
      yield* use("a")
      const answered = yield* Deferred.make<void>()
      memory.inject(({ operation, step }) =>
        operation === "append" && step === "data"
          ? { type: "wait", until: Deferred.await(answered) }
          : undefined
      )
      const late = yield* Effect.fork(Effect.either(use("late")))
      yield* seconds(11)
      assert.include(yield* Effect.flip(Effect.flatten(Fiber.join(late))), { outcome: "unknown" })
      memory.inject(() => undefined)
      // into the next segment; one of its two kinds is delivered
      yield* use("b")
      yield* login("li")
      script.answer = (batch) => (batch.definition.kind === "login_log" ? failing()(batch) : works(batch))
      uploads.length = 0
      yield* seconds(60)
      // after "a", before the settled lines
      yield* Deferred.succeed(answered, undefined)
      yield* seconds(1)
      script.answer = works
      yield* seconds(300)
      const uses = uploads.filter(({ kind }) => kind === "use_log").flatMap(({ rows }) => rows)
      assert.sameMembers(uses, ["a", "b", "late"])
      assert.include(yield* q.books(queue), { delivered: 4, waiting: 0, balanced: true })
    })
  )

  it("delivers or refuses each event once, whatever fails in between", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.constantFrom("use", "login"), fc.constantFrom("fits", "refused")), {
          minLength: 1,
          maxLength: 12
        }),
        // whether each upload works, in order; later ones do
        fc.array(fc.boolean(), { maxLength: 10 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 3 }),
        (events, works, batchRecords, concurrency) =>
          Effect.gen(function* () {
            const { close, disk, login, queue, script, use } = yield* start({
              answer: failing(),
              concurrency,
              options: { batchRecords }
            })
            const delivered: Array<string> = []
            let uploads = 0
            script.answer = (batch) => {
              if (works[uploads++] === false) return failing()(batch)
              const names = batch.events.map(({ line }) => String(line.status ?? line.user_name))
              delivered.push(...names.filter((name) => name.startsWith("fits")))
              return Effect.succeed({
                rejected: names.flatMap((name, index) =>
                  name.startsWith("refused") ? [{ index, code: "1406", reason: name }] : []
                )
              })
            }
            const names = events.map(([, fate], index) => `${fate} ${index}`)
            for (const [index, [kind]] of events.entries()) {
              yield* kind === "use" ? use(names[index]!) : login(names[index]!)
            }
            yield* seconds(5000)
            assert.sameMembers(
              delivered,
              names.filter((name) => name.startsWith("fits"))
            )
            const refused = names.filter((name) => name.startsWith("refused"))
            assert.sameMembers(
              (yield* q.letters(disk)).map(({ reason }) => reason),
              refused
            )
            assert.include(yield* q.books(queue), {
              delivered: delivered.length,
              dead: refused.length,
              waiting: 0,
              balanced: true
            })
            yield* close
          }).pipe(
            Effect.provide([TestContext.TestContext, Logger.remove(Logger.defaultLogger)]),
            Effect.runPromise
          )
      ),
      { numRuns: process.env.AUDIT_LONG === "1" ? 200 : 10 }
    ))

  it.effect("moves undeliverable events to the dead letters, and delivers the rest", () =>
    Effect.gen(function* () {
      const { disk, queue, script, uploads, use } = yield* start()
      script.answer = ({ events }) =>
        Effect.succeed({
          rejected: events.flatMap(({ line }, index) =>
            line.status === "refused" ? [{ index, code: "1406", reason: "Data too long" }] : []
          )
        })
      const odd = [
        '{"kind":"unheard_of"}',
        '{"kind":"use_log","duration_ms":1.5}',
        "[]",
        "nonsense",
        "null",
        "1"
      ]
      yield* Effect.forEach(
        [use("a"), ...odd.map((line) => queue.append(`${line}\n`, "odd")), use("refused"), use("b")],
        (append) => append
      )
      yield* settle
      assert.deepStrictEqual(
        uploads.flatMap(({ rows }) => rows),
        ["a", "refused", "b"]
      )
      const letters = yield* q.letters(disk)
      assert.deepStrictEqual(
        letters.slice(0, -1).map((letter) => [letter.class, letter.bytes.toString()]),
        odd.map((line, index) => [index === 0 ? "unknownKind" : index === 1 ? "invalid" : "malformed", line])
      )
      assert.include(letters.at(-1), { class: "rejected", reason: "Data too long" })
      assert.include(yield* q.books(queue), { delivered: 2, dead: 7, waiting: 0, balanced: true })
    })
  )

  it.effect("is read while the database works on the previous one", () =>
    Effect.gen(function* () {
      let takes = 0
      const over = (queue: q.Queue): q.Queue => ({
        ...queue,
        take: (options) => Effect.suspend(() => (takes++, queue.take(options)))
      })
      const { uploads, use } = yield* start({ answer: hangs, over, options: { batchRecords: 1 } })
      yield* settle
      const before = takes
      for (const status of ["a", "b", "c", "d"]) yield* use(status)
      yield* settle
      assert.lengthOf(uploads, 1)
      assert.isAtLeast(takes - before, 2)
    })
  )

  const counting = (counts: Array<number>) => (queue: q.Queue) => ({
    ...queue,
    commit: (...[batch, refusals]: Parameters<q.Queue["commit"]>) => {
      counts.push(batch.records.length)
      return queue.commit(batch, refusals)
    }
  })

  it.effect("moves the cursor with others, or by itself if an event could be stored twice", () =>
    Effect.gen(function* () {
      const statuses = Array.from({ length: 40 }, (_, i) => `${i}`)
      for (const atLeastOnce of [false, true]) {
        const counts: Array<number> = []
        const first = yield* Deferred.make<void>()
        const { queue, uploads, use } = yield* start({
          atLeastOnce,
          options: { batchRecords: 1 },
          over: counting(counts),
          answer: ({ events }) =>
            Effect.as(events[0]!.line.status === "0" ? Deferred.await(first) : Effect.void, { rejected: [] })
        })
        for (const status of statuses) yield* use(status)
        yield* Deferred.succeed(first, undefined)
        yield* settle
        assert.deepStrictEqual(
          uploads.flatMap(({ rows }) => rows),
          statuses
        )
        assert.include(yield* q.books(queue), { delivered: 40, waiting: 0, missing: 0, balanced: true })
        if (atLeastOnce) assert.deepStrictEqual(counts, Array<number>(40).fill(1))
        else assert.isAtMost(counts.length, 5)
      }
    })
  )

  it.effect("leaves at most a batch of lines to wait for the cursor", () =>
    Effect.gen(function* () {
      const counts: Array<number> = []
      const first = yield* Deferred.make<void>()
      const { use } = yield* start({
        options: { batchRecords: 1, batchBytes: 1000 },
        over: counting(counts),
        answer: () => Effect.as(Deferred.await(first), { rejected: [] })
      })
      for (let i = 0; i < 40; i++) yield* use(`${i}`)
      yield* Deferred.succeed(first, undefined)
      yield* settle
      assert.strictEqual(
        counts.reduce((total, count) => total + count, 0),
        40
      )
      // a line has about 250 bytes
      assert.isAtMost(Math.max(...counts), 5)
      assert.isAbove(Math.max(...counts), 1)
    })
  )

  it.effect("ends a flush before the end of the pass", () =>
    Effect.gen(function* () {
      const { scheduler, use } = yield* start({
        options: { batchRecords: 1 },
        answer: ({ events }) =>
          Effect.as(events[0]!.line.status === "late" ? Effect.never : Effect.sleep(10), { rejected: [] })
      })
      yield* settle
      for (let i = 0; i < 3; i++) yield* use(`${i}`)
      const flush = yield* Effect.fork(scheduler.flush)
      yield* settle
      yield* use("late")
      yield* TestClock.adjust(40)
      assert.isTrue(Exit.isSuccess((yield* Fiber.poll(flush)).pipe(Option.getOrThrow)))
    })
  )

  it.effect("moves the cursor although the clock is set back", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      yield* Effect.gen(function* () {
        const counts: Array<number> = []
        const { use } = yield* start({
          options: { batchRecords: 1 },
          over: counting(counts),
          answer: () => Effect.as(Effect.sleep(10), { rejected: [] })
        })
        yield* use("before")
        yield* TestClock.adjust(10)
        assert.lengthOf(counts, 1)
        offset = -3_600_000
        for (let i = 0; i < 40; i++) yield* use(`${i}`)
        yield* TestClock.adjust(200)
        assert.isAbove(counts.length, 2)
      }).pipe(Effect.withClock(clock))
    })
  )

  it.effect("moves the cursor twenty times a second during a long delivery", () =>
    Effect.gen(function* () {
      const counts: Array<number> = []
      const { queue, use } = yield* start({
        options: { batchRecords: 1 },
        over: counting(counts),
        answer: () => Effect.as(Effect.sleep(10), { rejected: [] })
      })
      yield* settle
      for (let i = 0; i < 200; i++) yield* use(`${i}`)
      yield* TestClock.adjust(1000)
      const { delivered } = yield* q.books(queue)
      assert.isAtLeast(delivered, 94)
      assert.isAtMost(counts.length, 22)
    })
  )

  const endings: ReadonlyArray<readonly [string, Answer]> = [
    ["an interruption", hangs],
    ["a failure", failing()],
    [
      "an event that is refused",
      () => Effect.succeed({ rejected: [{ index: 0, code: "1406", reason: "no" }] })
    ]
  ]
  it.effect.each(endings)("moves the cursor past delivered events before %s", ([, then]) =>
    Effect.gen(function* () {
      const first = yield* Deferred.make<void>()
      const { close, disk, queue, use } = yield* start({
        options: { batchRecords: 1 },
        answer: (batch) => {
          const { status } = batch.events[0]!.line
          if (status === "0") return Effect.as(Deferred.await(first), { rejected: [] })
          return status === "5" ? then(batch) : works(batch)
        }
      })
      for (let i = 0; i < 6; i++) yield* use(`${i}`)
      yield* Deferred.succeed(first, undefined)
      yield* settle
      yield* Effect.fork(close)
      yield* seconds(10)
      assert.include(yield* q.books(queue), { delivered: 5, balanced: true })
      const { stored } = yield* Effect.scoped(cursorFile.open(disk, queue.directory))
      assert.strictEqual(stored?.delivered, 5)
    })
  )

  it.effect("is committed in order with a concurrent one", () =>
    Effect.gen(function* () {
      const appended = yield* Deferred.make<void>()
      const first = yield* Deferred.make<void>()
      const commits: Array<number> = []
      const over = (queue: q.Queue): q.Queue => ({
        ...queue,
        take: (options) => Effect.zipRight(Deferred.await(appended), queue.take(options)),
        commit: (batch, refusals) => {
          commits.push(...Array.from(batch.records, ({ sequence }) => sequence))
          return queue.commit(batch, refusals)
        }
      })
      const { queue, uploads, use } = yield* start({
        concurrency: 2,
        options: { batchRecords: 1 },
        over,
        answer: ({ events }) =>
          Effect.as(events[0]!.line.status === "0" ? Deferred.await(first) : Effect.void, { rejected: [] })
      })
      for (const status of ["0", "1", "2"]) yield* use(status)
      yield* Deferred.succeed(appended, undefined)
      yield* settle
      assert.isAtLeast(uploads.length, 2)
      assert.deepStrictEqual(commits, [])
      yield* Deferred.succeed(first, undefined)
      yield* settle
      assert.deepStrictEqual(commits, [0, 1, 2])
      assert.include(yield* q.books(queue), { delivered: 3, waiting: 0, missing: 0, balanced: true })
    })
  )

  /** Calls `look` at each search for requests. */
  const withLooks = (look: () => void) => (queue: q.Queue) => ({
    ...queue,
    carryOutRequests: Effect.sync(look)
  })

  it.effect("lets requests run during a pass that does not end", () =>
    Effect.gen(function* () {
      let looks = 0
      const { queue, use } = yield* start({
        over: withLooks(() => looks++),
        options: { batchRecords: 1 },
        answer: () => Effect.as(Effect.sleep(100), { rejected: [] })
      })
      const before = looks
      for (let event = 0; event < 60; event++) yield* use("a")
      yield* TestClock.adjust("5 seconds")
      assert.isAbove((yield* q.books(queue)).waiting, 0)
      assert.isAtLeast(looks - before, 4)
    })
  )

  it.effect("delivers an event soon, beside slow requests", () =>
    Effect.gen(function* () {
      const { uploads, use } = yield* start({
        over: (queue) => ({ ...queue, carryOutRequests: Effect.never }),
        options: { batchRecords: 1 },
        answer: () => Effect.as(Effect.sleep(100), { rejected: [] })
      })
      yield* TestClock.adjust("1 second")
      for (let event = 0; event < 30; event++) yield* use("a")
      yield* TestClock.adjust("200 millis")
      assert.isAtLeast(uploads.length, 1)
      // once a second, a pass waits some hundred milliseconds for requests
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(uploads.length, 30)
    })
  )

  it.effect("lets requests run during a pass, also if the clock is set back", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      yield* Effect.gen(function* () {
        let looks = 0
        let uploads = 0
        const gate = yield* Deferred.make<void>()
        const { queue, use } = yield* start({
          over: withLooks(() => looks++),
          options: { batchRecords: 1 },
          // nothing sleeps while the clock is set
          answer: () =>
            Effect.as(++uploads === 6 ? Deferred.await(gate) : Effect.sleep(100), { rejected: [] })
        })
        for (let event = 0; event < 60; event++) yield* use("a")
        yield* TestClock.adjust("1 second")
        assert.strictEqual(uploads, 6)
        offset = -3_600_000
        const before = looks
        yield* Deferred.succeed(gate, undefined)
        yield* TestClock.adjust("3 seconds")
        assert.isAbove((yield* q.books(queue)).waiting, 0)
        assert.isAtLeast(looks - before, 3)
      }).pipe(Effect.withClock(clock))
    })
  )

  it.effect("makes a flush wait for earlier appends, also during a pass", () =>
    Effect.gen(function* () {
      const { scheduler, uploads, use } = yield* start()
      for (let round = 0; round < 50; round++) {
        const before = uploads.flatMap(({ rows }) => rows).length
        yield* use("a")
        for (let turn = 0; turn < round; turn++) yield* Effect.yieldNow()
        yield* use("b")
        yield* scheduler.flush
        assert.lengthOf(
          uploads.flatMap(({ rows }) => rows),
          before + 2
        )
      }
    })
  )
})

describe("a request that cannot be carried out", () => {
  /** A worker with a dead letter, a database that is down, and `count` waiting events. */
  const withLetter = (setting: Setting, count: number) =>
    Effect.gen(function* () {
      const refuses: Answer = () => Effect.succeed({ rejected: [{ index: 0, code: "1", reason: "no" }] })
      const worker = yield* start({ ...setting, answer: refuses })
      yield* worker.use("dead")
      yield* seconds(2)
      assert.strictEqual((yield* worker.queue.status).dead, 1)
      worker.script.answer = failing()
      for (let event = 0; event < count; event++) yield* Effect.exit(worker.use("waits"))
      yield* seconds(2)
      return worker
    })
  const ask = (disk: Parameters<typeof requests.submit>[0], action: "retry" | "discard") =>
    requests.submit(disk, "/audit", { action, letters: "all", by: "li" })

  it.effect("for lack of room in the queue does not stop delivery", () =>
    Effect.gen(function* () {
      const { close, disk, queue, script } = yield* withLetter({ maxQueueBytes: 2000 }, 20)
      yield* ask(disk, "retry")
      yield* seconds(1)
      script.answer = works
      yield* seconds(600)
      assert.include(yield* q.books(queue), { waiting: 0, dead: 0, retried: 1, balanced: true })
      yield* close
    })
  )

  it.effect("for lack of room on the disk does not stop delivery, and is logged once", () =>
    Effect.gen(function* () {
      const lines = yield* logged(
        Effect.gen(function* () {
          const { close, disk, memory, queue, script } = yield* withLetter({}, 3)
          yield* ask(disk, "discard")
          memory.inject(({ operation, path }) =>
            operation === "append" && path.endsWith("dead-letter.ndjson")
              ? { type: "fail", code: "ENOSPC" }
              : undefined
          )
          script.answer = works
          yield* seconds(600)
          assert.include(yield* q.books(queue), { waiting: 0, dead: 1, balanced: true })
          yield* close
        })
      )
      assert.lengthOf(
        lines.filter(([, text]) => text.includes("was not carried out (ENOSPC)")),
        1
      )
    })
  )
})
