/**
 * The proof: checks the seals in order, then their rows, then looks for rows that no seal is about.
 *
 * It trusts the public key, and that the database shows one snapshot. It trusts neither the program nor its directory.
 * Its memory does not grow with the rows; only the ids of erasures are kept.
 */
import { Effect } from "effect"
import { textOf } from "../../schema/EventId.js"
import { ofKind } from "../../schema/Rules.js"
import { hex, NO_HEAD } from "./bytes.js"
import { type VerifyingKey, verifyingKeyOf } from "./keys.js"
import { decodeNotices, type Head, type Notice } from "./notices.js"
import { erasableHash, leafOf, type Manifest, type RowContent, SALT_BYTES } from "./row.js"
import { areEntries, decodeEntries, type Entry, type Seal, wrongIn } from "./seal.js"

/** A row as the database shows it. Hot path: a class, not a literal (bench/README.md#literals). */
export class ShownRow implements RowContent {
  constructor(
    readonly eventId: Uint8Array,
    readonly eventTime: string | null,
    readonly values: ReadonlyArray<string | null>,
    /** the salt, or 32 bytes once the row is erased */
    readonly proof: Uint8Array | null,
    /** whether a column holds what no event puts there: bytes instead of a text */
    readonly isStrange: boolean
  ) {}
}

/** One snapshot of a database. */
export interface Source<E> {
  /** The chains, the oldest first. */
  readonly chains: Effect.Effect<ReadonlyArray<Chain>, E>
  /** Some of the seals of a chain, from a number on, in order; none after the last. */
  readonly seals: (chain: string, from: number) => Effect.Effect<ReadonlyArray<Seal>, E>
  readonly seal: (chain: string, number: number) => Effect.Effect<Seal | undefined, E>
  /** Why the rows of a manifest cannot be read, if its table or a column of it is gone. */
  readonly lacks: (manifest: Manifest) => Effect.Effect<string | undefined, E>
  /** Rows by their ids, at most `MOST_IDS`. Those of the first `ids` ids are read; ask again for the others. */
  readonly rows: (
    manifest: Manifest,
    eventIds: ReadonlyArray<Uint8Array>
  ) => Effect.Effect<{ readonly rows: ReadonlyArray<ShownRow>; readonly ids: number }, E>
  /** The tables that have a column for proofs. */
  readonly tables: Effect.Effect<ReadonlyArray<string>, E>
  /** How many rows of a table have a proof, how many of these no id, and how many no proof. */
  readonly count: (table: string) => Effect.Effect<Counts, E>
  /** A name, quoted for SQL. */
  readonly quote: (name: string) => string
  /** What an erased column holds, as SQL: NULL if that is allowed, otherwise an empty text. */
  readonly emptied: (table: string, column: string) => Effect.Effect<string, E>
  /** Some ids of rows with a proof, in order, those after an id; none after the last. */
  readonly provenIds: (table: string, after: Uint8Array) => Effect.Effect<ReadonlyArray<Uint8Array>, E>
}

/** A chain, and how many seals name it. */
export interface Chain {
  readonly chain: string
  readonly seals: number
}

export interface Counts {
  readonly proven: number
  readonly nameless: number
  readonly bare: number
}

export const MOST_IDS = 500

export const mapSource = <E, E2>(source: Source<E>, f: (error: E) => E2): Source<E2> => ({
  chains: Effect.mapError(source.chains, f),
  seals: (...args) => Effect.mapError(source.seals(...args), f),
  seal: (...args) => Effect.mapError(source.seal(...args), f),
  lacks: (...args) => Effect.mapError(source.lacks(...args), f),
  rows: (...args) => Effect.mapError(source.rows(...args), f),
  tables: Effect.mapError(source.tables, f),
  count: (...args) => Effect.mapError(source.count(...args), f),
  quote: source.quote,
  emptied: (...args) => Effect.mapError(source.emptied(...args), f),
  provenIds: (...args) => Effect.mapError(source.provenIds(...args), f)
})

