/** The books of a queue, as its owner keeps them and as others find them on the disk. */
import type { Balance } from "../../services/QueueFile.js"
import type { Cursor } from "./cursor.js"

/**
 * The balance, where the next line will have the number `next`. More decisions than letters are those of a cursor that
 * an older slot, or a repair, has set back: the others are counted once their letters are.
 */
export const balanceOf = (
  cursor: Cursor,
  next: number,
  decisions: { readonly retried: number; readonly discarded: number }
): Balance => {
  const retried = Math.min(decisions.retried, cursor.refused)
  const discarded = Math.min(decisions.discarded, cursor.refused - retried)
  return {
    accepted: next + cursor.surplus,
    delivered: cursor.delivered,
    waiting: next - Math.min(cursor.settled, next),
    dead: cursor.refused - retried - discarded,
    retried,
    discarded,
    torn: cursor.torn,
    missing: cursor.missing
  }
}

/** How many bytes stand behind the cursor. */
export const waitingBytesOf = (
  cursor: Cursor,
  segments: ReadonlyArray<{ readonly first: number; readonly bytes: number }>
): number => {
  let bytes = 0
  for (const segment of segments) {
    if (segment.first > cursor.segment) bytes += segment.bytes
    else if (segment.first === cursor.segment) bytes += Math.max(0, segment.bytes - cursor.offset)
  }
  return bytes
}

/** The time that a line says, milliseconds since 1970 UTC. */
export const timeOfLine = (line: Readonly<Record<string, unknown>> | undefined): number | undefined => {
  const millis = typeof line?.ts === "string" ? Date.parse(line.ts) : Number.NaN
  return Number.isNaN(millis) ? undefined : millis
}

/** A line as an object; undefined if it is none, or not UTF-8. */
export const objectOf = (bytes: Uint8Array): Readonly<Record<string, unknown>> | undefined => {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}
