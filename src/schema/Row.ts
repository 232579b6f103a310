/**
 * A row of a kind's table, read back to an event: the inverse of what Line.ts makes of a line for a table.
 *
 * A column holds the value itself if that is a text, a number, a boolean or a date; of anything else it holds what a line
 * has, as JSON. test/schema/row.test.ts proves the two inverse.
 *
 * @since 0.1.0
 */
import { Option, Schema, SchemaAST as AST } from "effect"
import type * as AuditEvent from "./AuditEvent.js"
import { Either, ParseResult } from "./Effect3.js"
import { guard, INVALID, type Invalid, type Issue, orInvalid, signatureOf } from "./Line.js"

/**
 * A value as a database shows it: a text, a number of SQLite, or NULL.
 *
 * @category models
 * @since 0.1.0
 */
export type Raw = string | number | null

/**
 * Reads rows of a kind: the values of its columns, in their order.
 *
 * @internal
 */
export type Restore = (values: ReadonlyArray<Raw>) => Either.Either<object, ReadonlyArray<Issue>>

/**
 * Compiles the way back of a kind. Done once for each definition.
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
  const Event = definition as unknown as new (input: Readonly<Record<string, unknown>>) => object
  const fields = definition.columns.map(({ field }) => ({
    name: field,
    expected: String(signatureOf(definition.fields[field]!).to),
    restore: restoringField(definition.fields[field]!)
  }))
  return (values) => {
    const input: Record<string, unknown> = {}
    let issues: Array<Issue> | undefined
    let i = 0
    try {
      for (; i < fields.length; i++) {
        const { expected, name, restore } = fields[i]!
        const value = restore(values[i]!)
        if (value === INVALID) (issues ??= []).push({ field: name, expected })
        else if (value !== undefined) input[name] = value
      }
      if (issues === undefined) return Either.right(new Event(input))
    } catch {
      // a Schema, or a constructor, of the program threw
      ;(issues ??= []).push({
        field: fields[i]?.name ?? "event",
        expected: fields[i]?.expected ?? definition.kind
      })
    }
    return Either.left(issues)
  }
}

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
  const decodeFrom = orInvalid(ParseResult.decodeUnknownEither(Schema.make(from)))

  /** What a line would make of it. */
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
    // as a line that lacks the field
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

/** What begins as an object or a list does in JSON. */
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

/** How values of the type may be read, in order; undefined for those of which a column holds what a line has. */
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
 * Milliseconds since 1970 of `YYYY-MM-DD HH:MM:SS.mmm`, UTC, the inverse of `sqlDateTime`; NaN if it is no time. What is
 * finer than a millisecond is cut off.
 *
 * @internal
 */
export const millisOf = (text: string): number => {
  // as MySQL shows a DATETIME(6), and SQLite has it: Date.parse of a new text costs as much as the rest of a row
  if (PLAIN_TIME.test(text)) {
    const number = (from: number, to: number) => Number(text.slice(from, to))
    const millis = text.length > 20 ? number(20, 23) : 0
    return Date.UTC(
      number(0, 4),
      number(5, 7) - 1,
      number(8, 10),
      number(11, 13),
      number(14, 16),
      number(17, 19),
      millis
    )
  }
  const [, date, clock = "00:00:00", fraction = ""] = TIME.exec(text) ?? []
  if (date === undefined) return Number.NaN
  return Date.parse(`${date}T${clock}.${fraction.slice(0, 3).padEnd(3, "0")}Z`)
}

// years below 100 are others to Date.UTC, and what is no date must not become one
const PLAIN_TIME = /^[1-9]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8]) [01]\d:[0-5]\d:[0-5]\d(?:\.\d{3,6})?$/

const TIME = /^([+-]?\d{4,6}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?Z?)?$/

/**
 * Whether the values of a field are texts, numbers, booleans or dates: those alone can be searched for.
 *
 * @internal
 */
export const isScalarField = (field: Schema.Struct.Field): boolean =>
  !readingsOf(signatureOf(field).to).includes(undefined)
