/**
 * The sealer of a queue: it goes on with its chain, and begins another one where it cannot.
 *
 * Responsibilities
 * - makes the seal of each batch, behind the last one that was committed
 * - finds out what became of a seal whose answer never came, before it makes another one
 * - begins a new chain where the old one is not as it was left, and says so in its first seal for ever
 *
 * Delivery never stops for it: it waits for a minute at most, since a database that fails over may show the last seal
 * late.
 */
import { Duration, Effect } from "effect"
import { randomBytes } from "node:crypto"
import { UploadError } from "../../schema/Errors.js"
import { textOf } from "../../schema/EventId.js"
import { isBefore, type Place, placeOf } from "../../schema/Position.js"
import type { Head, Manifest, Seal, Sealing, Stored } from "../../services/Sealing.js"
import { monotonicMillis } from "../monotonic.js"
import { hex, NO_HEAD } from "./bytes.js"
import type { SealingKey, VerifyingKey } from "./keys.js"
import { decodeNotices, encodeNotices, type Notice } from "./notices.js"
import { decodeEntries, encodeEntries, type Entry, seal, wrongIn } from "./seal.js"

export interface Settings {
  readonly key: SealingKey & VerifyingKey
  readonly sealing: Sealing
  /** the last seal that the queue's cursor knows of; undefined where there is none */
  readonly last: Head | undefined
  /** how long a chain that is not as it was left is waited for; a minute by default */
  readonly patience?: Duration.Duration | undefined
}

/** What a seal is made of, beside what was stored. */
export interface Contents {
  /** the place behind the batch, `segment:offset` */
  readonly until: string
  readonly stored: ReadonlyArray<Stored>
  /** the lines of the batch that are no events, or that the database refused */
  readonly dead: ReadonlyArray<{ readonly place: Place; readonly eventId: string; readonly code: string }>
}

/** What became of an event whose seal was committed, although its answer never came. */
export interface Fate {
  /** why it was refused; undefined where it was stored */
  readonly code: string | undefined
}

export class Sealer {
  /** whether the database shows the chain as it was left, and nothing has gone wrong since */
  private isReady = false
  /** by whose seals events were stored that the cursor does not know of */
  private readonly fates = new Map<string, Fate>()
  private fatesUntil: Place | undefined
  private chain: Uint8Array = randomBytes(16)
  /** of the next seal */
  private number = 0
  private prev: Uint8Array = NO_HEAD
  private at = ""
  private opening: ReadonlyArray<Notice> = []
  /** numbers of manifests that the chain knows, by their text */
  private told: ReadonlyMap<string, number> = new Map()
  private last: Head | undefined
  private pending: { readonly seal: Seal; readonly told: ReadonlyMap<string, number> } | undefined
  /** one that may have been committed all the same */
  private unanswered: Seal | undefined
  /** `monotonicMillis`; undefined while the chain is as it was left */
  private missedSince: number | undefined

  constructor(private readonly settings: Settings) {
    this.last = settings.last
  }

  /** The last seal that was committed. */
  get head(): Head | undefined {
    return this.last
  }

  /** What became of an event already; undefined where nothing did. */
  fateOf(eventId: string, place: Place): Fate | undefined {
    return this.fatesUntil !== undefined && isBefore(place, this.fatesUntil)
      ? this.fates.get(eventId)
      : undefined
  }

  /** The answer to a seal never came, or something else went wrong: the database is asked before the next one. */
  doubt(): void {
    this.isReady = false
    this.unanswered = this.pending?.seal ?? this.unanswered
    this.pending = undefined
  }

  /** Makes sure that the next seal follows the last one that the database has. */
  readonly resume: Effect.Effect<void, UploadError> = Effect.suspend(() =>
    this.isReady ? Effect.void : this.look()
  )

  private look(): Effect.Effect<void, UploadError> {
    return Effect.gen(this, function* () {
      const last = this.last ?? (yield* this.unansweredFirst())
      if (last === undefined) return yield* this.begin(undefined, undefined)
      const found = yield* this.follow(last)
      if (found !== undefined) {
        const now = monotonicMillis(yield* Effect.clock)
        this.missedSince ??= now
        const patience = this.settings.patience ?? Duration.minutes(1)
        if (now - this.missedSince < Duration.toMillis(patience)) return yield* missed(found)
        return yield* this.begin(last, found)
      }
      this.missedSince = undefined
      this.isReady = true
    })
  }

