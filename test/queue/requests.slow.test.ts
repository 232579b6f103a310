/** Files in `requests/`: the queue carries out requests, sets other files aside, logs them, and waits for none. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, LogLevel, Schedule, Scope } from "effect"
import * as fc from "fast-check"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as requests from "../../src/internal/queue/requests.js"
import type { Disk } from "../../src/services/Disk.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { eventually, shifted } from "../support/clock.js"
import * as q from "../support/queue.js"

const HOUR = 3_600_000
const DISCARD = { action: "discard", letters: "all", by: "li", at: "2026-01-01T00:00:00.000Z" }

/** Files and other things that are no requests, by name. */
const FOREIGN: Readonly<Record<string, (file: string) => Promise<void> | void>> = {
  "no JSON": (file) => fs.writeFileSync(file, "{"),
  "an action of nobody": (file) => fs.writeFileSync(file, JSON.stringify({ ...DISCARD, action: "delete" })),
  "an action nested 20,000 deep": (file) =>
    fs.writeFileSync(file, `{"action":${"[".repeat(20_000)}${"]".repeat(20_000)},"letters":"all"}`),
  "ids that are none": (file) =>
    fs.writeFileSync(file, JSON.stringify({ ...DISCARD, letters: ["0:1.5", "-1:0", "00:1"] })),
  "a time that is none": (file) => fs.writeFileSync(file, JSON.stringify({ ...DISCARD, at: "yesterday" })),
  "600 MB": (file) => {
    fs.writeFileSync(file, JSON.stringify(DISCARD))
    fs.truncateSync(file, 600 * 1024 * 1024)
  },
  "a FIFO": (file) => void execFileSync("mkfifo", [file]),
  "a directory": (file) => fs.mkdirSync(file),
  "a link to a request": (file) => {
    fs.writeFileSync(`${file}.elsewhere`, JSON.stringify(DISCARD))
    fs.symlinkSync(`${file}.elsewhere`, file)
  },
  "a link to nothing": (file) => fs.symlinkSync("/nowhere", file),
  "a socket": (file) =>
    new Promise((resolve) => {
      const server = net.createServer().listen(file, () => {
        // the name stays, since the server does not close
        server.unref()
        resolve()
      })
    })
}

/** A queue with a letter that waits for a decision. */
const withLetter = Effect.gen(function* () {
  const directory = `${yield* q.temporaryDirectory}/audit`
  fs.mkdirSync(`${directory}/requests`, { recursive: true, mode: 0o700 })
  return directory
})

