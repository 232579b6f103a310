/** Permissions: who may read the queue, where it may be, how large it grows, and what an interrupted caller leaves. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Logger } from "effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import * as requests from "../../src/internal/queue/requests.js"
import { QueueFull, QueueOpenError } from "../../src/schema/Errors.js"
import type { Disk, Volume } from "../../src/services/Disk.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import { nodeDisk, openQueue, temporaryDirectory } from "../support/queue.js"
import { queueFile } from "../support/reference.js"

/** The permission bits of everything under a directory, itself included. */
const modesUnder = (directory: string): ReadonlyArray<readonly [name: string, mode: string]> => {
  const names = fs.readdirSync(directory, { recursive: true, encoding: "utf8" })
  return ["", ...names].map((name) => {
    const { mode } = fs.statSync(path.join(directory, name))
    return [name, (mode & 0o7777).toString(8)]
  })
}

const isPosix = process.platform !== "win32"

/** acl(5) as Linux stores it: rwx for the owner, for nobody (65534) and as the mask, nothing for group and others. */
const ACL = Buffer.from(
  [
    "02000000",
    "01000700ffffffff",
    "02000700feff0000",
    "04000000ffffffff",
    "10000700ffffffff",
    "20000000ffffffff"
  ].join(""),
  "hex"
)
/** Sets an ACL, and says whether that worked. Not by setfacl, which is seldom installed. */
const setAcl = (type: "access" | "default", file: string): boolean =>
  spawnSync("python3", [
    "-c",
    "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]))",
    file,
    `system.posix_acl_${type}`,
    ACL.toString("hex")
  ]).status === 0

const mayNobody = (right: string, file: string): boolean =>
  spawnSync("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "test", right, file]).status === 0

const canSetAcls = (() => {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return false
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "audit-acl-"))
  fs.chmodSync(directory, 0o700)
  const isSet = setAcl("access", directory) && mayNobody("-w", directory)
  fs.rmSync(directory, { recursive: true })
  return isSet
})()

describe.skipIf(!isPosix)("permissions", () => {
  it.scopedLive("are 0700 and 0600 under the umasks 0, 022 and 0777", () =>
    Effect.gen(function* () {
      const parent = yield* temporaryDirectory
      const disk = yield* nodeDisk
      const program = yield* auditProcess()
      for (const mask of [0, 0o022, 0o777]) {
        const made = path.join(parent, mask.toString(8))
        const directory = path.join(made, "audit")
        const old = path.join(parent, "old.ndjson")
        fs.writeFileSync(old, `${queueFile}not JSON\n`, { mode: 0o644 })
        yield* program.umask(mask)
        const check = (...expected: ReadonlyArray<string>) => {
          const found = new Map(modesUnder(directory))
          assert.includeMembers([...found.keys()], [...expected])
          for (const [name, mode] of found) {
            assert.strictEqual(mode, ["", "requests"].includes(name) ? "700" : "600", name)
          }
          assert.deepStrictEqual(modesUnder(made)[0], ["", "700"], "a parent that was made")
        }

        // the database is away, so adopted and recorded events stay
        assert.isUndefined(yield* program.open({ directory, adopt: { path: old } }))
        yield* program.use("a", "b")
        const segment = (first: number) => `${String(first).padStart(20, "0")}.ndjson`
        check(segment(0), segment(6), "cursor", "lock", "queue.json")
        yield* program.close

        const database = path.join(parent, `${mask}.db`)
        assert.isUndefined(yield* program.open({ directory }, { database }))
        yield* program.flush
        yield* requests.submit(disk, directory, { action: "discard", letters: [], by: "test" })
        yield* program.close
        check("cursor", "dead-letter.ndjson", "lock", "queue.json", "requests", "status.json")
      }
    })
  )

  it.scopedLive.skipIf(!canSetAcls)(
    "admit no other user by an access control list, even an inherited one",
    () =>
      Effect.gen(function* () {
        const parent = yield* temporaryDirectory
        fs.chmodSync(parent, 0o755)
        const directory = path.join(parent, "audit")
        fs.mkdirSync(directory, { mode: 0o700 })
        setAcl("access", directory)
        setAcl("default", directory)
        assert.isTrue(mayNobody("-w", directory), "the list works here")
        const audit = yield* openAudit({ directory })
        yield* audit.use("a")
        yield* requests.submit(yield* nodeDisk, directory, { action: "discard", letters: [], by: "test" })
        for (const [name, mode] of modesUnder(directory)) {
          const file = path.join(directory, name)
          assert.strictEqual(mode, fs.statSync(file).isDirectory() ? "700" : "600", name)
          for (const right of ["-r", "-w"]) assert.isFalse(mayNobody(right, file), name)
        }
      })
  )

  it.scopedLive("refuse a directory that everybody may write to", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      fs.chmodSync(directory, 0o777)
      const error = yield* Effect.flip(openAudit({ directory }))
      assert.instanceOf(error, QueueOpenError)
      assert.include(error.message, directory)
      assert.include(error.message, "everybody may write to it")
      assert.include(error.message, "chmod o-w")
      fs.chmodSync(directory, 0o755)
      yield* openAudit({ directory })
    })
  )
})

