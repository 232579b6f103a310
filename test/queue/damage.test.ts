/** Damaged files: the queue opens, delivers each whole line, and keeps the rest byte for byte. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Logger, LogLevel } from "effect"
import * as fc from "fast-check"
import * as fs from "node:fs"
import * as path from "node:path"
import { decode, encodeSlot, SLOT_BYTES, type Cursor } from "../../src/internal/queue/cursor.js"
import * as q from "../support/queue.js"

const long = process.env.AUDIT_LONG === "1"
const runs = long ? 10_000 : 100
const seed = Number(process.env.AUDIT_SEED ?? Date.now() % 1_000_000_000)

/** A directory with ten events in segments of about three, after the given damage. */
const damaged = (
  damage: (at: { readonly directory: string; readonly segments: ReadonlyArray<string> }) => void,
  options: { readonly delivered?: number; readonly rejected?: ReadonlyArray<string> } = {}
) =>
  Effect.gen(function* () {
    const disk = yield* q.nodeDisk
    const directory = `${yield* q.temporaryDirectory}/audit`
    const database = new Set<string>()
    yield* q.withQueue(disk, { directory, segmentBytes: 70 }, (queue) =>
      Effect.gen(function* () {
        yield* q.appendAll(queue, IDS)
        const isRejected = (id: string) => options.rejected?.includes(id) === true
        for (let i = 0; i < (options.delivered ?? 0); i++)
          yield* q.deliver(queue, database, { maxRecords: 1, isRejected })
      })
    )
    const segments = (yield* q.segmentNames(disk, directory)).map((name) => path.join(directory, name))
    damage({ directory, segments })
    return { disk, directory, database }
  })

const IDS = q.idsOf("e", 10)

/** Opens the queue, delivers everything, and opens it again: the books, the delivered ids and the letters. */
const outcome = (place: {
  readonly disk: Effect.Effect.Success<typeof q.nodeDisk>
  readonly directory: string
  readonly database: Set<string>
}) =>
  Effect.gen(function* () {
    const { database, directory, disk } = place
    const books = yield* q.withQueue(disk, { directory }, (queue) =>
      Effect.gen(function* () {
        yield* q.deliverAll(queue, database)
        yield* q.append(queue, "later")
        yield* q.deliverAll(queue, database)
        yield* queue.compact
        return yield* q.books(queue)
      })
    )
    yield* q.withQueue(disk, { directory }, (queue) =>
      Effect.gen(function* () {
        assert.lengthOf(yield* q.readAll(queue), 0)
        assert.strictEqual((yield* q.books(queue)).accepted, books.accepted)
      })
    )
    assert.isTrue(books.balanced, JSON.stringify(books))
    assert.include([...database], "later")
    return { books, delivered: [...database], letters: yield* q.letters(disk, directory) }
  })

const without = (...ids: ReadonlyArray<string>) => [...IDS.filter((id) => !ids.includes(id)), "later"]

