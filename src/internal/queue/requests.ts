/**
 * What another process asks the owner of a queue to do with its dead letters: a file for each request, written whole,
 * removed when it is carried out. Only the owner of the lock writes to the queue itself.
 */
import { Clock, Effect, Option, Schema, Stream } from "effect"
import { randomUUID } from "node:crypto"
import { Either } from "../../schema/Effect3.js"
import { WRONG_TYPE, type Disk, type DiskError } from "../../services/Disk.js"
import { IsoTime, LetterId } from "./fields.js"
import { isAbsent, readText, replace, TOO_LARGE } from "./files.js"

/** A request: `letters` are their ids, or `all` that wait for a decision. */
export const Request = Schema.Struct({
  action: Schema.Literal("retry", "discard"),
  letters: Schema.Union(Schema.Literal("all"), Schema.Array(LetterId)),
  /** who asks, for the record */
  by: Schema.String,
  at: IsoTime
})
export type Request = typeof Request.Type

const MiB = 1024 * 1024
/** ten times what the command writes at most: 50,000 ids of up to 33 letters */
const MAX_BYTES = 16 * MiB
/** the end of the name of a file that was set aside */
const BROKEN = ".broken"

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

/** A file that is no request, and why. */
export interface Broken {
  readonly file: string
  readonly reason: string
}

interface Found {
  /** oldest first */
  readonly open: ReadonlyArray<{ readonly file: string; readonly request: Request }>
  /** what will never be carried out, those that an owner has set aside included */
  readonly broken: ReadonlyArray<Broken>
}

/** Reads what lies there, and changes nothing. What the disk cannot read now is left for a later look. */
export const look = (disk: Disk["Type"], queue: string): Effect.Effect<Found, DiskError> =>
  Effect.gen(function* () {
    const directory = directoryOf(queue)
    const names = yield* Effect.catchIf(disk.list(directory), isAbsent, () =>
      Effect.succeed<ReadonlyArray<string>>([])
    )
    const open: Array<Found["open"][number]> = []
    const broken: Array<Broken> = []
    for (const name of [...names].sort()) {
      const file = `${directory}/${name}`
      if (name.endsWith(BROKEN)) broken.push({ file, reason: "it was set aside" })
      if (!name.endsWith(".json")) continue
      const text = yield* Effect.either(readText(disk, file, MAX_BYTES))
      if (Either.isLeft(text)) {
        const reason = reasonOf(text.left)
        if (reason !== undefined) broken.push({ file, reason })
        continue
      }
      const request = Schema.decodeEither(RequestFile)(text.right)
      if (Either.isRight(request)) open.push({ file, request: request.right })
      else broken.push({ file, reason: "its content is none of a request" })
    }
    return { open, broken }
  })

/** Why a file will never be read; undefined if a later try may succeed. */
const reasonOf = ({ cause, code }: DiskError): string | undefined => {
  switch (code) {
    case TOO_LARGE:
      return `it is larger than ${MAX_BYTES / MiB} MiB`
    case WRONG_TYPE:
      return cause instanceof Error ? cause.message : "it is no regular file"
    case "EACCES":
    case "EPERM":
      return "this user may not read it"
    default:
      return undefined
  }
}

/** The requests that are open, oldest first. */
export const list = (disk: Disk["Type"], queue: string): Effect.Effect<Found["open"], DiskError> =>
  Effect.map(look(disk, queue), ({ open }) => open)

/** Whether an owner has set the file aside already. */
export const isAside = ({ file }: Broken): boolean => file.endsWith(BROKEN)

/** Renames what is no request, so that it is not read again, and keeps it for the operator. */
export const setAside = (disk: Disk["Type"], { file }: Broken): Effect.Effect<string, DiskError> =>
  Effect.as(disk.rename(file, file + BROKEN), file + BROKEN)

/** Emits at once, and when there may be a new request; ends when the directory is gone. */
export const watch = (disk: Disk["Type"], queue: string): Stream.Stream<void, DiskError> => {
  const directory = directoryOf(queue)
  return Stream.unwrap(Effect.as(disk.makeDirectory(directory), disk.watch(directory))).pipe(
    Stream.takeUntilEffect(() => Effect.map(disk.info(directory), (info) => info === undefined)),
    Stream.catchSome((error) => (isAbsent(error) ? Option.some(Stream.empty) : Option.none()))
  )
}
