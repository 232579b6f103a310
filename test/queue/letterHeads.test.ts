/** The head of a letter, before its content: bounded when written, read at any length. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fc from "fast-check"
import * as fs from "node:fs"
import * as deadLetters from "../../src/internal/queue/deadLetters.js"
import { inspect } from "../../src/internal/queue/inspect.js"
import { encodeHead, encodeOutcome, parse } from "../../src/internal/queue/letter.js"
import * as requests from "../../src/internal/queue/requests.js"
import { idOf } from "../../src/schema/Position.js"
import { effectAudit, fill, type Ran, useLine } from "../support/cli.js"
import * as q from "../support/queue.js"

const place = { segment: 3, offset: 700, sequence: 9, length: 10, surplus: false }
const text = fc.oneof(
  fc.string({ unit: "binary", maxLength: 12_000 }),
  fc.constantFrom('"', "\u0000", "漢", "🦊", "\ud83e").map((unit) => unit.repeat(10_000))
)

describe("a head", () => {
  it("takes less than 4 KiB, and keeps the beginning of kind, code and reason", () => {
    fc.assert(
      fc.property(text, text, text, (kind, code, reason) => {
        const record = { ...place, bytes: Buffer.alloc(0) } as never
        const head = encodeHead({ record, class: "rejected", kind, code, reason }, new Date(0).toISOString())
        assert.isBelow(Buffer.byteLength(head), 4096)
        const letter = parse(`${head}}`)
        assert.strictEqual(letter?.type, "letter")
        if (letter?.type !== "letter") return
        for (const [was, is] of [
          [kind, letter.kind],
          [code, letter.code],
          [reason, letter.reason]
        ] as const) {
          assert.isTrue(is === was || (is!.endsWith("…") && was.startsWith(is!.slice(0, -1))))
        }
      }),
      { numRuns: 60 }
    )
  })

  it("of a decided letter takes at most 200 bytes, and reads back unchanged", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", maxLength: 400 }),
        fc.nat(1e9),
        fc.nat(1e9),
        fc.boolean(),
        (by, segment, offset, surplus) => {
          const head = { sequence: segment, surplus: surplus || undefined, class: "rejected" } as const
          const id = idOf({ segment, offset })
          const line = encodeOutcome({ type: "discarded", id, at: new Date(0).toISOString(), by, head })
          assert.isAtMost(Buffer.byteLength(line), 200)
          const read = parse(line)
          assert.deepInclude(read, { type: "discarded", id })
          assert.deepStrictEqual(read?.type === "discarded" ? read.head : undefined, head)
        }
      )
    )
  })

  it.scopedLive("from an earlier version may be longer: it is listed, counted, shown and decided", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      const disk = yield* q.nodeDisk
      yield* fill(
        directory,
        [useLine({ prompt: "first" }), useLine({ prompt: "second" })],
        [
          { class: "rejected", reason: "REASON" },
          { class: "rejected", reason: "REASON" }
        ]
      )
      // as earlier versions wrote it, without a bound; one head is longer than one read
      const file = `${directory}/dead-letter.ndjson`
      const reasons = ["x".repeat(10_000), "y".repeat(600_000)]
      const old = fs
        .readFileSync(file, "utf8")
        .replaceAll('"reason":"REASON"', () => `"reason":"${reasons.shift()!}"`)
      fs.writeFileSync(file, old)
      assert.include(yield* inspect(disk, directory), { dead: 2, repair: undefined })
      const [list, verify, show] = yield* Effect.all([
        effectAudit(directory, ["dead", "list", "--json"]),
        effectAudit(directory, ["verify"]),
        effectAudit(directory, ["dead", "show", "0:0", "--reveal"])
      ])
      assert.lengthOf(list.json(), 2)
      assert.strictEqual(verify.code, 0, verify.stdout + verify.stderr)
      assert.include(show.stdout, "first")
      const discarded = yield* effectAudit(directory, ["dead", "discard", "--all", "--yes"])
      assert.include(discarded.stdout, "2 dead letters discarded.")
      assert.isBelow(fs.statSync(file).size, 500)
    })
  )
})

describe("a retry", () => {
  it.scopedLive("of a line of exactly the maximum length is appended, delivered, and refused again", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const maxLineBytes = 1000
      const options = { directory, maxLineBytes }
      const empty = q.lineOf("e").length + ',"pad":""'.length
      const line = q.lineOf("e", maxLineBytes + 1 - empty)
      // without the line end
      assert.strictEqual(line.length - 1, maxLineBytes)
      yield* q.withQueue(disk, options, (queue) =>
        Effect.gen(function* () {
          yield* queue.append(line, "e")
          const retry = Effect.zipRight(
            requests.submit(disk, directory, { action: "retry", letters: "all", by: "li" }),
            queue.carryOutRequests
          )
          for (let time = 1; time <= 3; time++) {
            yield* q.deliver(queue, new Set(), { isRejected: () => true })
            assert.include(yield* q.books(queue), { dead: 1, retried: time - 1, balanced: true })
            yield* retry
            assert.include(yield* q.books(queue), { dead: 0, retried: time, waiting: 1, balanced: true })
          }
        })
      )
      // also after a start
      yield* q.withQueue(disk, options, (queue) =>
        Effect.gen(function* () {
          const database = new Set<string>()
          yield* q.deliverAll(queue, database)
          assert.deepStrictEqual([...database], ["e"])
          assert.include(yield* q.books(queue), { delivered: 1, retried: 3, dead: 0, balanced: true })
        })
      )
    })
  )
})

describe("a file of heads", () => {
  it.scopedLive("keeps numbers and decisions if both cursor slots are damaged", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const before = yield* q.withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          yield* q.appendAll(queue, q.idsOf("e", 10))
          yield* q.deliver(queue, new Set(), { isRejected: (id) => /[2589]$/.test(id) })
          const [retried] = (yield* q.letters(disk, directory)).map(({ id }) => id)
          yield* requests.submit(disk, directory, { action: "retry", letters: [retried!], by: "li" })
          yield* requests.submit(disk, directory, { action: "discard", letters: "all", by: "li" })
          yield* queue.carryOutRequests
          return yield* q.books(queue)
        })
      )
      assert.include(before, { delivered: 6, retried: 1, discarded: 3, waiting: 1, balanced: true })
      fs.writeFileSync(`${directory}/cursor`, Buffer.alloc(1024, "?"))
      yield* q.withQueue(disk, { directory }, (queue) =>
        Effect.gen(function* () {
          const { accepted, balanced, dead, missing, nextSequence } = yield* q.books(queue)
          assert.deepStrictEqual(
            { accepted, nextSequence, dead, missing, balanced },
            {
              accepted: before.accepted,
              nextSequence: before.nextSequence,
              dead: 0,
              missing: 0,
              balanced: true
            }
          )
          // every line on disk is delivered again, the retried line at its first position too
          yield* q.deliverAll(queue, new Set())
          assert.include(yield* q.books(queue), {
            delivered: 8,
            retried: 0,
            discarded: 3,
            waiting: 0,
            dead: 0,
            missing: 0,
            balanced: true
          })
        })
      )
      const verify = yield* effectAudit(directory, ["verify"])
      assert.strictEqual(verify.code, 0, verify.stdout)
    })
  )

  it.scopedLive("of a newer format is refused with its name, by the owner and by inspect", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      const disk = yield* q.nodeDisk
      yield* fill(directory, [useLine({})], [{ class: "rejected", reason: "REASON" }])
      const file = `${directory}/queue.json`
      const identity = JSON.parse(fs.readFileSync(file, "utf8")) as object
      fs.writeFileSync(file, JSON.stringify({ ...identity, format: 3 }))
      const files = fs.readdirSync(directory).map((name) => [name, fs.statSync(`${directory}/${name}`).size])
      const refused = yield* Effect.flip(q.withQueue(disk, { directory }, () => Effect.void))
      assert.match(String(refused), /format 3/)
      assert.deepStrictEqual(
        fs.readdirSync(directory).map((name) => [name, fs.statSync(`${directory}/${name}`).size]),
        files
      )
      const { code, stderr } = yield* effectAudit(directory, ["dead", "retry", "--all"])
      assert.notStrictEqual(code, 0)
      assert.match(stderr, /format 3/)
      // no later start carries it out unseen
      assert.deepStrictEqual(fs.readdirSync(requests.directoryOf(directory)), [])
    })
  )
})

describe("an entry longer than one read", () => {
  const long = "x".repeat(400_000)
  const withLong = Effect.gen(function* () {
    const directory = yield* q.temporaryDirectory
    yield* fill(
      directory,
      [useLine({ prompt: `${long}"} and more` })],
      [{ class: "rejected", reason: "REASON" }]
    )
    return { directory, disk: yield* q.nodeDisk, file: `${directory}/dead-letter.ndjson` }
  })

  it.scopedLive("is a letter and is erased, with the line end of an editor", () =>
    Effect.gen(function* () {
      const { directory, disk, file } = yield* withLong
      fs.writeFileSync(file, fs.readFileSync(file, "latin1").replaceAll("\n", "\r\n"), "latin1")
      assert.include(yield* inspect(disk, directory), { dead: 1, repair: undefined })
      const shown = yield* effectAudit(directory, ["dead", "show", "0:0", "--reveal"])
      assert.include(shown.stdout, long)
      yield* effectAudit(directory, ["dead", "discard", "--all", "--yes"])
      assert.notInclude(fs.readFileSync(file, "latin1"), "xxx")
      assert.include(yield* inspect(disk, directory), { dead: 0, discarded: 1 })
    })
  )

  it.scopedLive("is no letter if it is cut off after a quote in its content", () =>
    Effect.gen(function* () {
      const { directory, disk, file } = yield* withLong
      const [, entry] = fs.readFileSync(file, "latin1").split("\n")
      // inside the content, which is JSON in JSON: the quote is escaped
      const end = entry!.indexOf('"}') + 2
      assert.isAbove(end, 400_000)
      const { damaged } = yield* Effect.zipRight(
        Effect.sync(() => fs.writeFileSync(file, `\n${entry!.slice(0, end)}\n${entry!}\n`, "latin1")),
        deadLetters.make(disk, directory)
      )
      assert.strictEqual(damaged, 1)
      assert.include(yield* inspect(disk, directory), { dead: 1, repair: undefined })
    })
  )
})

describe("dead list --after", () => {
  it.scopedLive("continues after a letter decided meanwhile, and after a file of heads", () =>
    Effect.gen(function* () {
      const directory = yield* q.temporaryDirectory
      const refusals = Array.from({ length: 6 }, () => ({ class: "rejected", reason: "REASON" }) as const)
      const lines = () => refusals.map((_, index) => useLine({ prompt: `p${index}` }))
      yield* fill(directory, lines(), refusals)
      const ids = (ran: Ran) => ran.json().map(({ id }) => id as string)
      const list = (...args: ReadonlyArray<string>) =>
        effectAudit(directory, ["dead", "list", "--json", ...args])
      const all = ids(yield* list())
      yield* effectAudit(directory, ["dead", "discard", all[2]!, all[4]!, "--yes"])
      assert.deepStrictEqual(ids(yield* list("--after", all[2]!)), [all[3], all[5]])
      assert.deepStrictEqual(ids(yield* list("--after", all[3]!)), [all[5]])
      yield* effectAudit(directory, ["dead", "discard", "--all", "--yes"])
      yield* fill(directory, lines(), refusals)
      const later = ids(yield* list())
      assert.lengthOf(later, 6)
      assert.deepStrictEqual(ids(yield* list("--after", all[5]!)), later)
      const unknown = yield* list("--after", "99999:1")
      assert.strictEqual(unknown.code, 64)
      assert.include(unknown.stderr, "There is no dead letter 99999:1")
    })
  )
})
