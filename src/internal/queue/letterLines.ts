/** Reading the dead-letter file: its lines in bounded chunks, each with the entry that it is. */
import { Effect, type Scope } from "effect"
import type { DiskError, File } from "../../services/Disk.js"
import { contentAt, END_BYTES, type Entry, isEnded, parse, parseBeginning } from "./letter.js"
import { readLines, type RawLine } from "./lines.js"
import { scratch, WHOLE_BYTES } from "./scratch.js"

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

const SCAN = { maxRecords: 4096, maxBytes: WHOLE_BYTES, maxLineBytes: WHOLE_BYTES }
/** a shorter piece may be kept by the lines */
const KEPT_BYTES = 4096

export interface EntryLines {
  /** what they hold is there until the next read */
  readonly lines: ReadonlyArray<EntryLine>
  /** where to go on, bytes; undefined at the end */
  readonly next: number | undefined
}

/** Reads some lines from one place of the file up to another. */
export type ReadEntries = (from: number, end: number) => Effect.Effect<EntryLines, DiskError>

/** Reads entries until the scope closes. Lines that are not wanted are left out before they are parsed. */
export const entriesOf = (
  file: File,
  isWanted: (line: Buffer) => boolean = () => true
): Effect.Effect<ReadEntries, never, Scope.Scope> =>
  Effect.map(scratch, (buffer): ReadEntries => {
    const reader = {
      readAt: (offset: number, length: number) =>
        file.readAt(offset, length, length > KEPT_BYTES ? buffer : undefined)
    }
    return Effect.fnUntraced(function* (from, end) {
      const { lines, next } = yield* readLines(reader, from, end, SCAN)
      const found: Array<EntryLine> = []
      for (const line of lines) {
        if (line.length === 0) continue
        const bytes = line.bytes
        if (!isWanted(bytes)) continue
        const entry = line.oversize ? yield* parseLong(file, line, bytes) : parseHead(bytes)
        found.push({ entry, at: line.offset, length: line.length, bytes, isCut: line.oversize })
      }
      return { lines: found, next: next === from || next >= end ? undefined : next }
    })
  })

/** Whether a line begins as letters do, and decisions do not. */
export const beginsLetter = (line: Buffer): boolean =>
  line.length >= LETTER.length && line.compare(LETTER, 0, LETTER.length, 0, LETTER.length) === 0
const LETTER = Buffer.from('{"type":"letter",')

/**
 * An entry without its content, which is not looked at: a letter is known by its head, and must have its end. One that
 * lacks but the line's end will be ended by the next entry, so it counts before that as well.
 */
const parseHead = (bytes: Buffer): Entry | undefined => {
  const content = contentAt(bytes)
  if (content === -1) return parse(bytes.toString("utf8"))
  // a power cut may leave a hole
  return isEnded(bytes) && !bytes.includes(0) ? parseBeginning(bytes, content) : undefined
}

/** Only the beginning of it was read. */
const parseLong = (file: File, line: RawLine, bytes: Buffer) =>
  Effect.flatMap(hasEnd(file, line), (isWhole) =>
    isWhole ? readBeginning(file, line, bytes) : Effect.succeed(undefined)
  )

/** Whether it has its end. */
const hasEnd = (file: File, { length, offset }: RawLine) =>
  Effect.map(file.readAt(offset + length - END_BYTES, END_BYTES), (end) => isEnded(Buffer.from(end)))

/** What is longer is no head, bytes: a hole in the file may be. */
const MAX_HEAD_BYTES = 16 * 1024 * 1024

/** Entries of earlier versions may have a long head. */
const readBeginning = (file: File, { length, offset }: RawLine, beginning: Buffer) =>
  Effect.gen(function* () {
    for (let bytes = beginning; ;) {
      const content = contentAt(bytes)
      if (content !== -1) return parseBeginning(bytes, content)
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
    const read = yield* entriesOf(file)
    for (let at: number | undefined = from; at !== undefined && at < size;) {
      const { lines, next }: EntryLines = yield* read(at, size)
      lines.forEach(each)
      at = next
    }
    return size
  }).pipe(Effect.scoped)
