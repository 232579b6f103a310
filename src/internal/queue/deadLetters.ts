/**
 * The dead letters: lines that cannot be delivered, byte for byte, with the reason and the decision about each.
 *
 * Entries are added to the file (letterFile.ts) and erased in place (tidying.ts, erasure.ts). None moves.
 */
import { Effect, type Scope } from "effect"
import type { Disk, DiskError, File } from "../../services/Disk.js"
import { idOf, type Place, placeOf } from "../../schema/Position.js"
import type { QueueRecord, Refusal, RefusalClass } from "../../services/QueueFile.js"
import { lettersIn, raiseFormat } from "./directory.js"
import type { Guarded } from "./erasure.js"
import { withFile } from "./files.js"
import type { Letter, Outcome } from "./letter.js"
import * as letterFile from "./letterFile.js"
import { type EntryLine, scan } from "./letterLines.js"
import * as pages from "./letterPages.js"
import { Register, type Counts } from "./register.js"
import * as tidying from "./tidying.js"

export { DAMAGED, type Entry, type Page, type Selection } from "./letterPages.js"

export type Decision = "retried" | "discarded"

export interface DeadLetters {
  /** Makes the refusals durable. After a crash a letter may be written again: entries with one id are one letter. */
  readonly keep: (
    refusals: ReadonlyArray<Refusal>,
    source: Effect.Effect<File, DiskError, Scope.Scope>
  ) => Effect.Effect<void, DiskError>
  /**
   * Takes back the letters of lines that this try has delivered. An earlier try had refused them, but a crash or a
   * failing disk came between the letter and the cursor.
   */
  readonly withdraw: (
    records: Iterable<QueueRecord>,
    refusals: ReadonlyArray<Refusal>
  ) => Effect.Effect<void, DiskError>
  /** A page of the letters that wait for a decision. */
  readonly page: (selection: pages.Selection) => Effect.Effect<pages.Page, DiskError>
  /** All letters that wait for a decision, in the order of the file, with torn ends if `torn`. Reads no file. */
  readonly waiting: (torn: boolean) => Iterable<{ readonly id: string; readonly class: RefusalClass }>
  /** The selected letters that wait for a decision, without their content. */
  readonly open: (select: (letter: Letter) => boolean) => Effect.Effect<ReadonlyArray<pages.Entry>, DiskError>
  /**
   * A letter with its content, unless that is too large for memory. If the entry is no longer JSON, then it fails with
   * {@link DAMAGED}.
   */
  readonly read: (entry: pages.Entry) => Effect.Effect<Letter, DiskError>
  /** Decides the letters of one page that are still open, and erases them; returns how many. */
  readonly decide: (
    type: Decision,
    entries: ReadonlyArray<pages.Entry>,
    by: string
  ) => Effect.Effect<number, DiskError>
  /** The places of discarded letters in segment `from` and later ones. */
  readonly discarded: (from: number) => ReadonlyArray<Place>
  /** Whether lines of the file may hold content that should be erased. */
  readonly hasRemains: () => boolean
  /** Whether {@link DeadLetters.tidy} may have something to do. */
  readonly isUntidy: () => boolean
  /**
   * Erases what a crash or a failing disk has left of letters that have ended. Once no letter is open and each line can
   * be read, it replaces the file. It must not run twice at once. `guarded` runs the steps that must not meet other
   * changes of the letters, `writing` all other writes.
   */
  readonly tidy: (guarded: Guarded, writing: Guarded) => Effect.Effect<void, DiskError>
  /** Whether the file exists, if it should. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  /**
   * Repairs the file after it may have been removed, or replaced by an older one. It writes the decisions that the file
   * lacks, and forgets the open letters that it lacks. Returns how many of these letters the cursor has counted.
   */
  readonly restore: (isSettled: (place: Place) => boolean) => Effect.Effect<number, DiskError>
  /** Counts all letters, or those whose lines stood in segments before `before`. */
  readonly counts: (before?: number) => Counts
  /** A number above that of every letter, except those whose number is known without the letter. */
  readonly nextSequence: (isKnown: (place: Place) => boolean) => number
  /** how many entries could not be read: damaged, or cut off by a crash and then written again */
  readonly damaged: number
}

