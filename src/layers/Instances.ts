/**
 * Instances: several processes of one program at once (PM2, cluster). Each owns a sub-directory, and if one ends, then
 * the others deliver what it has left.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Layer, Schedule } from "effect"
import { contained, supervised } from "../internal/contained.js"
import * as directories from "../internal/queue/directory.js"
import { isSegment } from "../internal/queue/segments.js"
import { spacedFor } from "../internal/monotonic.js"
import { make as makeShutdown } from "../internal/shutdown.js"
import { QueueLocked, QueueOpenError } from "../schema/Errors.js"
import { Disk } from "../services/Disk.js"
import { QueueFile } from "../services/QueueFile.js"
import type { Uploader } from "../services/Uploader.js"
import * as QueueFileLayer from "./QueueFileLive.js"
import * as SchedulerLayer from "./SchedulerLive.js"

/**
 * @category models
 * @since 0.1.0
 */
export interface Options extends Omit<QueueFileLayer.Options, "adopt"> {
  /** how many processes may run at once */
  readonly instances: number
  readonly adopt?: QueueFileLayer.Options["adopt"]
  /** how the queue of an ended process is delivered */
  readonly scheduler: SchedulerLayer.Options
}

/** A take-over holds a queue for this long, then leaves it for `PAUSE`, so that a starting process can take it. */
const HOLD = Duration.seconds(2)
const RETRY = Duration.millis(200)
const PAUSE = Duration.times(RETRY, 3)

/** How long the close of another process's queue may take, since a shutdown of this one waits for it. */
const LEAVE = Duration.seconds(1)

/** The default wait for a free sub-directory, since a take-over may hold one. */
const WAIT = Duration.seconds(5)

/** The parent directory, and the sub-directories. */
const placesOf = (options: Options, disk: Disk["Type"]) =>
  Effect.map(
    directories.prepare(disk, disk.resolve(options.directory), {
      unsafeFileSystem: options.unsafeFileSystem ?? false
    }),
    (parent) => ({
      parent,
      own: Array.from({ length: options.instances }, (_, index) => `${parent.directory}/instance-${index}`)
    })
  )

/** Opens the queue in a sub-directory, but follows no link, which may lead anywhere. */
const openInstance = (options: QueueFileLayer.Options) =>
  Effect.gen(function* () {
    const { directory } = options
    const disk = yield* Disk
    const info = yield* Effect.mapError(disk.info(directory), directories.openError(directory))
    if (info !== undefined && info.type !== "directory") {
      return yield* new QueueOpenError({
        directory,
        reason: "it is not a directory. See what it is and who put it there, and move it away."
      })
    }
    return yield* QueueFileLayer.make(options)
  })

/**
 * The queue in the first free sub-directory; `QueueLocked` if all are taken.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerQueue = (options: Options): Layer.Layer<QueueFile, QueueOpenError | QueueLocked, Disk> =>
  Layer.scoped(
    QueueFile,
    Effect.gen(function* () {
      const { own, parent } = yield* placesOf(options, yield* Disk)
      const attempts = own.map((directory, index) =>
        openInstance({
          ...options,
          directory,
          // only the first instance adopts, under its lock: two would each copy a file from another file system
          adopt: index === 0 ? options.adopt : undefined,
          // no wait, since the next sub-directory may be free
          lockWait: 0
        })
      )
      const [first, ...others] = attempts
      const firstFree = others.reduce(
        (earlier, attempt) => Effect.catchTag(earlier, "QueueLocked", () => attempt),
        first!
      )
      const schedule = yield* spacedFor(RETRY, options.lockWait ?? WAIT)
      const queue = yield* Effect.retry(firstFree, {
        while: (error) => error._tag === "QueueLocked",
        schedule
      }).pipe(
        Effect.catchTag(
          "QueueLocked",
          ({ pid, sameProcess }) =>
            new QueueLocked({
              directory: parent.directory,
              pid,
              sameProcess,
              instances: options.instances
            })
        )
      )
      yield* directories.warnOfSharing(parent)
      return queue
    })
  )

/**
 * Delivers, at each poll, the queues in sub-directories without an owner.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTakeOver = (
  options: Options
): Layer.Layer<never, QueueOpenError, Disk | QueueFile | Uploader> =>
  Layer.scopedDiscard(
    Effect.gen(function* () {
      const disk = yield* Disk
      const own = yield* QueueFile
      const places = yield* placesOf(options, disk)
      const others = places.own.filter((directory) => directory !== own.directory)
      const pollInterval = Duration.decode(options.scheduler.pollInterval ?? "60 seconds")
      yield* Effect.forEach(others, (directory) => takeOver(options, directory), { discard: true }).pipe(
        Effect.repeat(Schedule.spaced(pollInterval)),
        (loop) => contained(supervised("the look at other instances", loop)),
        Effect.forkScoped
      )
    })
  )

const takeOver = (options: Options, directory: string): Effect.Effect<void, never, Disk | Uploader> =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const names = yield* Effect.orElseSucceed(disk.list(directory), () => [])
    if (!names.some(isSegment)) return
    const waiting = yield* Effect.scoped(hold(options, directory))
    if (waiting > 0) yield* Effect.delay(takeOver(options, directory), PAUSE)
  }).pipe(
    // its process owns it, or the database is away: the next poll tries again
    Effect.catchAll((error) => Effect.logDebug(`audit: ${directory} is not taken over: ${error.message}`))
  )

/** Delivers for a while; returns how many events still wait. */
const hold = (options: Options, directory: string) =>
  Effect.gen(function* () {
    const shutdown = yield* makeShutdown(LEAVE)
    const queue = yield* openInstance({
      ...options,
      directory,
      adopt: undefined,
      lockWait: 0,
      shutdown
    })
    const scheduler = yield* Effect.provideService(
      SchedulerLayer.make({ ...options.scheduler, shutdown }),
      QueueFile,
      queue
    )
    yield* Effect.timeoutOption(scheduler.flush, HOLD)
    const { next, settled } = yield* queue.progress
    return next - settled
  })
