/**
 * The line: one event as NDJSON, `{"kind","event_id","ts",...fields}`, with keys in snake_case. Lines of the Python
 * class that this package replaces (no `event_id`, a local `ts`) can be read, too.
 *
 * The Schema of a kind is the contract. Hot path: encoder and decoder are compiled from it
 * (bench/README.md#schema-of-a-field); test/schema/line.test.ts proves them equal to the Schema.
 *
 * @since 0.1.0
 */
import { DateTime, identity, Option, Schema, SchemaAST as AST } from "effect"
import * as AuditEvent from "./AuditEvent.js"
import { Either, ParseResult } from "./Effect3.js"

/**
 * A value for the database.
 *
 * @category models
 * @since 0.1.0
 */
export type SqlValue = string | number | bigint | null

/**
 * An event from a line, ready for the database.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoredEvent {
  readonly definition: AuditEvent.Any
  /** a UUID, lower case */
  readonly eventId: string
  /** when it happened, milliseconds since 1970 UTC; null if an old line does not say */
  readonly time: number | null
  /** one value for each of `definition.columns`, in their order */
  readonly row: ReadonlyArray<SqlValue>
  /** the parsed line, for targets that are no tables */
  readonly line: Readonly<Record<string, unknown>>
  /** whether it was rejected before, and an operator has retried it */
  readonly retried?: boolean
}

/**
 * The key that marks the line of a rejected event that was retried; it is no field.
 *
 * @internal
 */
export const RETRIED = "$retried"

/**
 * The end of a retried line, and the most bytes that a retry adds: the mark, and an id if the line had none.
 *
 * @internal
 */
export const RETRY_MARK = `,"${RETRIED}":true}`
export const RETRY_BYTES: number =
  RETRY_MARK.length - 1 + '"event_id":"00000000-0000-0000-0000-000000000000",'.length

/**
 * What is wrong with a field: its name and what was expected, never its value.
 *
 * @category models
 * @since 0.1.0
 */
export interface Issue {
  readonly field: string
  readonly expected: string
}

/**
 * Why a line cannot become an event.
 *
 * - `malformed`: not UTF-8, not JSON, not an object, or without a valid `kind` or `event_id`
 * - `unknownKind`: this program does not carry the kind
 * - `invalid`: the fields do not fit the kind
 *
 * @category models
 * @since 0.1.0
 */
export interface Unreadable {
  readonly class: "malformed" | "unknownKind" | "invalid"
  readonly reason: string
  /** the kind that the line names, if it names one */
  readonly kind?: string
}

/**
 * A kind of event with its compiled encoder and decoder.
 *
 * @category models
 * @since 0.1.0
 */
export interface Codec {
  readonly definition: AuditEvent.Any
  /** The line, which ends in `\n`; `epochMillis` is the time of the event. */
  readonly encode: (
    input: unknown,
    eventId: string,
    epochMillis: number
  ) => Either.Either<string, ReadonlyArray<Issue>>
  /** The values of the columns, from a parsed line. */
  readonly row: (
    line: Readonly<Record<string, unknown>>
  ) => Either.Either<Array<SqlValue>, ReadonlyArray<Issue>>
}

/**
 * Compiles the Schema of a kind, once for each definition.
 *
 * @category constructors
 * @since 0.1.0
 */
export const compile = (definition: AuditEvent.Any): Codec => {
  const known = compiled.get(definition)
  if (known !== undefined) return known
  const codec = compileKind(definition)
  compiled.set(definition, codec)
  return codec
}

const compiled = new WeakMap<AuditEvent.Any, Codec>()

