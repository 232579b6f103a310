/**
 * Privacy: the log while everything fails, with hostile texts in events and in the database's errors. It has each
 * change of state once, no content of an event above Debug, and no password.
 */
import { assert, it, vi } from "@effect/vitest"
import {
  Cause,
  Context,
  Effect,
  Exit,
  Inspectable,
  Layer,
  Logger,
  LogLevel,
  Metric,
  Redacted,
  Stream,
  Tracer
} from "effect"
import * as fs from "node:fs"
import { inspect } from "node:util"
import { openAuditLogger } from "../../src/AuditLogger.js"
import * as MysqlTrail from "../../src/layers/MysqlTrail.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Trail } from "../../src/services/Trail.js"
import { openAudit } from "../support/auditHere.js"
import { account, connectionOptions, mysqlDatabase, PASSWORD, uploaderOf } from "../support/mysql.js"
import { tcpProxy } from "../support/net.js"
import { temporaryDirectory } from "../support/queue.js"

const PROMPT = `PROMPT \u001b[31m\n level=FATAL "'\\ ${"狐".repeat(50)}`

/** Collects all logs and spans, and everything that the program can read. */
const makeWitness = () => {
  const logs: Array<{ readonly level: LogLevel.LogLevel; readonly text: string; readonly message: string }> =
    []
  const others: Array<string> = []
  const all = (value: unknown) => inspect(value, { depth: 20, showHidden: true, maxStringLength: null })
  const logger = Logger.make<unknown, void>(({ annotations, cause, logLevel, message, spans }) => {
    const text = [message, [...annotations], cause, [...spans]].map(all).join("\n") + Cause.pretty(cause)
    logs.push({ level: logLevel, text, message: Inspectable.toStringUnknown(message, 0) })
  })
  let spans = 0
  const tracer = Tracer.make({
    context: (run) => run(),
    span: (name, parent, context, links, startTime, kind) => {
      const attributes = new Map<string, unknown>()
      const note = (...values: ReadonlyArray<unknown>) => void others.push(all(values))
      note(name)
      return {
        _tag: "Span",
        name,
        spanId: String(spans++),
        traceId: "trace",
        parent,
        context,
        status: { _tag: "Started", startTime },
        attributes,
        links,
        sampled: true,
        kind,
        // as exporters do
        end: (_, exit) => {
          if (Exit.isFailure(exit)) note(Cause.pretty(exit.cause, { renderErrorCause: true }))
        },
        attribute: note,
        // each log line is also an event of its span, except ours at Debug
        event: (name, _, attributes) => {
          note(name, attributes)
        },
        addLinks: note
      }
    }
  })
  return {
    logs,
    others,
    tells: (value: unknown) => void others.push(all(value), JSON.stringify(value)),
    listen: <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      effect.pipe(
        Effect.withTracer(tracer),
        Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
        Logger.withMinimumLogLevel(LogLevel.All)
      )
  }
}

