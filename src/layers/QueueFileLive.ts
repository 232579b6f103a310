/**
 * The queue on disk. Appends are group-committed to the newest segment. Delivery reads from the cursor on, and
 * delivered segments are removed. After a crash, internal/queue/recovery.ts decides where the queue continues.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Layer, Stream, type Scope } from "effect"
import { containedScope, step } from "../internal/contained.js"
import { adopt } from "../internal/python/adoption.js"
import { eventIdOfLine } from "../internal/python/oldLines.js"
import * as appends from "../internal/queue/append.js"
import { sealOf } from "../internal/queue/cursor.js"
import * as cursorFile from "../internal/queue/cursorFile.js"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import * as decisions from "../internal/queue/decisions.js"
import * as directories from "../internal/queue/directory.js"
import { MAX_SEQUENCE } from "../internal/queue/fields.js"
import * as housekeeping from "../internal/queue/housekeeping.js"
import * as ledgers from "../internal/queue/ledger.js"
import { letterBytes } from "../internal/queue/letter.js"
import type { WithRoom } from "../internal/queue/letterFile.js"
import { MAX_LINE_BYTES, objectOf, timeOfLine } from "../internal/queue/lines.js"
import * as locks from "../internal/queue/lock.js"
import { look, settleTail } from "../internal/queue/recovery.js"
import * as reserves from "../internal/queue/reserve.js"
import * as retries from "../internal/queue/retries.js"
import * as segmentFiles from "../internal/queue/segments.js"
import * as spaces from "../internal/queue/space.js"
import { make as makeShutdown, type Shutdown } from "../internal/shutdown.js"
import { QueueAccessError, type QueueLocked, type QueueOpenError } from "../schema/Errors.js"
import { Disk, type DiskError } from "../services/Disk.js"
import { QueueFile, type QueueStatus } from "../services/QueueFile.js"

/**
 * The options of a queue. All except the directory have defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** the queue's directory; created if need be, and owned by one process at a time */
  readonly directory: string
  /** a segment is sealed before it would grow beyond so many bytes; 16 MiB by default */
  readonly segmentBytes?: number | undefined
  /** the longest line, bytes; a longer one on disk becomes a dead letter; 8 MiB by default */
  readonly maxLineBytes?: number | undefined
  /** bytes that must stay free on the disk, or an append fails with `QueueFull`; 128 MiB by default */
  readonly minFreeBytes?: number | undefined
  /** bytes that may wait for delivery, or an append fails with `QueueFull`; no limit by default */
  readonly maxQueueBytes?: number | undefined
  /** how long an append may take before it fails with an unknown outcome; 10 seconds by default */
  readonly appendTimeout?: Duration.DurationInput | undefined
  /**
   * how long to wait for another owner; by default 10 seconds for the command `effect-audit`, and not at all for others
   */
  readonly lockWait?: Duration.DurationInput | undefined
  /** allows a network file system, where neither locks nor fsync can be trusted; false by default */
  readonly unsafeFileSystem?: boolean | undefined
  /** the queue file of the Python class, which is adopted at the start; stop the old program first */
  readonly adopt?: { readonly path: string } | undefined
  /** whether the command `effect-audit` opens it: a starting program waits until the command is done */
  readonly isCommand?: boolean | undefined
  /** shared with the other steps of a shutdown; by default its own, of 5 seconds */
  readonly shutdown?: Shutdown | undefined
  /** the size of the reserve for a dead letter; by default that of the largest one, and 0 in memory */
  readonly reserveBytes?: number | undefined
}

const MiB = 1024 * 1024

