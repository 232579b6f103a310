/** `effect-audit adopt`: takes over the queue file of the Python class. */
import { Effect } from "effect"
import { isAbsent } from "../internal/queue/files.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Disk } from "../services/Disk.js"
import { Args, Command } from "./effectCli.js"
import { usageError } from "./exit.js"
import { counted } from "./format.js"
import { becomeOwner } from "./owner.js"
import { directory, json, settingsOf } from "./settings.js"
import { print, printJson } from "./terminal.js"

const file = Args.file({ name: "file" }).pipe(
  Args.withDescription("The file of the old program, which must be stopped")
)

export const adopt = Command.make("adopt", { directory, json, file }, (options) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const settings = yield* settingsOf(options.directory)
    const named = disk.resolve(options.file)
    // a link is fine
    const path = yield* Effect.catchIf(disk.realPath(named), isAbsent, () => Effect.succeed(named))
    if ((yield* disk.info(path))?.type !== "file") return yield* usageError(`There is no file ${named}.`)
    yield* becomeOwner([settings.directory])

    const open = (adopt: { readonly path: string } | undefined) =>
      Effect.scoped(
        Effect.flatMap(QueueFileLayer.make({ ...settings, adopt, isCommand: true }), (queue) => queue.status)
      )
    const before = yield* open(undefined)
    const { accepted, waiting } = yield* open({ path })
    const lines = accepted - before.accepted
    yield* options.json
      ? printJson({ directory: settings.directory, lines, waiting })
      : print([
          `${counted(lines, "line")} of ${path} now stand${lines === 1 ? "s" : ""} in the queue, where ${waiting} wait.`,
          "Times without a zone are read as this machine's when they are delivered, or as AUDIT_ADOPT_TIME_ZONE says."
        ])
  })
).pipe(
  Command.withDescription(
    "Take over the queue file of the Python class: its lines are delivered like all others, each once"
  )
)
