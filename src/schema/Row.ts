/**
 * The row: turns a row of a kind's table back into an event, the inverse of Line.ts.
 *
 * A column holds texts, numbers, booleans and dates themselves, and everything else as JSON in its form in a line.
 * test/schema/row.test.ts proves that the two are inverse.
 *
 * @since 0.1.0
 */
import { Option, Schema, SchemaAST as AST } from "effect"
import * as AuditEvent from "./AuditEvent.js"
import { Either } from "./Effect3.js"
import { decoderOf, guard, INVALID, type Invalid, type Issue, signatureOf } from "./Line.js"

/**
 * A value from a database: a text, a number of SQLite, or NULL.
 *
 * @category models
 * @since 0.1.0
 */
export type Raw = string | number | null

/**
 * Turns the values of a kind's columns, in their order, into an event.
 *
 * @internal
 */
export type Restore = (values: ReadonlyArray<Raw>) => Either.Either<object, ReadonlyArray<Issue>>

/**
 * Compiles the function for a kind, once for each definition.
 *
 * @internal
 */
export const restoring = (definition: AuditEvent.Any): Restore => {
  const known = compiled.get(definition)
  if (known !== undefined) return known
  const restore = compile(definition)
  compiled.set(definition, restore)
  return restore
}

const compiled = new WeakMap<AuditEvent.Any, Restore>()

const compile = (definition: AuditEvent.Any): Restore => {
  const Event = definition as unknown as new (input: object, restored?: typeof AuditEvent.RESTORED) => object
  const prototype = (definition as unknown as { readonly prototype: object }).prototype
  const fields = readersOf(definition)
  return (raw) => {
    const input = Object.create(prototype) as Record<string, unknown>
    let isWhole = true as boolean
    const issues = readFields(fields, raw, ({ hasDefault, name }, value) => {
      if (value !== undefined) input[name] = value
      else if (hasDefault) isWhole = false
    })
    if (issues !== undefined) return Either.left(issues)
    try {
      // if no default is missing, then the object is complete
      return Either.right(isWhole ? new Event(input, AuditEvent.RESTORED) : new Event(input))
    } catch {
      // a constructor of the program threw
      return Either.left([{ field: "event", expected: definition.kind }])
    }
  }
}

/**
 * The result for a row that does not fit its kind.
 *
 * @internal
 */
export class Unfit {
  constructor(readonly issues: ReadonlyArray<Issue>) {}
}

/**
 * Turns the values of a kind's columns into those of its fields, in the same order; undefined if the event has none.
 * The next call reuses the array.
 *
 * @internal
 */
export type RestoreValues = (raw: ReadonlyArray<Raw>) => ReadonlyArray<unknown> | Unfit

/**
 * Compiles the function for a kind, for callers that need no event.
 *
 * @internal
 */
export const restoringValues = (definition: AuditEvent.Any): RestoreValues => {
  const fields = readersOf(definition)
  const values = new Array<unknown>(fields.length)
  let count = 0
  const take = (_: FieldReader, value: unknown) => void (values[count++] = value)
  return (raw) => {
    count = 0
    const issues = readFields(fields, raw, take)
    return issues === undefined ? values : new Unfit(issues)
  }
}

/**
 * The readers of a kind's columns, in their order.
 *
 * @internal
 */
export const readersOf = (definition: AuditEvent.Any): ReadonlyArray<FieldReader> =>
  definition.columns.map(({ field }) => new FieldReader(field, definition.fields[field]!))

/** Reads all fields, and passes each value to `take`; returns the fields that do not fit. */
const readFields = (
  fields: ReadonlyArray<FieldReader>,
  raw: ReadonlyArray<Raw>,
  take: (field: FieldReader, value: unknown) => void
): ReadonlyArray<Issue> | undefined => {
  let issues: Array<Issue> | undefined
  let i = 0
  try {
    for (; i < fields.length; i++) {
      const field = fields[i]!
      const value = field.read(raw[i]!)
      if (value === INVALID) (issues ??= []).push({ field: field.name, expected: field.expected })
      else take(field, value)
    }
  } catch {
    // a Schema of the program, or a setter of its class, threw
    ;(issues ??= []).push({ field: fields[i]!.name, expected: fields[i]!.expected })
  }
  return issues
}

/**
 * Hot path: a class, not closures, and most values are read without their Schema (bench/README.md#reading).
 *
 * @internal
 */
export class FieldReader {
  readonly expected: string
  readonly hasDefault: boolean
  /** whether a text is the value itself */
  readonly isText: boolean
  /** whether whole digits are the value itself */
  readonly isNumber: boolean
  private readonly isBigInt: boolean
  /** whether NULL means null */
  readonly isNullable: boolean
  private readonly restore: (raw: Raw) => unknown