/** Opens the dead letters of a directory without changing it. The first letter makes the file. */
export const make = (
  disk: Disk["Type"],
  directory: string,
  withRoom: letterFile.WithRoom = (write) => write
): Effect.Effect<DeadLetters, DiskError> =>
  Effect.gen(function* () {
    const path = lettersIn(directory)
    const register = new Register()
    const file = letterFile.make(disk, directory, path, withRoom)
    const letters = { file, register }
    if ((yield* disk.info(path)) !== undefined) {
      yield* withFile(disk, path, (opened) => scan(opened, 0, (line) => register.note(line)))
      register.found()
    }
    /** whether a restoration has failed: the file may exist, but lacks something */
    let isLacking = false
    const page: DeadLetters["page"] = (selection) => pages.readPage(letters, selection)

    return {
      keep: (refusals, source) => keep(letters, refusals, source),
      withdraw: (records, refusals) => withdraw(letters, records, refusals),
      page,
      waiting: (torn) => waiting(register, torn),
      open: (select) =>
        Effect.map(page({ select, limit: Number.POSITIVE_INFINITY }), ({ entries }) => entries),
      read: (entry) => pages.readLetter(letters, entry),
      decide: (type, entries, by) => decide(letters, type, entries, by),
      discarded: (from) => discarded(register, from),
      hasRemains: () => register.hasRemains,
      isUntidy: () => register.hasRemains || register.isSpent,
      tidy: (guarded, writing) => tidying.tidy(letters, guarded, writing),
      isWhole: Effect.suspend(() => {
        if (isLacking || !register.holdsAnything) return Effect.succeed(!isLacking)
        return Effect.map(disk.info(path), (info) => info !== undefined)
      }),
      restore: (isSettled) =>
        Effect.suspend(() => {
          isLacking = true
          return Effect.tap(restore(letters, isSettled), () => Effect.sync(() => (isLacking = false)))
        }),
      counts: (before) => register.counts(before),
      nextSequence: (isKnown) => register.nextSequence(isKnown),
      damaged: register.damaged
    }
  })

interface Letters {
  readonly file: letterFile.LetterFile
  readonly register: Register
}

const keep = (
  { file, register }: Letters,
  refusals: ReadonlyArray<Refusal>,
  source: Effect.Effect<File, DiskError, Scope.Scope>
) =>
  Effect.suspend(() => {
    const fresh = refusals.filter(({ record }) => {
      const it = register.get(idOf(record))
      // a decided letter is not written again: nothing would erase its content
      return !(it?.isSynced === true || (it?.isKept === true && it.fate !== undefined))
    })
    if (fresh.length === 0) return Effect.void
    const note = (isSynced: boolean) => {
      for (const { class: cls, record } of fresh) {
        const { sequence, surplus } = record
        const it = register.add(idOf(record), { sequence, surplus: surplus || undefined, class: cls })
        it.isSynced = isSynced
        it.hasEntry = true
        it.filled++
      }
    }
    const kept = file.keep(fresh, source, () => {
      note(false)
    })
    return Effect.map(kept, () => {
      note(true)
    })
  })

const withdraw = Effect.fnUntraced(function* (
  letters: Letters,
  records: Iterable<QueueRecord>,
  refusals: ReadonlyArray<Refusal>
) {
  const { file, register } = letters
  // before the cursor moves: otherwise a power cut could bring back the letter of a delivered event
  yield* tidying.syncFound(letters)
  if (register.isEmpty) return
  // by place: a record may have been read again since it was refused
  const refused = new Set(refusals.map(({ record }) => idOf(record)))
  const ids = Array.from(records, idOf).filter((id) => register.get(id)?.isKept === true && !refused.has(id))
  if (ids.length === 0) return
  const at = yield* letterFile.now
  yield* file.end(ids.map((id): Outcome => ({ type: "delivered", id, at })))
  for (const id of ids) register.forget(id)
  register.hasRemains = register.isSpent = true
})