it.scopedLive("logs each change of state once, and prints no event and no password anywhere", () =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase()
    yield* MysqlUploader.migrate(connectionOptions(database))
    const options = yield* account(database, "INSERT")
    const proxy = yield* Effect.acquireRelease(
      Effect.promise(() => tcpProxy({ target: { host: options.host!, port: options.port! } })),
      (proxy) => Effect.promise(proxy.close)
    )
    const sql = (text: string) => Effect.promise(() => database.query(text))
    const setPassword = (password: string) =>
      sql(`ALTER USER '${options.username!}'@'%' IDENTIFIED BY '${password}'`)
    const witness = makeWitness()
    const directory = yield* temporaryDirectory

    yield* witness.listen(
      Effect.gen(function* () {
        const secret = encodeURIComponent(Redacted.value(options.password!))
        const url = `mysql://${options.username!}:${secret}@${proxy.host}:${proxy.port}/${options.database!}`
        const uploader = yield* uploaderOf({ url: Redacted.make(url), connectTimeout: "200 millis" })
        const audit = yield* openAudit({ directory }, { uploader })
        /** Three failing attempts, and everything visible meanwhile. */
        const fails = Effect.gen(function* () {
          for (let attempt = 0; attempt < 3; attempt++) {
            const exit = yield* Effect.exit(audit.flush)
            if (Exit.isSuccess(exit)) throw new Error("it succeeded")
            // a program that ends with this error prints it so
            witness.tells(Cause.pretty(exit.cause, { renderErrorCause: true }))
          }
          witness.tells(yield* audit.status)
        })

        // needs an operator: 1045
        yield* setPassword("another")
        yield* audit.use(PROMPT)
        yield* fails
        yield* setPassword(PASSWORD)
        yield* audit.flush
        // offline: the server does not answer
        proxy.pause()
        proxy.cut()
        yield* audit.use(PROMPT)
        yield* fails
        proxy.resume()
        yield* audit.flush
        // needs an operator: 1062 on another unique key, whose text repeats the value
        yield* sql(`TRUNCATE ${UseLog.table}`)
        yield* sql(
          `ALTER TABLE ${UseLog.table} ADD COLUMN start VARCHAR(20) AS (LEFT(prompt, 20)), ADD UNIQUE (start)`
        )
        yield* audit.use(PROMPT)
        yield* audit.use(PROMPT)
        yield* fails
        yield* sql(`ALTER TABLE ${UseLog.table} DROP COLUMN start`)
        yield* audit.flush
        // dead letters: the text of 1366 repeats the value too
        yield* sql(`TRUNCATE ${UseLog.table}`)
        yield* sql(
          `ALTER TABLE ${UseLog.table} ADD COLUMN number INT AS (prompt) VIRTUAL, ADD CHECK (number > 0)`
        )
        yield* audit.use(PROMPT)
        yield* audit.use("7")
        yield* audit.flush
        witness.tells(yield* audit.status)
        yield* audit.close
      })
    )
    witness.tells(fs.readFileSync(`${directory}/status.json`, "utf8"))

    const loud = witness.logs.filter(({ level }) => LogLevel.greaterThan(level, LogLevel.Debug))
    assert.deepStrictEqual(
      loud.map(({ level, message }) => [
        level.label,
        /to the dead letters|recovered|\(\d+\)|\(E\w+\)/.exec(message)?.[0]
      ]),
      [
        ["INFO", undefined],
        ["ERROR", "(1045)"],
        ["INFO", "recovered"],
        ["WARN", "(ETIMEDOUT)"],
        ["INFO", "recovered"],
        ["ERROR", "(1062)"],
        ["INFO", "recovered"],
        ["WARN", "to the dead letters"]
      ]
    )
    for (const text of [...loud.map(({ text }) => text), ...witness.others]) {
      for (const word of ["PROMPT", "FATAL", "狐", "Duplicate entry", "Incorrect", "Access denied"]) {
        assert.notInclude(text, word)
      }
    }
    for (const text of [...witness.logs.map(({ text }) => text), ...witness.others]) {
      for (const password of [PASSWORD, encodeURIComponent(PASSWORD)]) assert.notInclude(text, password)
    }
    // the witness works: it has the database's text, at Debug and in the dead letter, and spans
    assert.isTrue(witness.logs.some(({ text }) => text.includes("Duplicate entry")))
    assert.match(
      fs.readFileSync(`${directory}/dead-letter.ndjson`, "utf8"),
      /"reason":"[^}]*Incorrect.*PROMPT/
    )
    assert.isTrue(witness.others.some((text) => text.includes("effect-audit.upload")))
  })
)

const SECRETS = [PASSWORD, encodeURIComponent(PASSWORD)]
const WORDS = ["PROMPT", "FATAL", "狐", "Duplicate entry", "Incorrect", "Access denied"]

