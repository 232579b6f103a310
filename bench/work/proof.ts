/**
 * What a proof costs: delivery with it beside delivery without it, and proving 1,000,000 rows by the command.
 *
 * @module
 */
import { spawn } from "node:child_process"
import { generateKeyPairSync } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import * as database from "../database.js"
import { backlog } from "../fixture.js"
import type { Row, Sample, Server, Settings, Subject } from "../measure.js"
import { interleaved, median, now, pairedRatio, round, row, rowsOf } from "../measure.js"
import * as ours from "../ours.js"

const PLAIN = "effect-audit"
const PROOF = "effect-audit, with a proof"
/** of the rate without a proof */
const GOAL = 0.8
/** megabytes that a proof may take, whatever there is to prove */
const GOAL_MB = 250

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")

const { privateKey, publicKey } = generateKeyPairSync("ed25519", {
  privateKeyEncoding: { type: "pkcs8", format: "pem" },
  publicKeyEncoding: { type: "spki", format: "pem" }
})

export default async (settings: Settings): Promise<ReadonlyArray<Row>> => {
  const { database: mariadb, oracle } = settings
  const rows: Array<Row> = []
  for (const [name, server] of [
    ["", mariadb],
    [" to MySQL", oracle]
  ] as const) {
    if (server === undefined) continue
    rows.push(...(await delivery(settings, server, name)))
  }
  if (mariadb !== undefined) rows.push(...(await proving(settings, mariadb)))
  return rows
}

/** Delivers the queue; returns the milliseconds that it took. */
const deliver = async (
  queue: Awaited<ReturnType<typeof backlog>>,
  target: database.Database,
  proof: string | undefined
): Promise<number> => {
  const directory = queue.copy()
  const startedAt = now()
  const log = await ours.open(directory, ours.uploader(target.url), proof)
  await log.run(ours.deliver)
  const took = now() - startedAt
  await log.close()
  fs.rmSync(directory, { recursive: true })
  return took
}

const delivery = async (settings: Settings, server: Server, to: string): Promise<ReadonlyArray<Row>> => {
  const queue = await backlog(settings.directory, settings.quick ? 10_000 : 100_000)
  const target = await database.withOurTables(server, "proof", { proof: true })
  const subject = (name: string, proof: string | undefined): Subject => ({
    name,
    run: async () => {
      await target.empty()
      const before = process.cpuUsage()
      const millis = await deliver(queue, target, proof)
      const { system, user } = process.cpuUsage(before)
      await target.expect(queue.events)
      return {
        eventsPerSecond: (queue.events / millis) * 1000,
        cpuMicros: (system + user) / queue.events
      }
    }
  })
  const samples: ReadonlyMap<string, ReadonlyArray<Sample>> = await interleaved(
    [subject(PLAIN, undefined), subject(PROOF, privateKey)],
    settings.quick ? 1 : 20
  )
  const rows = rowsOf(`proof: delivery of ${queue.events.toLocaleString("en")}${to}`, null, samples, PLAIN)
  const rates = (name: string) => samples.get(name)!.map(({ eventsPerSecond }) => eventsPerSecond)
  const ratio = pairedRatio(rates(PROOF), rates(PLAIN))
  const micros = (name: string) => median(samples.get(name)!.map(({ cpuMicros = 0 }) => cpuMicros))
  const own = rows.find(({ subject }) => subject === PROOF)!
  return [
    ...rows,
    {
      ...own,
      ratio: round(ratio),
      goal: `at least ${GOAL.toFixed(2)} of the same without a proof`,
      met: ratio >= GOAL
    },
    {
      ...own,
      ratio: null,
      goal: "its processor time is printed",
      measured: `${micros(PROOF).toFixed(1)} µs of our processor for an event, ${micros(PLAIN).toFixed(1)} without a proof`
    }
  ]
}

const proving = async (settings: Settings, server: Server): Promise<ReadonlyArray<Row>> => {
  const rows: Array<Row> = []
  const key = path.join(settings.directory, "audit-key.pub")
  fs.writeFileSync(key, publicKey)
  const figures: Array<{ readonly events: number; readonly seconds: number; readonly peakMB: number }> = []
  for (const events of settings.quick ? [2000, 10_000] : [100_000, 1_000_000]) {
    const queue = await backlog(settings.directory, events)
    const target = await database.withOurTables(server, `proving_${events}`, { proof: true })
    await target.empty()
    await deliver(queue, target, privateKey)
    const { peakMB, seconds } = await prove(settings.directory, key, target.url, events)
    figures.push({ events, seconds, peakMB })
  }
  const [few, many] = figures as [(typeof figures)[number], (typeof figures)[number]]
  const beyond = many.peakMB - few.peakMB
  const work = `proof: proving ${many.events.toLocaleString("en")}`
  rows.push(
    row({
      work,
      subject: "effect-audit prove",
      eventsPerSecond: Math.round(many.events / many.seconds)
    }),
    row({
      work,
      subject: "effect-audit prove",
      goal: `at most ${GOAL_MB} MB, and no more for more rows`,
      met: many.peakMB <= GOAL_MB && beyond <= many.peakMB / 4,
      measured:
        `${round(many.seconds, 1)} s, ${Math.round(many.events / many.seconds).toLocaleString("en")} rows/s; a peak of ` +
        `${round(many.peakMB, 0)} MB, ${round(few.peakMB, 0)} MB for ${few.events.toLocaleString("en")}`
    })
  )
  return rows
}

/** Runs the command, which tells its peak memory when it ends. */
const prove = async (directory: string, key: string, url: string, events: number) => {
  const told = path.join(directory, "peak")
  const tell = `import fs from "node:fs"; process.on("exit", () => fs.writeFileSync(${JSON.stringify(told)}, String(process.resourceUsage().maxRSS)))`
  const startedAt = now()
  const child = spawn(
    process.execPath,
    [
      "--import",
      `data:text/javascript,${encodeURIComponent(tell)}`,
      COMMAND,
      ...["prove", "--key", key, "--url", url, "--exclusive", "--json"]
    ],
    { stdio: ["ignore", "pipe", "inherit"] }
  )
  let output = ""
  child.stdout.on("data", (text: Buffer) => (output += text.toString()))
  const [code] = (await once(child, "close")) as [number | null]
  const seconds = (now() - startedAt) / 1000
  const { rows } = JSON.parse(output.trim().split("\n").at(-1)!) as { readonly rows: number }
  if (code !== 0 || rows !== events) throw new Error(`prove ended with ${code ?? "a signal"}: ${output}`)
  return { seconds, peakMB: (Number(fs.readFileSync(told, "utf8")) / 1024) * 1.048576 }
}
