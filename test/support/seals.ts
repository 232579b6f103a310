/**
 * Seals by an independent writer: rows and seals in the documented format, with Node's crypto and plain drivers. It
 * shares no code with the library, so a test compares two readings of the format.
 *
 * @module
 */
import type { Client } from "@libsql/client"
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign
} from "node:crypto"

/** A database under test, through the driver that is least like ours. */
export interface Hand {
  readonly name: string
  readonly run: (
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Promise<ReadonlyArray<Record<string, unknown>>>
  /** The SQL literal of these bytes. */
  readonly bytes: (value: Uint8Array) => string
  readonly quote: (name: string) => string
}

export interface Event {
  readonly kind: string
  readonly id: Buffer
  readonly time: string | null
  /** The text of each column, as the database shows it. */
  readonly columns: Readonly<Record<string, string | null>>
}

export interface KindTable {
  readonly kind: string
  readonly table: string
  readonly columns: ReadonlyArray<string>
  readonly erasable: ReadonlyArray<string>
}

const size = (length: number) => Buffer.from(length.toString(16).padStart(16, "0"), "hex")

const framed = (...parts: ReadonlyArray<string | Uint8Array>) =>
  Buffer.concat(
    parts
      .map(Buffer.from as (part: string | Uint8Array) => Buffer)
      .flatMap((part) => [size(part.length), part])
  )

const sha = (...parts: ReadonlyArray<string | Uint8Array>) =>
  createHash("sha256")
    .update(framed(...parts))
    .digest()

const shown = (value: string | null) => (value === null ? "" : "=" + value)

export const hashErasable = ({ columns, erasable }: KindTable, event: Event, salt: Uint8Array) =>
  sha(
    "effect-audit/erasable/1",
    salt,
    ...columns.filter((name) => erasable.includes(name)).map((name) => shown(event.columns[name] ?? null))
  )

export const hashRow = (kind: KindTable, event: Event, salt: Uint8Array) =>
  sha(
    "effect-audit/row/1",
    event.kind,
    event.id,
    shown(event.time),
    hashErasable(kind, event, salt),
    ...kind.columns
      .filter((name) => !kind.erasable.includes(name))
      .map((name) => shown(event.columns[name] ?? null))
  )

const net = (part: string | Uint8Array) => {
  const bytes = Buffer.from(part as string)
  return Buffer.concat([Buffer.from(String(bytes.length) + ":"), bytes, Buffer.from(",")])
}

export const noticeBytes = (...texts: ReadonlyArray<string>) => net(Buffer.concat(texts.map(net)))

export interface KeyPair {
  readonly publicPem: string
  readonly privatePem: string
  readonly id: Buffer
  /** The key's name in a seal. */
  readonly named: string
  readonly key: KeyObject
}

export const newKey = (): KeyPair => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  const privatePem = privateKey.export({ type: "pkcs8", format: "pem" }).toString()
  return {
    privatePem,
    publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
    named: publicKey.export({ type: "spki", format: "der" }).toString("hex"),
    id: sha("effect-audit/key/1", publicKey.export({ type: "spki", format: "der" })).subarray(0, 8),
    key: createPrivateKey(privatePem)
  }
}

/** Writes rows and seals, like a program with this key. */
export class Sealer {
  number = 0
  head = Buffer.alloc(32)
  private readonly told = new Map<string, number>()

  constructor(
    readonly hand: Hand,
    public key: KeyPair,
    readonly kinds: ReadonlyArray<KindTable>,
    readonly chain: Buffer = randomBytes(16)
  ) {}

  /** Stores events with their proofs and seals them. */
  async store(events: ReadonlyArray<Event>, ...notices: ReadonlyArray<Buffer>): Promise<void> {
    const entries: Array<Buffer> = []
    const manifests: Array<Buffer> = []
    for (const event of events) {
      const kind = this.kinds.find(({ kind }) => kind === event.kind)!
      let manifest = this.told.get(event.kind)
      if (manifest === undefined) {
        this.told.set(event.kind, (manifest = this.told.size))
        const { columns, erasable, table } = kind
        manifests.push(
          noticeBytes(
            "manifest",
            String(manifest),
            JSON.stringify({ kind: event.kind, table, columns, erasable })
          )
        )
      }
      const salt = randomBytes(16)
      await this.insert(kind, event, salt)
      entries.push(Buffer.concat([event.id, size(manifest), hashRow(kind, event, salt)]))
    }
    await this.seal(Buffer.concat(entries), Buffer.concat([...manifests, ...notices]))
  }

  async insert({ table }: Pick<KindTable, "table">, event: Event, proof: Uint8Array | null): Promise<void> {
    const { bytes, quote, run } = this.hand
    const names = Object.keys(event.columns)
    await run(
      `INSERT INTO ${quote(table)} (event_id, event_time, audit_proof, ${names.map(quote).join(", ")}) VALUES ` +
        `(${bytes(event.id)}, ?, ${proof === null ? "NULL" : bytes(proof)}, ${names.map(() => "?").join(", ")})`,
      [event.time, ...names.map((name) => event.columns[name]!)]
    )
  }

  async seal(entries: Buffer, notices: Buffer, overrides: { readonly at?: string } = {}): Promise<void> {
    const { chain, head: prev, number } = this
    const at = overrides.at ?? `2026-02-01 00:00:00.${String(number).padStart(6, "0")}`
    const until = `0:${String(number * 100)}`
    this.head = sha(
      "effect-audit/seal/1",
      ...[chain, size(number), at, until, prev],
      sha("effect-audit/entries/1", entries),
      sha("effect-audit/notices/1", notices)
    )
    const sig = sign(null, framed("effect-audit/signature/1", this.head), this.key.key)
    this.number++
    const { bytes, quote, run } = this.hand
    const columns = ["chain", "number", "at", "until", "prev", "entries", "notices", "head", "key_id", "sig"]
    await run(
      `INSERT INTO effect_audit_seal (${columns.map(quote).join(", ")}) VALUES (${bytes(chain)}, ${number}, '${at}', ` +
        `'${until}', ${[prev, entries, notices, this.head, this.key.id, sig].map(bytes).join(", ")})`
    )
  }

  get anchor(): string {
    return `chain=${this.chain.toString("hex")} number=${this.number - 1} head=${this.head.toString("hex")}`
  }
}

/** SQLite through libsql's own client. */
export const handOf = (client: Client): Hand => ({
  name: "SQLite",
  run: async (sql, params = []) =>
    (await client.execute({ sql, args: params as Array<string | null> })).rows.map((row) => ({ ...row })),
  bytes: (value) => `x'${Buffer.from(value).toString("hex")}'`,
  quote: (name) => `"${name}"`
})
