/**
 * The queue on disk. Appends are group-committed to the newest segment; delivery reads from the cursor on; whole
 * segments are removed when they are delivered. What happens after a crash is decided in internal/recovery.ts.
 *
 * @since 0.1.0
 */
import { Clock, Duration, Effect, Exit, Iterable, Layer, Option, Scope, Stream } from "effect"
import { attempt, containedScope, step } from "../internal/contained.js"
import { adopt } from "../internal/python/adoption.js"
import { makeBatchReader } from "../internal/queue/reader.js"
import { balanceOf, objectOf, timeOfLine, waitingBytesOf } from "../internal/queue/ledger.js"
import { isCounted } from "../internal/queue/cursor.js"
import * as cursorFile from "../internal/queue/cursorFile.js"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import * as directories from "../internal/queue/directory.js"
import { queueIdOf } from "../internal/queue/inspect.js"
import { eventIdOfLine } from "../internal/python/oldLines.js"
import { MAX_SEQUENCE } from "../internal/queue/fields.js"
import { isLineStart } from "../internal/queue/files.js"
import * as writer from "../internal/queue/writer.js"
import { countLines, MAX_LINE_BYTES } from "../internal/queue/lines.js"
import { isNumbered, recover, tailStart } from "../internal/queue/recovery.js"
import * as metrics from "../internal/metrics.js"
import * as requests from "../internal/queue/requests.js"
import { make as makeShutdown, type Shutdown } from "../internal/shutdown.js"
import * as segmentFiles from "../internal/queue/segments.js"
import {
  QueueAccessError,
  QueueClosed,
  QueueFull,
  QueueWriteError,
  type QueueLocked,
  type QueueOpenError
} from "../schema/Errors.js"
import { Either } from "../schema/Effect3.js"
import { RETRIED } from "../schema/Line.js"
import { Disk, DiskError, LOCK_LOST } from "../services/Disk.js"
import {
  QueueFile,
  type Batch,
  type DeadLetter,
  type QueueRecord,
  type QueueStatus,
  type Refusal
} from "../services/QueueFile.js"

/**
 * How a queue is kept. All have defaults but the directory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** where the queue lives; created if need be, for this process alone */
  readonly directory: string
  /** a segment is sealed when it would grow beyond this many bytes; 16 MiB by default */
  readonly segmentBytes?: number | undefined
  /** a longer line found on disk goes to the dead letters, in bytes; 8 MiB by default */
  readonly maxLineBytes?: number | undefined
  /** `QueueFull` when the disk would have fewer free bytes than this; 128 MiB by default */
  readonly minFreeBytes?: number | undefined
  /** `QueueFull` when more bytes than this wait for delivery; no limit by default */
  readonly maxQueueBytes?: number | undefined
  /** an append that the disk has not finished by then fails, its outcome unknown; 10 seconds by default */
  readonly appendTimeout?: Duration.DurationInput | undefined
  /**
   * how long to wait for another owner of the directory to leave; by default not at all, but 10 seconds for the
   * command `effect-audit`
   */
  readonly lockWait?: Duration.DurationInput | undefined
  /** allows a network file system, where neither locks nor fsync can be trusted; false by default */
  readonly unsafeFileSystem?: boolean | undefined
  /** the queue file of the Python class, taken over at the start; the old program must be stopped */
  readonly adopt?: { readonly path: string } | undefined
  /** whether the command `effect-audit` opens it: a program that starts waits until it is done */
  readonly isCommand?: boolean | undefined
  /** shared with the other steps of a shutdown; 5 seconds of its own by default */
  readonly shutdown?: Shutdown | undefined
}

const MiB = 1024 * 1024

/** The free space is asked for at most this often while appending, in milliseconds. */
const FREE_SPACE_INTERVAL = 1000

