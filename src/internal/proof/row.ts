/**
 * The leaf of a row: one hash over its kind, its id, its time and its columns. Erasable columns go into a separate hash
 * with a random salt, so that the leaf outlives their content.
 */
import type { Manifest } from "../../services/Sealing.js"
import { ID_BYTES } from "../../schema/EventId.js"
import { Frame, HASH_BYTES, hashOf } from "./bytes.js"
import { ENTRY_BYTES, LEAF_AT } from "./seal.js"

export type { Manifest }

/** What is hashed of a row besides its kind: the texts that the database shows. */
export interface RowContent {
  /** 16 bytes */
  readonly eventId: Uint8Array
  readonly eventTime: string | null
  /** one for each of the manifest's columns, in their order */
  readonly values: ReadonlyArray<string | null>
}

/** Random bytes of each row: once they are gone, nobody can check a guess at what was erased. */
export const SALT_BYTES = 16

/** One salt out of a buffer of salts. */
export const saltAt = (salts: Buffer, index: number): Buffer =>
  salts.subarray(index * SALT_BYTES, (index + 1) * SALT_BYTES)

/** The hash over the erasable columns, which replaces the salt when they are erased. */
export const erasableHash = (manifest: Manifest, { values }: RowContent, salt: Uint8Array): Buffer =>
  Buffer.from(hashErasable(formOf(manifest), values, salt, 0, salt.length), "latin1")

/** The leaf of a row whose erasable columns have this hash. */
export const leafOf = (manifest: Manifest, row: RowContent, erasedTo: Uint8Array): Buffer => {
  const form = formOf(manifest)
  form.frame.begin().part(row.eventId)
  return Buffer.from(hashRest(form, row, Buffer.from(erasedTo).toString("latin1")), "latin1")
}

/** Writes the leaf of the row at `index` into its entry, which holds the id already. */
export const writeLeaf = (
  entries: Buffer,
  salts: Buffer,
  index: number,
  manifest: Manifest,
  row: Omit<RowContent, "eventId">
): void => {
  const form = formOf(manifest)
  const salt = index * SALT_BYTES
  const erasedTo = hashErasable(form, row.values, salts, salt, salt + SALT_BYTES)
  const at = index * ENTRY_BYTES
  form.frame.begin().slice(entries, at, at + ID_BYTES)
  const leaf = hashRest(form, row, erasedTo)
  // Hot path: a call of the buffer's own takes three times as long
  for (let i = 0; i < HASH_BYTES; i++) entries[at + LEAF_AT + i] = leaf.charCodeAt(i)
}

const hashErasable = (
  { erasable }: Form,
  values: RowContent["values"],
  salts: Uint8Array,
  from: number,
  to: number
): string => {
  ERASABLE.begin().slice(salts, from, to)
  for (let i = 0; i < erasable.length; i++) ERASABLE.value(values[erasable[i]!]!)
  return hashOf(ERASABLE)
}

/** Hashes a row whose kind and id are framed. */
const hashRest = (
  { frame, kept }: Form,
  { eventTime, values }: Omit<RowContent, "eventId">,
  erasedTo: string
): string => {
  frame.value(eventTime).latin1(erasedTo)
  for (let i = 0; i < kept.length; i++) frame.value(values[kept[i]!]!)
  return hashOf(frame)
}

/** A manifest, prepared for hashing: the places of its columns, and a frame that begins with its kind. */
class Form {
  readonly erasable: Array<number> = []
  readonly kept: Array<number> = []
  readonly frame: Frame

  constructor({ columns, erasable, kind }: Manifest) {
    columns.forEach((name, place) => (erasable.includes(name) ? this.erasable : this.kept).push(place))
    this.frame = new Frame("effect-audit/row/1", kind)
  }
}

const ERASABLE = new Frame("effect-audit/erasable/1")

const formOf = (manifest: Manifest): Form => {
  const known = forms.get(manifest)
  if (known !== undefined) return known
  const made = new Form(manifest)
  forms.set(manifest, made)
  return made
}

const forms = new WeakMap<Manifest, Form>()
