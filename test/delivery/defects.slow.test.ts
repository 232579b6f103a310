/**
 * Defects in the program's hooks and uploader, which throw, die, hang or answer nonsense. The worker continues, each
 * event is delivered once and rightly, the state is true, and the log closes.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  type Clock,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberRef,
  Layer,
  Logger,
  LogLevel,
  MetricLabel,
  Option,
  Scope,
  TestClock,
  TestContext,
  Tracer
} from "effect"
import { globalValue } from "effect/GlobalValue"
import * as fc from "fast-check"
import { contained } from "../../src/internal/contained.js"
import { makeTally } from "../../src/internal/metrics.js"
import { make as makeShutdown } from "../../src/internal/shutdown.js"
import * as statusFile from "../../src/internal/queue/statusFile.js"
import * as AuditLogLayer from "../../src/layers/AuditLogLive.js"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import * as Metrics from "../../src/layers/Metrics.js"
import * as QueueFileLayer from "../../src/layers/QueueFileLive.js"
import * as SchedulerLayer from "../../src/layers/SchedulerLive.js"
import * as StatusFile from "../../src/layers/StatusFile.js"
import { UploadError } from "../../src/schema/Errors.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { AuditLog } from "../../src/services/AuditLog.js"
import { Disk } from "../../src/services/Disk.js"
import { QueueFile } from "../../src/services/QueueFile.js"
import { Uploader, type UploadBatch, type UploadResult } from "../../src/services/Uploader.js"

const isLong = process.env.AUDIT_LONG === "1"
const UPLOAD_TIMEOUT = 60

/** Which call misbehaves, counted from 1, until the hook is repaired. */
type Behaviour = "once" | "always" | number
const behaviours: fc.Arbitrary<Behaviour> = fc.oneof(
  fc.constantFrom<Behaviour>("once", "always"),
  fc.integer({ min: 2, max: 12 })
)

class Misbehaving {
  calls = 0
  misbehaved = 0
  /** off while the program's own fiber calls the hook: the audit log cannot contain that */
  isArmed = true

  constructor(readonly behaviour: Behaviour) {}

  /** Counts a call, and says whether it misbehaves. */
  get isDue(): boolean {
    if (!this.isArmed) return false
    this.calls++
    const due = this.behaviour === "always" || this.calls === (this.behaviour === "once" ? 1 : this.behaviour)
    if (due) this.misbehaved++
    return due
  }

  throw(): void {
    if (this.isDue) throw new Error("a defect of the program")
  }

  mend(): void {
    this.isArmed = false
  }
}

/** The hooks that the audit log calls, and how a program provides each. */
const hooks: Record<
  string,
  (hook: Misbehaving) => <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
> = {
  logger: (hook) => (effect) =>
    Effect.provide(effect, [
      Logger.replace(
        Logger.defaultLogger,
        Logger.make(() => hook.throw())
      ),
      Logger.minimumLogLevel(LogLevel.Trace)
    ]),
  "log level": () => (effect) =>
    Effect.locally(effect, FiberRef.currentMinimumLogLevel, undefined as unknown as LogLevel.LogLevel),
  "tracer, beginning a span": (hook) => (effect) =>
    Effect.withTracer(effect, tracerOf({ span: () => hook.throw() })),
  "tracer, ending a span": (hook) => (effect) =>
    Effect.withTracer(effect, tracerOf({ end: () => hook.throw() })),
  "tracer, around a step": (hook) => (effect) =>
    Effect.withTracer(effect, tracerOf({ context: () => hook.throw() })),
  clock: (hook) => (effect) =>
    Effect.flatMap(Effect.clock, (clock) =>
      Effect.withClock(
        effect,
        new Proxy(clock, {
          get: (target, key) => {
            if (key === "unsafeCurrentTimeMillis" || key === "unsafeCurrentTimeNanos") hook.throw()
            const member: unknown = Reflect.get(target, key, target)
            return typeof member === "function" ? (member.bind(target) as unknown) : member
          }
        })
      )
    ),
  "metric labels": (hook) => (effect) => {
    const label = MetricLabel.make("a", "b")
    const labels = new Proxy([label], {
      get: (target, key) => {
        hook.throw()
        return Reflect.get(target, key) as unknown
      }
    })
    return Effect.locally(effect, FiberRef.currentMetricLabels, labels)
  }
}

/** Hooks that the fiber which builds and closes the layer also calls itself, at every step. */
const ofEveryStep = ["tracer, around a step", "metric labels"]

