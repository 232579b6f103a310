/** The register: the state of each dead letter, and how many letters are in each state. */
import { idOf, placeOf, type Place } from "../../schema/Position.js"
import type { RefusalClass } from "../../services/QueueFile.js"
import { CLASSES, erasedOf, headOf, isBlank, isErased, type Head, type Outcome } from "./letter.js"
import type { EntryLine } from "./letterLines.js"

export type Fate = Exclude<Outcome["type"], "delivered">
const NONE: ReadonlyArray<Fate> = []

/** Columns hold indexes of these lists; index 0 is undefined. */
const FATES: ReadonlyArray<Fate | undefined> = [undefined, "retried", "discarded", "erased"]
const CLASS_CODES: ReadonlyArray<RefusalClass | undefined> = [undefined, ...CLASSES]

const KEPT = 1
const SYNCED = 2
const SURPLUS = 4
const ENTRY = 8
const COPIED = 16

const FIRST_ROWS = 64

/**
 * A row for each letter, found by its place and never removed. 100,000 rows take 8 MB, in arrays of numbers that
 * garbage collection need not trace.
 */
class Table {
  rows = 0
  segments = new Float64Array(FIRST_ROWS)
  offsets = new Float64Array(FIRST_ROWS)
  sequences = new Float64Array(FIRST_ROWS)
  flags = new Uint8Array(FIRST_ROWS)
  classes = new Uint8Array(FIRST_ROWS)
  fates = new Uint8Array(FIRST_ROWS)
  filled = new Uint16Array(FIRST_ROWS)
  /** by row; few letters have orphans */
  readonly orphans = new Map<number, ReadonlyArray<Fate>>()
  /** rows by segment and offset, as numbers, which garbage collection need not trace */
  private readonly places = new Map<number, Map<number, number>>()

  /** The row of a place; -1 if there is none. */
  find(segment: number, offset: number): number {
    return this.places.get(segment)?.get(offset) ?? -1
  }

  /** Adds a place that has no row yet. */
  add(segment: number, offset: number): number {
    if (this.rows === this.segments.length) this.grow()
    const row = this.rows++
    this.segments[row] = segment
    this.offsets[row] = offset
    const inSegment = this.places.get(segment)
    if (inSegment === undefined) this.places.set(segment, new Map([[offset, row]]))
    else inSegment.set(offset, row)
    return row
  }

  private grow(): void {
    const rows = 2 * this.segments.length
    const more = <A extends Float64Array | Uint8Array | Uint16Array>(larger: A, column: A): A => {
      larger.set(column)
      return larger
    }
    this.segments = more(new Float64Array(rows), this.segments)
    this.offsets = more(new Float64Array(rows), this.offsets)
    this.sequences = more(new Float64Array(rows), this.sequences)
    this.flags = more(new Uint8Array(rows), this.flags)
    this.classes = more(new Uint8Array(rows), this.classes)
    this.fates = more(new Uint8Array(rows), this.fates)
    this.filled = more(new Uint16Array(rows), this.filled)
  }
}

/** A view of one row: a letter, or a decision about a letter that cannot be read. */
export class Known {
  constructor(
    private readonly table: Table,
    private readonly row: number
  ) {}

