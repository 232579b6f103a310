/**
 * The sealer of a queue: continues its chain, and begins a new one if it cannot.
 *
 * Responsibilities
 * - makes the seal of each transaction, behind the last one that was committed
 * - if the answer to a seal never came, finds out what became of it before it makes another one
 * - if the chain is not as it was left, begins a new one, whose first seal says so for ever
 *
 * Delivery waits a minute at most: a database that fails over may show the last seal late.
 */
import { Duration, Effect } from "effect"
import { randomBytes } from "node:crypto"
import { UploadError } from "../../schema/Errors.js"
import { textOf } from "../../schema/EventId.js"
import { sqlDateTime } from "../../schema/Line.js"
import { idOf, isBefore, type Place, placeOf } from "../../schema/Position.js"
import type { LastSeal, Manifest, Seal, Sealing, Stored } from "../../services/Sealing.js"
import { monotonicMillis } from "../monotonic.js"
import { digest, hex, NO_HEAD, u64 } from "./bytes.js"
import type { KeyPair } from "./keys.js"
import { decodeNotices, encodeNotices, type Notice } from "./notices.js"
import { decodeEntries, ENTRY_BYTES, numbered, seal, wrongIn } from "./seal.js"

export interface Settings {
  readonly key: KeyPair
  /** the previous key, which signs the seal that names the present one */
  readonly previousKey?: KeyPair | undefined
  readonly sealing: Sealing
  /** the last seal that the queue's cursor knows of */
  readonly last: LastSeal | undefined
  /** the queue's id: the id of its first chain follows from it */
  readonly queueId: string
  /** where the cursor stands */
  readonly position: Place
  /** how long to wait if the chain is not as it was left; a minute by default */
  readonly patience?: Duration.Duration | undefined
}

export interface Contents {
  /** the place behind the last batch, `segment:offset` */
  readonly until: string
  readonly stored: ReadonlyArray<Stored>
  /** the lines of the batches that the database refused */
  readonly dead: ReadonlyArray<{ readonly place: Place; readonly eventId: string; readonly code: string }>
}

/** What became of an event whose seal was committed, although its answer never came. */
export interface Fate {
  /** why it was refused; undefined if it was stored */
  readonly code: string | undefined
}

export class Sealer {
  /** whether the database shows the chain as it was left, and nothing has gone wrong since */
  private isReady = false
  /** by event id: what seals tell that the cursor does not know of */
  private readonly fates = new Map<string, Fate>()
  private fatesUntil: Place | undefined
  /** the seal from which the fates were read on */
  private known: LastSeal | undefined
  private chain: Uint8Array = NO_HEAD
  /** of the next seal */
  private number = 0
  private prev: Uint8Array = NO_HEAD
  private at = ""
  private opening: ReadonlyArray<Notice> = []
  /** numbers of manifests that the chain knows, by their text */
  private told: ReadonlyMap<string, number> = new Map()
  private last: LastSeal | undefined
  /** the place up to which the last seal goes */
  private until = "0:0"
  /** whether the next seal tells of events that were delivered without one */
  private isBare: boolean
  private isForked: boolean
  /** signs the next seal */
  private signer: KeyPair
  private pending:
    | {
        readonly seal: Seal
        readonly told: ReadonlyMap<string, number>
        readonly asked: ReadonlyArray<string>
      }
    | undefined
  /** notices that the next seal is to hold, by the id of the request */
  private readonly asked = new Map<string, Notice>()
  /** requests whose notice a seal holds, until they are asked again */
  private readonly said = new Set<string>()
  /** permissions in seals that were read back, after a lost answer or a new start */
  private readonly heard = new Set<string>()
  private hasWarned = false

  constructor(private readonly settings: Settings) {
    this.last = settings.last
    this.isBare = settings.last?.bare === 1
    this.isForked = settings.last?.forked === 1
    this.signer = settings.key
  }

  /** The last seal that was committed. */
  get head(): LastSeal | undefined {
    return this.last
  }

