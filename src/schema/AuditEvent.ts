/**
 * Kinds of events: Schema classes that also know their tables and columns.
 *
 * @since 0.1.0
 */
import { Option, Schema, String as Str } from "effect"
import type { SchemaAST as AST, Tracer, Types } from "effect"

/**
 * The key of an event that holds its kind.
 *
 * @category type ids
 * @since 0.1.0
 */
export const TypeId: unique symbol = Symbol.for("effect-audit/AuditEvent")

/**
 * The type of that key.
 *
 * @category type ids
 * @since 0.1.0
 */
export type TypeId = typeof TypeId

/**
 * A requirement in `R`: the audit log carries events of this kind. It exists only in the types.
 *
 * @category models
 * @since 0.1.0
 */
export interface Kind<K extends string> {
  readonly _: unique symbol
  readonly kind: K
}

/**
 * An event of kind `K`: an instance of a class made by {@link Class}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Instance<K extends string = string> {
  readonly [TypeId]: K
}

/**
 * The kind of an event; an empty text for any value that is no event.
 *
 * @internal
 */
export const kindOf = (event: unknown): string => {
  try {
    const kind: unknown = (event as Partial<Instance> | null | undefined)?.[TypeId]
    return typeof kind === "string" ? kind : ""
  } catch {
    return ""
  }
}

/**
 * The moment of an event, as {@link Options.fromTime} receives it.
 *
 * @category models
 * @since 0.1.0
 */
export interface EventTime {
  /** ISO 8601, milliseconds, UTC (`2026-01-31T08:00:00.000Z`); for an old line, its unchanged `ts` */
  readonly iso: string
  /** the wall clock of the machine that recorded it, `YYYY-MM-DD HH:MM:SS` */
  readonly local: string
}

/**
 * Who is acting, from where and in which request. `Audit.withContext` and `Audit.withActor` set it for a region of a
 * program, and {@link Options.fromActor} receives it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Actor {
  readonly id?: string | null | undefined
  /** for example `user`, `service`, `system` */
  readonly type?: string | null | undefined
  readonly userName?: string | null | undefined
  readonly deviceName?: string | null | undefined
  readonly ip?: string | null | undefined
  readonly userAgent?: string | null | undefined
  readonly requestId?: string | null | undefined
  readonly traceId?: string | null | undefined
  readonly spanId?: string | null | undefined
}

/**
 * How a field is stored: the column's name, and the MySQL type with which `migrate` creates it. By default both follow
 * from the field.
 *
 * @category models
 * @since 0.1.0
 */
export interface ColumnOptions {
  readonly name?: string | undefined
  readonly type?: string | undefined
}

/**
 * A column of a kind's table.
 *
 * @category models
 * @since 0.1.0
 */
export interface Column {
  /** the name of the field in the program: `durationMs` */
  readonly field: string
  /** its key in a line on disk: `duration_ms` */
  readonly key: string
  /** the name of the column in the table */
  readonly name: string
  /** the SQL type with which `migrate` creates it, if the kind names one */
  readonly type: string | undefined
}

/**
 * The options of a kind of event. By default columns have the names of the fields, in snake_case.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<Fields extends Schema.Struct.Fields> {
  /** the table that receives the events */
  readonly table: string
  /** the fields, as for Schema.Struct; they must encode to JSON without services */
  readonly fields: Fields
  /** the column's name, or its name and SQL type, by field */
  readonly columns?: { readonly [F in keyof Fields]?: string | ColumnOptions }
  /**
   * fields whose content the law may demand to erase: with the option `proof` their rows can still be proved afterwards
   */
  readonly erasable?: ReadonlyArray<keyof Fields & string>
  /** fills fields from the time of the event, if the program gives null */
  readonly fromTime?: { readonly [F in keyof Fields]?: (time: EventTime) => Schema.Schema.Type<Fields[F]> }
  /**
   * fills fields from the current actor, if the program gives null, undefined, an empty text, or the field's default
   */
  readonly fromActor?: {
    readonly [F in keyof Fields]?: (actor: Actor) => Schema.Schema.Type<Fields[F]> | null | undefined
  }
  /** fills fields from the current span, if there is one, and neither the program nor the actor gives a value */
  readonly fromSpan?: {
    readonly [F in keyof Fields]?: (span: Tracer.AnySpan) => Schema.Schema.Type<Fields[F]> | null | undefined
  }
  /**
   * indexes for searches: each names the fields that are searched together, and ends in the time of the event. New
   * tables get them; `migrate --index` adds them to existing ones. A column of texts needs a `type` that MySQL can
   * index
   */
  readonly indexes?: ReadonlyArray<ReadonlyArray<keyof Fields & string>>
  /** fields that may hold personal data or secrets: the command shows them only with `--reveal` */
  readonly sensitive?: ReadonlyArray<keyof Fields & string>
}

/** a field with a default */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- `any` is how Schema itself matches signatures
type Defaulted = Schema.PropertySignature<any, any, any, any, any, true, any>

