/** Reading on: fewer and larger reads than a reader asks for. */
import { Effect } from "effect"
import type { DiskError, File } from "../services/Disk.js"

/** What can be read from. */
export type Readable = Pick<File, "readAt">

/** Each read wakes a thread, which costs a tenth of a millisecond while the database keeps the processor busy. */
const AHEAD_BYTES = 1024 * 1024
/** what asks for less wants a look, and does not read on */
const LOOK_BYTES = 32 * 1024

/** Reads on, in one file at a time, whose bytes before the given end do not change any more. */
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
    /** The file up to the byte at `end`. */
    over: (file: File, end: number): Readable => ({
      readAt: (offset, length) => Effect.suspend(() => readAt(file, end, offset, length))
    }),
    /** Nothing is to be read for a while. */
    forget: () => {
      held = undefined
    }
  }
}