const decide = (letters: Letters, type: Decision, entries: ReadonlyArray<pages.Entry>, by: string) =>
  Effect.suspend(() => {
    // one letter may have two entries, and it may have been decided or taken back meanwhile
    const open = entries.filter(({ letter: { id } }) => letters.register.get(id)?.mayHoldContent === true)
    const torn = open.filter(({ letter }) => letter.class === "torn")
    const decided = torn.length === 0 ? open : open.filter(({ letter }) => letter.class !== "torn")
    return Effect.as(
      Effect.zipRight(tidying.end(letters, type, decided, by), tidying.end(letters, "erased", torn)),
      new Set(decided.map(({ letter }) => letter.id)).size
    )
  })

function* waiting(register: Register, torn: boolean) {
  for (const it of register) {
    if ((it.isOpen || (torn && it.isTorn)) && it.class !== undefined) yield { id: it.id, class: it.class }
  }
}

const discarded = (register: Register, from: number) => {
  const places: Array<Place> = []
  for (const it of register) {
    if (!it.isKept || (it.fate !== "discarded" && it.fate !== "erased")) continue
    const { place } = it
    if (place.segment >= from) places.push(place)
  }
  return places
}

const restore = ({ file, register }: Letters, isSettled: (place: Place) => boolean) =>
  Effect.gen(function* () {
    const { directory, disk, path } = file
    file.renamed()
    for (const it of register) it.isSynced = false
    if (!register.holdsAnything) return 0
    const found = yield* entriesOf(disk, path)
    const at = yield* letterFile.now
    const by = "unknown, since the file was removed"
    const outcomes: Array<Outcome> = []
    const lost: Array<string> = []
    for (const it of register) {
      const { id } = it
      const isThere = found?.letters.has(id) === true
      if (found === undefined) outcomes.push(...it.orphans.map((type): Outcome => ({ type, id, at, by })))
      if (!isThere) {
        it.hasEntry = false
        it.filled = 0
      }
      if (it.isOpen && !isThere) lost.push(id)
      const isOver = it.fate !== undefined || (it.isKept && !it.isOpen && !isThere)
      if (isOver && found?.outcomes.has(id) !== true) outcomes.push(tidying.outcomeOf(id, it, at, by))
    }
    // an earlier version would misread a head without its letter
    if (outcomes.some(({ head }) => head !== undefined)) yield* raiseFormat(disk, directory)
    if (outcomes.length > 0) yield* file.end(outcomes)
    // only now: if a step above fails, then the restoration is repeated
    for (const id of lost) register.forget(id)
    // an older file may hold the content of letters that were decided since
    register.hasRemains = register.isSpent = found !== undefined
    return lost.filter((id) => isSettled(placeOf(id))).length
  })

/** The ids of the letters in a file, and of the decisions; undefined if there is no file. */
const entriesOf = (disk: Disk["Type"], path: string) =>
  Effect.gen(function* () {
    if ((yield* disk.info(path)) === undefined) return undefined
    const letters = new Set<string>()
    const outcomes = new Set<string>()
    const note = ({ entry }: EntryLine) => {
      if (entry === undefined) return
      if (entry.type === "delivered") letters.delete(entry.id)
      else if (entry.type === "letter" || entry.head !== undefined) letters.add(entry.id)
      if (entry.type !== "letter" && entry.type !== "delivered") outcomes.add(entry.id)
    }
    yield* withFile(disk, path, (file) => scan(file, 0, note))
    return { letters, outcomes }
  })
