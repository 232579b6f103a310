/**
 * Reading 1,000,000 delivered events, beside programs that do the same by a stream of bare mysql2. A program reads the
 * newest, those of an hour, and all of them; the command exports them.
 *
 * @module
 */
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { CHROMIUM, lookAtEvents } from "../browser.js"
import { inChild } from "../child.js"
import * as database from "../database.js"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, now, pairedRatio, round, row, spread } from "../measure.js"
import * as ours from "../ours.js"
import type { Reading, What } from "../process/read.js"

const OURS = "effect-audit"
const BARE = "bare mysql2, a stream"

const DAY = 86_400_000
const START = Date.UTC(2026, 0, 1)
const GOAL = 0.8
const PAGE_MILLIS = 300

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")
const BY_HAND = path.join(import.meta.dirname, "..", "process", "exportByHand.js")

/** At its end, a process writes its processor's time and peak memory into a file. */
const CLOCK = `
process.on("exit", () => {
  const { system, user } = process.cpuUsage()
  const { maxRSS } = process.resourceUsage()
  require("node:fs").writeFileSync(process.env.BENCH_USAGE, JSON.stringify({ cpuMillis: (user + system) / 1000, peakMiB: maxRSS / 1024 }))
})
`

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, quick } = settings
  if (server === undefined) return []
  const events = quick ? 100_000 : 1_000_000
  const rounds = quick ? 1 : 9
  const target = await database.withOurTables(server, "reading", { index: true })
  await target.fill(events, START, 30 * DAY)
  const imported = median(
    (
      await interleaved<number>(
        [{ name: "imports", run: () => inChild<number>("./process/importOnly.js", {}) }],
        rounds,
        COLD
      )
    ).get("imports")!
  )
  const work = `reading of ${events.toLocaleString("en")}`
  const rows: Array<Row> = []
  const measure = async (what: string, run: (bare: boolean) => () => Promise<Reading>) => {
    const samples = await interleaved<Reading>(
      [
        { name: OURS, run: run(false) },
        { name: BARE, run: run(true) }
      ],
      rounds,
      COLD
    )
    rows.push(...rowsOf(`${work}: ${what}`, samples, imported))
  }

  for (const what of ["first page", "range", "all events"] satisfies ReadonlyArray<What>) {
    await measure(
      what,
      (bare) => () =>
        inChild<Reading>("./process/read.js", { url: target.url, what, bare, from: START + 9 * DAY })
    )
  }
  for (const format of ["--csv", "--json"]) {
    const run = (bare: boolean) => exported(settings, target.url, format, events, bare)
    const [ours, byHand] = [await run(false)("hash"), await run(true)("hash")]
    if (ours.hash !== byHand.hash) throw new Error(`the two do not write the same ${format}`)
    await measure(`export ${format}`, (bare) => () => run(bare)("time"))
  }
  rows.push(...(await pageRows(settings, target.url, `${work}: the page`)))
  return rows
}

/** The first rows of the page, in a browser. */
const pageRows = async (settings: Settings, url: string, work: string): Promise<ReadonlyArray<Row>> => {
  if (!fs.existsSync(CHROMIUM)) return []
  const queue = path.join(settings.directory, "page")
  await (await ours.open(queue)).close()
  const looks = await lookAtEvents(queue, url, settings.quick ? 3 : 15)
  const painted = looks.map((look) => look.painted)
  return [
    row({
      work,
      subject: "Chromium",
      spread: spread(painted.map(Math.round)),
      goal: `the first rows within ${PAGE_MILLIS} ms of the server's answer`,
      met: Math.max(...painted) <= PAGE_MILLIS,
      measured:
        `${looks[0]!.rows} rows painted ${round(median(painted), 0)} ms after the answer, which took ` +
        `${round(median(looks.map(({ answer }) => answer)), 0)} ms, the first ${round(looks[0]!.answer, 0)} ms`
    })
  ]
}

const rowsOf = (
  work: string,
  samples: ReadonlyMap<string, ReadonlyArray<Reading>>,
  imported: number
): ReadonlyArray<Row> => {
  const [ours, bare] = [samples.get(OURS)!, samples.get(BARE)!]
  const rates = (taken: ReadonlyArray<Reading>) => taken.map(({ millis, rows }) => (rows / millis) * 1000)
  const cpu = pairedRatio(
    bare.map(({ cpuMillis }) => cpuMillis),
    ours.map(({ cpuMillis }) => cpuMillis)
  )
  return [OURS, BARE].map((subject) => {
    const taken = samples.get(subject)!
    const ratio = round(pairedRatio(rates(taken), rates(bare)))
    const isGoal = subject === OURS && /all events|export/.test(work)
    const memory = median(taken.map(({ peakMiB }) => (peakMiB - imported) * 1.048576))
    return row({
      work,
      subject,
      eventsPerSecond: Math.round(median(rates(taken))),
      spread: spread(rates(taken).map(Math.round)),
      ratio,
      goal: isGoal ? `at least ${GOAL} of bare mysql2` : null,
      met: isGoal ? ratio >= GOAL : null,
      measured:
        `${taken[0]!.rows.toLocaleString("en")} rows in ${round(median(taken.map(({ millis }) => millis)), 0)} ms, ` +
        `${round(median(taken.map(({ cpuMillis }) => cpuMillis)), 0)} ms of its processor` +
        (subject === OURS ? ` (${round(cpu)} by that)` : "") +
        `; peak memory ${round(memory, 0)} MB above an import`
    })
  })
}

/** Runs a program that writes an export, start and end included. Its output goes nowhere, or is compared. */
const exported =
  (settings: Settings, url: string, format: string, events: number, bare: boolean) =>
  async (sink: "time" | "hash"): Promise<Reading & { readonly hash: string }> => {
    const clock = path.join(settings.directory, "usage.cjs")
    const usage = path.join(settings.directory, "usage.json")
    fs.writeFileSync(clock, CLOCK)
    const args = bare
      ? [BY_HAND, url, format]
      : [COMMAND, "events", "--kind", "use_log", "--reveal", "--url", url, format]
    const nowhere = fs.openSync("/dev/null", "w")
    const startedAt = now()
    const child = spawn(process.execPath, ["--require", clock, ...args], {
      env: { ...process.env, BENCH_USAGE: usage },
      stdio: ["ignore", sink === "time" ? nowhere : "pipe", "inherit"]
    })
    const hash = createHash("sha256")
    child.stdout?.on("data", (bytes: Buffer) => hash.update(bytes))
    const [code] = (await once(child, "close")) as [number | null]
    const millis = now() - startedAt
    fs.closeSync(nowhere)
    if (code !== 0) throw new Error(`${args.join(" ")} ended with ${code ?? "a signal"}`)
    const used = JSON.parse(fs.readFileSync(usage, "utf8")) as Pick<Reading, "cpuMillis" | "peakMiB">
    return { ...used, millis, rows: events, hash: hash.digest("hex") }
  }
