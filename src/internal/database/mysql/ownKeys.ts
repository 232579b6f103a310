/** A table's own unique keys: how to insert an event that is there already, so that only our key can refuse it. */
import * as crypto from "node:crypto"
import type { SqlValue } from "../../../schema/Line.js"

/** A unique key of the table other than ours. */
export interface OwnKey {
  readonly name: string
  /** how to give one of its columns a value that no row has; undefined if there is none */
  readonly variation: Variation | undefined
}

interface Variation {
  readonly index: number
  readonly value: () => SqlValue
}

/** What the server says of a column. */
interface Described {
  /** the whole type, `varchar(36)` */
  readonly declared: string
  readonly extra: string | null
  /** of texts and bytes */
  readonly length: number | null
  readonly nullable: string
  /** without its length, in lower case */
  readonly type: string
}

/** How to vary a key over these columns. `index` is a column's place in the rows of the kind, or -1. */
export const variationOf = (
  columns: ReadonlyArray<{ readonly index: number; readonly column: Described | undefined }>
): Variation | undefined =>
  columns
    .flatMap(({ column, index }) => {
      const value = column === undefined || index < 0 ? undefined : freshValue(column)
      return value === undefined ? [] : [{ index, ...value }]
    })
    .sort((a, b) => b.rank - a.rank)[0]

/** Random values for a column. The higher the rank, the less likely they are taken. */
const freshValue = (
  column: Described
): { readonly rank: number; readonly value: () => SqlValue } | undefined => {
  const { declared, extra, length, nullable, type } = column
  // NULLs are never the same to a key; a counter takes NULL for its next number
  if (nullable === "YES" || /auto_increment/i.test(extra ?? "")) return { rank: 3, value: () => null }
  if (type === "uuid") return { rank: 2, value: () => crypto.randomUUID() }
  if (/char$|text$|binary$|blob$/.test(type)) {
    const room = Math.min(length ?? 0, 32)
    return {
      rank: room < 8 ? 0 : 2,
      value: () => crypto.randomUUID().replaceAll("-", "").slice(0, room)
    }
  }
  const bits = INTEGERS[type]
  if (bits !== undefined) {
    return {
      rank: bits < 32 ? 0 : 2,
      value: () => crypto.randomBytes(8).readBigUInt64BE() >> BigInt(65 - bits)
    }
  }
  const [, digits, decimals] = /^decimal\((\d+),(\d+)\)/.exec(declared) ?? []
  if (digits !== undefined) {
    return {
      rank: 1,
      value: () => Math.floor(Math.random() * 10 ** Math.min(15, Number(digits) - Number(decimals)))
    }
  }
  if (type === "double") return { rank: 1, value: () => Math.random() * 1e15 }
  const seconds = () => new Date(Math.floor(Math.random() * 2 ** 31) * 1000).toISOString()
  if (type === "datetime" || type === "timestamp") {
    return { rank: 1, value: () => seconds().slice(0, 19).replace("T", " ") }
  }
  return type === "date" ? { rank: 0, value: () => seconds().slice(0, 10) } : undefined
}

const INTEGERS: Readonly<Record<string, number>> = {
  tinyint: 8,
  smallint: 16,
  mediumint: 24,
  int: 32,
  bigint: 64
}
