/** The register of dead letters: what is known of each of them, and how many there are of each sort. */
import { placeOf, type Place } from "../../schema/Position.js"
import type { RefusalClass } from "../../services/QueueFile.js"
import { erasedOf, headOf, isBlank, isErased, type Head, type Outcome } from "./letter.js"
import type { EntryLine } from "./letterLines.js"

export type Fate = Exclude<Outcome["type"], "delivered">
const NONE: ReadonlyArray<Fate> = []
const NO_HEAD = -1

/** What is known of a letter, or of a decision about one that cannot be read. A hundred thousand fit into 20 MB. */
export class Known {
  private sequence = NO_HEAD
  private surplus = false
  private class: RefusalClass | undefined = undefined
  /** it may stand in the file: it was not taken back */
  isKept = false
  /** it is on disk for certain: others may be in the page cache only, by a process that died */
  isSynced = false
  fate: Fate | undefined = undefined
  /** decisions about an earlier letter of its place, which cannot be read: they count, and are not about this one */
  orphans: ReadonlyArray<Fate> = NONE
  /** how many of its entries hold something */
  filled = 0
  /** whether it has an entry of its own, beside what became of it */
  hasEntry = false
  /** its head stands in the file that is being written */
  isCopied = false

  get head(): Head | undefined {
    if (this.class === undefined) return undefined
    return { sequence: this.sequence, surplus: this.surplus || undefined, class: this.class }
  }
  set head(head: Head | undefined) {
    this.sequence = head?.sequence ?? NO_HEAD
    this.surplus = head?.surplus === true
    this.class = head?.class
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
  /** A torn end is kept until somebody discards it, or nothing else is. */
  get isTorn(): boolean {
    return !this.hasEnded && this.isTornEnd
  }
  get mayHoldContent(): boolean {
    return this.isOpen || this.isTorn
  }
  /** Whether it counts, or a decision about it does. */
  get counts(): boolean {
    return this.isKept || this.fate !== undefined || this.orphans.length > 0
  }
}

export interface Counts {
  readonly letters: number
  readonly torn: number
  readonly retried: number
  readonly discarded: number
}

/** All letters by their ids. Who changes one says so here, so that the sums stay true. */
export class Register {
  private readonly all = new Map<string, Known>()
  private readonly sums = { open: 0, counting: 0, letters: 0, torn: 0, retried: 0, discarded: 0 }
  /** how many lines of the file could not be read when it was opened */
  damaged = 0
  /** what became of letters was found, and may be in the page cache only, by a process that died */
  areFoundUnsynced = false
  /** whether lines may hold what they should not */
  hasRemains = false
  /** lines that cannot be read and were kept, since an open letter may be what they were */
  unreadable = 0
  /** whether letters that have ended have entries: then the file can be replaced by a shorter one */
  isSpent = false

  get isNothingOpen(): boolean {
    return this.sums.open === 0
  }
  get holdsAnything(): boolean {
    return this.sums.counting > 0
  }
  get isEmpty(): boolean {
    return this.all.size === 0
  }
  get(id: string): Known | undefined {
    return this.all.get(id)
  }
  [Symbol.iterator](): IterableIterator<[string, Known]> {
    return this.all.entries()
  }

  known(id: string): Known {
    const found = this.all.get(id)
    if (found !== undefined) return found
    const made = new Known()
    this.all.set(id, made)
    return made
  }

  /** A letter was refused. */
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

  /** A letter was taken back, or is lost. */
  forget(id: string): void {
    this.change(id, (it) => {
      it.isKept = false
      it.isSynced = false
      it.fate = undefined
    })
  }

  /** A letter has ended. */
  end(id: string, fate: Fate): void {
    this.change(id, (it) => (it.fate = fate))
    this.isSpent = true
  }

  /** Takes in a line of the file. */
  note({ bytes, entry, isCut, length }: EntryLine): void {
    if (entry === undefined) {
      if (isBlank(bytes)) return
      this.damaged++
      this.hasRemains = true
    } else if (entry.type === "letter") {
      const it = this.add(entry.id, headOf(entry))
      it.hasEntry = true
      // an erased one has no reason: most need no second look
      if (isCut || entry.reason !== "" || !isErased(erasedOf(entry, length), bytes, length)) it.filled++
    } else {
      this.areFoundUnsynced = true
      if (entry.type === "delivered") {
        this.forget(entry.id)
        if (entry.head !== undefined) this.known(entry.id).head = entry.head
      } else {
        if (entry.head !== undefined && this.all.get(entry.id)?.isKept !== true)
          this.add(entry.id, entry.head)
        const { type } = entry
        this.change(entry.id, (it) => (it.fate = type))
      }
    }
  }

  /** Once all lines are in. */
  found(): void {
    for (const it of this.all.values()) {
      this.hasRemains ||= it.filled > 0 && !it.mayHoldContent
      this.isSpent ||= it.hasEntry && it.hasEnded
    }
  }

  /** Of all letters, or of those whose lines stood in segments before the one that is given. */
  counts(before = Number.POSITIVE_INFINITY): Counts {
    let { letters, torn } = this.sums
    if (before !== Number.POSITIVE_INFINITY) {
      letters = torn = 0
      for (const [id, it] of this.all) {
        if (!it.isKept || placeOf(id).segment >= before) continue
        if (it.isTornEnd) torn++
        else letters++
      }
    }
    return { letters, torn, retried: this.sums.retried, discarded: this.sums.discarded }
  }

  /** Above the number of every letter whose line the disk does not know to have been numbered otherwise. */
  nextSequence(isKnown: (place: Place) => boolean): number {
    let above = 0
    for (const [id, { head }] of this.all) {
      if (head === undefined || isKnown(placeOf(id))) continue
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
    const decided = (fate: Fate | undefined) => {
      if (fate === "retried") sums.retried += by
      if (fate === "discarded") sums.discarded += by
    }
    if (it.isOpen) sums.open += by
    if (it.counts) sums.counting += by
    decided(it.fate)
    it.orphans.forEach(decided)
    if (!it.isKept) return
    if (it.isBlank) sums.discarded += by
    if (it.isTornEnd) sums.torn += by
    else sums.letters += by
  }
}
