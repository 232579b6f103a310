/**
 * The segments: files of lines, each named by the sequence number of its first line.
 *
 * They are created, appended to and removed. Two exceptions: the rest of a failed append is cut off, and lines of
 * discarded letters are blanked. No line moves and no later process appends, so positions stay true.
 */
import { Data, Effect, Option, type Scope } from "effect"
import type { Outcome } from "../../schema/Errors.js"
import { DiskError, type Disk, type File, type OpenMode } from "../../services/Disk.js"
import { isAbsent, openHandle, type Handle } from "./files.js"

export interface Segment {
  /** the sequence number of its first line */
  readonly first: number
  readonly path: string
  /** the end of its readable part: of the durable bytes while it is live or doubtful, else of the file */
  bytes: number
  /** how many lines this process has appended */
  lines: number
  /** whether it may still grow */
  live: boolean
  /**
   * whether an append is under way, or has failed. Nothing after `bytes` is read, since no later sync would make it
   * durable.
   */
  doubtful: boolean
}

export class AppendFailure extends Data.TaggedError("AppendFailure")<{
  readonly error: DiskError
  readonly outcome: Outcome
}> {}

const NAME = /^(\d{20})\.ndjson$/

/** Whether a file of this name is a segment. */
export const isSegment = (name: string): boolean => NAME.test(name)

const nameOf = (first: number) => `${String(first).padStart(20, "0")}.ndjson`

export interface Segments {
  /** in order; the last segment may be live */
  readonly all: ReadonlyArray<Segment>
  /** Appends durably; `next` names a new segment, if one is needed. A failure seals the segment. */
  readonly append: (bytes: Uint8Array, lines: number, next: number) => Effect.Effect<void, AppendFailure>
  /** Ends the live segment at once. A write to it may still be under way, but is not acknowledged. */
  readonly seal: Effect.Effect<void>
  /** Adds a file that is durable under the name of this number. */
  readonly add: (first: number, bytes: number) => void
  readonly pathOf: (first: number) => string
  /** An open file for reading, kept while the same segment is read. */
  readonly reader: (segment: Segment) => Effect.Effect<File, DiskError>
  readonly remove: (segment: Segment) => Effect.Effect<void, DiskError>
  /** Makes sure that no power cut brings removed segments back. */
  readonly syncRemovals: Effect.Effect<void, DiskError>
  /**
   * Forgets segments whose files were removed, except one that is still open for reading. The other files may be
   * copies: they are opened again, and the live segment ends.
   */
  readonly dropRemoved: Effect.Effect<void, DiskError>
}

interface SegmentHandle extends Handle {
  readonly segment: Segment
  /** whether the segment was whole when the handle was made */
  readonly whole: boolean
}

/** Whether the whole file may be read. */
const isWhole = ({ doubtful, live }: Segment) => !live && !doubtful

/** The files of the segments, and the list of those that count. */
class Files {
  constructor(
    readonly disk: Disk["Type"],
    readonly directory: string,
    /** makes sure that the directory is still ours; runs before a file is opened by name */
    readonly keepDirectory: Effect.Effect<void, DiskError>,
    /** in order */
    readonly all: Array<Segment>
  ) {}

  pathOf(first: number): string {
    return `${this.directory}/${nameOf(first)}`
  }
  named(first: number): Segment | undefined {
    return this.all.find((segment) => segment.first === first)
  }
  /** Removes a segment from the list, if it is there. */
  forget(segment: Segment | undefined): void {
    const index = this.all.findIndex((other) => other === segment)
    if (index !== -1) this.all.splice(index, 1)
  }
  open(segment: Segment, mode: OpenMode): Effect.Effect<SegmentHandle, DiskError> {
    return Effect.map(openHandle(this.disk, segment.path, mode), (handle) => ({
      ...handle,
      segment,
      whole: isWhole(segment)
    }))
  }
  /** Makes a segment whose file is durable. */
  create(first: number): Effect.Effect<SegmentHandle, DiskError> {
    return Effect.gen(this, function* () {
      const segment: Segment = {
        first,
        path: this.pathOf(first),
        bytes: 0,
        lines: 0,
        live: true,
        doubtful: false
      }
      yield* this.keepDirectory
      // a file of this name is empty, or the rest of a failed append: its number is still free, so no line was
      // acknowledged
      this.forget(this.named(first))
      if ((yield* this.disk.info(segment.path)) !== undefined) yield* this.disk.remove(segment.path)
      const handle = yield* this.open(segment, "create")
      // without this sync a power cut could take the file, and every acknowledged line in it
      yield* this.disk.syncDirectory(this.directory).pipe(
        // after a failed sync the system may have forgotten the entry, so it must be made again
        Effect.tapError(() => Effect.zipRight(handle.close, Effect.ignore(this.disk.remove(segment.path))))
      )
      this.all.push(segment)
      return handle
    })
  }
}

