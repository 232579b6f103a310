/**
 * The mask: shows only what is known to be harmless, unless an operator asks for all. Harmless is a field of a kind
 * that we know, with a value that is no structure. So an odd line or letter leaks nothing.
 */
import { objectOf } from "../internal/queue/lines.js"
import { Activity } from "../schema/Activity.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { RETRIED } from "../schema/Line.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import { formatBytes, formatCount, jsonOf } from "./format.js"

/** The keys of a kind that may be shown: those that it does not call sensitive. */
const plainKeysOf = ({ columns, sensitive = columns.map(({ field }) => field) }: AuditEvent.Any) =>
  new Set(columns.filter(({ field }) => !sensitive.includes(field)).map(({ key }) => key))

/** The plain keys of our kinds. Of any other kind only {@link ALWAYS} is shown. */
const PLAIN: ReadonlyMap<unknown, ReadonlySet<string>> = new Map(
  [UseLog, LoginLog, Activity].map((kind) => [kind.kind, plainKeysOf(kind)])
)
const NONE: ReadonlySet<string> = new Set()

/** Keys that are shown for any kind, if their value is valid: anybody may have written the line. */
const ALWAYS: ReadonlyMap<string, (value: unknown) => boolean> = new Map([
  ["kind", (value: unknown) => isKind(value)],
  ["event_id", (value: unknown) => isId(value)],
  ["ts", (value: unknown) => typeof value === "string" && /^[\d:.TZ +-]{1,40}$/.test(value)],
  [RETRIED, (value: unknown) => typeof value === "boolean"]
])

const NAME = /^[\w$.-]{1,64}$/

/** Whether a value looks like the name of a kind: in a damaged or odd line it may be anything. */
export const isKind = (value: unknown): value is string =>
  typeof value === "string" && /^[A-Za-z_$][\w$.:/-]{0,63}$/.test(value)

/** A kind as it may be shown. */
export const kindOf = (value: unknown): string => (isKind(value) ? value : String(maskValue(value)))

export const isCode = (value: unknown): value is string =>
  typeof value === "string" && /^[\w.:-]{1,64}$/.test(value)

export const isId = (value: unknown): value is string =>
  typeof value === "string" && /^[\da-f-]{36}$/i.test(value)

/** A line as it may be shown. */
export interface Masked {
  /** undefined if the line is no JSON object, or only its beginning is known */
  readonly event: Readonly<Record<string, unknown>> | undefined
  /** what is shown in place of the event */
  readonly text: string | undefined
}

export const maskEvent = (
  line: Uint8Array,
  options: { readonly reveal: boolean; readonly oversize?: boolean }
): Masked => {
  const event = options.oversize === true ? undefined : objectOf(line)
  if (event === undefined || Array.isArray(event)) {
    const text = options.reveal ? Buffer.from(line).toString("utf8") : mark(formatBytes(line.length))
    return { event: undefined, text }
  }
  return { event: options.reveal ? event : maskFields(event), text: undefined }
}

/** The fields of a line as they may be shown. */
export const maskFields = (event: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> => {
  const plain = PLAIN.get(event.kind) ?? NONE
  const entries = Object.entries(event).map(([key, value], index) => {
    // a damaged line may have its content in a name
    if (!NAME.test(key)) return [`[name of field ${index + 1}, masked]`, maskValue(value)] as const
    const isPlain =
      ALWAYS.get(key)?.(value) ?? (plain.has(key) && (typeof value !== "object" || value === null))
    return [key, isPlain ? value : maskValue(value)] as const
  })
  return Object.fromEntries(entries)
}

export const maskValue = (value: unknown): unknown => {
  if (typeof value === "string") return value === "" ? "" : mark(`${formatCount(value.length)} characters`)
  return value === null || value === undefined ? value : mark(Array.isArray(value) ? "array" : typeof value)
}

export const mark = (what: string) => `[${what}, masked]`

export const isMasked = (shown: unknown): boolean => jsonOf(shown).includes(", masked]")

export const REVEAL = "Masked values may hold personal data: --reveal shows them."
