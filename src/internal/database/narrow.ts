/** Narrowing: finds the events that a database will never take, if it only says that one of many is bad. */
import { Data, Effect } from "effect"
import { UploadError } from "../../schema/Errors.js"
import type { StoredEvent } from "../../schema/Line.js"
import type { Rejection, UploadResult } from "../../services/Uploader.js"

/** A statement was refused, and stored nothing, because of one of its events. */
export class Refused extends Data.TaggedError("Refused")<{
  readonly code: string
  /** the database's message */
  readonly reason: string
  /** the failure, if the statement is as small as it can be and its event is still not to blame */
  readonly blameless?: UploadError
}> {}

/** Stores the events from `from` to before `to`, all or none. */
export type Attempt<E> = (from: number, to: number) => Effect.Effect<unknown, Refused | E>

/**
 * Stores the events from `from` to before `to` in order, except those that are refused. By halving: one bad event among
 * n costs at most 2 log2 n further statements. An event is rejected only after it was refused alone. `onRejected` hears
 * of it at once and may end the search.
 */
export const narrow = <E extends { readonly _tag: string } = UploadError>(
  attempt: Attempt<E>,
  from: number,
  to: number,
  onRejected: (rejection: Rejection) => Effect.Effect<void, UploadError>
): Effect.Effect<void, E | UploadError> => {
  /** Returns whether everything was stored at once. */
  const store = (from: number, to: number): Effect.Effect<boolean, E | UploadError> =>
    Effect.matchEffect(attempt(from, to), {
      onSuccess: () => Effect.succeed(true),
      onFailure: (error) => {
        if (!(error instanceof Refused)) return Effect.fail(error)
        if (to - from > 1) return Effect.as(halve(from, to), false)
        const { blameless, code, reason } = error
        if (blameless !== undefined) return Effect.fail(blameless)
        return Effect.as(onRejected({ index: from, code, reason }), false)
      }
    })
  /** Halves events that hold a bad one. If the first half holds none, the second need not be tried whole. */
  const halve = (from: number, to: number): Effect.Effect<unknown, E | UploadError> => {
    const middle = (from + to) >>> 1
    return Effect.flatMap(store(from, middle), (stored) =>
      stored && to - middle > 1 ? halve(middle, to) : store(middle, to)
    )
  }
  return Effect.asVoid(store(from, to))
}

/**
 * Tells bad events from a schema that has drifted. If a table refuses most events for the same reason, it no longer
 * fits them. Then they must not become dead letters: the operator is asked instead. Few events prove nothing, so up to
 * {@link DRIFT_MINIMUM} - 1 may be rejected in a row. The count goes on through batches that store nothing, since a
 * quiet program sends its events one by one. Retried events, which were rejected before, do not count: as dead letters
 * they can be discarded.
 */
export const makeDriftGuard = () => {
  const inARow = new Map<string, { readonly code: string; readonly count: number }>()
  return {
    /** Watches a batch, or the rest of one after `stored` of its events are stored. */
    watch: (table: string, events: ReadonlyArray<Pick<StoredEvent, "retried">>, stored = 0) => {
      const rejected: Array<Rejection> = []
      const size = events.reduce((count, { retried }) => (retried === true ? count : count + 1), stored)
      const counts = new Map<string, number>()
      const earlier = inARow.get(table)
      const before = (code: string) => (earlier?.code === code ? earlier.count : 0)
      return {
        onRejected: (rejection: Rejection): Effect.Effect<void, UploadError> => {
          rejected.push(rejection)
          if (events[rejection.index]?.retried === true) return Effect.void
          const { code } = rejection
          const count = (counts.get(code) ?? 0) + 1
          counts.set(code, count)
          return count > size / 2 && before(code) + count >= DRIFT_MINIMUM
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
        /** The result, once every event of the batch is stored or rejected. */
        done: (): UploadResult => {
          const [most] = [...counts].sort(([, a], [, b]) => b - a)
          if (rejected.length < events.length + stored) inARow.delete(table)
          else if (most !== undefined) inARow.set(table, { code: most[0], count: before(most[0]) + most[1] })
          return { rejected }
        }
      }
    }
  }
}

const DRIFT_MINIMUM = 10