  /**
   * The seal for a cursor that stands here: the last one, unless seals tell of events that the cursor does not know of
   * yet. Then the one behind which they are read again after a new start.
   */
  headAt(place: Place): LastSeal | undefined {
    return this.fatesUntil !== undefined && isBefore(place, this.fatesUntil) ? this.known : this.last
  }

  /** Whether seals tell of events that the cursor does not know of. */
  get hasFates(): boolean {
    return this.fates.size > 0
  }

  /** What has already become of an event; undefined if no seal tells. */
  fateOf(eventId: string, place: Place): Fate | undefined {
    return this.fatesUntil !== undefined && isBefore(place, this.fatesUntil)
      ? this.fates.get(eventId)
      : undefined
  }

  /** Asks for a notice in the next seal. Returns whether a seal holds it already. */
  say(id: string, notice: Notice): boolean {
    if (this.said.delete(id) || this.heard.has(textOfNotice(notice))) return true
    this.asked.set(id, notice)
    return false
  }

  /** Whether a seal is needed although there are no rows. */
  get isAsked(): boolean {
    return this.asked.size > 0
  }

  /** Whether a seal holds a notice that somebody waits for. */
  get hasSaid(): boolean {
    return this.said.size > 0
  }

  /** The answer to a seal never came, or something else failed: the next seal waits until the database was read. */
  doubt(): void {
    this.isReady = false
    this.pending = undefined
  }

  /** Makes sure that the next seal follows the last one that the database has. */
  readonly resume: Effect.Effect<void, UploadError> = Effect.suspend(() =>
    this.isReady ? Effect.void : this.look()
  )

  private look(): Effect.Effect<void, UploadError> {
    return Effect.gen(this, function* () {
      const { last } = this
      const found = last === undefined ? undefined : yield* this.follow(last, false)
      if (last !== undefined && found !== undefined) {
        const now = monotonicMillis(yield* Effect.clock)
        const patience = this.settings.patience ?? Duration.minutes(1)
        if (now - missedSince(this.settings.sealing, last.chain, now) < Duration.toMillis(patience))
          return yield* missed(found)
        if (!this.hasWarned)
          yield* Effect.logWarning(
            `audit: the chain of seals ${last.chain} is not as it was left (${found}), so a new one begins: the database was ` +
              `set back or changed; run "effect-audit prove"`
          )
        this.hasWarned = true
        this.isForked = true
      }
      if (last === undefined || found !== undefined) yield* this.begin(last, found ?? "")
      this.isReady = true
    })
  }

  /** Reads on from a seal, which `isNew` to the cursor or not. Returns why the chain is not as it was left. */
  private follow(
    last: Pick<LastSeal, "chain" | "head" | "number">,
    isNew: boolean
  ): Effect.Effect<string | undefined, UploadError> {
    return Effect.gen(this, function* () {
      const { sealing } = this.settings
      let before: Seal | undefined
      const read: Array<Seal> = []
      let events = 0
      for (let from = last.number; ; from = before!.number + 1) {
        const seals = yield* sealing.read(last.chain, from)
        if (seals.length === 0) break
        for (const each of seals) {
          const expected = before === undefined ? last.number : before.number + 1
          if (each.number !== expected) return `seal ${expected} is missing`
          if (
            before === undefined ? hex(each.head) !== last.head : !Buffer.from(each.prev).equals(before.head)
          )
            return `seal ${each.number} is another one`
          const wrong = wrongIn(each, this.keyOf(each))
          // the key before ours has signed it, and may be gone; the cursor knows its head
          const isHandOver = wrong === "key" && before === undefined && this.namesOurKey(each)
          if (wrong !== undefined && !isHandOver) return `seal ${each.number} is not ours`
          read.push(each)
          events += each.entries.length / ENTRY_BYTES
          before = each
        }
        if (isNew && (read.length > MOST_LATER.seals || events > MOST_LATER.events))
          return `more than ${MOST_LATER.seals} seals or ${MOST_LATER.events} events have come since`
      }
      if (before === undefined) return `seal ${last.number} is missing`
      for (const each of read) this.hear(each)
      // where a start found fates, the cursor may stand before the end of its own seal
      const isAhead = last === this.settings.last && isBefore(this.settings.position, placeOf(read[0]!.until))
      const later = isNew || isAhead ? read : read.slice(1)
      if (later.length > 0 && !this.hasFates) this.known = this.lastOf(read[0]!)
      for (const each of later) this.remember(each)
      this.goOnFrom(before)
      return undefined
    })
  }

