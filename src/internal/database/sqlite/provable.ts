/** The columns of SQLite that give back what was written, by affinity (https://sqlite.org/datatype3.html, 3.1). */
import { Either } from "../../../schema/Effect3.js"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import type { SqlValue } from "../../../schema/Line.js"
import { type Storage, storageOf } from "../columnTypes.js"
import { isNumeric, type Kept, type Keeper, numberText } from "../provable.js"

/** What the columns of a table do with the values of a kind. If some change them: which, and what to do. */
export const provable = (
  definition: AuditEvent.Any,
  table: string,
  /** the declared types of the columns, by name in lower case */
  types: ReadonlyMap<string, string>
): Either.Either<ReadonlyArray<Keeper>, string> => {
  const keepers: Array<Keeper> = []
  const wrong: Array<string> = []
  for (const { field, name } of definition.columns) {
    const type = types.get(name.toLowerCase()) ?? ""
    const kept = keeperOf(type, storageOf(definition.fields[field]!))
    if (Either.isRight(kept)) keepers.push(kept.right)
    else wrong.push(`${name} (${type}): ${kept.left}`)
  }
  return wrong.length === 0
    ? Either.right(keepers)
    : Either.left(
        `${table} has columns whose values no proof can rest on, since they come back in another form: ${wrong.join("; ")}`
      )
}

/** What a column of this declared type does with the values of a field. */
export const keeperOf = (declared: string, storage: Storage): Kept => {
  if (/int/i.test(declared)) return isNumeric(storage) ? Either.right(INTEGER) : NO_TEXT
  if (/char|clob|text/i.test(declared)) return Either.right(TEXT)
  if (/real|floa|doub/i.test(declared) && !/blob/i.test(declared))
    return isNumeric(storage) ? Either.right(REAL) : NO_TEXT
  return Either.left("make it TEXT, INTEGER or REAL")
}

const NO_TEXT: Kept = Either.left("make it TEXT, as its field is a text")

const asText = (value: SqlValue): string | null => (value === null ? null : String(value))

const TEXT: Keeper = { plain: Number.POSITIVE_INFINITY, fit: asText, textOf: asText }

const INTEGER: Keeper = {
  plain: -1,
  fit: (value) => {
    if (typeof value !== "number") return value
    return Number.isInteger(value) && !Number.isSafeInteger(value) && isOf64Bits(value)
      ? BigInt(value)
      : value + 0
  },
  textOf: (value) =>
    typeof value === "number" && !Number.isInteger(value) ? numberText(value) : whole(value)
}

/** The text of a whole number. One of more than 64 bits is kept as a fraction is. */
const whole = (value: SqlValue): string | null =>
  typeof value === "number" && !isOf64Bits(value) ? numberText(value) : asText(value)

const isOf64Bits = (value: number): boolean => value > -(2 ** 63) && value < 2 ** 63

const REAL: Keeper = {
  plain: -1,
  fit: (value) => (value === null ? null : Number(value) + 0),
  textOf: (value) => (value === null ? null : numberText(Number(value)))
}

/** The text of a value, by its storage class: texts come as bytes, whole numbers as digits. Undefined for a BLOB. */
export const textOf = (storageClass: string, value: unknown): string | null | undefined => {
  switch (storageClass) {
    case "null":
      return null
    case "real":
      return numberText(Number(value))
    case "integer":
      return String(value)
    case "text":
      return value instanceof ArrayBuffer ? utf8(value) : undefined
    default:
      return undefined
  }
}

const utf8 = (bytes: ArrayBuffer): string | undefined => {
  try {
    return UTF8.decode(bytes)
  } catch {
    return undefined
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
