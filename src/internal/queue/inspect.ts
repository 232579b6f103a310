/**
 * Inspection: reads a queue's files from another process, without the lock and without a change.
 *
 * The result agrees with what the owner reports, and with how the next owner would open the directory.
 */
import { Chunk, Effect, Option, Schema, Stream } from "effect"
import type { Disk, DiskError, Volume } from "../../services/Disk.js"
import type { QueueStatus } from "../../services/QueueFile.js"
import type { LastSeal } from "../../services/Sealing.js"
import { balanceOf, waitingBytesOf } from "./ledger.js"
import type { Cursor } from "./cursor.js"
import { decode, decodeSlot, sealOf, SLOT_BYTES } from "./cursor.js"
import * as deadLetterFile from "./deadLetters.js"
import { queueIdOf } from "./directory.js"
import { Pid } from "./fields.js"
import { isAbsent, withFile } from "./files.js"
import { MAX_LINE_BYTES, countLines, objectOf, readLines, timeOfLine, type RawLine } from "./lines.js"
import { look } from "./recovery.js"
import * as requests from "./requests.js"
import * as segmentFiles from "./segments.js"
import * as statusFile from "./statusFile.js"

type DiskShape = Disk["Type"]

/** The holder of the lock; `pid` is undefined if the owner has not written it yet. */
export interface Owner {
  readonly pid: number | undefined
}

/** The state of a queue on disk. */
export interface Snapshot {
  readonly segments: ReadonlyArray<segmentFiles.Segment>
  /** the cursor with which the next owner would start */
  readonly cursor: Cursor
  /** the number of the next line */
  readonly next: number
  /** what is wrong with the cursor; undefined if nothing is */
  readonly repair: string | undefined
  readonly decisions: { readonly retried: number; readonly discarded: number }
}

/** Everything that another process can tell about a queue. */
export interface Inspection extends QueueStatus {
  readonly directory: string
  readonly owner: Owner | undefined
  /** what is wrong with the cursor; undefined if nothing is. The next owner repairs it by delivering again. */
  readonly repair: string | undefined
  /** whether the identity can be read; no program can open the queue without one */
  readonly isIdentified: boolean
  /** the last status that an owner wrote; if there is no owner now, then it is that of an earlier one */
  readonly delivery: statusFile.StatusFile | undefined
  readonly volume: Volume
  /** how many files in requests/ will never be carried out, including those that an owner has set aside */
  readonly brokenRequests: number
}

export const inspect = (
  disk: DiskShape,
  directory: string,
  limits: LineLimit = {}
): Effect.Effect<Inspection, DiskError> =>
  Effect.gen(function* () {
    const owner = yield* ownerOf(disk, directory)
    const found = yield* snapshot(disk, directory, owner)
    const oldest = yield* Stream.runHead(Stream.take(waitingLines(disk, found, { ...HEAD, ...limits }), 1))
    return {
      directory,
      owner,
      repair: found.repair,
      isIdentified: Option.isSome(yield* queueIdOf(disk, directory)),
      ...balanceOf(found),
      waitingBytes: waitingBytesOf(found.cursor, found.segments),
      oldest: Option.getOrUndefined(Option.map(oldest, ({ bytes }) => timeOfLine(objectOf(bytes)))),
      nextSequence: found.next,
      ...sealOf(found.cursor),
      delivery: Option.getOrUndefined(yield* statusFile.read(disk, directory)),
      volume: yield* disk.volume(directory),
      brokenRequests: (yield* requests.look(disk, directory)).broken.length
    }
  })

const LockFile = Schema.parseJson(Schema.Struct({ pid: Pid }))

/** The holder of a directory's lock; undefined if nobody holds it. */
export const ownerOf = (disk: DiskShape, directory: string): Effect.Effect<Owner | undefined, DiskError> =>
  Effect.map(disk.lockHolder(`${directory}/lock`), (content) =>
    content === undefined
      ? undefined
      : { pid: Option.getOrUndefined(Schema.decodeOption(LockFile)(content))?.pid }
  )

/** The last seal of what the queue has delivered; undefined if nothing is sealed. */
export const lastSealOf = (
  disk: DiskShape,
  directory: string
): Effect.Effect<LastSeal | undefined, DiskError> =>
  Effect.map(readCursor(disk, directory), ({ cursor }) => cursor?.seal)

/** Segments, cursor and decisions of one moment: read again if the owner moves the cursor meanwhile. */
export const snapshot = (
  disk: DiskShape,
  directory: string,
  owner: Owner | undefined
): Effect.Effect<Snapshot, DiskError> =>
  Effect.gen(function* () {
    for (let tries = 1; ; tries++) {
      const before = yield* readCursor(disk, directory)
      const found = yield* Effect.either(takeSnapshot(disk, directory, owner, before.cursor))
      const after = yield* readCursor(disk, directory)
      if (found._tag === "Right" && (after.generation === before.generation || tries >= TRIES)) {
        return found.right
      }
      // the owner removes delivered segments: if one is missing, then look again
      if (found._tag === "Left" && (!isAbsent(found.left) || tries >= TRIES)) return yield* found.left
    }
  })

const TRIES = 10

