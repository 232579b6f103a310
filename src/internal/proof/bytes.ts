/**
 * The bytes that are hashed and signed. Each part stands behind its length, and the first part, the domain, says what
 * the whole is. So no two lists of parts give the same bytes.
 */
import * as crypto from "node:crypto"

/** A text is hashed as its UTF-8. */
export type Part = string | Uint8Array

/** of every hash, and of half a signature */
export const HASH_BYTES = 32

/** of a length: a big-endian 64-bit number */
const LENGTH_BYTES = 8

/** bytes that a frame keeps: enough for most rows, and for the entries of a seal */
const KEPT = 64 * 1024

/**
 * Parts behind their lengths. Those of the constructor begin every frame. Hot path: a row has two hashes of a dozen
 * short parts each. So one frame serves many rows, and copies short texts itself (bench/README.md#proof).
 */
export class Frame {
  private bytes = Buffer.alloc(1024)
  private view = viewOf(this.bytes)
  private at = 0
  /** behind the parts of every frame */
  private readonly start: number
  /** views of `bytes` by length; gone once `bytes` is replaced */
  private views: Array<Buffer | undefined> = []

  constructor(...parts: ReadonlyArray<Part>) {
    for (const part of parts) this.part(part)
    this.start = this.at
  }

  begin(): this {
    this.at = this.start
    // one large row must not hold its room for good
    if (this.bytes.length > KEPT) this.move(KEPT)
    return this
  }

  part(part: Part): this {
    if (typeof part === "string") return this.text(part, false)
    return this.slice(part, 0, part.length)
  }

  /** A range of bytes as one part. */
  slice(bytes: Uint8Array, from: number, to: number): this {
    const size = to - from
    this.reserve(size)
    const start = this.at + LENGTH_BYTES
    if (size > SHORT) this.bytes.set(bytes.subarray(from, to), start)
    else for (let i = 0; i < size; i++) this.bytes[start + i] = bytes[from + i]!
    return this.end(start + size)
  }

  /** A value of a row as one part. NULL differs from all texts, the empty one too. */
  value(value: string | null): this {
    if (value !== null) return this.text(value, true)
    this.reserve(0)
    return this.end(this.at + LENGTH_BYTES)
  }

  /** A text as one part, behind the mark "=" if it is a value. */
  private text(text: string, isMarked: boolean): this {
    // UTF-8 takes at most 3 bytes for a UTF-16 unit
    this.reserve(1 + 3 * text.length)
    const { bytes } = this
    let to = this.at + LENGTH_BYTES
    if (isMarked) bytes[to++] = EQUALS
    if (text.length > SHORT) return this.end(to + bytes.write(text, to))
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      if (code > 0x7f) return this.end(to + i + bytes.write(text.slice(i), to + i))
      bytes[to + i] = code
    }
    return this.end(to + text.length)
  }

  /** A part from a hash as {@link hashOf} makes it: one character for each byte. */
  latin1(text: string): this {
    this.reserve(text.length)
    const to = this.at + LENGTH_BYTES
    for (let i = 0; i < text.length; i++) this.bytes[to + i] = text.charCodeAt(i)
    return this.end(to + text.length)
  }

  /** The bytes of the frame, until another frame begins. */
  get framed(): Buffer {
    const { at, bytes, views } = this
    return at < SHORT_FRAME ? (views[at] ??= bytes.subarray(0, at)) : bytes.subarray(0, at)
  }

  private reserve(size: number): void {
    const needed = this.at + LENGTH_BYTES + size
    if (needed > this.bytes.length) this.move(Math.max(needed, 2 * this.bytes.length))
  }

  private move(room: number): void {
    const bytes = Buffer.alloc(room)
    bytes.set(this.bytes.subarray(0, this.at))
    this.bytes = bytes
    this.view = viewOf(bytes)
    this.views = []
  }

  /** Ends a part before this index. */
  private end(index: number): this {
    const { at, view } = this
    // fits into 32 bits: a text has fewer than 2^29 units, and no column holds 4 GiB
    view.setUint32(at, 0)
    view.setUint32(at + 4, index - at - LENGTH_BYTES)
    this.at = index
    return this
  }
}

const viewOf = ({ buffer, byteLength, byteOffset }: Buffer): DataView =>
  new DataView(buffer, byteOffset, byteLength)

const EQUALS = "=".charCodeAt(0)

/** UTF-16 units, or bytes, up to which a loop is as fast as a call of the buffer */
const SHORT = 48

/** bytes of a frame up to which its view is kept: making one takes a tenth of its hash's time */
const SHORT_FRAME = 1024

/** Shared: a caller is done with it before the next one begins. */
const framing = new Frame()

const framingOf = (domain: string, parts: ReadonlyArray<Part>): Frame => {
  framing.begin().part(domain)
  for (const part of parts) framing.part(part)
  return framing
}

/** The parts of a domain, each behind its length, a big-endian 64-bit number. */
export const frame = (domain: string, parts: ReadonlyArray<Part>): Buffer =>
  Buffer.from(framingOf(domain, parts).framed)

/** A number as it is hashed: big-endian, 64 bits. */
export const u64 = (value: number): Buffer => {
  const bytes = Buffer.allocUnsafe(LENGTH_BYTES)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** Hexadecimal digits, as ids and heads are shown. */
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** The SHA-256 of the parts of a domain. */
export const digest = (domain: string, parts: ReadonlyArray<Part>): Buffer =>
  Buffer.from(hashOf(framingOf(domain, parts)), "latin1")

/** The SHA-256 of a frame as a text: one character for each byte. */
export const hashOf = ({ framed }: Frame): string =>
  hash === undefined
    ? crypto.createHash("sha256").update(framed).digest("binary")
    : hash("sha256", framed, "binary")

/** Hot path: `crypto.hash` takes an eighth of the time, half of that for a text. Other runtimes may lack it. */
const hash = (crypto as { readonly hash?: typeof crypto.hash }).hash

/** The `prev` of a chain's first seal. */
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
    // no column holds a part whose length has more digits
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