  constructor(
    readonly name: string,
    schema: Schema.Struct.Field
  ) {
    const { to } = signatureOf(schema)
    const plain = plainOf(to)
    this.expected = String(to)
    this.hasDefault = AuditEvent.defaultOf(schema) !== undefined
    this.isText = plain?.type === "text"
    this.isNumber = plain?.type === "number"
    this.isBigInt = plain?.type === "bigint"
    this.isNullable = plain?.isNullable === true
    this.restore = restoringField(schema)
  }

  /** The value; INVALID if it does not fit. If a Schema of the program throws, then this throws. */
  read(raw: Raw): unknown {
    if (raw === null) return this.isNullable ? null : this.restore(null)
    if (typeof raw === "string") {
      if (this.isText) return raw
      if (this.isNumber && SAFE_DIGITS.test(raw)) return Number(raw)
      if (this.isBigInt && SAFE_DIGITS.test(raw)) return BigInt(raw)
    }
    return this.restore(raw)
  }
}

/** an integer that every type of number can hold */
const SAFE_DIGITS = /^-?\d{1,15}$/

/** A type whose texts can be read without their Schema. */
interface Plain {
  readonly type: "text" | "number" | "bigint"
  readonly isNullable: boolean
}

const plainOf = (ast: AST.AST): Plain | undefined => {
  if (AST.isUnion(ast)) {
    const others = ast.types.filter((type) => !isNull(type) && !AST.isUndefinedKeyword(type))
    const plain = others.length === 1 ? plainOf(others[0]!) : undefined
    return plain === undefined ? undefined : { ...plain, isNullable: ast.types.some(isNull) }
  }
  if (AST.isStringKeyword(ast)) return { type: "text", isNullable: false }
  if (AST.isBigIntKeyword(ast)) return { type: "bigint", isNullable: false }
  const isInt = AST.isRefinement(ast) && Option.contains(AST.getSchemaIdAnnotation(ast), Schema.IntSchemaId)
  return AST.isNumberKeyword(ast) || (isInt && AST.isNumberKeyword(ast.from))
    ? { type: "number", isNullable: false }
    : undefined
}

const isNull = (ast: AST.AST): boolean => AST.isLiteral(ast) && ast.literal === null

/**
 * Reads the values of one field.
 *
 * @internal
 */
export const restoringField = (field: Schema.Struct.Field): ((raw: Raw) => unknown) => {
  const { decode, from, optional, to } = signatureOf(field)
  const accepts = guard(to)
  const readings = readingsOf(to)
  const hasOthers = readings.includes(undefined)
  const readable = guard(AST.encodedAST(from))
  const decodeFrom = decoderOf(from)

  /** Decodes the form in a line. */
  const fromWire = (wire: unknown): unknown => {
    if (!readable(wire)) return INVALID
    const decoded = decodeFrom(wire)
    if (decoded === INVALID || decode === undefined) return decoded
    return Option.getOrElse(decode(Option.some(decoded)), () => undefined)
  }
  const fitting = (value: unknown): unknown => (value !== INVALID && accepts(value) ? value : INVALID)

  const ofNull = (): unknown => {
    if (accepts(null)) return null
    const filled = fitting(fromWire(null))
    if (filled !== INVALID) return filled
    // like a line that lacks the field
    if (decode !== undefined) {
      const value = decode(Option.none())
      if (Option.isSome(value)) return fitting(value.value)
    }
    return optional || accepts(undefined) ? undefined : INVALID
  }

  const ofStructure = (raw: Raw): unknown => {
    const parsed = hasOthers && typeof raw === "string" ? parseJson(raw) : INVALID
    return parsed === INVALID ? INVALID : fitting(fromWire(parsed))
  }

  return (raw) => {
    if (raw === null) return ofNull()
    const isStructured = hasOthers && typeof raw === "string" && STRUCTURE.test(raw)
    if (isStructured) {
      const value = ofStructure(raw)
      if (value !== INVALID) return value
    }
    for (const read of readings) {
      const value = read === undefined ? INVALID : fitting(read(raw))
      if (value !== INVALID) return value
    }
    if (!hasOthers) return INVALID
    const value = fitting(fromWire(raw))
    return value !== INVALID || isStructured ? value : ofStructure(raw)
  }
}

/** A text that begins like a JSON object or array. */
const STRUCTURE = /^[{[]/

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return INVALID
  }
}

// ------------------------------------------------------------------------------------------ values of a type

type Reading = (raw: string | number) => unknown