for (const level of LogLevel.allLevels) {
  it.scopedLive(`logs only what the level ${level.label} allows`, () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(database))
      yield* Effect.promise(() =>
        database.query(
          `ALTER TABLE ${UseLog.table} ADD COLUMN number INT AS (prompt) VIRTUAL, ADD CHECK (number > 0)`
        )
      )
      const options = yield* account(database, "INSERT")
      const witness = makeWitness()
      const directory = yield* temporaryDirectory
      yield* Effect.gen(function* () {
        const uploader = yield* uploaderOf(options)
        const audit = yield* openAudit({ directory }, { uploader })
        yield* audit.use(PROMPT)
        yield* audit.use("7")
        yield* audit.flush
        witness.tells(yield* audit.status)
        yield* audit.close
        // the account may not read
        const trail = Context.get(yield* Layer.build(MysqlTrail.layer(options)), Trail)
        const read = yield* Effect.exit(
          Stream.runCollect(trail.find(UseLog, { where: { prompt: PROMPT }, limit: 1 }))
        )
        assert.isTrue(Exit.isFailure(read))
        witness.tells(read)
        if (Exit.isFailure(read)) witness.tells(Cause.pretty(read.cause, { renderErrorCause: true }))
        for (const pair of yield* Metric.snapshot) witness.tells(pair)
      }).pipe(Logger.withMinimumLogLevel(level), witness.listen)

      const isShownAtDebug = (of: LogLevel.LogLevel) => LogLevel.lessThanEqual(of, LogLevel.Debug)
      const others = [
        ...witness.others,
        ...witness.logs.filter((log) => !isShownAtDebug(log.level)).map(({ text }) => text)
      ]
      for (const text of others) for (const word of WORDS) assert.notInclude(text, word)
      for (const text of [...others, ...witness.logs.map(({ text }) => text)]) {
        for (const secret of SECRETS) assert.notInclude(text, secret)
      }
      // the witness works
      assert.isTrue(witness.others.some((text) => text.includes("effect-audit.upload")))
      assert.isTrue(witness.others.some((text) => text.includes("effect_audit")))
    })
  )
}

it.scopedLive("AuditLogger prints neither in its log nor in its errors", () =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase()
    yield* MysqlUploader.migrate(connectionOptions(database))
    const options = yield* account(database, "INSERT")
    yield* Effect.promise(() => database.query(`ALTER TABLE ${UseLog.table} ADD UNIQUE (prompt(20))`))
    const directory = yield* temporaryDirectory
    const printed: Array<unknown> = []
    const spies = (["log", "info", "warn", "error", "debug"] as const).map((method) =>
      vi.spyOn(console, method).mockImplementation((...values: ReadonlyArray<unknown>) => {
        printed.push(...values)
      })
    )
    yield* Effect.addFinalizer(() => Effect.sync(() => spies.forEach((spy) => spy.mockRestore())))
    const shown: Array<string> = []
    const note = (value: unknown) =>
      void shown.push(
        inspect(value, { depth: 20, showHidden: true, maxStringLength: null }),
        JSON.stringify(value),
        value instanceof Error ? (value.stack ?? "") : ""
      )
    yield* Effect.promise(async () => {
      const audit = await openAuditLogger({ directory, uploader: MysqlUploader.layer(options) })
      await audit.logUse({ prompt: PROMPT, status: "success" })
      await audit.flush().catch(note)
      await audit.logUse({ prompt: PROMPT, status: "success" })
      await audit.flush().catch(note)
      // an input that is no event
      await audit.logUse({ prompt: { PROMPT }, status: PROMPT, more: PASSWORD } as never).catch(note)
      await audit.recordUse({ prompt: { PROMPT }, status: "success" } as never).catch(note)
      note(await audit.status())
      await audit[Symbol.asyncDispose]()
    })
    printed.forEach(note)
    for (const text of shown) for (const word of [...WORDS, ...SECRETS]) assert.notInclude(text, word)
    assert.isAbove(printed.length, 1)
    assert.isTrue(shown.some((text) => text.includes("1062")))
  })
)