/**
 * - `changed`, `removed`: a row is not what was sealed, or is gone
 * - `foreign`: a row has a proof, or an id, that belongs to no seal of its table
 * - `erased`: a row was erased, and no seal allows it
 * - `unproved`: rows without a proof, although all must have one
 * - `gap`: seals are missing, or another chain names one that is missing
 * - `chain`: a seal is not what was written, or does not follow the one before
 * - `key`: a seal was signed by another key, or by none
 * - `anchor`: a head that was written down elsewhere is not there
 */
export interface Finding {
  readonly kind:
    "changed" | "removed" | "foreign" | "erased" | "unproved" | "gap" | "chain" | "key" | "anchor"
  /** the seal, or the table */
  readonly subject: string
  readonly eventId?: string
  readonly text: string
}

export interface Options {
  /** the keys that chains begin with; a seal that one key signed names the next */
  readonly keys: readonly [VerifyingKey, ...ReadonlyArray<VerifyingKey>]
  /** heads that were written down elsewhere */
  readonly anchors: ReadonlyArray<Head>
  /** rows that were sealed in this chain up to this number are not read again */
  readonly since?: SealName | undefined
  /** whether every row must have a proof */
  readonly isExclusive: boolean
  /** ids held at once while looking for rows that no seal is about */
  readonly partIds?: number | undefined
  /** the tables of kinds that were renamed since */
  readonly tables: Readonly<Record<string, string | undefined>>
  readonly report: (finding: Finding) => Effect.Effect<void>
  readonly progress: (done: Progress) => Effect.Effect<void>
}

export interface Progress {
  readonly seals: number
  readonly rows: number
}

/** How far a chain was looked at. */
export interface Proved extends Head {
  readonly at: string
  /** the highest number of a seal whose head was written down elsewhere */
  readonly anchored: number | undefined
}

export interface Summary {
  readonly chains: ReadonlyArray<Proved>
  readonly seals: number
  readonly rows: number
  /** rows without a proof */
  readonly bare: number
  /** how often seals tell of events that were delivered without one */
  readonly unsealed: number
  readonly findings: number
}

export const verify = <E>(source: Source<E>, options: Options): Effect.Effect<Summary, E> =>
  Effect.gen(function* () {
    const proof = new Proof(source, options)
    const chains = yield* source.chains
    yield* lookAtChains(proof, chains)
    if (proof.seals === 0)
      yield* proof.report({
        kind: "gap",
        subject: "the chains",
        text: "there is no seal, so nothing is proved"
      })
    yield* lookAtStart(proof)
    for (const claim of proof.claims) yield* lookAtClaim(proof, claim)
    for (const { chain } of chains) yield* lookAtRows(proof, chain)
    const tables = new Set([...proof.present.keys(), ...(yield* source.tables)])
    for (const table of tables) yield* lookForForeign(proof, table, chains)
    return {
      chains: [...proof.last.values()].map((last) => ({ ...last, anchored: proof.anchored.get(last.chain) })),
      seals: proof.seals,
      rows: proof.rows,
      bare: proof.bare,
      unsealed: proof.unsealed,
      findings: proof.findings
    }
  })

/** A head that a seal or an anchor names. */
interface Claim extends Head {
  readonly by: string
  readonly isAnchor: boolean
}

class Proof<E> {
  seals = 0
  rows = 0
  bare = 0
  unsealed = 0
  findings = 0
  readonly last = new Map<string, Head & { readonly at: string }>()
  readonly anchored = new Map<string, number>()
  readonly claims: Array<Claim>
  /** kind and id of each event that may be erased */
  readonly erasures = new Set<string>()
  /** rows of a chain's seals before this number may be gone */
  readonly purges = new Map<string, number>()
  /** keys that may sign the first seal of a chain, by their ids */
  readonly keys = new Map<string, VerifyingKey>()
  /** by table: rows that have a proof and belong to seals */
  readonly present = new Map<string, number>()

