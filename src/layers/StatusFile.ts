/**
 * Keeps `status.json` beside the queue, so that other processes can tell how delivery is going.
 *
 * @since 0.1.0
 */
import { Clock, Effect, Layer, Stream } from "effect"
import type { Shutdown } from "../internal/shutdown.js"
import * as statusFile from "../internal/queue/statusFile.js"
import { Disk } from "../services/Disk.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler, type DeliveryStatus } from "../services/Scheduler.js"

/** Written after a change, but at most this often: under load the state changes with every event. */
const INTERVAL = "1 second"

/**
 * @category layers
 * @since 0.1.0
 */
export const layer = (shutdown: Shutdown): Layer.Layer<never, never, Disk | QueueFile | Scheduler> =>
  Layer.scopedDiscard(
    Effect.gen(function* () {
      const disk = yield* Disk
      const queue = yield* QueueFile
      const scheduler = yield* Scheduler
      let before = { settled: (yield* queue.progress).settled, at: yield* Clock.currentTimeMillis }

      const write = (status: DeliveryStatus, state: statusFile.StatusFile["state"]) =>
        Effect.gen(function* () {
          const at = yield* Clock.currentTimeMillis
          const { settled } = yield* queue.progress
          const seconds = (at - before.at) / 1000
          const rate = seconds > 0 ? Math.max(0, settled - before.settled) / seconds : 0
          before = { settled, at }
          yield* statusFile.write(disk, queue.directory, {
            format: 1,
            pid: process.pid,
            at,
            state,
            failure: status.failure ?? null,
            failures: status.failures,
            nextTry: status.nextTry ?? null,
            lastDelivery: status.lastDelivery ?? null,
            rate
          })
        }).pipe(Effect.catchAll((error) => Effect.logDebug("audit: status.json was not written", error)))

      yield* Effect.addFinalizer(() =>
        shutdown.within(Effect.flatMap(scheduler.status, (status) => write(status, "closed")))
      )
      yield* scheduler.changes.pipe(
        Stream.buffer({ capacity: 1, strategy: "sliding" }),
        Stream.runForEach((status) => Effect.zipRight(write(status, status.state), Effect.sleep(INTERVAL))),
        Effect.forkScoped
      )
    })
  )