/** The ways to read values of the type, in order; undefined for values that a column holds in their form in a line. */
const readingsOf = (ast: AST.AST): ReadonlyArray<Reading | undefined> => {
  switch (ast._tag) {
    case "StringKeyword":
    case "TemplateLiteral":
      return [String]
    case "NumberKeyword":
      return [toNumber]
    case "BigIntKeyword":
      return [toBigInt]
    case "BooleanKeyword":
      return [toBoolean]
    case "Enums":
      return [String, toNumber]
    case "Literal":
      return ast.literal === null ? [] : readingsOfLiteral(ast.literal)
    case "UndefinedKeyword":
    case "NeverKeyword":
      return []
    case "Refinement":
      return readingsOf(ast.from)
    case "Declaration":
      return Option.contains(AST.getSchemaIdAnnotation(ast), Schema.DateFromSelfSchemaId)
        ? [toDate]
        : [undefined]
    case "Union":
      return [...new Set(ast.types.flatMap(readingsOf))]
    default:
      return [undefined]
  }
}

const readingsOfLiteral = (literal: string | number | boolean | bigint): ReadonlyArray<Reading> => {
  switch (typeof literal) {
    case "string":
      return [String]
    case "number":
      return [toNumber]
    case "boolean":
      return [toBoolean]
    case "bigint":
      return [toBigInt]
  }
}

const NUMBER = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|Infinity)$|^NaN$/i

const toNumber: Reading = (raw): number | Invalid => {
  if (typeof raw === "number") return raw
  return NUMBER.test(raw) ? Number(raw) : INVALID
}

const toBigInt: Reading = (raw): bigint | Invalid => {
  if (typeof raw === "number") return Number.isSafeInteger(raw) ? BigInt(raw) : INVALID
  return /^[+-]?\d+$/.test(raw) ? BigInt(raw.replace("+", "")) : INVALID
}

const toBoolean: Reading = (raw): boolean | Invalid => {
  const text = String(raw)
  return text === "1" ? true : text === "0" ? false : INVALID
}

const toDate: Reading = (raw): Date | Invalid => {
  const millis = typeof raw === "string" ? millisOf(raw) : Number.NaN
  return Number.isNaN(millis) ? INVALID : new Date(millis)
}

/**
 * Milliseconds since 1970 of `YYYY-MM-DD HH:MM:SS.mmm`, UTC: the inverse of `sqlDateTime`; NaN if it is no time. Digits
 * below a millisecond are cut off.
 *
 * @internal
 */
export const millisOf = (text: string): number => {
  const plain = plainMillis(text)
  if (!Number.isNaN(plain)) return plain
  const [, date, clock = "00:00:00", fraction = ""] = TIME.exec(text) ?? []
  if (date === undefined) return Number.NaN
  return Date.parse(`${date}T${clock}.${fraction.slice(0, 3).padEnd(3, "0")}Z`)
}

/**
 * Milliseconds of a time as MySQL and SQLite write it; NaN for other forms, and for days 29 to 31. Hot path: Date.parse
 * of a new text costs as much as the rest of a row (bench/README.md#reading).
 *
 * @internal
 */
export const plainMillis = (text: string): number => {
  const { length } = text
  const hasFraction = length >= 23 && length <= 26
  if (!hasFraction && length !== 19) return Number.NaN
  const isMarked =
    text.charCodeAt(4) === 45 &&
    text.charCodeAt(7) === 45 &&
    text.charCodeAt(10) === 32 &&
    text.charCodeAt(13) === 58 &&
    text.charCodeAt(16) === 58 &&
    (!hasFraction || text.charCodeAt(19) === 46)
  if (!isMarked) return Number.NaN
  const year = 100 * twoDigits(text, 0) + twoDigits(text, 2)
  const month = twoDigits(text, 5)
  const day = twoDigits(text, 8)
  const hours = twoDigits(text, 11)
  const minutes = twoDigits(text, 14)
  const seconds = twoDigits(text, 17)
  const millis = hasFraction ? 10 * twoDigits(text, 20) + digit(text, 22) : 0
  for (let i = 23; i < length; i++) if (Number.isNaN(digit(text, i))) return Number.NaN
  // Date.UTC changes years below 100, and makes a date of an invalid one; NaN passes no comparison
  const isTime =
    year >= 1000 &&
    month >= 1 &&
    month <= 12 &&
    day >= 1 &&
    day <= 28 &&
    hours <= 23 &&
    minutes <= 59 &&
    seconds <= 59 &&
    millis <= 999
  return isTime ? Date.UTC(year, month - 1, day, hours, minutes, seconds, millis) : Number.NaN
}

const twoDigits = (text: string, at: number): number => 10 * digit(text, at) + digit(text, at + 1)

const digit = (text: string, at: number): number => {
  const value = text.charCodeAt(at) - 48
  return value >= 0 && value <= 9 ? value : Number.NaN
}

const TIME = /^([+-]?\d{4,6}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?Z?)?$/

/**
 * Whether the values of a field are texts, numbers, booleans or dates: only those can be searched.
 *
 * @internal
 */
export const isScalarField = (field: Schema.Struct.Field): boolean =>
  !readingsOf(signatureOf(field).to).includes(undefined)
