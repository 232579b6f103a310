/** The command `effect-audit`, for those who operate a queue. */
import * as PlatformError from "@effect/platform/Error"
import { Cause, ConfigError, Console, Effect, Exit, Layer, Logger, LogLevel, Option } from "effect"
import { createRequire } from "node:module"
import * as path from "node:path"
import { stripVTControlCharacters } from "node:util"
import * as NodeDisk from "../layers/NodeDisk.js"
import { TrailError, UploadError } from "../schema/Errors.js"
import { Disk, DiskError } from "../services/Disk.js"
import { adopt } from "./adopt.js"
import { callOf, helpOf, isHelp, nodeOf } from "./call.js"
import { dead, deadNode } from "./dead.js"
import { events } from "./delivered.js"
import { doctor } from "./doctor.js"
import { CliConfig, Command, HelpDoc, ValidationError } from "./effectCli.js"
import { show, tail } from "./events.js"
import { Ended, ExitCode } from "./exit.js"
import { flush } from "./flush.js"
import { migrate } from "./migrate.js"
import { overview } from "./overview.js"
import { adviceOnAccess } from "./owner.js"
import { NodeFileSystem, NodePath, NodeRuntime, NodeTerminal } from "./platformNode.js"
import { erase, purge } from "./permit.js"
import { prove } from "./prove.js"
import { serve } from "./serve.js"
import { status } from "./status.js"
import { isJson, logger, print, sayError, withoutArgument, withPlainConsole } from "./terminal.js"
import { verify } from "./verify.js"

const { version } = createRequire(import.meta.url)("../../package.json") as { readonly version: string }

const SUBCOMMANDS = [
  status,
  tail,
  show,
  events,
  flush,
  dead,
  doctor,
  migrate,
  adopt,
  verify,
  prove,
  erase,
  purge,
  serve
] as const

const command = Command.make("effect-audit", {}, () => print(overview(version))).pipe(
  Command.withDescription("Shows an audit queue, and works on it"),
  Command.withSubcommands([...SUBCOMMANDS])
)

const tree = nodeOf(
  command,
  SUBCOMMANDS.map((each) => (each === dead ? deadNode : nodeOf(each)))
)

const run = Command.run(command, { name: "effect-audit", version })

const program = Effect.gen(function* () {
  const call = yield* callOf(tree, process.argv.slice(2))
  // the help of @effect/cli repeats all flags of all commands, and omits the parents of a sub-command
  if (isHelp(call)) {
    return yield* call.words.length === 0
      ? print(overview(version))
      : Console.log(helpOf(call, { ...CliConfig.defaultConfig, showBuiltIns: false }))
  }
  return yield* run([...process.argv.slice(0, 2), ...call.args])
})

const failing = (code: ExitCode, text: string): Effect.Effect<ExitCode> =>
  Effect.as(sayError(code, text), code)

/** Says what to do about a path that cannot be used. */
const sayUnusable = (target: string, code: string, message: string) =>
  Effect.gen(function* () {
    const isForbidden = code === "EACCES" || code === "EPERM"
    const advice = isForbidden ? yield* adviceOnAccess(target) : undefined
    return yield* failing(ExitCode.needsOperator, advice ?? message)
  })

/** Says what went wrong, and returns the exit code. */
const failed = (cause: Cause.Cause<unknown>): Effect.Effect<ExitCode, never, Disk> => {
  if (Cause.isInterruptedOnly(cause)) return Effect.succeed(ExitCode.fine)
  const error = Option.getOrUndefined(Cause.failureOption(cause))
  if (error instanceof Ended)
    return error.message === "" ? Effect.succeed(error.code) : failing(error.code, error.message)
  if (ValidationError.isValidationError(error)) {
    // without --json, @effect/cli has printed it already
    const text = withoutArgument(stripVTControlCharacters(HelpDoc.toAnsiText(error.error)).trim())
    return isJson ? failing(ExitCode.usage, text) : Effect.succeed(ExitCode.usage)
  }
  if (ConfigError.isConfigError(error)) return failing(ExitCode.usage, Cause.pretty(cause))
  if (error instanceof UploadError || error instanceof TrailError)
    return failing(error.class === "operator" ? ExitCode.needsOperator : ExitCode.lagging, error.message)
  if (error instanceof DiskError) return sayUnusable(error.path, error.code, error.message)
  // a queue's errors say what to do
  if (error instanceof Error) return failing(ExitCode.needsOperator, error.message)
  // @effect/cli dies with a defect if it cannot look at a path
  const defect = Cause.squash(cause)
  if (PlatformError.isPlatformError(defect) && defect._tag === "SystemError") {
    const { description, pathOrDescriptor, reason } = defect
    const named = path.resolve(String(pathOrDescriptor))
    const text = `${named} cannot be looked at (${description ?? reason}): see whether the path is right.`
    // our Disk has better advice
    return Effect.flatMap(Disk, ({ realPath }) =>
      Effect.matchEffect(realPath(named), {
        onFailure: ({ advice, code, path: place }) => sayUnusable(place, code, advice ?? text),
        onSuccess: () => sayUnusable(named, reason === "PermissionDenied" ? "EACCES" : reason, text)
      })
    )
  }
  return failing(ExitCode.defect, Cause.pretty(cause))
}

// EPIPE: the reader has seen enough, as in `effect-audit tail | head`
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 70))

program.pipe(
  Effect.as<ExitCode>(ExitCode.fine),
  Effect.catchAllCause(failed),
  withPlainConsole,
  Effect.provide(
    Layer.mergeAll(
      NodeDisk.layer,
      NodeFileSystem.layer,
      NodePath.layer,
      NodeTerminal.layer,
      CliConfig.layer({ showBuiltIns: false }),
      logger,
      Logger.minimumLogLevel(LogLevel.None)
    )
  ),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    disablePrettyLogger: true,
    teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) ? Number(exit.value) : ExitCode.defect)
  })
)