describe("a damaged queue", () => {
  it.scoped("counts and keeps a torn tail", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ segments }) => fs.appendFileSync(segments.at(-1)!, '{"event_id":"to'))
      const { books, delivered, letters } = yield* outcome(place)
      assert.deepStrictEqual(delivered, without())
      assert.include(books, { torn: 1, dead: 0, missing: 0 })
      assert.deepStrictEqual(
        letters.map((l) => [l.class, l.bytes.toString()]),
        [["torn", '{"event_id":"to']]
      )
    })
  )

  it.scoped("delivers a last line that lacks only its line end", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ segments }) =>
        fs.appendFileSync(segments.at(-1)!, q.lineOf("tail").trimEnd())
      )
      const { books, delivered } = yield* outcome(place)
      assert.deepStrictEqual(delivered, [...IDS, "tail", "later"])
      assert.include(books, { torn: 0, dead: 0, missing: 0 })
    })
  )

  it.scoped("counts a tail of NULs, as a power cut leaves it, as torn", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ segments }) => fs.appendFileSync(segments.at(-1)!, Buffer.alloc(300)))
      const { books, delivered, letters } = yield* outcome(place)
      assert.deepStrictEqual(delivered, without())
      assert.include(books, { torn: 1, missing: 0 })
      assert.isTrue(letters[0]!.bytes.equals(Buffer.alloc(300)))
    })
  )

  const lines: ReadonlyArray<readonly [string, Buffer]> = [
    ["invalid UTF-8", Buffer.from([0x7b, 0xff, 0xfe, 0x22, 0x7d])],
    ["no object", Buffer.from("[1,2,3]")],
    ["no JSON", Buffer.from("hello")],
    ["a NUL", Buffer.alloc(1)],
    ["empty", Buffer.alloc(0)],
    ["a string with U+2028", Buffer.from('"\u2028"')]
  ]
  for (const [what, bytes] of lines) {
    it.scoped(`keeps a damaged line as a dead letter: ${what}`, () =>
      Effect.gen(function* () {
        const place = yield* damaged(({ segments }) => {
          const [first] = segments
          fs.writeFileSync(first!, Buffer.concat([bytes, Buffer.from("\n"), fs.readFileSync(first!)]))
          // replaces a line, so that the numbers stay
          fs.writeFileSync(first!, dropLine(fs.readFileSync(first!), 1))
        })
        const { books, delivered, letters } = yield* outcome(place)
        assert.deepStrictEqual(delivered, without("e0"))
        assert.include(books, { dead: 1, missing: 0 })
        assert.deepStrictEqual(
          letters.map((letter) => [letter.class, letter.bytes]),
          [["malformed", bytes]]
        )
      })
    )
  }

  it.scoped("moves a line of 200 MB to the dead letters, with flat memory", () =>
    Effect.gen(function* () {
      /** The peak memory of the process, in MB, while a line of this many MB goes to the dead letters. */
      const peakOf = Effect.fnUntraced(function* (megabytes: number) {
        const place = yield* damaged(({ segments }) => {
          const handle = fs.openSync(segments.at(-1)!, "a")
          for (let i = 0; i < megabytes; i++) fs.writeSync(handle, Buffer.alloc(1024 * 1024, "x"))
          fs.writeSync(handle, `\n${q.lineOf("behind")}`)
          fs.closeSync(handle)
        })
        let peak = 0
        const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage().rss)), 20)
        const { database, directory, disk } = place
        const books = yield* q.withQueue(disk, { directory }, (queue) =>
          Effect.zipRight(q.deliverAll(queue, database), q.books(queue))
        )
        clearInterval(timer)
        assert.deepStrictEqual([...database], [...IDS, "behind"])
        assert.include(books, { dead: 1, missing: 0, balanced: true })
        const letters = fs.statSync(`${directory}/dead-letter.ndjson`).size
        assert.isBelow(letters, megabytes * 1024 * 1024)
        return peak / 1024 / 1024
      })
      // the baseline of any oversize line: some tens of MB of buffers wait for a collection
      const before = yield* peakOf(20)
      assert.isBelow((yield* peakOf(200)) - before, 80)
    })
  )

  it.scoped("keeps a line of invalid UTF-8 byte for byte, in no more bytes", () =>
    Effect.gen(function* () {
      const zeros = Buffer.alloc(3_000_001)
      const half = Buffer.concat([Buffer.from('{"event_id":"ha'), zeros, Buffer.from('lf"}')])
      const noUtf8 = Buffer.alloc(100_000, 0xff)
      const place = yield* damaged(({ segments }) => {
        for (const line of [zeros, half, noUtf8]) {
          fs.appendFileSync(segments.at(-1)!, Buffer.concat([line, Buffer.from("\n")]))
        }
      })
      const { books, letters } = yield* outcome(place)
      assert.include(books, { dead: 3, missing: 0 })
      assert.isTrue(letters.every(({ bytes }, index) => bytes.equals([zeros, half, noUtf8][index]!)))
      assert.isBelow(fs.statSync(`${place.directory}/dead-letter.ndjson`).size, 100_000)
    })
  )

  it.scoped("counts the lines of a missing segment as missing", () =>
    Effect.gen(function* () {
      let lost = 0
      const place = yield* damaged(({ segments }) => {
        lost = fs.readFileSync(segments[1]!, "utf8").split("\n").length - 1
        fs.rmSync(segments[1]!)
      })
      const { books, delivered } = yield* outcome(place)
      assert.isAbove(lost, 0)
      assert.strictEqual(books.missing, lost)
      assert.lengthOf(delivered, IDS.length + 1 - lost)
    })
  )

  it.scoped("skips empty segments, and removes them in the end", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ directory, segments }) => {
        fs.writeFileSync(path.join(directory, "99".padStart(20, "0") + ".ndjson"), "")
        fs.writeFileSync(segments[1]!.replace(/\d\.ndjson/, "0.ndjson"), fs.readFileSync(segments[0]!))
      })
      const { books, delivered } = yield* outcome(place)
      assert.sameMembers(delivered, without())
      assert.isTrue(books.balanced)
      assert.lengthOf(yield* q.segmentNames(place.disk, place.directory), 0)
    })
  )

  const cursors: ReadonlyArray<readonly [string, (file: string) => void]> = [
    ["both slots damaged", (file) => fs.writeFileSync(file, Buffer.alloc(1024, "?"))],
    ["empty", (file) => fs.writeFileSync(file, "")],
    ["gone", (file) => fs.rmSync(file)],
    ["longer than it should be", (file) => fs.appendFileSync(file, "x".repeat(5000))],
    ["first slot damaged", (file) => overwrite(file, 10, "damage")],
    ["second slot damaged", (file) => overwrite(file, 522, "damage")]
  ]
  for (const [what, damage] of cursors) {
    it.scoped(`delivers again after damage to the cursor: ${what}`, () =>
      Effect.gen(function* () {
        const place = yield* damaged(({ directory }) => damage(`${directory}/cursor`), { delivered: 4 })
        const { books, delivered } = yield* outcome(place)
        assert.sameMembers(delivered, without())
        assert.include(books, { accepted: 11, missing: 0, dead: 0 })
      })
    )
  }

  it.scoped("repairs a removed cursor with letters of a removed segment and of a present one", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ directory }) => fs.rmSync(`${directory}/cursor`), {
        delivered: 6,
        rejected: ["e1", "e4"]
      })
      // e4 is delivered again, and now the database takes it
      const { books, delivered } = yield* outcome(place)
      assert.sameMembers(delivered, without("e1"))
      assert.include(books, { accepted: 11, delivered: 10, dead: 1, missing: 0 })
    })
  )

  it.scoped("repairs a cursor that is ahead of the segments, or inside a line", () =>
    Effect.gen(function* () {
      for (const change of [
        { offset: 5 },
        { offset: 100_000 },
        { segment: 700, offset: 3 },
        { segment: 700 }
      ]) {
        const place = yield* damaged(({ directory }) => rewriteCursor(`${directory}/cursor`, change), {
          delivered: 1
        })
        const { books, delivered } = yield* outcome(place)
        assert.sameMembers(delivered, without(), JSON.stringify(change))
        assert.include(books, { missing: 0, dead: 0 })
      }
    })
  )

  it.scoped("leaves stray files alone", () =>
    Effect.gen(function* () {
      const strays = [
        "x.ndjson",
        "0.ndjson",
        "00000000000000000004.ndjson.bak",
        ".hidden",
        "cursor.new",
        "notes.txt"
      ]
      const place = yield* damaged(({ directory }) => {
        for (const name of strays) fs.writeFileSync(path.join(directory, name), "stray\n")
        fs.mkdirSync(path.join(directory, "00000000000000000044.ndjson"))
        fs.mkdirSync(path.join(directory, "sub"))
      })
      const { books, delivered } = yield* outcome(place)
      assert.deepStrictEqual(delivered, without())
      assert.include(books, { dead: 0, missing: 0 })
      for (const name of strays)
        assert.strictEqual(fs.readFileSync(path.join(place.directory, name), "utf8"), "stray\n")
    })
  )

  it.scoped("copes with a torn tail of the dead-letter file", () =>
    Effect.gen(function* () {
      const place = yield* damaged(({ directory, segments }) => {
        fs.writeFileSync(`${directory}/dead-letter.ndjson`, '{"type":"letter","id":"0:0","seq')
        fs.appendFileSync(segments.at(-1)!, "bad\n")
      })
      const { books, letters } = yield* outcome(place)
      assert.deepStrictEqual(
        letters.map(({ bytes }) => bytes.toString()),
        ["bad"]
      )
      assert.include(books, { dead: 1, missing: 0 })
    })
  )

  it(
    `delivers untouched lines after each of ${runs} random mutations (AUDIT_SEED=${seed})`,
    {
      timeout: 3_600_000
    },
    () =>
      fc.assert(
        fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), (mutations) =>
          Effect.runPromise(survives(mutations))
        ),
        { numRuns: runs, seed }
      )
  )
})

