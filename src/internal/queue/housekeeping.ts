/**
 * Housekeeping: erases letters that have ended, and fills the reserve. Neither appends nor delivery wait for it.
 */
import { Effect, Fiber, Queue, type Scope } from "effect"
import type { Disk, DiskError } from "../../services/Disk.js"
import { supervised } from "../contained.js"
import type { Shutdown } from "../shutdown.js"
import type { Decisions } from "./decisions.js"
import type { DeadLetters } from "./deadLetters.js"
import type { Reserve } from "./reserve.js"

export interface Housekeeping {
  /** Runs after each commit: tidies a small file at once, and a large one in the background. */
  readonly afterCommit: Effect.Effect<void, DiskError>
}

interface Parts {
  readonly disk: Disk["Type"]
  /** the file of the dead letters */
  readonly path: string
  readonly letters: DeadLetters
  readonly tidy: Decisions["tidy"]
  readonly reserve: Reserve
  readonly shutdown: Shutdown
}

/** Reading a file of this size takes a few milliseconds. */
const SMALL_BYTES = 1024 * 1024

/** Runs until the scope closes; the next start does what is left. */
export const make = ({
  disk,
  letters,
  path,
  reserve,
  shutdown,
  tidy
}: Parts): Effect.Effect<Housekeeping, DiskError, Scope.Scope> =>
  Effect.gen(function* () {
    const wakes = yield* Queue.sliding<void>(1)
    const wake = Effect.asVoid(Queue.offer(wakes, undefined))
    const isSmall = Effect.map(disk.info(path), (info) => (info?.size ?? 0) <= SMALL_BYTES)
    const tidySmall = Effect.flatMap(isSmall, (isSmall) => (isSmall ? tidy : wake))
    // if there is no room now, then a later commit tries again
    const refill = Effect.catchAll(reserve.refill, (error) =>
      Effect.logDebug("audit queue: no reserve", error)
    )
    const work = Effect.forever(Effect.zipRight(Queue.take(wakes), Effect.zipRight(tidy, refill)))
    yield* Effect.disconnect(tidySmall)
    yield* Effect.acquireRelease(
      Effect.forkDaemon(Effect.interruptible(supervised("the housekeeping of the queue", work))),
      // if the disk does not answer, then the step keeps the lock, but nobody waits for it
      (fiber) => shutdown.within(Fiber.interrupt(fiber))
    )
    if (!reserve.isWhole()) yield* wake
    return {
      afterCommit: Effect.suspend(() => {
        if (letters.hasRemains()) return Effect.zipRight(tidySmall, reserve.isWhole() ? Effect.void : wake)
        return reserve.isWhole() ? Effect.void : wake
      })
    }
  })