const takeSnapshot = (
  disk: DiskShape,
  directory: string,
  owner: Owner | undefined,
  stored: Cursor | undefined
): Effect.Effect<Snapshot, DiskError> =>
  Effect.gen(function* () {
    const segments = (yield* segmentFiles.make(disk, directory, Number.POSITIVE_INFINITY)).all
    const letters = yield* deadLetterFile.make(disk, directory)
    const recovered = yield* look(disk, { segments, letters, cursor: stored }, (segment, from) =>
      linesIn(disk, segment, from, owner)
    )
    return { ...recovered, segments, decisions: letters.counts() }
  }).pipe(Effect.scoped)

const readCursor = (disk: DiskShape, directory: string) =>
  Effect.map(readCursorBytes(disk, directory), (bytes) => ({
    generation: undefined,
    cursor: undefined,
    ...decode(bytes)
  }))

/** The bytes of both slots; none if there is no cursor yet. */
const readCursorBytes = (disk: DiskShape, directory: string): Effect.Effect<Uint8Array, DiskError> =>
  withFile(disk, `${directory}/cursor`, (file) => file.readAt(0, 2 * SLOT_BYTES)).pipe(
    Effect.catchIf(isAbsent, () => Effect.succeed(new Uint8Array()))
  )

/** The state of each of the two slots; `empty` if it was never written. */
export const cursorSlots = (
  disk: DiskShape,
  directory: string
): Effect.Effect<ReadonlyArray<"whole" | "empty" | "damaged">, DiskError> =>
  Effect.map(readCursorBytes(disk, directory), (bytes) =>
    [0, SLOT_BYTES].map((start) => {
      const slot = bytes.subarray(start, start + SLOT_BYTES)
      if (decodeSlot(slot) !== undefined) return "whole"
      return slot.every((byte) => byte === BLANK) ? "empty" : "damaged"
    })
  )

const BLANK = 0x20
const NEWLINE = 0x0a

/** Counts the lines of the newest segment. While the queue has an owner, its end may be an unfinished write. */
const linesIn = (disk: DiskShape, segment: segmentFiles.Segment, from: number, owner: Owner | undefined) =>
  segment.bytes === from
    ? Effect.succeed(0)
    : withFile(disk, segment.path, (file) =>
        Effect.gen(function* () {
          const lines = yield* countLines(file, from, segment.bytes)
          if (owner === undefined) return lines
          const [end] = yield* file.readAt(segment.bytes - 1, 1)
          // undefined if the owner has cut the end off meanwhile
          return end === undefined || end === NEWLINE ? lines : lines - 1
        })
      )

/** A line that waits for delivery, and its place. */
export interface WaitingLine extends RawLine {
  readonly segment: number
  readonly sequence: number
}

/** The longest line that is read whole: the program's limit, 8 MiB by default. Of longer ones only the beginning is. */
export interface LineLimit {
  readonly maxLineBytes?: number
}

interface Reading extends LineLimit {
  readonly maxRecords?: number
  readonly maxBytes?: number
}

const HEAD: Reading = { maxRecords: 1, maxBytes: 4096 }
const WHOLE = { maxRecords: 1024, maxBytes: 1 << 20, maxLineBytes: MAX_LINE_BYTES }

/** The lines that wait, in order, without those that the owner delivers meanwhile. */
export const waitingLines = (
  disk: DiskShape,
  { cursor, segments }: Pick<Snapshot, "cursor" | "segments">,
  reading: Reading = {}
): Stream.Stream<WaitingLine, DiskError> =>
  Stream.fromIterable(segments.filter(({ first }) => first >= cursor.segment)).pipe(
    Stream.flatMap((segment) => {
      const isCurrent = segment.first === cursor.segment
      const start = isCurrent ? cursor.offset : 0
      const sequence = isCurrent && start > 0 ? cursor.sequence : segment.first
      return linesFrom(disk, segment, start, reading).pipe(
        Stream.zipWithIndex,
        Stream.map(([{ bytes, length, offset, oversize, terminated, text }, index]): WaitingLine => {
          const position = { segment: segment.first, offset, sequence: sequence + index }
          return { ...position, length, bytes, text, oversize, terminated }
        }),
        Stream.catchSome((error) => (isAbsent(error) ? Option.some(Stream.empty) : Option.none()))
      )
    })
  )

export const linesFrom = (
  disk: DiskShape,
  segment: Pick<segmentFiles.Segment, "bytes" | "path">,
  start: number,
  reading: Reading = {}
): Stream.Stream<RawLine, DiskError> =>
  Stream.unwrapScoped(
    Effect.map(disk.open(segment.path, "read"), (file) =>
      Stream.paginateChunkEffect(start, (at) =>
        Effect.map(readLines(file, at, segment.bytes, { ...WHOLE, ...reading }), ({ lines, next }) => [
          Chunk.unsafeFromArray([...lines]),
          next > at && next < segment.bytes ? Option.some(next) : Option.none()
        ])
      )
    )
  )

/** The queues in `directory`: the directory itself, or one for each of several `instances`. */
export const queuesIn = (
  disk: DiskShape,
  directory: string
): Effect.Effect<ReadonlyArray<string>, DiskError> =>
  Effect.gen(function* () {
    const instances = (yield* disk.list(directory))
      .filter((name) => INSTANCE.test(name))
      .sort((a, b) => Number(INSTANCE.exec(a)![1]) - Number(INSTANCE.exec(b)![1]))
      .map((name) => `${directory}/${name}`)
    // listing fails for a symbolic link, which may lead out of the directory
    yield* Effect.forEach(instances, disk.list, { discard: true })
    return instances.length === 0 ? [directory] : instances
  })

const INSTANCE = /^instance-(\d+)$/