  /** The key that a seal names, if it is one of ours. */
  private keyOf({ keyId }: Seal): KeyPair {
    const { key, previousKey } = this.settings
    return previousKey?.id.equals(keyId) === true ? previousKey : key
  }

  private namesOurKey({ notices }: Seal): boolean {
    const { publicKey } = this.settings.key
    return (decodeNotices(notices) ?? []).some(
      (notice) => notice.word === "key" && notice.publicKey === publicKey
    )
  }

  /** Makes the next seal follow this one. */
  private goOnFrom(seal: Seal): void {
    const { at, chain, head, number, until } = seal
    const { key, previousKey } = this.settings
    this.signer = previousKey === undefined || this.namesOurKey(seal) ? key : this.keyOf(seal)
    this.chain = chain
    this.prev = head
    this.number = number + 1
    this.at = at
    this.until = until
    missing.get(this.settings.sealing)?.delete(hex(chain))
    this.hasWarned = false
    this.last = this.lastOf(seal)
  }

  private lastOf({ chain, head, number }: Seal): LastSeal {
    return {
      chain: hex(chain),
      number,
      head: hex(head),
      ...(this.isForked ? { forked: 1 } : {}),
      ...(this.isBare ? { bare: 1 } : {})
    }
  }

  /** Keeps what a seal permits, so that no request for it is sealed again. */
  private hear({ chain, notices, number }: Seal): void {
    for (const notice of decodeNotices(notices) ?? []) {
      if (notice.word !== "erase" && notice.word !== "purge") continue
      // it permits nothing about later seals: the same words may be a new request then
      if (notice.word === "purge" && notice.chain === hex(chain) && notice.before > number) continue
      const text = textOfNotice(notice)
      this.heard.add(text)
      for (const [id, asked] of this.asked) {
        if (textOfNotice(asked) !== text) continue
        this.asked.delete(id)
        this.said.add(id)
      }
    }
  }

  /** Keeps what a seal tells that the cursor does not know of. */
  private remember({ entries, notices, until }: Seal): void {
    for (const { eventId } of decodeEntries(entries) ?? [])
      this.fates.set(textOf(eventId), { code: undefined })
    for (const notice of decodeNotices(notices) ?? []) {
      if (notice.word === "twin") this.fates.set(notice.eventId, { code: undefined })
      if (notice.word === "dead") this.fates.set(notice.eventId, { code: notice.code })
    }
    this.fatesUntil = placeOf(until)
  }

  /**
   * Begins a chain, whose first seal names the one before and all others. Its id follows from where it begins. So if
   * the answer to its first seal was lost, the chain is found again, even after a new start.
   */
  private begin(last: LastSeal | undefined, found: string): Effect.Effect<void, UploadError> {
    return Effect.gen(this, function* () {
      const { sealing } = this.settings
      this.told = new Map()
      const chain = this.chainAfter(last)
      const [first] = yield* sealing.read(hex(chain), 0)
      const isBegun =
        first !== undefined &&
        (yield* this.follow({ chain: hex(chain), number: 0, head: hex(first.head) }, true)) === undefined
      if (isBegun) return
      const heads = yield* sealing.heads
      this.chain = first === undefined ? chain : randomBytes(16)
      this.number = 0
      this.prev = NO_HEAD
      this.until = "0:0"
      this.at = ""
      this.signer = this.settings.key
      this.opening = [
        ...(last === undefined ? [] : [previous(last, found)]),
        ...heads
          .filter(({ chain }) => chain !== last?.chain)
          .map((head) => ({ word: "witness" as const, ...head }))
      ]
    })
  }

