/** Pages of dead letters, in the order of the file: memory does not grow with the file. */
import { Effect } from "effect"
import { isUtf8 } from "node:buffer"
import * as zlib from "node:zlib"
import { type Disk, DiskError, type File } from "../../services/Disk.js"
import { isAbsent, withFile } from "./files.js"
import { parse, type Letter } from "./letter.js"
import type { LetterFile } from "./letterFile.js"
import { type EntryLine, type EntryLines, entriesOf } from "./letterLines.js"
import type { Register } from "./register.js"

/** A letter, and the offset and length of its entry in the file. */
export interface Entry {
  readonly letter: Letter
  readonly at: number
  readonly length: number
}

/** The code for a letter that is no longer JSON: POSIX EBADMSG. */
export const DAMAGED = "EBADMSG"

export interface Page {
  readonly entries: ReadonlyArray<Entry>
  /** the offset of the next page; undefined after the last one */
  readonly next: number | undefined
}

export interface Selection {
  readonly select: (letter: Letter) => boolean
  /** the offset at which to begin; 0 by default */
  readonly from?: number | undefined
  /** how many letters, at most */
  readonly limit: number
  /** includes torn ends: they need no decision, but can be discarded */
  readonly torn?: boolean | undefined
  /** includes their content, about so many bytes at most */
  readonly contentBytes?: number | undefined
  /** reads about so many bytes of the file: a page before the last one may have few letters, or none */
  readonly scanBytes?: number | undefined
}

interface Letters {
  readonly file: Pick<LetterFile, "disk" | "path">
  readonly register: Register
}

const NOTHING: Page = { entries: [], next: undefined }

/** Reads a page of the letters that wait for a decision. */
export const readPage = (
  { file: { disk, path }, register }: Letters,
  selection: Selection
): Effect.Effect<Page, DiskError> =>
  withFile(disk, path, (file) =>
    Effect.gen(function* () {
      const { contentBytes, from = 0, limit, scanBytes = Infinity, select, torn = false } = selection
      const found = new Map<string, Entry>()
      let bytes = 0
      const isFull = () => found.size >= limit || (found.size > 0 && bytes >= (contentBytes ?? Infinity))
      const page = (next: number | undefined): Page => ({ entries: [...found.values()], next })
      const size = yield* file.size
      const read = yield* entriesOf(file)
      for (let start: number | undefined = from; start !== undefined && start < size;) {
        if (start - from >= scanBytes) return page(start)
        const { lines, next }: EntryLines = yield* read(start, size)
        for (const line of lines) {
          const { at, entry, length } = line
          if (entry?.type !== "letter") continue
          const it = register.get(entry.id)
          if (it === undefined || !(it.isOpen || (torn && it.isTorn)) || !select(entry)) continue
          if (isFull()) return page(at)
          const letter =
            contentBytes === undefined ? withoutContent(entry) : yield* withContent(file, line, entry)
          bytes += Math.max(length, (letter.line ?? letter.base64 ?? "").length)
          found.set(entry.id, { letter, at, length })
        }
        start = next
      }
      return page(undefined)
    }).pipe(Effect.scoped)
  ).pipe(Effect.catchIf(isAbsent, () => Effect.succeed(NOTHING)))

/**
 * The offset after the letter with this id; undefined if the file does not have one. The letter may have been decided
 * meanwhile, so that the file holds only its head.
 */
export const placeAfter = (
  disk: Disk["Type"],
  path: string,
  id: string
): Effect.Effect<number | undefined, DiskError> =>
  withFile(disk, path, (file) =>
    Effect.gen(function* () {
      let place: number | undefined
      const size = yield* file.size
      const read = yield* entriesOf(file)
      for (let start: number | undefined = 0; start !== undefined && start < size;) {
        const { lines, next }: EntryLines = yield* read(start, size)
        for (const { at, entry, length } of lines) {
          if (entry?.id !== id) continue
          if (entry.type === "letter") return at + length + 1
          place ??= at + length + 1
        }
        start = next
      }
      return place
    }).pipe(Effect.scoped)
  ).pipe(Effect.catchIf(isAbsent, () => Effect.succeed(undefined)))

/** A longer entry is listed without its content, bytes: escaped for a screen, it must fit into a V8 string, 512 MiB. */
const MAX_SHOWN_BYTES = 64 * 1024 * 1024

/**
 * A letter with its content, unless that is too large for memory. If the entry is no longer JSON, then it fails with
 * {@link DAMAGED}. If the content is too large when it is expanded, then it stays compressed.
 */
export const readLetter = (
  { file: { disk, path } }: Pick<Letters, "file">,
  { at, length, letter: entry }: Entry
): Effect.Effect<Letter, DiskError> =>
  length > MAX_SHOWN_BYTES
    ? Effect.succeed(entry)
    : Effect.flatMap(
        withFile(disk, path, (file) => file.readAt(at, length)),
        (bytes) => {
          const letter = parse(Buffer.from(bytes).toString("utf8"))
          if (letter?.type === "letter" && letter.id === entry.id) return expanded(letter)
          const cause = new Error("the letter is damaged")
          return new DiskError({ operation: "read", path, code: DAMAGED, cause })
        }
      )

const withoutContent = (letter: Letter): Letter =>
  letter.line === undefined && letter.base64 === undefined
    ? letter
    : { ...letter, line: undefined, base64: undefined }

/** The letter of the whole entry; without content, if the entry cannot be read. */
const withContent = (file: File, { at, bytes, isCut, length }: EntryLine, letter: Letter) =>
  isCut && length > MAX_SHOWN_BYTES
    ? Effect.succeed(letter)
    : Effect.flatMap(isCut ? file.readAt(at, length) : Effect.succeed(bytes), (bytes) => {
        const whole = parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"))
        return whole?.type === "letter" && whole.id === letter.id ? expanded(whole) : Effect.succeed(letter)
      })

/** The letter with its line expanded; unchanged, if the line is too large or damaged. */
const expanded = (letter: Letter): Effect.Effect<Letter> => {
  const { base64, encoding } = letter
  if (encoding === undefined || base64 === undefined) return Effect.succeed(letter)
  return Effect.async((resume) => {
    zlib.gunzip(Buffer.from(base64, "base64"), { maxOutputLength: MAX_SHOWN_BYTES }, (error, bytes) => {
      if (error !== null) return resume(Effect.succeed(letter))
      const content = isUtf8(bytes) ? { line: bytes.toString("utf8") } : { base64: bytes.toString("base64") }
      resume(Effect.succeed({ ...letter, base64: undefined, encoding: undefined, ...content }))
    })
  })
}
