/**
 * The command `effect-audit` as a child process, and queues in the states that an operator sees.
 *
 * @module
 */
import { Effect, Either } from "effect"
import { spawnSync } from "node:child_process"
import * as path from "node:path"
import { v7 } from "uuid"
import { compile } from "../../src/schema/Line.js"
import { UseLog, type UseLogInput } from "../../src/schema/UseLog.js"
import type { Ended } from "./program.js"
import { run, start } from "./program.js"
import { nodeDisk, withQueue } from "./queue.js"

/** The source of `effect-audit`. */
const COMMAND = "src/cli/main.ts"

export interface Ran extends Ended {
  /** Each line of its output, parsed. */
  readonly json: () => ReadonlyArray<Record<string, unknown>>
}

/** Runs the command on a directory; `under` is a command that runs it, such as `setpriv`. */
export const effectAudit = (
  directory: string,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {},
  under: ReadonlyArray<string> = []
): Effect.Effect<Ran> =>
  Effect.promise(async () => {
    // a user who may not enter the directory cannot start there
    const cwd = under.length === 0 ? directory : path.dirname(directory)
    const ended = await run(COMMAND, { cwd, args, env: { AUDIT_DIRECTORY: directory, ...env }, under })
    return {
      ...ended,
      json: () =>
        ended.stdout
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line) as Record<string, unknown>)
    }
  })

// exits with the command's code
const pty = (columns: number) => `
import os, pty, select, sys, fcntl, struct, termios
pid, fd = pty.fork()
if pid == 0:
    if os.environ.get("NO_COLOR") == "": del os.environ["NO_COLOR"]
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, ${columns}, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
inputs = [fd, 0]
while True:
    ready, _, _ = select.select(inputs, [], [])
    try: data = os.read(ready[0], 65536)
    except OSError: break
    if ready[0] == fd: os.write(1, data)
    elif data: os.write(fd, data)
    else: inputs.remove(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`

/** Whether we can imitate a terminal here. */
export const hasPty =
  spawnSync("python3", ["-c", "import pty, termios, os; os.waitstatus_to_exitcode"]).status === 0

/** Starts the command; `under` is a command that runs it, such as `setpriv`. */
export const startEffectAudit = (
  directory: string,
  args: ReadonlyArray<string>,
  under: ReadonlyArray<string> = []
) => start(COMMAND, { cwd: path.dirname(directory), args, env: { AUDIT_DIRECTORY: directory }, under })

/** Starts the command in a terminal; its results may go to a file. */
export const inTerminal = (
  directory: string,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {},
  columns = 100,
  file?: string
) =>
  start(COMMAND, {
    cwd: directory,
    args,
    env: { TERM: "xterm-256color", NO_COLOR: "", AUDIT_DIRECTORY: directory, ...env },
    under: [
      "python3",
      "-c",
      pty(columns),
      ...(file === undefined ? [] : ["sh", "-c", 'file="$1"; shift; exec "$@" > "$file"', "sh", file])
    ]
  })

/** Serves the page of a directory until the scope closes. Returns its address, with the token. */
export const serve = (directory: string, args: ReadonlyArray<string> = []) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const program = startEffectAudit(directory, ["serve", ...args])
      await program.prints(/#\S+\n/)
      const address = new URL(program.stdout().trim())
      return { address, origin: address.origin, token: address.hash.slice(1), program }
    }),
    ({ program }) => {
      program.kill("SIGTERM")
      return Effect.promise(() => program.ended)
    }
  )

/** A use as a line of the queue. */
export const useLine = (
  input: Partial<UseLogInput>,
  { at = Date.now(), eventId = v7() }: { readonly at?: number; readonly eventId?: string } = {}
) => ({
  eventId,
  line: Either.getOrThrow(compile(UseLog).encode({ status: "success", ...input }, eventId, at))
})

/** Appends uses to a directory's queue, makes dead letters of the first ones, and closes it. */
export const fill = (
  directory: string,
  uses: ReadonlyArray<ReturnType<typeof useLine>>,
  refused: ReadonlyArray<{ readonly class: "rejected" | "unknownKind"; readonly reason: string }> = []
) =>
  Effect.flatMap(nodeDisk, (disk) =>
    withQueue(disk, { directory }, (queue) =>
      Effect.gen(function* () {
        for (const { eventId, line } of uses) yield* queue.append(line, eventId)
        if (refused.length === 0) return
        const batch = yield* queue.take({ maxRecords: refused.length, maxBytes: 1 << 20 })
        yield* queue.commit(
          batch,
          refused.map((refusal, index) => ({
            record: batch.records.at(index)!,
            kind: "use_log",
            ...(refusal.class === "rejected" ? { code: "1406" } : {}),
            ...refusal
          }))
        )
      })
    )
  )
