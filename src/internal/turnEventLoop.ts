/** A turn of the event loop: everything that is ready runs first. */
import { Effect } from "effect"

/** Continues after everything that is ready now. `Effect.yieldNow` lets fibers run, but no sockets. */
export const turnEventLoop = Effect.async<void>((resume) => {
  const turn = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(turn))
})
