/**
 * The dead letters: lines that cannot be delivered, byte for byte, with the reason; and what became of them. Lines are
 * added to the file (letterFile.ts), and erased in place (tidying.ts, erasure.ts); none moves.
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

/** How an operator decided. */
export type Decision = "retried" | "discarded"

export interface DeadLetters {
  /**
   * Makes the refusals durable. After a crash a letter is written again: entries of one id are one letter.
   */
  readonly keep: (
    refusals: ReadonlyArray<Refusal>,
    source: Effect.Effect<File, DiskError, Scope.Scope>
  ) => Effect.Effect<void, DiskError>
  /**
   * Takes back the letters of lines that were not refused this time but delivered: a crash, or a failing disk, had come
   * between the letter and the cursor, and the next try succeeded.
   */
  readonly withdraw: (
    records: Iterable<QueueRecord>,
    refusals: ReadonlyArray<Refusal>
  ) => Effect.Effect<void, DiskError>
  /** Some of the letters that wait for a decision. */
  readonly page: (selection: pages.Selection) => Effect.Effect<pages.Page, DiskError>
  /** All that wait for a decision, in the order of the file; torn ends as well where asked for. From memory. */
  readonly waiting: (torn: boolean) => Iterable<{ readonly id: string; readonly class: RefusalClass }>
  /** The selected letters that wait for a decision, without their content. */
  readonly open: (select: (letter: Letter) => boolean) => Effect.Effect<ReadonlyArray<pages.Entry>, DiskError>
  /**
   * A letter with its content, or without one that is too large to be held; fails with {@link DAMAGED} if it is no JSON
   * any more.
   */
  readonly read: (entry: pages.Entry) => Effect.Effect<Letter, DiskError>
  /** Decides those letters of one page that are still open, and erases them; how many. */
  readonly decide: (
    type: Decision,
    entries: ReadonlyArray<pages.Entry>,
    by: string
  ) => Effect.Effect<number, DiskError>
  /** Where the lines of letters stood that are discarded, if they stood in segments from the one that is given on. */
  readonly discarded: (from: number) => ReadonlyArray<Place>
  /** Whether lines hold what they should not. */
  readonly hasRemains: () => boolean
  /** Whether {@link DeadLetters.tidy} may have something to do. */
  readonly isUntidy: () => boolean
  /**
   * Erases what a crash, or a failing disk, has left of letters that are none any more, and replaces the file once none
   * is open and each line can be read. It must not run twice at once. `guarded` runs what must not meet other changes of
   * the letters, `writing` any other write.
   */
  readonly tidy: (guarded: Guarded, writing: Guarded) => Effect.Effect<void, DiskError>
  /** Whether the file is there, if it should be. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  /**
   * After the file may have been removed, or replaced by an older one: writes the decisions anew that it lacks, and
   * forgets the letters that it lacks; how many of these the cursor has counted, and waited for a decision.
   */
  readonly restore: (isSettled: (place: Place) => boolean) => Effect.Effect<number, DiskError>
  /** Of all letters, or of those whose lines stood in segments before the one that is given. */
  readonly counts: (before?: number) => Counts
  /** above the number of every letter whose line the disk does not know to have been numbered otherwise */
  readonly nextSequence: (isKnown: (place: Place) => boolean) => number
  /** how many entries cannot be read: damaged, or cut off by a crash, after which they were written again */
  readonly damaged: number
}

/** Opens the dead letters of a directory, and changes nothing; the file is made when the first one is kept. */
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
    /** a restoration has failed, although there may be a file again */
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
      // a decision is durable, and about a letter that was: content that comes again would stay
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
  // before the cursor moves: otherwise a power cut could bring back the letter of an event that is delivered
  yield* tidying.syncFound(letters)
  if (register.isEmpty) return
  // by their places: a record may have been read anew since it was refused
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
    // taken back meanwhile, or decided: one letter may have two entries
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
    // heads without their letters: an earlier version would misread them
    if (outcomes.some(({ head }) => head !== undefined)) yield* raiseFormat(disk, directory)
    if (outcomes.length > 0) yield* file.end(outcomes)
    // only now: what fails above is done again
    for (const id of lost) register.forget(id)
    // the letters of an older file may be decided by now
    register.hasRemains = register.isSpent = found !== undefined
    return lost.filter((id) => isSettled(placeOf(id))).length
  })

/** The letters in a file, and those that have ended, by their ids; undefined if there is no file. */
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
