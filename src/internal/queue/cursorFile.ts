/** The cursor's file: reads the newest slot at the start, and writes each later one durably. */
import { Effect, type Scope } from "effect"
import type { Disk, DiskError } from "../../services/Disk.js"
import { decode, encodeSlot, SLOT_BYTES, type Cursor } from "./cursor.js"
import { openHandle, replace, type Handle } from "./files.js"

export interface CursorFile {
  /** the cursor that was found; undefined if there is none, or both slots are damaged */
  readonly stored: Cursor | undefined
  /** Returns when the cursor is on disk. */
  readonly write: (cursor: Cursor) => Effect.Effect<void, DiskError>
  /**
   * Writes the cursor again if the last write failed: the next process could find the failed slot in the page cache.
   */
  readonly restore: (cursor: Cursor) => Effect.Effect<void, DiskError>
  readonly isInPlace: Effect.Effect<boolean, DiskError>
  /**
   * Writes the cursor again, to a new file if the old one was removed. If another process has written to the file
   * meanwhile, then it returns false and does not run `cursor`.
   */
  readonly reopen: (cursor: Effect.Effect<Cursor, DiskError>) => Effect.Effect<boolean, DiskError>
}

export const open = (
  disk: Disk["Type"],
  directory: string
): Effect.Effect<CursorFile, DiskError, Scope.Scope> =>
  Effect.gen(function* () {
    const path = `${directory}/cursor`
    let handle: Handle | undefined

    const close = Effect.suspend(() => {
      const given = handle
      handle = undefined
      return given === undefined ? Effect.void : given.close
    })
    const openFile = Effect.gen(function* () {
      if ((yield* disk.info(path)) === undefined) {
        yield* replace(disk, directory, path, " ".repeat(2 * SLOT_BYTES))
      }
      return yield* openHandle(disk, path, "update")
    })

    handle = yield* openFile
    yield* Effect.addFinalizer(() => close)
    const found = decode(yield* handle.file.readAt(0, 2 * SLOT_BYTES))
    let generation = found?.generation ?? 0
    /** whether the last write failed, or was interrupted: its slot may have reached the disk all the same */
    let failed = false
    const guard = yield* Effect.makeSemaphore(1)

    const write = Effect.fnUntraced(
      function* (cursor: Cursor) {
        failed = true
        handle ??= yield* openFile
        const slot = generation + 1
        yield* handle.file.writeAt(encodeSlot(slot, cursor), (slot % 2) * SLOT_BYTES)
        // only now: a failed write is repeated in the same slot, so that the other slot stays whole
        generation = slot
        failed = false
      },
      // the file may have been removed, or be on a disk that was replaced
      Effect.tapError(() => close)
    )

    const reopen = Effect.fnUntraced(function* (cursor: Effect.Effect<Cursor, DiskError>) {
      yield* close
      handle = yield* openFile
      const now = decode(yield* handle.file.readAt(0, 2 * SLOT_BYTES))?.generation
      // a failed write may have reached the disk
      const isOurs = now === undefined || now === generation || (failed && now === generation + 1)
      if (isOurs) yield* write(yield* cursor)
      return isOurs
    })

    const oneByOne = guard.withPermits(1)
    return {
      stored: found?.cursor,
      write: (cursor) => oneByOne(write(cursor)),
      restore: (cursor) => oneByOne(Effect.suspend(() => (failed ? write(cursor) : Effect.void))),
      isInPlace: Effect.map(disk.info(path), (info) => info !== undefined),
      reopen: (cursor) => oneByOne(reopen(cursor))
    }
  })
