/** What proofs read from every database: how much at once, and what a table lacks. */
import { Effect } from "effect"
import type { Manifest, Seal } from "../../services/Sealing.js"
import { hex } from "../proof/bytes.js"
import { PROOF_COLUMN, SEAL_TABLE } from "../proof/seal.js"
import { EVENT_ID, EVENT_TIME } from "./rows.js"

/**
 * Bytes of an answer; a driver keeps a multiple of them. V8 frees what lies outside of its heap late, and seals are
 * held while their rows are read. The proof of a million rows took 283 MB with 8 MiB, and 270 with 1 MiB.
 */
const ANSWER_BYTES = 1024 * 1024
export const MOST_SEALS = 200
export const MOST_IDS_OF_TABLE = 10_000

/**
 * The values of an INSERT of a seal, in the order of its columns. The head of the seal before is read from the table: if
 * that seal is gone or another one, then the database refuses NULL, also under a connection that nothing has broken.
 */
export const sealValues = ({ number }: Seal, quote: (name: string) => string): string => {
  const [head, table] = [quote("head"), quote(SEAL_TABLE)]
  const before = `SELECT ${head} FROM ${table} WHERE ${quote("chain")} = ? AND ${quote("number")} = ? AND ${head} = ?`
  // MySQL reads from the table that a statement writes to by way of a derived one only
  const prev = number === 0 ? "?" : `(SELECT ${head} FROM (${before}) ${quote("before")})`
  return `VALUES (?, ?, ?, ?, ${prev}, ?, ?, ?, ?, ?)`
}

/** The parameters of those values. */
export const sealParameters = (seal: Seal): ReadonlyArray<Buffer | number | string> =>
  [
    ...[seal.chain, seal.number, seal.at, seal.until],
    ...(seal.number === 0 ? [seal.prev] : [seal.chain, seal.number - 1, seal.prev]),
    ...[seal.entries, seal.notices, seal.head, seal.keyId, seal.sig]
  ].map((value) =>
    // drivers know bytes as Buffers
    typeof value === "object" ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : value
  )

/** How many of the seals of these sizes make one answer, at least one. */
export const fittingSeals = (sizes: ReadonlyArray<{ readonly size: number | null }>): number => {
  let count = 0
  let total = 0
  while (count < sizes.length && (count === 0 || total < ANSWER_BYTES)) total += sizes[count++]!.size ?? 0
  return count
}

/** How many of the rows make one answer, at least one; `sizeOf` asks for the bytes of the first of them. */
export const fittingRows = <E>(
  rows: number,
  sizeOf: (rows: number) => Effect.Effect<number, E>
): Effect.Effect<number, E> =>
  Effect.gen(function* () {
    let count = rows
    while (count > 1 && (yield* sizeOf(count)) > ANSWER_BYTES) count = count >>> 1
    return count
  })

/** The condition for the first of these events. */
export const whereIn = (eventIds: ReadonlyArray<Uint8Array>, count: number): string =>
  `${EVENT_ID} IN (${eventIds
    .slice(0, count)
    .map((id) => `x'${hex(id)}'`)
    .join(",")})`

/** What a table with these columns, in lower case, lacks. `gone` says why there may be none. */
export const lackOf = (
  { columns }: Manifest,
  present: { readonly size: number; readonly has: (name: string) => boolean },
  gone: string
): string | undefined => {
  if (present.size === 0) return gone
  const missing = [EVENT_ID, EVENT_TIME, PROOF_COLUMN, ...columns].filter(
    (name) => !present.has(name.toLowerCase())
  )
  return missing.length === 0 ? undefined : `it has no column ${missing.join(", ")} any more`
}

/** The counts of a table without proofs. */
export const NONE_PROVEN = { proven: 0, nameless: 0, bare: 0 }
