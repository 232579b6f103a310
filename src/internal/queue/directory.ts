/** The queue's directory: made, checked, locked and given an identity. */
import { Effect, Option, Schedule, Schema } from "effect"
import type { Duration, Scope } from "effect"
import { randomUUID } from "node:crypto"
import * as path from "node:path"
import { QueueLocked, QueueOpenError } from "../../schema/Errors.js"
import type { Disk, DiskError, Volume } from "../../services/Disk.js"
import { readText, replace } from "./files.js"

type DiskShape = Disk["Type"]

/** Turns a failure of the disk while opening into advice. */
export const openError = (directory: string) => (error: DiskError) =>
  new QueueOpenError({
    directory,
    reason: `${error.operation} ${error.path} failed with ${error.code}. Check that the directory exists, that this user may write to it, and that the disk works.`,
    cause: error.cause
  })

/** Creates the directory with its parents, and refuses one that cannot keep the promise; what holds it. */
export const prepare = (
  disk: DiskShape,
  directory: string,
  options: { readonly unsafeFileSystem: boolean }
): Effect.Effect<Volume, QueueOpenError> =>
  Effect.gen(function* () {
    const refuse = (reason: string) => new QueueOpenError({ directory, reason })
    yield* makeDirectories(disk, directory)
    const info = yield* disk.info(directory)
    if (info?.type !== "directory") return yield* refuse("it is not a directory. Give another path.")
    if ((info.mode & 0o002) !== 0) {
      return yield* refuse("everybody may write to it, so anybody could forge events. Run chmod o-w on it.")
    }
    const volume = yield* disk.volume(directory)
    if (volume.network && !options.unsafeFileSystem) {
      return yield* refuse(
        `it is on a network file system (${volume.type}), where neither locks nor fsync can be trusted. ` +
          `Use a local disk, or set unsafeFileSystem if you know better.`
      )
    }
    return volume
  }).pipe(Effect.catchTag("DiskError", (error) => openError(directory)(error)))

/** Says where the queue is, and warns of a place that is none for it; the owner does so, once. */
export const announce = (directory: string, { network, type }: Volume): Effect.Effect<void> =>
  Effect.gen(function* () {
    yield* Effect.logInfo(`audit queue: ${directory}`)
    if (EPHEMERAL.has(type)) {
      yield* Effect.logWarning(
        `audit queue: ${directory} is on ${type}, which does not outlive the machine or container: events that ` +
          `wait there are lost with it. Use a volume on a disk.`
      )
    }
    if (network) {
      yield* Effect.logWarning(
        `audit queue: ${directory} is on a network file system (${type}), where neither locks nor fsync can be ` +
          `trusted: acknowledged events may be lost. Use a local disk.`
      )
    }
  })

/** How much of the disk is left free, bytes, unless a program says otherwise. */
export const MIN_FREE_BYTES = 128 * 1024 * 1024

const EPHEMERAL = new Set(["tmpfs", "ramfs", "overlay"])

const makeDirectories = (disk: DiskShape, directory: string): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const parent = path.dirname(directory)
    let created = false
    if ((yield* disk.info(directory)) === undefined) {
      if (parent !== directory) yield* makeDirectories(disk, parent)
      created = yield* disk.makeDirectory(directory)
    }
    if (parent === directory) return
    // without it a power cut could take the directory with all that is in it
    const sync = disk.syncDirectory(parent)
    yield* created ? sync : Effect.ignore(sync)
  })

interface Owner {
  readonly pid: number
  /** tells this process from another one with the same pid, in another container */
  readonly process: string
}

const thisProcess: string = ((globalThis as Record<symbol, unknown>)[Symbol.for("effect-audit/process")] ??=
  randomUUID()) as string

/** Takes the lock of the directory until the scope closes. */
export const lock = (
  disk: DiskShape,
  directory: string,
  options: { readonly wait: Duration.Duration | undefined }
): Effect.Effect<void, QueueOpenError | QueueLocked, Scope.Scope> => {
  const owner: Owner = { pid: process.pid, process: thisProcess }
  const attempt = disk.lock(`${directory}/lock`, JSON.stringify(owner)).pipe(
    Effect.mapError(openError(directory)),
    Effect.flatMap((result) => {
      if (result.acquired) return Effect.void
      const other = Option.getOrUndefined(
        Option.liftThrowable(() => JSON.parse(result.content) as Partial<Owner>)()
      )
      return new QueueLocked({
        directory,
        pid: typeof other?.pid === "number" ? other.pid : undefined,
        sameProcess: other?.process === thisProcess
      })
    })
  )
  if (options.wait === undefined) return attempt
  return Effect.retry(attempt, {
    while: (error) => error._tag === "QueueLocked",
    schedule: Schedule.spaced("200 millis").pipe(Schedule.upTo(options.wait))
  })
}

const QueueInfo = Schema.parseJson(Schema.Struct({ format: Schema.Literal(1), queueId: Schema.UUID }))

/** Reads the identity of the queue, or gives it one; written once. */
export const identify = (disk: DiskShape, directory: string): Effect.Effect<string, QueueOpenError> =>
  Effect.gen(function* () {
    const file = `${directory}/queue.json`
    if ((yield* disk.info(file)) !== undefined) {
      const text = yield* readText(disk, file)
      const { queueId } = yield* Effect.mapError(
        Schema.decode(QueueInfo)(text),
        (cause) =>
          new QueueOpenError({
            directory,
            reason: `${file} is damaged, or of a newer version of effect-audit. Move it away to give the queue a new identity.`,
            cause
          })
      )
      return queueId
    }
    const queueId = randomUUID()
    const text = yield* Effect.orDie(Schema.encode(QueueInfo)({ format: 1, queueId }))
    yield* replace(disk, directory, file, text)
    return queueId
  }).pipe(Effect.catchTag("DiskError", (error) => openError(directory)(error)))
