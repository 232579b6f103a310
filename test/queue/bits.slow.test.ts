/**
 * Damaged bits, in any file of a queue: the queue opens, and its books add up. Each event acknowledged afterwards, and
 * each untouched line, is delivered or a dead letter.
 */
import { assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Effect, Either, Exit, Logger, LogLevel } from "effect"
import * as fc from "fast-check"
import * as fs from "node:fs"
import * as path from "node:path"
import { inspect } from "../../src/internal/queue/inspect.js"
import * as deadLetterFile from "../../src/internal/queue/deadLetters.js"
import * as requests from "../../src/internal/queue/requests.js"
import { effectAudit } from "../support/cli.js"
import { root } from "../support/program.js"
import * as q from "../support/queue.js"

const long = process.env.AUDIT_LONG === "1"
const runs = long ? 10_000 : 100
// the long form takes a new seed each time: somebody reads its failures
const seed = Number(process.env.AUDIT_SEED ?? (long ? Date.now() % 1_000_000_000 : 992_847_134))

/** The files of a directory, by name. */
type Files = ReadonlyMap<string, Buffer>

const readAll = (directory: string): Files =>
  new Map(
    fs
      .readdirSync(directory, { recursive: true, encoding: "utf8" })
      .filter((name) => fs.statSync(path.join(directory, name)).isFile())
      .map((name) => [name, fs.readFileSync(path.join(directory, name))])
  )

const writeAll = (directory: string, files: Files) => {
  fs.mkdirSync(`${directory}/requests`, { recursive: true, mode: 0o700 })
  for (const [name, content] of files) fs.writeFileSync(path.join(directory, name), content, { mode: 0o600 })
}

/** Three queues: of format 1, with all kinds of files, and with everything delivered. */
const queues: Array<Files> = []

const made = (end: "waiting" | "delivered") =>
  Effect.gen(function* () {
    const directory = `${yield* q.temporaryDirectory}/audit`
    const disk = yield* q.nodeDisk
    const isRejected = (id: string) => /^e[258]$/.test(id)
    yield* q.withQueue(disk, { directory, segmentBytes: 70 }, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, q.idsOf("e", 20))
        for (let i = 0; i < 11; i++) yield* q.deliver(queue, new Set(), { maxRecords: 1, isRejected })
        const [first, second] = (yield* q.letters(disk, directory)).map(({ id }) => id)
        yield* queue.retry(({ id }) => id === first, "li")
        yield* requests.submit(disk, directory, { action: "discard", letters: [second!], by: "li" })
        yield* queue.carryOutRequests
        if (end === "delivered") {
          yield* q.deliverAll(queue, new Set(), { isRejected })
          yield* queue.compact
        } else yield* requests.submit(disk, directory, { action: "retry", letters: ["0:999"], by: "li" })
      })
    )
    queues.push(readAll(directory))
  }).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None))

beforeAll(async () => {
  queues.push(readAll(path.join(root, "test/fixtures/queue-v1")))
  await Effect.runPromise(Effect.zipRight(made("waiting"), made("delivered")))
})

// ------------------------------------------------------------------------------------------------------- damage

type Damage =
  | { readonly type: "flip"; readonly file: number; readonly at: number }
  | { readonly type: "cut"; readonly file: number; readonly at: number }
  | {
      readonly type: "copy"
      readonly file: number
      readonly at: number
      readonly from: number
      readonly length: number
    }

const file = fc.nat(50)
const at = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const flip = fc.record({ type: fc.constant("flip" as const), file, at })
const damage: fc.Arbitrary<ReadonlyArray<Damage>> = fc.oneof(
  { weight: 5, arbitrary: fc.array(flip, { minLength: 1, maxLength: 1 }) },
  { weight: 2, arbitrary: fc.array(flip, { minLength: 2, maxLength: 6 }) },
  {
    weight: 1,
    arbitrary: fc.array(fc.record({ type: fc.constant("cut" as const), file, at }), {
      minLength: 1,
      maxLength: 2
    })
  },
  {
    weight: 1,
    arbitrary: fc.array(
      fc.record({
        type: fc.constant("copy" as const),
        file,
        at,
        from: at,
        length: fc.integer({ min: 1, max: 600 })
      }),
      { minLength: 1, maxLength: 1 }
    )
  }
)

