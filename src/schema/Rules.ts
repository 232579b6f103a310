/**
 * The rules for an event before it becomes a line. First the actor, then the span fill open fields. Then redactions
 * run, then limits.
 */
import type { Tracer } from "effect"
import * as AuditEvent from "./AuditEvent.js"
import type { Issue } from "./Line.js"
import { MIN_LIMIT, problemOf } from "./Redact.js"

/** An event that anybody who may read the log may see. */
export interface Prepared {
  readonly input: unknown
  /** fields whose redaction threw; they are no longer in `input` */
  readonly issues: ReadonlyArray<Issue>
}

export interface Rules {
  readonly redact?: Readonly<Record<string, ((value: never) => unknown) | undefined>> | undefined
  readonly limits?: Readonly<Record<string, number | undefined>> | undefined
}

type ByKind = Readonly<Record<string, Readonly<Record<string, unknown>> | undefined>>

/** The option's entry for a kind. Only an own key counts, since a kind may be called `constructor`. */
export const ofKind = <A>(option: Readonly<Record<string, A>> | undefined, kind: string): A | undefined =>
  option !== undefined && Object.hasOwn(option, kind) ? option[kind] : undefined

/** What is wrong with the rules; undefined if nothing is. A rule that is never applied would be an unseen leak. */
export const checkRules = (
  events: ReadonlyArray<AuditEvent.Any>,
  rules: Readonly<Record<keyof Rules, ByKind | undefined>>
): string | undefined => {
  for (const [option, kinds] of Object.entries(rules)) {
    for (const [kind, fields] of Object.entries(kinds ?? {})) {
      const event = events.find((event) => event.kind === kind)
      if (event === undefined)
        return `${option} names the kind "${kind}", which is not in \`events\`. Mend one.`
      for (const [field, rule] of Object.entries(fields ?? {})) {
        if (!(field in event.fields))
          return `${option}.${kind}.${field}: there is no such field. Mend its name.`
        const problem = problemOf(rule)
        if (problem !== undefined) return `${option}.${kind}.${field}: ${problem}`
        if (typeof rule === "number" && !(Number.isInteger(rule) && rule >= MIN_LIMIT)) {
          return `${option}.${kind}.${field} is ${rule}. Use a whole number of characters, at least ${MIN_LIMIT}.`
        }
      }
    }
  }
  return undefined
}

/** Makes the function that prepares events of a kind; it returns undefined if no rule changes the event. */
export const makePrepare = (
  definition: AuditEvent.Any,
  rules: Rules
): ((
  input: unknown,
  actor: AuditEvent.Actor | undefined,
  span: Tracer.AnySpan | undefined
) => Prepared | undefined) => {
  const fields = definition.columns.map(({ field }) => ({
    name: field,
    default: AuditEvent.defaultOf(definition.fields[field]!),
    fromActor: definition.fromActor[field],
    fromSpan: definition.fromSpan[field],
    redact: rules.redact?.[field] as ((value: unknown) => unknown) | undefined,
    limit: rules.limits?.[field]
  }))
  const ruled = fields.some(({ limit, redact }) => redact !== undefined || limit !== undefined)
  const acted = fields.some(({ fromActor }) => fromActor !== undefined)
  const spanned = fields.some(({ fromSpan }) => fromSpan !== undefined)

  return (input, actor, span) => {
    const isFilled = (acted && actor !== undefined) || (spanned && span !== undefined)
    if (!ruled && !isFilled) return undefined
    if (typeof input !== "object" || input === null) {
      // the event will be refused, and the error's reader must not see what the rules would have hidden
      return ruled ? { input: undefined, issues: [] } : undefined
    }
    const prepared: Record<string, unknown> = {}
    const issues: Array<Issue> = []
    for (const field of fields) {
      let value = (input as Readonly<Record<string, unknown>>)[field.name]
      const isOpen = (candidate: unknown) =>
        candidate === null || candidate === undefined || candidate === "" || candidate === field.default?.()
      if (actor !== undefined && field.fromActor !== undefined && isOpen(value)) {
        value = field.fromActor(actor) ?? value
      }
      if (span !== undefined && field.fromSpan !== undefined && isOpen(value)) {
        value = field.fromSpan(span) ?? value
      }
      if (field.redact !== undefined && !isOpen(value)) {
        try {
          value = field.redact(value)
        } catch {
          issues.push({ field: field.name, expected: "a value that its redaction accepts" })
          continue
        }
      }
      prepared[field.name] =
        field.limit !== undefined && typeof value === "string" ? truncate(value, field.limit) : value
    }
    return { input: prepared, issues }
  }
}

/** The text, cut to so many code points, including the mark. */
export const truncate = (text: string, limit: number): string => {
  // a code point takes one or two UTF-16 units, so most texts need no count
  if (text.length <= limit) return text
  let total = 0
  for (let at = 0; at < text.length; at = next(text, at)) total++
  if (total <= limit) return text
  const kept = limit - mark(total).length
  let end = 0
  for (let count = 0; count < kept; count++) end = next(text, end)
  return text.slice(0, end) + mark(total - kept)
}

const mark = (missing: number) => `…[+${missing}]`

const next = (text: string, at: number) => at + (text.codePointAt(at)! > 0xffff ? 2 : 1)