  constructor(
    readonly source: Source<E>,
    readonly options: Options
  ) {
    for (const key of options.keys) this.keys.set(hex(key.id), key)
    this.claims = options.anchors.map((head) => ({ ...head, by: "an anchor", isAnchor: true }))
  }

  report(finding: Finding): Effect.Effect<void> {
    this.findings++
    return this.options.report(finding)
  }

  progress(): Effect.Effect<void> {
    return this.options.progress({ seals: this.seals, rows: this.rows })
  }

  /** A manifest with the name that its table has now. */
  renamed(manifest: Manifest): Manifest {
    const table = ofKind(this.options.tables, manifest.kind)
    return table === undefined ? manifest : { ...manifest, table }
  }

  addPresent(table: string, rows: number): void {
    this.present.set(table, (this.present.get(table) ?? 0) + rows)
  }
}

const nameOf = (chain: string, number: number): string => `seal ${chain}:${number}`

// --------------------------------------------------------------------------------------------------- chains

/** Calls a function with each seal of a chain, in order. */
const forEachSeal = <E>(
  { source }: Pick<Proof<E>, "source">,
  chain: string,
  use: (seal: Seal) => Effect.Effect<void, E>
): Effect.Effect<void, E> =>
  Effect.gen(function* () {
    let from = 0
    for (;;) {
      const seals = yield* source.seals(chain, from)
      if (seals.length === 0) return
      for (const seal of seals) yield* use(seal)
      from = seals.at(-1)!.number + 1
    }
  })

/** Chains whose key is known come first: their seals name the keys of the others. */
const lookAtChains = <E>(proof: Proof<E>, chains: ReadonlyArray<Chain>): Effect.Effect<void, E> =>
  Effect.gen(function* () {
    let left = chains
    while (left.length > 0) {
      const rest: Array<Chain> = []
      for (const chain of left) {
        const first = yield* proof.source.seal(chain.chain, 0)
        if (first === undefined || proof.keys.has(hex(first.keyId))) yield* lookAtChain(proof, chain)
        else rest.push(chain)
      }
      if (rest.length === left.length)
        return yield* Effect.forEach(rest, (chain) => lookAtChain(proof, chain), { discard: true })
      left = rest
    }
  })

const lookAtChain = <E>(proof: Proof<E>, { chain, seals }: Chain): Effect.Effect<void, E> => {
  let before: Seal | undefined
  let read = 0
  /** the key of the chain, once its first seal is read */
  let key: VerifyingKey | undefined
  const look = forEachSeal(proof, chain, (seal) =>
    Effect.gen(function* () {
      const subject = nameOf(chain, seal.number)
      key ??= proof.keys.get(hex(seal.keyId)) ?? proof.options.keys[0]
      const faults = faultsOf(seal, before, key)
      for (const { kind, text } of faults) yield* proof.report({ kind, subject, text })
      const notices = decodeNotices(seal.notices)
      const next = notices?.find(({ word }) => word === "key")
      if (next?.word === "key" && faults.length === 0) {
        key = verifyingKeyOf(next.publicKey) ?? key
        proof.keys.set(hex(key.id), key)
      }
      if (!areEntries(seal.entries) || notices === undefined) {
        const text = "its entries or notices cannot be read: a later version wrote them, or they are damaged"
        yield* proof.report({ kind: "chain", subject, text })
      }
      for (const notice of notices ?? []) note(proof, chain, seal, notice)
      before = seal
      read++
      proof.seals++
      proof.last.set(chain, { chain, number: seal.number, head: hex(seal.head), at: seal.at })
      yield* proof.progress()
    })
  )
  const count = Effect.suspend(() => {
    if (read === seals) return Effect.void
    const text = `${seals} seals name it, and ${read} of them can be read by their numbers`
    return proof.report({ kind: "chain", subject: `chain ${chain}`, text })
  })
  return Effect.zipRight(look, count)
}

