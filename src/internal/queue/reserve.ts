/**
 * The reserve: a file as large as the largest letter. A full disk is freed by delivery, and a refused event among the
 * others needs room before it can go on.
 *
 * If a write finds no room, then the reserve is emptied and the write runs again. The empty file says that its room is
 * owed: appends leave as much free until it is whole again, also those of a next process. Otherwise they would take it,
 * and the next refused event would stop delivery for good.
 */
import { Effect } from "effect"
import { randomFillSync } from "node:crypto"
import type { Disk, DiskError } from "../../services/Disk.js"
import { RESERVE } from "./directory.js"
import { hasNoRoom, isAbsent } from "./files.js"
import type { WithRoom } from "./letterFile.js"

export interface Reserve {
  /** Runs a write, once more with the room of the reserve if there is none. */
  readonly withRoom: WithRoom
  /** how many bytes of it are missing, once it was begun: nobody else is to take them */
  readonly owed: () => number
  readonly isWhole: () => boolean
  /** Makes it whole if there is room for that. */
  readonly refill: Effect.Effect<void, DiskError>
  /** Looks at it anew: the directory may have been removed. */
  readonly look: Effect.Effect<void, DiskError>
}

interface Options {
  /** how large it is; 0 for none */
  readonly bytes: number
  /** whether this process makes it: the command, which leaves soon, only uses it */
  readonly makes: boolean
  /** bytes that stay free on the disk when it is made */
  readonly minFreeBytes: number
  /** runs a write, until whose end no other owner may come */
  readonly writing: WithRoom
}

/** it is written in pieces, between which others may write, bytes */
const PIECE_BYTES = 1 << 20

export const make = (
  disk: Disk["Type"],
  directory: string,
  { bytes, makes, minFreeBytes, writing }: Options
): Effect.Effect<Reserve, DiskError> =>
  Effect.gen(function* () {
    const path = `${directory}/${RESERVE}`
    /** bytes of it; undefined if there is no such file */
    let size: number | undefined
    /** it is not emptied while a piece of it is written */
    const changing = yield* Effect.makeSemaphore(1)

    const look = Effect.map(disk.info(path), (info) => {
      size = info?.type === "file" ? info.size : undefined
    })
    const missing = () => Math.max(0, bytes - (size ?? 0))

    const empty = Effect.gen(function* () {
      const file = yield* disk.open(path, "patch")
      yield* file.truncate(0)
      size = 0
      // some file systems give the room back with their next commit
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

    /** Adds a piece; whether there is more to do, and room for it. */
    const addPiece = Effect.gen(function* () {
      if (missing() === 0) return false
      const { freeBytes } = yield* disk.volume(directory)
      if (freeBytes - missing() < minFreeBytes) return false
      const isNew = size === undefined
      const file = yield* disk.open(path, "append")
      const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, missing()))
      // zeros would take no room where files are compressed
      yield* file.write(randomFillSync(piece))
      yield* file.sync
      // a power cut that takes the file would hide that its room is owed
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