  /** The first seal of a chain of ours, if it was committed and its answer never came. */
  private unansweredFirst(): Effect.Effect<Head | undefined, UploadError> {
    const { unanswered } = this
    if (unanswered === undefined) return Effect.succeed(undefined)
    const chain = hex(unanswered.chain)
    return Effect.map(this.settings.sealing.read(chain, 0), ([first]) => {
      if (first === undefined || !Buffer.from(first.head).equals(unanswered.head)) return undefined
      this.remember(first)
      this.opening = []
      return { chain, number: first.number, head: hex(first.head) }
    })
  }

  /** Reads on from the last seal that is known; why the chain is not as it was left, if so. */
  private follow(last: Head): Effect.Effect<string | undefined, UploadError> {
    return Effect.gen(this, function* () {
      const { key, sealing } = this.settings
      let before: Seal | undefined
      const later: Array<Seal> = []
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
          if (wrongIn(each, key) !== undefined) return `seal ${each.number} is not ours`
          if (before !== undefined) later.push(each)
          before = each
        }
      }
      if (before === undefined) return `seal ${last.number} is missing`
      for (const each of later) this.remember(each)
      this.chain = Buffer.from(last.chain, "hex")
      this.prev = before.head
      this.number = before.number + 1
      this.at = before.at
      this.last = { chain: last.chain, number: before.number, head: hex(before.head) }
      return undefined
    })
  }

  /** Keeps what a seal says that the cursor has not heard of. */
  private remember({ entries, notices, until }: Seal): void {
    for (const { eventId } of decodeEntries(entries) ?? [])
      this.fates.set(textOf(eventId), { code: undefined })
    for (const notice of decodeNotices(notices) ?? []) {
      if (notice.word === "twin") this.fates.set(notice.eventId, { code: undefined })
      if (notice.word === "dead") this.fates.set(notice.eventId, { code: notice.code })
    }
    this.fatesUntil = placeOf(until)
  }

  /** Begins a chain, which tells of the one before it and of all others. */
  private begin(last: Head | undefined, found: string | undefined): Effect.Effect<void, UploadError> {
    return Effect.gen(this, function* () {
      const heads = yield* this.settings.sealing.heads
      this.chain = randomBytes(16)
      this.number = 0
      this.prev = NO_HEAD
      this.told = new Map()
      this.last = undefined
      this.missedSince = undefined
      this.opening = [
        ...(last === undefined ? [] : [{ word: "previous" as const, ...last, found: found ?? "" }]),
        ...heads
          .filter(({ chain }) => chain !== last?.chain)
          .map((head) => ({ word: "witness" as const, ...head }))
      ]
      this.isReady = true
      if (found !== undefined)
        yield* Effect.logWarning(
          `audit: the chain of seals ${last?.chain ?? ""} is not as it was left (${found}), so a new one begins, ` +
            `${hex(this.chain)}: the database was set back or changed; run "effect-audit prove"`
        )
    })
  }

  /** The seal of a batch, behind the last one. */
  seal({ dead, stored, until }: Contents, now: number): Seal {
    const told = new Map(this.told)
    const notices: Array<Notice> = [...this.opening]
    const entries: Array<Entry> = []
    for (const { manifest, rows, twins } of stored) {
      const number = rows.length === 0 ? 0 : tell(told, notices, manifest)
      for (const { eventId, leaf } of rows) entries.push({ eventId, leaf, manifest: number })
      for (const eventId of twins) notices.push({ word: "twin", kind: manifest.kind, eventId })
    }
    for (const { code, eventId, place } of dead) notices.push({ word: "dead", place, eventId, code })
    const at = timeOf(now)
    const made = seal(
      {
        chain: this.chain,
        number: this.number,
        at: at < this.at ? this.at : at,
        until,
        prev: this.prev,
        entries: encodeEntries(entries),
        notices: encodeNotices(notices)
      },
      this.settings.key
    )
    this.pending = { seal: made, told }
    return made
  }

  /** The database has the seal, which was made last: otherwise somebody gave it up, and asks what became of it. */
  committed(made: Seal): void {
    if (this.pending?.seal !== made) return
    const { told } = this.pending
    this.pending = undefined
    if (this.fatesUntil !== undefined && !isBefore(placeOf(made.until), this.fatesUntil)) this.fates.clear()
    this.told = told
    this.opening = []
    this.prev = made.head
    this.number = made.number + 1
    this.at = made.at
    this.last = { chain: hex(made.chain), number: made.number, head: hex(made.head) }
  }
}

/** The number of a manifest; one that the chain does not know is told of first. */
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
const timeOf = (now: number): string => `${new Date(now).toISOString().replace("T", " ").slice(0, 23)}000`

const missed = (found: string) =>
  new UploadError({
    class: "transient",
    code: "SEAL_MISSING",
    reason:
      `The chain of seals is not as it was left (${found}): a database that fails over may show it late, so it is looked at ` +
      `again for a minute, and then a new chain begins`
  })
