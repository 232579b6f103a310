/** How the command ends: what a shell, a cron job or a probe reads. */
import { Data } from "effect"

/** The exit codes. 64 and 70 are those of sysexits.h. */
export const ExitCode = {
  fine: 0,
  /** events wait longer than they should, and nobody has to do anything yet */
  lagging: 1,
  needsOperator: 2,
  /** the books and the disk disagree */
  integrity: 3,
  usage: 64,
  defect: 70
} as const

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/** Ends the command with a code; the message, if there is one, goes to stderr. */
export class Ended extends Data.TaggedError("Ended")<{
  readonly code: ExitCode
  readonly message: string
}> {}

/** The command has said everything already. */
export const endWith = (code: ExitCode): Ended => new Ended({ code, message: "" })

export const usageError = (message: string): Ended => new Ended({ code: ExitCode.usage, message })

export const worst = (codes: ReadonlyArray<ExitCode>): ExitCode => Math.max(0, ...codes) as ExitCode
