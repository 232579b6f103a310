/**
 * The scratch buffer: large reads and writes use it one after the other. The collector sees little of a buffer, so one
 * for each would stay for long.
 */
import { Effect, Exit, type Scope } from "effect"
import { RETRY_BYTES } from "../../schema/Line.js"

/** Lines of so many bytes are read whole. */
export const WHOLE_BYTES: number = 1 << 18
/** so many bytes it has: such a line may have been marked, and one byte more tells that another one is longer */
const SCRATCH_BYTES = WHOLE_BYTES + RETRY_BYTES + 1

let free: Buffer | undefined

/** It, until the scope closes; whoever comes meanwhile gets another one. What it holds is anything. */
export const scratch: Effect.Effect<Buffer, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const buffer = free ?? Buffer.allocUnsafeSlow(SCRATCH_BYTES)
    free = undefined
    return buffer
  }),
  (buffer, exit) =>
    Effect.sync(() => {
      // the disk may still use it for a call that was interrupted
      if (!Exit.isInterrupted(exit)) free = buffer
    })
)
