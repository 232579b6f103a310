/**
 * Processes with an audit log (auditProgram.ts), which take commands.
 *
 * @module
 */
import type { Scope } from "effect"
import { Effect } from "effect"
import * as os from "node:os"
import type { AuditStatus } from "../../src/services/AuditLog.js"
import type { Answer, Command, OpenFailure } from "./auditProgram.js"
import type { Ended } from "./program.js"
import { start } from "./program.js"

type Open = Extract<Command, { readonly do: "open" }>

/** A process with an audit log. */
export interface AuditProcess {
  readonly pid: number
  /** Opens the log; returns the error if that fails. */
  readonly open: (
    settings: Open["settings"],
    options?: Pick<Open, "at" | "database" | "mysql">
  ) => Effect.Effect<OpenFailure | undefined>
  /** Records a use for each prompt. */
  readonly use: (...prompts: ReadonlyArray<string>) => Effect.Effect<void>
  readonly status: Effect.Effect<AuditStatus>
  readonly flush: Effect.Effect<void>
  readonly close: Effect.Effect<void>
  readonly umask: (mask: number) => Effect.Effect<void>
  /** Lets the process end by itself, and waits for that. */
  readonly end: Effect.Effect<Ended>
  /** Kills the process with SIGKILL, and waits for its end. */
  readonly kill: Effect.Effect<Ended>
}

/** Starts a process, which the scope kills; `under` is a command that runs it, such as `unshare -n`. */
export const auditProcess = (
  options: { readonly under?: ReadonlyArray<string> } = {}
): Effect.Effect<AuditProcess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => startProcess(options)),
    ({ kill }) => kill
  )

const startProcess = async (options: { readonly under?: ReadonlyArray<string> }): Promise<AuditProcess> => {
  const program = start("test/support/auditProgram.ts", { cwd: os.tmpdir(), ...options })
  let answers = 0

  const nextAnswer = async () => {
    const index = answers++
    await program.prints(new RegExp(`^(.*\\n){${index + 1}}`))
    return JSON.parse(program.stdout().split("\n")[index]!) as Answer
  }
  const { value: pid } = (await nextAnswer()) as { readonly value: number }

  const tell = (command: Command) =>
    Effect.promise(() => {
      program.stdin.write(`${JSON.stringify(command)}\n`)
      return nextAnswer()
    })
  const valueOf = (command: Command) =>
    Effect.map(tell(command), (answer) => {
      if ("error" in answer) throw new Error(answer.error.message)
      return answer.value
    })

  return {
    pid,
    open: (settings, options) =>
      Effect.map(tell({ do: "open", settings, ...options }), (answer) =>
        "error" in answer ? answer.error : undefined
      ),
    use: (...prompts) => Effect.asVoid(valueOf({ do: "use", prompts })),
    status: Effect.map(valueOf({ do: "status" }), (status) => status as AuditStatus),
    flush: Effect.asVoid(valueOf({ do: "flush" })),
    close: Effect.asVoid(valueOf({ do: "close" })),
    umask: (mask) => Effect.asVoid(valueOf({ do: "umask", mask })),
    end: Effect.promise(() => {
      program.stdin.end()
      return program.ended
    }),
    kill: Effect.promise(() => {
      program.kill("SIGKILL")
      return program.ended
    })
  }
}
