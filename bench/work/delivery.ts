/**
 * Delivery of a backlog of 100,000, whole: open, read, parse, insert, until the database has committed it all.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as database from "../database.js"
import { asReferenceFile, asTabSeparated, backlog } from "../fixture.js"
import * as limits from "../limits.js"
import type { Row, Sample, Settings, Subject } from "../measure.js"
import { interleaved, median, now, pairedRatio, round, rowsOf } from "../measure.js"
import * as ours from "../ours.js"
import * as peers from "../peers.js"

const OURS = "effect-audit"
const OURS_2 = "effect-audit, 2 connections"
const LIMIT = "limit: bare mysql2, prepared"
const LIMIT_2 = "limit: bare mysql2, prepared, 2 connections"
const REFERENCE = "reference"
const LOAD_DATA = "LOAD DATA, native client, no JSON work"

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => [
  ...(await toMariaDB(settings)),
  ...(await toMySQL(settings))
]

const LIMIT_TEXT = "limit: bare mysql2, text made by hand"
const LIMIT_TEXT_2 = "limit: bare mysql2, text made by hand, 2 connections"

/** To Oracle's MySQL, which takes text faster than prepared statements. */
const toMySQL = async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { oracle } = settings
  if (oracle === undefined) return []
  const queue = await backlog(settings.directory, settings.quick ? 10_000 : 100_000)
  const target = await database.withOurTables(oracle, "delivery")
  const { bare, own } = subjectsOf(queue, target)
  const samples = await interleaved(
    [
      own(OURS, 1),
      bare(LIMIT_TEXT, 1, false, "text"),
      own(OURS_2, 2),
      bare(LIMIT_TEXT_2, 2, false, "text"),
      bare(LIMIT, 1, false)
    ],
    settings.quick ? 1 : 15
  )
  const rows = rowsOf(`delivery of ${queue.events.toLocaleString("en")} to MySQL`, null, samples, LIMIT_TEXT)
  return [
    ...rows,
    ...goal(rows, samples, OURS, LIMIT_TEXT, "at least 0.90 of the best bare form on one connection", 0.9),
    ...goal(
      rows,
      samples,
      OURS_2,
      LIMIT_TEXT_2,
      "at least 0.90 of the best bare form on two connections",
      0.9
    ),
    ...processor(rows, samples)
  ]
}

/** Goals of our processor's time for an event. */
const processor = (
  rows: ReadonlyArray<Row>,
  samples: ReadonlyMap<string, ReadonlyArray<Sample>>
): ReadonlyArray<Row> =>
  rows
    .filter(({ subject }) => samples.has(subject))
    .map((own) => {
      const micros = median(samples.get(own.subject)!.map(({ cpuMicros = 0 }) => cpuMicros))
      const isOurs = own.subject === OURS
      return {
        ...own,
        ratio: null,
        measured: `${micros.toFixed(1)} µs of our processor for an event`,
        goal: isOurs ? "at most 12 µs of our processor for an event" : "its processor time is printed",
        met: isOurs ? micros <= 12 : null
      }
    })

type Queue = Awaited<ReturnType<typeof backlog>>

const subjectsOf = (queue: Queue, target: database.Database) => {
  const { events, segments } = queue
  /** `deliver` returns how long it took for so many events, in milliseconds. */
  const subject = (
    name: string,
    deliver: () => Promise<number>,
    { empty, expect }: database.Database = target,
    count = events
  ): Subject => ({
    name,
    run: async () => {
      await empty()
      const before = process.cpuUsage()
      const millis = await deliver()
      const { system, user } = process.cpuUsage(before)
      await expect(count)
      return { eventsPerSecond: (count / millis) * 1000, cpuMicros: (system + user) / count }
    }
  })
  const own = (name: string, connections: number) =>
    subject(name, async () => {
      const directory = queue.copy()
      const startedAt = now()
      const log = await ours.open(directory, ours.uploader(target.url, connections))
      await log.run(ours.deliver)
      const took = now() - startedAt
      await log.close()
      fs.rmSync(directory, { recursive: true })
      return took
    })
  const bare = (name: string, connections: number, ready: boolean, form?: "prepared" | "text") =>
    subject(name, () => limits.insertAll(target.url, segments, { connections, ready, form }))
  return { subject, own, bare }
}