const tracerOf = (throwing: {
  readonly span?: () => void
  readonly end?: () => void
  readonly context?: () => void
}) => {
  const live = Effect.runSync(Effect.tracer)
  return Tracer.make({
    span: (...args) => {
      throwing.span?.()
      const span = live.span(...args)
      const end = span.end.bind(span)
      span.end = (...ends) => {
        throwing.end?.()
        end(...ends)
      }
      return span
    },
    context: (run) => {
      throwing.context?.()
      return run()
    }
  })
}

type Upload = (batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>

const rejecting = (...rejected: ReadonlyArray<unknown>): Upload => {
  return () => Effect.succeed({ rejected } as UploadResult)
}
const letter = { index: 0, code: "1", reason: "refused" }

/** What a custom uploader may do, and the code of the failure in the status. */
const uploads: Record<string, { readonly upload: Upload; readonly code: "DEFECT" | "ETIMEDOUT" }> = {
  throws: {
    upload: () => {
      throw new Error("a defect of the program")
    },
    code: "DEFECT"
  },
  "returns nothing": { upload: () => undefined as never, code: "DEFECT" },
  "returns a promise": { upload: () => Promise.resolve({ rejected: [] }) as never, code: "DEFECT" },
  dies: { upload: () => Effect.die("a defect of the program"), code: "DEFECT" },
  "fails with an error of another kind": { upload: () => Effect.fail("no" as never), code: "DEFECT" },
  "interrupts itself": { upload: () => Effect.interrupt, code: "DEFECT" },
  "never answers": { upload: () => Effect.never, code: "ETIMEDOUT" },
  "never answers, and cannot be interrupted": {
    upload: () => Effect.uninterruptible(Effect.never),
    code: "ETIMEDOUT"
  },
  "answers nothing": { upload: () => Effect.succeed(undefined as never), code: "DEFECT" },
  "answers no list": { upload: () => Effect.succeed({ rejected: "none" } as never), code: "DEFECT" },
  "rejects an index beyond the batch": { upload: rejecting({ ...letter, index: 99 }), code: "DEFECT" },
  "rejects a negative index": { upload: rejecting({ ...letter, index: -1 }), code: "DEFECT" },
  "rejects half an index": { upload: rejecting({ ...letter, index: 0.5 }), code: "DEFECT" },
  "rejects no index": { upload: rejecting(null), code: "DEFECT" },
  "rejects an event twice": { upload: rejecting(letter, letter), code: "DEFECT" },
  "rejects without a reason": { upload: rejecting({ index: 0, code: "1" }), code: "DEFECT" },
  "answers with something that throws": {
    upload: () =>
      Effect.succeed({
        get rejected(): never {
          throw new Error("a defect of the program")
        }
      }),
    code: "DEFECT"
  }
}

/** The whole log over a disk in memory, and its table. */
const open = (
  disk: Disk["Type"],
  uploader: Uploader["Type"],
  listener?: () => void,
  within: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = (effect) => effect
) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const shutdown = yield* makeShutdown("5 seconds")
    const tally = makeTally([UseLog])
    const events = [UseLog]
    const worker = SchedulerLayer.make({ events, shutdown, uploadTimeout: Duration.seconds(UPLOAD_TIMEOUT) })
    const layer = Layer.mergeAll(
      AuditLogLayer.layer({ events, tally }),
      listener === undefined ? Layer.empty : Metrics.layer({ tally }),
      Layer.scopedDiscard(Effect.flatMap(QueueFile, (queue) => queue.onAppend(listener ?? (() => undefined))))
    ).pipe(
      Layer.provide(StatusFile.layer(worker, shutdown)),
      Layer.provide(QueueFileLayer.layer({ directory: "/audit", minFreeBytes: 0, shutdown })),
      Layer.provide(Layer.succeed(Uploader, uploader)),
      Layer.provide(Layer.succeed(Disk, disk))
    )
    const log = Context.get(yield* within(Layer.buildWithScope(layer, scope)), AuditLog)
    return { log, close: within(Scope.close(scope, Exit.void)) }
  })

const seconds = (count: number) => TestClock.adjust(Duration.seconds(count))
const settle = TestClock.adjust(0)

/** Closes a log in bounded time, and reads its status file. */
const closeInTime = (disk: Disk["Type"], close: Effect.Effect<void>) =>
  Effect.gen(function* () {
    const closing = yield* Effect.fork(close)
    yield* seconds(5)
    assert.isTrue(Option.isSome(yield* Fiber.poll(closing)), "it closes in time")
    return Option.getOrThrow(yield* statusFile.read(disk, "/audit"))
  })

