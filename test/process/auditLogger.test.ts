/** AuditLogger: the audit log with promises. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, LogLevel, Schema } from "effect"
import {
  AuditEvent,
  type AuditLayer,
  openAuditLogger,
  QueueLocked,
  Redact,
  Uploader,
  UseLog,
  type AuditLoggerOptions
} from "effect-audit"
import { build } from "esbuild"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import { inspect } from "node:util"
import { onTestFinished } from "vitest"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import { compiled } from "../support/compiled.js"
import { root } from "../support/program.js"
import type * as Copy from "../support/copy.js"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { cents: Schema.Int }
}) {}

const outage = new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "down" })

const temporaryDirectory = () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "audit-logger-"))
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 10 }))
  return directory
}

const setUp = () => {
  const database = Effect.runSync(makeMemoryUploader())
  const options = { directory: temporaryDirectory(), uploader: Layer.succeed(Uploader, database.uploader) }
  const stored = (event: AuditEvent.Any) => Effect.runSync(database.stored(event)).map(({ row }) => row)
  return { database, options, stored }
}

const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => assert.fail("it resolved"),
    (error: unknown) => error
  )

describe("AuditLogger", () => {
  it("records, delivers, and closes at the end of its block", async () => {
    const { options, stored } = setUp()
    {
      await using audit = await openAuditLogger({ ...options, events: [Payment] })
      await audit.logUse({ userName: "li", status: "success" })
      await audit.logLogin({ userName: "li" })
      const receipt = await audit.recordUse({ userName: "wang", status: "success" })
      assert.strictEqual(receipt.sequence, 2)
      await audit.record(new Payment({ cents: 1999 }))
      await audit.log(new Payment({ cents: 1 }))
      await audit.flush()
      assert.deepInclude(await audit.status(), { accepted: 5, delivered: 5, waiting: 0 })
      await audit.logUse({ userName: "late", status: "success" })
    }
    assert.deepStrictEqual(
      stored(UseLog).map(([userName]) => userName),
      ["li", "wang", "late"]
    )
    assert.deepStrictEqual(stored(Payment), [[1999], [1]])
    // the lock is free
    await using _ = await openAuditLogger(options)
  })

  it("keeps one log for each directory, which closes with its last handle, and opens again", async () => {
    const { options, stored } = setUp()
    const [first, second] = await Promise.all([
      openAuditLogger(options),
      openAuditLogger({
        ...options,
        directory: `${options.directory}/../${path.basename(options.directory)}`
      })
    ])
    await first.logUse({ status: "first" })
    await first.shutdown()
    await first.shutdown()
    await second.logUse({ status: "second" })
    const closing = second.shutdown()
    // waits for the log that closes
    const third = await openAuditLogger(options)
    await third.logUse({ status: "third" })
    await Promise.all([closing, third.shutdown()])
    assert.deepStrictEqual(
      stored(UseLog).map((row) => row[4]),
      ["first", "second", "third"]
    )
  })

  it("rejects recordUse and flush after shutdown", async () => {
    const { options } = setUp()
    const audit = await openAuditLogger(options)
    await audit.shutdown()
    await audit.logUse({ status: "s" })
    assert.propertyVal(await rejection(audit.recordUse({ status: "s" })), "_tag", "QueueClosed")
    assert.propertyVal(await rejection(audit.flush()), "_tag", "FlushError")
  })

  it("rejects with the typed error", async () => {
    const { database, options } = setUp()
    await using audit = await openAuditLogger(options)
    const invalid = await rejection(audit.recordUse({ status: "s", durationMs: 1.5 }))
    assert.propertyVal(invalid, "_tag", "InvalidEvent")
    assert.instanceOf(invalid, Error)
    Effect.runSync(database.outage(outage))
    await audit.logUse({ status: "s" })
    assert.propertyVal(await rejection(audit.flush()), "waiting", 1)
  })

  it("rejects if it cannot open, and opens later", async () => {
    const { options } = setUp()
    const file = path.join(options.directory, "a-file")
    fs.writeFileSync(file, "")
    const directory = path.join(file, "audit")
    const broken = { ...options, directory }
    const errors = await Promise.all([rejection(openAuditLogger(broken)), rejection(openAuditLogger(broken))])
    for (const error of errors) assert.propertyVal(error, "_tag", "QueueOpenError")
    assert.notInstanceOf(errors[0], QueueLocked)
    fs.rmSync(file)
    fs.mkdirSync(file)
    await using _ = await openAuditLogger(broken)
  })

  it("awaits onAppendFailure, or rejects without one", async () => {
    const { options } = setUp()
    const seen: Array<string> = []
    const onAppendFailure: AuditLoggerOptions["onAppendFailure"] = async ({ error, input }) => {
      await Promise.resolve()
      seen.push(`${error._tag} ${JSON.stringify(input)}`)
    }
    {
      await using audit = await openAuditLogger({
        ...options,
        onAppendFailure,
        redact: { use_log: { userName: Redact.mask } }
      })
      await audit.logUse({ status: "s", userName: "li", durationMs: 1.5 })
    }
    assert.lengthOf(seen, 1)
    assert.match(seen[0]!, /^InvalidEvent .*"userName":"\*\*\*"/)
    await using strict = await openAuditLogger({ ...options, onAppendFailure: "die" })
    assert.propertyVal(
      await rejection(strict.logUse({ status: "s", durationMs: 1.5 })),
      "_tag",
      "InvalidEvent"
    )
  })

  it("resolves shutdown in time although the database hangs", async () => {
    const { database, options } = setUp()
    const uploader = Layer.succeed(Uploader, { ...database.uploader, upload: () => Effect.never })
    const audit = await openAuditLogger({ ...options, uploader, shutdownTimeout: "1 second" })
    await audit.logUse({ status: "s" })
    await audit.shutdown("100 millis")
    const { state } = JSON.parse(fs.readFileSync(path.join(options.directory, "status.json"), "utf8")) as {
      readonly state: string
    }
    assert.notStrictEqual(state, "closed")
    // the rest of the close runs in the background, within shutdownTimeout
    await using again = await openAuditLogger(options)
    await again.flush()
    assert.deepInclude(await again.status(), { accepted: 1, delivered: 1 })
  })

  it("closes on a signal if the option is set", async () => {
    const { options, stored } = setUp()
    const seen = new Promise((resolve) => process.once("SIGUSR2", resolve))
    const audit = await openAuditLogger({ ...options, closeOnSignals: ["SIGUSR2"] })
    await audit.logUse({ status: "s" })
    const listeners = process.listenerCount("SIGUSR2")
    // this listener keeps the signal from ending the process
    const guard = () => undefined
    process.on("SIGUSR2", guard)
    process.kill(process.pid, "SIGUSR2")
    await seen
    await audit.shutdown()
    assert.propertyVal(await rejection(audit.recordUse({ status: "s" })), "_tag", "QueueClosed")
    assert.lengthOf(stored(UseLog), 1)
    process.off("SIGUSR2", guard)
    assert.strictEqual(process.listenerCount("SIGUSR2"), listeners - 2)
  })
})

describe("a directory under several paths", () => {
  it("is one log through links, also while it is created, and through equal paths", async () => {
    const { options, stored } = setUp()
    const home = options.directory
    fs.symlinkSync(".", path.join(home, "link"))
    fs.symlinkSync(home, path.join(home, "absolute"))
    const names = ["audit", "link/audit", "absolute/link/../audit", "./link/./absolute/audit", "later"]
    fs.symlinkSync("audit", path.join(home, "later"))
    const open = (name: string) => openAuditLogger({ ...options, directory: `${home}/${name}` })
    // the directory does not exist yet
    const logs = await Promise.all(names.map(open))
    for (const log of logs) await log.logUse({ status: "s" })
    // the path and the identity of the directory differ here
    const [one] = logs
    logs.push(await open(`../${path.basename(home)}/audit/`))
    for (const log of logs) assert.strictEqual((await log.status()).accepted, names.length)
    for (const log of logs.slice(1)) await log.shutdown()
    await one!.logUse({ status: "last" })
    await one!.shutdown()
    assert.lengthOf(stored(UseLog), names.length + 1)
    // two directories are two logs
    const [a, b] = [await open("a"), await open("b")]
    await a.logUse({ status: "a" })
    assert.strictEqual((await b.status()).accepted, 0)
    await Promise.all([a.shutdown(), b.shutdown()])
  })

  it("is one log through a bind mount (skipped without the right to mount)", async (context) => {
    const { options } = setUp()
    const [real, mount] = ["real", "mount"].map((name) => path.join(options.directory, name))
    fs.mkdirSync(real!)
    fs.mkdirSync(mount!)
    if (spawnSync("mount", ["--bind", real!, mount!]).status !== 0) return context.skip()
    onTestFinished(() => void spawnSync("umount", [mount!]))
    await using first = await openAuditLogger({ ...options, directory: real! })
    await using second = await openAuditLogger({ ...options, directory: mount! })
    await second.logUse({ status: "s" })
    assert.strictEqual((await first.status()).accepted, 1)
  })
})

describe("an invalid event", () => {
  it("goes to onAppendFailure without its content, or rejects, and throws nothing", async () => {
    const SECRET = "SECRET"
    const fail = () => {
      throw new Error(SECRET)
    }
    const failing = new Proxy({}, { get: fail, has: fail, ownKeys: fail, getPrototypeOf: fail })
    const seen: Array<AuditLayer.AppendFailure> = []
    const { options } = setUp()
    await using audit = await openAuditLogger({
      ...options,
      events: [],
      redact: { use_log: { prompt: Redact.mask } },
      onAppendFailure: (failure) => void seen.push(failure)
    })
    const nothings: ReadonlyArray<unknown> = [
      null,
      undefined,
      7,
      1n,
      SECRET,
      Symbol(SECRET),
      () => SECRET,
      { prompt: SECRET },
      [SECRET],
      { [AuditEvent.TypeId]: { kind: SECRET } },
      failing,
      // an event of an unknown kind
      Object.assign(new Payment({ cents: 1 }), { prompt: SECRET })
    ]
    for (const nothing of nothings) {
      await audit.log(nothing as never)
      assert.propertyVal(await rejection(audit.record(nothing as never)), "_tag", "InvalidEvent")
    }
    assert.lengthOf(seen, nothings.length)
    for (const { error, input } of seen) {
      assert.isUndefined(input)
      assert.notInclude(inspect(error, { depth: 9, showHidden: true }), SECRET)
    }
    assert.include(seen[0]!.error.message, "expected an event, made by its class")
  })
})

/** Bundles the package with an Effect that states this version, and loads the bundle beside the external packages. */
const bundled = async (version: string): Promise<typeof Copy> => {
  const file = path.join(root, "node_modules", `.audit-copy-${process.pid}-${version}.cjs`)
  onTestFinished(() => fs.rmSync(file, { force: true }))
  await build({
    entryPoints: [path.join(root, "test/support/copy.ts")],
    tsconfig: path.join(root, "tsconfig.json"),
    outfile: file,
    bundle: true,
    platform: "node",
    format: "cjs",
    external: ["fs-native-extensions", "mysql2", "@libsql/client"],
    logLevel: "error",
    plugins: [
      {
        name: "version",
        setup: ({ onLoad }) =>
          onLoad({ filter: /effect\/.*\/internal\/version\.js$/ }, ({ path: name }) => ({
            contents: fs.readFileSync(name, "utf8").replace(/(moduleVersion = )".*?"/, `$1"${version}"`)
          }))
      }
    ]
  })
  return createRequire(import.meta.url)(file) as typeof Copy
}

