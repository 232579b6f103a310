/**
 * The reserve: a file as large as the largest letter. Delivery frees a full disk, but a refused event needs room for
 * its letter before delivery can go on.
 *
 * If a write finds no room, then the reserve is emptied and the write runs again. The empty file means that its room is
 * owed. Appends, also those of the next process, leave as much free until it is whole again. Otherwise they would take
 * the room, and the next refused event would stop delivery for good.
 */
import { Effect } from "effect"
import { randomFillSync } from "node:crypto"
import type { Disk, DiskError } from "../../services/Disk.js"
import { RESERVE } from "./directory.js"
import { hasNoRoom, isAbsent } from "./files.js"
import type { WithRoom } from "./letterFile.js"

export interface Reserve {
  /** Runs a write; if there is no room, then runs it again with the room of the reserve. */
  readonly withRoom: WithRoom
  /** how many bytes of it are missing once the file exists; appends must leave them free */
  readonly owed: () => number
  readonly isWhole: () => boolean
  /** Makes it whole, if there is room. */
  readonly refill: Effect.Effect<void, DiskError>
  /** Reads its size again, since the directory may have been removed. */
  readonly look: Effect.Effect<void, DiskError>
}

interface Options {
  /** its size; 0 for no reserve */
  readonly bytes: number
  /** whether this process makes it: the command, which ends soon, only uses it */
  readonly makes: boolean
  /** bytes that must stay free on the disk when it is made */
  readonly minFreeBytes: number
  /** runs a write, and keeps the lock until it has ended */
  readonly writing: WithRoom
}

/** it is written in pieces, so that other writes come in between, bytes */
const PIECE_BYTES = 1 << 20

export const make = (
  disk: Disk["Type"],
  directory: string,
  { bytes, makes, minFreeBytes, writing }: Options
): Effect.Effect<Reserve, DiskError> =>
  Effect.gen(function* () {
    const path = `${directory}/${RESERVE}`
    /** its bytes; undefined if there is no file */
    let size: number | undefined
    /** held while it changes: it is not emptied while a piece is written */
    const changing = yield* Effect.makeSemaphore(1)

    const look = Effect.map(disk.info(path), (info) => {
      size = info?.type === "file" ? info.size : undefined
    })
    const missing = () => Math.max(0, bytes - (size ?? 0))

    const empty = Effect.gen(function* () {
      const file = yield* disk.open(path, "patch")
      yield* file.truncate(0)
      size = 0
      // some file systems free the room only with their next commit
      yield* file.sync
      yield* Effect.logWarning(
        `audit queue: the disk is full: dead letters take the room that was kept for them in ${path}`
      )
    }).pipe(
      Effect.scoped,
      Effect.catchIf(isAbsent, () => look),
      changing.withPermits(1)
    )

    const withRoom: WithRoom = (write) =>
      Effect.catchIf(
        write,
        (error) => hasNoRoom(error) && (size ?? 0) > 0,
        () => Effect.zipRight(empty, write)
      )

    /** Adds a piece, if there is room; returns whether more is missing. */
    const addPiece = Effect.gen(function* () {
      if (missing() === 0) return false
      const { freeBytes } = yield* disk.volume(directory)
      if (freeBytes - missing() < minFreeBytes) return false
      const isNew = size === undefined
      const file = yield* disk.open(path, "append")
      const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, missing()))
      // random, since zeros take no room on a file system that compresses
      yield* file.write(randomFillSync(piece))
      yield* file.sync
      // if a power cut took the file, then nobody would know that its room is owed
      if (isNew) yield* disk.syncDirectory(directory)
      size = yield* file.size
      return missing() > 0
    }).pipe(
      Effect.scoped,
      Effect.tapError(() => Effect.ignore(look)),
      changing.withPermits(1),
      writing
    )

    yield* look
    return {
      withRoom,
      owed: () => (size === undefined ? 0 : missing()),
      isWhole: () => !makes || missing() === 0,
      refill: Effect.asVoid(Effect.repeat(addPiece, { while: (goesOn) => goesOn })),
      look
    }
  })
