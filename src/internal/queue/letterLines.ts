/** Reading the dead-letter file: its lines in bounded chunks, each with the entry that it is. */
import { Effect } from "effect"
import type { DiskError, File } from "../../services/Disk.js"
import { END_BYTES, type Entry, isEnded, parse, parseBeginning } from "./letter.js"
import { readLines, type RawLine } from "./lines.js"

/** A line that is not empty. */
export interface EntryLine {
  /** undefined if it is none, or cut off: that one was never relied on, and its letter was written again */
  readonly entry: Entry | undefined
  /** where it starts, bytes */
  readonly at: number
  /** bytes, the line's end not included */
  readonly length: number
  /** all of it, or its beginning if `isCut` */
  readonly bytes: Buffer
  readonly isCut: boolean
}

const SCAN = { maxRecords: 1024, maxBytes: 1 << 18, maxLineBytes: 1 << 16 }

export interface EntryLines {
  readonly lines: ReadonlyArray<EntryLine>
  /** where to go on, bytes; undefined at the end */
  readonly next: number | undefined
}

/** Some lines from one place of the file up to another. */
export const readEntries: (file: File, from: number, end: number) => Effect.Effect<EntryLines, DiskError> =
  Effect.fnUntraced(function* (file, from, end) {
    const { lines, next } = yield* readLines(file, from, end, SCAN)
    const found: Array<EntryLine> = []
    for (const line of lines) {
      if (line.length === 0) continue
      const bytes = Buffer.from(line.bytes.buffer, line.bytes.byteOffset, line.bytes.byteLength)
      const entry = line.oversize ? yield* readBeginning(file, line, bytes) : parse(bytes.toString("utf8"))
      // one that lacks but the line's end will be ended by the next entry, so it counts before that as well
      const isWhole = !line.oversize || (yield* hasEnd(file, line))
      found.push({
        entry: isWhole ? entry : undefined,
        at: line.offset,
        length: line.length,
        bytes,
        isCut: line.oversize
      })
    }
    return { lines: found, next: next === from || next >= end ? undefined : next }
  })

/** Whether an entry of which only the beginning was read has its end. */
const hasEnd = (file: File, { length, offset }: RawLine) =>
  Effect.map(file.readAt(offset + length - END_BYTES, END_BYTES), (end) => isEnded(Buffer.from(end)))

/** What is longer is no head, bytes: a hole in the file may be. */
const MAX_HEAD_BYTES = 16 * 1024 * 1024

/** Entries of earlier versions may have a long head. */
const readBeginning = (file: File, { length, offset }: RawLine, beginning: Buffer) =>
  Effect.gen(function* () {
    for (let bytes = beginning; ;) {
      const found = parseBeginning(bytes.toString("utf8"))
      if (found !== undefined) return found.entry
      if (bytes.length >= Math.min(length, MAX_HEAD_BYTES)) return undefined
      bytes = Buffer.from(yield* file.readAt(offset, Math.min(length, 16 * bytes.length, MAX_HEAD_BYTES)))
    }
  })

/** Calls a function with every line. */
export const scan = (
  file: File,
  from: number,
  each: (line: EntryLine) => void
): Effect.Effect<number, DiskError> =>
  Effect.gen(function* () {
    const size = yield* file.size
    for (let at: number | undefined = from; at !== undefined && at < size;) {
      const { lines, next }: EntryLines = yield* readEntries(file, at, size)
      lines.forEach(each)
      at = next
    }
    return size
  })
