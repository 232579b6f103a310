/** The fields of a queue's files: which values are valid, since a disk may return damaged bits. */
import { Schema } from "effect"
import { LetterSet } from "./letterSet.js"

/** A count, the number of a line, or an offset in bytes; never one that arithmetic would round. */
export const Count = Schema.NonNegativeInt
export const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0

/** The highest number that a line may have: the number after it must be exact, too. */
export const MAX_SEQUENCE = Number.MAX_SAFE_INTEGER - 1

/** The id of a letter, which is the place of its line: `segment:offset`. */
export const isLetterId = (value: unknown): value is string =>
  typeof value === "string" && /^(?:0|[1-9]\d{0,15}):(?:0|[1-9]\d{0,15})$/.test(value)
/** Checked by hand: there may be 100,000 ids, and a Schema for each one takes ten times as long. */
const LetterIds = Schema.declare(
  (value): value is ReadonlyArray<string> => Array.isArray(value) && value.every(isLetterId)
)
/** The ids of letters; in a file, an array of strings. */
export const Letters = Schema.transform(LetterIds, Schema.instanceOf(LetterSet), {
  strict: true,
  decode: (ids) => LetterSet.of(ids),
  encode: (letters) => [...letters]
})

/** An ISO 8601 time with a zone. The pattern is needed since `Date.parse` accepts other forms, too. */
export const isIsoTime = (value: unknown): value is string =>
  typeof value === "string" && ISO_TIME.test(value) && !Number.isNaN(Date.parse(value))
const ISO_TIME = /^(?:\d{4}|[+-]\d{6})-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/
export const IsoTime = Schema.String.pipe(Schema.filter(isIsoTime))

/** The times that a Date can hold, milliseconds since 1970 UTC (ECMA-262, 21.4.1.1). */
export const Millis = Schema.Number.pipe(Schema.between(-8.64e15, 8.64e15)).annotations({
  description: "milliseconds since 1970 UTC"
})

export const Pid = Schema.Int.pipe(Schema.positive())