const segmentsIn = (disk: Disk["Type"], directory: string): Effect.Effect<Array<Segment>, DiskError> =>
  Effect.gen(function* () {
    const all: Array<Segment> = []
    for (const name of yield* disk.list(directory)) {
      const match = NAME.exec(name)
      if (match === null || !Number.isSafeInteger(Number(match[1]))) continue
      const path = `${directory}/${name}`
      const info = yield* disk.info(path)
      if (info?.type !== "file") continue
      all.push({ first: Number(match[1]), path, bytes: info.size, lines: 0, live: false, doubtful: false })
    }
    return all.sort((a, b) => a.first - b.first)
  })

/** Appends to the live segment, and makes the next one. */
const makeAppender = (files: Files, segmentBytes: number) => {
  let writing: SegmentHandle | undefined
  let seals = 0

  /** Ends the live segment at once; returns the effect that closes its file. */
  const retire = Effect.sync(() => {
    seals++
    const handle = writing
    if (handle === undefined) return Effect.void
    writing = undefined
    handle.segment.live = false
    // without an acknowledged line it is no segment: the next append replaces its file
    if (handle.segment.lines === 0) files.forget(handle.segment)
    return handle.close
  })
  // nobody waits for the close: a disk that hangs may never answer
  const seal = Effect.asVoid(Effect.flatMap(retire, Effect.forkDaemon))

  const appendTo = (handle: SegmentHandle, bytes: Uint8Array, lines: number) => {
    const { segment } = handle
    segment.doubtful = true
    return Effect.matchEffect(handle.file.append(bytes), {
      onFailure: (error) => sealFailed(handle, error),
      onSuccess: () => {
        segment.doubtful = false
        if (writing !== handle)
          return replaced.has(handle) ? gone(segment.path) : tooLate(segment.path, "unknown")
        segment.bytes += bytes.length
        segment.lines += lines
        return Effect.void
      }
    })
  }

  /** handles whose files were removed or replaced: nobody will ever read what was written to them */
  const replaced = new WeakSet<SegmentHandle>()

  // Hot path: few steps if the live segment has room (bench/README.md#steps-of-an-append).
  const append = (bytes: Uint8Array, lines: number, next: number): Effect.Effect<void, AppendFailure> =>
    Effect.suspend(() => {
      const live = writing
      if (live !== undefined && live.segment.lines > 0) {
        if (live.segment.bytes + bytes.length <= segmentBytes) return appendTo(live, bytes, lines)
        return Effect.zipRight(seal, append(bytes, lines, next))
      }
      const empty = live === undefined ? createOnce(next) : Effect.succeed(live)
      return Effect.flatMap(empty, (handle) =>
        exclusively(handle.segment.first)(appendTo(handle, bytes, lines))
      )
    })

  /** numbers of segments without an acknowledged line, whose files a disk call may still touch */
  const busy = new Set<number>()
  const exclusively =
    (first: number) =>
    <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        busy.add(first)
        return Effect.ensuring(
          effect,
          Effect.sync(() => busy.delete(first))
        )
      })

  const createOnce = (first: number): Effect.Effect<SegmentHandle, AppendFailure> =>
    Effect.suspend((): Effect.Effect<SegmentHandle, AppendFailure> => {
      // an expired call could still remove, or append to, a file of this name
      if (busy.has(first)) {
        return unanswered(files.pathOf(first))
      }
      const started = seals
      return files.create(first).pipe(
        Effect.mapError((error) => new AppendFailure({ error, outcome: "absent" })),
        Effect.flatMap((handle) => {
          if (seals === started) {
            writing = handle
            return Effect.succeed(handle)
          }
          files.forget(handle.segment)
          return Effect.zipRight(handle.close, tooLate(handle.file.path, "absent"))
        }),
        exclusively(first)
      )
    })

  /**
   * After a failed write or fsync the system may forget the data, and still report that the next fsync succeeds.
   * Source: "Can Applications Recover from fsync Failures?", USENIX ATC 2020. So nothing more goes to this file, and
   * the rest of the append is cut off, so that no later process believes it durable.
   */
  const sealFailed = (handle: SegmentHandle, error: DiskError): Effect.Effect<never, AppendFailure> =>
    Effect.gen(function* () {
      const { file, segment } = handle
      const size = yield* Effect.option(file.size)
      if (writing === handle) yield* seal
      const untouched = Option.contains(size, segment.bytes)
      if (!untouched) yield* Effect.ignore(Effect.zipRight(files.keepDirectory, cutOff(files.disk, segment)))
      return yield* new AppendFailure({ error, outcome: untouched ? "absent" : "unknown" })
    })

  return {
    append,
    seal,
    /** Ends the live segment, and waits until its file is closed. */
    close: Effect.flatten(retire),
    isLive: (segment: Segment) => writing?.segment === segment,
    /** Ends the live segment, whose file was removed or replaced. */
    replace: Effect.suspend(() => {
      if (writing === undefined) return Effect.void
      replaced.add(writing)
      return seal
    })
  }
}

const unanswered = (path: string) => {
  const cause = new Error("an earlier call to the disk was not answered yet")
  return new AppendFailure({
    error: new DiskError({ operation: "create", path, code: "ETIMEDOUT", cause }),
    outcome: "absent"
  })
}