// -------------------------------------------------------------------------------------------------------- the place

/** A disk that reports this file system. */
const diskOn = (volume: Partial<Volume>) =>
  Effect.map(nodeDisk, (disk): Disk["Type"] => ({
    ...disk,
    volume: (name) => Effect.map(disk.volume(name), (found) => ({ ...found, ...volume }))
  }))

/** The log lines of the effect, and its exit. */
const logsOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const logs: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      logs.push(`${logLevel.label} ${String(message)}`)
    })
    const exit = yield* Effect.exit(Effect.provide(effect, Logger.replace(Logger.defaultLogger, logger)))
    return { logs, exit }
  })

describe("the directory of the queue", () => {
  it.scopedLive("is logged once, as an absolute path", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const disk = yield* diskOn({ type: "ext4", network: false })
      const relative = path.relative(process.cwd(), directory)
      const open = Effect.gen(function* () {
        const log = yield* openAudit({ directory: relative }, { disk })
        yield* log.use("one")
        yield* log.use("two")
      })
      const { exit, logs } = yield* logsOf(open)
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(
        logs.filter((line) => line.startsWith("INFO")),
        [`INFO audit queue: ${directory}`]
      )
      // a refused start logs no directory
      const refused = yield* logsOf(openAudit({ directory }, { disk }))
      assert.isTrue(Exit.isFailure(refused.exit))
      assert.deepStrictEqual(refused.logs, [])
    })
  )

  it.scopedLive.each(["tmpfs", "overlay"])("brings a warning on %s", (type) =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { logs } = yield* logsOf(openAudit({ directory }, { disk: yield* diskOn({ type }) }))
      const warnings = logs.filter((line) => line.startsWith("WARN"))
      assert.lengthOf(warnings, 1)
      assert.include(warnings[0], `${directory} is on ${type}`)
    })
  )

  it.scopedLive("is refused if its identity is damaged, with an error that prints at any nesting depth", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      fs.writeFileSync(
        `${directory}/queue.json`,
        `{"format":1,"queueId":${"[".repeat(20_000)}${"]".repeat(20_000)}}`
      )
      const disk = yield* nodeDisk
      const exit = yield* Effect.exit(Effect.scoped(openQueue(disk, { directory })))
      assert.isTrue(Exit.isFailure(exit))
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "queue.json is damaged")
    })
  )

  it.scopedLive("is refused on a network file system, or brings a warning if the option allows it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const disk = yield* diskOn({ type: "nfs", network: true })
      const error = yield* Effect.flip(openAudit({ directory }, { disk }))
      assert.instanceOf(error, QueueOpenError)
      assert.include(error.message, "network file system (nfs)")
      assert.include(error.message, "unsafeFileSystem")
      const { exit, logs } = yield* logsOf(openAudit({ directory, unsafeFileSystem: true }, { disk }))
      assert.isTrue(Exit.isSuccess(exit))
      assert.lengthOf(
        logs.filter((line) => line.startsWith("WARN") && line.includes("nfs")),
        1
      )
    })
  )

  const isTmpfs = process.platform === "linux" && fs.existsSync("/dev/shm")
  it.scopedLive.skipIf(!isTmpfs)("is recognized as a tmpfs (skipped without /dev/shm)", () =>
    Effect.gen(function* () {
      const { network, type } = yield* (yield* nodeDisk).volume("/dev/shm")
      assert.deepStrictEqual({ network, type }, { network: false, type: "tmpfs" })
      assert.isFalse((yield* (yield* nodeDisk).volume(os.tmpdir())).network)
    })
  )
})

