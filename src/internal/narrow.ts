/**
 * Finds the events that a database will never take, when all it says is that one of many is bad.
 */
import { Data, Effect } from "effect"
import { UploadError } from "../schema/Errors.js"
import { RETRIED, type StoredEvent } from "../schema/Line.js"
import type { Rejection, UploadResult } from "../services/Uploader.js"

/** A statement was refused, and stored nothing, because of one of its events. */
export class Refused extends Data.TaggedError("Refused")<{
  readonly code: string
  /** the database's words */
  readonly reason: string
  /** the failure, if the statement cannot be made any smaller and its event is still not to blame */
  readonly blameless?: UploadError
}> {}

/** Stores the events from `from` to before `to`, all or none. */
export type Attempt = (from: number, to: number) => Effect.Effect<void, Refused | UploadError>

/**
 * Stores the events from `from` to before `to` in order, all but those that are refused. By halving: one bad event
 * among n costs at most 2 log2 n further statements. An event is rejected only after it was refused alone;
 * `onRejected` hears of it at once and may end the search.
 */
export const narrow = (
  attempt: Attempt,
  from: number,
  to: number,
  onRejected: (rejection: Rejection) => Effect.Effect<void, UploadError>
): Effect.Effect<void, UploadError> => {
  /** Whether everything was stored at once. */
  const store = (from: number, to: number): Effect.Effect<boolean, UploadError> =>
    attempt(from, to).pipe(
      Effect.as(true),
      Effect.catchTag("Refused", (refused) => {
        if (to - from > 1) return Effect.as(halve(from, to), false)
        if (refused.blameless !== undefined) return Effect.fail(refused.blameless)
        return Effect.as(onRejected({ index: from, code: refused.code, reason: refused.reason }), false)
      })
    )
  /** What is known to hold a bad event: if its first half does not, the second half need not be tried whole. */
  const halve = (from: number, to: number): Effect.Effect<unknown, UploadError> => {
    const middle = (from + to) >>> 1
    return Effect.flatMap(store(from, middle), (stored) =>
      stored && to - middle > 1 ? halve(middle, to) : store(middle, to)
    )
  }
  return Effect.asVoid(store(from, to))
}

/**
 * Tells bad events from a schema that has drifted. When most of what a table is offered is refused for the same
 * reason, it is the table that no longer fits, and the events must not go to the dead letters: the operator is asked
 * instead. Few events prove nothing, so up to {@link DRIFT_MINIMUM} - 1 may be rejected in a row; they are counted
 * on through batches that store nothing, since a quiet program sends its events one by one. Letters that are retried
 * prove nothing: they were refused before, and go back to where they can be discarded.
 */
export const makeDriftGuard = () => {
  const inARow = new Map<string, { readonly code: string; readonly count: number }>()
  return {
    /** Watches a batch. */
    watch: (table: string, events: ReadonlyArray<Pick<StoredEvent, "line">>) => {
      const isRetried = ({ line }: Pick<StoredEvent, "line">) => line[RETRIED] === true
      const retried = events.filter(isRetried).length
      const size = events.length - retried
      const rejected: Array<Rejection> = []
      /** those that say something about the table */
      const telling: Array<Rejection> = []
      const counts = new Map<string, number>()
      const earlier = inARow.get(table)
      return {
        onRejected: (rejection: Rejection): Effect.Effect<void, UploadError> => {
          rejected.push(rejection)
          if (retried > 0 && isRetried(events[rejection.index]!)) return Effect.void
          telling.push(rejection)
          const { code } = rejection
          const count = (counts.get(code) ?? 0) + 1
          counts.set(code, count)
          const before = earlier?.code === code ? earlier.count : 0
          return count > size / 2 && before + count >= DRIFT_MINIMUM
            ? Effect.fail(
                new UploadError({
                  class: "operator",
                  code,
                  reason:
                    `The table ${table} refuses most events for the same reason, so it no longer fits them: ` +
                    `change the column or constraint that code ${code} is about`
                })
              )
            : Effect.void
        },
        /** The result, when every event of the batch is either stored or rejected. */
        done: (): UploadResult => {
          if (size === 0) return { rejected }
          const code = telling[0]?.code
          if (code === undefined || telling.length < size) inARow.delete(table)
          else inARow.set(table, { code, count: (earlier?.code === code ? earlier.count : 0) + size })
          return { rejected }
        }
      }
    }
  }
}

const DRIFT_MINIMUM = 10
