/**
 * The cursor: how far delivery has come, and the books.
 *
 * It has two slots of 512 bytes, the sector that a disk writes whole. They are overwritten in turn, so a torn write
 * harms only the older one. This works on a full disk, too, where a temporary file could not be written.
 */
import { crc32 } from "node:zlib"
import { isBefore, type Place } from "../../schema/Position.js"
import type { QueueRecord } from "../../services/QueueFile.js"
import type { LastSeal } from "../../services/Sealing.js"
import { isCount } from "./fields.js"

export interface Cursor {
  /** the segment and the byte where delivery continues */
  readonly segment: number
  readonly offset: number
  /** the number of the line there; below `settled` while a repair delivers lines again */
  readonly sequence: number
  /** every line below this number is counted */
  readonly settled: number
  readonly delivered: number
  readonly refused: number
  readonly torn: number
  readonly missing: number
  /** lines of failed appends that reached the disk: counted, but without a number */
  readonly surplus: number
  /** the place up to which a repair delivers lines again: lines without a number before it are already counted */
  readonly repeatedSegment: number
  readonly repeatedOffset: number
  /** the last seal of what was delivered; only with the option `proof` */
  readonly seal?: LastSeal | undefined
}

/** Invariant: settled + surplus = delivered + refused + torn + missing. */
export const isBalanced = ({ delivered, missing, refused, settled, surplus, torn }: Cursor): boolean =>
  // as bigint, since the sum of two safe integers may be unsafe
  sum(settled, surplus) === sum(delivered, refused, torn, missing)

const sum = (...counts: ReadonlyArray<number>): bigint =>
  counts.reduce((total, count) => total + BigInt(count), 0n)

/** Whether a place is before the one up to which a repair delivers lines again. */
export const isRepeated = ({ repeatedOffset, repeatedSegment }: Cursor, place: Place): boolean =>
  isBefore(place, { segment: repeatedSegment, offset: repeatedOffset })

/** Whether the cursor has counted the line at a place. If not, then delivery will still deliver or refuse it. */
export const isSettled = (cursor: Cursor, place: Place): boolean =>
  isBefore(place, cursor) || isRepeated(cursor, place)

/** Whether the books already contain a line that is read again. */
export const isCounted = (cursor: Cursor, record: QueueRecord): boolean =>
  record.sequence < cursor.settled || (record.surplus && isRepeated(cursor, record))

export const SLOT_BYTES = 512

export const empty: Omit<Cursor, "seal"> = {
  segment: 0,
  offset: 0,
  sequence: 0,
  settled: 0,
  delivered: 0,
  refused: 0,
  torn: 0,
  missing: 0,
  surplus: 0,
  repeatedSegment: 0,
  repeatedOffset: 0
}

const FIELDS = Object.keys(empty) as ReadonlyArray<keyof typeof empty>

/** A slot is text that an operator can read: JSON, padded with blanks, then the CRC-32 of everything before it. */
export const encodeSlot = (generation: number, cursor: Cursor): Uint8Array => {
  const body = JSON.stringify({ generation, ...cursor }).padEnd(SLOT_BYTES - CHECKSUM_BYTES)
  return Buffer.from(body + checksum(body))
}

/** The next generation must be exact, or an older slot would count as the newest for ever. No queue writes so many. */
const MAX_GENERATION = 2 ** 52

const CHECKSUM_BYTES = 9 // eight hexadecimal digits and a newline
const checksum = (body: string | Uint8Array) => `${crc32(body).toString(16).padStart(8, "0")}\n`

/** The content of a slot; undefined if it was never written, or is damaged. */
export const decodeSlot = (bytes: Uint8Array): (Cursor & { readonly generation: number }) | undefined => {
  if (bytes.length !== SLOT_BYTES) return undefined
  const text = Buffer.from(bytes).toString("latin1")
  const body = text.slice(0, SLOT_BYTES - CHECKSUM_BYTES)
  if (text.slice(body.length) !== checksum(body)) return undefined
  try {
    // an older version did not write every field: the rest have their initial values
    const slot = { ...empty, ...JSON.parse(body) } as Cursor & { readonly generation: number }
    const whole = [...FIELDS, "generation" as const].every(
      (field) => Number.isSafeInteger(slot[field]) && slot[field] >= 0
    )
    if (!whole || slot.generation > MAX_GENERATION || !isBalanced(slot)) return undefined
    const { seal, ...rest } = slot
    // if the seal is damaged, then only the seal is dropped: the books are whole
    return isSeal(seal) ? { ...rest, seal: sealIn(seal) } : rest
  } catch {
    return undefined
  }
}

const isSeal = (seal: Cursor["seal"] | null): seal is LastSeal =>
  typeof seal === "object" &&
  seal !== null &&
  isCount(seal.number) &&
  /^[0-9a-f]{32}$/.test(seal.chain) &&
  /^[0-9a-f]{64}$/.test(seal.head)

/** The last seal as a field of a status; no field if the queue is not sealed. */
export const sealOf = ({ seal }: Cursor): Pick<Cursor, "seal"> => (seal === undefined ? {} : { seal })

/** Only the known fields, since a slot has no room for others. */
const sealIn = ({ bare, chain, forked, head, number }: LastSeal): LastSeal => ({
  chain,
  number,
  head,
  ...(forked === 1 ? { forked } : {}),
  ...(bare === 1 ? { bare } : {})
})

/** The newest slot that is whole; undefined if neither is. */
export const decode = (
  bytes: Uint8Array
): { readonly generation: number; readonly cursor: Cursor } | undefined => {
  const [first, second] = [0, SLOT_BYTES].map((start) =>
    decodeSlot(bytes.subarray(start, start + SLOT_BYTES))
  )
  const newest = second !== undefined && second.generation > (first?.generation ?? -1) ? second : first
  if (newest === undefined) return undefined
  const { generation, ...cursor } = newest
  return { generation, cursor }
}