const own = (Effect.void as unknown as Record<symbol, { _V: string }>)[Symbol.for("effect/Effect")]!._V
const [major, minor] = own.split(".").map(Number)
const another = `${major!}.${minor! + 1}.0`

describe("two copies of the package in one process", () => {
  it("refuse to share an Effect of another version, and say why", async () => {
    const open = async (version: string) => {
      const copy = await bundled(version)
      const layer = copy.AuditLayer.layer({ directory: temporaryDirectory() })
      return Effect.runPromise(
        Layer.build(Layer.provide(layer, copy.makeDatabase().layer)).pipe(
          Effect.scoped,
          Effect.as("opened"),
          Effect.catchTag("QueueOpenError", ({ message }) => Effect.succeed(message)),
          Logger.withMinimumLogLevel(LogLevel.None)
        )
      )
    }
    const message = await open(another)
    assert.include(message, `runs by Effect ${own}, and effect-audit was loaded with Effect ${another}`)
    assert.strictEqual(await open(`${major!}.${minor!}.999`), "opened")
  })

  it("share a log although one is a CommonJS bundle with its own Effect, and closes while the other writes", async () => {
    const home = temporaryDirectory()
    const copy = await bundled(another)
    assert.notStrictEqual(copy.openAuditLogger, openAuditLogger)
    const directory = path.join(home, "audit")
    fs.symlinkSync("audit", path.join(home, "link"))
    const { options, stored } = setUp()
    const unused = copy.makeDatabase()
    const [first, second] = await Promise.all([
      openAuditLogger({ ...options, directory }),
      copy.openAuditLogger({ directory: path.join(home, "link"), uploader: unused.layer })
    ])
    const writing = Promise.all(Array.from({ length: 200 }, () => second.recordUse({ status: "s" })))
    await first.shutdown()
    assert.lengthOf(await writing, 200)
    await second.recordUse({ status: "s" })
    // the last handle closes, and an open meanwhile waits for that
    const [again] = await Promise.all([openAuditLogger({ ...options, directory }), second.shutdown()])
    assert.deepInclude(await again.status(), { accepted: 201, delivered: 201, waiting: 0 })
    await again.shutdown()
    assert.strictEqual(stored(UseLog).length + unused.stored(), 201)
    assert.propertyVal(await rejection(second.recordUse({ status: "s" })), "_tag", "QueueClosed")
  })

  it("share the log of a directory until the last handle of either closes", async () => {
    const file = compiled("test/support/copy.ts")
    const load = async (name: string): Promise<typeof Copy> => {
      // beside the original, since copies find packages in the directories above
      const copy = `${path.dirname(file)}-${process.pid}-${name}`
      fs.cpSync(path.dirname(file), copy, { recursive: true })
      onTestFinished(() => fs.rmSync(copy, { recursive: true, maxRetries: 10 }))
      return (await import(/* @vite-ignore */ path.join(copy, path.basename(file)))) as typeof Copy
    }
    const [one, two] = [await load("one"), await load("two")]
    assert.notStrictEqual(one.openAuditLogger, two.openAuditLogger)
    const database = one.makeDatabase()
    const unused = two.makeDatabase()
    const directory = temporaryDirectory()

    const first = await one.openAuditLogger({ directory, uploader: database.layer })
    const second = await two.openAuditLogger({ directory, uploader: unused.layer })
    await first.logUse({ status: "success" })
    await second.logUse({ status: "success" })
    await second.flush()
    assert.deepInclude(await second.status(), { accepted: 2, delivered: 2 })
    assert.deepStrictEqual(await first.status(), await second.status())
    await first.shutdown()
    // a hot reload: the new copy continues the numbers
    assert.strictEqual((await second.recordUse({ status: "success" })).sequence, 2)
    await second.shutdown("5 seconds")
    assert.strictEqual(database.stored(), 3)
    assert.strictEqual(unused.stored(), 0)

    const again = await two.openAuditLogger({ directory, uploader: unused.layer })
    assert.strictEqual((await again.recordUse({ status: "success" })).sequence, 3)
    await again.shutdown()
  })
})
