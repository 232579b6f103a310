/** Prompts and other people's words are masked, unless an operator asks for them. */
import { objectOf } from "../internal/queue/ledger.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import { formatBytes, formatCount } from "./format.js"

/** The fields to mask, by kind. Of a kind that is not ours everything is masked but what says which event it is. */
const MASKED: Readonly<Record<string, ReadonlySet<string>>> = {
  [UseLog.kind]: new Set(["prompt"]),
  [LoginLog.kind]: new Set()
}
const PLAIN = new Set(["kind", "event_id", "ts"])

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
  if (event === undefined) {
    const text = options.reveal ? Buffer.from(line).toString("utf8") : mark(formatBytes(line.length))
    return { event: undefined, text }
  }
  if (options.reveal) return { event, text: undefined }
  const masked = MASKED[String(event.kind)]
  const entries = Object.entries(event).map(([key, value]) => {
    const isMasked = masked === undefined ? !PLAIN.has(key) : masked.has(key)
    return [key, isMasked ? maskValue(value) : value] as const
  })
  return { event: Object.fromEntries(entries), text: undefined }
}

const maskValue = (value: unknown): unknown => {
  if (typeof value === "string") return value === "" ? "" : mark(`${formatCount(value.length)} characters`)
  return value === null || value === undefined ? value : mark(typeof value)
}

const mark = (what: string) => `[${what}, masked]`