const harm = (files: Files, damages: ReadonlyArray<Damage>): Files => {
  const result = new Map(files)
  const names = [...files.keys()].filter((name) => name !== "lock").sort()
  for (const each of damages) {
    const name = names[each.file % names.length]!
    const content = Buffer.from(result.get(name)!)
    const offset = Math.floor(each.at * content.length)
    if (each.type === "flip") {
      const bit = Math.floor(each.at * content.length * 8) % 8
      if (offset < content.length) content[offset] = content[offset]! ^ (1 << bit)
      result.set(name, content)
    } else if (each.type === "cut") result.set(name, content.subarray(0, offset))
    else {
      const from = Math.floor(each.from * content.length)
      const block = Buffer.from(content.subarray(from, from + each.length))
      content.set(block.subarray(0, content.length - offset), offset)
      result.set(name, content)
    }
  }
  return result
}

// --------------------------------------------------------------------------------------------------- what holds

const SEGMENT = /^\d{20}\.ndjson$/
const segmentsOf = (files: Files) => [...files].filter(([name]) => SEGMENT.test(name))
const linesOf = (content: Buffer) => content.toString("latin1").split("\n").slice(0, -1)

/** The lines that are in segments both before and after, with their ids. */
const untouched = (before: Files, after: Files) =>
  segmentsOf(before).flatMap(([name, content]) => {
    const now = new Set(linesOf(after.get(name)!))
    return linesOf(content).flatMap((line) => {
      const id = q.idOf({ bytes: Buffer.from(line, "latin1"), problem: undefined })
      return id !== undefined && now.has(line) ? [id] : []
    })
  })

/** How many lines, and ends of segments, have changed. */
const touched = (before: Files, after: Files) =>
  segmentsOf(before).reduce((count, [name, content]) => {
    const parts = (bytes: Buffer) => bytes.toString("latin1").split(/(?<=\n)/)
    const now = new Set(parts(after.get(name)!))
    return count + parts(content).filter((line) => !now.has(line)).length
  }, 0)

/** How many lines segments lack by the next one's name, from the first waiting line on. */
const promised = (before: Files, after: Files, waiting: ReadonlySet<string>) =>
  segmentsOf(before)
    .slice(0, -1)
    .reduce((lost, [name, content]) => {
      const lines = linesOf(content)
      const first = lines.findIndex((line) => {
        const id = q.idOf({ bytes: Buffer.from(line, "latin1"), problem: undefined })
        return id !== undefined && waiting.has(id)
      })
      if (first === -1) return lost
      // no damage moves a byte; the books count the lines before this one already
      const start = lines.slice(0, first).reduce((offset, line) => offset + line.length + 1, 0)
      const count = (bytes: Buffer) =>
        bytes.subarray(start).toString("latin1").split("\n").filter(Boolean).length
      return lost + Math.max(0, count(content) - count(after.get(name)!))
    }, 0)

const isChanged = (before: Files, after: Files, name: string) => !before.get(name)!.equals(after.get(name)!)

