/**
 * Durable appends by 1, 16 and 256 callers: ours, the limits, the peers. Our database is down, since most of the others
 * have none; once more while delivery goes on.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as database from "../database.js"
import { makeLine } from "../event.js"
import * as limits from "../limits.js"
import type { Row, Sample, Settings, Subject } from "../measure.js"
import { interleaved, Load, median, pairedRatio, round, row, rowsOf, withFibers } from "../measure.js"
import * as ours from "../ours.js"
import * as peers from "../peers.js"

const WRITE_EACH = "limit: async write, O_DSYNC"
const GROUP_COMMIT = "limit: bare group commit"
const MAKING = "bare group commit that makes its lines"
const IN_FIBERS = "bare group commit that makes its lines, in fibers"
const LMDB_MAKING = "lmdb that makes its lines"
const REFERENCE_UP = "reference, worker on, database up"
const REFERENCE_DOWN = "reference, worker on, database down"

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const rows: Array<Row> = []
  for (const callers of [1, 16, 256]) rows.push(...(await append(settings, callers)))
  return rows
}

const append = async (settings: Settings, callers: number): Promise<ReadonlyArray<Row>> => {
  // one caller needs a few hundred appends until its code is back in the caches that others have used meanwhile
  const millis = settings.quick ? 80 : callers === 1 ? 1000 : 400
  const rounds = settings.quick ? 1 : 9
  const directory = fs.mkdtempSync(path.join(settings.directory, `append-${callers}-`))
  const line = makeLine()
  const limit = callers === 1 ? WRITE_EACH : GROUP_COMMIT
  const closing: Array<() => Promise<void>> = []
  // a real program is warm: with one caller it takes seconds until V8 has compiled its code
  const millisOf = (round: number) => (round === 0 && !settings.quick ? 2500 : millis)
  const load = (round: number) => new Load(callers, millisOf(round))

  const subject = (name: string, peer: peers.Peer): Subject => {
    closing.push(peer.close)
    return { name, run: (round) => peer.append(load(round)) }
  }
  const own = async (name: string, url?: string): Promise<Subject> => {
    const log = await ours.open(path.join(directory, name), ours.uploader(url))
    closing.push(log.close)
    return {
      name,
      run: async (round) => {
        const sample = await log.run(ours.append(load(round)))
        // so that it does not run into the next subject's time
        if (url !== undefined) await log.run(ours.deliver)
        return sample
      }
    }
  }

  const subjects: Array<Subject> = [
    await own("effect-audit"),
    {
      name: WRITE_EACH,
      run: (round) => limits.writeEach(load(round), path.join(directory, "each"), line)
    },
    {
      name: GROUP_COMMIT,
      run: (round) => limits.groupCommit(load(round), path.join(directory, "group"), () => line)
    },
    {
      name: MAKING,
      run: (round) => limits.groupCommit(load(round), path.join(directory, "making"), makeLine)
    },
    {
      name: IN_FIBERS,
      run: (round) => limits.groupCommit(load(round), path.join(directory, "fibers"), makeLine, withFibers)
    },
    subject("lmdb", await peers.lmdb(directory, () => line)),
    subject(LMDB_MAKING, await peers.lmdb(directory, makeLine)),
    subject("classic-level", await peers.classicLevel(directory, line)),
    subject(
      callers === 1 ? "better-sqlite3" : `better-sqlite3, a transaction for ${callers}`,
      await peers.sqlite(directory, line)
    )
  ]
  // with more callers it would still write one event after the other
  if (callers > 1) subjects.splice(1, 1)
  else subjects.push(subject("pino, fsync", await peers.pino(directory)))

  const { database: server, python } = settings
  if (server !== undefined) {
    const target = await database.withOurTables(server, `append_${callers}`)
    subjects.push(await own("effect-audit, delivering", target.url))
  }
  if (server !== undefined && python !== undefined) {
    const target = await database.withReferenceTables(server, `append_reference_${callers}`)
    const reference = (name: string, port: number): Subject => ({
      name,
      run: (round) => {
        const own = fs.mkdtempSync(path.join(directory, "reference-"))
        const task = { task: "append", directory: own, callers, seconds: millisOf(round) / 1000 } as const
        return peers.reference<Sample>(python, task, { host: server.host, port, database: target.name })
      }
    })
    subjects.push(reference(REFERENCE_UP, server.port), reference(REFERENCE_DOWN, 1))
  }

  // a quick run warms up by one caller only, since the others use the same code
  const samples = await interleaved(subjects, rounds, { warmUp: !settings.quick || callers === 1 })
  for (const close of closing) await close()
  return [...rowsOf("append", callers, samples, limit), ...goals(callers, samples, limit)]
}

/** A row for each goal, with the ratio to what the goal names. */
const goals = (
  callers: number,
  samples: ReadonlyMap<string, ReadonlyArray<Sample>>,
  limit: string
): ReadonlyArray<Row> => {
  const rates = (name: string) => samples.get(name)?.map(({ eventsPerSecond }) => eventsPerSecond)
  const p99s = (name: string) => samples.get(name)!.map(({ p99Micros }) => p99Micros!)
  const ours = "effect-audit"
  const rate = Math.round(median(rates(ours)!))
  const p99Micros = Math.round(median(p99s(ours)))

  const atLeast = (least: number, other: string, goal: string): ReadonlyArray<Row> => {
    const others = rates(other)
    if (others === undefined) return []
    const ratio = pairedRatio(rates(ours)!, others)
    return [
      row({
        work: "append",
        subject: ours,
        callers,
        eventsPerSecond: rate,
        p99Micros,
        ratio: round(ratio),
        goal,
        met: ratio >= least
      })
    ]
  }

  const share = { 1: 0.9, 16: 0.8, 256: 0.7 }[callers]!
  const rows = [
    ...atLeast(share, limit, `at least ${share.toFixed(2)} of the ${limit.replace("limit: ", "")}`),
    ...atLeast(1, "lmdb", "ahead of lmdb")
  ]
  if (callers === 1) rows.push(...atLeast(1, REFERENCE_UP, "ahead of the reference with its worker on"))
  if (callers === 256) {
    rows.push(...atLeast(25, REFERENCE_UP, "at least 25 times the reference"))
    const ratio = pairedRatio(p99s(ours), p99s(limit))
    rows.push(
      row({
        work: "append",
        subject: ours,
        callers,
        eventsPerSecond: rate,
        p99Micros,
        ratio: round(ratio),
        goal: "p99 within 1.3 of the bare group commit's",
        met: ratio <= 1.3
      })
    )
  }
  return rows
}
