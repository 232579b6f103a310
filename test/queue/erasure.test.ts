/** Erasure: no file of the directory holds a decided letter, and the books stay the same. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { inspect } from "../../src/internal/queue/inspect.js"
import * as requests from "../../src/internal/queue/requests.js"
import * as q from "../support/queue.js"

const holding = (directory: string, text: string) =>
  fs
    .readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => fs.statSync(path.join(directory, name)).isFile())
    .filter((name) => fs.readFileSync(path.join(directory, name), "latin1").includes(text))

const formatOf = (directory: string) =>
  (JSON.parse(fs.readFileSync(`${directory}/queue.json`, "utf8")) as { readonly format: number }).format

const lettersFile = (directory: string) => fs.readFileSync(`${directory}/dead-letter.ndjson`, "utf8")

/** Ten events, of which e2, e5 and e8 are dead letters; e9 waits, in the segment of the others. */
const withLetters = Effect.gen(function* () {
  const directory = `${yield* q.temporaryDirectory}/audit`
  const disk = yield* q.nodeDisk
  const queue = yield* q.openQueue(disk, { directory })
  yield* q.appendAll(queue, q.idsOf("secret-", 10))
  yield* q.deliver(queue, new Set(), { maxRecords: 9, isRejected: (id) => /[258]$/.test(id) })
  const decide = (action: "retry" | "discard", ...letters: ReadonlyArray<string>) =>
    Effect.zipRight(requests.submit(disk, directory, { action, letters, by: "li" }), queue.carryOutRequests)
  const ids = (yield* q.letters(disk, directory)).map(({ id }) => id)
  return { decide, directory, disk, ids, queue }
})

describe("a decision", () => {
  it.scopedLive("erases the letter, its reason and its line, and nothing else, and keeps format 1", () =>
    Effect.gen(function* () {
      const { decide, directory, ids, queue } = yield* withLetters
      const size = lettersFile(directory).length
      yield* decide("discard", ids[1]!)
      assert.deepStrictEqual(holding(directory, "secret-5"), [])
      assert.includeMembers(holding(directory, "secret-2"), ["dead-letter.ndjson"])
      assert.isAbove(lettersFile(directory).length, size)
      assert.strictEqual(formatOf(directory), 1)
      assert.include(yield* q.books(queue), { dead: 2, discarded: 1, waiting: 1, balanced: true })
      assert.deepStrictEqual(yield* q.waitingIds(queue), ["secret-9"])
    })
  )

  it.scopedLive("about the last open letter keeps only heads, in format 2, and the same counts", () =>
    Effect.gen(function* () {
      const { decide, directory, disk, ids, queue } = yield* withLetters
      yield* decide("retry", ids[0]!)
      yield* decide("discard", ids[1]!, ids[2]!)
      assert.deepStrictEqual([...holding(directory, "secret-5"), ...holding(directory, "secret-8")], [])
      assert.notInclude(lettersFile(directory), "secret")
      for (const line of lettersFile(directory).split("\n")) assert.isAtMost(line.length, 200)
      assert.strictEqual(formatOf(directory), 2)
      const books = yield* q.books(queue)
      assert.include(books, { dead: 0, retried: 1, discarded: 2, waiting: 2, balanced: true })
      assert.include(yield* inspect(disk, directory), {
        dead: 0,
        retried: 1,
        discarded: 2,
        repair: undefined
      })
    })
  )

  it.scopedLive("of an earlier version erases its letter at the next start", () =>
    Effect.gen(function* () {
      const { directory, disk, ids } = yield* withLetters
      const other = `${path.dirname(directory)}/other`
      fs.cpSync(directory, other, { recursive: true })
      const old = { type: "discarded", id: ids[1], at: "2026-01-01T00:00:00.000Z", by: "li" }
      fs.appendFileSync(`${other}/dead-letter.ndjson`, `\n${JSON.stringify(old)}\n`)
      // a copy that a crash cut off
      fs.appendFileSync(
        `${other}/dead-letter.ndjson`,
        `\n${lettersFile(directory)
          .split("\n")
          .find((line) => line.includes("secret-5"))!
          .slice(0, -5)}\n`
      )
      yield* q.withQueue(disk, { directory: other }, (queue) =>
        Effect.map(q.books(queue), (books) =>
          assert.include(books, { dead: 2, discarded: 1, balanced: true })
        )
      )
      assert.deepStrictEqual(holding(other, "secret-5"), [])
      assert.includeMembers(holding(other, "secret-2"), ["dead-letter.ndjson"])
    })
  )

  it.scopedLive("erases a letter of several megabytes, and its line", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const queue = yield* q.openQueue(disk, { directory })
      yield* q.append(queue, "secret", 3_500_000)
      yield* q.append(queue, "behind")
      const isRejected = (id: string) => id === "secret"
      yield* q.deliver(queue, new Set(), { maxRecords: 1, isRejected })
      yield* requests.submit(disk, directory, { action: "discard", letters: "all", by: "li" })
      yield* queue.carryOutRequests
      assert.deepStrictEqual([...holding(directory, "secret"), ...holding(directory, "xx")], [])
      assert.include(yield* q.books(queue), { dead: 0, discarded: 1, waiting: 1, balanced: true })
      assert.deepStrictEqual(yield* q.waitingIds(queue), ["behind"])
    })
  )

  it.scopedLive("lets delivery run between its batches", () =>
    Effect.gen(function* () {
      const directory = `${yield* q.temporaryDirectory}/audit`
      const disk = yield* q.nodeDisk
      const queue = yield* q.openQueue(disk, { directory })
      const count = 12_000
      yield* Effect.forEach(q.idsOf("e", count), (id) => q.append(queue, id), {
        concurrency: "unbounded",
        discard: true
      })
      yield* q.deliver(queue, new Set(), { maxRecords: count, isRejected: () => true })
      assert.include(yield* q.books(queue), { dead: count, waiting: 0 })
      yield* requests.submit(disk, directory, { action: "discard", letters: "all", by: "li" })
      const decisions = yield* Effect.fork(queue.carryOutRequests)
      const database = new Set<string>()
      let discarded = 0
      while (discarded === 0) {
        yield* Effect.promise(() => new Promise(setImmediate))
        discarded = (yield* q.books(queue)).discarded
      }
      yield* q.append(queue, "meanwhile")
      yield* q.deliver(queue, database)
      assert.isBelow((yield* q.books(queue)).discarded, count)
      assert.deepStrictEqual([...database], ["meanwhile"])
      yield* Fiber.join(decisions)
      assert.include(yield* q.books(queue), { dead: 0, discarded: count, delivered: 1, balanced: true })
    })
  )
})