/** If an earlier proof came to a seal, the rows up to it are not read. So that seal must be there. */
const lookAtStart = <E>(proof: Proof<E>): Effect.Effect<void> => {
  const { since } = proof.options
  const last = since === undefined ? undefined : proof.last.get(since.chain)
  if (since === undefined || (last !== undefined && since.number <= last.number)) return Effect.void
  const text = "it is missing, and an earlier proof came to it"
  return proof.report({ kind: "gap", subject: nameOf(since.chain, since.number), text })
}

/** What is wrong with a seal, by itself and behind the one before. */
const faultsOf = (
  seal: Seal,
  before: Seal | undefined,
  key: VerifyingKey
): ReadonlyArray<Pick<Finding, "kind" | "text">> => {
  const faults: Array<Pick<Finding, "kind" | "text">> = []
  const expected = before === undefined ? 0 : before.number + 1
  if (seal.number !== expected) {
    const last = seal.number - 1
    const which = last === expected ? `seal ${last} is` : `the seals ${expected} to ${last} are`
    faults.push({ kind: "gap", text: `before it ${which} missing` })
  } else if (!equals(seal.prev, before?.head ?? NO_HEAD)) {
    faults.push({ kind: "chain", text: "it does not follow the seal before it" })
  }
  if (before !== undefined && seal.at < before.at)
    faults.push({ kind: "chain", text: `its time, ${seal.at}, is before that of the seal before it` })
  const wrong = wrongIn(seal, key)
  if (wrong === "head") faults.push({ kind: "chain", text: "its content is not what its head was made of" })
  if (wrong === "key") faults.push({ kind: "key", text: `it names another key, ${hex(seal.keyId)}` })
  if (wrong === "signature") faults.push({ kind: "key", text: "its signature is not one of the key" })
  return faults
}

const equals = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

/** Keeps what a notice says of other seals and of rows. */
const note = <E>(proof: Proof<E>, chain: string, seal: Seal, notice: Notice): void => {
  const { word } = notice
  if (word === "previous" || word === "witness") {
    const { chain: other, head, number } = notice
    proof.claims.push({ chain: other, number, head, by: nameOf(chain, seal.number), isAnchor: false })
  }
  if (word === "unsealed") proof.unsealed++
  if (word === "erase") for (const id of notice.eventIds) proof.erasures.add(`${notice.kind} ${id}`)
  if (word === "purge") {
    // a seal permits nothing about later ones
    const before = notice.chain === chain ? Math.min(notice.before, seal.number) : notice.before
    proof.purges.set(notice.chain, Math.max(before, proof.purges.get(notice.chain) ?? 0))
  }
}

const lookAtClaim = <E>(proof: Proof<E>, claim: Claim): Effect.Effect<void, E> =>
  Effect.gen(function* () {
    const { by, chain, head, isAnchor, number } = claim
    const seal = yield* proof.source.seal(chain, number)
    if (seal !== undefined && hex(seal.head) === head) {
      if (isAnchor) proof.anchored.set(chain, Math.max(number, proof.anchored.get(chain) ?? 0))
      return
    }
    const what = seal === undefined ? "is missing" : "has another head"
    yield* proof.report({
      kind: isAnchor ? "anchor" : "gap",
      subject: nameOf(chain, number),
      text: `it ${what}, and ${by} tells of it with the head ${head}`
    })
  })

// ----------------------------------------------------------------------------------------------------- rows

