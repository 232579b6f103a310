/** The cursor's file: the newest slot at the start, and every later one written durably in its place. */
import { Effect, Exit, Scope } from "effect"
import type { Disk, DiskError, File } from "../services/Disk.js"
import { decode, encodeSlot, SLOT_BYTES, type Cursor } from "./cursor.js"
import { replace } from "./directory.js"

export interface CursorFile {
  /** the cursor as it was found; undefined if there is none, or both slots are damaged */
  readonly stored: Cursor | undefined
  /** Returns when the cursor is on disk. Not to be called twice at once. */
  readonly write: (cursor: Cursor) => Effect.Effect<void, DiskError>
}

export const open = (
  disk: Disk["Type"],
  directory: string
): Effect.Effect<CursorFile, DiskError, Scope.Scope> =>
  Effect.gen(function* () {
    const path = `${directory}/cursor`
    let handle: { readonly file: File; readonly scope: Scope.CloseableScope } | undefined

    const close = Effect.suspend(() => {
      const scope = handle?.scope
      handle = undefined
      return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
    })
    const openHandle = Effect.gen(function* () {
      if ((yield* disk.info(path)) === undefined) {
        yield* replace(disk, directory, path, " ".repeat(2 * SLOT_BYTES))
      }
      const scope = yield* Scope.make()
      const file = yield* Effect.onError(Scope.extend(disk.open(path, "update"), scope), (cause) =>
        Scope.close(scope, Exit.failCause(cause))
      )
      return { file, scope }
    })

    handle = yield* openHandle
    yield* Effect.addFinalizer(() => close)
    // a slot that was written but not synced would go back at a power cut, and the books with it
    yield* handle.file.sync
    const found = decode(yield* handle.file.readAt(0, 2 * SLOT_BYTES))
    let generation = found?.generation ?? 0

    return {
      stored: found?.cursor,
      write: (cursor) =>
        Effect.gen(function* () {
          handle ??= yield* openHandle
          const slot = generation + 1
          yield* handle.file.writeAt(encodeSlot(slot, cursor), (slot % 2) * SLOT_BYTES)
          // only now: a failed write is repeated in the same slot, so that the other one stays whole
          generation = slot
        }).pipe(
          // the file may have been removed, or be on a disk that was replaced
          Effect.tapError(() => close)
        )
    }
  })
