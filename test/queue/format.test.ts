/** The format on disk: directories of formats 1 and 2, kept byte for byte, open in every later version. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { queueIdOf } from "../../src/internal/queue/directory.js"
import { inspect, ownerOf, snapshot } from "../../src/internal/queue/inspect.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { root } from "../support/program.js"
import { letters, nodeDisk, temporaryDirectory } from "../support/queue.js"

/**
 * Fifteen lines were accepted. Three are delivered, five wait, and one is a torn end. Six became letters: the
 * first was retried, the second discarded. One request names a letter that does not exist.
 */
const kept = path.join(root, "test/fixtures/queue-v1")

/**
 * As version 0.1.0 left it: eighteen lines were delivered with a proof, and two refused. The letters of these two are
 * decided, and only the decisions remain. Six lines wait.
 */
const keptOfFormat2 = path.join(root, "test/fixtures/queue-v2")

/** A copy with the modes of a queue, which a repository does not keep. */
const copyOf = (from: string) =>
  Effect.map(temporaryDirectory, (parent) => {
    const directory = path.join(parent, "audit")
    fs.cpSync(from, directory, { recursive: true })
    for (const name of ["", ...fs.readdirSync(directory, { recursive: true, encoding: "utf8" })]) {
      const file = path.join(directory, name)
      fs.chmodSync(file, fs.statSync(file).isDirectory() ? 0o700 : 0o600)
    }
    return directory
  })

const BOOKS = {
  accepted: 15,
  delivered: 3,
  waiting: 5,
  dead: 4,
  retried: 1,
  discarded: 1,
  torn: 1,
  missing: 0
}
const idOf = (number: number) => `019c0000-0000-7000-8000-${String(number).padStart(12, "0")}`

describe("a directory of format 1", () => {
  it.scopedLive("can be inspected", () =>
    Effect.gen(function* () {
      const disk = yield* nodeDisk
      const directory = yield* copyOf(kept)
      const found = yield* inspect(disk, directory)
      assert.deepInclude(found, { ...BOOKS, owner: undefined, repair: undefined, nextSequence: 15 })
      assert.deepInclude(found.delivery, { pid: 2271, state: "offline", failures: 3, rate: 2.5 })
      assert.deepStrictEqual(
        (yield* letters(disk, directory)).map((letter) => letter.class),
        ["rejected", "rejected", "unknownKind", "malformed", "invalid", "oversize", "torn"]
      )
      assert.strictEqual(
        (yield* queueIdOf(disk, directory)).pipe((id) => (id._tag === "Some" ? id.value : "")),
        (JSON.parse(fs.readFileSync(path.join(kept, "queue.json"), "utf8")) as { queueId: string }).queueId
      )
      assert.isUndefined((yield* snapshot(disk, directory, yield* ownerOf(disk, directory))).repair)
    })
  )

  it.scopedLive("opens, continues its numbers and delivers waiting events under their ids", () =>
    Effect.gen(function* () {
      const directory = yield* copyOf(kept)
      const database = slowDatabase()
      const looked = yield* Deferred.make<void>()
      const { upload } = database.uploader
      const log = yield* openAudit(
        { directory },
        {
          uploader: {
            ...database.uploader,
            upload: (batch) => Effect.zipRight(Deferred.await(looked), upload(batch))
          }
        }
      )
      assert.deepInclude(yield* log.status, BOOKS)
      yield* Deferred.succeed(looked, undefined)
      const receipt = yield* log.use("of this version")
      yield* log.flush
      assert.deepInclude(yield* log.status, { ...BOOKS, accepted: 16, delivered: 9, waiting: 0 })
      // 0 was retried: its line is after the others
      assert.deepStrictEqual(
        [...database.events.keys()],
        [9, 10, 11, 0, 12].map(idOf).concat(receipt.eventId)
      )
      assert.deepStrictEqual(fs.readdirSync(path.join(directory, "requests")), [])
    })
  )
})

describe("a directory of format 2, with seals", () => {
  const books = { accepted: 26, delivered: 18, waiting: 6, dead: 0, retried: 0, discarded: 2, missing: 0 }
  const seal = {
    chain: "243e1f96928d21a570fa30380e3f752d",
    number: 5,
    head: "bf408abc58bd6ce6e5ca9b8f9db910958f034237376e5f88891f257ce7b5516a"
  }

  it.scopedLive("opens, delivers waiting events, and keeps its last seal", () =>
    Effect.gen(function* () {
      const directory = yield* copyOf(keptOfFormat2)
      assert.deepInclude(yield* inspect(yield* nodeDisk, directory), { ...books, seal })
      const database = slowDatabase()
      const log = yield* openAudit({ directory }, database)
      yield* log.flush
      const { events } = database
      assert.deepStrictEqual(
        [...events.keys()].sort(),
        fs
          .readFileSync(path.join(keptOfFormat2, "00000000000000000020.ndjson"), "utf8")
          .trim()
          .split("\n")
          .map((line) => (JSON.parse(line) as { readonly event_id: string }).event_id)
      )
      // delivered without a proof: the next seal records it
      assert.deepInclude(yield* log.status, {
        ...books,
        delivered: 24,
        waiting: 0,
        seal: { ...seal, bare: 1 }
      })
    })
  )
})