const survives = (files: Files, damages: ReadonlyArray<Damage>) =>
  Effect.gen(function* () {
    const directory = `${yield* q.temporaryDirectory}/audit`
    const disk = yield* q.nodeDisk
    const harmed = harm(files, damages)
    writeAll(directory, harmed)
    const outside = yield* inspect(disk, directory)
    const openBefore = yield* openLetters(directory)

    const database = new Set<string>()
    const FIVE = q.idsOf("new", 5)
    const isRejected = (id: string) => id === "new2"
    const exit = yield* q
      .withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          const found = yield* q.books(queue)
          yield* queue.carryOutRequests
          yield* q.appendAll(queue, FIVE)
          yield* q.deliverAll(queue, database, { isRejected })
          yield* queue.compact
          return { found, books: yield* q.books(queue) }
        })
      )
      .pipe(
        Effect.timeoutFail({ duration: "2 minutes", onTimeout: () => new Error("it hangs") }),
        Effect.either,
        Effect.exit
      )
    assert.isTrue(Exit.isSuccess(exit), Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")
    if (Exit.isFailure(exit)) return
    if (Either.isLeft(exit.value)) {
      const error = exit.value.left
      assert.isTrue(isChanged(files, harmed, "queue.json"), String(error))
      assert.strictEqual((error as { readonly _tag?: string })._tag, "QueueOpenError")
      assert.include(String(error), "queue.json is damaged")
      // inspect changed nothing
      for (const [name, content] of harmed) {
        if (name !== "lock") assert.isTrue(fs.readFileSync(path.join(directory, name)).equals(content), name)
      }
      return
    }
    const { books, found } = exit.value.right
    for (const [name, value] of Object.entries(books)) {
      if (name === "balanced" || name === "oldest" || name === "seal") continue
      assert.isTrue(Number.isSafeInteger(value) && Number(value) >= 0, `${name} is ${JSON.stringify(value)}`)
    }
    assert.isTrue(books.balanced, JSON.stringify(books))
    assert.isTrue(found.balanced, JSON.stringify(found))
    // inspect and the owner agree
    for (const name of ["accepted", "delivered", "waiting", "dead", "missing", "torn"] as const) {
      assert.strictEqual(outside[name], found[name], name)
    }
    assert.strictEqual(books.waiting, 0)

    const letters = yield* q.letters(disk, directory)
    const kept = new Set(letters.map(({ bytes }) => q.idOf({ bytes, problem: undefined })))
    for (const id of FIVE) assert.isTrue(database.has(id) || kept.has(id), `${id} was acknowledged`)
    assert.isTrue(kept.has("new2"))
    const open = yield* openLetters(directory)
    assert.isTrue(
      open.some(({ line }) => line?.includes('"new2"') === true),
      "the new letter waits"
    )
    // an entry that was cut off, and that the next one ends, may be a decision
    if (!isChanged(files, harmed, "dead-letter.ndjson")) {
      assert.includeMembers(
        open.map(({ id }) => id),
        openBefore.map(({ id }) => id)
      )
    }

    const behind = new Set(yield* waiting(files))
    for (const id of untouched(files, harmed)) {
      if (behind.has(id)) assert.isTrue(database.has(id) || kept.has(id), `${id} was not touched`)
    }
    assert.isAtMost(books.missing, touched(files, harmed))
    if (damages.length === 1) assert.isAtLeast(books.missing, promised(files, harmed, behind) > 0 ? 1 : 0)

    yield* q.withQueue(disk, { directory }, (queue) =>
      Effect.gen(function* () {
        assert.lengthOf(yield* q.readAll(queue), 0)
        assert.deepInclude(yield* q.books(queue), { accepted: books.accepted, missing: books.missing })
      })
    )
  }).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None))

const openLetters = (directory: string) =>
  Effect.gen(function* () {
    const disk = yield* q.nodeDisk
    const letters = yield* deadLetterFile.make(disk, directory)
    // a letter with damaged content is still listed
    return yield* Effect.forEach(yield* letters.open(() => true), (entry) =>
      Effect.orElseSucceed(letters.read(entry), () => entry.letter)
    )
  })

/** The ids that wait in an undamaged queue. */
const waiting = (files: Files) =>
  Effect.gen(function* () {
    const directory = `${yield* q.temporaryDirectory}/audit`
    writeAll(directory, files)
    return yield* q.withQueue(yield* q.nodeDisk, { directory }, q.waitingIds)
  }).pipe(Effect.scoped)