  private chainAfter(last: LastSeal | undefined): Buffer {
    const { position, queueId } = this.settings
    const parts =
      last === undefined
        ? [queueId, idOf(position)]
        : [queueId, Buffer.from(last.chain, "hex"), u64(last.number), Buffer.from(last.head, "hex")]
    return digest("effect-audit/chain/1", parts).subarray(0, CHAIN_BYTES)
  }

  /** The seal of a transaction, behind the last one. */
  seal({ dead = [], stored = [], until = this.until }: Partial<Contents>, now: number): Seal {
    const told = new Map(this.told)
    const notices: Array<Notice> = [...this.opening]
    const entries: Array<Uint8Array> = []
    for (const { manifest, rows, twins } of stored) {
      if (rows.length > 0) entries.push(numbered(rows, tell(told, notices, manifest)))
      for (const eventId of twins) notices.push({ word: "twin", kind: manifest.kind, eventId })
    }
    for (const { code, eventId, place } of dead) notices.push({ word: "dead", place, eventId, code })
    notices.push(...this.asked.values())
    const { key } = this.settings
    if (this.signer !== key) notices.push({ word: "key", publicKey: key.publicKey })
    if (this.isBare) notices.push({ word: "unsealed", from: placeOf(this.until), to: this.settings.position })
    const at = timeOf(now)
    const made = seal(
      {
        chain: this.chain,
        number: this.number,
        at: at < this.at ? this.at : at,
        until,
        prev: this.prev,
        entries: entries.length === 1 ? entries[0]! : Buffer.concat(entries),
        notices: encodeNotices(notices)
      },
      this.signer
    )
    this.pending = { seal: made, told, asked: [...this.asked.keys()] }
    return made
  }

  /** The database has the seal. If it is not pending any more, it was given up, and is read back. */
  committed(made: Seal): void {
    if (this.pending?.seal !== made) return
    const { asked, told } = this.pending
    for (const id of asked) {
      this.asked.delete(id)
      this.said.add(id)
    }
    this.pending = undefined
    if (this.fatesUntil !== undefined && !isBefore(placeOf(made.until), this.fatesUntil)) this.fates.clear()
    this.told = told
    this.opening = []
    this.isBare = false
    this.goOnFrom(made)
  }
}

/**
 * Since when chains have not been as they were left, `monotonicMillis`. Kept by database: a process that takes over a
 * queue has a new sealer every second or two.
 */
const missing = new WeakMap<Sealing, Map<string, number>>()

const missedSince = (sealing: Sealing, chain: string, now: number): number => {
  let chains = missing.get(sealing)
  if (chains === undefined) missing.set(sealing, (chains = new Map<string, number>()))
  const since = chains.get(chain) ?? now
  chains.set(chain, since)
  return since
}

const CHAIN_BYTES = 16

/** If the cursor was lost, at most so much is read again: the ids of all events are held in memory. */
const MOST_LATER = { seals: 1000, events: 1_000_000 }

const previous = ({ chain, head, number }: LastSeal, found: string): Notice => ({
  word: "previous",
  chain,
  number,
  head,
  found
})

const textOfNotice = (notice: Notice): string => encodeNotices([notice]).toString()

/** The number of a manifest. If it is new to the chain, a notice tells of it. */
const tell = (told: Map<string, number>, notices: Array<Notice>, manifest: Manifest): number => {
  const text = JSON.stringify(manifest)
  const known = told.get(text)
  if (known !== undefined) return known
  const number = told.size
  told.set(text, number)
  notices.push({ word: "manifest", number, manifest })
  return number
}

/** `YYYY-MM-DD HH:MM:SS.ffffff` */
const timeOf = (now: number): string => `${sqlDateTime(now)}000`

/** The code of an upload that fails since the chain is not as it was left. */
export const SEAL_MISSING = "SEAL_MISSING"

/** What is found if a seal does not find the one before it. */
export const NOT_LAST = "its last seal is gone or another one"

/** The failure where the chain is not as it was left. */
export const missed = (found: string): UploadError =>
  new UploadError({
    class: "transient",
    code: SEAL_MISSING,
    reason:
      `The chain of seals is not as it was left (${found}): a database that fails over may show it late, so it is looked at ` +
      `again for a minute, and then a new chain begins`
  })
