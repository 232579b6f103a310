/** Reading the dead-letter file: its lines in bounded chunks, each with its entry. */
import { Effect, type Scope } from "effect"
import type { DiskError, File } from "../../services/Disk.js"
import { contentAt, END_BYTES, type Entry, isEnded, parse, parseBeginning } from "./letter.js"
import { readLines, type RawLine } from "./lines.js"
import { scratch, WHOLE_BYTES } from "./scratch.js"

/** A line that is not empty. */
export interface EntryLine {
  /** undefined if it cannot be read, or was cut off: then its letter was written again */
  readonly entry: Entry | undefined
  /** where it starts, bytes */
  readonly at: number
  /** bytes, without the newline */
  readonly length: number
  /** the whole line; only its beginning if `isCut` */
  readonly bytes: Buffer
  readonly isCut: boolean
}

const SCAN = { maxRecords: 4096, maxBytes: WHOLE_BYTES, maxLineBytes: WHOLE_BYTES }
/** shorter pieces do not use the scratch buffer, so lines may keep them */
const KEPT_BYTES = 4096

export interface EntryLines {
  /** their bytes are valid until the next read */
  readonly lines: ReadonlyArray<EntryLine>
  /** the offset at which to continue; undefined at the end */
  readonly next: number | undefined
}

/** Reads some lines between two offsets of the file. */
export type ReadEntries = (from: number, end: number) => Effect.Effect<EntryLines, DiskError>

/** Reads entries until the scope closes. Lines that are not wanted are skipped before they are parsed. */
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

/** Whether a line begins like a letter. */
export const beginsLetter = (line: Buffer): boolean =>
  line.length >= LETTER.length && line.compare(LETTER, 0, LETTER.length, 0, LETTER.length) === 0
const LETTER = Buffer.from('{"type":"letter",')

/**
 * An entry without its content, which is not parsed: a head and an end make a letter. If only the newline is missing,
 * then the letter counts already, since the next entry will add the newline.
 */
const parseHead = (bytes: Buffer): Entry | undefined => {
  const content = contentAt(bytes)
  if (content === -1) return parse(bytes.toString("utf8"))
  // a power cut may leave a hole
  return isEnded(bytes) && !bytes.includes(0) ? parseBeginning(bytes, content) : undefined
}

/** A line of which only the beginning was read. */
const parseLong = (file: File, line: RawLine, bytes: Buffer) =>
  Effect.flatMap(hasEnd(file, line), (isWhole) =>
    isWhole ? readBeginning(file, line, bytes) : Effect.succeed(undefined)
  )

const hasEnd = (file: File, { length, offset }: RawLine) =>
  Effect.map(file.readAt(offset + length - END_BYTES, END_BYTES), (end) => isEnded(Buffer.from(end)))

/** A longer head is no head but a hole in the file, bytes. */
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

/** Calls a function with every line; returns the size of the file. */
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