/**
 * Tells the constructor of a kind that its input is an object of the class, with a valid value for each field.
 *
 * @internal
 */
export const RESTORED: unique symbol = Symbol("effect-audit/restored")

type OptionalKeys<Fields extends Schema.Struct.Fields> = {
  [F in keyof Fields]: Fields[F] extends Defaulted
    ? F
    : Schema.Struct.Type<Fields>[F & keyof Schema.Struct.Type<Fields>] extends infer T
      ? undefined extends T
        ? F
        : never
      : never
}[keyof Fields]

/**
 * The input of an event: a field with a default may be left out, `null` or `undefined`. If the field's Schema accepts
 * `null` (`Schema.NullOr`), then `null` stays `null`, whatever the default is.
 *
 * @category models
 * @since 0.1.0
 */
export type Input<Fields extends Schema.Struct.Fields> = Types.Simplify<
  {
    readonly [F in Exclude<keyof Fields, OptionalKeys<Fields>>]: Schema.Struct.Type<Fields>[F &
      keyof Schema.Struct.Type<Fields>]
  } & {
    readonly [F in OptionalKeys<Fields>]?:
      Schema.Struct.Type<Fields>[F & keyof Schema.Struct.Type<Fields>] | null | undefined
  }
>

/**
 * A class of events: construct it, extend it with methods, use it as a Schema. The constructor fills in the defaults
 * and never throws: if the event does not fit, then recording it fails with `InvalidEvent`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Class<Self, K extends string, Fields extends Schema.Struct.Fields> extends Schema.Schema<
  Self,
  Schema.Struct.Encoded<Fields>
> {
  new (input: Input<Fields>): Schema.Struct.Type<Fields> & Instance<K>
  readonly kind: K
  readonly table: string
  readonly fields: Fields
  readonly columns: ReadonlyArray<Column>
  /** the fields that may be erased */
  readonly erasable: ReadonlyArray<string>
  readonly fromTime: Readonly<Record<string, (time: EventTime) => unknown>>
  readonly fromActor: Readonly<Record<string, (actor: Actor) => unknown>>
  readonly fromSpan: Readonly<Record<string, (span: Tracer.AnySpan) => unknown>>
  readonly indexes: ReadonlyArray<ReadonlyArray<string>>
  /** if it is undefined, then all fields are sensitive */
  readonly sensitive: ReadonlyArray<string> | undefined
}

/**
 * Any class of events.
 *
 * @category models
 * @since 0.1.0
 */
export interface Any {
  readonly kind: string
  readonly table: string
  readonly fields: Schema.Struct.Fields
  readonly columns: ReadonlyArray<Column>
  readonly erasable: ReadonlyArray<string>
  readonly fromTime: Readonly<Record<string, (time: EventTime) => unknown>>
  readonly fromActor: Readonly<Record<string, (actor: Actor) => unknown>>
  readonly fromSpan: Readonly<Record<string, (span: Tracer.AnySpan) => unknown>>
  readonly indexes: ReadonlyArray<ReadonlyArray<string>>
  /** if it is undefined, then all fields are sensitive */
  readonly sensitive: ReadonlyArray<string> | undefined
  readonly prototype: Instance
}

/**
 * The `Kind` of a class of events, for `R`; distributes over unions.
 *
 * @category models
 * @since 0.1.0
 */
export type KindOf<E extends Any> = E extends Any ? Kind<E["kind"]> : never

/**
 * The input of an event of the class `E`.
 *
 * @category models
 * @since 0.1.0
 */
export type InputOf<E extends Any> = Input<E["fields"]>

/**
 * Makes a class of events. `UseLog` and `LoginLog` are made by it, too, without any privilege.
 *
 * @example
 * import { Schema } from "effect"
 * import { AuditEvent } from "effect-audit"
 *
 * class Payment extends AuditEvent.Class<Payment>()("payment", {
 *   table: "payments",
 *   fields: {
 *     account: Schema.String,
 *     cents: Schema.Int,
 *     note: AuditEvent.optional(Schema.String)
 *   },
 *   columns: { account: "account_no", cents: { type: "INT UNSIGNED NOT NULL" } }
 * }) {}
 *
 * new Payment({ account: "0042", cents: 1999 }).note // null
 *
 * @category constructors
 * @since 0.1.0
 */
