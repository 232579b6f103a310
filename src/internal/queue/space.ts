/** The space: whether the queue may grow, by the free bytes of its disk and by the bytes that wait. */
import { Effect, Exit } from "effect"
import type { Disk } from "../../services/Disk.js"

/** The shortest time between two looks at the free space while appending, milliseconds. */
const INTERVAL = 1000

/** A limit that an append would exceed. */
export interface Exceeded {
  readonly limit: "maxQueueBytes" | "minFreeBytes"
  readonly limitBytes: number
  readonly actualBytes: number
}

export interface Space {
  /** Whether the free space must be read again before so many bytes are taken; `now` is `monotonicMillis`. */
  readonly isStale: (bytes: number, now: number) => boolean
  /** Reads the free space. */
  readonly look: (now: number) => Effect.Effect<void>
  /** Takes so many bytes, unless they exceed a limit. */
  readonly take: (bytes: number) => Exceeded | undefined
}

export const make = (
  disk: Disk["Type"],
  directory: string,
  limits: {
    readonly minFreeBytes: number
    /** bytes that must stay free besides, for the reserve */
    readonly owed: () => number
    readonly maxQueueBytes: number
    readonly waitingBytes: () => number
  }
): Space => {
  const { maxQueueBytes, waitingBytes } = limits
  const toLeave = () => limits.minFreeBytes + limits.owed()
  let free = Number.POSITIVE_INFINITY
  let lookedAt = Number.NEGATIVE_INFINITY
  return {
    isStale: (bytes, now) => now - lookedAt >= INTERVAL || free - bytes < toLeave(),
    look: (now) =>
      // if the disk cannot tell, then the write will fail by itself
      Effect.map(Effect.exit(Effect.suspend(() => disk.volume(directory))), (volume) => {
        free = Exit.isSuccess(volume) ? volume.value.freeBytes : Number.POSITIVE_INFINITY
        lookedAt = now
      }),
    take: (bytes) => {
      const queued = waitingBytes()
      if (queued + bytes > maxQueueBytes)
        return { limit: "maxQueueBytes", limitBytes: maxQueueBytes, actualBytes: queued }
      if (free - bytes < toLeave()) return { limit: "minFreeBytes", limitBytes: toLeave(), actualBytes: free }
      free -= bytes
      return undefined
    }
  }
}