  get place(): Place {
    return { segment: this.table.segments[this.row]!, offset: this.table.offsets[this.row]! }
  }
  get id(): string {
    return idOf(this.place)
  }
  get class(): RefusalClass | undefined {
    return CLASS_CODES[this.table.classes[this.row]!]
  }
  get head(): Head | undefined {
    const { class: cls } = this
    if (cls === undefined) return undefined
    return { sequence: this.table.sequences[this.row]!, surplus: this.has(SURPLUS) || undefined, class: cls }
  }
  set head(head: Head | undefined) {
    this.table.sequences[this.row] = head?.sequence ?? 0
    this.table.classes[this.row] = CLASS_CODES.indexOf(head?.class)
    this.set(SURPLUS, head?.surplus === true)
  }
  /** whether the file may hold the letter: false if it was taken back */
  get isKept(): boolean {
    return this.has(KEPT)
  }
  set isKept(is: boolean) {
    this.set(KEPT, is)
  }
  /** whether it is durable: a process that died may have left letters only in the page cache */
  get isSynced(): boolean {
    return this.has(SYNCED)
  }
  set isSynced(is: boolean) {
    this.set(SYNCED, is)
  }
  get fate(): Fate | undefined {
    return FATES[this.table.fates[this.row]!]
  }
  set fate(fate: Fate | undefined) {
    this.table.fates[this.row] = FATES.indexOf(fate)
  }
  /** decisions about an earlier, unreadable letter of the same place: they count, but do not decide this letter */
  get orphans(): ReadonlyArray<Fate> {
    return this.table.orphans.get(this.row) ?? NONE
  }
  set orphans(orphans: ReadonlyArray<Fate>) {
    this.table.orphans.set(this.row, orphans)
  }
  /** how many of its entries hold content */
  get filled(): number {
    return this.table.filled[this.row]!
  }
  set filled(entries: number) {
    this.table.filled[this.row] = Math.max(0, Math.min(entries, MOST_FILLED))
  }
  /** whether the file has an entry for the letter, besides its outcome */
  get hasEntry(): boolean {
    return this.has(ENTRY)
  }
  set hasEntry(has: boolean) {
    this.set(ENTRY, has)
  }
  /** whether its head was copied to the file that is being written */
  get isCopied(): boolean {
    return this.has(COPIED)
  }
  set isCopied(is: boolean) {
    this.set(COPIED, is)
  }

  get isTornEnd(): boolean {
    return this.class === "torn"
  }
  get isBlank(): boolean {
    return this.class === "blank"
  }
  get hasEnded(): boolean {
    return this.fate !== undefined || !this.isKept
  }
  get isOpen(): boolean {
    return !this.hasEnded && !this.isTornEnd && !this.isBlank
  }
  /** A torn end is kept until somebody discards it, or no letter is open. */
  get isTorn(): boolean {
    return !this.hasEnded && this.isTornEnd
  }
  get mayHoldContent(): boolean {
    return this.isOpen || this.isTorn
  }
  /** Whether the letter, or a decision about it, counts. */
  get counts(): boolean {
    return this.isKept || this.fate !== undefined || this.orphans.length > 0
  }

  private has(flag: number): boolean {
    return (this.table.flags[this.row]! & flag) !== 0
  }
  private set(flag: number, is: boolean): void {
    const flags = this.table.flags[this.row]!
    this.table.flags[this.row] = is ? flags | flag : flags & ~flag
  }
}

/** a letter with more entries stays `filled` until the whole file was swept */
const MOST_FILLED = 0xffff

export interface Counts {
  readonly letters: number
  readonly torn: number
  readonly retried: number
  readonly discarded: number
}

/** All letters by id. Changes of what counts go through its methods, so that the sums stay true. */
export class Register {
  private readonly table = new Table()
  private readonly sums = { open: 0, counting: 0, letters: 0, torn: 0, retried: 0, discarded: 0 }
  /** how many lines could not be read when the file was opened */
  damaged = 0
  /** whether outcomes were found that a process that died may have left only in the page cache */
  areFoundUnsynced = false
  /** whether lines of the file may hold content that should be erased */
  hasRemains = false
  /** how many unreadable lines were kept, since they may be open letters */
  unreadable = 0
  /** whether letters that have ended have entries, so that a shorter file can replace this one */
  isSpent = false

  get isNothingOpen(): boolean {
    return this.sums.open === 0
  }
  get holdsAnything(): boolean {
    return this.sums.counting > 0
  }
  get isEmpty(): boolean {
    return this.table.rows === 0
  }
  get(id: string): Known | undefined {
    const { offset, segment } = placeOf(id)
    const row = this.table.find(segment, offset)
    return row === -1 ? undefined : new Known(this.table, row)
  }
  /** In the order of their addition. */
  *[Symbol.iterator](): IterableIterator<Known> {
    for (let row = 0; row < this.table.rows; row++) yield new Known(this.table, row)
  }

