/**
 * What every call of the command costs: its start, beside Node's own and that of Effect's library.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { promisify } from "node:util"
import { withOurTables } from "../database.js"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, now, pairedRatio, round, row, spread } from "../measure.js"
import * as ours from "../ours.js"

const exec = promisify(execFile)

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")
const EFFECT = 'node -e import("effect")'
/** what a call without the program's Effect may cost beside that import */
const GOAL = 1.1

/** Calls of the command that need neither a driver nor classes of events. */
const ALONE = [
  ["--help"],
  ["--version"],
  ["status"],
  ["dead", "list"],
  ["verify"],
  ["doctor"],
  ["migrate", "--print"]
]

/** Calls that load the program's Effect, for its driver, its classes of events, or both. */
const callsBesideEffect = (file: string, events: string, url: string | undefined) => {
  const withEvents = (call: ReadonlyArray<string>) => [...call, "--events", events]
  const withDriver = [
    ["doctor", "--sqlite", file],
    ["flush", "--sqlite", file],
    ...(url === undefined
      ? []
      : [
          ["doctor", "--url", url],
          ["flush", "--url", url]
        ])
  ]
  return [...withDriver, ...[["verify"], ["doctor"], ["migrate", "--print"], ...withDriver].map(withEvents)]
}

/** A class of events as programs have them. */
const EVENTS = `
import { Schema } from "effect"
import { AuditEvent } from "effect-audit"
export class Payment extends AuditEvent.Class()("payment", { table: "payments", fields: { account: Schema.String } }) {}
`

/** At its end, a process writes its processor's time into a file. */
const CLOCK = `
process.on("exit", () => {
  const { system, user } = process.cpuUsage()
  require("node:fs").writeFileSync(process.env.BENCH_CPU, String((user + system) / 1000))
})
`

interface Start {
  readonly cpu: number
  readonly wall: number
}

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const directory = fs.mkdtempSync(path.join(settings.directory, "start-"))
  const clock = path.join(directory, "clock.cjs")
  const cpu = path.join(directory, "cpu.txt")
  const events = path.join(directory, "events.mjs")
  const queue = path.join(directory, "audit")
  fs.writeFileSync(clock, CLOCK)
  fs.writeFileSync(events, EVENTS)
  // a queue to look at
  const log = await ours.open(queue)
  await log.close()
  const database =
    settings.database === undefined ? undefined : await withOurTables(settings.database, "started")

  const subject = (name: string, args: ReadonlyArray<string>) => ({
    name,
    run: async (): Promise<Start> => {
      const startedAt = now()
      // code 2, of a check that found something, counts as a start too
      await exec(process.execPath, ["--require", clock, ...args], {
        env: { ...process.env, AUDIT_DIRECTORY: queue, BENCH_CPU: cpu }
      }).catch((error: unknown) => {
        if (!(error instanceof Error && "code" in error && error.code === 2)) throw error
      })
      return { wall: now() - startedAt, cpu: Number(fs.readFileSync(cpu, "utf8")) }
    }
  })
  const command = (call: ReadonlyArray<string>) => {
    const said = call.map((word) =>
      word === events ? "FILE" : word.startsWith(directory) ? "DB" : word === database?.url ? "URL" : word
    )
    return subject(`effect-audit ${said.join(" ")}`, [COMMAND, ...call])
  }
  const alone = ALONE.map(command)
  const subjects = [
    subject("node -e 0", ["-e", "0"]),
    subject(EFFECT, ["--input-type=module", "-e", 'await import("effect")']),
    ...alone,
    ...callsBesideEffect(path.join(directory, "audit.db"), events, database?.url).map(command)
  ]
  const samples = await interleaved(subjects, settings.quick ? 2 : 15, COLD)
  const cpuOf = (taken: ReadonlyArray<Start>) => taken.map((start) => start.cpu)
  const limit = cpuOf(samples.get(EFFECT)!)
  return [...samples].map(([subject, taken]) => {
    const ratio = pairedRatio(cpuOf(taken), limit)
    const wall = median(taken.map((start) => start.wall))
    return row({
      work: "start",
      subject,
      ratio: round(ratio),
      measured: `${Math.round(median(cpuOf(taken)))} ms of the processor, ${Math.round(wall)} ms until its end`,
      spread: spread(cpuOf(taken).map(Math.round)),
      ...(alone.some(({ name }) => name === subject)
        ? { goal: `at most ${GOAL} times an import of effect`, met: ratio <= GOAL }
        : { goal: "its processor time is printed" })
    })
  })
}
