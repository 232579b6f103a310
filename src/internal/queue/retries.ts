/** Retries: append dead letters as lines again, with the ids that they had. */
import { Array as Arr, Effect } from "effect"
import { isUtf8 } from "node:buffer"
import { QueueAccessError } from "../../schema/Errors.js"
import { RETRIED, RETRY_BYTES, RETRY_MARK } from "../../schema/Line.js"
import type { Position } from "../../schema/Position.js"
import type { Appends } from "./append.js"
import type { Entry } from "./deadLetters.js"
import type { Letter } from "./letter.js"
import { objectOf } from "./lines.js"

interface Parts {
  readonly directory: string
  /** appends several lines at once, or none of them */
  readonly append: Appends["add"]
  /** a longer line is not appended, bytes */
  readonly maxLineBytes: number
  /** the id of a line that carries none */
  readonly eventIdOf: (line: Position & { readonly bytes: Uint8Array }) => string
}

/** The letters that can be decided, and the failure of the others. */
export interface Prepared {
  readonly ready: ReadonlyArray<Entry>
  readonly failure: QueueAccessError | undefined
}

const NONE: Prepared = { ready: [], failure: undefined }

/** A letter, and the line to append for it. */
interface Again {
  readonly entry: Entry
  readonly line: string
  readonly eventId: string
}

/** Makes the function that appends letters again. If a letter cannot become a line, then it stays. */
export const make = (parts: Parts): ((entries: ReadonlyArray<Entry>) => Effect.Effect<Prepared>) => {
  const appendAgain = (entries: ReadonlyArray<Entry>) => {
    const again = entries.flatMap((entry) => {
      const line = lineOf(parts, entry.letter)
      return line === undefined ? [] : [{ ...line, entry }]
    })
    return Arr.isNonEmptyReadonlyArray(again) ? appendLines(again) : Effect.succeed(NONE)
  }

  /** Appends all at once; if there is no room for all, then one half after the other. */
  const appendLines = (again: Arr.NonEmptyReadonlyArray<Again>): Effect.Effect<Prepared> =>
    Effect.matchEffect(parts.append(again.map(({ line }) => line).join(""), again[0].eventId, again.length), {
      onSuccess: () => Effect.succeed({ ready: again.map(({ entry }) => entry), failure: undefined }),
      onFailure: (error) => {
        if (error._tag === "QueueFull" && again.length > 1) return appendHalves(again)
        const code = "code" in error ? error.code : error._tag
        const failure = new QueueAccessError({ path: parts.directory, code, cause: error })
        return Effect.succeed({ ready: [], failure })
      }
    })

  const appendHalves = (again: ReadonlyArray<Again>) =>
    Effect.gen(function* () {
      const ready: Array<Entry> = []
      for (const half of Arr.splitAt(again, again.length >> 1)) {
        const done = yield* Arr.isNonEmptyReadonlyArray(half) ? appendLines(half) : Effect.succeed(NONE)
        ready.push(...done.ready)
        if (done.failure !== undefined) return { ready, failure: done.failure }
      }
      return { ready, failure: undefined }
    })

  return appendAgain
}

/**
 * The line of a letter. If it carries no event id, then it gets the one that its place gives. If it was rejected, then
 * it is marked. Edited as text, since parsing would change numbers that JavaScript cannot hold.
 */
const lineOf = ({ eventIdOf, maxLineBytes }: Parts, letter: Letter) => {
  const { base64, encoding } = letter
  const text = letter.line ?? (base64 === undefined || encoding !== undefined ? undefined : textOf(base64))
  if (text === undefined) return undefined
  const bytes = Buffer.from(text)
  const event = objectOf(bytes)
  // not an event: a retry would be refused again
  if (event === undefined || Array.isArray(event) || Object.keys(event).length === 0) return undefined
  const isMarked = RETRIED in event
  // an earlier retry may have made it longer
  if (bytes.length > maxLineBytes + (isMarked ? RETRY_BYTES : 0)) return undefined
  const known = event.event_id
  if (known !== undefined && typeof known !== "string") return undefined
  const eventId = known ?? eventIdOf({ ...letter, bytes })
  const id = known === undefined ? `"event_id":"${eventId}",` : ""
  const line = `{${id}${text.trim().slice(1, -1)}`
  const isTooLong = Buffer.byteLength(line) + 1 > maxLineBytes
  const isToMark = !isMarked && (letter.class === "rejected" || isTooLong)
  return { line: `${line}${isToMark ? RETRY_MARK : "}"}\n`, eventId }
}

const textOf = (base64: string) => {
  const bytes = Buffer.from(base64, "base64")
  return isUtf8(bytes) ? bytes.toString("utf8") : undefined
}
