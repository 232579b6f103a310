/** A turn of the event loop: whatever waits for it runs first. */
import { Effect } from "effect"

/** Goes on after what is ready now; `Effect.yieldNow` lets fibers in, but no sockets. */
export const turnEventLoop = Effect.async<void>((resume) => {
  const turn = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(turn))
})
