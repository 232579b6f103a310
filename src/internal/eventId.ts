/** Ids of events. */
import { createHash, randomFillSync } from "node:crypto"
import { v7 } from "uuid"
import type { QueueRecord } from "../services/QueueFile.js"

/** Makes ids that grow with time, and within one millisecond too: UUIDv7 (RFC 9562, section 5.7). */
export const makeGenerator = (): ((epochMillis: number) => string) => {
  let msecs = Number.NEGATIVE_INFINITY
  let seq = 0
  // a call to the system's generator for each id would cost more than all the rest of an append
  const pool = new Uint8Array(256 * RANDOM_BYTES)
  let used = pool.length
  return (epochMillis) => {
    if (epochMillis > msecs) {
      msecs = epochMillis
      // half of the range stays free for counting upwards
      seq = Math.floor(Math.random() * 0x40000000)
    } else {
      // the same millisecond, or a clock that was set back
      seq++
    }
    if (used === pool.length) {
      randomFillSync(pool)
      used = 0
    }
    return v7({ msecs, seq, random: pool.subarray(used, (used += RANDOM_BYTES)) })
  }
}

const RANDOM_BYTES = 16

/**
 * The id of a line that carries none: a hash of what it is and where it stands, so that equal lines are different
 * events and a replay finds the same id. UUIDv8 (RFC 9562, section 5.8).
 */
export const eventIdOfLine = (
  queueId: string,
  { bytes, offset, segment }: Pick<QueueRecord, "bytes" | "offset" | "segment">
): string => {
  const hash = createHash("sha256").update(`${queueId}:${segment}:${offset}:`).update(bytes).digest()
  hash[6] = (hash[6]! & 0x0f) | 0x80
  hash[8] = (hash[8]! & 0x3f) | 0x80
  const hex = hash.toString("hex", 0, 16)
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-")
}
