/**
 * What a large backlog costs while the database is down: appends behind it, and opening its directory.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { backlog } from "../fixture.js"
import type { Row, Settings } from "../measure.js"
import { interleaved, Load, median, now, pairedRatio, round, row, rowsOf, spread } from "../measure.js"
import * as ours from "../ours.js"

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { copy, events } = await backlog(settings.directory, settings.quick ? 20_000 : 1_000_000)
  const full = copy()
  const millis = settings.quick ? 100 : 700
  const rounds = settings.quick ? 1 : 9
  const waiting = `${events.toLocaleString("en")} waiting`
  const rows: Array<Row> = []

  const emptyDirectory = () => fs.mkdtempSync(path.join(settings.directory, "empty-"))

  for (const callers of [1, 256]) {
    const subject = (name: string, directory: () => string) => ({
      name,
      run: async () => {
        const log = await ours.open(directory())
        const sample = await log.run(ours.append(new Load(callers, millis)))
        await log.close()
        return sample
      }
    })
    const subjects = [subject("nothing waiting", emptyDirectory), subject(waiting, () => full)] as const
    const samples = await interleaved(subjects, rounds)
    const [empty, behind] = subjects.map(({ name }) => samples.get(name)!.map((_) => _.eventsPerSecond))
    const ratio = pairedRatio(behind!, empty!)
    rows.push(
      ...rowsOf("append, database down", callers, samples, "nothing waiting").map((row) =>
        row.subject === waiting
          ? { ...row, goal: "within 5 % of the same with an empty queue", met: Math.abs(1 - ratio) <= 0.05 }
          : row
      )
    )
  }

  const opening = (name: string, directory: () => string) => ({
    name,
    run: async () => {
      const target = directory()
      const startedAt = now()
      const log = await ours.open(target)
      const took = now() - startedAt
      await log.close()
      return took
    }
  })
  const openings = await interleaved(
    [opening("nothing waiting", emptyDirectory), opening(waiting, () => full)],
    rounds
  )
  const beyond = median(openings.get(waiting)!) - median(openings.get("nothing waiting")!)
  for (const [subject, taken] of openings) {
    rows.push(
      row({
        work: "opening a directory",
        subject,
        measured: `${round(median(taken), 1)} ms`,
        spread: spread(taken.map((millis) => round(millis, 1))),
        ...(subject === waiting
          ? {
              goal: "at most 50 ms beyond an empty one",
              met: beyond <= 50,
              measured: `${round(median(taken), 1)} ms, ${round(beyond, 1)} more`
            }
          : {})
      })
    )
  }
  return rows
}