const toMariaDB = async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: server, python } = settings
  if (server === undefined) return []
  const queue = await backlog(settings.directory, settings.quick ? 10_000 : 100_000)
  const { events } = queue
  const target = await database.withOurTables(server, "delivery")
  const { bare, own, subject } = subjectsOf(queue, target)

  // Ours and the limits without the peers, in many rounds: one round differs from the next by a tenth. A peer in a
  // separate process makes the next subject slower. Rows in memory cause a full collection, which drops compiled code.
  const limited = [own(OURS, 1), bare(LIMIT, 1, false), own(OURS_2, 2), bare(LIMIT_2, 2, false)]
  const samples = await interleaved(limited, settings.quick ? 1 : 30)

  const subjects = [
    ...limited,
    bare("bare mysql2, prepared, rows in memory", 1, true),
    bare("bare mysql2, prepared, rows in memory, 2 connections", 2, true)
  ]
  if (await peers.hasClient()) {
    const file = path.join(settings.directory, "events.tsv")
    asTabSeparated(queue, file)
    subjects.push(subject(LOAD_DATA, () => peers.loadData(server, target.name, file)))
  }
  if (python !== undefined) {
    const file = path.join(settings.directory, "reference.ndjson")
    const copy = path.join(settings.directory, "reference-copy.ndjson")
    // the reference is slow: a quick run has it deliver fewer
    const part = settings.quick ? await backlog(settings.directory, 2000) : queue
    asReferenceFile(part, file)
    const old = await database.withReferenceTables(server, "delivery_reference")
    const deliver = async () => {
      fs.copyFileSync(file, copy)
      const task = { task: "deliver", file: copy } as const
      const { host, port } = server
      return (await peers.reference<{ millis: number }>(python, task, { host, port, database: old.name }))
        .millis
    }
    subjects.push(subject(REFERENCE, deliver, old, part.events))
  }
  // in a quick run, ours and the limits are warm already, and the peers' own time is short
  const besidePeers = await interleaved(subjects, settings.quick ? 1 : 5, { warmUp: !settings.quick })

  const work = `delivery of ${events.toLocaleString("en")}`
  const rows = rowsOf(work, null, samples, LIMIT)
  const peerRows = rowsOf(work, null, besidePeers, LIMIT).filter(({ subject }) => !samples.has(subject))
  return [
    ...rows,
    ...peerRows,
    ...goal(rows, samples, OURS, LIMIT, "at least 0.90 of bare mysql2 on one connection", 0.9),
    ...goal(rows, besidePeers, OURS, REFERENCE, "at least 8 times the reference", 8),
    ...goal(rows, samples, OURS_2, LIMIT_2, "at least 0.90 of bare mysql2 on two connections", 0.9),
    ...goal(rows, besidePeers, OURS_2, LOAD_DATA, "the ratio to LOAD DATA is printed"),
    ...processor(rows, samples)
  ]
}

const goal = (
  rows: ReadonlyArray<Row>,
  samples: ReadonlyMap<string, ReadonlyArray<Sample>>,
  subject: string,
  other: string,
  text: string,
  least?: number
): ReadonlyArray<Row> => {
  const rates = (name: string) => samples.get(name)?.map(({ eventsPerSecond }) => eventsPerSecond)
  const others = rates(other)
  if (others === undefined) return []
  const ratio = pairedRatio(rates(subject)!, others)
  const own = rows.find((row) => row.subject === subject)!
  return [{ ...own, ratio: round(ratio), goal: text, met: least === undefined ? null : ratio >= least }]
}