/** Opens the queue again, so its lock is free, and delivers the rest. */
const deliverRest = (memory: MemoryDisk.MemoryDisk, uploader: Uploader["Type"]) =>
  Effect.gen(function* () {
    const { close, log } = yield* open(memory.startProcess(), uploader)
    const flush = yield* Effect.fork(log.flush)
    yield* settle
    yield* Fiber.join(flush)
    const status = yield* log.status
    yield* close
    return status
  })

const quiet = Logger.remove(Logger.defaultLogger)

const run = (test: Effect.Effect<void, unknown>) =>
  Effect.runPromise(Effect.provide(Effect.orDie(test), [TestContext.TestContext, quiet]))

const idsOf = (events: ReadonlyArray<{ readonly eventId: string }>) =>
  events.map(({ eventId }) => eventId).sort()

it.live("replaces a clock that cannot sleep by the system's", () =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const broken = (sleep: Clock.Clock["sleep"]) =>
      Object.create(clock, { sleep: { value: sleep } }) as Clock.Clock
    const dying = broken(() => Effect.die("a defect of the program"))
    const throwing = broken(() => {
      throw new Error("a defect of the program")
    })
    for (const each of [dying, throwing]) {
      yield* Effect.withClock(contained(Effect.zipRight(Effect.sleep(1), Effect.fork(Effect.sleep(1)))), each)
    }
  })
)

it.effect("measures, records and delivers although a metric of the program throws", () =>
  Effect.gen(function* () {
    interface Registry {
      readonly get: (key: { readonly name: string }) => object
    }
    const registry = globalValue<Registry>(Symbol.for("effect/Metric/globalMetricRegistry"), () => {
      throw new Error("Effect keeps its metrics elsewhere")
    })
    const original = registry.get
    const throwing = () => {
      throw new Error("a defect of the program")
    }
    yield* Effect.acquireRelease(
      Effect.sync(() =>
        Object.assign(registry, {
          get: (key: { readonly name: string }) => {
            const hook = original.call(registry, key)
            return key.name.startsWith("effect_audit_")
              ? { ...hook, update: throwing, modify: throwing }
              : hook
          }
        })
      ),
      () => Effect.sync(() => Object.assign(registry, { get: original }))
    )
    const memory = MemoryDisk.make()
    const disk = memory.startProcess()
    const table = yield* makeMemoryUploader()
    yield* table.outage(new UploadError({ class: "transient", code: "1", reason: "away" }))
    const { close, log } = yield* open(disk, table.uploader, () => undefined)
    const { eventId } = yield* log.record("use_log", { status: "success" })
    yield* seconds(1)
    assert.include(yield* log.status, { state: "offline", waiting: 1 })
    yield* table.recover
    yield* seconds(5)
    assert.include(yield* log.status, { state: "idle", delivered: 1 })
    assert.deepEqual(idsOf(yield* table.stored(UseLog)), [eventId])
    assert.include(yield* closeInTime(disk, close), { state: "closed", failure: null })
  }).pipe(Effect.scoped, Effect.provide(quiet))
)

describe.concurrent("a hook that throws", () => {
  for (const name of [...Object.keys(hooks), "listener"]) {
    it(`${name}: delivers every acknowledged event once, and closes`, async () => {
      await fc.assert(
        fc.asyncProperty(behaviours, fc.integer({ min: 1, max: 4 }), (behaviour, count) =>
          run(
            Effect.gen(function* () {
              const hook = new Misbehaving(behaviour)
              const memory = MemoryDisk.make()
              const disk = memory.startProcess()
              const table = yield* makeMemoryUploader()
              const within = hooks[name]?.(hook)
              const listener = () => (name === "listener" ? hook.throw() : undefined)
              yield* table.outage(
                new UploadError({ class: "operator", code: "1045", reason: "the password is wrong" })
              )
              hook.isArmed = !ofEveryStep.includes(name)
              const { close, log } = yield* open(disk, table.uploader, listener, within)
              hook.isArmed = true
              const recorded = []
              for (let index = 0; index < count; index++) {
                const recording = yield* Effect.fork(log.record("use_log", { status: "success" }))
                yield* settle
                recorded.push(yield* Fiber.join(recording))
              }
              // its type has no error, so it must not die
              const logging = log.log("use_log", { status: 1 })
              yield* ofEveryStep.includes(name) ? logging : (within?.(logging) ?? logging)
              yield* seconds(3)
              assert.deepInclude(yield* log.status, { state: "needsOperator", waiting: count, delivered: 0 })

              yield* table.recover
              yield* seconds(10)
              assert.deepInclude(yield* log.status, {
                state: "idle",
                failures: 0,
                waiting: 0,
                delivered: count
              })

              const last = yield* Effect.fork(log.record("use_log", { status: "success" }))
              yield* settle
              recorded.push(yield* Fiber.join(last))
              hook.isArmed = !ofEveryStep.includes(name)
              const file = yield* closeInTime(disk, close)
              assert.include(file, { state: "closed", failure: null })
              if (!["log level", "metric labels"].includes(name))
                assert.isAbove(hook.calls, 0, "the hook was called")
              const rest = yield* deliverRest(memory, table.uploader)
              assert.deepInclude(rest, { delivered: count + 1, waiting: 0, dead: 0, missing: 0 })
              assert.deepEqual(idsOf(yield* table.stored(UseLog)), idsOf(recorded))
            })
          )
        ),
        { numRuns: isLong ? 20 : 4 }
      )
    })
  }
})