  known(id: string): Known {
    const { offset, segment } = placeOf(id)
    const row = this.table.find(segment, offset)
    return new Known(this.table, row === -1 ? this.table.add(segment, offset) : row)
  }

  add(id: string, head: Head): Known {
    return this.change(id, (it) => {
      if (it.fate !== undefined && !it.isKept) {
        it.orphans = [...it.orphans, it.fate]
        it.fate = undefined
      }
      it.head = head
      it.isKept = true
    })
  }

  /** Forgets a letter that was taken back, or is lost. */
  forget(id: string): void {
    this.change(id, (it) => {
      it.isKept = false
      it.isSynced = false
      it.fate = undefined
    })
  }

  end(id: string, fate: Fate): void {
    this.change(id, (it) => (it.fate = fate))
    this.isSpent = true
  }

  /** Adds a line of the file. */
  note({ bytes, entry, isCut, length }: EntryLine): void {
    if (entry === undefined) {
      if (isBlank(bytes)) return
      this.damaged++
      this.hasRemains = true
    } else if (entry.type === "letter") {
      const it = this.add(entry.id, headOf(entry))
      it.hasEntry = true
      // an erased letter has no reason, so most letters need no comparison
      if (isCut || entry.reason !== "" || !isErased(erasedOf(entry, length), bytes, length)) it.filled++
    } else {
      this.areFoundUnsynced = true
      if (entry.type === "delivered") {
        this.forget(entry.id)
        if (entry.head !== undefined) this.known(entry.id).head = entry.head
      } else {
        if (entry.head !== undefined && this.get(entry.id)?.isKept !== true) this.add(entry.id, entry.head)
        const { type } = entry
        this.change(entry.id, (it) => (it.fate = type))
      }
    }
  }

  /** Called after the last line. */
  found(): void {
    for (const it of this) {
      this.hasRemains ||= it.filled > 0 && !it.mayHoldContent
      this.isSpent ||= it.hasEntry && it.hasEnded
    }
  }

  /** Counts all letters, or those whose lines stood in segments before `before`. */
  counts(before = Number.POSITIVE_INFINITY): Counts {
    let { letters, torn } = this.sums
    if (before !== Number.POSITIVE_INFINITY) {
      letters = torn = 0
      for (const it of this) {
        if (!it.isKept || it.place.segment >= before) continue
        if (it.isTornEnd) torn++
        else letters++
      }
    }
    return { letters, torn, retried: this.sums.retried, discarded: this.sums.discarded }
  }

  /** A number above that of every letter whose place is not `isKnown`. */
  nextSequence(isKnown: (place: Place) => boolean): number {
    let above = 0
    for (const { head, place } of this) {
      if (head === undefined || isKnown(place)) continue
      above = Math.max(above, head.surplus === true ? head.sequence : head.sequence + 1)
    }
    return above
  }

  private change(id: string, how: (it: Known) => void): Known {
    const it = this.known(id)
    this.sum(it, -1)
    how(it)
    this.sum(it, 1)
    return it
  }

  private sum(it: Known, by: 1 | -1): void {
    const { sums } = this
    if (it.isOpen) sums.open += by
    if (it.counts) sums.counting += by
    this.sumFate(it.fate, by)
    for (const fate of it.orphans) this.sumFate(fate, by)
    if (!it.isKept) return
    if (it.isBlank) sums.discarded += by
    if (it.isTornEnd) sums.torn += by
    else sums.letters += by
  }

  private sumFate(fate: Fate | undefined, by: 1 | -1): void {
    if (fate === "retried") this.sums.retried += by
    if (fate === "discarded") this.sums.discarded += by
  }
}