const gone = (path: string) => {
  const cause = new Error("the directory was replaced while it was open")
  return new AppendFailure({
    error: new DiskError({ operation: "append", path, code: "ENOENT", cause }),
    outcome: "unknown"
  })
}

/** The append has expired, and its segment was sealed: others may have written since, under the next numbers. */
const tooLate = (path: string, outcome: Outcome) => {
  const cause = new Error("the caller gave up waiting")
  return new AppendFailure({
    error: new DiskError({ operation: "append", path, code: "ETIMEDOUT", cause }),
    outcome
  })
}

// by a new handle: that of the append may be closed, and on Windows it must not truncate
const cutOff = (disk: Disk["Type"], { bytes, path }: Segment) =>
  Effect.scoped(
    Effect.gen(function* () {
      const file = yield* disk.open(path, "update")
      // a shorter file, which somebody has damaged, would grow
      if ((yield* file.size) > bytes) yield* file.truncate(bytes)
    })
  )

/** Opens one segment after the other for reading. */
const makeReader = (files: Files) => {
  let reading: SegmentHandle | undefined

  /** segments whose end is durable; opening the queue syncs the newest of those that it finds */
  const synced = new WeakSet(files.all.slice(-1))
  const openReader = Effect.fnUntraced(
    function* (segment: Segment) {
      yield* closeReader()
      yield* files.keepDirectory
      const handle = yield* files.open(segment, "read").pipe(
        // if somebody removed the file, then this fails once; then its lines count as missing, and delivery goes on
        Effect.tapError((error) =>
          Effect.sync(() => {
            if (isAbsent(error) && !segment.live) files.forget(segment)
          })
        )
      )
      reading = handle
      // `reading` may be unset meanwhile: a commit may remove the segment
      const { file } = handle
      // if the segment was ended without a line, then its file may be made again under the same name
      if (!isWhole(segment) || !files.all.includes(segment)) return file
      if (!synced.has(segment)) {
        // The segment may end in lines that nobody was promised. They count, so sync first. If the sync fails, read on.
        yield* Effect.ignore(file.sync)
        synced.add(segment)
      }
      segment.bytes = yield* file.size
      return file
    },
    // uninterruptible, since nobody else would close the file
    Effect.uninterruptible
  )
  const reader = (segment: Segment): Effect.Effect<File, DiskError> =>
    Effect.suspend(() =>
      reading?.segment === segment && reading.whole === isWhole(segment)
        ? Effect.succeed(reading.file)
        : openReader(segment)
    )

  const closeReader = (isMeant = (_: Segment) => true) =>
    Effect.suspend(() => {
      const handle = reading
      if (handle === undefined || !isMeant(handle.segment)) return Effect.void
      reading = undefined
      return handle.close
    })

  return {
    reader,
    close: closeReader,
    isOpen: (segment: Segment) => reading?.segment === segment && reading.whole === isWhole(segment),
    /** Notes that the end of a segment is durable. */
    markSynced: (segment: Segment) => void synced.add(segment)
  }
}

/**
 * Lists the segments of a directory and serves them until the scope closes. Before a file is opened by its name,
 * `keepDirectory` makes sure that the directory is still ours.
 */
export const make = (
  disk: Disk["Type"],
  directory: string,
  segmentBytes: number,
  keepDirectory: Effect.Effect<void, DiskError> = Effect.void
): Effect.Effect<Segments, DiskError, Scope.Scope> =>
  Effect.gen(function* () {
    const files = new Files(disk, directory, keepDirectory, yield* segmentsIn(disk, directory))
    /** true at first: an earlier process may have removed segments and died before the sync */
    let hasRemoved = true
    const { all } = files
    const appender = makeAppender(files, segmentBytes)
    const { close: closeReader, isOpen, markSynced, reader } = makeReader(files)
    yield* Effect.addFinalizer(() => Effect.zipRight(appender.close, closeReader()))

    return {
      all,
      append: appender.append,
      seal: appender.seal,
      add: (first, bytes) => {
        // replaces an empty segment of an earlier process, if there is one
        files.forget(files.named(first))
        const path = files.pathOf(first)
        const segment: Segment = { first, path, bytes, lines: 0, live: false, doubtful: false }
        markSynced(segment)
        all.push(segment)
      },
      pathOf: (first) => files.pathOf(first),
      reader,
      remove: (segment) =>
        Effect.gen(function* () {
          if (appender.isLive(segment)) yield* appender.seal
          yield* closeReader((read) => read === segment)
          yield* Effect.catchIf(disk.remove(segment.path), isAbsent, () => Effect.void)
          hasRemoved = true
          files.forget(segment)
        }),
      syncRemovals: Effect.suspend(() => {
        if (!hasRemoved) return Effect.void
        hasRemoved = false
        return Effect.tapError(disk.syncDirectory(directory), () => Effect.sync(() => (hasRemoved = true)))
      }),
      dropRemoved: Effect.gen(function* () {
        yield* appender.replace
        for (const segment of [...all]) {
          if ((yield* disk.info(segment.path)) !== undefined) {
            yield* closeReader((read) => read === segment)
          } else if (!isOpen(segment)) files.forget(segment)
        }
      })
    }
  })
