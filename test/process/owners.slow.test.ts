/**
 * Ownership: directories of other users, links and other things under names of the queue, and the command as root. Real
 * directories and processes of other users, so most tests need root.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, Exit, Fiber, Logger, LogLevel, Schedule } from "effect"
import { build } from "esbuild"
import * as fc from "fast-check"
import { spawnSync } from "node:child_process"
import { generateKeyPairSync } from "node:crypto"
import * as fs from "node:fs"
import builtin from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { createServer } from "node:net"
import * as path from "node:path"
import { accessOf } from "../../src/internal/queue/directory.js"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import { QueueOpenError } from "../../src/schema/Errors.js"
import { NOT_OURS, WRONG_TYPE } from "../../src/services/Disk.js"
import type { Uploader } from "../../src/services/Uploader.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import { effectAudit, fill, useLine } from "../support/cli.js"
import { installCommand } from "../support/install.js"
import { mysqlDatabase } from "../support/mysql.js"
import { refusingPort } from "../support/net.js"
import { root } from "../support/program.js"
import * as q from "../support/queue.js"

const isLong = process.env.AUDIT_LONG === "1"
/** The ways to test: in the ordinary run one by turns, in the long run all. */
const oneOf = <A>(ways: ReadonlyArray<A>, turn: number): ReadonlyArray<A> =>
  isLong ? ways : [ways[turn % ways.length]!]

const SERVICE = 1234
const OTHER = 1300
/** a group of the platform, as fsGroup of Kubernetes */
const GROUP = 5000

