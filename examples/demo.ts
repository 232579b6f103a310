/**
 * The whole promise in a few seconds, without MySQL: an outage, 1,000 events, `kill -9`, and the books afterwards.
 *
 *     npm run demo
 *     AUDIT_MYSQL_URL=mysql://user:password@host/database npm run demo
 *     npm run demo -- --tamper     takes a row away behind the log's back: the demo must notice, and exits 1
 */
import { Command, FileSystem } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import {
  Chunk,
  Config,
  Console,
  Duration,
  Effect,
  Layer,
  Logger,
  LogLevel,
  Option,
  Redacted,
  Stream
} from "effect"
import { Audit, AuditLayer, type Balance } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { fileURLToPath } from "node:url"
import * as Database from "./demo/database.js"
import { verify } from "./demo/verify.js"

const EVENTS = 1000
const isTerminal = process.stdout.isTTY
const style = (code: number) => (text: string) => (isTerminal ? `\x1b[${code}m${text}\x1b[0m` : text)
const [bold, dim, red, green] = [style(1), style(2), style(31), style(32)]
const number = (value: number) => value.toLocaleString("en")
const step = (text: string) => Console.log(`\n${bold(text)}`)
const say = (text: string) => Console.log(`  ${text}`)

/** Another process logs the events, and is killed once it has them all on disk. Returns what it acknowledged. */
const logAndKill = (directory: string, address: string) =>
  Effect.gen(function* () {
    const logger = yield* Command.make(
      process.execPath,
      ...process.execArgv,
      fileURLToPath(new URL("./demo/logger.ts", import.meta.url))
    ).pipe(
      Command.env({
        AUDIT_DIRECTORY: directory,
        DEMO_DATABASE: address,
        DEMO_EVENTS: String(EVENTS)
      }),
      Command.stderr("inherit"),
      Command.start
    )
    const [duration, ids] = yield* logger.stdout.pipe(
      Stream.decodeText(),
      Stream.splitLines,
      Stream.take(EVENTS),
      Stream.runCollect,
      Effect.timed
    )
    yield* say(
      `process ${logger.pid} has logged ${number(ids.length)} events ` +
        dim(
          `(${Duration.format(Duration.millis(Math.round(Duration.toMillis(duration))))}, its start included)`
        )
    )
    yield* showBacklog(directory)
    yield* logger.kill("SIGKILL")
    yield* say(red(`kill -9 ${logger.pid}`))
    return Chunk.toReadonlyArray(ids)
  }).pipe(Effect.scoped)

const showBacklog = (directory: string) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    for (const name of (yield* fs.readDirectory(directory)).filter((name) => /^\d+\.ndjson$/.test(name))) {
      const lines = (yield* fs.readFileString(`${directory}/${name}`)).trimEnd().split("\n")
      const bytes = Buffer.byteLength(lines.join("\n")) + 1
      yield* say(`on disk: ${name}, ${number(lines.length)} lines, ${number(bytes)} bytes; the last one:`)
      yield* say(dim(`${lines.at(-1)!.slice(0, 150)} ...`))
    }
  })

/** Starts again on the same directory, and shows how the backlog is delivered. */
const deliver = (directory: string, database: Database.Database) =>
  Effect.gen(function* () {
    yield* Audit.changes.pipe(
      Stream.map(({ waiting }) => EVENTS - waiting),
      Stream.takeUntil((done) => done === EVENTS),
      // plain lines are for logs: five are enough
      Stream.changesWith((a, b) => (isTerminal ? a === b : Math.floor(a / 200) === Math.floor(b / 200))),
      Stream.runForEach(progress)
    )
    yield* Audit.flush
    return yield* Audit.status
  }).pipe(
    Effect.provide(
      // small batches, so that there is something to see
      AuditLayer.layer({ directory, batchRecords: 20 }).pipe(Layer.provide(database.uploader))
    )
  )

const progress = (done: number) => {
  const bar = "█".repeat(Math.floor((done * 40) / EVENTS)).padEnd(40, "░")
  const text = `  ${green(bar)} ${number(done).padStart(5)} / ${number(EVENTS)}`
  return isTerminal
    ? Effect.sync(() => process.stdout.write(`\r${text}${done === EVENTS ? "\n" : ""}`))
    : Console.log(text)
}

const showBalance = ({ accepted, dead, delivered, discarded, missing, retried, torn, waiting }: Balance) => {
  const [sum, ...parts] = [accepted, delivered, waiting, dead + retried + discarded, torn].map(number)
  return Effect.zipRight(
    say(`${"accepted".padStart(9)} = delivered + waiting + refused + torn`),
    say(`${sum!.padStart(9)} = ${parts.map((part, i) => part.padStart([9, 7, 7, 4][i]!)).join(" + ")}`).pipe(
      Effect.zipRight(say(dim(`missing: ${missing}`)))
    )
  )
}

const showRows = Effect.flatMap(
  Database.newest,
  Effect.forEach(({ duration_ms, model, prompt, status, user_name }) =>
    say(`${user_name}: ${prompt.replaceAll("\n", " ⏎ ")} ${dim(`${model}, ${status}, ${duration_ms} ms`)}`)
  )
)

const demo = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const home = yield* fs.makeTempDirectoryScoped({ prefix: "effect-audit-demo-" })
  const directory = `${home}/audit`
  const url = Option.getOrUndefined(
    Option.map(yield* Config.option(Config.redacted("AUDIT_MYSQL_URL")), Redacted.value)
  )

  yield* step("1. The database cannot be reached, and a program logs")
  // the SQLite file is on a drive that is not mounted yet
  const database = Database.at(url ?? `${home}/drive/audit.db`)
  const acknowledged = yield* logAndKill(
    directory,
    url === undefined ? database.address : Database.unreachable(url)
  )

  yield* step("2. The database is back, and a program starts again")
  if (url === undefined) yield* fs.makeDirectory(`${home}/drive`)
  else yield* MysqlUploader.migrate({ url: Redacted.make(url) })
  yield* say(`delivering to ${database.name}`)
  const balance = yield* deliver(directory, database)

  yield* step("3. The books")
  yield* showBalance(balance)

  return yield* Effect.gen(function* () {
    yield* step("4. The database")
    yield* showRows
    if (process.argv.includes("--tamper")) {
      yield* Database.removeOne(acknowledged[0]!)
      yield* say(red("(a row was taken away behind the log's back)"))
    }
    const problems = verify({ acknowledged, balance, stored: yield* Database.storedIds(acknowledged) })
    yield* Console.log()
    for (const problem of problems) yield* say(red(`✗ ${problem}`))
    if (problems.length === 0) {
      yield* say(
        green(`✓ each of the ${number(acknowledged.length)} acknowledged events is in the database, once`)
      )
    }
    return problems.length === 0
  }).pipe(Effect.provide(database.client))
})

demo.pipe(
  Effect.scoped,
  Effect.tap((holds) =>
    Effect.sync(() => {
      process.exitCode = holds ? 0 : 1
    })
  ),
  Logger.withMinimumLogLevel(LogLevel.Error),
  Effect.provide(NodeContext.layer),
  NodeRuntime.runMain
)
