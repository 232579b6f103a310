/**
 * Random histories of a queue, with crashes, power cuts and failing calls at any step. An oracle judges the rest
 * after each of them.
 *
 * @module
 */
import {
  Cause,
  Deferred,
  Effect,
  Exit,
  Logger,
  LogLevel,
  Option,
  Scope,
  TestClock,
  TestContext
} from "effect"
import * as fc from "fast-check"
import * as assert from "node:assert/strict"
import { setImmediate } from "node:timers/promises"
import * as deadLetters from "../../src/internal/queue/deadLetters.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import type { Call, Fault } from "../../src/layers/MemoryDisk.js"
import type { Disk } from "../../src/services/Disk.js"
import * as queues from "./queue.js"

/** A destination of events, and the worker that delivers to it. */
export interface Target {
  readonly segmentBytes: number
  /** The id of the `index`-th event of a step, after `appended` earlier ones. */
  readonly idOf: (appended: number, index: number) => string
  readonly line: (id: string) => string
  /** The ids of delivered events. */
  readonly stored: ReadonlySet<string>
  /** Starts to deliver from a queue, in a process that may be killed. */
  readonly start: (queue: queues.Queue) => Effect.Effect<Worker, never, Scope.Scope>
  /** Sets the faults of the next statements, as the disk has them for its calls. */
  readonly inject: (fault: () => Fault | undefined) => void
  /** Fails if something is wrong with the delivered events. */
  readonly judge: Effect.Effect<void>
}

export interface Worker {
  /** Delivers one batch, or more. */
  readonly deliver: (options: {
    readonly maxRecords: number
    readonly isRejected: (id: string) => boolean
  }) => Effect.Effect<unknown, unknown>
  readonly deliverAll: Effect.Effect<unknown, unknown>
}

/** A set of ids, which never fails. */
export const plainTarget: Effect.Effect<Target> = Effect.sync(() => {
  const stored = new Set<string>()
  return {
    segmentBytes: 150,
    idOf: (appended, index) => `${appended}-${index}`,
    line: (id) => queues.lineOf(id),
    stored,
    start: (queue) =>
      Effect.succeed({
        deliver: (options) => queues.deliver(queue, stored, options),
        deliverAll: queues.deliverAll(queue, stored)
      }),
    inject: () => undefined,
    judge: Effect.void
  }
})

/** An action, and its mishap at one of its calls to the disk. */
export interface Step {
  readonly action:
    | { readonly type: "append"; readonly count: number }
    | { readonly type: "deliver"; readonly maxRecords: number; readonly rejecting: boolean }
    | { readonly type: "compact" }
    | { readonly type: "reopen" }
    /** Decides about this many of the oldest letters. */
    | { readonly type: "retry" | "discard"; readonly count: number }
  readonly mishap:
    | { readonly type: "kill" | "power"; readonly call: number }
    /** Fails `times` calls from this one on; a write leaves `short` bytes. */
    | {
        readonly type: "fail"
        readonly call: number
        readonly short: number | undefined
        readonly times: number
      }
    /**
     * Answers the call later than an append waits. If it was an append, then the answer comes at the end of the next
     * step: success, or this code.
     */
    | { readonly type: "hang"; readonly call: number; readonly code: string | undefined }
    | undefined
}

/** A history, and the dice of its power cuts: 0 when they are used up. */
export interface History {
  readonly steps: ReadonlyArray<Step>
  readonly dice: ReadonlyArray<number>
}

const call = fc.nat(14)
const mishap: fc.Arbitrary<Step["mishap"]> = fc.oneof(
  { weight: 8, arbitrary: fc.constant(undefined) },
  { weight: 6, arbitrary: fc.record({ type: fc.constantFrom("kill" as const, "power" as const), call }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant("fail" as const),
      call,
      short: fc.option(fc.nat(80), { nil: undefined }),
      times: fc.integer({ min: 1, max: 3 })
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant("hang" as const),
      call,
      code: fc.constantFrom(undefined, "EIO")
    })
  }
)
const ACTIONS: ReadonlyArray<fc.WeightedArbitrary<Step["action"]>> = [
  {
    weight: 4,
    arbitrary: fc.record({ type: fc.constant("append" as const), count: fc.integer({ min: 1, max: 3 }) })
  },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant("deliver" as const),
      maxRecords: fc.integer({ min: 1, max: 4 }),
      rejecting: fc.boolean()
    })
  },
  { weight: 1, arbitrary: fc.constant({ type: "compact" as const }) },
  { weight: 1, arbitrary: fc.constant({ type: "reopen" as const }) }
]
const DECISION: fc.WeightedArbitrary<Step["action"]> = {
  weight: 2,
  arbitrary: fc.record({
    type: fc.constantFrom("retry" as const, "discard" as const),
    count: fc.integer({ min: 1, max: 3 })
  })
}