/** The command line that runs a program as this user, with these groups. */
const as = (uid: number, groups: ReadonlyArray<number> = []) => [
  "setpriv",
  `--reuid=${uid}`,
  `--regid=${uid}`,
  groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`
]

const isRoot = process.platform === "linux" && process.getuid?.() === 0
/** root, with setpriv of util-linux, in a checkout that others may read */
const canSwitch =
  isRoot &&
  spawnSync("setpriv", [
    ...as(SERVICE).slice(1),
    process.execPath,
    "-e",
    `fs.readdirSync(${JSON.stringify(root)})`
  ]).status === 0

/** An empty directory that everybody may read. */
const openParent = Effect.tap(q.temporaryDirectory, (parent) =>
  Effect.sync(() => fs.chmodSync(parent, 0o755))
)

const makeDirectory = (directory: string, uid: number, gid: number, mode: number) => {
  fs.mkdirSync(directory)
  fs.chownSync(directory, uid, gid)
  fs.chmodSync(directory, mode)
}

const modeOf = (file: string) => fs.statSync(file).mode & 0o7777

/** The owner of everything under a directory. */
const ownersIn = (directory: string) =>
  ["", ...fs.readdirSync(directory, { recursive: true, encoding: "utf8" })].map(
    (name) => [name, fs.lstatSync(path.join(directory, name)).uid] as const
  )

/** Runs the command at the end of a message, as its reader would. */
const obey = (message: string) => {
  const command = / Run (.+)$/.exec(message)?.[1]
  assert.isDefined(command, message)
  assert.strictEqual(spawnSync("sh", ["-c", command]).status, 0, command)
}

// ----------------------------------------------------------------------------------------------------- directories

describe("the owner of a directory", () => {
  it("follows from owner, group and mode, in every combination", () => {
    // the first matching row decides; x matches any
    const table: ReadonlyArray<
      readonly [
        world: boolean | "x",
        owner: "us" | "root" | "other" | "x",
        we: "root" | "user" | "x",
        group: "x" | "may write, ours" | "else",
        expected: string
      ]
    > = [
      [true, "x", "x", "x", "refused"],
      [false, "us", "x", "may write, ours", "tooOpen"],
      [false, "other", "root", "x", "fine"],
      [false, "root", "user", "may write, ours", "shared"],
      [false, "root", "user", "else", "refused"],
      [false, "other", "user", "x", "refused"]
    ]
    const small = fc.constantFrom(0, 1, 2, 3)
    fc.assert(
      fc.property(
        small,
        small,
        fc.integer({ min: 0, max: 0o7777 }),
        small,
        fc.array(small, { maxLength: 3 }),
        (uid, gid, mode, ourUid, gids) => {
          const bits = mode.toString(2).padStart(12, "0")
          const groupWrites = bits.at(-5) === "1"
          const world = bits.at(-2) === "1"
          const owner = uid === ourUid ? "us" : uid === 0 ? "root" : "other"
          const we = ourUid === 0 ? "root" : "user"
          const group = groupWrites && gids.some((ours) => ours === gid) ? "may write, ours" : "else"
          const row = table.find(
            (row) =>
              (row[0] === "x" || row[0] === world) &&
              (row[1] === "x" || row[1] === owner) &&
              (row[2] === "x" || row[2] === we) &&
              (row[3] === "x" || row[3] === group || (row[1] === "us" && groupWrites))
          )
          const access = accessOf({ uid, gid, mode }, { uid: ourUid, gids })
          assert.strictEqual(access.type, row?.[4] ?? "fine")
          if (access.type === "refused") assert.match(access.command, /^(chmod o-w|chown -R \d+(:\d+)?)$/)
          // Windows
          assert.strictEqual(accessOf({ uid, gid, mode }, undefined).type, "fine")
        }
      ),
      { numRuns: 5000 }
    )
  })

  it.scopedLive("is not checked on Windows, where every mode looks like 0777", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      fs.chmodSync(directory, 0o777)
      assert.isUndefined(yield* NodeDisk.make("win32").user)
      const log = yield* openAudit({ directory }, { disk: NodeDisk.make("win32") })
      yield* log.use("fine")
      assert.strictEqual(modeOf(directory), 0o777)
    })
  )
})

describe.skipIf(!canSwitch)("a directory, for processes of other users (needs root)", () => {
  it.scopedLive("of a platform, root:gid 2775, is accepted with one warning (needs root)", () =>
    Effect.gen(function* () {
      const directory = `${yield* openParent}/audit`
      makeDirectory(directory, 0, GROUP, 0o2775)
      for (const settings of [{ directory }, { directory: `${directory}/fleet`, instances: 2 }]) {
        if (settings.instances !== undefined) makeDirectory(settings.directory, 0, GROUP, 0o2775)
        const program = yield* auditProcess({ under: as(SERVICE, [7, GROUP]) })
        assert.isUndefined(yield* program.open(settings))
        yield* program.use("a", "b")
        yield* program.close
        const { stderr } = yield* program.end
        assert.lengthOf(stderr.match(/its group may write to it/g) ?? [], 1, stderr)
        assert.strictEqual(modeOf(settings.directory), 0o2775)
        const files = ownersIn(settings.directory).slice(1)
        assert.isAbove(files.length, 3)
        for (const [name, uid] of files) if (!name.startsWith("fleet")) assert.strictEqual(uid, SERVICE, name)
      }
    })
  )

  it.scopedLive.each([
    { what: "2770", mode: 0o2770, gid: GROUP },
    { what: "0775, as umask 002 leaves it", mode: 0o775, gid: SERVICE }
  ])(
    "of the program's user, open to a group, becomes 0700, which is logged once: $what (needs root)",
    ({ gid, mode }) =>
      Effect.gen(function* () {
        const directory = `${yield* openParent}/audit`
        makeDirectory(directory, SERVICE, gid, mode)
        const said: Array<number> = []
        for (let start = 0; start < 2; start++) {
          const program = yield* auditProcess({ under: as(SERVICE) })
          yield* program.umask(0o002)
          assert.isUndefined(yield* program.open({ directory }))
          yield* program.use("a")
          yield* program.close
          const { stderr } = yield* program.end
          said.push((stderr.match(/is 0700 now/g) ?? []).length)
          assert.strictEqual(modeOf(directory), 0o700)
        }
        assert.deepStrictEqual(said, [1, 0])
      })
  )

  it.scopedLive.each([
    { what: "another user's", uid: OTHER, gid: GROUP, mode: 0o2775 },
    { what: "another user's and private", uid: OTHER, gid: OTHER, mode: 0o755 },
    { what: "root's, and its group may only read", uid: 0, gid: GROUP, mode: 0o2755 },
    { what: "root's, of a group that is not ours", uid: 0, gid: 6000, mode: 0o2775 },
    { what: "a platform's that everybody may write to", uid: 0, gid: GROUP, mode: 0o2777 },
    { what: "ours, and everybody may write to it", uid: SERVICE, gid: SERVICE, mode: 0o777 }
  ])("is refused, with the command that repairs it: $what", ({ gid, mode, uid }) =>
    Effect.gen(function* () {
      const directory = `${yield* openParent}/audit`
      makeDirectory(directory, uid, gid, mode)
      const program = yield* auditProcess({ under: as(SERVICE, [GROUP]) })
      const refused = yield* program.open({ directory })
      assert.include(refused, { _tag: "QueueOpenError" })
      assert.deepStrictEqual(fs.readdirSync(directory), [])
      assert.deepInclude(fs.statSync(directory), { uid, gid })
      assert.strictEqual(modeOf(directory), mode)
      obey(refused!.message)
      assert.isUndefined(yield* program.open({ directory }))
      yield* program.use("a")
    })
  )

  it.scopedLive("of another user can be opened by root", () =>
    Effect.gen(function* () {
      const directory = `${yield* openParent}/audit`
      makeDirectory(directory, OTHER, OTHER, 0o700)
      const log = yield* openAudit({ directory })
      yield* log.use("by root")
      assert.strictEqual(fs.statSync(directory).uid, OTHER)
    })
  )

  it.scopedLive.each([
    "lock",
    "cursor",
    "queue.json",
    "dead-letter.ndjson",
    "requests",
    "00000000000000000000.ndjson"
  ])("with a %s of root is refused, with the chown that repairs it (needs root)", (name) =>
    Effect.gen(function* () {
      const directory = `${yield* openParent}/audit`
      yield* fill(directory, [useLine({}), useLine({})], [{ class: "rejected", reason: "a dead letter" }])
      fs.mkdirSync(`${directory}/requests`, { mode: 0o700 })
      spawnSync("chown", ["-R", String(SERVICE), directory])
      fs.chownSync(path.join(directory, name), 0, 0)
      const program = yield* auditProcess({ under: as(SERVICE) })
      const refused = yield* program.open({ directory })
      assert.include(refused?.message, name)
      obey(refused!.message)
      assert.isUndefined(yield* program.open({ directory }))
      yield* program.use("a")
      assert.strictEqual((yield* program.status).accepted, 3)
    })
  )
})

/** time for twenty starts of a process on a busy machine, in milliseconds */
const COMMANDS_TAKE = 300_000

// ----------------------------------------------------------------------------------------------- names of ours

const FILES = [
  "lock",
  "cursor",
  "dead-letter.ndjson",
  "reserve",
  "queue.json",
  "status.json",
  "adoption.json",
  "adoption.copy",
  "00000000000000000000.ndjson",
  "cursor.new",
  "dead-letter.ndjson.new",
  "queue.json.new",
  "status.json.new",
  "adoption.json.new"
]
/** Files that the queue writes in place. */
const WRITTEN = ["lock", "cursor", "dead-letter.ndjson"]

const hangs = () => ({ _tag: "Hangs", message: "it hangs" })

/** Things that somebody may put under a name of the queue. */
const planted = {
  "a link to a file": (file: string, outside: string) => fs.symlinkSync(`${outside}/victim`, file),
  "a link to nothing": (file: string, outside: string) => fs.symlinkSync(`${outside}/absent`, file),
  "a link to a directory": (file: string, outside: string) => fs.symlinkSync(outside, file),
  "a FIFO": (file: string) => void spawnSync("mkfifo", [file]),
  "a socket": (file: string) =>
    void spawnSync(process.execPath, [
      "-e",
      `require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, 9))`,
      file
    ]),
  // a device that has no end
  "a device": (file: string) => void spawnSync("mknod", [file, "c", "1", "5"]),
  "a directory": (file: string) => {
    fs.mkdirSync(file)
    fs.writeFileSync(`${file}/anybody's`, "")
  }
}
type Planted = keyof typeof planted