const compileKind = (definition: AuditEvent.Any): Codec => {
  const fields = definition.columns.map((column) =>
    compileField(column, definition.fields[column.field]!, definition.fromTime[column.field])
  )
  const kind = JSON.stringify(definition.kind)
  return {
    definition,
    encode: (input, eventId, epochMillis) => {
      if (typeof input !== "object" || input === null) {
        return Either.left([{ field: "event", expected: `an object of kind ${definition.kind}` }])
      }
      const time = eventTime(epochMillis)
      let line = `{"kind":${kind},"event_id":"${eventId}","ts":"${time.iso}"`
      let issues: Array<Issue> | undefined
      let i = 0
      try {
        for (; i < fields.length; i++) {
          const field = fields[i]!
          const value = field.encode((input as Record<string, unknown>)[field.name], time)
          if (value === INVALID) (issues ??= []).push({ field: field.name, expected: field.expected })
          else if (value !== undefined) line += field.prefix + stringify(value)
        }
      } catch {
        // a getter of the input, or a Schema of the program, threw
        ;(issues ??= []).push({ field: fields[i]!.name, expected: fields[i]!.expected })
      }
      return issues === undefined ? Either.right(`${line}}\n`) : Either.left(issues)
    },
    row: (line) => {
      const row = new Array<SqlValue>(fields.length)
      let issues: Array<Issue> | undefined
      let i = 0
      try {
        for (; i < fields.length; i++) {
          const field = fields[i]!
          let value = field.decode(line[field.key], line)
          if (value === INVALID && isOfPythonClass(line)) value = decodeAsMysql(field, line)
          if (value === INVALID) (issues ??= []).push({ field: field.key, expected: field.expected })
          else row[i] = value
        }
      } catch {
        // a Schema of the program threw: the lines after this one must still be delivered
        ;(issues ??= []).push({ field: fields[i]!.key, expected: fields[i]!.expected })
      }
      return issues === undefined ? Either.right(row) : Either.left(issues)
    }
  }
}

/**
 * Makes the function that reads lines of the given kinds; `idOf` is called for a line without an id.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeDecoder = (
  codecs: ReadonlyMap<string, Codec>,
  options?: {
    /** the time zone of a `ts` without one, for example `Asia/Shanghai`; by default that of this machine */
    readonly timeZone?: DateTime.TimeZone | undefined
  }
): ((line: string, idOf: () => string) => Either.Either<StoredEvent, Unreadable>) => {
  let timeZone = options?.timeZone
  // only for old lines: finding the machine's zone takes 12 ms (bench/README.md#zones)
  const zone = () => (timeZone ??= DateTime.zoneMakeLocal())
  return (text, idOf) => {
    let line: unknown
    try {
      line = JSON.parse(text)
    } catch {
      return unreadable("malformed", "the line is not JSON")
    }
    if (!isRecord(line)) {
      return unreadable("malformed", "the line is not a JSON object")
    }
    if (typeof line.kind !== "string") return unreadable("malformed", "the line has no kind")
    const codec = codecs.get(line.kind)
    if (codec === undefined) {
      return unreadable(
        "unknownKind",
        "this program does not carry the kind of the line: add it to `events`",
        line.kind
      )
    }
    const id = line.event_id
    if (id !== undefined && (typeof id !== "string" || !UUID.test(id))) {
      return unreadable("malformed", "event_id is not a UUID", line.kind)
    }
    const row = codec.row(line)
    if (Either.isLeft(row)) {
      const issues = row.left.map((issue) => `${issue.field}: expected ${issue.expected}`).join("; ")
      return unreadable("invalid", issues, line.kind)
    }
    const isRetried = RETRIED in line
    return Either.right(
      new Stored(
        codec.definition,
        id === undefined ? idOf() : id.toLowerCase(),
        typeof line.ts === "string" ? epochMillisOf(line.ts, zone) : null,
        row.right,
        isRetried ? withoutMark(line) : line,
        isRetried
      )
    )
  }
}

const withoutMark = ({ [RETRIED]: _, ...line }: Readonly<Record<string, unknown>>) => line

/** Known by its local `ts`, since a retried dead letter has an id. */
const isOfPythonClass = ({ kind, ts }: Readonly<Record<string, unknown>>) =>
  (kind === "use_log" || kind === "login_log") && typeof ts === "string" && !ZONED.test(ts)

const ZONED = /(?:Z|[+-]\d\d:\d\d)$/

