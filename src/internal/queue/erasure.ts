/**
 * Erasure: overwrites decided letters in place with blanks, which needs no room and moves no offset. Once no letter is
 * open, a file that holds only heads replaces the old one.
 *
 * Decision first, then the blanks: blanks first, then a crash, would lose an event that nobody has decided. If the
 * power fails during the blanks, then the entry may be unreadable. Its decision stands for it, and the next start
 * blanks the rest.
 */
import { Effect } from "effect"
import type { Disk, DiskError, File } from "../../services/Disk.js"
import { raiseFormat } from "./directory.js"
import { isAbsent, withFile } from "./files.js"
import {
  erasedBytes,
  erasedOf,
  fillErased,
  idOfRemains,
  isBlank,
  isEnded,
  isErased,
  NOTHING,
  type Erased,
  type Letter
} from "./letter.js"
import { beginsLetter, type EntryLine, type EntryLines, entriesOf } from "./letterLines.js"
import { scratch } from "./scratch.js"

type DiskShape = Disk["Type"]

/** An entry in the file. Without a letter it is a line that cannot be read. */
export interface Remains {
  readonly letter: Letter | undefined
  readonly at: number
  /** bytes, without the newline */
  readonly length: number
}

const PIECE_BYTES = 1 << 20
/** how much of the file one step reads before the guard is released */
const SWEEP_BYTES = 1 << 20
const WINDOW_BYTES = 1 << 18
const NEWLINE = 0x0a

/** Overwrites entries, given in the order of the file, and syncs the file. */
export const erase = (
  disk: DiskShape,
  path: string,
  entries: ReadonlyArray<Remains>
): Effect.Effect<void, DiskError> =>
  entries.length === 0
    ? Effect.void
    : Effect.scoped(
        Effect.gen(function* () {
          const file = yield* disk.open(path, "patch")
          const buffer = yield* scratch
          for (let index = 0; index < entries.length;) {
            const last = endOfRun(entries, index, buffer.length)
            yield* last === index
              ? eraseOne(file, entries[index]!)
              : eraseRun(file, entries.slice(index, last + 1), buffer)
            index = last + 1
          }
          yield* file.sync
        })
      )

/** The last neighbour that one write can overwrite as well: between neighbours there are one or two newlines. */
const endOfRun = (entries: ReadonlyArray<Remains>, first: number, most: number): number => {
  let last = first
  for (let bytes = entries[first]!.length; last + 1 < entries.length; last++) {
    const [before, after] = [entries[last]!, entries[last + 1]!]
    const gap = after.at - before.at - before.length
    bytes += gap + after.length
    if (gap < 1 || gap > 2 || bytes > most) break
  }
  return last
}

const erasedForm = ({ length, letter }: Remains): Erased =>
  letter === undefined ? NOTHING : erasedOf(letter, length)

const eraseRun = (file: File, entries: ReadonlyArray<Remains>, buffer: Buffer) => {
  const from = entries[0]!.at
  const { at, length } = entries.at(-1)!
  const bytes = buffer.subarray(0, at + length - from).fill(NEWLINE)
  for (const entry of entries) {
    fillErased(erasedForm(entry), bytes.subarray(entry.at - from, entry.at - from + entry.length))
  }
  return file.overwrite(bytes, from)
}

const eraseOne = (file: File, entry: Remains) =>
  Effect.gen(function* () {
    const { at, length } = entry
    const erased = erasedForm(entry)
    for (let from = 0; from < length; from += PIECE_BYTES) {
      const to = Math.min(length, from + PIECE_BYTES)
      const isMiddle = from >= erased.beginning.length && to <= length - erased.end.length
      if (isMiddle && isBlank(yield* file.readAt(at + from, to - from))) continue
      yield* file.overwrite(erasedBytes(erased, length, from, to), at + from)
    }
  })

/** Overwrites counted lines in a segment, which stays on disk while other lines of it wait. */
export const eraseLines = (
  disk: DiskShape,
  path: string,
  offsets: ReadonlyArray<number>
): Effect.Effect<void, DiskError> =>
  withFile(disk, path, (file) =>
    linesAt(
      file,
      [...offsets].sort((a, b) => a - b)
    )
  ).pipe(
    Effect.flatMap((found) => erase(disk, path, found)),
    Effect.catchIf(isAbsent, () => Effect.void)
  )

/** The lines that start at the offsets and are not blank. Newlines end them, since a letter's length may be damaged. */
const linesAt = (file: File, offsets: ReadonlyArray<number>): Effect.Effect<Array<Remains>, DiskError> =>
  Effect.gen(function* () {
    const found: Array<Remains> = []
    const window = { at: 0, bytes: new Uint8Array() }
    const read = (at: number) =>
      Effect.map(file.readAt(at, WINDOW_BYTES), (bytes) => Object.assign(window, { at, bytes }))
    for (const offset of offsets) {
      const before = Math.max(0, offset - 1)
      if (before < window.at || before >= window.at + window.bytes.length) yield* read(before)
      if (offset > 0 && window.bytes[before - window.at] !== NEWLINE) continue
      let isFilled = false
      for (let at = offset; ;) {
        if (at >= window.at + window.bytes.length) yield* read(at)
        const rest = window.bytes.subarray(at - window.at)
        const newline = rest.indexOf(NEWLINE)
        const line = newline === -1 ? rest : rest.subarray(0, newline)
        isFilled ||= !isBlank(line)
        at += line.length
        if (newline === -1 && rest.length > 0) continue
        if (isFilled) found.push({ letter: undefined, at: offset, length: at - offset })
        break
      }
    }
    return found
  })

/** Which entries keep their content: open letters, and unreadable lines that may be open letters. */
export interface Keeping {
  /** undefined if there is no letter with this id */
  readonly isKept: (id: string) => boolean | undefined
  /** called for each unreadable line that is kept */
  readonly onUnreadable: () => void
}

