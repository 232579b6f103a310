/**
 * The status file: keeps `status.json` in the queue's directory, where other processes see how delivery is going.
 *
 * @since 0.1.0
 */
import { Clock, Effect, Layer, type Scope, Stream } from "effect"
import { containedScope, step, supervised } from "../internal/contained.js"
import { monotonicMillis } from "../internal/monotonic.js"
import type { Shutdown } from "../internal/shutdown.js"
import * as statusFile from "../internal/queue/statusFile.js"
import type { QueueAccessError } from "../schema/Errors.js"
import { Disk, type DiskError, WRONG_TYPE } from "../services/Disk.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler, type DeliveryStatus } from "../services/Scheduler.js"

/** The shortest time between two writes: under load the state changes with every event. */
const INTERVAL = "1 second"

/**
 * Makes the scheduler, and keeps its status file. The last write comes after the scheduler's last delivery.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <E, R>(
  makeScheduler: Effect.Effect<Scheduler["Type"], E, R>,
  shutdown: Shutdown
): Layer.Layer<Scheduler, E, Disk | QueueFile | Exclude<R, Scope.Scope>> =>
  Layer.scoped(
    Scheduler,
    containedScope(
      Effect.gen(function* () {
        const disk = yield* Disk
        const queue = yield* QueueFile
        const clock = yield* Effect.clock
        let before = { settled: (yield* queue.progress).settled, at: monotonicMillis(clock) }

        const write = (status: DeliveryStatus, state: statusFile.StatusFile["state"]) =>
          Effect.gen(function* () {
            const now = monotonicMillis(clock)
            const { settled } = yield* queue.progress
            const seconds = (now - before.at) / 1000
            const rate = seconds > 0 ? Math.max(0, settled - before.settled) / seconds : 0
            before = { settled, at: now }
            const file = statusFile.write(disk, queue.directory, {
              format: 1,
              pid: process.pid,
              at: yield* Clock.currentTimeMillis,
              state,
              failure: status.failure ?? null,
              failures: status.failures,
              nextTry: status.nextTry ?? null,
              lastDelivery: status.lastDelivery ?? null,
              rate
            })
            yield* queue.writing(file)
          }).pipe(Effect.catchAll(notWritten))

        let said = ""
        const notWritten = (error: QueueAccessError | DiskError) =>
          Effect.gen(function* () {
            yield* Effect.logDebug("audit: status.json was not written", error)
            // if the disk is full or fails, then appends and commits fail and say so
            if (error.code !== WRONG_TYPE || said === error.message) return
            said = error.message
            yield* Effect.logWarning(`audit: status.json was not written. ${error.message}`)
          })

        let lastStatus: Effect.Effect<unknown> = Effect.void
        // added before the scheduler is made, so that it runs after the last delivery
        yield* Effect.addFinalizer(() => step("the last status", shutdown.within(lastStatus)))
        const made = yield* makeScheduler
        lastStatus = Effect.flatMap(made.status, (status) => write(status, "closed"))
        yield* made.changes.pipe(
          Stream.buffer({ capacity: 1, strategy: "sliding" }),
          Stream.runForEach((status) => Effect.zipRight(write(status, status.state), Effect.sleep(INTERVAL))),
          (keep) => supervised("the status file", keep),
          Effect.forkScoped
        )
        return made
      })
    )
  )
