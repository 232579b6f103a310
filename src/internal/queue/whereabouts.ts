/** Whereabouts: finds an undelivered event among the waiting lines or the dead letters of a queue. */
import { Chunk, Effect, Option, Stream } from "effect"
import type { Disk, DiskError } from "../../services/Disk.js"
import * as deadLetters from "./deadLetters.js"
import { queueIdOf } from "./directory.js"
import { ownerOf, queuesIn, snapshot, waitingLines } from "./inspect.js"
import type { Letter } from "./letter.js"
import { objectOf } from "./lines.js"

type Line = Readonly<Record<string, unknown>>

/** The id of a line without one. */
type IdOf = (
  queueId: string,
  line: { readonly bytes: Buffer; readonly offset: number; readonly segment: number }
) => string

/** The line of a waiting event, in the directory or one of its instances. */
export const findWaiting = (
  disk: Disk["Type"],
  directory: string,
  eventId: string,
  idOf: IdOf
): Effect.Effect<Option.Option<Line>, DiskError> =>
  Stream.fromIterableEffect(queuesIn(disk, directory)).pipe(
    Stream.flatMap((queue) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const found = yield* snapshot(disk, queue, yield* ownerOf(disk, queue))
          const queueId = Option.getOrUndefined(yield* queueIdOf(disk, queue))
          return Stream.filterMap(waitingLines(disk, found), (line) => {
            const event = objectOf(line.bytes)
            const own = event?.event_id
            const id = own ?? (queueId === undefined ? undefined : idOf(queueId, line))
            return event !== undefined && isId(id, eventId) ? Option.some(event) : Option.none()
          })
        })
      )
    ),
    Stream.runHead
  )

export interface FoundLetter {
  readonly letter: Letter
  readonly line: Line
}

/** how many letters, and bytes of their lines, are read at once */
const PAGE = { limit: 1000, contentBytes: 4 * 1024 * 1024 }

/** The dead letter of an event, if it waits for a decision. */
export const findLetter = (
  disk: Disk["Type"],
  directory: string,
  eventId: string,
  idOf: IdOf
): Effect.Effect<Option.Option<FoundLetter>, DiskError> =>
  Stream.fromIterableEffect(queuesIn(disk, directory)).pipe(
    Stream.flatMap((queue) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const letters = yield* deadLetters.make(disk, queue)
          const queueId = Option.getOrUndefined(yield* queueIdOf(disk, queue))
          return Stream.paginateChunkEffect(0, (from) =>
            Effect.map(letters.page({ select: () => true, from, ...PAGE }), ({ entries, next }) => [
              Chunk.fromIterable(entries),
              Option.fromNullable(next)
            ])
          ).pipe(
            Stream.filterMap(({ letter }) => {
              if (letter.line === undefined) return Option.none()
              const bytes = Buffer.from(letter.line)
              const line = objectOf(bytes)
              const id =
                line?.event_id ?? (queueId === undefined ? undefined : idOf(queueId, { ...letter, bytes }))
              return line !== undefined && isId(id, eventId) ? Option.some({ letter, line }) : Option.none()
            })
          )
        })
      )
    ),
    Stream.runHead
  )

const isId = (found: unknown, wanted: string): boolean =>
  typeof found === "string" && found.toLowerCase() === wanted
