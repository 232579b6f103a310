/** Event ids: makes them, and converts between text and bytes. */
import { randomFillSync } from "node:crypto"
import { v7 } from "uuid"

/** Makes ids that grow with time, also within one millisecond: UUIDv7 (RFC 9562, section 5.7). */
export const makeGenerator = (): ((epochMillis: number) => string) => {
  let msecs = Number.NEGATIVE_INFINITY
  let seq = 0
  // Hot path: the system's generator, called for each id, would cost more than the rest of an append.
  const pool = new Uint8Array(256 * ID_BYTES)
  let used = pool.length
  const bytes = new Uint8Array(ID_BYTES)
  return (epochMillis) => {
    if (epochMillis > msecs) {
      msecs = epochMillis
      // the upper half of the range stays free for counting up
      seq = Math.floor(Math.random() * 0x40000000)
    } else {
      // the same millisecond, or a clock that was set back
      seq++
    }
    if (used === pool.length) {
      randomFillSync(pool)
      used = 0
    }
    v7({ msecs, seq, random: pool.subarray(used, (used += ID_BYTES)) }, bytes)
    return textOf(bytes)
  }
}

/** the length of a UUID, and of the randomness for one */
export const ID_BYTES = 16

const HEX = Buffer.from("0123456789abcdef")
const text = Buffer.alloc(36, "-")
/** the place of each byte's digits in the text (RFC 9562, section 4) */
const PLACES = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34]

/** The first 16 bytes as a UUID. Hot path: `stringify` of uuid takes three times as long. */
export const textOf = (bytes: Uint8Array): string => {
  for (let i = 0; i < ID_BYTES; i++) {
    const byte = bytes[i]!
    const place = PLACES[i]!
    text[place] = HEX[byte >>> 4]!
    text[place + 1] = HEX[byte & 15]!
  }
  return text.toString("latin1")
}

/** Writes the 16 bytes of a UUID: the inverse of `textOf`. */
export const writeId = (id: string, target: Uint8Array, at: number): void => {
  for (let i = 0; i < ID_BYTES; i++) {
    const place = PLACES[i]!
    target[at + i] = (digit(id.charCodeAt(place)) << 4) | digit(id.charCodeAt(place + 1))
  }
}

/**
 * The value of a hexadecimal digit in either case: for letters, 9 more than their lower four bits. Hot path: without a
 * branch, which nobody predicts (bench/README.md#proof).
 */
const digit = (code: number): number => (code & 0x0f) + 9 * (code >>> 6)
