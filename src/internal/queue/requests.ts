/**
 * Requests: what another process asks the owner of a queue to do, mostly with dead letters.
 *
 * Each request is a file, written whole, which the owner removes when it is carried out. Only the owner of the lock
 * writes to the queue itself.
 */
import { Clock, Effect, Option, Schema, Stream } from "effect"
import { randomUUID } from "node:crypto"
import { Either } from "../../schema/Effect3.js"
import { visible } from "../../schema/Visible.js"
import { WRONG_TYPE, type Disk, type DiskError } from "../../services/Disk.js"
import { monotonicMillis } from "../monotonic.js"
import { Count, IsoTime, Letters } from "./fields.js"
import { isAbsent, readText, replace, TOO_LARGE } from "./files.js"
import { LetterSet } from "./letterSet.js"
import { CLOSED, type Lock } from "./lock.js"

const asked = {
  /** who asks, for the record */
  by: Schema.String,
  at: IsoTime
}

/** A request about dead letters: `letters` are their ids, or `all` that wait for a decision. */
const Decision = Schema.Struct({
  action: Schema.Literal("retry", "discard"),
  letters: Schema.Union(Schema.Literal("all"), Letters),
  ...asked
})
export type Decision = typeof Decision.Type

/** A request about delivered rows: a seal must record that they may be erased, or removed. */
const Permission = Schema.Union(
  Schema.Struct({
    action: Schema.Literal("erase"),
    kind: Schema.String,
    events: Schema.Array(Schema.UUID),
    ...asked
  }),
  Schema.Struct({
    action: Schema.Literal("purge"),
    chain: Schema.String.pipe(Schema.pattern(/^[0-9a-f]{32}$/)),
    before: Count,
    ...asked
  })
)
export type Permission = typeof Permission.Type

export const Request = Schema.Union(Decision, Permission)
export type Request = typeof Request.Type

/** A request before `submit` adds the time. */
export type Asked =
  | (Omit<Decision, "at" | "letters"> & { readonly letters: "all" | Iterable<string> })
  | DistributiveOmit<Permission, "at">
type DistributiveOmit<A, K extends PropertyKey> = A extends unknown ? Omit<A, K> : never

export const isPermission = (request: Request): request is Permission =>
  request.action === "erase" || request.action === "purge"

const MiB = 1024 * 1024
/** four times the largest request of the command: 100,000 ids of up to 33 characters */
const MAX_BYTES = 16 * MiB
/** How much one look reads, bytes: the rest waits until these requests are carried out. */
const HELD_BYTES = 4 * MAX_BYTES
/** the end of the name of a file that was set aside */
const BROKEN = ".broken"

const RequestFile = Schema.parseJson(Request)

export const directoryOf = (queue: string) => `${queue}/requests`

/** Leaves a request for the owner. Returns the path of its file, which the owner removes when it is carried out. */
export const submit = (disk: Disk["Type"], queue: string, request: Asked): Effect.Effect<string, DiskError> =>
  Effect.gen(function* () {
    const directory = directoryOf(queue)
    yield* disk.makeDirectory(directory)
    const now = yield* Clock.currentTimeMillis
    const number = numberAfter(yield* disk.list(directory), now)
    const file = `${directory}/${String(number).padStart(14, "0")}-${randomUUID()}.json`
    const at = new Date(now).toISOString()
    const text = Schema.encodeSync(RequestFile)(
      "letters" in request
        ? { ...request, letters: request.letters === "all" ? "all" : LetterSet.of(request.letters), at }
        : { ...request, at }
    )
    yield* replace(disk, directory, file, text)
    return file
  })

/** The number at the start of a request's name; names without one come last. */
const numberOf = (name: string): number => {
  const digits = /^\d{1,15}(?!\d)/.exec(name)?.[0]
  return digits === undefined ? Number.POSITIVE_INFINITY : Number(digits)
}

/**
 * A number above those of the present requests, and at least the time, which earlier versions use. By the time alone, a
 * clock that is set back would put a later request first.
 */
const numberAfter = (names: ReadonlyArray<string>, now: number): number =>
  names
    .map(numberOf)
    .filter(Number.isFinite)
    .reduce((last, number) => Math.max(last, number + 1), Math.max(0, Math.floor(now)))

const byNumber = (a: string, b: string): number => {
  const [first, second] = [numberOf(a), numberOf(b)]
  if (first !== second) return first < second ? -1 : 1
  return a < b ? -1 : 1
}

/** A file that is no valid request, and why. */
export interface Broken {
  readonly file: string
  readonly reason: string
}

interface Found {
  /** oldest first */
  readonly open: ReadonlyArray<{ readonly file: string; readonly request: Request }>
  /** whether there are more requests, which were not read */
  readonly hasMore: boolean
  /** files that will never be carried out, including those that an owner has set aside */
  readonly broken: ReadonlyArray<Broken>
}