const kindsPlanted = (Object.keys(planted) as ReadonlyArray<Planted>).filter(
  (what) => what !== "a device" || isRoot
)

const setFstat = (fstat: typeof builtin.fstat) => {
  builtin.fstat = fstat
  syncBuiltinESMExports()
}

const makeOutside = (parent: string) => {
  const outside = path.join(parent, "outside")
  fs.mkdirSync(outside)
  fs.writeFileSync(`${outside}/victim`, "root's own\n", { mode: 0o644 })
  const look = () =>
    fs.readdirSync(outside).map((name) => {
      const { mode, mtimeMs, size, uid } = fs.statSync(`${outside}/${name}`)
      return { name, mode, mtimeMs, size, uid, text: fs.readFileSync(`${outside}/${name}`, "utf8") }
    })
  const before = look()
  return { outside, assertUntouched: () => assert.deepStrictEqual(look(), before) }
}

describe.skipIf(process.platform === "win32")("under a name of the queue", () => {
  it.scopedLive.each(kindsPlanted)(
    "%s makes opening fail with its path, and nothing outside the directory is touched",
    (what) =>
      Effect.gen(function* () {
        const parent = yield* q.temporaryDirectory
        const { assertUntouched, outside } = makeOutside(parent)
        for (const name of [...FILES, "requests"]) {
          // `requests` must be a directory, and the queue ignores a directory with a segment's name
          if (what === "a directory" && (name === "requests" || /^\d/.test(name))) continue
          const directory = path.join(parent, `of ${name}`)
          fs.mkdirSync(directory, { mode: 0o700 })
          const file = path.join(directory, name)
          planted[what](file, outside)
          const exit = yield* Effect.timeout(
            Effect.exit(Effect.scoped(openAudit({ directory }))),
            "2 minutes"
          )
          assert.isTrue(Exit.isFailure(exit), name)
          const error = yield* Effect.flip(Effect.scoped(openAudit({ directory })))
          assert.instanceOf(error, QueueOpenError)
          assert.include(error.message, file)
          assert.include(error.message, "move it away")
          assertUntouched()
          fs.rmSync(file, { recursive: true })
          yield* Effect.scoped(Effect.flatMap(openAudit({ directory }), (log) => log.use("after")))
        }
      })
  )

  it.scopedLive("a hard link removed during the open does no harm", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const { assertUntouched, outside } = makeOutside(parent)
      const disk = yield* q.nodeDisk
      const { fstat } = builtin
      yield* Effect.addFinalizer(() => Effect.sync(() => setFstat(fstat)))
      for (const mode of ["append", "update", "patch"] as const) {
        const file = path.join(parent, mode)
        fs.linkSync(`${outside}/victim`, file)
        setFstat(((fd: number, ...args: Array<never>) => {
          fs.rmSync(file, { force: true })
          ;(fstat as (...all: ReadonlyArray<unknown>) => void)(fd, ...args)
        }) as typeof fstat)
        const opened = yield* Effect.either(Effect.scoped(disk.open(file, mode)))
        setFstat(fstat)
        assert.isTrue(Either.isLeft(opened), mode)
        assertUntouched()
      }
    })
  )

  const kindsPut = [...kindsPlanted, "a hard link"] as const
  it.scopedLive.each(kindsPut)(
    "%s, put there while the program runs, fails only its own call, and nothing outside changes",
    (what) =>
      Effect.gen(function* () {
        const parent = yield* q.temporaryDirectory
        const { assertUntouched, outside } = makeOutside(parent)
        // all names, with that of a segment that does not exist yet
        const names = [...FILES, "00000000000000000003.ndjson", "requests"]
        for (const [turn, name] of names.entries()) {
          if (what === "a directory" && name === "requests") continue
          if (!oneOf([0, 1], turn).includes(kindsPut.indexOf(what) % 2)) continue
          const directory = path.join(parent, `of ${name}`)
          const file = path.join(directory, name)
          const put = () =>
            what === "a hard link" ? fs.linkSync(`${outside}/victim`, file) : planted[what](file, outside)
          const database = slowDatabase()
          const rejecting: Uploader["Type"] = {
            concurrency: 1,
            upload: (batch) => {
              const rejected = batch.events.flatMap((event, index) =>
                event.line.prompt === "refused" ? [{ index, code: "1", reason: "r" }] : []
              )
              const events = batch.events.filter((event) => event.line.prompt !== "refused")
              return Effect.as(database.uploader.upload({ ...batch, events }), { rejected })
            }
          }
          const log = yield* openAudit({ directory, segmentBytes: 200 }, { uploader: rejecting })
          const acknowledged: Array<string> = []
          const failures: Array<string> = []
          const attempt = <A>(
            effect: Effect.Effect<A, { readonly _tag: string; readonly message: string }>
          ) =>
            Effect.gen(function* () {
              const exit = yield* Effect.exit(
                Effect.timeoutFail(effect, { duration: "2 minutes", onTimeout: hangs })
              )
              if (Exit.isSuccess(exit)) return true
              assert.strictEqual(exit.cause._tag, "Fail", name)
              if (exit.cause._tag === "Fail") failures.push(exit.cause.error.message)
              return false
            })
          const use = (prompt: string) =>
            Effect.map(attempt(log.use(prompt)), (isDone) => isDone && acknowledged.push(prompt))
          yield* use("before")
          yield* log.flush
          const kept = path.join(parent, "kept")
          if (fs.existsSync(file)) fs.renameSync(file, kept)
          put()
          for (const prompt of ["one", "two", "three", "refused", "four"]) yield* use(prompt)
          yield* attempt(log.flush)
          assertUntouched()
          const isHarmless = !/^\d/.test(name) && !WRITTEN.includes(name)
          if (isHarmless) assert.deepStrictEqual(failures, [], name)
          for (const failure of failures) {
            assert.include(failure, directory)
            assert.match(failure, /move it away|put a copy in its place|removed/, name)
          }

          fs.rmSync(file, { recursive: true, force: true })
          if (fs.existsSync(kept)) fs.renameSync(kept, file)
          yield* Effect.retry(log.use("after"), { times: 40, schedule: Schedule.spaced("250 millis") })
          yield* Effect.retry(log.flush, { times: 40, schedule: Schedule.spaced("250 millis") })
          const { accepted, dead, delivered, missing, waiting } = yield* log.status
          assert.deepStrictEqual({ missing, waiting }, { missing: 0, waiting: 0 }, name)
          assert.strictEqual(accepted, delivered + dead)
          for (const prompt of [...acknowledged.filter((_) => _ !== "refused"), "after"]) {
            assert.include(database.prompts(), prompt, name)
          }
          assert.strictEqual(dead, acknowledged.filter((_) => _ === "refused").length, name)
          yield* log.close
          assertUntouched()
          yield* Effect.scoped(Effect.flatMap(openAudit({ directory }), (again) => again.use("later")))
        }
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
    600_000
  )

  it.scopedLive("a hard link to a file outside is not written to: the error says how to separate them", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const { assertUntouched, outside } = makeOutside(parent)
      for (const name of [...FILES, "requests"]) {
        const directory = path.join(parent, `of ${name}`)
        fs.mkdirSync(directory, { mode: 0o700 })
        const file = path.join(directory, name)
        fs.linkSync(`${outside}/victim`, file)
        const opened = yield* Effect.exit(
          Effect.scoped(Effect.flatMap(openAudit({ directory }), (log) => log.use("a")))
        )
        assertUntouched()
        const isRefused = [...WRITTEN, "queue.json", "requests"].includes(name)
        assert.strictEqual(Exit.isFailure(opened), isRefused, name)
        if (!WRITTEN.includes(name)) continue
        const error = yield* Effect.flip(Effect.scoped(openAudit({ directory })))
        assert.instanceOf(error, QueueOpenError)
        assert.include(error.message, file)
        const command = /\((cp -p .+)\)/.exec(error.message)?.[1]
        assert.strictEqual(spawnSync("sh", ["-c", command!]).status, 0, command)
        yield* Effect.scoped(openAudit({ directory }))
        assertUntouched()
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("an old file with two names is copied, and the other name stays unchanged", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const directory = path.join(parent, "audit")
      const [old, backup] = [path.join(parent, "old.ndjson"), path.join(parent, "backup.ndjson")]
      fs.writeFileSync(old, useLine({}).line + useLine({}).line, { mode: 0o640 })
      fs.linkSync(old, backup)
      const before = fs.readFileSync(backup)
      const database = slowDatabase()
      for (let start = 0; start < 2; start++) {
        const log = yield* openAudit({ directory, adopt: { path: old } }, database)
        yield* log.flush
        assert.deepInclude(yield* log.status, { accepted: 2, delivered: 2 })
        yield* log.close
      }
      assert.strictEqual(database.events.size, 2)
      assert.isTrue(fs.readFileSync(backup).equals(before))
      assert.strictEqual(modeOf(backup), 0o640)
      assert.isFalse(fs.existsSync(old))
    })
  )

  it.scopedLive.each([...kindsPlanted])("%s that comes later is never opened", (what) =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const { assertUntouched, outside } = makeOutside(parent)
      const disk = yield* q.nodeDisk
      const file = path.join(parent, "name")
      planted[what](file, outside)
      const ways = {
        append: disk.open(file, "append"),
        read: disk.open(file, "read"),
        update: disk.open(file, "update"),
        lock: disk.lock(file, "content"),
        lockHolder: disk.lockHolder(file),
        ...(what === "a directory" ? {} : { list: disk.list(file), makeDirectory: disk.makeDirectory(file) })
      }
      for (const [way, effect] of Object.entries(ways)) {
        const attempt = Effect.scoped(Effect.asVoid(effect as typeof ways.read))
        const error = yield* Effect.flip(Effect.timeout(attempt, "2 minutes"))
        assert.include(error, { _tag: "DiskError", code: WRONG_TYPE, path: file }, way)
        assert.include(error.message, "move it away")
        assertUntouched()
      }
      const error = yield* Effect.flip(Effect.scoped(disk.open(file, "create")))
      assert.include(error, { code: WRONG_TYPE })
      assertUntouched()
    })
  )

  it.scopedLive(
    "a hard link to a file of root, in another user's directory, is not written to (needs root)",
    () =>
      Effect.gen(function* () {
        if (!isRoot) return
        const parent = yield* q.temporaryDirectory
        const { assertUntouched, outside } = makeOutside(parent)
        const directory = path.join(parent, "audit")
        makeDirectory(directory, OTHER, OTHER, 0o700)
        for (const name of ["lock", "cursor", "dead-letter.ndjson"]) {
          const file = path.join(directory, name)
          fs.linkSync(`${outside}/victim`, file)
          const disk = yield* q.nodeDisk
          for (const way of [disk.open(file, "append"), disk.open(file, "update"), disk.lock(file, "")]) {
            const error = yield* Effect.flip(
              Effect.scoped(Effect.asVoid(way as ReturnType<typeof disk.open>))
            )
            assert.include(error, { code: NOT_OURS })
          }
          assertUntouched()
          fs.rmSync(file)
        }
      })
  )

  it.scopedLive("an instance directory that is a link is refused, also by the command", () =>
    Effect.gen(function* () {
      const parent = yield* openParent
      const { assertUntouched, outside } = makeOutside(parent)
      const directory = path.join(parent, "audit")
      fs.mkdirSync(directory, { mode: 0o700 })
      fs.symlinkSync(outside, `${directory}/instance-0`)
      const error = yield* Effect.flip(openAudit({ directory, instances: 2 }))
      assert.instanceOf(error, QueueOpenError)
      assert.include(error.message, "instance-0")
      const { code, stderr } = yield* effectAudit(directory, ["status"])
      assert.strictEqual(code, 2)
      assert.include(stderr, "instance-0: it is a symbolic link")
      assertUntouched()
    })
  )

  it.scopedLive("the directory itself may be a link, which is followed once", () =>
    Effect.gen(function* () {
      const parent = yield* openParent
      const real = path.join(parent, "real")
      const link = path.join(parent, "link")
      fs.mkdirSync(real, { mode: 0o700 })
      fs.symlinkSync("real", link)
      const log = yield* openAudit({ directory: link })
      yield* log.use("one")
      fs.rmSync(link)
      fs.symlinkSync("elsewhere", link)
      yield* log.use("two")
      assert.strictEqual((yield* log.status).waiting, 2)
      fs.rmSync(link)
      fs.symlinkSync("real", link)
      assert.match((yield* effectAudit(link, ["status"])).stdout, /\b2 waiting\b/)
    })
  )

  it.scopedLive(
    "a circle of links is named in the error, anywhere in a path",
    () =>
      Effect.gen(function* () {
        const parent = yield* openParent
        fs.symlinkSync("two", path.join(parent, "one"))
        fs.symlinkSync("one", path.join(parent, "two"))
        fs.symlinkSync("itself", path.join(parent, "itself"))
        const directory = path.join(parent, "audit")
        yield* fill(directory, [useLine({})])
        const circles = [
          ["one", "one"],
          ["itself", "itself"],
          ["one/old.ndjson", "one"],
          ["itself/deep/old.ndjson", "itself"]
        ] as const
        for (const [turn, [given, loop]] of circles.entries()) {
          const named = path.join(parent, given)
          const expected = `${path.join(parent, loop)}: its links lead in a circle`
          const adopting = yield* Effect.flip(Effect.scoped(openAudit({ directory, adopt: { path: named } })))
          assert.instanceOf(adopting, QueueOpenError)
          assert.include(adopting.message, expected)
          const opening = yield* Effect.flip(Effect.scoped(openAudit({ directory: named })))
          assert.instanceOf(opening, QueueOpenError)
          assert.include(opening.message, expected)
          const calls = [
            [directory, ["adopt", named]],
            [named, ["status"]],
            [named, ["doctor"]],
            [named, ["dead", "list"]]
          ] as const
          for (const [index, [place, args]] of calls.entries()) {
            const ways = [
              effectAudit(parent, args, { AUDIT_DIRECTORY: place }),
              effectAudit(parent, [...args, "--directory", place])
            ]
            for (const way of oneOf(ways, turn + index)) {
              const ended = yield* way
              assert.include(ended.stderr, expected, args.join(" "))
              assert.strictEqual(ended.code, 2)
            }
          }
        }
        yield* Effect.scoped(Effect.flatMap(openAudit({ directory }), (log) => log.use("after")))
      }),
    COMMANDS_TAKE
  )

  it.scopedLive("a link that the user names in adopt is followed", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      for (const [index, target] of ["old.ndjson", path.join(parent, "old.ndjson")].entries()) {
        const directory = path.join(parent, `audit-${index}`)
        fs.writeFileSync(path.join(parent, "old.ndjson"), useLine({}).line + useLine({}).line)
        const link = path.join(parent, "link.ndjson")
        fs.symlinkSync(target, link)
        for (let start = 0; start < 3; start++) {
          const log = yield* openAudit({ directory, adopt: { path: link } })
          yield* log.use("new")
          assert.strictEqual((yield* log.status).waiting, 3 + start)
          yield* log.close
        }
        fs.rmSync(link)
      }
    })
  )
})