type Group = writer.Group<number, QueueWriteError | QueueFull | QueueClosed>

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
    const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES
    const minFreeBytes = options.minFreeBytes ?? directories.MIN_FREE_BYTES
    const maxQueueBytes = options.maxQueueBytes ?? Number.POSITIVE_INFINITY
    const shutdown = options.shutdown ?? (yield* makeShutdown("5 seconds"))
    const appendTimeout = Duration.decode(options.appendTimeout ?? "10 seconds")

    const requirements = { unsafeFileSystem: options.unsafeFileSystem ?? false }
    const place = yield* directories.prepare(disk, disk.resolve(options.directory), requirements)
    const { directory } = place
    const isCommand = options.isCommand ?? false
    let lockScope = yield* Scope.make()
    /** what writes to the directory and has not ended, although it may have been given up */
    let unanswered = 0
    /** once the queue is closed */
    let releaseLock: Effect.Effect<void> | undefined
    yield* Effect.addFinalizer((exit) =>
      // a late write must not meet the next owner: then the lock stays until it is answered, or goes with the process
      Effect.suspend(() => {
        // the scope of then: a directory that is being made anew has another lock
        releaseLock = Effect.suspend(() => Scope.close(lockScope, exit))
        return unanswered === 0 ? releaseLock : Effect.void
      })
    )
    const ended = (): Effect.Effect<void> =>
      --unanswered === 0 && releaseLock !== undefined ? releaseLock : Effect.void
    /** What writes to the directory: before it has ended no other owner may come, and after the close it may not begin. */
    const keepingLock = <A, E>(write: Effect.Effect<A, E>): Effect.Effect<A, E | DiskError> =>
      Effect.suspend((): Effect.Effect<A, E | DiskError> => {
        if (releaseLock !== undefined) {
          const cause = new Error("the queue is closed")
          return new DiskError({ operation: "write", path: directory, code: "EBADF", cause })
        }
        unanswered++
        return Effect.ensuring(
          Effect.uninterruptible(Effect.zipRight(keepDirectory, write)),
          Effect.suspend(ended)
        )
      })
    /** The same for the opening: whoever interrupts that does not wait for it, but the next owner does. */
    const leftToTheDisk = <A, E>(write: Effect.Effect<A, E>) => Effect.disconnect(keepingLock(write))
    let lock = yield* directories
      .lock(disk, directory, {
        wait: options.lockWait === undefined ? undefined : Duration.decode(options.lockWait),
        isCommand
      })
      .pipe(Scope.extend(lockScope))
    yield* directories.announce(place)
    const queueId = yield* directories.identify(disk, directory)

    // ------------------------------------------------------------------------------------- a directory that is gone

    /** Makes sure that the directory is ours: one that somebody removed under us is made anew, if nobody else has. */
    const keepDirectory: Effect.Effect<void, DiskError> = Effect.suspend(() => lock.isInPlace).pipe(
      Effect.flatMap((isInPlace) => (isInPlace ? Effect.void : keepingOne.withPermits(1)(remake)))
    )
    const keepingOne = yield* Effect.makeSemaphore(1)
    let books:
      { readonly segments: segmentFiles.Segments; readonly slots: cursorFile.CursorFile } | undefined =
      undefined
    let areLettersLost = false

    const lost = (cause: unknown) =>
      new DiskError({ operation: "lock", path: `${directory}/lock`, code: LOCK_LOST, cause })

    const remake = Effect.gen(function* () {
      if (yield* lock.isInPlace) return
      if (books === undefined) return yield* lost(new Error("the directory was removed while it was opened"))
      const { segments, slots } = books
      const scope = yield* Scope.make()
      yield* Effect.gen(function* () {
        yield* directories.prepare(disk, directory, requirements)
        const another = new Error("another process has used the directory meanwhile")
        // a look before the lock: whoever starts in another process's queue is not to find it taken by us
        const found = yield* queueIdOf(disk, directory)
        if (Option.isSome(found) && found.value !== queueId) return yield* lost(another)
        // then the lock, before anything is written
        const taken = yield* directories
          .lock(disk, directory, { wait: Duration.zero, isCommand })
          .pipe(Scope.extend(scope))
        if ((yield* directories.identify(disk, directory, queueId)) !== queueId || !(yield* slots.reopen)) {
          return yield* lost(another)
        }
        lock = taken
      }).pipe(
        Effect.catchTags({
          QueueOpenError: (error) => lost(error),
          QueueLocked: (error) => lost(error)
        }),
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      const old = lockScope
      lockScope = scope
      yield* Scope.close(old, Exit.void)
      areLettersLost = true
      yield* segments.dropRemoved
      yield* Effect.logWarning(
        `audit queue: ${directory} was removed under this program, which has made it anew: events go on, and what ` +
          `was lost with it counts as missing`
      )
    }).pipe(Effect.uninterruptible)

    // ------------------------------------------------------------------------------------------------ recovery

    const state = yield* Effect.gen(function* () {
      const segments = yield* segmentFiles.make(
        disk,
        directory,
        options.segmentBytes ?? 16 * MiB,
        keepDirectory
      )
      const letters = yield* deadLetterFile.make(disk, `${directory}/dead-letter.ndjson`, directory)
      const slots = yield* cursorFile.open(disk, directory)
      const last = segments.all.at(-1)
      const stored = slots.stored
      const at = segments.all.find(({ first }) => first === stored?.segment)
      const found = {
        segments: segments.all,
        cursor: stored,
        cursorAtLine: at === undefined || (yield* isLineStart(disk, at, stored!.offset))
      }
      const tailLines = last === undefined ? 0 : yield* settleTail(disk, last, tailStart(found).offset)
      const recovered = recover({
        ...found,
        tailLines,
        lettersBefore: letters.counts(segments.all[0]?.first),
        minimumSequence: letters.nextSequence(isNumbered(found))
      })
      if (recovered.repair !== undefined) {
        yield* Effect.logWarning(
          `audit queue: ${recovered.repair}; delivering again what is on disk (${directory})`
        )
      }
      // before the first append: a segment must never get a number that an older cursor lies beyond. One that was
      // found is written anew, since it may be in the page cache only, even for a sync: after one that failed the
      // system takes it for written.
      yield* leftToTheDisk(slots.write(recovered.cursor))
      const adopted = yield* leftToTheDisk(
        adopt(disk, directory, segments, options.adopt?.path, recovered.next)
      )
      const next = Math.min(recovered.next + adopted, MAX_SEQUENCE + 1)
      return { segments, letters, slots, cursor: recovered.cursor, next }
    }).pipe(Effect.mapError(directories.openError(directory)))

    const { letters, segments, slots } = state
    books = state
    let { cursor, next } = state
    /** held by a group commit and by a seal: what is sealed was looked at whole */
    const guard = yield* Effect.makeSemaphore(1)
    const readGuard = yield* Effect.makeSemaphore(1)
    /** held by whoever changes the dead letters: a letter is not decided before it counts, and not twice */
    const lettersGuard = yield* Effect.makeSemaphore(1)

    const accessError = (error: DiskError | QueueAccessError) =>
      error._tag === "DiskError"
        ? new QueueAccessError({ path: error.path, code: error.code, cause: error.cause })
        : error

    const waitingBytes = () => waitingBytesOf(cursor, segments.all)

    // ------------------------------------------------------------------------------------------------- appends

    const listeners = new Set<() => void>()
    const appendDuration = metrics.ofQueue(directory)(metrics.appendDuration)
    const labels = yield* metrics.labels
    let free = { bytes: Number.POSITIVE_INFINITY, at: Number.NEGATIVE_INFINITY }

    const askForSpace = (now: number) =>
      // if the disk cannot say, the write will
      Effect.map(Effect.exit(Effect.suspend(() => disk.volume(directory))), (volume) => {
        free = { bytes: Exit.isSuccess(volume) ? volume.value.freeBytes : Number.POSITIVE_INFINITY, at: now }
      })

    /** the limit that this many more bytes would exceed */
    const exceeded = (bytes: number) => {
      const queued = waitingBytes()
      if (queued + bytes > maxQueueBytes)
        return { limit: "maxQueueBytes" as const, limitBytes: maxQueueBytes, actualBytes: queued }
      if (free.bytes - bytes < minFreeBytes)
        return { limit: "minFreeBytes" as const, limitBytes: minFreeBytes, actualBytes: free.bytes }
      free.bytes -= bytes
      return undefined
    }

    const write = (group: Group, now: number): Effect.Effect<void> => {
      const { bytes } = group
      return now - free.at >= FREE_SPACE_INTERVAL || free.bytes - bytes.length < minFreeBytes
        ? Effect.zipRight(keepDirectory, askForSpace(now)).pipe(
            Effect.matchEffect({
              // given up meanwhile: another writer has the guard
              onFailure: (error) => (expiredGroups.delete(group) ? Effect.void : refuseAbsent(group, error)),
              onSuccess: () => (expiredGroups.delete(group) ? Effect.void : writeWithin(group, bytes))
            })
          )
        : writeWithin(group, bytes)
    }

    const refuseAbsent = (group: Group, { cause, code, path }: DiskError) =>
      Effect.sync(() =>
        refuse(group, (eventId) => new QueueWriteError({ eventId, outcome: "absent", path, code, cause }))
      )

    const writeWithin = (group: Group, bytes: Uint8Array): Effect.Effect<void> => {
      const limit = exceeded(bytes.length)
      if (limit !== undefined) {
        refuse(group, (eventId) => new QueueFull({ eventId, outcome: "absent", directory, ...limit }))
        return Effect.void
      }
      // a number that is rounded names another line's segment, and no cursor can hold it
      if (next + group.entries.length > MAX_SEQUENCE + 1) {
        const cause = new Error(
          "the queue's numbers are used up: move the directory away to begin a new queue"
        )
        refuse(
          group,
          (eventId) =>
            new QueueWriteError({ eventId, outcome: "absent", path: directory, code: "EOVERFLOW", cause })
        )
        return Effect.void
      }
      unanswered++
      const started = performance.now()
      /** whether its callers still wait */
      const isAwaited = () => {
        appendDuration.unsafeUpdate((performance.now() - started) / 1000, labels)
        return !expiredGroups.delete(group)
      }
      const { entries } = group
      const append = Effect.suspend(() => segments.append(bytes, entries.length, next))
      // its segment was removed, and the lines with it
      const appendAgain = Effect.catchIf(append, isGone, (failure) =>
        expiredGroups.has(group) ? failure : append
      )
      return Effect.matchCauseEffect(appendAgain, {
        onFailure: (cause) => {
          if (!isAwaited()) return ended()
          const failure = cause._tag === "Fail" ? cause.error : undefined
          const { code = "UNKNOWN", path = directory, cause: reason = cause } = failure?.error ?? {}
          const outcome = failure?.outcome ?? "unknown"
          refuse(group, (eventId) => new QueueWriteError({ eventId, outcome, path, code, cause: reason }))
          return ended()
        },
        onSuccess: () => {
          if (!isAwaited()) return ended()
          let sequence = next
          next += entries.length
          for (const entry of entries) entry.done(Effect.succeed(sequence++))
          for (const listener of listeners) notify(listener)
          return ended()
        }
      })
    }

    /** What it throws is its own: the line is on disk, and the other listeners are to hear of it. */
    const notify = (listener: () => void) => attempt(listener, () => undefined)

    const isGone = ({ error }: segmentFiles.AppendFailure) =>
      error.operation === "append" && error.code === "ENOENT"

    const refuse = ({ entries }: Group, error: (eventId: string) => QueueWriteError | QueueFull) => {
      for (const entry of entries) entry.done(Effect.fail(error(entry.eventId)))
    }

    const expiredGroups = new WeakSet<Group>()
    const expire = (group: Group): Effect.Effect<void> =>
      Effect.gen(function* () {
        expiredGroups.add(group)
        const path = segments.all.at(-1)?.path ?? directory
        yield* segments.seal
        const cause = new Error(`the disk did not answer within ${Duration.format(appendTimeout)}`)
        refuse(
          group,
          (eventId) => new QueueWriteError({ eventId, outcome: "unknown", path, code: "ETIMEDOUT", cause })
        )
      })

    const appends = yield* writer.make<number, QueueWriteError | QueueFull | QueueClosed>({
      guard,
      write,
      expired: expire,
      refusal: (eventId) => new QueueClosed({ eventId, outcome: "absent" }),
      timeoutMillis: Duration.toMillis(appendTimeout),
      maxGroupBytes: 4 * MiB
    })

    // ------------------------------------------------------------------------------------------------ delivery

    const readBatch = makeBatchReader({ segments, maxLineBytes, next: () => next })

    const take: QueueFile["Type"]["take"] = ({ from, ...limits }) =>
      Effect.suspend(() => readBatch(from ?? cursor, limits)).pipe(
        readGuard.withPermits(1),
        Effect.mapError(accessError)
      )

    const move = Effect.fnUntraced(function* (to: typeof cursor) {
      yield* slots.write(to)
      cursor = to
      for (const segment of [...segments.all]) {
        if (segment.first < cursor.segment) yield* segments.remove(segment)
      }
    })

    const commit = Effect.fnUntraced(
      function* (batch: Omit<Batch, "release">, refusals: ReadonlyArray<Refusal>) {
        if (batch.records.length === 0) return
        const isNew = (record: QueueRecord) => !isCounted(cursor, record)
        // an earlier try may have counted letters that this one takes back, or none where this one writes some
        yield* slots.restore(cursor)
        if (areLettersLost) {
          const count = Math.min(yield* letters.restore, cursor.refused)
          cursor = { ...cursor, refused: cursor.refused - count, missing: cursor.missing + count }
          areLettersLost = false
        }
        // dead letters first: a crash in between finds them again, the other order would lose them. What is left of a
        // line that was settled when it was whole is none.
        const toKeep = refusals.filter(
          // blank lines counted as torn once, before they had a class of their own
          ({ class: cls, record }) => (cls !== "torn" && cls !== "blank") || isNew(record)
        )
        if (toKeep.length > 0)
          yield* letters.keep(toKeep, disk.open(segments.pathOf(batch.end.segment), "read"))
        const newRecords = Iterable.filter(batch.records, isNew)
        const kept = refusals.filter(({ record }) => isNew(record))
        // an earlier try may have come as far as the letter
        yield* letters.withdraw(newRecords, kept)
        const torn = kept.filter((refusal) => refusal.class === "torn").length
        const { counted, surplus } = countNew(newRecords)
        const settled = Math.max(cursor.settled, batch.end.sequence)
        yield* move({
          ...cursor,
          ...batch.end,
          settled,
          delivered: cursor.delivered + counted - kept.length,
          refused: cursor.refused + kept.length - torn,
          torn: cursor.torn + torn,
          missing: cursor.missing + (settled - cursor.settled) - (counted - surplus),
          surplus: cursor.surplus + surplus
        })
      },
      keepingLock,
      lettersGuard.withPermits(1),
      Effect.mapError(accessError)
    )

    const compact = Effect.gen(function* () {
      const last = segments.all.at(-1)
      if (last === undefined && cursor.settled >= next) return true
      if (last?.live === true) {
        if (cursor.segment !== last.first || cursor.offset !== last.bytes) return false
        // nothing may be appended to it after this look at it; while something is, there is nothing to remove, and
        // delivery must not wait until a writer that goes from group to group lets somebody in
        const sealed = yield* guard.withPermitsIfAvailable(1)(
          Effect.suspend(() =>
            cursor.offset === last.bytes ? Effect.as(segments.seal, true) : Effect.succeed(false)
          )
        )
        if (!Option.getOrElse(sealed, () => false)) return false
      }
      const rest = yield* take({ maxRecords: 1, maxBytes: 1 })
      if (rest.records.length > 0) return false
      return yield* Effect.suspend(() => {
        // in one step with the next number: a segment that has come meanwhile would be skipped
        if (segments.all.at(-1) !== last) return Effect.succeed(false)
        const settled = Math.max(cursor.settled, next)
        const to = { segment: next, offset: 0, sequence: next, settled }
        return Effect.as(
          move({ ...cursor, ...to, missing: cursor.missing + (settled - cursor.settled) }),
          true
        )
      })
    }).pipe(keepingLock, Effect.mapError(accessError))

    // -------------------------------------------------------------------------------------------- dead letters

    /**
     * The line of a letter, with its event id, which was derived from where the line stood; marked if it was rejected.
     * As a text, since a number that JavaScript cannot hold would not come back.
     */
    const lineOf = (letter: deadLetterFile.Letter) => {
      if (letter.line === undefined) return undefined
      const bytes = Buffer.from(letter.line)
      const event = objectOf(bytes)
      // no event, and none by being tried again
      if (event === undefined || Array.isArray(event) || Object.keys(event).length === 0) return undefined
      const known = event.event_id
      if (known !== undefined && typeof known !== "string") return undefined
      const eventId = known ?? eventIdOfLine(queueId, { ...letter, bytes })
      const id = known === undefined ? `"event_id":"${eventId}",` : ""
      const mark = letter.class === "rejected" && !(RETRIED in event) ? `,"${RETRIED}":true` : ""
      const line = `{${id}${letter.line.trim().slice(1, -1)}${mark}}`
      return Buffer.byteLength(line) > maxLineBytes ? undefined : { line: `${line}\n`, eventId }
    }

    const decide = (type: deadLetterFile.Decision["type"], id: string, by: string) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        keepingLock(letters.decide({ type, id, at: new Date(now).toISOString(), by }))
      )

    const retryLetters: QueueFile["Type"]["retry"] = (select, by) =>
      Effect.gen(function* () {
        let count = 0
        const fits = (letter: DeadLetter) => letter.length <= maxLineBytes && select(letter)
        for (const entry of yield* letters.open(fits)) {
          const letter = yield* letters.read(entry).pipe(
            Effect.catchIf(
              ({ code }) => code === deadLetterFile.DAMAGED,
              () => Effect.succeed(undefined)
            )
          )
          const again = letter === undefined ? undefined : lineOf(letter)
          if (again === undefined) continue
          // first the line, then the decision: a crash in between appends it once more, under the same id
          yield* appends.add(again.line, again.eventId).pipe(
            Effect.mapError((error) => {
              const code = "code" in error ? error.code : error._tag
              return new QueueAccessError({ path: directory, code, cause: error })
            })
          )
          yield* decide("retried", entry.letter.id, by)
          count++
        }
        return count
      }).pipe(Effect.mapError(accessError))

    const carryOut = ({ file, request }: { readonly file: string; readonly request: requests.Request }) =>
      Effect.gen(function* () {
        const { action, by, letters: chosen } = request
        const ids = new Set(chosen === "all" ? [] : chosen)
        const select = ({ id }: DeadLetter) => chosen === "all" || ids.has(id)
        if (action === "retry") yield* retryLetters(select, by)
        else {
          for (const { letter } of yield* letters.open(select)) yield* decide("discarded", letter.id, by)
        }
        yield* keepingLock(disk.remove(file))
        // carried out once more after a power cut, it would be about letters that nobody has seen
        yield* disk.syncDirectory(requests.directoryOf(directory))
      }).pipe(lettersGuard.withPermits(1))

    /** what cannot even be set aside, and was said */
    const leftBroken = new Set<string>()
    const setAside = (broken: requests.Broken) =>
      Effect.gen(function* () {
        const { file, reason } = broken
        if (requests.isAside(broken) || leftBroken.has(file)) return
        const aside = yield* Effect.either(keepingLock(requests.setAside(disk, broken)))
        if (Either.isLeft(aside)) leftBroken.add(file)
        yield* Effect.logWarning(
          `audit queue: ${file} cannot be carried out as a request (${reason}) and ` +
            (Either.isLeft(aside)
              ? `cannot be renamed (${aside.left.code}): remove it`
              : `is ${aside.right} now: repeat the command that has left it, and remove the file`)
        )
      })

    /** Requests are carried out one after the other. Delivery needs no guard that is held while they are read. */
    const requestsGuard = yield* Effect.makeSemaphore(1)
    const carryOutRequests = Effect.gen(function* () {
      const { broken, open } = yield* requests.look(disk, directory)
      yield* Effect.forEach(broken, setAside, { discard: true })
      yield* Effect.forEach(open, carryOut, { discard: true })
    }).pipe(requestsGuard.withPermits(1), Effect.mapError(accessError))

    const status: Effect.Effect<QueueStatus, QueueAccessError> = Effect.gen(function* () {
      const oldest = (yield* readOldest).records.at(0)
      return {
        ...balanceOf(cursor, next, letters.counts()),
        waitingBytes: waitingBytes(),
        oldest: oldest === undefined ? undefined : timeOfLine(objectOf(oldest.bytes)),
        nextSequence: next
      }
    })
    // once more, since what it looks at may be delivered and removed meanwhile
    const readOldest = Effect.retry(take({ maxRecords: 1, maxBytes: 4096 }), { times: 1 })

    yield* Effect.addFinalizer(() =>
      shutdown
        .within(Effect.zipRight(appends.close, step("the last compaction", Effect.ignore(compact))))
        .pipe(
          Effect.flatMap((ended) =>
            ended
              ? Effect.void
              : Effect.logWarning(`audit queue: the disk does not answer; closing without it (${directory})`)
          )
        )
    )

    return {
      directory,
      queueId,
      append: appends.add,
      awaitAppends: appends.awaitAnswers,
      take,
      commit,
      retry: (select, by) => lettersGuard.withPermits(1)(retryLetters(select, by)),
      requests: Stream.mapError(requests.watch(disk, directory), accessError),
      carryOutRequests,
      compact,
      status,
      progress: Effect.sync(() => ({ settled: cursor.sequence, next })),
      onAppend: (listener) =>
        Effect.acquireRelease(
          Effect.sync(() => listeners.add(listener)),
          () => Effect.sync(() => listeners.delete(listener))
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

/**
 * Counts the lines of the newest segment from a byte on, and makes all of them durable: a process that was killed may
 * have left them in the page cache only, and from now on later numbers rest on them.
 */
const settleTail = (
  disk: Disk["Type"],
  segment: segmentFiles.Segment,
  from: number
): Effect.Effect<number, DiskError> =>
  segment.bytes === 0
    ? Effect.succeed(0)
    : Effect.scoped(
        Effect.gen(function* () {
          const writable = yield* disk.open(segment.path, "append")
          yield* writable.sync
          const file = yield* disk.open(segment.path, "read")
          return yield* countLines(file, from, segment.bytes)
        })
      )

/** How many records there are, and how many of them have no number of their own. */
const countNew = (records: Iterable<QueueRecord>): { readonly counted: number; readonly surplus: number } => {
  let counted = 0
  let surplus = 0
  for (const record of records) {
    counted++
    if (record.surplus) surplus++
  }
  return { counted, surplus }
}
