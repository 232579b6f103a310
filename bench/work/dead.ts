/**
 * What an operator waits for: 100,000 dead letters decided by the command, beside an owner and without one.
 *
 * @module
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { inChild } from "../child.js"
import * as database from "../database.js"
import type { Row, Settings } from "../measure.js"
import { median, now, round, row } from "../measure.js"
import type { Owner } from "../process/letters.js"

/** Seconds for all of them; memory above `--help`; milliseconds that an event waits longer if recorded meanwhile. */
const GOAL_SECONDS = 10
const GOAL_MIB = 50
const GOAL_MILLIS = 250

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")

interface Ran {
  readonly seconds: number
  readonly peakMiB: number
  readonly output: string
}

/** Runs the command, which tells its peak memory when it ends. */
const command = async (directory: string, ...args: ReadonlyArray<string>): Promise<Ran> => {
  const told = path.join(directory, "..", "peak")
  const tell = `import fs from "node:fs"; process.on("exit", () => fs.writeFileSync(${JSON.stringify(told)}, String(process.resourceUsage().maxRSS)))`
  const startedAt = now()
  const child = spawn(
    process.execPath,
    ["--import", `data:text/javascript,${encodeURIComponent(tell)}`, COMMAND, ...args],
    { env: { ...process.env, AUDIT_DIRECTORY: directory }, stdio: ["ignore", "pipe", "inherit"] }
  )
  let output = ""
  child.stdout.on("data", (text: Buffer) => (output += text.toString()))
  const [code] = (await once(child, "close")) as [number | null]
  const seconds = (now() - startedAt) / 1000
  if (code !== 0) throw new Error(`${args.join(" ")} ended with ${code ?? "a signal"}: ${output}`)
  return { seconds, output, peakMiB: Number(fs.readFileSync(told, "utf8")) / 1024 }
}

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const letters = settings.quick ? 10_000 : 100_000
  const made = path.join(settings.directory, "letters")
  await inChild<Owner>("./process/letters.js", { work: "refuse", directory: made, events: letters })
  const help = await command(made, "--help")
  const target =
    settings.database === undefined ? undefined : await database.withOurTables(settings.database, "letters")

  const decided = async (args: ReadonlyArray<string>, isOwned: boolean) => {
    const root = fs.mkdtempSync(path.join(settings.directory, "dead-"))
    const directory = path.join(root, "queue")
    fs.cpSync(made, directory, { recursive: true })
    const [started, stop] = [path.join(root, "started"), path.join(root, "stop")]
    const owner = isOwned
      ? inChild<Owner>("./process/letters.js", { work: "own", directory, url: target?.url, started, stop })
      : undefined
    while (isOwned && !fs.existsSync(started)) await Promise.race([owner, sleep(20)])
    const ran = await command(directory, "dead", ...args, "--all", "--json").finally(() =>
      fs.writeFileSync(stop, "")
    )
    const { stay } = JSON.parse(ran.output) as { readonly stay: ReadonlyArray<string> }
    if (stay.length > 0) throw new Error(`${stay.length} letters stay`)
    const result = { ...ran, owner: await owner }
    fs.rmSync(root, { recursive: true })
    return result
  }

  const rows: Array<Row> = []
  for (const args of [["discard", "--yes"], ["retry"]]) {
    for (const isOwned of [false, true]) {
      await target?.empty()
      const { owner, peakMiB, seconds } = await decided(args, isOwned)
      const work = `${letters.toLocaleString("en")} dead letters`
      const subject = `${args[0]!}, ${isOwned ? "beside an owner" : "without an owner"}`
      const beyond = peakMiB - help.peakMiB
      rows.push(
        row({
          work,
          subject,
          goal: `under ${GOAL_SECONDS} s`,
          met: seconds < GOAL_SECONDS,
          measured: `${round(seconds, 1)} s`
        }),
        row({
          work,
          subject,
          goal: `at most ${GOAL_MIB} MiB above --help`,
          met: beyond <= GOAL_MIB,
          measured: `${round(beyond, 0)} MiB above ${round(help.peakMiB, 0)}`
        })
      )
      if (owner === undefined) continue
      const [before, longest] = [Math.max(...owner.quiet), Math.max(...owner.delays)]
      rows.push(
        row({
          work,
          subject,
          goal: `an event recorded meanwhile waits at most ${GOAL_MILLIS} ms longer`,
          met: longest <= before + GOAL_MILLIS,
          measured:
            `delivered after ${round(median(owner.delays), 0)} ms, at most ${round(longest, 0)} ms ` +
            `(${owner.delays.length} events); without letters ${round(median(owner.quiet), 0)} ms, at most ` +
            `${round(before, 0)} ms; the owner's peak ${round(owner.peakMiB, 0)} MiB`
        })
      )
    }
  }
  return rows
}
