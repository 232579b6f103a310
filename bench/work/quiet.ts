/**
 * What the rest of the program notices: the delay of its event loop, and timers and CPU while there is nothing to do.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { inChild } from "../child.js"
import * as database from "../database.js"
import { backlog } from "../fixture.js"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, round, row, spread } from "../measure.js"
import type { Idle } from "../process/idle.js"

const BARE = "delivery by bare mysql2"

/** the default of the option */
const POLL_MILLIS = 60_000

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => [
  ...(await eventLoop(settings)),
  ...(await idle(settings))
]

const newDirectory = (settings: Settings) => fs.mkdtempSync(path.join(settings.directory, "quiet-"))

const eventLoop = async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, quick } = settings
  const queue = await backlog(settings.directory, quick ? 20_000 : 1_000_000)
  const target = server === undefined ? undefined : await database.withOurTables(server, "event_loop")
  const url = target?.url ?? null
  const millis = quick ? 500 : 5000
  const subject = (
    name: string,
    work: "nothing" | "append" | "deliver",
    url: string | null,
    bare: ReadonlyArray<string> | null = null
  ) => ({
    name,
    run: async () => {
      const directory = work === "deliver" ? queue.copy() : newDirectory(settings)
      await target?.empty()
      const p999 = await inChild<number>("./process/eventLoop.js", {
        work,
        directory,
        url,
        millis,
        bare
      })
      fs.rmSync(directory, { recursive: true })
      return p999
    }
  })
  const subjects = [
    subject("idle, the control", "nothing", url),
    subject("append, 256 callers", "append", null),
    ...(url === null
      ? []
      : [subject("delivery", "deliver", url), subject(BARE, "deliver", url, queue.segments)])
  ]
  const samples = await interleaved(subjects, quick ? 1 : 9, COLD)
  const control = median(samples.get("idle, the control")!)
  return [...samples].map(([subject, delays]) => {
    const beyond = median(delays) - control
    return row({
      work: "delay of the event loop, p99.9",
      subject,
      measured: `${round(median(delays), 1)} ms`,
      spread: spread(delays.map((delay) => round(delay, 1))),
      ...(subject.startsWith("idle") || subject === BARE
        ? {}
        : { goal: "within 10 ms of an idle control run", met: beyond <= 10 })
    })
  })
}

const idle = async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, quick } = settings
  if (server === undefined) return []
  const target = await database.withOurTables(server, "idle")
  const millis = quick ? 1000 : 10_000
  const measure = (directory: string | null) =>
    inChild<Idle>("./process/idle.js", { directory, url: target.url, millis })
  // they are idle, so they do not disturb each other
  const [ours, control] = await Promise.all([measure(newDirectory(settings)), measure(null)])
  const beyond = ours.cpu - control.cpu
  return [
    row({
      work: "idle",
      subject: "effect-audit",
      goal: "no timer more often than the poll; no CPU",
      met: ours.timers <= Math.ceil(millis / POLL_MILLIS) && beyond <= 1,
      measured:
        `${ours.timers} timers fired in ${millis / 1000} s; CPU ${round(ours.cpu / 10, 3)} %, ` +
        `${round(control.cpu / 10, 3)} % without an audit log`
    })
  ]
}
