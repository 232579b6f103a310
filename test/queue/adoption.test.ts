/** Adoption: each event of the Python class's queue file is delivered once, whatever happens meanwhile. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, LogLevel } from "effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Disk, DiskError } from "../../src/services/Disk.js"
import { acrossFileSystems, deliver, LATER, LINES, normal } from "../support/adoption.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { letters, nodeDisk, temporaryDirectory } from "../support/queue.js"
import { isLive, queueFile } from "../support/reference.js"

const SEGMENT = "00000000000000000000.ndjson"
const NOISE = {
  malformed: ['{"kind":"use_log","user_na', "[]"],
  blank: ["", "  "],
  torn: '{"kind":"login_l'
}

/** A file as the class leaves it when it is killed at the worst moments, with these line ends. */
const untidy = (lineEnd: string) =>
  [LINES[0], NOISE.malformed[0], "", ...LINES.slice(1), "  ", NOISE.malformed[1], NOISE.torn].join(lineEnd)

const withoutId = (database: ReturnType<typeof slowDatabase>) =>
  [...database.events.values()].map(({ line }) => JSON.stringify(line))

describe("the Python class", () => {
  it.skipIf(!isLive)("writes the lines of the fixture", () => {
    const shape = (text: string) => text.replaceAll(/\d{4}-\d\d-\d\d(.)\d\d:\d\d:\d\d/g, "<time$1>")
    assert.strictEqual(
      shape(queueFile),
      shape(fs.readFileSync(new URL("../fixtures/audit_queue.ndjson", import.meta.url), "utf8"))
    )
  })
})

