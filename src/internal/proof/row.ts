/**
 * The leaf of a row: one hash over its kind, its id, its time and its columns. Erasable columns go into a hash of their
 * own with a random salt, so that the leaf outlives their content.
 */
import type { Manifest } from "../../services/Sealing.js"
import { ID_BYTES } from "../../schema/EventId.js"
import { framing, hashOf } from "./bytes.js"
import { LEAF_AT } from "./seal.js"

export type { Manifest }

/** What of a row is hashed beside its kind: the texts by which the database shows it. */
export interface RowContent {
  /** 16 bytes */
  readonly eventId: Uint8Array
  readonly eventTime: string | null
  /** one for each of the manifest's columns, in their order */
  readonly values: ReadonlyArray<string | null>
}

/** Random bytes of each row: without them nobody can guess at what was erased. */
export const SALT_BYTES = 16

/** The hash over the erasable columns, which takes the place of the salt when they are erased. */
export const erasableHash = (manifest: Manifest, { values }: RowContent, salt: Uint8Array): Buffer =>
  Buffer.from(hashErasable(manifest, values, salt), "latin1")

/** The leaf of a row whose erasable columns have this hash. */
export const leafOf = (manifest: Manifest, row: RowContent, erasedTo: Uint8Array): Buffer => {
  framing.begin("effect-audit/row/1").part(manifest.kind).part(row.eventId)
  return Buffer.from(hashRest(manifest, row, Buffer.from(erasedTo).toString("latin1")), "latin1")
}

/** Writes the leaf of a row with this salt into its entry, which begins with its id. */
export const writeLeaf = (
  entries: Buffer,
  at: number,
  manifest: Manifest,
  row: Omit<RowContent, "eventId">,
  salt: Uint8Array
): void => {
  const erasedTo = hashErasable(manifest, row.values, salt)
  framing
    .begin("effect-audit/row/1")
    .part(manifest.kind)
    .slice(entries, at, at + ID_BYTES)
  entries.write(hashRest(manifest, row, erasedTo), at + LEAF_AT, "latin1")
}

const hashErasable = (manifest: Manifest, values: RowContent["values"], salt: Uint8Array): string => {
  const isErasable = erasabilityOf(manifest)
  framing.begin("effect-audit/erasable/1").part(salt)
  for (let i = 0; i < isErasable.length; i++) if (isErasable[i]!) addValue(values[i]!)
  return hashOf(framing)
}

/** Hashes a row whose kind and id are framed. */
const hashRest = (
  manifest: Manifest,
  { eventTime, values }: Omit<RowContent, "eventId">,
  erasedTo: string
): string => {
  const isErasable = erasabilityOf(manifest)
  addValue(eventTime)
  framing.latin1(erasedTo)
  for (let i = 0; i < isErasable.length; i++) if (!isErasable[i]!) addValue(values[i]!)
  return hashOf(framing)
}

/** NULL is no text, the empty one neither. */
const addValue = (value: string | null): void => {
  if (value === null) framing.text("", "")
  else framing.text(value, "=")
}

/** Whether each of its columns is erasable. */
const erasabilityOf = (manifest: Manifest): ReadonlyArray<boolean> => {
  const known = erasability.get(manifest)
  if (known !== undefined) return known
  const { columns, erasable } = manifest
  const made = columns.map((name) => erasable.includes(name))
  erasability.set(manifest, made)
  return made
}

const erasability = new WeakMap<Manifest, ReadonlyArray<boolean>>()
