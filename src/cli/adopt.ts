/** `effect-audit adopt`: takes over the queue file of the Python class. */
import * as FileSystem from "@effect/platform/FileSystem"
import { Effect } from "effect"
import { dirname } from "node:path"
import { isPartOfQueue } from "../internal/queue/directory.js"
import { isAbsent } from "../internal/queue/files.js"
import { queuesIn } from "../internal/queue/inspect.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Disk } from "../services/Disk.js"
import { Args, Command } from "./effectCli.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { counted } from "./format.js"
import { becomeFirstOwner } from "./owner.js"
import { directory, json, settingsOf } from "./settings.js"
import { print, printJson } from "./terminal.js"

// Args.file dies with a defect if it cannot look at the path
const file = Args.text({ name: "file" }).pipe(
  Args.withDescription("The file of the old program, which must be stopped")
)

export const adopt = Command.make("adopt", { directory, json, file }, (options) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const settings = yield* settingsOf(options.directory)
    const named = disk.resolve(options.file)
    const { info, path } = yield* Effect.catchIf(
      find(named),
      ({ code }) => code === "EACCES",
      () => refuseUnmovable(named)
    )
    if (info?.type !== "file") return yield* usageError(`There is no file ${named}.`)
    if (yield* isPartOfQueue(disk, path)) {
      return yield* usageError(
        `${path} is a part of a queue, and would count twice: name the old program's file. Nothing was changed.`
      )
    }
    const queue = yield* queueOf(settings)
    yield* becomeFirstOwner(queue, info)
    if (!(yield* canMove(path))) return yield* refuseUnmovable(path)

    const open = (adopt: { readonly path: string } | undefined) =>
      Effect.scoped(
        Effect.flatMap(
          QueueFileLayer.make({ ...settings, directory: queue, adopt, isCommand: true }),
          ({ status }) => status
        )
      )
    const before = yield* open(undefined)
    const { accepted, waiting } = yield* open({ path })
    const lines = accepted - before.accepted
    yield* options.json
      ? printJson({ directory: queue, lines, waiting })
      : print([
          `${counted(lines, "line")} of ${path} now stand${lines === 1 ? "s" : ""} in the queue, where ${waiting} ${waiting === 1 ? "waits" : "wait"}.`,
          "Times without a zone are read as this machine's when they are delivered, or as AUDIT_ADOPT_TIME_ZONE says."
        ])
  })
).pipe(
  Command.withDescription(
    "Take over the queue file of the Python class: its lines are delivered like all others, each once"
  )
)

/** The file at a path; a link is followed. */
const find = (named: string) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const path = yield* Effect.catchIf(disk.realPath(named), isAbsent, () => Effect.succeed(named))
    return { path, info: yield* disk.info(path) }
  })

/** The queue that adopts the file: the first of several instances, as when the program starts. */
const queueOf = ({
  directory,
  instances
}: {
  readonly directory: string
  readonly instances?: number | undefined
}) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const isThere = (yield* disk.info(directory)) !== undefined
    const [first = directory] = isThere ? yield* queuesIn(disk, directory) : []
    return first === directory && instances !== undefined ? `${directory}/instance-0` : first
  }).pipe(
    // the directory's owner is known without a look inside
    Effect.catchIf(
      ({ code }) => code === "EACCES",
      () => Effect.succeed(directory)
    )
  )

/** Whether this user owns the file and may move it out of its directory; root may always. */
const canMove = (path: string) =>
  Effect.gen(function* () {
    const { uid } = (yield* (yield* Disk).user) ?? { uid: 0 }
    if (uid === 0) return true
    yield* (yield* FileSystem.FileSystem).access(dirname(path), { writable: true })
    return (yield* find(path)).info?.uid === uid
  }).pipe(Effect.orElseSucceed(() => false))

const refuseUnmovable = (path: string) => {
  const uid = String(process.geteuid?.())
  return new Ended({
    code: ExitCode.needsOperator,
    message:
      `${path} is to become a part of the queue, which belongs to uid ${uid}: the file must belong to that user as ` +
      `well, and stand in a directory that this user may write to. Move it to one, run chown ${uid} on it, and ` +
      `repeat the command. Nothing was changed.`
  })
}