// ----------------------------------------------------------------------------------------------------------- limits

describe("limits", () => {
  it.scopedLive.each([
    { limit: "maxQueueBytes", settings: { maxQueueBytes: 1000 } },
    { limit: "minFreeBytes", settings: { minFreeBytes: 2 ** 50 } }
  ] as const)(
    "$limit: record fails with QueueFull, and logUse calls onAppendFailure",
    ({ limit, settings }) =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const failures: Array<string> = []
        const log = yield* openAudit({
          directory,
          ...settings,
          onAppendFailure: ({ error }) => Effect.sync(() => failures.push(`${error._tag} ${error.outcome}`))
        })
        if (limit === "maxQueueBytes") for (let event = 0; event < 3; event++) yield* log.use("fits")
        const before = yield* log.status
        const error = yield* Effect.flip(log.use("x".repeat(1000)))
        assert.instanceOf(error, QueueFull)
        assert.include(error, { limit, directory, outcome: "absent" })
        assert.include(error.message, limit)
        yield* log.log("x".repeat(1000))
        assert.deepStrictEqual(failures, ["QueueFull absent"])
        const { accepted, waitingBytes } = yield* log.status
        assert.deepStrictEqual(
          { accepted, waitingBytes },
          { accepted: before.accepted, waitingBytes: before.waitingBytes }
        )
      })
  )

  it.scopedLive("maxQueueBytes counts only waiting lines: delivery makes room", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const log = yield* openAudit({ directory, maxQueueBytes: 1500 }, slowDatabase())
      for (let round = 0; round < 5; round++) {
        yield* log.use("x".repeat(1000))
        yield* log.flush
      }
      assert.strictEqual((yield* log.status).delivered, 5)
    })
  )
})

// ----------------------------------------------------------------------------------------------------- interruption

describe("interruption during record", () => {
  it.scopedLive("leaves each event whole or absent, and blocks nobody: 40 rounds of 64", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = slowDatabase()
      const acknowledged: Array<string> = []
      const log = yield* openAudit({ directory, segmentBytes: 16 * 1024 }, database)
      for (let round = 0; round < 40; round++) {
        const fibers = yield* Effect.forEach(Array.from({ length: 64 }), () =>
          Effect.fork(log.use("一只红狐狸"))
        )
        for (const [index, fiber] of fibers.entries()) {
          if (index % 2 === 0) continue
          if (index % 7 === round % 7) yield* Effect.yieldNow()
          yield* Fiber.interruptFork(fiber)
        }
        for (const fiber of fibers) {
          const exit = yield* Fiber.await(fiber)
          if (Exit.isSuccess(exit)) acknowledged.push(exit.value.eventId)
          else assert.isTrue(Exit.isInterrupted(exit))
        }
      }
      assert.isAtLeast(acknowledged.length, 40 * 32)
      yield* log.flush
      const { accepted, dead, delivered, missing, torn } = yield* log.status
      assert.deepStrictEqual({ dead, missing, torn }, { dead: 0, missing: 0, torn: 0 })
      assert.strictEqual(delivered, accepted)
      assert.strictEqual(database.events.size, accepted)
      for (const id of acknowledged) assert.isTrue(database.events.has(id), id)
    })
  )

  it.scopedLive("ends the caller's wait for a hanging disk, and leaves the event whole", () =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const database = slowDatabase()
      const log = yield* openAudit({ directory: "/audit" }, { ...database, disk: memory.startProcess() })
      yield* log.use("before")
      const answer = yield* Deferred.make<void>()
      const until = Deferred.await(answer)
      memory.inject(({ operation }) => (operation === "append" ? { type: "wait", until } : undefined))
      const caller = yield* Effect.fork(log.use("interrupted"))
      yield* Effect.sleep("50 millis")
      yield* Fiber.interrupt(caller)
      yield* Deferred.succeed(answer, undefined)
      memory.inject(() => undefined)
      yield* log.use("after")
      yield* log.flush
      assert.deepStrictEqual(database.prompts(), ["before", "interrupted", "after"])
    })
  )
})
