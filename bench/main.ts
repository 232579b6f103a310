/**
 * The bench: runs every work in a separate process, one after the other, and writes the results.
 *
 * @module
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { findServer, startServer, type Flavour } from "../test/support/mysqlServer.js"
import { inChild } from "./child.js"
import type { Row, Settings } from "./measure.js"
import { findPython } from "./peers.js"
import { chart, writeReadme } from "./report.js"

const WORKS = ["append", "backlog", "delivery", "million", "proof", "reading", "quiet", "dead", "start"]
const RESULTS = "bench/results.json"

const quick = process.argv.includes("--quick")
const only = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const works = WORKS.filter((work) => only.length === 0 || only.includes(work))

// the disk of the project, since /tmp may be memory
const directory = fs.mkdtempSync(path.join(process.cwd(), "bench", "dist", "run-"))
const start = async (flavour: Flavour) =>
  findServer(flavour) === undefined
    ? undefined
    : startServer({
        flavour,
        args: [
          "--innodb-buffer-pool-size=1G",
          flavour === "mysql" ? "--innodb-redo-log-capacity=1G" : "--loose-innodb-log-file-size=512M"
        ]
      })
const server = await start("mariadb")
const oracle = works.includes("delivery") || works.includes("proof") ? await start("mysql") : undefined
try {
  const python = await findPython()
  if (server === undefined) console.warn("no MariaDB is installed: its deliveries are left out")
  if (python === undefined)
    console.warn(
      "the reference is left out: it needs a python3 with pymysql, and its source (AUDIT_REFERENCE)"
    )
  const settings: Settings = { quick, directory, database: server, oracle, python }

  const found: Array<Row> = []
  for (const work of works) {
    const startedAt = performance.now()
    try {
      const rows = await inChild<ReadonlyArray<Row>>(`./work/${work}.js`, settings)
      found.push(...rows)
      console.log(`\n${work} (${Math.round((performance.now() - startedAt) / 1000)} s)`)
      for (const row of rows) console.log(describe(row))
    } catch (error) {
      // the other works still run
      console.error(error)
      process.exitCode = 1
    }
  }

  // if only a part was measured, the other results stay
  const others =
    works.length === WORKS.length ? [] : (JSON.parse(fs.readFileSync(RESULTS, "utf8")) as Array<Row>)
  const rows = [...others.filter(({ work }) => !found.some((row) => row.work === work)), ...found]
  fs.writeFileSync(RESULTS, JSON.stringify(rows, null, 2) + "\n")
  fs.writeFileSync("bench/chart.svg", chart(rows))
  writeReadme("bench/README.md", machine(), rows, works.length === WORKS.length ? [] : works)
} finally {
  await server?.stop()
  await oracle?.stop()
  fs.rmSync(directory, { recursive: true })
}

function describe(row: Row): string {
  const rate = row.eventsPerSecond?.toLocaleString("en").padStart(9) ?? "".padStart(9)
  const ratio = row.ratio?.toFixed(2).padStart(6) ?? "".padStart(6)
  const subject = row.callers === null ? row.subject : `${row.subject} (${row.callers})`
  const goal = row.goal === null ? "" : `${row.met === null ? "" : row.met ? "MET" : "NOT MET"}: ${row.goal}`
  return [rate, ratio, subject.padEnd(46), row.measured ?? "", goal].join("  ")
}

function machine(): string {
  const [cpu] = os.cpus()
  const memory = Math.round(os.totalmem() / 2 ** 30)
  return (
    `Measured by \`npm run bench${quick ? " -- --quick" : ""}\` on ${os.cpus().length} cores (${cpu?.model ?? "unknown"}), ` +
    `${memory} GB, ${os.type()} ${os.release()}, Node ${process.version}.`
  )
}
