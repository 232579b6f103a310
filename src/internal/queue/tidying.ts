/**
 * Tidying: erases what a crash or a failing disk has left of letters that have ended. Once no letter is open and each
 * line can be read, a file of heads replaces the dead-letter file.
 */
import { Effect, Iterable } from "effect"
import type { DiskError } from "../../services/Disk.js"
import { erase, replaceByHeads, sweep, type Guarded, type Keeping } from "./erasure.js"
import { withFile } from "./files.js"
import { encodeOutcome, type Outcome } from "./letter.js"
import { now, type LetterFile } from "./letterFile.js"
import { readPage, type Entry, type Page } from "./letterPages.js"
import type { Fate, Known, Register } from "./register.js"

interface Letters {
  readonly file: LetterFile
  readonly register: Register
}

/** how many letters, and how many bytes of the file, one step takes before the guard is released */
const PAGE = 1024
const SCAN_BYTES = 1 << 20

/** Ends letters and erases the entries. A letter may have other entries, which stay until the next `tidy`. */
export const end = ({ file, register }: Letters, fate: Fate, entries: ReadonlyArray<Entry>, by?: string) =>
  Effect.gen(function* () {
    if (entries.length === 0) return
    const at = yield* now
    const outcomes = Iterable.map(entries, ({ letter }): Outcome => ({
      type: fate,
      id: letter.id,
      at,
      by,
      head: letter
    }))
    yield* file.end(outcomes)
    for (const { letter } of entries) register.end(letter.id, fate)
    const erased = yield* Effect.option(erase(file.disk, file.path, entries))
    for (const { letter } of entries) {
      const it = register.known(letter.id)
      if (erased._tag === "Some") it.filled--
      register.hasRemains ||= it.filled > 0
    }
  })

/** Makes the decisions of earlier processes durable. */
export const syncFound = ({ file, register }: Letters) =>
  Effect.suspend(() =>
    register.areFoundUnsynced
      ? Effect.map(file.sync, () => void (register.areFoundUnsynced = false))
      : Effect.void
  )

/** The outcome of a letter, as an entry. */
export const outcomeOf = (id: string, it: Known, at: string, by: string | undefined): Outcome => ({
  type: it.fate ?? (it.isKept ? "erased" : "delivered"),
  id,
  at,
  by: it.fate === "erased" ? undefined : by,
  head: it.head
})

/** Erases and replaces, as `DeadLetters.tidy` promises. It must not run twice at once. */
export const tidy = (letters: Letters, guarded: Guarded, writing: Guarded): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const { file, register } = letters
    if ((yield* guarded(file.disk.info(file.path))) === undefined) return
    // before the blanks: a power cut could keep the blanks and take the decision
    yield* guarded(syncFound(letters))
    // unreadable lines that were kept may belong to letters that are decided now
    const mayBeDecided = register.unreadable > 0 && register.isSpent && register.isNothingOpen
    if (register.hasRemains || mayBeDecided) yield* sweepAll(letters, guarded)
    if (isReplaceable(register)) yield* endTorn(letters, guarded)
    if (isReplaceable(register)) yield* replace(letters, guarded, writing)
  })

/** Whether a file of heads may replace this one: an unreadable line would be lost. */
const isReplaceable = ({ isNothingOpen, isSpent, unreadable }: Register) =>
  isSpent && isNothingOpen && unreadable === 0

/** Ends torn ends that nobody has discarded: otherwise they would keep the file from being replaced. */
const endTorn = (letters: Letters, guarded: Guarded) =>
  Effect.gen(function* () {
    const { register } = letters
    if (register.counts().torn === 0) return
    const selection = {
      limit: PAGE,
      scanBytes: SCAN_BYTES,
      torn: true,
      select: ({ class: cls }: { class: string }) => cls === "torn"
    }
    for (let from: number | undefined = 0; from !== undefined;) {
      const step: Effect.Effect<Page, DiskError> = Effect.tap(
        readPage(letters, { ...selection, from }),
        ({ entries }) => end(letters, "erased", entries)
      )
      from = (yield* guarded(step)).next
    }
  })

const sweepAll = ({ file: { disk, path }, register }: Letters, guarded: Guarded) =>
  Effect.gen(function* () {
    register.hasRemains = false
    register.unreadable = 0
    const keeping: Keeping = {
      isKept: (id) => register.get(id)?.mayHoldContent,
      onUnreadable: () => register.unreadable++
    }
    const size = yield* guarded(withFile(disk, path, (file) => file.size))
    for (let from: number | undefined = 0; from !== undefined && from < size;) {
      from = yield* guarded(sweep(disk, path, from, size, keeping))
    }
    for (const it of register) if (!it.mayHoldContent) it.filled = 0
  }).pipe(Effect.onError(() => Effect.sync(() => (register.hasRemains = true))))

const headsOf = (id: string, it: Known, at: string, by?: string): ReadonlyArray<string> => {
  it.isCopied = true
  const orphans = it.orphans.map((type): Outcome => ({ type, id, at }))
  return [...orphans, outcomeOf(id, it, at, by)].map(encodeOutcome)
}

const replace = ({ file, register }: Letters, guarded: Guarded, writing: Guarded) =>
  Effect.gen(function* () {
    const { directory, disk, path } = file
    for (const it of register) it.isCopied = false
    const at = yield* now
    yield* replaceByHeads(disk, directory, path, {
      guarded,
      writing,
      headsOf: ({ entry }) => {
        const it = entry === undefined ? undefined : register.get(entry.id)
        if (entry === undefined || entry.type === "letter" || it === undefined || it.isCopied) return []
        const isLast = entry.type === outcomeOf(entry.id, it, "", "").type
        return isLast ? headsOf(entry.id, it, entry.at, entry.by) : []
      },
      rest: () => {
        if (!isReplaceable(register)) return undefined
        const heads: Array<string> = []
        for (const it of register) {
          if (!it.isCopied && (it.head !== undefined || it.counts)) heads.push(...headsOf(it.id, it, at))
        }
        return heads
      },
      replaced: Effect.suspend(() => {
        file.renamed()
        return Effect.map(file.syncName, () => {
          register.isSpent = false
          for (const it of register) {
            it.hasEntry = false
            it.filled = 0
          }
        })
      })
    })
  })
