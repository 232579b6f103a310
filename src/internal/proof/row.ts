/**
 * The leaf of a row: one hash over its kind, its id, its time and its columns. Erasable columns go into a hash of their
 * own with a random salt, so that the leaf outlives their content.
 */
import type { Manifest } from "../../services/Sealing.js"
import { digest, type Part } from "./bytes.js"

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

/** NULL is no text, the empty one neither. */
const valuePart = (value: string | null): Part => (value === null ? "" : `=${value}`)

/** The hash over the erasable columns, which takes the place of the salt when they are erased. */
export const erasableHash = (
  { columns, erasable }: Manifest,
  { values }: RowContent,
  salt: Uint8Array
): Buffer => {
  const parts: Array<Part> = [salt]
  if (erasable.length > 0) {
    for (let i = 0; i < columns.length; i++) {
      if (erasable.includes(columns[i]!)) parts.push(valuePart(values[i]!))
    }
  }
  return digest("effect-audit/erasable/1", parts)
}

/** The leaf of a row whose erasable columns have this hash. */
export const leafOf = (
  { columns, erasable, kind }: Manifest,
  { eventId, eventTime, values }: RowContent,
  erasedTo: Uint8Array
): Buffer => {
  const parts: Array<Part> = [kind, eventId, valuePart(eventTime), erasedTo]
  for (let i = 0; i < columns.length; i++) {
    if (erasable.length === 0 || !erasable.includes(columns[i]!)) parts.push(valuePart(values[i]!))
  }
  return digest("effect-audit/row/1", parts)
}
