/**
 * What every call of the command costs: its start, beside Node's own and that of Effect's library.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { promisify } from "node:util"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, now, pairedRatio, round, row, spread } from "../measure.js"
import * as ours from "../ours.js"

const exec = promisify(execFile)

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")
const EFFECT = 'node -e import("effect")'
/** what it may cost beside that import */
const GOAL = 1.1

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const directory = fs.mkdtempSync(path.join(settings.directory, "start-"))
  // a queue to look at
  const log = await ours.open(directory)
  await log.close()
  const subject = (name: string, args: ReadonlyArray<string>) => ({
    name,
    run: async () => {
      const startedAt = now()
      await exec(process.execPath, [...args], { env: { ...process.env, AUDIT_DIRECTORY: directory } })
      return now() - startedAt
    }
  })
  const subjects = [
    subject("node -e 0", ["-e", "0"]),
    subject(EFFECT, ["--input-type=module", "-e", 'await import("effect")']),
    subject("effect-audit --help", [COMMAND, "--help"]),
    subject("effect-audit status", [COMMAND, "status"])
  ]
  const samples = await interleaved(subjects, settings.quick ? 2 : 15, COLD)
  const limit = samples.get(EFFECT)!
  return [...samples].map(([subject, taken]) => {
    const ratio = pairedRatio(taken, limit)
    return row({
      work: "start",
      subject,
      ratio: round(ratio),
      measured: `${Math.round(median(taken))} ms`,
      spread: spread(taken.map(Math.round)),
      ...(subject.startsWith("effect-audit")
        ? { goal: `at most ${GOAL} times an import of effect`, met: ratio <= GOAL }
        : {})
    })
  })
}
