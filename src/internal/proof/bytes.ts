/**
 * Bytes that are hashed and signed: each part stands behind its length, and the first part names what the whole is. So
 * no two lists of parts are the same bytes, and no hash of one thing is one of another.
 */
import * as crypto from "node:crypto"

/** A text stands for its UTF-8. */
export type Part = string | Uint8Array

/** The parts of a domain, each behind its length, a big-endian 64-bit number. */
export const frame = (domain: string, parts: ReadonlyArray<Part>): Buffer => {
  const bytes = Buffer.allocUnsafe(framedSize(domain, parts))
  writeFrame(bytes, domain, parts)
  return bytes
}

const framedSize = (domain: string, parts: ReadonlyArray<Part>): number => {
  let size = LENGTH_BYTES + sizeOf(domain)
  for (const part of parts) size += LENGTH_BYTES + sizeOf(part)
  return size
}

const writeFrame = (bytes: Buffer, domain: string, parts: ReadonlyArray<Part>): void => {
  let at = write(bytes, 0, domain)
  for (const part of parts) at = write(bytes, at, part)
}

const LENGTH_BYTES = 8

const sizeOf = (part: Part): number => (typeof part === "string" ? Buffer.byteLength(part) : part.length)

/** Writes a part behind its length; where the next one stands. */
const write = (bytes: Buffer, at: number, part: Part): number => {
  const start = at + LENGTH_BYTES
  const size = typeof part === "string" ? bytes.write(part, start) : part.length
  if (typeof part !== "string") bytes.set(part, start)
  // a length is below 2^53: two halves are faster than a bigint
  bytes.writeUInt32BE(Math.floor(size / 2 ** 32), at)
  bytes.writeUInt32BE(size >>> 0, at + 4)
  return start + size
}

/** A number as it is hashed: big-endian, 64 bits. */
export const u64 = (value: number): Buffer => {
  const bytes = Buffer.allocUnsafe(LENGTH_BYTES)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** As identifiers and heads are shown. */
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** The SHA-256 of the parts of a domain. */
export const digest = (domain: string, parts: ReadonlyArray<Part>): Buffer => {
  const size = framedSize(domain, parts)
  // Hot path: bytes of their own for each of a row's hashes would be most of its garbage
  const bytes = size > scratch.length ? Buffer.allocUnsafe(size) : scratch.subarray(0, size)
  writeFrame(bytes, domain, parts)
  return sha256(bytes)
}

const scratch = Buffer.allocUnsafeSlow(16 * 1024)

/** Hot path: `crypto.hash` takes an eighth of the time for a row, and a text half of that; other runtimes may lack it. */
const hash = (crypto as { readonly hash?: typeof crypto.hash }).hash

const sha256 = (bytes: Uint8Array): Buffer =>
  hash === undefined
    ? crypto.createHash("sha256").update(bytes).digest()
    : Buffer.from(hash("sha256", bytes, "binary"), "binary")

/** of every hash, and of half a signature */
export const HASH_BYTES = 32

/** What stands in place of the head before a chain's first seal. */
export const NO_HEAD: Buffer = Buffer.alloc(HASH_BYTES)

/** Bytes as netstrings: `5:hello,`. */
export const netstring = (part: Part): Buffer => {
  const bytes = typeof part === "string" ? Buffer.from(part) : part
  return Buffer.concat([Buffer.from(`${bytes.length}:`), bytes, COMMA])
}

const COMMA = Buffer.from(",")

/** The bytes of netstrings, one after the other; undefined if they are anything else. */
export const netstrings = (bytes: Uint8Array): ReadonlyArray<Buffer> | undefined => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const parts: Array<Buffer> = []
  for (let at = 0; at < buffer.length;) {
    const colon = buffer.indexOf(":", at)
    // a longer length is none of a part that fits into a column
    if (colon <= at || colon - at > 9) return undefined
    const digits = buffer.toString("latin1", at, colon)
    if (!/^(?:0|[1-9]\d*)$/.test(digits)) return undefined
    const end = colon + 1 + Number(digits)
    if (buffer[end] !== COMMA[0]) return undefined
    parts.push(buffer.subarray(colon + 1, end))
    at = end + 1
  }
  return parts
}