describe("a damaged directory", () => {
  const queue = fc.nat(2)
  it(
    `opens ${runs} harmed directories, and loses no untouched line (AUDIT_SEED=${seed})`,
    {
      timeout: 3_600_000
    },
    () =>
      fc.assert(
        fc.asyncProperty(queue, damage, (index, damages) =>
          Effect.runPromise(survives(queues[index]!, damages))
        ),
        { numRuns: runs, seed }
      )
  )

  it.scopedLive(
    `the command reads harmed directories (AUDIT_SEED=${seed})`,
    () =>
      Effect.gen(function* () {
        const parent = yield* q.temporaryDirectory
        const cases = fc.sample(fc.tuple(queue, damage), { numRuns: long ? 200 : 4, seed })
        for (const [number, [index, damages]] of cases.entries()) {
          const directory = `${parent}/${number}`
          writeAll(directory, harm(queues[index]!, damages))
          for (const args of [["verify"], ["status"], ["dead", "list"], ["tail"]]) {
            const { code, stderr, stdout } = yield* effectAudit(directory, args)
            const what = `${args.join(" ")} of ${JSON.stringify([index, damages])}: ${String(code)} ${stdout}${stderr}`
            assert.include([0, 1, 2, 3], code, what)
            assert.notMatch(stdout + stderr, /NaN|undefined|Infinity|\n {4}at /, what)
          }
        }
      }),
    3_600_000
  )

  it("delivers the lines after two delivered lines that damage joined", () =>
    Effect.runPromise(survives(queues[1]!, [{ type: "copy", file: 0, at: 0.25, from: 0, length: 4 }])))

  it("counts a letter without its line end, before and after the next entry completes it", () =>
    Effect.runPromise(
      survives(queues[2]!, [
        { type: "cut", file: 0, at: 0 },
        { type: "cut", file: 1, at: 0.9989550679205852 }
      ])
    ))

  it.scopedLive("ignores the invalid number of a letter, and loses no event", () =>
    Effect.gen(function* () {
      const disk = yield* q.nodeDisk
      for (const sequence of ["null", "-1", "1e99", "9007199254740991", '"4"', "0.5", "7"]) {
        const directory = `${yield* q.temporaryDirectory}/audit`
        const letter = `{"type":"letter","id":"0:0","segment":0,"offset":0,"sequence":${sequence},"length":2,"class":"malformed","reason":"r","at":"2026-01-01T00:00:00.000Z","line":"{}"}\n`
        writeAll(directory, new Map([["dead-letter.ndjson", Buffer.from(letter)]]))
        const database = new Set<string>()
        yield* q.withQueue(disk, { directory }, (queue) => q.appendAll(queue, ["a", "b"]))
        for (const name of yield* q.segmentNames(disk, directory)) assert.match(name, SEGMENT)
        yield* q.withQueue(disk, { directory }, (queue) => q.deliverAll(queue, database))
        assert.sameMembers([...database], ["a", "b"], sequence)
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("refuses appends when the numbers are used up", () =>
    Effect.gen(function* () {
      const disk = yield* q.nodeDisk
      const directory = `${yield* q.temporaryDirectory}/audit`
      const name = `${"0".repeat(4)}${Number.MAX_SAFE_INTEGER - 3}.ndjson`
      writeAll(directory, new Map([[name, Buffer.from(q.lineOf("a"))]]))
      const database = new Set<string>()
      yield* q.withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          yield* q.appendAll(queue, ["b", "c"])
          for (let i = 0; i < 3; i++) {
            const error = yield* Effect.flip(q.append(queue, "d"))
            assert.deepInclude(error, { _tag: "QueueWriteError", outcome: "absent", code: "EOVERFLOW" })
          }
          yield* q.deliverAll(queue, database)
          assert.isTrue((yield* q.books(queue)).balanced)
        })
      )
      yield* q.withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          assert.lengthOf(yield* q.readAll(queue), 0)
          assert.strictEqual((yield* Effect.flip(q.append(queue, "d")))._tag, "QueueWriteError")
        })
      )
      assert.deepStrictEqual([...database], ["a", "b", "c"])
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )
})