describe.concurrent("a custom uploader", () => {
  for (const [name, { code, upload }] of Object.entries(uploads)) {
    it(`${name}: the status reports it, and every event is delivered once after the repair`, async () => {
      await fc.assert(
        fc.asyncProperty(
          behaviours,
          fc.integer({ min: 1, max: 4 }),
          fc.integer({ min: 1, max: 3 }),
          (behaviour, count, concurrency) =>
            run(
              Effect.gen(function* () {
                const hook = new Misbehaving(behaviour)
                const memory = MemoryDisk.make()
                const disk = memory.startProcess()
                const table = yield* makeMemoryUploader()
                const { close, log } = yield* open(disk, {
                  concurrency,
                  upload: (batch) => (hook.isDue ? upload(batch) : table.uploader.upload(batch))
                })
                const recorded = []
                for (let index = 0; index < count; index++) {
                  const before = hook.misbehaved
                  recorded.push(yield* log.record("use_log", { status: "success" }))
                  yield* settle
                  if (hook.misbehaved === before) continue
                  if (code === "ETIMEDOUT") yield* seconds(UPLOAD_TIMEOUT)
                  const { failure, failures, state } = yield* log.status
                  assert.strictEqual(state, code === "DEFECT" ? "needsOperator" : "offline")
                  assert.strictEqual(failure?.code, code)
                  assert.isAbove(failures, 0)
                }
                if (behaviour === "always") {
                  // it retries, and the state never stays at `delivering`
                  for (let minute = 0; minute < 5; minute++) yield* seconds(60)
                  const flush = yield* Effect.fork(Effect.flip(log.flush))
                  yield* seconds(2 * UPLOAD_TIMEOUT)
                  assert.include(yield* Fiber.join(flush), { _tag: "FlushError", waiting: count })
                  assert.deepInclude(yield* log.status, { waiting: count, delivered: 0, dead: 0 })
                }
                hook.mend()
                yield* seconds(300 + UPLOAD_TIMEOUT)
                assert.deepInclude(yield* log.status, {
                  state: "idle",
                  failure: undefined,
                  waiting: 0,
                  delivered: count,
                  dead: 0
                })
                assert.include(yield* closeInTime(disk, close), { state: "closed", failure: null })
                yield* deliverRest(memory, table.uploader)
                assert.deepEqual(idsOf(yield* table.stored(UseLog)), idsOf(recorded))
              })
            )
        ),
        { numRuns: isLong ? 10 : 3 }
      )
    })

    it.effect(`${name}: the status file reports it at the end, and the lock is free`, () =>
      Effect.gen(function* () {
        const memory = MemoryDisk.make()
        const disk = memory.startProcess()
        const { close, log } = yield* open(disk, { concurrency: 1, upload })
        const { eventId } = yield* log.record("use_log", { status: "success" })
        yield* settle
        const file = yield* closeInTime(disk, close)
        assert.include(file, { state: "closed" })
        assert.strictEqual(file.failure?.code, code)
        const table = yield* makeMemoryUploader()
        assert.deepInclude(yield* deliverRest(memory, table.uploader), { delivered: 1, waiting: 0 })
        assert.deepEqual(idsOf(yield* table.stored(UseLog)), [eventId])
      }).pipe(Effect.provide(quiet))
    )
  }
})