describe("requests", () => {
  it.scopedLive("that are invalid are set aside, logged once, and delay nothing", () =>
    Effect.gen(function* () {
      const directory = yield* withLetter
      const logs: Array<string> = []
      const logger = Logger.make(({ message }) => logs.push(String(message)))
      yield* Effect.gen(function* () {
        const disk = yield* q.nodeDisk
        const queue = yield* q.openQueue(disk, { directory })
        yield* q.append(queue, "rejected")
        yield* q.deliverAll(queue, new Set(), { isRejected: () => true })
        const files: Array<string> = []
        for (const [index, make] of Object.values(FOREIGN).entries()) {
          const file = `${directory}/requests/0${index}.json`
          files.push(file)
          yield* Effect.promise(async () => make(file))
        }
        const asked = yield* requests.submit(disk, directory, { action: "discard", letters: "all", by: "li" })
        assert.lengthOf((yield* requests.look(disk, directory)).broken, files.length)
        for (let round = 0; round < 3; round++) yield* queue.carryOutRequests
        assert.isFalse(fs.existsSync(asked))
        assert.deepInclude(yield* q.books(queue), { dead: 0, discarded: 1, balanced: true })
        const { broken, open } = yield* requests.look(disk, directory)
        assert.lengthOf(open, 0)
        assert.sameMembers(
          broken.map(({ file }) => file),
          files.map((file) => `${file}.broken`)
        )
        assert.lengthOf(
          logs.filter((line) => line.includes("requests/")),
          1
        )
        assert.include(
          logs.find((line) => line.includes("requests/")),
          `${files.length} files cannot be carried out as requests, first ${files[0]!} (its content`
        )
        yield* q.append(queue, "later")
        const database = new Set<string>()
        yield* q.deliverAll(queue, database)
        assert.deepStrictEqual([...database], ["later"])
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )

  it.scopedLive("that are invalid make one log line a minute, for 10,000 of them", () =>
    Effect.gen(function* () {
      const directory = yield* withLetter
      const logs: Array<string> = []
      const logger = Logger.make(({ message }) => logs.push(String(message)))
      let offset = 0n
      const real = yield* Effect.clock
      const clock = Object.assign(Object.create(real) as typeof real, {
        unsafeCurrentTimeNanos: () => real.unsafeCurrentTimeNanos() + offset
      })
      yield* Effect.gen(function* () {
        const queue = yield* q.openQueue(yield* q.nodeDisk, { directory })
        const put = (from: number, count: number) => {
          for (let index = from; index < from + count; index++) {
            fs.writeFileSync(`${directory}/requests/${index}.json`, "{")
          }
        }
        const lines = () => logs.filter((line) => line.includes("cannot be carried out"))
        put(0, 10_000)
        yield* queue.carryOutRequests
        assert.lengthOf(lines(), 1)
        assert.include(
          lines()[0],
          `10000 files cannot be carried out as requests, first ${directory}/requests/0.json`
        )
        // one at a time, as the watch sees them
        for (let index = 10_000; index < 10_050; index++) {
          put(index, 1)
          yield* queue.carryOutRequests
        }
        assert.lengthOf(lines(), 1)
        // the next pass logs the rest, with or without a new one
        offset = 60_000_000_000n
        yield* queue.carryOutRequests
        assert.lengthOf(lines(), 2)
        assert.include(lines()[1], "50 files cannot be carried out as requests")
        yield* queue.carryOutRequests
        assert.lengthOf(lines(), 2)
      }).pipe(Effect.withClock(clock), Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )

  it.scopedLive("run in the order of their submission, whatever the clock says", () =>
    Effect.gen(function* () {
      const parent = yield* q.temporaryDirectory
      const disk = yield* q.nodeDisk
      let rounds = 0
      const jump = fc.oneof(fc.constantFrom(0, -1, 1, -6 * HOUR, 6 * HOUR), fc.integer())
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.array(jump, { minLength: 2, maxLength: 8 }),
            fc.constantFrom("", "00001780000000-x.json", "99999999999999-x.json", "1.json", "x.json.broken"),
            (jumps, lying) =>
              Effect.runPromise(
                Effect.gen(function* () {
                  const directory = `${parent}/${rounds++}`
                  fs.mkdirSync(`${directory}/requests`, { recursive: true })
                  const isRequest = lying.endsWith(".json")
                  if (lying !== "")
                    fs.writeFileSync(`${directory}/requests/${lying}`, JSON.stringify(DISCARD))
                  let offset = 0
                  const clock = shifted(yield* Effect.clock, () => offset)
                  const left: Array<string> = isRequest ? [`${directory}/requests/${lying}`] : []
                  for (const by of jumps) {
                    offset += by
                    const asked = requests.submit(disk, directory, {
                      action: "retry",
                      letters: "all",
                      by: "li"
                    })
                    left.push(yield* Effect.withClock(asked, clock))
                  }
                  const { open } = yield* requests.look(disk, directory)
                  assert.deepStrictEqual(
                    open.map(({ file }) => file),
                    left
                  )
                })
              )
          ),
          { numRuns: 200 }
        )
      )
    })
  )

  it.scopedLive("run a retry before a later discard, although the clock was set back", () =>
    Effect.gen(function* () {
      const directory = yield* withLetter
      const disk = yield* q.nodeDisk
      const queue = yield* q.openQueue(disk, { directory })
      yield* q.append(queue, "a")
      yield* q.deliverAll(queue, new Set(), { isRejected: () => true })
      let offset = 0
      const clock = shifted(yield* Effect.clock, () => offset)
      const ask = (action: "retry" | "discard") =>
        Effect.withClock(requests.submit(disk, directory, { action, letters: "all", by: "li" }), clock)
      yield* ask("retry")
      offset = -6 * HOUR
      yield* ask("discard")
      yield* queue.carryOutRequests
      const database = new Set<string>()
      yield* q.deliverAll(queue, database)
      assert.deepStrictEqual([...database], ["a"])
    })
  )

  it.scopedLive(
    "are read a few at a time if they exceed the memory",
    () =>
      Effect.gen(function* () {
        const directory = yield* withLetter
        const disk = yield* q.nodeDisk
        const queue = yield* q.openQueue(disk, { directory })
        const padding = " ".repeat(15 * 1024 * 1024)
        for (let index = 0; index < 9; index++) {
          const by = `${index}`
          fs.writeFileSync(
            `${directory}/requests/${index}.json`,
            JSON.stringify({ ...DISCARD, by }) + padding
          )
        }
        const { hasMore, open } = yield* requests.look(disk, directory)
        assert.isTrue(hasMore)
        assert.deepStrictEqual(
          open.map(({ request: { by } }) => by),
          ["0", "1", "2", "3", "4"]
        )
        yield* queue.carryOutRequests
        assert.isEmpty(fs.readdirSync(`${directory}/requests`))
      }),
    120_000
  )

  it.scopedLive("stay for the next owner after a shutdown, and none is reported as stuck", () =>
    Effect.gen(function* () {
      const directory = yield* withLetter
      const logs: Array<string> = []
      const logger = Logger.make(({ message }) => logs.push(String(message)))
      const files = Array.from({ length: 2000 }, (_, index) => `${directory}/requests/${index}.json`)
      yield* Effect.gen(function* () {
        const disk = yield* q.nodeDisk
        const scope = yield* Scope.make()
        const queue = yield* Scope.extend(q.openQueue(disk, { directory }), scope)
        for (const file of files) fs.writeFileSync(file, "{}")
        const carryingOut = yield* Effect.forkDaemon(Effect.exit(queue.carryOutRequests))
        yield* eventually(() =>
          assert.isNotEmpty(
            fs.readdirSync(`${directory}/requests`).filter((name) => name.endsWith(".broken"))
          )
        )
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(carryingOut)), "the close came in the middle")
        assert.deepStrictEqual(
          logs.filter((text) => text.includes("cannot be renamed")),
          []
        )
        yield* (yield* q.openQueue(disk, { directory })).carryOutRequests
        assert.lengthOf(
          (yield* requests.look(disk, directory)).broken.filter(({ file }) => file.endsWith(".broken")),
          files.length
        )
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )

  it.scopedLive("delay neither appends nor commits if the disk hangs on one", () =>
    Effect.gen(function* () {
      const directory = yield* withLetter
      const real = yield* q.nodeDisk
      const disk: Disk["Type"] = {
        ...real,
        open: (file, mode) => (file.includes("/requests/") ? Effect.never : real.open(file, mode))
      }
      fs.writeFileSync(`${directory}/requests/1.json`, JSON.stringify(DISCARD))
      const queue = yield* q.openQueue(disk, { directory })
      const reading = yield* Effect.fork(queue.carryOutRequests)
      yield* Effect.sleep("20 millis")
      const database = new Set<string>()
      yield* q.append(queue, "a")
      yield* q.deliverAll(queue, database)
      assert.deepStrictEqual([...database], ["a"])
      yield* Fiber.interrupt(reading)
    })
  )

  it.scopedLive(
    "delay neither a pass nor a later look if the disk hangs on one",
    () =>
      Effect.gen(function* () {
        const directory = yield* withLetter
        const real = yield* q.nodeDisk
        const answer = yield* Deferred.make<void>()
        const disk: Disk["Type"] = {
          ...real,
          open: (file, mode) =>
            file.includes("/requests/")
              ? Effect.zipRight(Deferred.await(answer), real.open(file, mode))
              : real.open(file, mode)
        }
        fs.writeFileSync(`${directory}/requests/1.json`, JSON.stringify(DISCARD))
        const database = slowDatabase()
        const log = yield* openAudit({ directory, pollInterval: "1 hour" }, { ...database, disk })
        for (const prompt of ["a", "b", "c"]) {
          yield* log.use(prompt)
          yield* Effect.timeout(log.flush, "30 seconds")
        }
        assert.sameMembers(database.prompts(), ["a", "b", "c"])
        // arrives during the read of the other request: the reader looks again
        fs.writeFileSync(`${directory}/requests/2.json`, JSON.stringify(DISCARD))
        yield* Effect.sleep("100 millis")
        yield* Deferred.succeed(answer, undefined)
        yield* Effect.repeat(
          Effect.sync(() => fs.readdirSync(`${directory}/requests`)),
          { while: (names) => names.length > 0, schedule: Schedule.spaced("20 millis") }
        ).pipe(Effect.timeout("30 seconds"))
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
    120_000
  )
})
