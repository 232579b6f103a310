/** Remains: erases what segments and the dead-letter file still hold of letters that have ended. */
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
  /** runs steps that must not meet other changes of the letters */
  readonly guarded: Guarded
  /** runs any other write */
  readonly writing: Guarded
  /** whether the letter of a line counts already: delivery will not read the line again */
  readonly isCounted: (place: Place) => boolean
}

export interface Remains {
  /** Discards letters, then erases their lines in the segments that still exist; no power cut brings others back. */
  readonly discarding: <A>(
    entries: ReadonlyArray<Entry>,
    decision: Effect.Effect<A, DiskError>
  ) => Effect.Effect<A, DiskError>
  /** Erases what is left of letters that have ended, also by decisions of an earlier process. */
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
    /** whether a segment may hold the line of a discarded letter */
    let hasLines = true

    /** Erases the lines of discarded letters in the segments that still exist. */
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

    /** If an erasure fails, then the next decision and the next start try again. */
    const makeErasing = () => {
      /** the last message that was logged: not again for each try */
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

    /** one run at a time: two would write the same file of heads */
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
            // a segment that was just removed still holds the line, so no power cut may bring it back
            guarded(segments.syncRemovals)
          )
          return Effect.zipLeft(decision, erasingLines(erased))
        }),
      tidy
    }
  })
