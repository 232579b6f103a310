/** Delivered events as they are shown: masked, and as JSON, CSV or a table. */
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { Found, Whereabouts } from "../services/Trail.js"
import { cellOf, formatTable, jsonOf, visible } from "./format.js"
import { maskFields, maskValue } from "./mask.js"
import type { Line } from "./terminal.js"
import { paint } from "./terminal.js"
import { userFieldOf } from "./search.js"

/** What a search finds, of any kind. */
export type AnyFound = Found<object, string | null, Date | null>

/** An event as it may be shown. */
export interface Shown {
  readonly kind: string
  readonly event_id: string | null
  readonly time: string | null
  /** by their keys in a line */
  readonly fields: Readonly<Record<string, unknown>>
  /** the fields of a row that does not fit its kind */
  readonly unfit: ReadonlyArray<string> | undefined
}

/** The sensitive fields of a kind: all of them, if it does not say which. */
export const sensitiveOf = ({ columns, sensitive }: AuditEvent.Any): ReadonlyArray<string> =>
  sensitive ?? columns.map(({ field }) => field)

export const masks = (kind: AuditEvent.Any, isRevealed: boolean): boolean =>
  !isRevealed && sensitiveOf(kind).length > 0

/** Makes the function that shows an event of the kind, with its sensitive fields masked. */
export const showing = (kind: AuditEvent.Any, isRevealed: boolean): ((found: AnyFound) => Shown) => {
  const sensitive = isRevealed ? [] : sensitiveOf(kind)
  const columns = kind.columns.map((column) => ({ ...column, masked: sensitive.includes(column.field) }))
  return (found) => {
    const isEvent = found._tag === "Event"
    const values = (isEvent ? found.event : found.raw) as Readonly<Record<string, unknown>>
    const fields = columns.map(({ field, key, masked, name }) => {
      const value = plain(values[isEvent ? field : name])
      return [key, masked ? maskValue(value) : value] as const
    })
    return {
      kind: found.kind,
      event_id: found.eventId,
      time: found.time === null ? null : found.time.toISOString(),
      // not by assignment: a column may be called __proto__
      fields: Object.fromEntries(fields),
      unfit: isEvent ? undefined : found.issues.map(({ field }) => field)
    }
  }
}

/** A value as JSON can hold it. */
export const plain = (value: unknown): unknown => {
  if (value === undefined) return null
  if (typeof value !== "bigint") return value
  return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
}

export const asJson = ({ fields, unfit, ...identity }: Shown) => ({
  ...identity,
  ...fields,
  // a field may have one of these names
  ...identity,
  ...(unfit === undefined ? {} : { $unfit: unfit })
})

/** One event, wherever it is, and a text that says where. */
export const whereaboutsShown = (
  it: Whereabouts<AuditEvent.Instance>,
  known: ReadonlyArray<AuditEvent.Any>,
  isRevealed: boolean
) => {
  if (it._tag === "Delivered") {
    const kind = known.find(({ kind }) => kind === it.found.kind)!
    return { where: "delivered", event: asJson(showing(kind, isRevealed)(it.found)) }
  }
  const event = isRevealed ? it.line : maskFields(it.line)
  if (it._tag === "Waiting") return { where: "waiting in the queue", event }
  return { where: `dead letter ${it.letter} (${it.class}): see "effect-audit dead show ${it.letter}"`, event }
}

// -------------------------------------------------------------------------------------------------------- csv

/** The first line of a CSV (RFC 4180). */
export const csvHead = (kind: AuditEvent.Any): string =>
  csvLine(["time", "event_id", ...kind.columns.map(({ key }) => key)])

export const asCsv = ({ event_id, fields, time }: Shown): string =>
  csvLine([time, event_id, ...Object.values(fields)])

const csvLine = (values: ReadonlyArray<unknown>): string => `${values.map(csvCell).join(",")}\r\n`

export const csvCell = (value: unknown): string => {
  if (value === null || value === undefined) return ""
  if (typeof value === "string" && !ODD.test(value)) return value
  if (typeof value === "number" || typeof value === "boolean") return String(value)
  const text = typeof value === "string" ? value : value instanceof Date ? value.toISOString() : jsonOf(value)
  const harmless = FORMULA.test(text) ? `'${text}` : text
  return /[",\r\n]|^\s|\s$/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless
}

/** Hot path: one test for most texts, which need no quotes and cannot be formulas. */
const ODD = /[",\r\n]|^[\s=+\-@\uff1d\uff0b\uff0d\uff20]|\s$/

/** What spreadsheets run as a formula: OWASP, "CSV Injection". An apostrophe before it makes it a text. */
const FORMULA = /^[\s]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/

// ------------------------------------------------------------------------------------------------------ table

/** A table of events: time, kind, user, and the other fields. */
export const tableOf = (
  shown: ReadonlyArray<Shown>,
  kinds: ReadonlyArray<AuditEvent.Any>,
  columns: number | undefined
): ReadonlyArray<Line> => {
  const isOfOne = kinds.length === 1
  const users = new Map(kinds.map((kind) => [kind.kind, userKeyOf(kind)]))
  const rows = shown.map((event) => {
    const userKey = users.get(event.kind)
    const user = userKey === undefined ? undefined : event.fields[userKey]
    return [
      event.time === null ? "-" : event.time.replace("T", " ").slice(0, 23),
      ...(isOfOne ? [] : [event.kind]),
      cellOf(user),
      restOf(event, userKey)
    ].map(visible)
  })
  const head = ["TIME (UTC)", ...(isOfOne ? [] : ["KIND"]), "USER", "EVENT"]
  const [first = [], ...lines] = formatTable([head, ...rows], columns)
  return [...first.map((line) => paint("bold", line)), ...lines.flat()]
}

const userKeyOf = (kind: AuditEvent.Any): string | undefined => {
  const field = userFieldOf(kind)
  return kind.columns.find((column) => column.field === field)?.key
}

const restOf = ({ event_id, fields, unfit }: Shown, userKey: string | undefined): string => {
  const parts = Object.entries(fields).flatMap(([key, value]) =>
    key === userKey || value === null || value === "" ? [] : [`${key}=${shorten(cellOf(value))}`]
  )
  const note = unfit === undefined ? [] : [`(does not fit: ${unfit.join(", ")})`]
  return [...parts, ...note, `id=${event_id ?? "-"}`].join(" ")
}

/** characters of a value in the table; JSON and `--id` show all of it */
const MOST = 80

const shorten = (text: string): string => (text.length <= MOST ? text : `${text.slice(0, MOST - 1)}…`)
