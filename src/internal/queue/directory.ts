/** The queue's directory: makes it, checks it and gives it an identity. */
import { Effect, Option, Schema } from "effect"
import { randomUUID } from "node:crypto"
import * as path from "node:path"
import { QueueOpenError } from "../../schema/Errors.js"
import { DiskError, type Disk, type FileInfo, type User, type Volume } from "../../services/Disk.js"
import { isAbsent, linkedTwice, readRecord, replace, shellWord } from "./files.js"
import { isSegment } from "./segments.js"

type DiskShape = Disk["Type"]

/** Turns a disk error during opening into advice. */
export const openError = (directory: string) => (error: DiskError) =>
  new QueueOpenError({
    directory,
    reason:
      error.advice === undefined
        ? `${error.operation} ${error.path} failed with ${error.code}. Check that it exists, that this user may write to it, and that the disk works.`
        : `${error.advice}.`,
    cause: error.cause
  })

/** Where a queue is kept. */
export interface Place {
  /** absolute, without symbolic links */
  readonly directory: string
  readonly volume: Volume
  /** whether a group may write to it, as platforms such as Kubernetes arrange */
  readonly isShared: boolean
}

/** The path, without symbolic links, of a directory that need not exist yet. */
export const realPathOf = (disk: DiskShape, given: string): Effect.Effect<string, DiskError> =>
  Effect.catchIf(
    disk.realPath(given),
    (error) => isAbsent(error) && path.dirname(given) !== given,
    () =>
      Effect.map(realPathOf(disk, path.dirname(given)), (parent) => path.join(parent, path.basename(given)))
  )

/** Creates the directory with its parents, and refuses one where events would not be safe. */
export const prepare = (
  disk: DiskShape,
  given: string,
  options: { readonly unsafeFileSystem: boolean }
): Effect.Effect<Place, QueueOpenError> =>
  Effect.gen(function* () {
    yield* makeDirectories(disk, given)
    const directory = yield* disk.realPath(given)
    const refuse = (reason: string) => new QueueOpenError({ directory, reason })
    const info = yield* disk.info(directory)
    if (info?.type !== "directory") return yield* refuse("it is not a directory. Give another path.")
    const user = yield* disk.user
    const access = accessOf(info, user)
    if (access.type === "refused")
      return yield* refuse(`${access.reason} Run ${access.command} ${shellWord(directory)}`)
    if (access.type === "tooOpen") {
      yield* disk.restrict(directory)
      yield* Effect.logInfo(
        `audit queue: ${directory} was open to its group (${info.mode.toString(8)}) and is 0700 now`
      )
    }
    const volume = yield* disk.volume(directory)
    if (volume.network && !options.unsafeFileSystem) {
      return yield* refuse(
        `it is on a network file system (${volume.type}), where neither locks nor fsync can be trusted. ` +
          `Use a local disk, or set unsafeFileSystem if you know better.`
      )
    }
    yield* checkFiles(disk, directory, user)
    return { directory, volume, isShared: access.type === "shared" }
  }).pipe(Effect.catchTag("DiskError", (error) => openError(given)(error)))

/** A user's access to a directory: `tooOpen` is mended; `shared` is the platform's wish, and logged as a warning. */
export type Access =
  | { readonly type: "fine" | "tooOpen" | "shared" }
  | { readonly type: "refused"; readonly reason: string; readonly command: string }

const GROUP_MAY_WRITE = 0o020
const OTHERS_MAY_WRITE = 0o002

/** A user's access to a directory; always fine on Windows, where `user` is undefined. */
export const accessOf = (
  { gid, mode, uid }: Pick<FileInfo, "gid" | "mode" | "uid">,
  user: User | undefined
): Access => {
  if (user === undefined) return { type: "fine" }
  if ((mode & OTHERS_MAY_WRITE) !== 0) {
    return {
      type: "refused",
      reason: "everybody may write to it, so anybody could forge events.",
      command: "chmod o-w"
    }
  }
  const isOpenToGroup = (mode & GROUP_MAY_WRITE) !== 0
  if (uid === user.uid) return { type: isOpenToGroup ? "tooOpen" : "fine" }
  if (user.uid === 0) return { type: "fine" }
  // Kubernetes (fsGroup) and OpenShift mount volumes like this
  if (uid === 0 && isOpenToGroup && user.gids.includes(gid)) return { type: "shared" }
  return {
    type: "refused",
    reason: `it belongs to uid ${uid}, and this process runs as uid ${user.uid}.`,
    command: chownTo(user)
  }
}

