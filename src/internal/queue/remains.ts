/**
 * Remains: what the disk still holds of letters that are none any more is erased, in the segments and in their own file.
 */
import { Array as Arr, Effect } from "effect"
import type { Place } from "../../schema/Position.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import type { DeadLetters, Entry } from "./deadLetters.js"
import { eraseLines as eraseInSegment, type Guarded } from "./erasure.js"
import { CLOSED } from "./lock.js"
import type { Segments } from "./segments.js"

interface Parts {
  readonly disk: Disk["Type"]
  readonly letters: DeadLetters
  readonly segments: Segments
  /** runs what must not meet other changes of the letters */
  readonly guarded: Guarded
  /** runs any other write */
  readonly writing: Guarded
  /** whether the letter of a line counts already, so that delivery never reads the line again */
  readonly isCounted: (place: Place) => boolean
}

export interface Remains {
  /** Discards letters, then erases their lines, where their segments are still there; those that are gone stay gone. */
  readonly discarding: <A>(
    entries: ReadonlyArray<Entry>,
    decision: Effect.Effect<A, DiskError>
  ) => Effect.Effect<A, DiskError>
  /** Erases what is left of letters that are none any more, and of what an earlier process has decided. */
  readonly tidy: Effect.Effect<void>
}

export const make = ({
  disk,
  guarded,
  isCounted,
  letters,
  segments,
  writing
}: Parts): Effect.Effect<Remains> =>
  Effect.gen(function* () {
    /** whether the line of a discarded letter may stand in a segment */
    let hasLines = true

    /** Erases the lines of discarded letters, where their segments are still there. */
    const eraseLines = (places: ReadonlyArray<Place>) =>
      Effect.suspend(() => {
        if (segments.all.length === 0) return Effect.void
        const bySegment = Arr.groupBy(places.filter(isCounted), ({ segment }) => String(segment))
        return Effect.forEach(
          [...segments.all],
          ({ first, path }) => {
            const offsets = (bySegment[first] ?? []).map(({ offset }) => offset)
            return offsets.length === 0 ? Effect.void : guarded(eraseInSegment(disk, path, offsets))
          },
          { discard: true }
        )
      })

    /** What is not erased now, since the disk is full or ill, is tried again with the next decision, and at a start. */
    const makeErasing = () => {
      /** said once, not for each try */
      let said: string | undefined
      return (erasure: Effect.Effect<void, DiskError>) =>
        Effect.matchEffect(erasure, {
          onSuccess: () => Effect.sync(() => (said = undefined)),
          onFailure: ({ code, message }) => {
            if (code === CLOSED || said === message) return Effect.void
            said = message
            return Effect.logWarning(
              `audit queue: what was decided is not erased yet (${message}): it is erased with the next decision, or at ` +
                `the next start`
            )
          }
        })
    }
    const [erasingLines, erasingLetters] = [makeErasing(), makeErasing()]

    const eraseDiscarded = Effect.suspend(() => {
      const [oldest] = segments.all
      const places = oldest === undefined ? [] : letters.discarded(oldest.first)
      hasLines = false
      return eraseLines(places).pipe(
        Effect.onError(() =>
          Effect.sync(() => {
            hasLines = true
          })
        )
      )
    })

    /** one at a time: two would write one file of heads */
    const tidying = yield* Effect.makeSemaphore(1)
    const tidy = Effect.suspend(() => (hasLines ? erasingLines(eraseDiscarded) : Effect.void)).pipe(
      Effect.zipRight(
        Effect.suspend(() =>
          letters.isUntidy() ? erasingLetters(letters.tidy(guarded, writing)) : Effect.void
        )
      ),
      tidying.withPermits(1)
    )

    return {
      discarding: (entries, decision) =>
        Effect.suspend(() => {
          hasLines = true
          const erased = Effect.zipRight(
            eraseLines(entries.map(({ letter }) => letter)),
            // one that was just removed is whole
            guarded(segments.syncRemovals)
          )
          return Effect.zipLeft(decision, erasingLines(erased))
        }),
      tidy
    }
  })
