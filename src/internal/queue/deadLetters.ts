/**
 * The dead letters: lines that cannot be delivered, byte for byte, with the reason; and what became of them. Lines are
 * added to the file, and erased in place (erasure.ts); none moves.
 */
import { Clock, Effect, type Scope } from "effect"
import { type Disk, DiskError, type File } from "../../services/Disk.js"
import { idOf, type Place, placeOf } from "../../schema/Position.js"
import type { QueueRecord, Refusal } from "../../services/QueueFile.js"
import { erase, replaceByHeads, sweep, type Keeping } from "./erasure.js"
import { raiseFormat } from "./directory.js"
import { isAbsent, withFile } from "./files.js"
import {
  encodeContent,
  encodeHead,
  encodeOutcome,
  erasedOf,
  isBlank,
  isErased,
  parse,
  type Head,
  type Letter,
  type Outcome
} from "./letter.js"
import { type EntryLine, type EntryLines, readEntries, scan } from "./letterLines.js"

/** A letter and where its entry stands in the file, bytes. */
export interface Entry {
  readonly letter: Letter
  readonly at: number
  readonly length: number
}

/** The code of a letter that is no JSON any more: EBADMSG of POSIX. */
export const DAMAGED = "EBADMSG"

/** How an operator decided. */
export type Decision = "retried" | "discarded"

/** Some letters in the order of the file. */
export interface Page {
  readonly entries: ReadonlyArray<Entry>
  /** where the next page begins, bytes; undefined after the last one */
  readonly next: number | undefined
}

export interface Selection {
  readonly select: (letter: Letter) => boolean
  /** where to begin, bytes; 0 by default */
  readonly from?: number | undefined
  /** at most so many letters */
  readonly limit: number
  /** torn ends as well: nobody waits for a decision about them, but they can be discarded */
  readonly torn?: boolean | undefined
  /** with their content, of about so many bytes at most */
  readonly contentBytes?: number | undefined
}

/** Runs what must not meet other changes of the letters. */
type Guarded = <A>(step: Effect.Effect<A, DiskError>) => Effect.Effect<A, DiskError>

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
  readonly page: (selection: Selection) => Effect.Effect<Page, DiskError>
  /** The selected letters that wait for a decision, without their content. */
  readonly open: (select: (letter: Letter) => boolean) => Effect.Effect<ReadonlyArray<Entry>, DiskError>
  /**
   * A letter with its content, or without one that is too large to be held; fails with {@link DAMAGED} if it is no JSON
   * any more.
   */
  readonly read: (entry: Entry) => Effect.Effect<Letter, DiskError>
  /** Decides those letters of one page that are still open, and erases them; how many. */
  readonly decide: (
    type: Decision,
    entries: ReadonlyArray<Entry>,
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
   * is open and each line can be read. It must not run twice at once.
   */
  readonly tidy: (guarded: Guarded) => Effect.Effect<void, DiskError>
  /** Whether the file is there, if it should be. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  /**
   * After the file may have been removed, or replaced by an older one: writes the decisions anew that it lacks, and
   * forgets the letters that it lacks; how many of these the cursor has counted, and waited for a decision.
   */
  readonly restore: (isSettled: (place: Place) => boolean) => Effect.Effect<number, DiskError>
  /** Of all letters, or of those whose lines stood in segments before the one that is given. */
  readonly counts: (before?: number) => {
    readonly letters: number
    readonly torn: number
    readonly retried: number
    readonly discarded: number
  }
  /** above the number of every letter whose line the disk does not know to have been numbered otherwise */
  readonly nextSequence: (isKnown: (place: Place) => boolean) => number
  /** how many entries cannot be read: damaged, or cut off by a crash, after which they were written again */
  readonly damaged: number
}

const NEWLINE = Buffer.from("\n")
/** a multiple of three, so that pieces of base64 can be joined */
const PIECE_BYTES = 3 << 18
/** letters are written in pieces of about this many bytes */
const WRITE_BYTES = 1 << 20

