/**
 * The scratch buffer: large reads and writes share it. Garbage collection hardly counts the bytes of buffers, so a new
 * one for each use would stay for long.
 */
import { Effect, Exit, type Scope } from "effect"
import { RETRY_BYTES } from "../../schema/Line.js"

/** The longest line that is read whole, bytes. */
export const WHOLE_BYTES: number = 1 << 18
/** room for such a line, a retry's mark, and one byte more, which tells that a line is longer */
const SCRATCH_BYTES = WHOLE_BYTES + RETRY_BYTES + 1

let free: Buffer | undefined

/** The buffer, with arbitrary content, until the scope closes. If it is in use, then a new one. */
export const scratch: Effect.Effect<Buffer, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const buffer = free ?? Buffer.allocUnsafeSlow(SCRATCH_BYTES)
    free = undefined
    return buffer
  }),
  (buffer, exit) =>
    Effect.sync(() => {
      // after an interruption the disk may still use the buffer
      if (!Exit.isInterrupted(exit)) free = buffer
    })
)
