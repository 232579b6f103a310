/**
 * The cursor: how far delivery has come, and the books. Two slots of 512 bytes (the sector that a disk writes whole),
 * overwritten in turn: a torn write harms the older one only, and on a full disk, where a temporary file could not be
 * written, it still works.
 */
import { crc32 } from "node:zlib"
import { isBefore, type Place } from "../../schema/Position.js"
import type { QueueRecord } from "../../services/QueueFile.js"
import type { LastSeal } from "../../services/Sealing.js"
import { isCount } from "./fields.js"

export interface Cursor {
  /** the segment and the byte where delivery goes on */
  readonly segment: number
  readonly offset: number
  /** the number of the line there; behind `settled` while lines are delivered again after a repair */
  readonly sequence: number
  /** below this number every line is counted */
  readonly settled: number
  readonly delivered: number
  readonly refused: number
  readonly torn: number
  readonly missing: number
  /** lines that turned up although their append had failed: counted, but without a number */
  readonly surplus: number
  /**
   * the place up to which lines are delivered once more, since a repair: those before it that have no number are
   * counted
   */
  readonly repeatedSegment: number
  readonly repeatedOffset: number
  /** the last seal of what was delivered, with the option `proof` alone */
  readonly seal?: LastSeal | undefined
}

/** Invariant: settled + surplus = delivered + refused + torn + missing. */
export const isBalanced = ({ delivered, missing, refused, settled, surplus, torn }: Cursor): boolean =>
  // exact, since the sum of two safe integers may be none
  sum(settled, surplus) === sum(delivered, refused, torn, missing)

const sum = (...counts: ReadonlyArray<number>): bigint =>
  counts.reduce((total, count) => total + BigInt(count), 0n)

/** Whether a place is before the one up to which lines are delivered once more. */
export const isRepeated = ({ repeatedOffset, repeatedSegment }: Cursor, place: Place): boolean =>
  isBefore(place, { segment: repeatedSegment, offset: repeatedOffset })

/** Whether the cursor has counted the line of a place. If not, then the line is still to be delivered, or refused. */
export const isSettled = (cursor: Cursor, place: Place): boolean =>
  isBefore(place, cursor) || isRepeated(cursor, place)

/** Whether the books have a line already, although it is read once more. */
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

/** A slot is text, so that an operator can read it: JSON, padded with blanks, then the CRC-32 of all before it. */
export const encodeSlot = (generation: number, cursor: Cursor): Uint8Array => {
  const body = JSON.stringify({ generation, ...cursor }).padEnd(SLOT_BYTES - CHECKSUM_BYTES)
  return Buffer.from(body + checksum(body))
}

/** One more must be exact: an older slot would be taken for the newest for ever. No queue writes so many. */
const MAX_GENERATION = 2 ** 52

const CHECKSUM_BYTES = 9 // eight hexadecimal digits and a line's end
const checksum = (body: string | Uint8Array) => `${crc32(body).toString(16).padStart(8, "0")}\n`

/** What a slot says; undefined if it was never written, or is damaged. */
export const decodeSlot = (bytes: Uint8Array): (Cursor & { readonly generation: number }) | undefined => {
  if (bytes.length !== SLOT_BYTES) return undefined
  const text = Buffer.from(bytes).toString("latin1")
  const body = text.slice(0, SLOT_BYTES - CHECKSUM_BYTES)
  if (text.slice(body.length) !== checksum(body)) return undefined
  try {
    // a field that an older version did not know has its first value
    const slot = { ...empty, ...JSON.parse(body) } as Cursor & { readonly generation: number }
    const whole = [...FIELDS, "generation" as const].every(
      (field) => Number.isSafeInteger(slot[field]) && slot[field] >= 0
    )
    if (!whole || slot.generation > MAX_GENERATION || !isBalanced(slot)) return undefined
    const { seal, ...rest } = slot
    // one that is none is none to go on from: the books are whole all the same
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

/** What a status says of the last seal: nothing of a queue that is not sealed. */
export const sealOf = ({ seal }: Cursor): Pick<Cursor, "seal"> => (seal === undefined ? {} : { seal })

/** Only what is known of it, since there is no room for more. */
const sealIn = ({ bare, chain, forked, head, number }: LastSeal): LastSeal => ({
  chain,
  number,
  head,
  ...(forked === 1 ? { forked } : {}),
  ...(bare === 1 ? { bare } : {})
})

/** The newer of the two slots that is whole; undefined if neither is. */
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