const chownTo = ({ gids, uid }: User) => `chown -R ${uid}${gids[0] === undefined ? "" : `:${gids[0]}`}`

/** Room for a dead letter on a full disk: see reserve.ts. */
export const RESERVE = "reserve"

export const LETTERS = "dead-letter.ndjson"
export const lettersIn = (directory: string): string => `${directory}/${LETTERS}`

/** Files that must belong to this user. A file in `REPLACED` belongs to whoever wrote it last. */
const KEPT: ReadonlyArray<string> = ["lock", "cursor", LETTERS, RESERVE, "queue.json", "adoption.json"]
const REPLACED: ReadonlyArray<string> = ["status.json", "adoption.copy"]
/** Files that are written in place: a hard link outside would change with them. */
const WRITTEN: ReadonlyArray<string> = ["lock", "cursor", LETTERS]
const DIRECTORY = "requests"

/** Whether the name is that of a queue's file. */
const isKnown = (name: string): boolean => {
  const whole = name.replace(/\.new$/, "")
  return KEPT.includes(whole) || REPLACED.includes(whole) || isSegment(name)
}

/** Whether a file is a part of any queue, by its directory and its name. */
export const isPartOfQueue = (disk: DiskShape, file: string): Effect.Effect<boolean, DiskError> => {
  const parent = path.dirname(file)
  const isRequest = path.basename(parent) === DIRECTORY
  if (!isRequest && !isKnown(path.basename(file))) return Effect.succeed(false)
  return isIdentified(disk, isRequest ? path.dirname(parent) : parent)
}

/** Refuses a directory where a name of the queue belongs to something else, or a file to another user. */
const checkFiles = (
  disk: DiskShape,
  directory: string,
  user: User | undefined
): Effect.Effect<void, QueueOpenError | DiskError> =>
  Effect.gen(function* () {
    let foreign: { readonly name: string; readonly uid: number } | undefined
    let others = 0
    for (const name of yield* disk.list(directory)) {
      if (!isKnown(name) && name !== DIRECTORY) continue
      const isKept = KEPT.includes(name) || isSegment(name) || name === DIRECTORY
      const file = `${directory}/${name}`
      const info = yield* disk.info(file)
      // an owner may have removed it meanwhile; a directory with the name of a segment is ignored
      if (info === undefined || (info.type === "directory" && isSegment(name))) continue
      if (info.type !== (name === DIRECTORY ? "directory" : "file")) {
        return yield* new QueueOpenError({
          directory,
          reason:
            `${file} is no ${name === DIRECTORY ? "directory" : "regular file"}, and nothing that the queue has ` +
            `made. See what it is and who put it there, and move it away.`
        })
      }
      if (WRITTEN.includes(name) && info.links > 1) {
        return yield* new QueueOpenError({ directory, reason: `${file}: ${linkedTwice(file)}` })
      }
      if (isKept && user !== undefined && user.uid !== 0 && info.uid !== user.uid) {
        if (foreign !== undefined) others++
        foreign ??= { name, uid: info.uid }
      }
    }
    if (foreign === undefined) return
    const which =
      others === 0 ? `${foreign.name} in it belongs` : `${foreign.name} and ${others} more in it belong`
    return yield* new QueueOpenError({
      directory,
      reason:
        `${which} to uid ${foreign.uid}, and this process runs as uid ${user!.uid}. ` +
        `Run ${chownTo(user!)} ${shellWord(directory)}`
    })
  })

/** Logs where the queue is, and warns if the place is unsafe. The owner does this once. */
export const announce = (place: Place): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { directory, volume } = place
    yield* Effect.logInfo(`audit queue: ${directory}`)
    yield* warnOfSharing(place)
    if (EPHEMERAL.has(volume.type)) {
      yield* Effect.logWarning(
        `audit queue: ${directory} is on ${volume.type}, which does not outlive the machine or container: events ` +
          `that wait there are lost with it. Use a volume on a disk.`
      )
    }
    if (volume.network) {
      yield* Effect.logWarning(
        `audit queue: ${directory} is on a network file system (${volume.type}), where neither locks nor fsync can ` +
          `be trusted: acknowledged events may be lost. Use a local disk.`
      )
    }
  })

