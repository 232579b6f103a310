/** How a column keeps what is written to it, as far as that is known to the last byte. */
import type { Either } from "../../schema/Effect3.js"
import type { SqlValue } from "../../schema/Line.js"
import type { Storage } from "./columnTypes.js"

/** What a column does with the values of a field. */
export interface Keeper {
  /** The UTF-16 units up to which a text is kept and shown as it is; -1 for none. NULL always is. */
  readonly plain: number
  /** What to write for a value so that the column keeps just that; undefined if nobody can tell what it would keep. */
  readonly fit: (value: SqlValue) => SqlValue | undefined
  /** The text that the database shows for a fitted value. */
  readonly textOf: (fitted: SqlValue) => string | null
}

/** A keeper, or how the column must change to have one. */
export type Kept = Either.Either<Keeper, string>

export const isNumeric = (storage: Storage): boolean => storage !== "text" && storage !== "dateTime"

/** A number as it is hashed: the shortest digits, as servers show a DOUBLE; beyond 15 places with an exponent. */
export const numberText = (value: number): string => {
  const [mantissa = "", exponent = ""] = Math.abs(value).toExponential().split("e")
  const sign = value < 0 || Object.is(value, -0) ? "-" : ""
  const digits = mantissa.replace(".", "")
  const point = Number(exponent) + 1
  if (point < -14 || point > 15) return `${sign}${mantissa}e${Number(exponent)}`
  if (point <= 0) return `${sign}0.${"0".repeat(-point)}${digits}`
  const whole = digits.slice(0, point).padEnd(point, "0")
  return digits.length > point ? `${sign}${whole}.${digits.slice(point)}` : `${sign}${whole}`
}

/**
 * A value as whole columns keep it: halves are rounded away from zero, -0 becomes 0, and every digit counts. `NaN`, what
 * is infinite, and all that is no number stay as they are.
 */
export const wholeOf = <A extends SqlValue>(value: A): A | number | bigint => {
  if (typeof value !== "number" || !Number.isFinite(value)) return value
  const whole = Math.sign(value) * Math.round(Math.abs(value))
  return Number.isSafeInteger(whole) ? whole + 0 : BigInt(whole)
}
