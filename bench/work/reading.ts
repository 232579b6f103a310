/**
 * Reading 1,000,000 delivered events: the newest, the events of an hour, and all, beside a stream of bare mysql2.
 *
 * @module
 */
import { inChild } from "../child.js"
import * as database from "../database.js"
import type { Row, Settings } from "../measure.js"
import { COLD, interleaved, median, pairedRatio, round, row, spread } from "../measure.js"
import type { Reading, What } from "../process/read.js"

const OURS = "effect-audit"
const BARE = "bare mysql2, a stream"

const DAY = 86_400_000
const START = Date.UTC(2026, 0, 1)

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, quick } = settings
  if (server === undefined) return []
  const events = quick ? 100_000 : 1_000_000
  const rounds = quick ? 1 : 9
  const target = await database.withOurTables(server, "reading")
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
  for (const what of ["first page", "range", "export"] satisfies ReadonlyArray<What>) {
    const read = (bare: boolean) => () =>
      inChild<Reading>("./process/read.js", { url: target.url, what, bare, from: START + 9 * DAY })
    const samples = await interleaved<Reading>(
      [
        { name: OURS, run: read(false) },
        { name: BARE, run: read(true) }
      ],
      rounds,
      COLD
    )
    for (const subject of [OURS, BARE]) {
      const taken = samples.get(subject)!
      const rates = taken.map(({ millis, rows }) => (rows / millis) * 1000)
      const bare = samples.get(BARE)!.map(({ millis, rows }) => (rows / millis) * 1000)
      const ratio = round(pairedRatio(rates, bare))
      const isGoal = subject === OURS && what === "export"
      const memory = median(taken.map(({ peakMiB }) => (peakMiB - imported) * 1.048576))
      rows.push(
        row({
          work: `${work}: ${what}`,
          subject,
          eventsPerSecond: Math.round(median(rates)),
          spread: spread(rates.map(Math.round)),
          ratio,
          goal: isGoal ? "at least 0.8 of bare mysql2" : null,
          met: isGoal ? ratio >= 0.8 : null,
          measured:
            `${taken[0]!.rows.toLocaleString("en")} rows in ${round(median(taken.map(({ millis }) => millis)), 0)} ms; ` +
            `peak memory ${round(memory, 0)} MB above an import`
        })
      )
    }
  }
  return rows
}