type Fate = Exclude<Outcome["type"], "delivered">
const NONE: ReadonlyArray<Fate> = []

/** What is known of a letter, or of a decision about one that cannot be read. */
class Known {
  head: Head | undefined = undefined
  /** it may stand in the file: it was not taken back */
  isKept = false
  /** it is on disk for certain: others may be in the page cache only, by a process that died */
  isSynced = false
  fate: Fate | undefined = undefined
  /** decisions about an earlier letter of its place, which cannot be read: they count, and are not about this one */
  orphans: ReadonlyArray<Fate> = NONE
  /** how many entries it has in the file, and how many of them hold something */
  entries = 0
  filled = 0
  /** its head stands in the file that is being written */
  isCopied = false

  /** Whether it waits for no decision by nature: a torn end, or a blank line. */
  get isIdle(): boolean {
    return this.head?.class === "torn" || this.head?.class === "blank"
  }
  get isOpen(): boolean {
    return this.isKept && this.fate === undefined && !this.isIdle
  }
  /** A torn end is kept until somebody discards it, or nothing else is. */
  get isTorn(): boolean {
    return this.isKept && this.fate === undefined && this.head?.class === "torn"
  }
  get mayHoldContent(): boolean {
    return this.isOpen || this.isTorn
  }
}

/** Opens the dead letters of a directory, and changes nothing; the file is made when the first one is kept. */
export const make = (
  disk: Disk["Type"],
  path: string,
  directory: string
): Effect.Effect<DeadLetters, DiskError> =>
  Effect.gen(function* () {
    const all = new Map<string, Known>()
    /** what became of letters was found, and may be in the page cache only, by a process that died */
    let areFoundUnsynced = false
    /** whether lines may hold what they should not, found by a look at all of them */
    let hasRemains = false
    /** lines that cannot be read and were kept, since an open letter may be what they were */
    let unreadable = 0
    /** whether letters that are decided, or taken back, have entries: then the file can be replaced by a shorter one */
    let isSpent = false
    let damaged = 0
    let entrySynced = false

    const known = (id: string): Known => {
      const found = all.get(id)
      if (found !== undefined) return found
      const made = new Known()
      all.set(id, made)
      return made
    }

    const add = (id: string, head: Head): Known => {
      const it = known(id)
      if (it.fate !== undefined && !it.isKept) {
        it.orphans = [...it.orphans, it.fate]
        it.fate = undefined
      }
      it.head = head
      it.isKept = true
      return it
    }

    const forget = (id: string) => {
      const it = known(id)
      it.isKept = false
      it.isSynced = false
      it.fate = undefined
    }

    const note = ({ bytes, entry, isCut, length }: EntryLine) => {
      if (entry === undefined) {
        if (isBlank(bytes)) return
        damaged++
        hasRemains = true
      } else if (entry.type === "letter") {
        const it = add(entry.id, headOf(entry))
        it.entries++
        if (isCut || !isErased(erasedOf(entry, length), bytes, length)) it.filled++
      } else if (entry.type === "delivered") {
        forget(entry.id)
        if (entry.head !== undefined) known(entry.id).head = entry.head
        areFoundUnsynced = true
      } else {
        if (entry.head !== undefined && all.get(entry.id)?.isKept !== true) add(entry.id, entry.head)
        known(entry.id).fate = entry.type
        areFoundUnsynced = true
      }
    }

    if ((yield* disk.info(path)) !== undefined) {
      yield* withFile(disk, path, (file) => scan(file, 0, note))
      for (const it of all.values()) {
        hasRemains ||= it.filled > 0 && !it.mayHoldContent
        isSpent ||= it.entries > 0 && (it.fate !== undefined || !it.isKept)
      }
    }

    // ------------------------------------------------------------------------------------------------ written

    /**
     * Adds to the file. If that fails, what came of it is cut off, so that it takes no room; `left` is called if that
     * fails as well.
     */
    const appending = (
      use: (file: File) => Effect.Effect<void, DiskError>,
      left: () => void = () => undefined
    ) =>
      Effect.scoped(
        Effect.gen(function* () {
          const file = yield* disk.open(path, "append")
          const size = yield* file.size
          const cutOff = Effect.flatMap(file.size, (now) =>
            now === size ? Effect.void : Effect.zipRight(file.truncate(size), file.sync)
          )
          yield* Effect.onError(Effect.zipRight(use(file), syncEntry), () =>
            Effect.ignore(Effect.tapError(cutOff, () => Effect.sync(left)))
          )
        })
      )

    const syncEntry = Effect.suspend(() =>
      // once in each process: the one that made the file may have died before it did this
      entrySynced ? Effect.void : Effect.map(disk.syncDirectory(directory), () => void (entrySynced = true))
    )

    const now = Effect.map(Clock.currentTimeMillis, (millis) => new Date(millis).toISOString())

    const keep: DeadLetters["keep"] = Effect.fnUntraced(function* (refusals, source) {
      const fresh = refusals.filter(({ record }) => {
        const it = all.get(idOf(record))
        // a decision is durable, and about a letter that was: content that comes again would stay
        return !(it?.isSynced === true || (it?.isKept === true && it.fate !== undefined))
      })
      if (fresh.length === 0) return
      const at = yield* now
      const note = (isSynced: boolean) => {
        for (const { class: cls, record } of fresh) {
          const head = { sequence: record.sequence, surplus: record.surplus || undefined, class: cls }
          const it = add(idOf(record), head)
          it.isSynced = isSynced
          it.entries++
          it.filled++
        }
      }
      yield* appending(
        (file) =>
          Effect.gen(function* () {
            // whatever a crash or a full disk left unfinished ends here; blank lines mean nothing
            yield* file.write(NEWLINE)
            yield* writeLetters(file, fresh, at, source)
            // before the cursor moves: otherwise a power cut could take the only copy
            yield* file.sync
          }),
        () => note(false)
      )
      note(true)
    })

    const syncFound = Effect.suspend(() =>
      areFoundUnsynced
        ? Effect.map(
            appending((file) => file.sync),
            () => void (areFoundUnsynced = false)
          )
        : Effect.void
    )

    const withdraw: DeadLetters["withdraw"] = Effect.fnUntraced(function* (records, refusals) {
      // before the cursor moves: otherwise a power cut could bring back the letter of an event that is delivered
      yield* syncFound
      if (all.size === 0) return
      // by their places: a record may have been read anew since it was refused
      const refused = new Set(refusals.map(({ record }) => idOf(record)))
      const ids = Array.from(records, idOf).filter((id) => all.get(id)?.isKept === true && !refused.has(id))
      if (ids.length === 0) return
      const at = yield* now
      yield* write(ids.map((id): Outcome => ({ type: "delivered", id, at })))
      ids.forEach(forget)
      hasRemains = isSpent = true
    })

    const write = (outcomes: ReadonlyArray<Outcome>) =>
      appending((file) => file.append(Buffer.from(["", ...outcomes.map(encodeOutcome), ""].join("\n"))))

    /** Ends letters, which may have entries that are not among these. */
    const end = (fate: Fate, entries: ReadonlyArray<Entry>, by?: string) =>
      Effect.gen(function* () {
        if (entries.length === 0) return
        const at = yield* now
        yield* write(
          entries.map(({ letter }): Outcome => ({ type: fate, id: letter.id, at, by, head: headOf(letter) }))
        )
        for (const { letter } of entries) known(letter.id).fate = fate
        isSpent = true
        const isErased = yield* Effect.option(erase(disk, path, entries))
        for (const { letter } of entries) {
          const it = known(letter.id)
          if (isErased._tag === "Some") it.filled--
          hasRemains ||= it.filled > 0
        }
      })

    // --------------------------------------------------------------------------------------------------- read

    const page: DeadLetters["page"] = ({ contentBytes, from = 0, limit, select, torn = false }) =>
      withFile(disk, path, (file) =>
        Effect.gen(function* () {
          const found = new Map<string, Entry>()
          let bytes = 0
          const isFull = () => found.size >= limit || (found.size > 0 && bytes >= (contentBytes ?? Infinity))
          const size = yield* file.size
          for (let start: number | undefined = from; start !== undefined && start < size;) {
            const { lines, next }: EntryLines = yield* readEntries(file, start, size)
            for (const line of lines) {
              const { at, entry, length } = line
              if (entry?.type !== "letter") continue
              const it = all.get(entry.id)
              if (it === undefined || !(it.isOpen || (torn && it.isTorn)) || !select(entry)) continue
              if (isFull()) return { entries: [...found.values()], next: at }
              bytes += length
              const letter =
                contentBytes === undefined ? withoutContent(entry) : yield* withContent(file, line, entry)
              found.set(entry.id, { letter, at, length })
            }
            start = next
          }
          return { entries: [...found.values()], next: undefined }
        })
      ).pipe(Effect.catchIf(isAbsent, () => Effect.succeed<Page>({ entries: [], next: undefined })))

    // --------------------------------------------------------------------------------------------------- tidy

    const some = (is: (it: Known) => boolean): boolean => {
      for (const it of all.values()) if (is(it)) return true
      return false
    }
    const isNothingOpen = () => !some(({ isOpen }) => isOpen)

    /** A torn end that nobody has discarded goes with the last letter: it would keep the file from being replaced. */
    const endTorn = (guarded: Guarded) =>
      Effect.gen(function* () {
        for (let from: number | undefined = 0; from !== undefined;) {
          const step: Effect.Effect<Page, DiskError> = Effect.tap(
            page({ from, limit: PAGE, torn: true, select: ({ class: cls }) => cls === "torn" }),
            ({ entries }) => end("erased", entries)
          )
          from = (yield* guarded(step)).next
        }
      })

    const sweepAll = (guarded: Guarded) =>
      Effect.gen(function* () {
        hasRemains = false
        unreadable = 0
        const keeping: Keeping = {
          isKept: (id) => all.get(id)?.mayHoldContent,
          onUnreadable: () => unreadable++
        }
        const size = yield* guarded(withFile(disk, path, (file) => file.size))
        for (let from: number | undefined = 0; from !== undefined && from < size;) {
          from = yield* guarded(sweep(disk, path, from, size, keeping))
        }
        for (const it of all.values()) if (!it.mayHoldContent) it.filled = 0
      }).pipe(Effect.onError(() => Effect.sync(() => (hasRemains = true))))

    const outcomeOf = (id: string, it: Known, at: string, by: string | undefined): Outcome => ({
      type: it.fate ?? (it.isKept ? "erased" : "delivered"),
      id,
      at,
      by: it.fate === "erased" ? undefined : by,
      head: it.head
    })
    const headsOf = (id: string, it: Known, at: string, by?: string): ReadonlyArray<string> => {
      it.isCopied = true
      const orphans = it.orphans.map((type): Outcome => ({ type, id, at }))
      return [...orphans, outcomeOf(id, it, at, by)].map(encodeOutcome)
    }

    const replace = (guarded: Guarded) =>
      Effect.gen(function* () {
        for (const it of all.values()) it.isCopied = false
        const at = yield* now
        const isReplaced = yield* replaceByHeads(disk, directory, path, {
          guarded,
          headsOf: ({ entry }) => {
            const it = entry === undefined ? undefined : all.get(entry.id)
            if (entry === undefined || entry.type === "letter" || it === undefined || it.isCopied) return []
            const isLast = entry.type === outcomeOf(entry.id, it, "", "").type
            return isLast ? headsOf(entry.id, it, entry.at, entry.by) : []
          },
          rest: () => {
            if (!isReplaceable()) return undefined
            const hasHead = (it: Known) =>
              it.head !== undefined || it.fate !== undefined || it.orphans.length > 0
            return [...all].flatMap(([id, it]) => (it.isCopied || !hasHead(it) ? [] : headsOf(id, it, at)))
          },
          replaced: Effect.suspend(() => {
            entrySynced = false
            return Effect.map(disk.syncDirectory(directory), () => {
              entrySynced = true
              isSpent = false
              for (const it of all.values()) it.entries = it.filled = 0
            })
          })
        })
        return isReplaced
      })

    /** A line that cannot be read would not come along. */
    const isReplaceable = () => isSpent && isNothingOpen() && unreadable === 0

    const tidy: DeadLetters["tidy"] = (guarded) =>
      Effect.gen(function* () {
        if ((yield* guarded(disk.info(path))) === undefined) return
        // before the blanks: a power cut could keep them, and take the decision
        yield* guarded(syncFound)
        // those that were kept may be remains of a letter that is decided by now
        if (hasRemains || (unreadable > 0 && isSpent && isNothingOpen())) yield* sweepAll(guarded)
        if (isReplaceable()) yield* endTorn(guarded)
        if (isReplaceable()) yield* replace(guarded)
      })

    const holdsAnything = () => some((it) => it.isKept || it.fate !== undefined || it.orphans.length > 0)

    /** a restoration has failed, although there may be a file again */
    let isLacking = false
    const restore: DeadLetters["restore"] = Effect.fnUntraced(function* (isSettled) {
      isLacking = true
      entrySynced = false
      for (const it of all.values()) it.isSynced = false
      if (!holdsAnything()) {
        isLacking = false
        return 0
      }
      const found = yield* entriesOf(disk, path)
      const at = yield* now
      const by = "unknown, since the file was removed"
      const outcomes: Array<Outcome> = []
      const lost: Array<string> = []
      for (const [id, it] of all) {
        const isThere = found?.letters.has(id) === true
        if (found === undefined) outcomes.push(...it.orphans.map((type): Outcome => ({ type, id, at, by })))
        if (!isThere) it.entries = it.filled = 0
        const isLost = it.isOpen && !isThere
        if (isLost) lost.push(id)
        const hasEnded = it.fate !== undefined || (it.isKept && it.isIdle && !isThere)
        if (hasEnded && found?.outcomes.has(id) !== true) outcomes.push(outcomeOf(id, it, at, by))
      }
      // heads without their letters: an earlier version would misread them
      if (outcomes.some(({ head }) => head !== undefined)) yield* raiseFormat(disk, directory)
      if (outcomes.length > 0) yield* write(outcomes)
      // only now: what fails above is done again
      lost.forEach(forget)
      isLacking = false
      // the letters of an older file may be decided by now
      hasRemains = isSpent = found !== undefined
      return lost.filter((id) => isSettled(placeOf(id))).length
    })

    return {
      keep,
      withdraw,
      page,
      open: (select) =>
        Effect.map(page({ select, limit: Number.POSITIVE_INFINITY }), ({ entries }) => entries),
      read: ({ at, length, letter: entry }) =>
        length > MAX_SHOWN_BYTES
          ? Effect.succeed(entry)
          : Effect.flatMap(
              withFile(disk, path, (file) => file.readAt(at, length)),
              (bytes) => {
                const letter = parse(Buffer.from(bytes).toString("utf8"))
                if (letter?.type === "letter" && letter.id === entry.id) return Effect.succeed(letter)
                const cause = new Error("the letter is damaged")
                return new DiskError({ operation: "read", path, code: DAMAGED, cause })
              }
            ),
      decide: (type, entries, by) =>
        Effect.suspend(() => {
          // taken back meanwhile, or decided: one letter may have two entries
          const open = entries.filter(({ letter: { id } }) => all.get(id)?.mayHoldContent === true)
          const torn = open.filter(({ letter }) => letter.class === "torn")
          const decided = torn.length === 0 ? open : open.filter((entry) => !torn.includes(entry))
          return Effect.as(
            Effect.zipRight(end(type, decided, by), end("erased", torn)),
            new Set(decided.map(({ letter }) => letter.id)).size
          )
        }),
      discarded: (from) =>
        [...all].flatMap(([id, it]) => {
          const isDiscarded = it.isKept && (it.fate === "discarded" || it.fate === "erased")
          const place = placeOf(id)
          return isDiscarded && place.segment >= from ? [place] : []
        }),
      hasRemains: () => hasRemains,
      isUntidy: () => hasRemains || isSpent,
      tidy,
      isWhole: Effect.suspend(() => {
        if (isLacking || !holdsAnything()) return Effect.succeed(!isLacking)
        return Effect.map(disk.info(path), (info) => info !== undefined)
      }),
      restore,
      counts: (before = Number.POSITIVE_INFINITY) => {
        const counts = { letters: 0, torn: 0, retried: 0, discarded: 0 }
        const decided = (fate: Known["fate"]) => {
          if (fate === "retried") counts.retried++
          if (fate === "discarded") counts.discarded++
        }
        for (const [id, it] of all) {
          decided(it.fate)
          it.orphans.forEach(decided)
          if (!it.isKept) continue
          if (it.head?.class === "blank") counts.discarded++
          if (before !== Number.POSITIVE_INFINITY && placeOf(id).segment >= before) continue
          if (it.head?.class === "torn") counts.torn++
          else counts.letters++
        }
        return counts
      },
      nextSequence: (isKnown) => {
        let above = 0
        for (const [id, { head }] of all) {
          if (head === undefined || isKnown(placeOf(id))) continue
          above = Math.max(above, head.surplus === true ? head.sequence : head.sequence + 1)
        }
        return above
      },
      damaged
    }
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

/** A longer entry is listed without its content, bytes: escaped for a screen it must fit into a text of V8, 512 MiB. */
const MAX_SHOWN_BYTES = 64 * 1024 * 1024

/** so many letters are ended at a time */
const PAGE = 1024

const headOf = ({ class: cls, sequence, surplus }: Head): Head => ({ sequence, surplus, class: cls })

const withoutContent = ({ base64: _, line: __, ...letter }: Letter): Letter => letter

/** The letter as its whole entry says it; without content, if that cannot be read. */
const withContent = (file: File, { at, isCut, length }: EntryLine, letter: Letter) =>
  isCut && length <= MAX_SHOWN_BYTES
    ? Effect.map(file.readAt(at, length), (bytes) => {
        const whole = parse(Buffer.from(bytes).toString("utf8"))
        return whole?.type === "letter" && whole.id === letter.id ? whole : letter
      })
    : Effect.succeed(letter)

const writeLetters = (
  file: File,
  refusals: ReadonlyArray<Refusal>,
  at: string,
  source: Effect.Effect<File, DiskError, Scope.Scope>
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    let pieces: Array<Buffer> = []
    let bytes = 0
    const flush = Effect.suspend(() => {
      const joined = Buffer.concat(pieces)
      pieces = []
      bytes = 0
      return joined.length === 0 ? Effect.void : file.write(joined)
    })
    for (const refusal of refusals) {
      const head = encodeHead(refusal, at)
      if (refusal.record.problem === "oversize") {
        yield* flush
        yield* writeOversize(file, head, refusal.record, source)
        continue
      }
      const entry = Buffer.from(`${head}${encodeContent(refusal.record)}\n`)
      pieces.push(entry)
      bytes += entry.length
      if (bytes >= WRITE_BYTES) yield* flush
    }
    yield* flush
  })

const writeOversize = (
  file: File,
  head: string,
  { length, offset }: QueueRecord,
  source: Effect.Effect<File, DiskError, Scope.Scope>
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const from = yield* source
    yield* file.write(Buffer.from(`${head},"base64":"`))
    for (let done = 0; done < length;) {
      const piece = yield* from.readAt(offset + done, Math.min(PIECE_BYTES, length - done))
      if (piece.length === 0) break
      yield* file.write(Buffer.from(Buffer.from(piece).toString("base64")))
      done += piece.length
    }
    yield* file.write(Buffer.from('"}\n'))
  }).pipe(Effect.scoped)
