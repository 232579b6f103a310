/**
 * The seal: the rows of one transaction, in a chain that nobody can continue without the key.
 *
 *     effect_audit_seal
 *     ┌ chain ┬ number ┬ at ┬ until ┬ prev ┬ entries ────────────────────┬ notices ┐
 *     │ 16 B  │ 0,1,2… │    │ where │ head │ event_id 16 B, manifest u64,│ words   │  head = SHA-256 of all of it
 *     │       │        │    │       │before│ leaf 32 B; again and again  │         │  sig  = Ed25519 of head
 *     └───────┴────────┴────┴───────┴──────┴─────────────────────────────┴─────────┘
 */
import type { Seal } from "../../services/Sealing.js"
import { ID_BYTES } from "../../schema/EventId.js"
import { digest, HASH_BYTES, u64 } from "./bytes.js"
import type { SealingKey, VerifyingKey } from "./keys.js"

export type { Seal }

/** A row that the seal is about. Hot path: a class, not a literal (bench/README.md#literals). */
export class Entry {
  constructor(
    /** 16 bytes */
    readonly eventId: Uint8Array,
    /** the number of the manifest that says its columns */
    readonly manifest: number,
    readonly leaf: Uint8Array
  ) {}
}

/** A seal without its head and signature. */
export type Unsealed = Omit<Seal, "head" | "keyId" | "sig">

export const SEAL_TABLE = "effect_audit_seal"

/** The column of each table of events that holds a row's salt, or its hash once it is erased. */
export const PROOF_COLUMN = "audit_proof"

const NUMBER_BYTES = 8
/** offset of the leaf in an entry */
export const LEAF_AT: number = ID_BYTES + NUMBER_BYTES
export const ENTRY_BYTES: number = LEAF_AT + HASH_BYTES

/** The entries, each with this number of a manifest. */
export const numbered = (entries: Uint8Array, manifest: number): Uint8Array => {
  // entries are made with 0
  if (manifest === 0) return entries
  const bytes = Buffer.from(entries)
  for (let at = ID_BYTES; at < bytes.length; at += ENTRY_BYTES) {
    bytes.writeUInt32BE(Math.floor(manifest / 2 ** 32), at)
    bytes.writeUInt32BE(manifest >>> 0, at + 4)
  }
  return bytes
}

export const idsIn = (entries: Buffer): ReadonlyArray<Uint8Array> =>
  Array.from({ length: entries.length / ENTRY_BYTES }, (_, index) =>
    entries.subarray(index * ENTRY_BYTES, index * ENTRY_BYTES + ID_BYTES)
  )

export const areEntries = (bytes: Uint8Array): boolean => bytes.length % ENTRY_BYTES === 0

/** The entries; undefined if the bytes are none. */
export const decodeEntries = (bytes: Uint8Array): ReadonlyArray<Entry> | undefined => {
  if (!areEntries(bytes)) return undefined
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const entries: Array<Entry> = []
  for (let at = 0; at < buffer.length; at += ENTRY_BYTES) {
    const leaf = at + LEAF_AT
    entries.push(
      new Entry(
        buffer.subarray(at, at + ID_BYTES),
        Number(buffer.readBigUInt64BE(at + ID_BYTES)),
        buffer.subarray(leaf, leaf + HASH_BYTES)
      )
    )
  }
  return entries
}

/** The hash of a seal, and so of all seals before it. */
export const headOf = ({ at, chain, entries, notices, number, prev, until }: Unsealed): Buffer =>
  digest("effect-audit/seal/1", [
    chain,
    u64(number),
    at,
    until,
    prev,
    digest("effect-audit/entries/1", [entries]),
    digest("effect-audit/notices/1", [notices])
  ])

export const seal = (unsealed: Unsealed, key: SealingKey): Seal => {
  const head = headOf(unsealed)
  return { ...unsealed, head, keyId: key.id, sig: key.sign(head) }
}

/** What is wrong with a seal by itself. Neither its content nor the chain before it is checked. */
export const wrongIn = (given: Seal, key: VerifyingKey): "head" | "key" | "signature" | undefined => {
  const head = headOf(given)
  if (!head.equals(given.head)) return "head"
  if (!key.id.equals(given.keyId)) return "key"
  return key.verify(head, given.sig) ? undefined : "signature"
}
