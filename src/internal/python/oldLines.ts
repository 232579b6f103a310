/** The lines of the Python class, which carry no ids. */
import { createHash } from "node:crypto"
import { textOf } from "../../schema/EventId.js"
import type { QueueRecord } from "../../services/QueueFile.js"

/**
 * The id of a line without one: a hash of its content and place. So equal lines are different events, and a repeated
 * delivery finds the same id. UUIDv8 (RFC 9562, section 5.8).
 */
export const eventIdOfLine = (
  queueId: string,
  { bytes, offset, segment }: Pick<QueueRecord, "bytes" | "offset" | "segment">
): string => {
  const hash = createHash("sha256").update(`${queueId}:${segment}:${offset}:`).update(bytes).digest()
  hash[6] = (hash[6]! & 0x0f) | 0x80
  hash[8] = (hash[8]! & 0x3f) | 0x80
  return textOf(hash)
}