/** Warns if a group may write to the directory. */
export const warnOfSharing = ({ directory, isShared }: Place): Effect.Effect<void> =>
  isShared
    ? Effect.logWarning(
        `audit queue: ${directory} belongs to root, and its group may write to it: whoever is in the group can ` +
          `remove or replace files of the queue. Give no other program this group.`
      )
    : Effect.void

/** The default of `minFreeBytes`: what the queue leaves free on the disk. */
export const MIN_FREE_BYTES = 128 * 1024 * 1024

/** File systems that do not outlive the machine or container. */
export const EPHEMERAL: ReadonlySet<string> = new Set(["tmpfs", "ramfs", "overlay"])

const makeDirectories = (disk: DiskShape, directory: string): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const parent = path.dirname(directory)
    let created = false
    if ((yield* disk.info(directory)) === undefined) {
      if (parent !== directory) yield* makeDirectories(disk, parent)
      created = yield* disk.makeDirectory(directory)
    }
    if (parent === directory) return
    // without this sync a power cut could take the directory and everything in it
    const sync = disk.syncDirectory(parent)
    yield* created ? sync : Effect.ignore(sync)
  })

/** Format 2: the only entry of a decided letter may be its decision, which earlier versions do not count. */
const FORMATS = [1, 2] as const
const QueueInfo = Schema.parseJson(
  Schema.Struct({ format: Schema.Literal(...FORMATS), queueId: Schema.UUID })
)
/** The field that every version writes. */
const Newer = Schema.parseJson(
  Schema.Struct({ format: Schema.Int.pipe(Schema.greaterThan(FORMATS.at(-1)!)) })
)

const identityIn = (directory: string) => `${directory}/queue.json`

export const isIdentified = (disk: DiskShape, directory: string): Effect.Effect<boolean, DiskError> =>
  Effect.map(disk.info(identityIn(directory)), (info) => info !== undefined)

/** The identity of a queue, from which ids of old lines are derived; none if it is not made yet, or damaged. */
export const queueIdOf = (
  disk: DiskShape,
  directory: string
): Effect.Effect<Option.Option<string>, DiskError> =>
  readRecord(disk, identityIn(directory)).pipe(
    Effect.map((text) => Option.map(Schema.decodeOption(QueueInfo)(text), ({ queueId }) => queueId)),
    Effect.catchIf(isAbsent, () => Effect.succeed(Option.none()))
  )

/** Reads the identity of the queue. If it has none, then it gets the one that is passed, a new one by default. */
export const identify = (
  disk: DiskShape,
  directory: string,
  queueId: string = randomUUID()
): Effect.Effect<string, QueueOpenError> =>
  Effect.gen(function* () {
    const file = identityIn(directory)
    if ((yield* disk.info(file)) !== undefined) {
      const text = yield* readRecord(disk, file)
      const found = yield* Effect.mapError(
        Schema.decode(QueueInfo)(text),
        // without the cause: it repeats the file, and printing it may throw if the file is nested too deeply
        () =>
          new QueueOpenError({
            directory,
            reason: Option.match(Schema.decodeOption(Newer)(text), {
              onNone: () =>
                `${file} is damaged, or of a newer version of effect-audit; nothing was changed. Restore it from a copy, ` +
                `or move it away to give the queue a new identity: only old lines without ids then get others.`,
              onSome: ({ format }) =>
                `${file} is damaged or, rather, of a newer version of effect-audit (format ${format}, and this one knows ` +
                `${FORMATS.join(" and ")}); nothing was changed. Use that version, or a later one.`
            })
          })
      )
      return found.queueId
    }
    const text = yield* Effect.orDie(Schema.encode(QueueInfo)({ format: 1, queueId }))
    yield* replace(disk, directory, file, text)
    return queueId
  }).pipe(Effect.catchTag("DiskError", (error) => openError(directory)(error)))

/** Raises the format, so that earlier versions refuse to open the queue. */
export const raiseFormat = (disk: DiskShape, directory: string): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const file = `${directory}/queue.json`
    const found = Schema.decodeOption(QueueInfo)(yield* readRecord(disk, file))
    if (Option.isNone(found)) {
      const cause = new Error("it is damaged")
      return yield* new DiskError({ operation: "read", path: file, code: "EBADMSG", cause })
    }
    if (found.value.format === 2) return
    yield* replace(disk, directory, file, Schema.encodeSync(QueueInfo)({ ...found.value, format: 2 }))
  })