describe("adoption", () => {
  it.scopedLive.each([
    { system: "Linux", lineEnd: "\n" },
    { system: "Windows", lineEnd: "\r\n" }
  ])("delivers the file of the Python class from $system", ({ lineEnd }) =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const old = path.join(directory, "audit_queue.ndjson")
      fs.writeFileSync(old, untidy(lineEnd))
      const logs: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => logs.push(`${logLevel.label} ${String(message)}`))
      const database = slowDatabase()
      const queue = `${directory}/audit`
      const status = yield* deliver(
        { directory: queue, adopt: { path: old, timeZone: "Asia/Shanghai" } },
        database
      ).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))

      const events = [...database.events.values()]
      assert.sameMembers(
        withoutId(database),
        LINES.map((line) => JSON.stringify(JSON.parse(line)))
      )
      for (const { line, time } of events) {
        assert.strictEqual(time, Date.parse(`${String(line.ts)}+08:00`), "ts is a wall clock of the zone")
      }
      const rows = events.map(({ row }) => row)
      assert.sameDeepMembers(rows.slice(0, 2), [
        [
          "李雷",
          "studio-3",
          "一只红色的狐狸🦊",
          "out/1.png",
          "success",
          null,
          "gemini-2.5-flash-image",
          1840,
          "STOP"
        ],
        ["未知用户", "未知设备", "", null, "failed", 'a "quoted"\nline\u2028', null, null, null]
      ])
      const loginTime = (JSON.parse(LINES[2]!) as { readonly login_time: string }).login_time
      const login = ["韩梅梅", "10.0.0.5", null, "studio-3", loginTime]
      assert.deepStrictEqual(rows.slice(2, 4), [login, login])

      const kept = yield* letters(yield* nodeDisk, queue)
      const bytesOf = (cls: string) =>
        kept.filter((letter) => letter.class === cls).map(({ bytes }) => bytes.toString())
      const ended = (lines: ReadonlyArray<string>) => lines.map((line) => line + lineEnd.slice(0, -1))
      assert.deepStrictEqual(bytesOf("malformed"), ended(NOISE.malformed))
      assert.deepStrictEqual(bytesOf("blank"), ended(NOISE.blank))
      assert.deepStrictEqual(bytesOf("torn"), [NOISE.torn])
      const { accepted, dead, delivered, discarded, missing, torn, waiting } = status
      assert.deepStrictEqual(
        { accepted, dead, delivered, discarded, missing, torn, waiting },
        { accepted: 10, delivered: 5, dead: 2, discarded: 2, torn: 1, missing: 0, waiting: 0 }
      )
      const warnings = logs.filter((line) => !/^(INFO|DEBUG)/.test(line))
      assert.lengthOf(warnings, 1)
      assert.include(warnings[0], "2 events went to the dead letters", "of blank lines and torn ends nothing")
    })
  )

  it.scopedLive("reports no damage for a complete file", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const old = path.join(directory, "audit_queue.ndjson")
      fs.writeFileSync(old, `${queueFile}\n`)
      const { dead, delivered } = yield* deliver(
        { directory: `${directory}/audit`, adopt: { path: old } },
        slowDatabase()
      )
      assert.deepStrictEqual({ dead, delivered }, { dead: 0, delivered: 5 })
    })
  )

  it.scopedLive.each(["\n\n\n", "\r\n\r\n\r\n", "\n \n\t", "\n\n  \r"].map((text) => ({ text })))(
    "counts blank lines as discarded, not as torn: $text",
    ({ text }) =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const old = path.join(directory, "audit_queue.ndjson")
        fs.writeFileSync(old, text)
        const settings = { directory: `${directory}/audit`, adopt: { path: old } }
        const books = { accepted: 3, delivered: 0, waiting: 0, dead: 0, discarded: 3, torn: 0, missing: 0 }
        assert.deepInclude(yield* deliver(settings, slowDatabase()), books)
        // a later start, and one without its cursor, count the same
        assert.deepInclude(yield* deliver(settings, slowDatabase()), books)
        fs.rmSync(`${settings.directory}/cursor`)
        assert.deepInclude(yield* deliver(settings, slowDatabase()), books)
      })
  )

  it.scopedLive.each([
    { what: "relative", link: (name: string) => `../elsewhere/${name}`, isFar: false },
    { what: "absolute", link: (name: string, root: string) => `${root}/elsewhere/${name}`, isFar: false },
    { what: "relative", link: (name: string) => `../elsewhere/${name}`, isFar: true }
  ])("adopts through a $what link once over many starts (another file system: $isFar)", ({ isFar, link }) =>
    Effect.gen(function* () {
      const root = fs.realpathSync(yield* temporaryDirectory)
      const real = yield* nodeDisk
      const disk: Disk["Type"] = isFar ? { ...real, rename: acrossFileSystems(real) } : real
      for (const name of ["program", "elsewhere"]) fs.mkdirSync(`${root}/${name}`)
      fs.writeFileSync(`${root}/elsewhere/old.ndjson`, queueFile)
      const old = `${root}/program/old.ndjson`
      fs.symlinkSync(link("old.ndjson", root), old)
      const settings = { directory: `${root}/audit`, adopt: { path: old } }
      const database = slowDatabase()
      for (let start = 1; start <= 5; start++) {
        const { accepted, missing } = yield* deliver(settings, { ...database, disk })
        assert.deepStrictEqual({ accepted, missing }, { accepted: 5, missing: 0 }, `start ${start}`)
      }
      assert.sameMembers(withoutId(database), LINES.map(normal))
      // the link stays; its file became the segment, or is set aside
      assert.isTrue(fs.lstatSync(old).isSymbolicLink())
      assert.deepStrictEqual(fs.readdirSync(`${root}/program`), ["old.ndjson"])
      assert.deepStrictEqual(fs.readdirSync(`${root}/elsewhere`), isFar ? ["old.ndjson.0.adopted"] : [])
      // the old program writes through the link again
      fs.appendFileSync(old, LATER)
      assert.deepInclude(yield* deliver(settings, { ...database, disk }), { accepted: 6, missing: 0 })
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("resolves a dangling link, also through linked directories", () =>
    Effect.gen(function* () {
      const root = fs.realpathSync(yield* temporaryDirectory)
      const disk = yield* nodeDisk
      fs.mkdirSync(`${root}/a/b`, { recursive: true })
      fs.symlinkSync(`${root}/a/b`, `${root}/to-b`)
      fs.symlinkSync("../gone", `${root}/a/b/link`)
      fs.symlinkSync("link", `${root}/a/b/link2`)
      assert.strictEqual(yield* disk.realPath(`${root}/to-b/link2`), `${root}/a/gone`)
      assert.strictEqual((yield* Effect.flip(disk.realPath(`${root}/a/gone`))).code, "ENOENT")
      fs.symlinkSync("loop", `${root}/loop`)
      assert.strictEqual((yield* Effect.flip(disk.realPath(`${root}/loop`))).code, "ELOOP")
    })
  )

  const canMount = process.platform === "linux" && process.getuid?.() === 0
  it.scopedLive.skipIf(!canMount)(
    "starts without adopting if the disk is full, reports it, and keeps the file (skipped unless root)",
    () =>
      Effect.gen(function* () {
        const root = yield* temporaryDirectory
        const small = path.join(root, "small")
        fs.mkdirSync(small)
        yield* Effect.acquireRelease(
          Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m,mode=0700", "none", small])),
          () => Effect.sync(() => execFileSync("umount", [small]))
        )
        const old = path.join(root, "audit_queue.ndjson")
        const text = queueFile.repeat(Math.ceil((2 * 1024 * 1024) / queueFile.length))
        fs.writeFileSync(old, text)
        const logs: Array<string> = []
        const logger = Logger.make(({ message }) => logs.push(String(message)))
        const settings = { directory: `${small}/audit`, adopt: { path: old }, minFreeBytes: 0 }
        const database = slowDatabase()
        for (let start = 1; start <= 2; start++) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const audit = yield* openAudit(settings, database)
              yield* audit.use(`event ${start}`)
              yield* audit.flush
              assert.deepInclude(yield* audit.status, { accepted: start, delivered: start, missing: 0 })
            })
          ).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
          assert.notExists(fs.readdirSync(settings.directory).find((name) => name.startsWith("adoption")))
          assert.lengthOf(
            logs.filter((line) => line.includes("was not adopted")),
            start
          )
        }
        assert.strictEqual(fs.readFileSync(old, "utf8"), text)
        // with room, a start adopts it
        execFileSync("mount", ["-o", "remount,size=16m", small])
        const { accepted } = yield* Effect.scoped(Effect.flatMap(openAudit(settings), (_) => _.status))
        assert.strictEqual(accepted, 2 + text.trimEnd().split("\n").length)
      })
  )

  it.scopedLive("uses a complete copy with a damaged record, if the old file is named again", () =>
    Effect.gen(function* () {
      for (const isAside of [true, false]) {
        const root = fs.realpathSync(yield* temporaryDirectory)
        const old = `${root}/old.ndjson`
        const settings = { directory: `${root}/audit`, adopt: { path: old } }
        yield* deliver({ directory: settings.directory }, slowDatabase())
        fs.writeFileSync(isAside ? `${old}.0.adopted` : old, queueFile)
        fs.writeFileSync(
          `${root}/audit/adoption.copy`,
          isAside ? queueFile : queueFile.slice(0, queueFile.indexOf("\n") + 1)
        )
        fs.writeFileSync(`${root}/audit/adoption.json`, `{"source":"${old}","aside":"${old}.0.bdopted"}`)
        const database = slowDatabase()
        if (isAside) {
          // without the option, nobody knows the source of the copy: it stays
          assert.deepInclude(yield* deliver({ directory: settings.directory }, database), { accepted: 0 })
          assert.isTrue(fs.existsSync(`${root}/audit/adoption.copy`))
        }
        for (let start = 0; start < 2; start++) yield* deliver(settings, database)
        assert.sameMembers(withoutId(database), LINES.map(normal))
        assert.notExists(fs.readdirSync(settings.directory).find((name) => name.startsWith("adoption")))
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("delivers a copy after somebody replaced the old file", () =>
    Effect.gen(function* () {
      const root = fs.realpathSync(yield* temporaryDirectory)
      const real = yield* nodeDisk
      const disk: Disk["Type"] = { ...real, rename: acrossFileSystems(real) }
      const old = `${root}/old.ndjson`
      fs.writeFileSync(old, queueFile)
      const settings = { directory: `${root}/audit`, adopt: { path: old } }
      const database = slowDatabase()
      const broken: Disk["Type"] = {
        ...disk,
        rename: (from, to) =>
          from.endsWith("adoption.copy")
            ? new DiskError({ operation: "rename", path: from, code: "EIO", cause: undefined })
            : disk.rename(from, to)
      }
      yield* Effect.flip(deliver(settings, { ...database, disk: broken }))
      fs.rmSync(`${old}.0.adopted`)
      fs.writeFileSync(old, LATER)
      for (let start = 0; start < 2; start++) yield* deliver(settings, { ...database, disk })
      assert.strictEqual(database.events.size, LINES.length + 1)
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("keeps the copy if the record is damaged, whatever file is named next", () =>
    Effect.gen(function* () {
      const real = yield* nodeDisk
      const disk: Disk["Type"] = { ...real, rename: acrossFileSystems(real) }
      const other = Array.from({ length: 4 }, (_, index) => LATER.replace("later", `other ${index}`)).join("")
      for (const moment of ["before the old file was put aside", "after it"] as const) {
        for (const named of [
          "another file",
          "nothing",
          "a file that begins alike",
          "the old file"
        ] as const) {
          const root = fs.realpathSync(yield* temporaryDirectory)
          const old = `${root}/old.ndjson`
          fs.writeFileSync(old, queueFile)
          fs.writeFileSync(`${root}/other.ndjson`, other)
          fs.writeFileSync(`${root}/alike.ndjson`, `${LINES.slice(0, 2).join("\n")}\n${other}`)
          const directory = `${root}/audit`
          const database = slowDatabase()
          // a start that ends before the copy becomes a segment
          const broken: Disk["Type"] = {
            ...disk,
            rename: (from, to) =>
              from.endsWith("adoption.copy") || (to.endsWith(".adopted") && moment.startsWith("before"))
                ? new DiskError({ operation: "rename", path: from, code: "EIO", cause: undefined })
                : disk.rename(from, to)
          }
          yield* Effect.flip(deliver({ directory, adopt: { path: old } }, { ...database, disk: broken }))
          const record = `${directory}/adoption.json`
          fs.writeFileSync(record, fs.readFileSync(record, "utf8").replace(/"/, "'"))
          const files = {
            "another file": "other",
            nothing: "",
            "a file that begins alike": "alike",
            "the old file": "old"
          } as const
          const file = files[named]
          const adopt = file === "" ? {} : { adopt: { path: `${root}/${file}.ndjson` } }
          const what = `${named}, ${moment}`
          for (let start = 0; start < 2; start++)
            yield* deliver({ directory, ...adopt }, { ...database, disk })
          // then the operator names the old file
          yield* deliver({ directory, adopt: { path: old } }, { ...database, disk })
          yield* deliver({ directory, ...adopt }, { ...database, disk })
          const more = { old: 0, "": 0, other: 4, alike: 6 }[file]
          assert.strictEqual(database.events.size, LINES.length + more, what)
        }
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("adopts a file once, and then a new file at the same path", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const old = path.join(directory, "audit_queue.ndjson")
      const settings = { directory: `${directory}/audit`, adopt: { path: old } }
      const database = slowDatabase()
      fs.writeFileSync(old, queueFile)
      yield* deliver(settings, database)
      yield* deliver(settings, database)
      assert.lengthOf(withoutId(database), 5)

      // the old program ran again
      fs.writeFileSync(old, queueFile)
      yield* deliver(settings, database)
      yield* deliver(settings, database)
      assert.sameMembers(withoutId(database), [...LINES, ...LINES].map(normal))
    })
  )

  it.scopedLive("refuses to adopt a file of a queue, under any path, and reports it", () =>
    Effect.gen(function* () {
      const parent = yield* temporaryDirectory
      const made = `${parent}/audit`
      const event = yield* Effect.scoped(
        Effect.gen(function* () {
          const audit = yield* openAudit({ directory: made })
          yield* audit.use("only once")
          return fs.readFileSync(`${made}/${SEGMENT}`, "utf8")
        })
      )
      fs.writeFileSync(`${made}/requests/00000000000000.json.broken`, event)
      const names = [SEGMENT, "dead-letter.ndjson", "cursor", "queue.json", "lock", "status.json"]
      for (const name of [...names, "queue.json.new", "requests/00000000000000.json.broken"]) {
        for (const [place, path] of [
          ["queue", name],
          ["queue", `../link`],
          ["other", `../queue/${name}`]
        ] as const) {
          fs.cpSync(made, `${parent}/queue`, { recursive: true })
          if (!fs.existsSync(`${parent}/queue/${name}`)) fs.writeFileSync(`${parent}/queue/${name}`, event)
          fs.symlinkSync(`queue/${name}`, `${parent}/link`)
          const directory = `${parent}/${place}`
          const before = fs.statSync(`${parent}/queue/${name}`).ino
          const logs: Array<string> = []
          const logger = Logger.make(({ message }) => logs.push(String(message)))
          const status = yield* deliver(
            { directory, adopt: { path: `${directory}/${path}` } },
            slowDatabase()
          ).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
          const accepted = place === "queue" ? 1 : 0
          assert.deepInclude(status, { accepted, delivered: accepted, missing: 0 }, `${place} ${name}`)
          assert.lengthOf(
            logs.filter((text) => text.includes("is a part of a queue")),
            1,
            `${place} ${name}`
          )
          if (place === "other") {
            assert.strictEqual(fs.statSync(`${parent}/queue/${name}`).ino, before, "it stands where it stood")
          }
          for (const left of ["queue", "other", "link"]) {
            fs.rmSync(`${parent}/${left}`, { recursive: true, force: true })
          }
        }
      }
    })
  )

  it.scopedLive("adopts a file of another name from the queue's directory", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      fs.writeFileSync(`${directory}/audit_queue.ndjson`, queueFile)
      const database = slowDatabase()
      for (let start = 0; start < 2; start++) {
        yield* deliver({ directory, adopt: { path: `${directory}/audit_queue.ndjson` } }, database)
        assert.lengthOf(withoutId(database), LINES.length)
      }
    })
  )

  it.scopedLive("adds the file to the events that wait, beside an empty segment", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const old = path.join(directory, "audit_queue.ndjson")
      const queue = `${directory}/audit`
      yield* Effect.scoped(Effect.flatMap(openAudit({ directory: queue }), ({ use }) => use("before")))
      // as a process leaves it that is killed before its first line
      fs.writeFileSync(`${queue}/${"1".padStart(20, "0")}.ndjson`, "")
      fs.writeFileSync(old, queueFile)
      const database = slowDatabase()
      const adopting = yield* openAudit({ directory: queue, adopt: { path: old } }, database)
      yield* adopting.use("after")
      yield* adopting.flush
      const { accepted, delivered, missing } = yield* adopting.status
      assert.deepStrictEqual({ accepted, delivered, missing }, { accepted: 7, delivered: 7, missing: 0 })
      assert.strictEqual(database.events.size, 7)
    })
  )

  it.scopedLive("keeps equal events of two machines apart", () =>
    Effect.gen(function* () {
      const database = slowDatabase()
      for (let machine = 0; machine < 2; machine++) {
        const directory = yield* temporaryDirectory
        const old = path.join(directory, "audit_queue.ndjson")
        fs.writeFileSync(old, queueFile)
        yield* deliver({ directory: `${directory}/audit`, adopt: { path: old } }, database)
      }
      assert.sameMembers(withoutId(database), [...LINES, ...LINES].map(normal))
    })
  )

  const isMounted = fs.existsSync("/dev/shm") && fs.statSync("/dev/shm").dev !== fs.statSync(".").dev
  it.scopedLive.skipIf(!isMounted)(
    "copies the file from another file system (skipped without /dev/shm)",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const elsewhere = yield* Effect.acquireRelease(
          Effect.sync(() => fs.mkdtempSync("/dev/shm/audit-adoption-")),
          (name) => Effect.sync(() => fs.rmSync(name, { recursive: true }))
        )
        const old = path.join(elsewhere, "audit_queue.ndjson")
        const settings = { directory: `${directory}/audit`, adopt: { path: old } }
        const database = slowDatabase()
        for (let round = 1; round <= 2; round++) {
          fs.writeFileSync(old, queueFile)
          yield* deliver(settings, database)
          yield* deliver(settings, database)
          assert.lengthOf(withoutId(database), 5 * round)
          const names = fs.readdirSync(elsewhere)
          assert.lengthOf(names, round)
          for (const name of names) {
            assert.match(name, /\.adopted$/)
            assert.strictEqual(fs.readFileSync(path.join(elsewhere, name), "utf8"), queueFile)
          }
        }
        assert.notExists(fs.readdirSync(settings.directory).find((name) => name.startsWith("adoption")))
      })
  )
})