/** Histories of up to `maxLength` steps. */
export const histories = (maxLength = 12, decides = true): fc.Arbitrary<History> => {
  const action = fc.oneof(...ACTIONS, ...(decides ? [DECISION] : []))
  return fc.record({
    steps: fc.array(fc.record({ action, mishap }), { minLength: 1, maxLength, size: "max" }),
    dice: fc.array(fc.nat(1_000_000), { maxLength: 40, size: "max" })
  })
}

const DIRECTORY = "/audit"
const lettersOf = (disk: Disk["Type"]) => deadLetters.make(disk, DIRECTORY)

const APPEND_TIMEOUT = "10 seconds"

/**
 * Runs a history, and throws if the oracle finds a broken promise. `skip` names calls that are left out. Returns how
 * many calls the last step made, up to its mishap and including it.
 */
export const live = (
  history: History,
  skip?: (call: Call) => boolean,
  makeTarget: Effect.Effect<Target, never, Scope.Scope> = plainTarget
): Effect.Effect<number> =>
  Effect.gen(function* () {
    const target = yield* makeTarget
    const { idOf, line, stored: database } = target
    const memory = MemoryDisk.make()
    let disk = memory.startProcess()
    let open:
      | { readonly queue: queues.Queue; readonly worker: Worker; readonly close: Effect.Effect<void> }
      | undefined
    let die = 0
    const choose = (bound: number) => (history.dice[die++] ?? 0) % bound
    let appended = 0

    // ------------------------------------------------------------------------------- what the world outside knows
    const acknowledged = new Map<string, number>()
    const rejected = new Set<string>()
    /** Ids that somebody wanted to discard; of those in `gone` the queue has said that they are discarded. */
    const discarding = new Set<string>()
    const gone = new Set<string>()
    /** Ids that were retried; of those in `interrupted` something went wrong meanwhile. */
    const repeated = new Set<string>()
    const interrupted = new Set<string>()
    let isDisturbed = false
    let isCut = false
    let isOver = false
    /** The number of lines that retries may have appended. */
    let retried = 0
    let queueId: string | undefined
    /**
     * Failed fsyncs of a segment whose lines could not be cut off either. The system then shows lines that are not on
     * disk, and the next process numbers them. A power cut can make such a number `missing`, although nobody was told
     * that its event is safe.
     */
    let doubtful = 0
    let reached = { delivered: 0, torn: 0, refused: 0 }

    const skipping = (call: Call | undefined): Fault | undefined =>
      call !== undefined && skip?.(call) === true ? { type: "skip" } : undefined
    const harmless = () => {
      memory.inject(skipping)
      target.inject(() => undefined)
    }
    harmless()

    const ensureOpen = Effect.gen(function* () {
      open ??= yield* start(disk, target)
      queueId ??= open.queue.queueId
      return open.queue
    })

    /** Runs the action. Its result counts only while the process lives. */
    const act = (action: Step["action"], isAlive: () => boolean): Effect.Effect<unknown, unknown> =>
      Effect.gen(function* () {
        const queue = yield* ensureOpen
        switch (action.type) {
          case "append": {
            const ids = Array.from({ length: action.count }, (_, index) => idOf(appended, index))
            appended += action.count
            const one = (id: string) =>
              Effect.tap(queue.append(line(id), id), (sequence) => {
                if (isAlive()) acknowledged.set(id, sequence)
              })
            return yield* Effect.forEach(ids, (id) => Effect.exit(one(id)), { concurrency: "unbounded" })
          }
          case "deliver": {
            // A refused event may be accepted later: somebody mended the table, or the program knows its kind.
            const isRejected = (id: string) => {
              const isRefused = action.rejecting && !database.has(id) && id.endsWith("1")
              if (isRefused) rejected.add(id)
              return isRefused
            }
            yield* open!.worker.deliver({ maxRecords: action.maxRecords, isRejected })
            if (isAlive()) yield* remember(queue)
            return
          }
          case "compact":
            // not during an append, which holds the guard
            return yield* Effect.zipRight(settle, queue.compact)
          case "reopen": {
            const { close } = open!
            open = undefined
            return yield* Effect.zipRight(close, ensureOpen)
          }
          case "retry":
          case "discard": {
            const letters = (yield* openLetters).slice(0, action.count)
            const chosen = new Set(letters.map(({ id }) => id))
            if (action.type === "retry") {
              retried += chosen.size
              for (const { event } of letters) {
                if (event !== undefined) (isDisturbed ? interrupted : repeated).add(event)
              }
              return yield* queue.retry(({ id }) => chosen.has(id), "operator")
            }
            const events = letters.flatMap(({ event }) => event ?? [])
            for (const event of events) discarding.add(event)
            const ids = { action: "discard", letters: [...chosen], by: "operator" } as const
            yield* requests.submit(disk, DIRECTORY, ids)
            yield* queue.carryOutRequests
            // a letter stays if the cursor could not count it
            const open = new Set((yield* openLetters).map(({ event }) => event))
            if (isAlive()) for (const event of events) if (!open.has(event)) gone.add(event)
            return
          }
        }
      })

    const remember = (queue: queues.Queue) =>
      Effect.map(queues.books(queue), ({ dead, delivered, discarded, retried, torn }) => {
        reached = { delivered, torn, refused: dead + retried + discarded }
      })

    /** The letters that wait for a decision, as an operator sees them. */
    const openLetters = Effect.gen(function* () {
      const letters = yield* lettersOf(disk)
      const { entries } = yield* letters.page({ limit: 1000, contentBytes: 1 << 20, select: () => true })
      return entries.map(({ letter: { base64, id, length, line } }) => {
        const bytes = line === undefined ? Buffer.from(base64 ?? "", "base64") : Buffer.from(line)
        return { id, event: queues.idOf({ bytes, problem: undefined }), isWhole: bytes.length === length }
      })
    })

    /**
     * No file holds an event that the queue reported as discarded, whatever was lost. Two gaps are known. An event that
     * was retried before has an older line, which a power cut brings back with its segment until the next start. If a
     * retry ends between its line and its decision, then the letter is open and the line waits: a discard ends the
     * letter, and the line is delivered.
     */
    const nothingOfTheGone = Effect.gen(function* () {
      const absent = [...gone].filter(
        (id) => !(isCut && repeated.has(id)) && !(interrupted.has(id) && !isOver)
      )
      if (absent.length === 0) return
      const reader = memory.startProcess()
      for (const name of yield* reader.list(DIRECTORY)) {
        const file = `${DIRECTORY}/${name}`
        if ((yield* reader.info(file))?.type !== "file") continue
        const text = (yield* queues.textOf(reader, file)).replaceAll("\\", "")
        for (const id of absent)
          assert.ok(!text.includes(`"${id}"`), `${id} was discarded, and stands in ${name}`)
      }
    })

    /** Answers a call whose caller has given up. */
    let answerLate: Effect.Effect<unknown> = Effect.void
    let calls = 0

    for (const { action, mishap } of history.steps) {
      let alive = true
      isDisturbed = mishap !== undefined
      const answerEarlier = answerLate
      answerLate = Effect.void
      const frozen = yield* Deferred.make<void>()
      const buried = yield* Deferred.make<void>()
      calls = 0
      let syncFailed = false
      const answer = yield* Deferred.make<void>()
      const faultOf = (call: Call | undefined): Fault | undefined => {
        calls++
        if (mishap === undefined || calls <= mishap.call) return skipping(call)
        if (mishap.type === "fail") {
          const failed = calls - 1 - mishap.call
          if (failed >= mishap.times) return skipping(call)
          // the failed call after a failed fsync is the one that cuts the lines off
          if (syncFailed) doubtful++
          syncFailed ||= call?.operation === "append" && call.step === "sync"
          return mishap.short === undefined || failed > 0
            ? { type: "fail", code: "EIO" }
            : { type: "short", bytes: mishap.short, code: "EIO" }
        }
        if (mishap.type === "hang") {
          if (calls - 1 > mishap.call) return skipping(call)
          Deferred.unsafeDone(frozen, Exit.void)
          return { type: "wait", until: Deferred.await(answer), code: mishap.code }
        }
        alive = false
        Deferred.unsafeDone(frozen, Exit.void)
        return { type: "wait", until: Deferred.await(buried), code: "KILLED" }
      }
      memory.inject(faultOf)
      target.inject(() => faultOf(undefined))
      const before = open
      const done = yield* Effect.forkDaemon(Effect.exit(act(action, () => alive)))
      yield* Effect.raceFirst(done.await, Deferred.await(frozen))
      if (mishap?.type === "kill" || mishap?.type === "power") {
        alive = false
        if (mishap.type === "kill") memory.kill()
        else memory.cutPower(choose)
        harmless()
        isCut = mishap.type === "power"
        yield* nothingOfTheGone
        isCut = false
        yield* Deferred.succeed(buried, undefined)
        yield* answerEarlier
        yield* done.await
        for (const life of [before, open]) if (life !== undefined) yield* life.close
        open = undefined
        disk = memory.startProcess()
      } else {
        if (yield* Deferred.isDone(frozen)) {
          yield* settle
          yield* TestClock.adjust(APPEND_TIMEOUT)
          yield* settle
          const isGivenUp = Option.isSome(yield* done.poll)
          const answered = Effect.zipRight(Deferred.succeed(answer, undefined), settle)
          if (isGivenUp) answerLate = answered
          else yield* answered
        }
        const exit = yield* done.await
        harmless()
        yield* answerEarlier
        const result = Exit.flatten(exit)
        assert.ok(Exit.isSuccess(result) || !Cause.isDie(result.cause), String(result))
      }
      const judged = yield* Effect.catchTag(ensureOpen, "QueueLocked", () => {
        // the disk did not answer the close: only the end of the process releases the lock
        memory.kill()
        disk = memory.startProcess()
        return ensureOpen
      })
      yield* judge(judged)
    }

    const lastCalls = calls
    yield* answerLate
    // at the end everything is delivered, and nothing is lost
    const queue = yield* ensureOpen
    yield* open!.worker.deliverAll
    yield* judge(queue)
    const end = yield* queues.books(queue)
    if (doubtful === 0) assert.equal(end.waiting, 0, "everything is delivered at last")
    const counts = (yield* lettersOf(disk)).counts()
    assert.deepEqual(
      { refused: end.dead + end.retried + end.discarded, torn: end.torn },
      { refused: counts.letters, torn: counts.torn },
      "each letter is counted as refused, and only they are"
    )
    yield* open!.close
    isOver = true
    yield* nothingOfTheGone
    return lastCalls

    function judge(queue: queues.Queue) {
      return Effect.gen(function* () {
        const status = yield* queues.books(queue)
        assert.equal(queue.queueId, queueId, "the queue keeps its identity")
        if (doubtful === 0) assert.equal(status.missing, 0, "nothing is missing by the books")
        assert.ok(status.balanced, `the books add up: ${JSON.stringify(status)}`)
        assert.ok(status.accepted <= appended + retried, "no line is counted twice")
        assert.ok(status.delivered >= reached.delivered, "delivered does not go back")
        assert.ok(status.torn >= reached.torn, "torn does not go back")
        const refused = status.dead + status.retried + status.discarded
        assert.ok(refused >= reached.refused, "refused does not go back")
        const waiting = new Set(yield* queues.waitingIds(queue))
        const letters = yield* openLetters
        // including letters that a crash kept from the books: their lines still wait
        const dead = new Set([...letters.map(({ event }) => event), ...discarding])
        assert.ok(
          letters.every(({ isWhole }) => isWhole),
          "what waits for a decision can be read"
        )
        for (const [id, sequence] of acknowledged) {
          assert.ok(database.has(id) || waiting.has(id) || dead.has(id), `${id} is lost`)
          assert.ok(sequence < status.nextSequence, `the number of ${id} would be used again`)
        }
        const numbers = new Set(acknowledged.values())
        assert.equal(numbers.size, acknowledged.size, "no number is used twice")
        for (const id of acknowledged.keys()) {
          if (rejected.has(id) && !database.has(id))
            assert.ok(waiting.has(id) || dead.has(id), `${id} was refused and is gone`)
        }
        yield* target.judge
      })
    }
  }).pipe(
    Effect.scoped,
    Effect.orDie,
    Effect.provide(TestContext.TestContext),
    Logger.withMinimumLogLevel(LogLevel.None)
  )

/** A process: its queue, and what delivers from it. */
const start = (disk: Disk["Type"], { segmentBytes, start }: Target) =>
  Effect.gen(function* () {
    const { close, queue } = yield* queues.openClosable(disk, {
      segmentBytes,
      appendTimeout: APPEND_TIMEOUT
    })
    const scope = yield* Scope.make()
    const worker = yield* Scope.extend(start(queue), scope)
    return { queue, worker, close: Effect.zipRight(Scope.close(scope, Exit.void), close) }
  })

/** Lets all background work finish: the disk answers in microtasks. */
const settle = Effect.promise(() => setImmediate())