/**
 * Opens a queue until the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options
): Effect.Effect<QueueFile["Type"], QueueOpenError | QueueLocked, Disk | Scope.Scope> =>
  containedScope(open(options))

const open = (
  options: Options
): Effect.Effect<QueueFile["Type"], QueueOpenError | QueueLocked, Disk | Scope.Scope> =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const shutdown = options.shutdown ?? (yield* makeShutdown("5 seconds"))
    const unsafeFileSystem = options.unsafeFileSystem ?? false
    const place = yield* directories.prepare(disk, disk.resolve(options.directory), { unsafeFileSystem })
    const { directory } = place
    const lock = yield* locks.acquire(disk, directory, {
      wait: options.lockWait === undefined ? undefined : Duration.decode(options.lockWait),
      isCommand: options.isCommand ?? false,
      unsafeFileSystem
    })
    yield* directories.announce(place)
    const queueId = yield* directories.identify(disk, directory)

    const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES
    const minFreeBytes = options.minFreeBytes ?? directories.MIN_FREE_BYTES
    const inMemory = place.volume.type === "memory"
    const openError = Effect.mapError(directories.openError(directory))
    const reserve = yield* openError(
      reserves.make(disk, directory, {
        bytes: options.reserveBytes ?? (inMemory ? 0 : letterBytes(maxLineBytes)),
        makes: options.isCommand !== true,
        minFreeBytes,
        writing: lock.whileWriting
      })
    )
    const parts = yield* openError(recover(options, directory, lock, reserve.withRoom))
    const { letters, segments } = parts
    const guard = yield* Effect.makeSemaphore(1)
    const ledger = ledgers.make({ ...parts, disk, guard, maxLineBytes }, parts)
    lock.restoreWith({
      queueId,
      isWhole: Effect.flatMap(directories.isIdentified(disk, directory), (isThere) =>
        isThere ? ledger.isWhole : Effect.succeed(false)
      ),
      restore: ledger.restore,
      forget: Effect.zipRight(reserve.look, ledger.forget)
    })

    const append = yield* appends.make({
      directory,
      segments,
      ledger,
      lock,
      guard,
      space: spaces.make(disk, directory, {
        minFreeBytes,
        owed: reserve.owed,
        maxQueueBytes: options.maxQueueBytes ?? Number.POSITIVE_INFINITY,
        waitingBytes: ledger.waitingBytes
      }),
      timeout: Duration.decode(options.appendTimeout ?? "10 seconds")
    })
    const lettersGuard = yield* Effect.makeSemaphore(1)
    const { carryOutRequests, changes, onPermission, retry, tidy } = yield* decisions.make({
      disk,
      directory,
      letters,
      lock,
      appendAgain: retries.make({
        directory,
        append: append.add,
        maxLineBytes,
        eventIdOf: (line) => eventIdOfLine(queueId, line)
      }),
      maxLineBytes,
      segments,
      cursor: ledger.cursor,
      guard: lettersGuard
    })

    const compact = Effect.mapError(lock.whileWriting(ledger.compact), accessError)
    yield* Effect.addFinalizer(() =>
      shutdown
        .within(Effect.zipRight(append.close, step("the last compaction", Effect.ignore(compact))))
        .pipe(
          Effect.flatMap((ended) =>
            ended
              ? Effect.void
              : Effect.logWarning(`audit queue: the disk does not answer; closing without it (${directory})`)
          )
        )
    )

    const { afterCommit } = yield* openError(
      housekeeping.make({ disk, path: directories.lettersIn(directory), letters, tidy, reserve, shutdown })
    )

    return {
      directory,
      queueId,
      append: append.add,
      awaitAppends: append.awaitAnswers,
      take: ({ from, ...limits }) => Effect.mapError(ledger.take(from, limits), accessError),
      seal: Effect.sync(() => ledger.cursor().seal),
      commit: (batch, refusals, seal) =>
        ledger
          .settle(batch, refusals, seal)
          .pipe(
            lock.whileWriting,
            lettersGuard.withPermits(1),
            Effect.zipLeft(afterCommit),
            Effect.mapError(accessError)
          ),
      retry: (select, by) => Effect.mapError(retry(select, by), accessError),
      requests: Stream.mapError(changes, accessError),
      carryOutRequests: Effect.mapError(carryOutRequests, accessError),
      onPermission,
      compact,
      writing: (write) => Effect.mapError(lock.whileWriting(write), accessError),
      status: Effect.mapError(statusOf(ledger), accessError),
      progress: Effect.sync(() => ({ settled: ledger.cursor().sequence, next: ledger.next() })),
      position: Effect.sync(ledger.cursor),
      onAppend: (listener) =>
        Effect.acquireRelease(
          Effect.sync(() => append.listeners.add(listener)),
          () => Effect.sync(() => append.listeners.delete(listener))
        )
    }
  })

/**
 * The queue in a directory of this disk.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<QueueFile, QueueOpenError | QueueLocked, Disk> =>
  Layer.scoped(QueueFile, make(options))

/** Opens the files of a queue, decides where it continues, and adopts the old file. */
const recover = (options: Options, directory: string, lock: locks.Lock, withRoom: WithRoom) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const segments = yield* segmentFiles.make(
      disk,
      directory,
      options.segmentBytes ?? 16 * MiB,
      lock.keepDirectory
    )
    const letters = yield* deadLetterFile.make(disk, directory, withRoom)
    const slots = yield* cursorFile.open(disk, directory)
    const recovered = yield* look(
      disk,
      { segments: segments.all, letters, cursor: slots.stored },
      (segment, from) => settleTail(disk, segment, from)
    )
    if (recovered.repair !== undefined) {
      yield* Effect.logWarning(
        `audit queue: ${recovered.repair}; delivering again what is on disk (${directory})`
      )
    }
    // Before the first append: no segment may get a number below that of an older cursor. The cursor is written even if
    // it was found, since it may be only in the page cache. A sync would not help: after a failed one the system
    // believes that the data are on disk.
    yield* lock.detachedWrite(slots.write(recovered.cursor))
    const adopted = yield* lock.detachedWrite(
      adopt(disk, directory, segments, options.adopt?.path, recovered.next)
    )
    const next = Math.min(recovered.next + adopted, MAX_SEQUENCE + 1)
    return { segments, letters, slots, cursor: recovered.cursor, next }
  })

const statusOf = (ledger: ledgers.Ledger): Effect.Effect<QueueStatus, DiskError> =>
  Effect.gen(function* () {
    // tried twice, since the segment that it reads may be delivered and removed meanwhile
    const [oldest] = (yield* Effect.retry(ledger.take(undefined, { maxRecords: 1, maxBytes: 4096 }), {
      times: 1
    })).records
    return {
      ...ledger.balance(),
      waitingBytes: ledger.waitingBytes(),
      oldest: oldest === undefined ? undefined : timeOfLine(objectOf(oldest.bytes)),
      nextSequence: ledger.next(),
      ...sealOf(ledger.cursor())
    }
  })

const accessError = (error: DiskError | QueueAccessError): QueueAccessError =>
  error._tag === "DiskError"
    ? new QueueAccessError({ path: error.path, code: error.code, cause: error.cause })
    : error
