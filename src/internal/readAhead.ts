/** Read-ahead: turns a reader's many small reads into fewer large ones. */
import { Effect } from "effect"
import type { DiskError, File } from "../services/Disk.js"

export type Readable = Pick<File, "readAt">

/** Hot path: one read brings several batches, since each read wakes a thread (bench/README.md#threads). Bytes. */
const AHEAD_BYTES = 1024 * 1024
/** a shorter read is a single look, after which nobody reads on, bytes */
const LOOK_BYTES = 32 * 1024

/** Reads ahead in one file at a time. Invariant: bytes before the given end never change. */
export const make = () => {
  let held: { readonly file: File; readonly from: number; readonly bytes: Uint8Array } | undefined

  const readAt = (
    file: File,
    end: number,
    offset: number,
    length: number
  ): Effect.Effect<Uint8Array, DiskError> => {
    if (length < LOOK_BYTES || length > AHEAD_BYTES) return file.readAt(offset, length)
    if (held?.file === file && offset >= held.from) {
      const start = offset - held.from
      if (start + length <= held.bytes.length) {
        return Effect.succeed(held.bytes.subarray(start, start + length))
      }
    }
    return Effect.map(file.readAt(offset, Math.min(AHEAD_BYTES, end - offset)), (bytes) => {
      held = { file, from: offset, bytes }
      return bytes.subarray(0, length)
    })
  }

  return {
    /** The file up to the offset `end`. */
    over: (file: File, end: number): Readable => ({
      readAt: (offset, length) => Effect.suspend(() => readAt(file, end, offset, length))
    }),
    /** Frees the bytes: nothing will be read for a while. */
    forget: () => {
      held = undefined
    }
  }
}