export const Class =
  <Self = never>() =>
  <const K extends string, Fields extends Schema.Struct.Fields>(
    kind: K,
    options: Options<Fields>
  ): Class<Self, K, Fields> => {
    const columns = Object.keys(options.fields).map((field): Column => {
      const given = options.columns?.[field]
      const column = typeof given === "string" ? { name: given } : given
      const key = Str.camelToSnake(field)
      return { field, key, name: column?.name ?? key, type: column?.type }
    })
    const Base = Schema.Class<Instance>(kind)(options.fields) as unknown as new (
      input: unknown,
      options: boolean
    ) => object
    // found at the first event, since a field may refer to something that is not defined yet
    let replaced: ReadonlyArray<string> | undefined
    class Event extends Base {
      static readonly kind = kind
      static readonly table = options.table
      static readonly columns = columns
      static readonly erasable = options.erasable ?? []
      static readonly fromTime = options.fromTime ?? {}
      static readonly fromActor = options.fromActor ?? {}
      static readonly fromSpan = options.fromSpan ?? {}
      static readonly indexes = options.indexes ?? []
      static readonly sensitive = options.sensitive
      constructor(input: Readonly<Record<string, unknown>>, restored?: typeof RESTORED) {
        // already an object of this class, which Schema would copy three times
        if (restored === RESTORED) return input as unknown as Event
        replaced ??= Object.keys(options.fields).filter((name) => replacesNull(options.fields[name]!))
        // without a check: `record` finds what does not fit
        super(withoutNulls(replaced, input), true)
      }
      get [TypeId](): K {
        return kind
      }
    }
    return Event as unknown as Class<Self, K, Fields>
  }

/**
 * A field that may be left out, `null` or `undefined`: then it is NULL in the table.
 *
 * @category fields
 * @since 0.1.0
 */
export const optional = <A, I>(
  schema: Schema.Schema<A, I>
): Schema.optionalWith<Schema.NullOr<Schema.Schema<A, I>>, { default: () => null }> =>
  keeping(
    KEPT_OPTIONAL.get(schema.ast) ?? never,
    Schema.optionalWith(Schema.NullOr(schema), { default: () => null })
  )

/**
 * A text that may be left out, `null` or `undefined`: then it is `fallback`.
 *
 * @category fields
 * @since 0.1.0
 */
export const text = (
  fallback: string
): Schema.optionalWith<typeof Schema.String, { nullable: true; default: () => string }> =>
  keeping(isNonEmpty, Schema.optionalWith(Schema.String, { nullable: true, default: () => fallback }))

/**
 * A text that may be left out, `null`, `undefined` or empty: then it is `fallback`.
 *
 * @category fields
 * @since 0.1.0
 */
export const nonEmptyText = (fallback: string) =>
  keeping(
    isNonEmpty,
    Schema.optionalToRequired(Schema.NullishOr(Schema.String), Schema.String, {
      decode: Option.match({ onNone: () => fallback, onSome: (value) => value || fallback }),
      encode: (value) => Option.some(value || fallback)
    }).pipe(Schema.withConstructorDefault(() => fallback))
  )

/**
 * A text that a program must give. If a line on disk lacks it, then it is `fallback`.
 *
 * @category fields
 * @since 0.1.0
 */
export const requiredText = (fallback: string) =>
  keeping(
    isNonEmpty,
    Schema.optionalToRequired(Schema.NullishOr(Schema.String), Schema.String, {
      decode: Option.match({ onNone: () => fallback, onSome: (value) => value ?? fallback }),
      encode: Option.some
    })
  )

/** By field: whether it accepts a value unchanged, from a program and from a line. */
const kept = new WeakMap<Schema.Struct.Field, (value: unknown) => boolean>()

const keeping = <F extends Schema.Struct.Field>(keeps: (value: unknown) => boolean, field: F): F => {
  kept.set(field, keeps)
  return field
}

const never = () => false
const isNonEmpty = (value: unknown): boolean => typeof value === "string" && value !== ""
const isTextOrNull = (value: unknown): boolean => typeof value === "string" || value === null
/** the same for optional fields, by type; JSON has no infinite numbers and no NaN */
const KEPT_OPTIONAL = new Map<AST.AST, (value: unknown) => boolean>([
  [Schema.String.ast, isTextOrNull],
  [Schema.Int.ast, (value) => Number.isSafeInteger(value) || value === null],
  [Schema.Number.ast, (value) => Number.isFinite(value) || value === null],
  [Schema.Boolean.ast, (value) => typeof value === "boolean" || value === null]
])

/**
 * Whether the field accepts the value unchanged, from a program and from a line. Hot path: then its Schema need not run
 * (bench/README.md#schema-of-a-field).
 *
 * @internal
 */
export const keeps = (field: Schema.Struct.Field): ((value: unknown) => boolean) => kept.get(field) ?? never

/** @internal */
export const defaultOf = (field: Schema.Struct.Field): (() => unknown) | undefined => {
  if (!Schema.isPropertySignature(field)) return undefined
  const { ast } = field
  return ast._tag === "PropertySignatureDeclaration" ? ast.defaultValue : ast.to.defaultValue
}

/** Whether null means "not given": the field has a default, and its Schema does not accept null. */
const replacesNull = (field: Schema.Struct.Field): boolean =>
  defaultOf(field) !== undefined && !Schema.is(Schema.Struct({ field }))({ field: null })

const withoutNulls = (fields: ReadonlyArray<string>, input: Readonly<Record<string, unknown>>) => {
  const given: Record<string, unknown> = { ...input }
  // Schema replaces undefined by the default
  for (const name of fields) if (given[name] === null) given[name] = undefined
  return given
}
