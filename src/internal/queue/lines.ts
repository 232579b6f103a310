/** Lines: reads a file in bounded chunks, so that memory grows neither with the file nor with a line. */
import { Effect } from "effect"
import { isUtf8 } from "node:buffer"
import type { DiskError } from "../../services/Disk.js"
import type { Sequence } from "../../services/QueueFile.js"
import { RETRY_BYTES, RETRY_MARK } from "../../schema/Line.js"
import { LazySequence } from "../lazySequence.js"
import type { Readable } from "../readAhead.js"

export interface RawLine {
  /** where it starts, bytes */
  readonly offset: number
  /** bytes, without the newline */
  readonly length: number
  /** the line; only its beginning if it is oversize */
  readonly bytes: Buffer
  /** `bytes` as text; undefined if they are not UTF-8 */
  readonly text: string | undefined
  readonly oversize: boolean
  /** whether a newline follows; false only at the end of the file */
  readonly terminated: boolean
}

/** The bytes of one read, which are whole lines. */
class Chunk {
  private valid: boolean | undefined
  private content: Buffer | undefined
  constructor(
    /** where it starts, bytes */
    readonly offset: number,
    bytes: Buffer
  ) {
    this.content = bytes
  }

  get bytes(): Buffer {
    if (this.content === undefined) throw new Error("the content of these lines was released")
    return this.content
  }

  release(): void {
    this.content = undefined
  }

  /** Whether the whole chunk is UTF-8: checked once for all its lines. */
  get isUtf8(): boolean {
    return (this.valid ??= isUtf8(this.bytes))
  }
}

/** A line of a chunk. It makes its bytes and text on demand, since most lines need only the text. */
class Line implements RawLine {
  constructor(
    private readonly chunk: Chunk,
    /** its offset in the chunk */
    private readonly start: number,
    readonly length: number,
    readonly oversize: boolean,
    readonly terminated: boolean
  ) {}

  get offset(): number {
    return this.chunk.offset + this.start
  }

  get bytes(): Buffer {
    return this.chunk.bytes.subarray(this.start, this.start + this.length)
  }

  get text(): string | undefined {
    return this.chunk.isUtf8 || isUtf8(this.bytes)
      ? this.chunk.bytes.toString("utf8", this.start, this.start + this.length)
      : undefined
  }
}

export interface Lines {
  readonly lines: Sequence<RawLine>
  /** where the next line starts, bytes */
  readonly next: number
  /** Frees the bytes; afterwards only the places of the lines are known. */
  readonly release: () => void
}

/** The default of `maxLineBytes`. */
export const MAX_LINE_BYTES = 8 * 1024 * 1024

const NEWLINE = 0x0a
const PREFIX_BYTES = 4096
const SCAN_BYTES = 1 << 20
/** the expected length of lines until some were read, bytes */
export const LINE_BYTES = 512

/**
 * Reads whole lines from `from` on, at most `maxRecords` and about `maxBytes`, but always one if there is one. `end` is
 * the end of the readable part of the file. `lineBytes` is the expected length of a line: what is read beyond
 * `maxRecords` must be read again by the next call.
 */
export const readLines: (
  file: Readable,
  from: number,
  end: number,
  limits: {
    readonly maxRecords: number
    readonly maxBytes: number
    readonly maxLineBytes: number
    readonly lineBytes?: number
  }
) => Effect.Effect<Lines, DiskError> = Effect.fnUntraced(function* (file, from, end, limits) {
  const expected = Math.ceil(limits.maxRecords * (limits.lineBytes ?? LINE_BYTES))
  const longest = limits.maxLineBytes + RETRY_BYTES
  // if a line is longer than the chunk, then the chunk doubles until the line ends or is oversize
  for (let chunk = Math.min(limits.maxBytes, expected); from < end; chunk *= 2) {
    const length = Math.min(chunk, longest + 1, end - from)
    const bytes = asBuffer(yield* file.readAt(from, length))
    const atEnd = from + bytes.length >= end || bytes.length < length
    const found = splitLines(bytes, from, atEnd, limits)
    const first = found.lines.at(0)
    if (first !== undefined && (first.length <= limits.maxLineBytes || isRetried(first))) return found
    if (first !== undefined || bytes.length > longest) return yield* oversizeLine(file, from, end)
    if (atEnd) break
  }
  return { lines: [], next: from, release: () => undefined }
})

const asBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** A retry's mark does not make a line too long: otherwise it could never be retried. */
const isRetried = ({ bytes, length }: RawLine): boolean =>
  bytes.toString("latin1", length - RETRY_MARK.length) === RETRY_MARK

const splitLines = (
  bytes: Buffer,
  from: number,
  atEnd: boolean,
  { maxLineBytes, maxRecords }: { readonly maxLineBytes: number; readonly maxRecords: number }
): Lines => {
  const ends: Array<number> = []
  let start = 0
  while (start < bytes.length && ends.length < maxRecords) {
    const newline = bytes.indexOf(NEWLINE, start)
    if (newline === -1 && !atEnd) break
    // an oversize line must be the first one of a call
    if (ends.length > 0 && (newline === -1 ? bytes.length : newline) - start > maxLineBytes) break
    ends.push(newline === -1 ? bytes.length : newline)
    start = newline === -1 ? bytes.length : newline + 1
  }
  const chunk = new Chunk(from, bytes.subarray(0, start))
  const terminatedLines = bytes[start - 1] === NEWLINE ? ends.length : ends.length - 1
  // must not hold `bytes`, or they would live as long as the lines
  const lineAt = (index: number) => {
    const start = index === 0 ? 0 : ends[index - 1]! + 1
    return new Line(chunk, start, ends[index]! - start, false, index < terminatedLines)
  }
  return {
    lines: new LazySequence(ends.length, lineAt),
    next: from + start,
    release: () => {
      chunk.release()
    }
  }
}

const oversizeLine = (file: Readable, from: number, end: number) =>
  Effect.gen(function* () {
    const prefix = new Chunk(from, asBuffer(yield* file.readAt(from, PREFIX_BYTES)))
    const oversize = (length: number, terminated: boolean): Lines => ({
      lines: [new Line(prefix, 0, length, true, terminated)],
      next: from + length + (terminated ? 1 : 0),
      release: () => {
        prefix.release()
      }
    })
    let at = from
    while (at < end) {
      const bytes = yield* file.readAt(at, Math.min(SCAN_BYTES, end - at))
      if (bytes.length === 0) break
      const newline = bytes.indexOf(NEWLINE)
      if (newline !== -1) return oversize(at + newline - from, true)
      at += bytes.length
    }
    return oversize(at - from, false)
  })

/** How many lines there are between two offsets; an unterminated end counts as one. */
export const countLines: (file: Readable, from: number, end: number) => Effect.Effect<number, DiskError> =
  Effect.fnUntraced(function* (file, from, end) {
    let count = 0
    let terminated = true
    for (let at = from; at < end;) {
      const bytes = yield* file.readAt(at, Math.min(SCAN_BYTES, end - at))
      if (bytes.length === 0) break
      count += countNewlines(bytes)
      terminated = bytes[bytes.length - 1] === NEWLINE
      at += bytes.length
    }
    return terminated ? count : count + 1
  })

const countNewlines = (bytes: Uint8Array): number => {
  let count = 0
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count++
  return count
}

/** The time of a line's `ts`, milliseconds since 1970 UTC; undefined if it has none. */
export const timeOfLine = (line: Readonly<Record<string, unknown>> | undefined): number | undefined => {
  const millis = typeof line?.ts === "string" ? Date.parse(line.ts) : Number.NaN
  return Number.isNaN(millis) ? undefined : millis
}

/** A line as a JSON object; undefined if it is none, or not UTF-8. */
export const objectOf = (bytes: Uint8Array): Readonly<Record<string, unknown>> | undefined => {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}