/** The entries of a chain, in order, with their manifests. */
export const forEachGroup = <E>(
  proof: Pick<Proof<E>, "renamed" | "source">,
  chain: string,
  use: (seal: Seal, manifest: Manifest | undefined, entries: ReadonlyArray<Entry>) => Effect.Effect<void, E>
): Effect.Effect<void, E> => {
  const manifests = new Map<number, Manifest>()
  return forEachSeal(proof, chain, (seal) =>
    Effect.gen(function* () {
      for (const notice of decodeNotices(seal.notices) ?? []) {
        if (notice.word === "manifest") manifests.set(notice.number, proof.renamed(notice.manifest))
      }
      const groups = new Map<number, Array<Entry>>()
      for (const entry of decodeEntries(seal.entries) ?? []) {
        const group = groups.get(entry.manifest)
        if (group === undefined) groups.set(entry.manifest, [entry])
        else group.push(entry)
      }
      for (const [number, entries] of groups) yield* use(seal, manifests.get(number), entries)
    })
  )
}

const lookAtRows = <E>(proof: Proof<E>, chain: string): Effect.Effect<void, E> => {
  const { options, source } = proof
  const since = options.since?.chain === chain ? options.since.number : -1
  /** whether the rows of a manifest can be read, by its text */
  const readable = new Map<string, boolean>()
  return forEachGroup(proof, chain, (seal, manifest, entries) =>
    Effect.gen(function* () {
      if (manifest === undefined) {
        const text = `no seal before it says which columns ${entries.length} of its rows have`
        return yield* proof.report({ kind: "chain", subject: nameOf(chain, seal.number), text })
      }
      const text = JSON.stringify(manifest)
      let isReadable = readable.get(text)
      if (isReadable === undefined) {
        const lack = yield* source.lacks(manifest)
        isReadable = lack === undefined
        readable.set(text, isReadable)
        if (lack !== undefined)
          yield* proof.report({ kind: "removed", subject: `table ${manifest.table}`, text: lack })
      }
      if (!isReadable) return
      // counts none as present, so that ids are compared: some rows may be gone, and others in their place
      if (seal.number <= since) return proof.addPresent(manifest.table, 0)
      for (let from = 0; from < entries.length;) {
        const page = entries.slice(from, from + MOST_IDS)
        const { ids, rows } = yield* source.rows(
          manifest,
          page.map(({ eventId }) => eventId)
        )
        yield* compare(proof, seal, manifest, page.slice(0, ids), rows)
        from += ids
        proof.rows += ids
        yield* proof.progress()
      }
    })
  )
}

/** Compares the rows of some entries with their leaves. */
const compare = <E>(
  proof: Proof<E>,
  { chain, number }: Seal,
  manifest: Manifest,
  entries: ReadonlyArray<Entry>,
  rows: ReadonlyArray<ShownRow>
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const subject = `table ${manifest.table}`
    const byId = new Map<string, ShownRow>()
    for (const row of rows) {
      const id = hex(row.eventId)
      if (byId.has(id))
        yield* proof.report({
          kind: "foreign",
          subject,
          eventId: textOf(row.eventId),
          text: "another row has its event_id"
        })
      else byId.set(id, row)
    }
    proof.addPresent(manifest.table, [...byId.values()].filter((row) => row.proof !== null).length)
    const isPurged = number < (proof.purges.get(hex(chain)) ?? 0)
    for (const entry of entries) {
      const row = byId.get(hex(entry.eventId))
      const eventId = textOf(entry.eventId)
      const named = { subject, eventId }
      const where = `sealed in ${nameOf(hex(chain), number)}`
      if (row === undefined) {
        if (!isPurged) yield* proof.report({ kind: "removed", ...named, text: `the row is gone, ${where}` })
        continue
      }
      const state = stateOf(manifest, row, entry.leaf)
      if (state === "changed")
        yield* proof.report({ kind: "changed", ...named, text: `the row is not what was ${where}` })
      if (state === "erased" && !proof.erasures.has(`${manifest.kind} ${eventId}`))
        yield* proof.report({
          kind: "erased",
          ...named,
          text: `the row was erased, and no seal allows it; ${where}`
        })
    }
  })