// ------------------------------------------------------------------------------------------------------------ fuzz

interface Mutation {
  readonly file: number
  readonly type: "flip" | "cut" | "append" | "insert" | "remove" | "zero" | "empty" | "newline"
  readonly at: number
  readonly bytes: Uint8Array
}

const mutation: fc.Arbitrary<Mutation> = fc.record({
  file: fc.nat(20),
  type: fc.constantFrom("flip", "cut", "append", "insert", "remove", "zero", "empty", "newline"),
  at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 40 })
})

const mutate = (content: Buffer, { at, bytes, type }: Mutation): Buffer | undefined => {
  const offset = Math.floor(at * content.length)
  const [head, tail] = [content.subarray(0, offset), content.subarray(offset)]
  switch (type) {
    case "flip":
      return Buffer.concat([
        head,
        Buffer.from(tail.subarray(0, 1)).map((byte) => byte ^ (bytes[0]! | 1)),
        tail.subarray(1)
      ])
    case "cut":
      return head
    case "append":
      return Buffer.concat([content, bytes])
    case "insert":
      return Buffer.concat([head, bytes, tail])
    case "zero":
      return Buffer.concat([
        head,
        Buffer.alloc(Math.min(bytes.length, tail.length)),
        tail.subarray(bytes.length)
      ])
    case "newline":
      return Buffer.concat([head, Buffer.from("\n"), tail])
    case "empty":
      return Buffer.alloc(0)
    case "remove":
      return undefined
  }
}