/** Reads lines between two places of the file, and erases what may not stay. Returns where to continue. */
export const sweep = (
  disk: DiskShape,
  path: string,
  from: number,
  end: number,
  keeping: Keeping
): Effect.Effect<number | undefined, DiskError> =>
  Effect.gen(function* () {
    const remains: Array<Remains> = []
    let next: number | undefined = from
    yield* withFile(disk, path, (file) =>
      Effect.gen(function* () {
        const read = yield* entriesOf(file)
        while (next !== undefined && next - from < SWEEP_BYTES) {
          const found: EntryLines = yield* read(next, end)
          for (const line of found.lines) {
            const { at, entry, length } = line
            if (!(yield* isRemains(file, line, keeping))) continue
            remains.push({ letter: entry?.type === "letter" ? entry : undefined, at, length })
          }
          next = found.next
        }
      }).pipe(Effect.scoped)
    )
    yield* erase(disk, path, remains)
    return next
  })

const isRemains = (
  file: File,
  line: EntryLine,
  { isKept, onUnreadable }: Keeping
): Effect.Effect<boolean, DiskError> => {
  const { at, bytes, entry, isCut, length } = line
  if (entry !== undefined && entry.type !== "letter") return Effect.succeed(false)
  if (entry === undefined) {
    if (isBlank(bytes) && !isCut) return Effect.succeed(false)
    if (mayBeNeeded(line, isKept)) {
      onUnreadable()
      return Effect.succeed(false)
    }
  } else if (isKept(entry.id) !== false) return Effect.succeed(false)
  const erased = entry === undefined ? NOTHING : erasedOf(entry, length)
  if (!isErased(erased, bytes, length)) return Effect.succeed(true)
  return isCut
    ? Effect.map(isBlankFrom(file, at + bytes.length, at + length - erased.end.length), (it) => !it)
    : Effect.succeed(false)
}

/**
 * Whether an unreadable line may be an open letter. If it has its end, then it may be a letter with a damaged bit. If
 * not, then nobody ever relied on it.
 */
const mayBeNeeded = ({ bytes, isCut }: EntryLine, isKept: Keeping["isKept"]): boolean => {
  const beginning = bytes.toString("utf8", 0, 256)
  const id = idOfRemains(beginning)
  const known = id === undefined ? undefined : isKept(id)
  return known ?? (!isOutcome(beginning) && (isCut || isEnded(bytes)))
}

const isOutcome = (text: string) => /^\{"type":"(?:retried|discarded|delivered|erased)"/.test(text)

const isBlankFrom = (file: File, from: number, to: number) =>
  Effect.gen(function* () {
    for (let at = from; at < to; at += PIECE_BYTES) {
      if (!isBlank(yield* file.readAt(at, Math.min(PIECE_BYTES, to - at)))) return false
    }
    return true
  })

/** Runs a step under a guard. */
export type Guarded = <A>(step: Effect.Effect<A, DiskError>) => Effect.Effect<A, DiskError>

/** How a file of heads is made, and put in the place of the present one. */
export interface Replacement {
  /** the heads for a line of the present file that is no letter; empty if another line has them */
  readonly headsOf: (line: EntryLine) => ReadonlyArray<string>
  /** called after all lines: the heads that are still missing; undefined if the present file must stay */
  readonly rest: () => ReadonlyArray<string> | undefined
  readonly replaced: Effect.Effect<void, DiskError>
  /** runs steps that must not meet other changes of the file */
  readonly guarded: Guarded
  /** runs a write that may meet other changes: delivery goes on meanwhile */
  readonly writing: Guarded
}

/** Replaces the file; returns whether it did. */
export const replaceByHeads = (
  disk: DiskShape,
  directory: string,
  path: string,
  { guarded, headsOf, replaced, rest, writing }: Replacement
): Effect.Effect<boolean, DiskError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const temporary = `${path}.new`
      yield* Effect.ignore(guarded(disk.remove(temporary)))
      const from = yield* disk.open(path, "read")
      // with `overwrite`, since each `write` to a new file may wait for the disk
      yield* Effect.scoped(disk.open(temporary, "create"))
      const to = yield* disk.open(temporary, "patch")
      const read = yield* entriesOf(from, (line) => !beginsLetter(line))
      let end = 0
      const add = (lines: ReadonlyArray<string>) =>
        Effect.suspend(() => {
          const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""))
          end += bytes.length
          return bytes.length === 0 ? Effect.void : to.overwrite(bytes, end - bytes.length)
        })
      const copy = (at: number, size: number) =>
        Effect.gen(function* () {
          const { lines, next }: EntryLines = yield* read(at, size)
          yield* add(lines.flatMap((line) => [...headsOf(line)]))
          return next
        })
      const size = yield* from.size
      for (let at: number | undefined = 0; at !== undefined && at < size;) at = yield* guarded(copy(at, size))
      // this may take a second, without the guard; it leaves little to the sync below
      yield* writing(to.sync)
      return yield* guarded(
        Effect.gen(function* () {
          // lines that were added meanwhile
          const now = yield* from.size
          for (let at: number | undefined = size; at !== undefined && at < now;) at = yield* copy(at, now)
          const heads = rest()
          if (heads === undefined) {
            yield* disk.remove(temporary)
            return false
          }
          yield* add(heads)
          yield* to.sync
          // format first: heads first, then a crash, would let an earlier version misread them
          yield* raiseFormat(disk, directory)
          yield* disk.rename(temporary, path)
          yield* replaced
          return true
        })
      )
    })
  ).pipe(Effect.onError(() => Effect.ignore(guarded(disk.remove(`${path}.new`)))))
