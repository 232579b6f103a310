/**
 * What another process asks the owner of a queue to do with its dead letters: a file for each request, written whole,
 * removed when it is carried out. Only the owner of the lock writes to the queue itself.
 */
import { Clock, Effect, Option, Schema, Stream } from "effect"
import { randomUUID } from "node:crypto"
import { Either } from "../../schema/Effect3.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import { isAbsent, readText, replace } from "./files.js"

/** A request: `letters` are their ids, or `all` that wait for a decision. */
export const Request = Schema.Struct({
  action: Schema.Literal("retry", "discard"),
  letters: Schema.Union(Schema.Literal("all"), Schema.Array(Schema.String)),
  /** who asks, for the record */
  by: Schema.String,
  /** ISO 8601 */
  at: Schema.String
})
export type Request = typeof Request.Type

const RequestFile = Schema.parseJson(Request)

/** Where the requests for a queue lie. */
export const directoryOf = (queue: string) => `${queue}/requests`

/** Leaves a request for the owner; the path of its file, which is gone once it is carried out. */
export const submit = (
  disk: Disk["Type"],
  queue: string,
  request: Omit<Request, "at">
): Effect.Effect<string, DiskError> =>
  Effect.gen(function* () {
    const directory = directoryOf(queue)
    yield* disk.makeDirectory(directory)
    const now = yield* Clock.currentTimeMillis
    // named by time, so that they are carried out in the order in which they came
    const file = `${directory}/${String(now).padStart(14, "0")}-${randomUUID()}.json`
    const text = Schema.encodeSync(RequestFile)({ ...request, at: new Date(now).toISOString() })
    yield* replace(disk, directory, file, text)
    return file
  })

/** The requests that are open, oldest first. What cannot be read is none, and stays where it is. */
export const list = (
  disk: Disk["Type"],
  queue: string
): Effect.Effect<ReadonlyArray<{ readonly file: string; readonly request: Request }>, DiskError> =>
  Effect.gen(function* () {
    const directory = directoryOf(queue)
    const names = yield* Effect.catchIf(disk.list(directory), isAbsent, () =>
      Effect.succeed<ReadonlyArray<string>>([])
    )
    const requests: Array<{ readonly file: string; readonly request: Request }> = []
    for (const name of [...names].sort()) {
      if (!name.endsWith(".json")) continue
      const file = `${directory}/${name}`
      const text = yield* Effect.option(readText(disk, file))
      const request = Option.map(text, Schema.decodeEither(RequestFile))
      if (Option.isSome(request) && Either.isRight(request.value)) {
        requests.push({ file, request: request.value.right })
      }
    }
    return requests
  })

/** Emits at once, and when there may be a new request. */
export const watch = (disk: Disk["Type"], queue: string): Stream.Stream<void, DiskError> => {
  const directory = directoryOf(queue)
  return Stream.unwrap(Effect.as(disk.makeDirectory(directory), disk.watch(directory)))
}