/** Mutates files of a valid directory, and expects each line that is unchanged in a segment. */
const survives = (mutations: ReadonlyArray<Mutation>) =>
  Effect.gen(function* () {
    let whole: ReadonlyArray<string> = []
    const place = yield* damaged(
      ({ directory, segments }) => {
        for (const each of mutations) {
          // a queue with a damaged identity refuses to open
          const names = fs.readdirSync(directory).filter((name) => name !== "queue.json" && name !== "lock")
          const file = path.join(directory, names.sort()[each.file % names.length]!)
          if (!fs.statSync(file).isFile()) continue
          const content = mutate(fs.readFileSync(file), each)
          if (content === undefined) fs.rmSync(file)
          else fs.writeFileSync(file, content)
        }
        whole = segments
          .filter((file) => fs.existsSync(file))
          .flatMap((file) => fs.readFileSync(file, "utf8").split("\n"))
          .filter((line) => IDS.some((id) => q.lineOf(id) === `${line}\n`))
          .map((line) => (JSON.parse(line) as { readonly event_id: string }).event_id)
      },
      { delivered: 4 }
    )
    const { database, directory, disk } = place
    const exit = yield* q
      .withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          yield* q.deliverAll(queue, database)
          yield* q.append(queue, "later")
          yield* q.deliverAll(queue, database)
          return yield* q.books(queue)
        })
      )
      .pipe(
        Effect.timeoutFail({ duration: "2 minutes", onTimeout: () => new Error("it hangs") }),
        Effect.exit
      )
    assert.isTrue(Exit.isSuccess(exit), Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")
    assert.includeMembers([...database], [...whole, "later"])
    if (Exit.isSuccess(exit)) assert.isTrue(exit.value.balanced, JSON.stringify(exit.value))
  }).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None))

// ------------------------------------------------------------------------------------------------------------ files

const dropLine = (content: Buffer, index: number): Buffer => {
  const starts = [0]
  for (let i = 0; i < content.length; i++) if (content[i] === 0x0a) starts.push(i + 1)
  return Buffer.concat([content.subarray(0, starts[index]), content.subarray(starts[index + 1])])
}

const overwrite = (file: string, offset: number, text: string) => {
  const handle = fs.openSync(file, "r+")
  fs.writeSync(handle, text, offset)
  fs.closeSync(handle)
}

/** Changes the newest slot, with a valid checksum. */
const rewriteCursor = (file: string, change: Partial<Cursor>) => {
  const { cursor, generation } = decode(fs.readFileSync(file))!
  const slot = Buffer.from(encodeSlot(generation, { ...cursor, ...change }))
  overwrite(file, (generation % 2) * SLOT_BYTES, slot.toString("latin1"))
}