/** Lives as long as an upload. Hot path: a class, not a literal (bench/README.md#literals). */
class Stored implements StoredEvent {
  constructor(
    readonly definition: AuditEvent.Any,
    readonly eventId: string,
    readonly time: number | null,
    readonly row: ReadonlyArray<SqlValue>,
    readonly line: Readonly<Record<string, unknown>>,
    readonly retried: boolean
  ) {}
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const unreadable = (cls: Unreadable["class"], reason: string, kind?: string) =>
  Either.left<Unreadable>({ class: cls, reason, ...(kind === undefined ? {} : { kind }) })

// RFC 9562, section 4; any version, since the ids of old lines are hashes (version 8)
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

// ---------------------------------------------------------------------------------------------------- time

/** The time of a `ts`, milliseconds since 1970 UTC; if it has no zone, then it is a wall clock in `zone`. */
const epochMillisOf = (ts: string, zone: () => DateTime.TimeZone): number | null => {
  if (ts.endsWith("Z")) {
    const millis = parseDate(ts)
    return Number.isNaN(millis) ? null : millis
  }
  const zoned = /[+-]\d\d:\d\d$/.test(ts)
    ? DateTime.make(ts)
    : DateTime.makeZoned(`${ts}Z`, { timeZone: zone(), adjustForTimeZone: true })
  return Option.match(zoned, { onNone: () => null, onSome: DateTime.toEpochMillis })
}

/** Caches the last result. Hot path: many events share a millisecond (bench/README.md#times). */
const remembering = <A, B>(f: (value: A) => B): ((value: A) => B) => {
  let last: { readonly value: A; readonly result: B } | undefined
  return (value) => {
    if (last?.value !== value) last = { value, result: f(value) }
    return last.result
  }
}

const eventTime = remembering((epochMillis: number): AuditEvent.EventTime => ({
  iso: new Date(epochMillis).toISOString(),
  get local() {
    return localWallClock(epochMillis)
  }
}))

const parseDate = remembering((ts: string): number => Date.parse(ts))

const localWallClock = (epochMillis: number): string => {
  const offset = new Date(epochMillis).getTimezoneOffset() * 60_000
  return sqlDateTime(epochMillis - offset).slice(0, 19)
}

/**
 * `YYYY-MM-DD HH:MM:SS.mmm`, UTC: the form of a time in a string for MySQL and SQLite.
 *
 * @category formatting
 * @since 0.1.0
 */
export const sqlDateTime: (epochMillis: number) => string = remembering((epochMillis: number) =>
  new Date(epochMillis).toISOString().replace("T", " ").slice(0, -1)
)

// -------------------------------------------------------------------------------------------------- fields

/** @internal */
export const INVALID: unique symbol = Symbol("invalid")
/** @internal */
export type Invalid = typeof INVALID

interface FieldCodec {
  readonly name: string
  readonly key: string
  /** the text before its value in a line */
  readonly prefix: string
  readonly expected: string
  readonly encode: (value: unknown, time: AuditEvent.EventTime) => unknown
  readonly decode: (value: unknown, line: Readonly<Record<string, unknown>>) => SqlValue | Invalid
}

/**
 * Converts a value as MySQL did for the Python class, which accepted any value for any field. MySQL makes texts of
 * numbers, and integers of fractions (MySQL manual, "Rounding Behavior"). It rounds a half in a DOUBLE to the even
 * neighbour, and in a text away from zero; JSON's numbers were DOUBLEs. If JavaScript cannot hold a number, or writes
 * it in another way, then the line becomes a dead letter.
 */
const decodeAsMysql = ({ decode, key }: FieldCodec, line: Readonly<Record<string, unknown>>) => {
  const value = line[key]
  if (typeof value === "string") {
    if (!NUMERIC.test(value)) return INVALID
    const number = Number(value)
    return decode(Math.sign(number) * Math.round(Math.abs(number)), line)
  }
  if (typeof value !== "number" && typeof value !== "boolean") return INVALID
  const number = Number(value)
  const size = Math.abs(number)
  if (!Number.isSafeInteger(number) && (size < 1e-4 || size > 1e15)) return INVALID
  const whole = decode(roundHalfToEven(number), line)
  return whole === INVALID ? decode(String(number), line) : whole
}

const NUMERIC = /^[ \t\n\v\f\r]*[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?[ \t\n\v\f\r]*$/i

const roundHalfToEven = (number: number) => {
  const below = Math.floor(number)
  const isBelow = number - below < 0.5 || (number - below === 0.5 && below % 2 === 0)
  return isBelow ? below : below + 1
}

const compileField = (
  column: AuditEvent.Column,
  field: Schema.Struct.Field,
  fromTime: ((time: AuditEvent.EventTime) => unknown) | undefined
): FieldCodec => {
  const { from, to, ...signature } = signatureOf(field)
  const defaultValue = AuditEvent.defaultOf(field)
  const accepts = guard(to)
  const readable = guard(AST.encodedAST(from))
  const unchanged = AST.typeAST(from) === from
  // even if a Schema changes no value, it may drop unknown keys of an object
  const kept = unchanged && isKeptWhole(from)
  const encodeFrom = kept ? identity : orInvalid(ParseResult.encodeUnknownEither(Schema.make(from)))
  const decodeFrom = decoderOf(from)

  const encode = (value: unknown): unknown => {
    let given = value
    if (defaultValue !== undefined && (given === undefined || (given === null && !accepts(null)))) {
      given = defaultValue()
    }
    if (given === undefined && signature.optional) return undefined
    if (!accepts(given)) return INVALID
    // Hot path: makes no Option, unless the signature needs one.
    if (signature.encode !== undefined) {
      const option = signature.encode(given)
      if (Option.isNone(option)) return undefined
      given = option.value
    }
    // a Record accepts a Date, too, and makes {} of it
    if (unchanged && !isJson(given)) return INVALID
    const encoded = encodeFrom(given)
    return isJson(encoded) ? encoded : INVALID
  }

  const decode = (value: unknown): SqlValue | Invalid => {
    if (value === undefined) {
      if (!signature.wireOptional) return INVALID
      if (signature.decode === undefined) return null
    } else if (!readable(value)) return INVALID
    const decoded = value === undefined ? undefined : decodeFrom(value)
    if (decoded === INVALID) return INVALID
    if (signature.decode === undefined) return accepts(decoded) ? toSql(decoded, value) : INVALID
    const result = signature.decode(value === undefined ? Option.none() : Option.some(decoded))
    if (Option.isNone(result)) return null
    return accepts(result.value) ? toSql(result.value, value) : INVALID
  }

  const isEmpty = (value: unknown) => value === null || value === undefined || value === ""
  const keeps = AuditEvent.keeps(field)
  /** Hot path: most values pass this check and need no other. */
  const isKept = fromTime === undefined ? keeps : (value: unknown) => keeps(value) && !isEmpty(value)
  return {
    name: column.field,
    key: column.key,
    prefix: `,${JSON.stringify(column.key)}:`,
    expected: String(to),
    encode: (value, time) => {
      if (isKept(value)) return value
      const encoded = encode(value)
      return fromTime !== undefined && isEmpty(encoded) ? encode(fromTime(time)) : encoded
    },
    decode: (value, line) => {
      if (isKept(value)) return toSql(value, value)
      const iso = line.ts
      const millis = fromTime !== undefined && typeof iso === "string" ? Date.parse(iso) : Number.NaN
      if (fromTime !== undefined && isEmpty(value) && typeof iso === "string" && !Number.isNaN(millis)) {
        // an old line's ts is the wall clock of the machine that wrote it
        const local = iso.endsWith("Z") ? localWallClock(millis) : iso.slice(0, 19).replace("T", " ")
        const encoded = encode(fromTime({ iso, local }))
        return encoded === INVALID ? INVALID : decode(encoded)
      }
      return decode(value)
    }
  }
}

const orInvalid =
  (coding: (value: unknown) => Either.Either<unknown, unknown>) =>
  (value: unknown): unknown => {
    const result = coding(value)
    return Either.isRight(result) ? result.right : INVALID
  }

/** @internal */
export interface Signature {
  readonly from: AST.AST
  readonly to: AST.AST
  readonly optional: boolean
  readonly wireOptional: boolean
  /** undefined if it does not change the value; the same for `decode` */
  readonly encode: ((value: unknown) => Option.Option<unknown>) | undefined
  readonly decode: ((value: Option.Option<unknown>) => Option.Option<unknown>) | undefined
}

/** @internal */
export const signatureOf = (field: Schema.Struct.Field): Signature => {
  if (Schema.isPropertySignature(field) && field.ast._tag === "PropertySignatureTransformation") {
    const { decode, encode, from, to } = field.ast
    return {
      from: from.type,
      to: AST.typeAST(to.type),
      optional: to.isOptional,
      wireOptional: from.isOptional,
      encode: (value) => encode(Option.some(value)),
      decode
    }
  }
  const type = Schema.isPropertySignature(field)
    ? (field.ast as Schema.PropertySignatureDeclaration).type
    : field.ast
  const optional =
    Schema.isPropertySignature(field) && (field.ast as Schema.PropertySignatureDeclaration).isOptional
  return {
    from: type,
    to: AST.typeAST(type),
    optional,
    wireOptional: optional,
    encode: undefined,
    decode: undefined
  }
}

/**
 * A compiled check for the common types; the Schema's own check for all others.
 *
 * @internal
 */
export const guard = (ast: AST.AST): ((value: unknown) => boolean) => {
  switch (ast._tag) {
    case "StringKeyword":
      return (value) => typeof value === "string"
    case "NumberKeyword":
      return (value) => typeof value === "number"
    case "BooleanKeyword":
      return (value) => typeof value === "boolean"
    case "UndefinedKeyword":
      return (value) => value === undefined
    case "Literal":
      return (value) => value === ast.literal
    case "Union": {
      const [first, ...others] = ast.types.map(guard)
      return others.reduce((either, or) => (value) => either(value) || or(value), first!)
    }
    case "Refinement":
      if (Option.contains(AST.getSchemaIdAnnotation(ast), Schema.IntSchemaId)) return Number.isSafeInteger
  }
  return ParseResult.is(Schema.make(ast))
}

/**
 * Decodes a value that the Schema can read; INVALID if that fails.
 *
 * @internal
 */
export const decoderOf = (from: AST.AST): ((value: unknown) => unknown) =>
  AST.typeAST(from) === from && isKeptWhole(from)
    ? identity
    : orInvalid(ParseResult.decodeUnknownEither(Schema.make(from)))

/**
 * Whether decoding and encoding return an accepted value whole. Records of such values count, too: the Schema's own
 * copy of a record would lose a key `__proto__`.
 */
const isKeptWhole = (ast: AST.AST): boolean => {
  switch (ast._tag) {
    case "UnknownKeyword":
    case "AnyKeyword":
    case "StringKeyword":
    case "NumberKeyword":
    case "BooleanKeyword":
    case "UndefinedKeyword":
    case "Literal":
      return true
    case "Union":
      return ast.types.every(isKeptWhole)
    case "Refinement":
      return isKeptWhole(ast.from)
    case "TypeLiteral":
      return (
        ast.propertySignatures.length === 0 &&
        ast.indexSignatures.length === 1 &&
        ast.indexSignatures.every(
          ({ parameter, type }) => parameter._tag === "StringKeyword" && isKeptWhole(type)
        )
      )
  }
  return false
}

/** `JSON.stringify`. Hot path: texts without escapes are only quoted (bench/README.md#text-of-a-line). */
const stringify = (value: unknown): string =>
  typeof value === "string" && !ESCAPED.test(value) ? `"${value}"` : JSON.stringify(value)

// quotes, backslashes, control characters and surrogates, of which a lone one is escaped (ECMA-262, QuoteJSONString)
// eslint-disable-next-line no-control-regex -- they are what it looks for
const ESCAPED = /["\\\u0000-\u001f\ud800-\udfff]/

/** Whether JSON can hold the value unchanged; it cannot hold `NaN`, `Infinity` or dates. */
const isJson = (value: unknown): boolean => {
  switch (typeof value) {
    case "string":
    case "boolean":
    case "undefined":
      return true
    case "number":
      return Number.isFinite(value)
    case "object": {
      if (value === null) return true
      if (Array.isArray(value)) return value.every((item) => item !== undefined && isJson(item))
      const prototype: unknown = Object.getPrototypeOf(value)
      return (prototype === Object.prototype || prototype === null) && Object.values(value).every(isJson)
    }
    default:
      return false
  }
}

/**
 * A field's value for its column: the value itself, or, if it is a structure, its form in a line.
 *
 * @internal
 */
export const toSql = (value: unknown, wire: unknown): SqlValue => {
  switch (typeof value) {
    case "string":
      // drivers replace lone surrogates silently, each in another way; here they all become the documented U+FFFD
      return value.toWellFormed()
    case "number":
    case "bigint":
      return value
    case "boolean":
      return value ? 1 : 0
    case "undefined":
      return null
  }
  if (value === null) return null
  if (value instanceof Date) return sqlDateTime(value.getTime())
  if (wire === undefined || wire === null) return null
  if (typeof wire === "string") return wire.toWellFormed()
  return typeof wire === "number" ? wire : JSON.stringify(wire)
}