const stateOf = (manifest: Manifest, row: ShownRow, leaf: Uint8Array): "same" | "erased" | "changed" => {
  const { isStrange, proof } = row
  if (isStrange || proof === null) return "changed"
  const isErased = proof.length !== SALT_BYTES
  const hash = isErased ? proof : erasableHash(manifest, row, proof)
  if (!equals(leafOf(manifest, row, hash), leaf)) return "changed"
  if (!isErased) return "same"
  // no hash covers these columns any more, so anything but nothing is a change
  return manifest.columns.every((name, i) => !manifest.erasable.includes(name) || !row.values[i])
    ? "erased"
    : "changed"
}

// -------------------------------------------------------------------------------------------------- foreign

/** held at once */
const PART_IDS = 500_000

/** Looks for rows that no seal is about. Reads ids only if the counts differ: rows with a proof, and rows of seals. */
const lookForForeign = <E>(
  proof: Proof<E>,
  table: string,
  chains: ReadonlyArray<Chain>
): Effect.Effect<void, E> =>
  Effect.gen(function* () {
    const subject = `table ${table}`
    const { bare, nameless, proven } = yield* proof.source.count(table)
    proof.bare += bare
    if (bare > 0 && proof.options.isExclusive)
      yield* proof.report({ kind: "unproved", subject, text: `${bare} of its rows have no proof` })
    if (nameless > 0)
      yield* proof.report({
        kind: "foreign",
        subject,
        text: `${nameless} of its rows have a proof and no event_id`
      })
    if (proven === (proof.present.get(table) ?? 0)) return
    const parts = Math.ceil(proven / (proof.options.partIds ?? PART_IDS))
    for (let part = 0; part < parts; part++) {
      const isOfPart = (id: Uint8Array) => lastOf(id) % parts === part
      const known = new Set<string>()
      for (const { chain } of chains) {
        yield* forEachGroup(proof, chain, (_, manifest, entries) =>
          Effect.sync(() => {
            if (manifest?.table !== table) return
            for (const { eventId } of entries) if (isOfPart(eventId)) known.add(hex(eventId))
          })
        )
      }
      let after: Uint8Array = NOTHING
      for (;;) {
        const ids = yield* proof.source.provenIds(table, after)
        if (ids.length === 0) break
        for (const id of ids) {
          if (!isOfPart(id) || known.has(hex(id))) continue
          yield* proof.report({
            kind: "foreign",
            subject,
            eventId: id.length === 16 ? textOf(id) : hex(id),
            text: "the row has a proof that no seal knows"
          })
        }
        after = ids.at(-1)!
      }
    }
  })

const NOTHING = new Uint8Array(0)

/** The random end of an id as a number. */
const lastOf = (id: Uint8Array): number =>
  id.length < 4 ? 0 : Buffer.from(id.buffer, id.byteOffset, id.byteLength).readUInt32BE(id.length - 4)

/** The heads in a text, with anything around them: as the program logs them, and as the commands print them. */
export const anchorsIn = (text: string): ReadonlyArray<Head> =>
  HEADS.flatMap((form) =>
    [...text.matchAll(form)].map(([, chain = "", number = "", head = ""]) => ({
      chain,
      number: Number(number),
      head
    }))
  )

const HEADS = [
  /\bchain=([0-9a-f]{32})\s+number=(\d{1,15})\s+head=([0-9a-f]{64})\b/g,
  /\bseal\s+([0-9a-f]{32}):(\d{1,15})(?:\s+of\s+[-\d]+\s+[:.\d]+)?,\s+head\s+([0-9a-f]{64})\b/g,
  /"chain": ?"([0-9a-f]{32})", ?"number": ?(\d{1,15}), ?"head": ?"([0-9a-f]{64})"/g
]

/** A seal by its chain and number. */
export type SealName = Omit<Head, "head">

/** The seal that `CHAIN:NUMBER` names; undefined if the text names none. */
export const sealNamed = (text: string): SealName | undefined => {
  const [, chain, number] = /^([0-9a-f]{32}):(\d{1,15})$/.exec(text) ?? []
  return chain === undefined ? undefined : { chain, number: Number(number) }
}
