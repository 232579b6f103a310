/**
 * Housekeeping: what the owner of a queue does beside appends and delivery, neither of which waits for it. Letters that
 * have ended are tidied away, and the reserve is made.
 */
import { Effect, Fiber, Queue, type Scope } from "effect"
import type { Disk, DiskError } from "../../services/Disk.js"
import { supervised } from "../contained.js"
import type { Shutdown } from "../shutdown.js"
import type { Decisions } from "./decisions.js"
import type { DeadLetters } from "./deadLetters.js"
import type { Reserve } from "./reserve.js"

export interface Housekeeping {
  /** After a change: of a small file at once, of a large one beside what comes next. */
  readonly afterCommit: Effect.Effect<void, DiskError>
}

interface Parts {
  readonly disk: Disk["Type"]
  /** of the dead letters */
  readonly path: string
  readonly letters: DeadLetters
  readonly tidy: Decisions["tidy"]
  readonly reserve: Reserve
  readonly shutdown: Shutdown
}

/** A file of so many bytes is looked through within some milliseconds. */
const SMALL_BYTES = 1024 * 1024

/** Begins, until the scope closes; what is left then is done after the next start. */
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
    // where there is no room now, there is after a later commit
    const refill = Effect.catchAll(reserve.refill, (error) =>
      Effect.logDebug("audit queue: no reserve", error)
    )
    const work = Effect.forever(Effect.zipRight(Queue.take(wakes), Effect.zipRight(tidy, refill)))
    yield* Effect.disconnect(tidySmall)
    yield* Effect.acquireRelease(
      Effect.forkDaemon(Effect.interruptible(supervised("the housekeeping of the queue", work))),
      // a step that the disk does not answer keeps the lock, and nobody waiting
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