// ------------------------------------------------------------------------------------------------ the command

/** A queue of the service, as its program leaves it, with three letters and a waiting event. */
const serviceQueue = Effect.gen(function* () {
  const parent = yield* openParent
  const directory = path.join(parent, "audit")
  const letter = { class: "rejected", reason: "a dead letter" } as const
  yield* fill(directory, [useLine({}), useLine({}), useLine({}), useLine({})], [letter, letter, letter])
  const ids = (yield* q.letters(yield* q.nodeDisk, directory)).map(({ id }) => id)
  const old = path.join(parent, "old.ndjson")
  fs.writeFileSync(old, useLine({}).line)
  fs.chownSync(parent, SERVICE, SERVICE)
  spawnSync("chown", ["-R", `${SERVICE}:${SERVICE}`, directory, old])
  return { directory, ids, old }
})

const MODULE_OF_EVENTS = `
import { Schema } from "effect"
import * as AuditEvent from "./src/schema/AuditEvent.ts"
export class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { cents: Schema.Int }
}) {}
`

const assertAllOfService = (directory: string) => {
  for (const [name, uid] of ownersIn(directory)) assert.strictEqual(uid, SERVICE, name)
}

const decisionsIn = (directory: string) =>
  fs
    .readFileSync(`${directory}/dead-letter.ndjson`, "utf8")
    .split("\n")
    .filter((line) => /"type":"(retried|discarded)"/.test(line))
    .map((line) => (JSON.parse(line) as { by: string }).by.split("@")[0])

