/** The fields of a queue's files: what each may be when it is read, since a disk may hand back other bits. */
import { Schema } from "effect"
import { LetterSet } from "./letterSet.js"

/** A count, a number of a line, or a place in bytes: none that arithmetic would round. */
export const Count = Schema.NonNegativeInt
export const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0

/** The highest number that a line may have: the next one must be exact as well. */
export const MAX_SEQUENCE = Number.MAX_SAFE_INTEGER - 1

/** Where a line stands, as a letter is named: `segment:offset`. */
export const isLetterId = (value: unknown): value is string =>
  typeof value === "string" && /^(?:0|[1-9]\d{0,15}):(?:0|[1-9]\d{0,15})$/.test(value)
/** Checked as a whole: there may be a hundred thousand, and a Schema for each takes ten times as long. */
const LetterIds = Schema.declare(
  (value): value is ReadonlyArray<string> => Array.isArray(value) && value.every(isLetterId)
)
/** The ids of letters, in a file an array of texts. */
export const Letters = Schema.transform(LetterIds, Schema.instanceOf(LetterSet), {
  strict: true,
  decode: (ids) => LetterSet.of(ids),
  encode: (letters) => [...letters]
})

/** A time, ISO 8601 with its zone. By its form, since V8 also reads dates with words in brackets. */
export const isIsoTime = (value: unknown): value is string =>
  typeof value === "string" && ISO_TIME.test(value) && !Number.isNaN(Date.parse(value))
const ISO_TIME = /^(?:\d{4}|[+-]\d{6})-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/
export const IsoTime = Schema.String.pipe(Schema.filter(isIsoTime))

/** The times that a Date can hold, milliseconds since 1970 UTC (ECMA-262, 21.4.1.1). */
export const Millis = Schema.Number.pipe(Schema.between(-8.64e15, 8.64e15)).annotations({
  description: "milliseconds since 1970 UTC"
})

/** A process id. */
export const Pid = Schema.Int.pipe(Schema.positive())
