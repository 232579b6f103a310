/**
 * Delivery of 1,000,000: whether it slows down, what memory it takes, and what appends notice of it.
 *
 * @module
 */
import * as fs from "node:fs"
import { inChild } from "../child.js"
import * as database from "../database.js"
import { backlog } from "../fixture.js"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, round, row, spread } from "../measure.js"
import type { Delivery } from "../process/deliver.js"
import type { Paced } from "../process/pacedAppends.js"

const OURS = "effect-audit"
const BARE = "bare mysql2"

const list = (ratios: ReadonlyArray<number>) => ratios.map((ratio) => round(ratio)).join(", ")

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, quick } = settings
  if (server === undefined) return []
  const events = quick ? 20_000 : 1_000_000
  const rounds = quick ? 1 : 9
  const queue = await backlog(settings.directory, events)
  const target = await database.withOurTables(server, "million")
  const work = `delivery of ${events.toLocaleString("en")}`

  /** A child with a copy of the backlog, and with an empty table. */
  const child = async <A>(module: string, input: object): Promise<A> => {
    const directory = queue.copy()
    await target.empty()
    const result = await inChild<A>(module, { directory, events, ...input })
    fs.rmSync(directory, { recursive: true })
    return result
  }
  const deliver = (bare: ReadonlyArray<string> | null) => async () => {
    const delivery = await child<Delivery>("./process/deliver.js", { url: target.url, bare })
    await target.expect(events)
    return delivery
  }

  const deliveries = await interleaved<Delivery>(
    [
      { name: OURS, run: deliver(null) },
      { name: BARE, run: deliver(queue.segments) }
    ],
    rounds,
    COLD
  )
  const imports = await interleaved<number>(
    [{ name: "imports", run: () => inChild<number>("./process/importOnly.js", {}) }],
    rounds,
    COLD
  )
  const imported = median(imports.get("imports")!)
  const figures = (name: string) => {
    const counted = deliveries.get(name)!
    return {
      counted,
      rates: counted.map(({ millis }) => (events / millis) * 1000),
      tenths: counted.map(({ firstTenth, lastTenth }) => firstTenth / lastTenth),
      // megabytes, not mebibytes
      memory: counted.map(({ peakMiB }) => (peakMiB - imported) * 1.048576)
    }
  }
  const { counted, memory, rates, tenths } = figures(OURS)
  const bare = figures(BARE)

  // ------------------------------------------------------------------------------------------------- appends

  const paced = await interleaved<Paced>(
    [
      {
        name: "while delivering",
        run: () => child<Paced>("./process/pacedAppends.js", { url: target.url, millis: null })
      },
      {
        name: "control",
        run: () =>
          child<Paced>("./process/pacedAppends.js", {
            url: null,
            millis: median(counted.map((_) => _.millis))
          })
      }
    ],
    rounds,
    COLD
  )
  const longest = (name: string) => paced.get(name)!.map(({ longest }) => longest)
  const beyond = median(longest("while delivering")) - median(longest("control"))

  return [
    row({
      work,
      subject: OURS,
      eventsPerSecond: Math.round(median(rates)),
      spread: spread(rates.map(Math.round)),
      ratio: round(median(tenths)),
      goal: "the rate of the last tenth within 10 % of the first",
      met: Math.abs(1 - median(tenths)) <= 0.1,
      measured: `last tenth / first tenth: ${list(tenths)}; ${BARE}: ${list(bare.tenths)}`
    }),
    row({
      work,
      subject: OURS,
      spread: spread(memory.map((megabytes) => round(megabytes, 0))),
      goal: "peak memory at most 80 MB above a process that only imported the library",
      met: median(memory) <= 80,
      measured:
        `${round(median(memory), 0)} MB above ${round(imported * 1.048576, 0)} MB; ` +
        `${BARE}: ${round(median(bare.memory), 0)} MB`
    }),
    row({
      work: "append during that delivery, one every 2 ms",
      subject: OURS,
      callers: 1,
      p99Micros: Math.round(median(paced.get("while delivering")!.map((_) => _.p99Micros))),
      spread: spread(longest("while delivering").map((millis) => round(millis, 1))),
      goal: "the longest wait within 20 ms of a control run without delivery",
      met: beyond <= 20,
      measured: `longest wait ${round(median(longest("while delivering")), 1)} ms, ${round(median(longest("control")), 1)} ms without delivery`
    }),
    row({
      work: "append during that delivery, one every 2 ms",
      subject: "control: database down",
      callers: 1,
      p99Micros: Math.round(median(paced.get("control")!.map((_) => _.p99Micros))),
      spread: spread(longest("control").map((millis) => round(millis, 1))),
      measured: `longest wait ${round(median(longest("control")), 1)} ms`
    })
  ]
}