/** A server that accepts connections, and hangs up half a second later. */
const silentServer = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.async<ReturnType<typeof createServer>>((resume) => {
      const server = createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => server.close())
  )
  const called = Effect.async<void>((resume) => {
    server.on("connection", (socket) => {
      socket.on("error", () => undefined)
      setTimeout(() => socket.destroy(), 500)
      resume(Effect.void)
    })
  })
  return { port: (server.address() as { port: number }).port, called }
})

/** Commands, and their exit codes without and beside a running program. */
const commands = (ids: ReadonlyArray<string>, old: string, url: string) =>
  [
    [["status"], 2, 2],
    [["verify"], 0, 0],
    [["tail"], 0, 0],
    [["dead", "list"], 0, 0],
    [["doctor"], 0, 0],
    [["flush", "--url", url], 1, 0],
    [["dead", "retry", ids[0]!], 0, 0],
    [["dead", "discard", ids[1]!, "--yes"], 0, 0],
    [["flush", "--url", url], 1, 0],
    [["adopt", old], 0, 2]
  ] as const

describe.skipIf(!canSwitch)("the command as root (needs root)", () => {
  it.scopedLive(
    "becomes the owner: all files stay the service's, which starts and appends",
    () =>
      Effect.gen(function* () {
        const { directory, ids, old } = yield* serviceQueue
        const { port } = yield* Effect.promise(refusingPort)
        const url = `mysql://audit@127.0.0.1:${port}/audit`
        const program = yield* auditProcess({ under: as(SERVICE) })
        for (const [args, code] of commands(ids, old, url)) {
          const ended = yield* effectAudit(directory, args, { SUDO_USER: "alice" })
          assert.strictEqual(ended.code, code, `${args.join(" ")}: ${ended.stdout}${ended.stderr}`)
          assertAllOfService(directory)
          assert.isUndefined(yield* program.open({ directory }), args.join(" "))
          yield* program.use(args.join(" "))
          yield* program.close
        }
        assert.deepStrictEqual(decisionsIn(directory), ["alice", "alice"])
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "keeps neither root's user nor its groups, for a user with a name and for one without",
    () =>
      Effect.gen(function* () {
        for (const uid of [1, SERVICE]) {
          const { directory } = yield* serviceQueue
          spawnSync("chown", ["-R", `${uid}:${uid}`, path.dirname(directory)])
          const server = yield* silentServer
          const flush = yield* Effect.fork(
            effectAudit(directory, ["flush", "--url", `mysql://audit@127.0.0.1:${server.port}/audit`])
          )
          yield* server.called
          const { pid } = JSON.parse(fs.readFileSync(`${directory}/lock`, "utf8")) as { pid: number }
          const status = fs.readFileSync(`/proc/${pid}/status`, "utf8")
          const numbers = (name: string) =>
            new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)![1]!.trim().split(/\s+/).map(Number)
          assert.deepStrictEqual(numbers("Uid"), [uid, uid, uid, uid])
          assert.deepStrictEqual(numbers("Gid"), [uid, uid, uid, uid])
          assert.notInclude(numbers("Groups"), 0)
          yield* Fiber.join(flush)
        }
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "works in a platform's directory, where the service is by its group only",
    () =>
      Effect.gen(function* () {
        const directory = `${yield* openParent}/audit`
        makeDirectory(directory, 0, GROUP, 0o775)
        const program = yield* auditProcess({ under: as(SERVICE, [GROUP]) })
        assert.isUndefined(yield* program.open({ directory }))
        yield* program.use("waits")
        yield* program.close
        const { port } = yield* Effect.promise(refusingPort)
        const ended = yield* effectAudit(directory, [
          "flush",
          "--url",
          `mysql://audit@127.0.0.1:${port}/audit`
        ])
        assert.strictEqual(ended.code, 1, ended.stderr)
        for (const [name, uid] of ownersIn(directory).slice(1)) assert.strictEqual(uid, SERVICE, name)
        assert.isUndefined(yield* program.open({ directory }))
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "leaves requests that a running program reads, and the record names root",
    () =>
      Effect.gen(function* () {
        const { directory, ids, old } = yield* serviceQueue
        const { port } = yield* Effect.promise(refusingPort)
        const program = yield* auditProcess({ under: as(SERVICE) })
        assert.isUndefined(yield* program.open({ directory }))
        for (const [args, , code] of commands(ids, old, `mysql://audit@127.0.0.1:${port}/audit`)) {
          const ended = yield* effectAudit(directory, args)
          assert.strictEqual(ended.code, code, `${args.join(" ")}: ${ended.stdout}${ended.stderr}`)
          assertAllOfService(directory)
          yield* program.use(args.join(" "))
        }
        assert.deepStrictEqual(decisionsIn(directory), ["root", "root"])
        assert.deepInclude(yield* program.status, { dead: 1, retried: 1, discarded: 1 })
        yield* program.close
        assert.isUndefined(yield* program.open({ directory }))
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "refuses if it cannot become the owner, prints the sudo command, and touches nothing",
    () =>
      Effect.gen(function* () {
        const { directory, ids, old } = yield* serviceQueue
        const snapshot = () =>
          ownersIn(directory).map(([name, uid]) => [
            name,
            uid,
            fs.statSync(path.join(directory, name)).mtimeMs
          ])
        const before = snapshot()
        const { port } = yield* Effect.promise(refusingPort)
        const unable = [
          // root in a container without the capability, and another user
          ["setpriv", "--bounding-set=-setuid"],
          as(OTHER)
        ]
        const all = commands(ids, old, `mysql://audit@127.0.0.1:${port}/audit`)
        for (const [turn, [args]] of all.entries()) {
          if (args[0] === "doctor") continue
          for (const under of oneOf(unable, turn)) {
            const { code, stderr } = yield* effectAudit(directory, args, {}, under)
            assert.strictEqual(code, 2, `${args.join(" ")}: ${stderr}`)
            assert.include(stderr, `sudo -u '#${SERVICE}' effect-audit`)
            assert.deepStrictEqual(snapshot(), before)
          }
        }
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "refuses below a private directory, and prints the sudo command",
    () =>
      Effect.gen(function* () {
        const { directory, ids, old } = yield* serviceQueue
        const { port } = yield* Effect.promise(refusingPort)
        const parent = path.dirname(directory)
        for (const [place, owner] of [SERVICE, 0].entries()) {
          fs.chownSync(parent, owner, owner)
          fs.chmodSync(parent, 0o700)
          const all = commands(ids, old, `mysql://audit@127.0.0.1:${port}/audit`)
          for (const [turn, [args]] of all.entries()) {
            const ways = [
              effectAudit(directory, args, {}, as(OTHER)),
              effectAudit("/nowhere", [...args, "--directory", directory], {}, as(OTHER))
            ]
            for (const way of oneOf(ways, turn + place)) {
              const ended = yield* way
              assert.strictEqual(ended.code, 2, `${args.join(" ")}: ${ended.stderr}`)
              assert.include(ended.stderr, `${parent} belongs to uid ${owner}`, args.join(" "))
              assert.include(ended.stderr, `sudo -u '#${owner}' effect-audit`)
            }
          }
        }
      }),
    COMMANDS_TAKE
  )

  /** An unused directory, and a file of the Python class. */
  const freshQueue = (place: readonly [uid: number, gid: number, mode: number] | undefined, oldUid: number) =>
    Effect.gen(function* () {
      const parent = yield* openParent
      const directory = path.join(parent, "audit")
      if (place !== undefined) makeDirectory(directory, ...place)
      const old = path.join(parent, "old.ndjson")
      fs.writeFileSync(old, useLine({}).line)
      fs.chownSync(old, oldUid, oldUid)
      return { parent, directory, old }
    })

  it.scopedLive.each([
    { what: "a platform's directory, the file of root", place: [0, GROUP, 0o2775], old: 0 },
    { what: "a platform's directory, the file of the service", place: [0, GROUP, 0o2775], old: SERVICE },
    { what: "no directory yet, the file of the service", place: undefined, old: SERVICE }
  ] as const)(
    "adopts nothing if it cannot tell the future owner, and says what to do: $what",
    ({ old: oldUid, place }) =>
      Effect.gen(function* () {
        const { directory, old, parent } = yield* freshQueue(place, oldUid)
        const before = ownersIn(parent)
        const { code, stderr } = yield* effectAudit(directory, ["adopt", old], {}, ["env"])
        assert.strictEqual(code, 2, stderr)
        assert.include(stderr, `nobody can tell whose it is`)
        assert.include(stderr, `sudo -u USER${place === undefined ? "" : ` -g '#${GROUP}'`} effect-audit`)
        assert.deepStrictEqual(ownersIn(parent), before)
        // as the message says: give the user the directory, or run the program first
        const groups = place === undefined ? [] : [GROUP]
        if (place === undefined) makeDirectory(directory, SERVICE, SERVICE, 0o700)
        const program = yield* auditProcess({ under: as(SERVICE, groups) })
        assert.isUndefined(yield* program.open({ directory }))
        yield* program.use("first")
        yield* program.close
        fs.chownSync(parent, SERVICE, SERVICE)
        fs.chownSync(old, SERVICE, SERVICE)
        const again = yield* effectAudit(directory, ["adopt", old])
        assert.strictEqual(again.code, 0, again.stderr)
        for (const [name, uid] of ownersIn(directory).slice(1)) assert.strictEqual(uid, SERVICE, name)
        assert.isUndefined(yield* program.open({ directory }))
        assert.strictEqual((yield* program.status).waiting, 2)
        yield* program.close
      }),
    COMMANDS_TAKE
  )

  it.scopedLive.each([
    { what: "its directory", place: [SERVICE, SERVICE, 0o700], owner: 0 },
    { what: "the directory in which it will be made", place: undefined, owner: SERVICE }
  ] as const)(
    "adopts for the owner of $what",
    ({ owner, place }) =>
      Effect.gen(function* () {
        const { directory, old, parent } = yield* freshQueue(place, SERVICE)
        fs.chownSync(parent, SERVICE, SERVICE)
        assert.isTrue(owner === 0 || !fs.existsSync(directory))
        const { code, stderr } = yield* effectAudit(directory, ["adopt", old], {}, ["env"])
        assert.strictEqual(code, 0, stderr)
        assertAllOfService(directory)
        const program = yield* auditProcess({ under: as(SERVICE) })
        assert.isUndefined(yield* program.open({ directory }))
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "adopts for itself if only root can be the program's user",
    () =>
      Effect.gen(function* () {
        for (const place of [undefined, [0, 0, 0o700]] as const) {
          const { directory, old } = yield* freshQueue(place, 0)
          const { code, stderr } = yield* effectAudit(directory, ["adopt", old], {}, ["env"])
          assert.strictEqual(code, 0, stderr)
          assert.strictEqual((yield* (yield* openAudit({ directory })).status).waiting, 1)
        }
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "says what to do if the owner may not read or move the file",
    () =>
      Effect.gen(function* () {
        const { directory } = yield* serviceQueue
        const parent = yield* openParent
        const hidden = path.join(parent, "hidden")
        fs.mkdirSync(hidden, { mode: 0o700 })
        const cases = [
          [path.join(hidden, "old.ndjson"), SERVICE],
          [path.join(parent, "of-root.ndjson"), 0],
          [path.join(parent, "in-a-directory-of-root.ndjson"), SERVICE]
        ] as const
        for (const [old, uid] of cases) {
          fs.writeFileSync(old, useLine({}).line)
          fs.chownSync(old, uid, uid)
          const before = fs.readdirSync(directory)
          const { code, stderr, stdout } = yield* effectAudit(directory, ["adopt", old])
          assert.strictEqual(code, 2, stdout)
          assert.include(stderr, `${old} is to become a part of the queue, which belongs to uid ${SERVICE}`)
          assert.include(stderr, `chown ${SERVICE}`)
          assert.deepStrictEqual(fs.readdirSync(directory), before)
          const moved = path.join(path.dirname(directory), path.basename(old))
          fs.renameSync(old, moved)
          fs.chownSync(moved, SERVICE, SERVICE)
          assert.strictEqual((yield* effectAudit(directory, ["adopt", moved])).code, 0)
          assertAllOfService(directory)
        }
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "delivers although only root may read the installation, the events module and the CA file",
    () =>
      Effect.gen(function* () {
        const { directory } = yield* serviceQueue
        const { config } = yield* mysqlDatabase()
        const home = `${yield* openParent}/root`
        fs.mkdirSync(home, { mode: 0o700 })
        const run = yield* Effect.promise(() => installCommand(home))
        const events = path.join(home, "events.mjs")
        yield* Effect.promise(() =>
          build({
            stdin: { contents: MODULE_OF_EVENTS, resolveDir: root, loader: "ts" },
            outfile: events,
            bundle: true,
            platform: "node",
            format: "esm",
            logLevel: "silent"
          })
        )
        const key = path.join(home, "key.pem")
        const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 })
        fs.writeFileSync(key, publicKey.export({ type: "spki", format: "pem" }))
        fs.writeFileSync(path.join(home, "more.pem"), "")
        const env = {
          AUDIT_DIRECTORY: directory,
          AUDIT_MYSQL_HOST: config.host,
          AUDIT_MYSQL_PORT: String(config.port),
          AUDIT_MYSQL_USERNAME: config.username,
          AUDIT_MYSQL_PASSWORD: config.password,
          AUDIT_MYSQL_DATABASE: config.database,
          AUDIT_MYSQL_SERVER_PUBLIC_KEY: key,
          NODE_EXTRA_CA_CERTS: path.join(home, "more.pem")
        }
        const command = (...args: ReadonlyArray<string>) => Effect.sync(() => run(args, env))
        const migrated = yield* command("migrate")
        assert.strictEqual(migrated.code, 0, migrated.stderr)
        const flushed = yield* command("flush", "--events", events)
        assert.deepInclude(flushed, { code: 0, stderr: "", stdout: "1 delivered\n" }, flushed.stderr)
        assertAllOfService(directory)
        for (const args of [["status"], ["verify"], ["dead", "retry", "--all"], ["flush"]]) {
          const ended = yield* command(...args)
          assert.include([0, 2], ended.code, ended.stderr)
          assert.notInclude(ended.stderr, "EACCES")
        }
      }),
    COMMANDS_TAKE
  )

  it.scopedLive(
    "follows no link of the service's user out of the directory",
    () =>
      Effect.gen(function* () {
        const { directory, ids } = yield* serviceQueue
        const { assertUntouched, outside } = makeOutside(path.dirname(directory))
        const names = ["lock", "cursor", "dead-letter.ndjson", "status.json", "requests"]
        for (const [turn, name] of names.entries()) {
          const file = path.join(directory, name)
          const kept = `${file}.kept`
          if (fs.existsSync(file)) fs.renameSync(file, kept)
          fs.symlinkSync(name === "requests" ? outside : `${outside}/victim`, file)
          for (const args of [["dead", "retry", ids[0]!], ...oneOf([["status"], ["verify"]], turn)]) {
            yield* effectAudit(directory, args)
            assertUntouched()
          }
          fs.rmSync(file)
          if (fs.existsSync(kept)) fs.renameSync(kept, file)
        }
      }),
    COMMANDS_TAKE
  )
})

describe("a program that starts while the command holds the queue", () => {
  it.scopedLive("waits briefly for the command, without lockWait too, but not for another program", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      const disk = yield* q.nodeDisk
      const command = yield* q.openClosable(disk, { directory, isCommand: true })
      const program = yield* Effect.fork(openAudit({ directory }))
      const impatient = yield* Effect.flip(openAudit({ directory, lockWait: "1 millis" }))
      assert.include(impatient, { _tag: "QueueLocked", command: true })
      yield* Effect.sleep("300 millis")
      yield* command.close
      yield* (yield* Fiber.join(program)).use("after the command")
      const refused = yield* Effect.flip(openAudit({ directory }))
      assert.include(refused, { _tag: "QueueLocked", command: false })
    })
  )

  it.scopedLive("recognizes a real command by its lock, while a server keeps it busy", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      yield* fill(directory, [useLine({})])
      const { called, port } = yield* silentServer
      const flush = yield* Effect.fork(
        effectAudit(directory, ["flush", "--url", `mysql://audit@127.0.0.1:${port}/audit`])
      )
      yield* called
      const log = yield* openAudit({ directory })
      yield* log.use("after it")
      assert.strictEqual((yield* Fiber.join(flush)).code, 1)
      assert.strictEqual((yield* log.status).waiting, 2)
    })
  )
})