/** Reads the requests, and changes nothing. Files that the disk cannot read now are left for a later look. */
export const look = (disk: Disk["Type"], queue: string): Effect.Effect<Found, DiskError> =>
  Effect.gen(function* () {
    const directory = directoryOf(queue)
    const names = yield* Effect.catchIf(disk.list(directory), isAbsent, () =>
      Effect.succeed<ReadonlyArray<string>>([])
    )
    const open: Array<Found["open"][number]> = []
    const broken: Array<Broken> = []
    let held = 0
    let hasMore = false
    for (const name of [...names].sort(byNumber)) {
      const file = `${directory}/${name}`
      if (name.endsWith(BROKEN)) broken.push({ file, reason: "it was set aside" })
      if (!name.endsWith(".json")) continue
      if (held >= HELD_BYTES) {
        hasMore = true
        continue
      }
      const text = yield* Effect.either(readText(disk, file, MAX_BYTES))
      if (Either.isLeft(text)) {
        const reason = reasonOf(text.left)
        if (reason !== undefined) broken.push({ file, reason })
        continue
      }
      const request = requestOf(text.right)
      if (Option.isSome(request)) {
        open.push({ file, request: request.value })
        held += text.right.length
      } else broken.push({ file, reason: "its content is not a valid request" })
    }
    return { open, hasMore, broken }
  })

/** Schema prints an action to find the member of a union; if the action is nested too deeply, then that throws. */
const requestOf = (text: string): Option.Option<Request> =>
  Option.flatten(Option.liftThrowable(Schema.decodeOption(RequestFile))(text))

/** Why a file can never be read; undefined if a later try may succeed. */
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

/** The open requests, oldest first. */
export const list = (disk: Disk["Type"], queue: string): Effect.Effect<Found["open"], DiskError> =>
  Effect.map(look(disk, queue), ({ open }) => open)

/** Whether an owner has set the file aside already. */
const isAside = ({ file }: Broken): boolean => file.endsWith(BROKEN)

/** The shortest time between two log lines about invalid files, milliseconds. */
const LOG_INTERVAL = 60_000

/**
 * Makes the function that sets invalid files aside. It renames them: they stay for the operator, and are not read
 * again. One log line names all of them.
 */
export const makeSetAside = (
  disk: Disk["Type"],
  whileWriting: Lock["whileWriting"]
): Effect.Effect<(broken: ReadonlyArray<Broken>) => Effect.Effect<void, DiskError>> =>
  Effect.map(Effect.clock, (clock) => {
    /** files that cannot be renamed; the next owner tries again */
    const stuck = new Set<string>()
    let unsaid: Array<Aside> = []
    let saidAt = Number.NEGATIVE_INFINITY

    const say = Effect.suspend(() => {
      const now = monotonicMillis(clock)
      if (unsaid.length === 0 || now - saidAt < LOG_INTERVAL) return Effect.void
      const text = describe(unsaid)
      unsaid = []
      saidAt = now
      return Effect.logWarning(`audit queue: ${text}`)
    })

    const setAside = (each: Broken) =>
      Effect.gen(function* () {
        const { file } = each
        const renamed = yield* Effect.either(whileWriting(disk.rename(file, file + BROKEN)))
        const code = Either.isLeft(renamed) ? renamed.left.code : undefined
        // the next owner sets it aside
        if (Either.isLeft(renamed) && code === CLOSED) return yield* renamed.left
        if (code !== undefined) stuck.add(file)
        unsaid.push({ ...each, code })
      })

    return (broken) =>
      Effect.forEach(
        broken.filter((each) => !isAside(each) && !stuck.has(each.file)),
        setAside,
        { discard: true }
      ).pipe(Effect.ensuring(say))
  })

/** A file that was renamed, or the code of the failure. */
interface Aside extends Broken {
  readonly code: string | undefined
}

const describe = (aside: ReadonlyArray<Aside>): string => {
  const { code, reason } = aside[0]!
  // anyone who may write to the directory chooses the names
  const file = visible(aside[0]!.file)
  if (aside.length === 1) {
    return (
      `${file} cannot be carried out as a request (${reason}) and ` +
      (code === undefined
        ? `is ${file}${BROKEN} now: repeat the command that has left it, and remove the file`
        : `cannot be renamed (${code}): remove it`)
    )
  }
  const stuck = aside.filter((each) => each.code !== undefined)
  const rest =
    stuck[0] === undefined
      ? ""
      : `; ${stuck.length} cannot be renamed, first ${visible(stuck[0].file)} (${String(stuck[0].code)})`
  return (
    `${aside.length} files cannot be carried out as requests, first ${file} (${reason}), and are renamed to ` +
    `NAME${BROKEN}${rest}: repeat the commands that have left them, and remove the files`
  )
}

/** Emits at once, and whenever there may be a new request; ends when the directory is gone. */
export const watch = (disk: Disk["Type"], queue: string): Stream.Stream<void, DiskError> => {
  const directory = directoryOf(queue)
  return Stream.unwrap(Effect.as(disk.makeDirectory(directory), disk.watch(directory))).pipe(
    Stream.takeUntilEffect(() => Effect.map(disk.info(directory), (info) => info === undefined)),
    Stream.catchSome((error) => (isAbsent(error) ? Option.some(Stream.empty) : Option.none()))
  )
}
