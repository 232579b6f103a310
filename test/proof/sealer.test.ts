/** The sealer: how it goes on after anything that may have happened to its chain, in a database in memory. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Either, Redacted, TestClock } from "effect"
import { randomBytes } from "node:crypto"
import { sealingKey } from "../../src/internal/proof/keys.js"
import { decodeNotices } from "../../src/internal/proof/notices.js"
import { Sealer } from "../../src/internal/proof/sealer.js"
import { encodeEntries, wrongIn } from "../../src/internal/proof/seal.js"
import type { UploadError } from "../../src/schema/Errors.js"
import { textOf } from "../../src/schema/EventId.js"
import type { Head, Seal, Sealing, Stored } from "../../src/services/Sealing.js"
import { newKey } from "../support/seals.js"

const key = Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem)))
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

/** A table of seals. */
class Table {
  seals: Array<Seal> = []
  readonly sealing: Sealing = {
    // in pages, as databases answer
    read: (chain, from) =>
      Effect.sync(() =>
        this.seals
          .filter((seal) => hex(seal.chain) === chain && seal.number >= from)
          .sort((a, b) => a.number - b.number)
          .slice(0, 2)
      ),
    heads: Effect.sync(() => {
      const heads = new Map<string, Head>()
      for (const { chain, head, number } of this.seals)
        heads.set(hex(chain), { chain: hex(chain), number, head: hex(head) })
      return [...heads.values()]
    }),
    upload: () => Effect.dieMessage("the test stores")
  }

  sealer(last?: Head) {
    return new Sealer({ key, sealing: this.sealing, last })
  }
}

let place = 0

const stored = (ids: ReadonlyArray<Uint8Array> = [randomBytes(16)]): ReadonlyArray<Stored> => [
  {
    manifest: { kind: "k", table: "t", columns: ["a"], erasable: [] },
    rows: ids.map((eventId) => ({ eventId, leaf: randomBytes(32) })),
    twins: [],
    rejected: []
  }
]

/** Makes a seal and stores it; whether its answer comes. */
const next = (
  table: Table,
  sealer: Sealer,
  answers = true,
  ids?: ReadonlyArray<Uint8Array>,
  now = 1_790_000_000_000
) =>
  Effect.gen(function* () {
    yield* sealer.resume
    const seal = sealer.seal({ until: `0:${(place += 10)}`, stored: stored(ids), dead: [] }, now)
    table.seals.push(seal)
    if (answers) sealer.committed(seal)
    else sealer.doubt()
    return seal
  })

const words = (seal: Seal) => (decodeNotices(seal.notices) ?? []).map(({ word }) => word)

/** All seals of a chain follow each other. */
const assertChain = (table: Table, chain: Uint8Array) => {
  const seals = table.seals.filter((seal) => hex(seal.chain) === hex(chain))
  let prev: Uint8Array = Buffer.alloc(32)
  seals.forEach((seal, index) => {
    assert.strictEqual(seal.number, index)
    assert.strictEqual(hex(seal.prev), hex(prev))
    assert.isUndefined(wrongIn(seal, key))
    prev = seal.head
  })
}

const waiting = <A>(effect: Effect.Effect<A, UploadError>) =>
  Effect.gen(function* () {
    const first = yield* Effect.flip(effect)
    assert.deepStrictEqual([first.code, first.class], ["SEAL_MISSING", "transient"])
    yield* TestClock.adjust("59 seconds")
    assert.strictEqual((yield* Effect.flip(effect)).code, "SEAL_MISSING")
    yield* TestClock.adjust("1 second")
    return yield* effect
  })

describe("the sealer", () => {
  it.effect("goes on with its chain, in one life and the next, and says a manifest once in each", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      const seals = [yield* next(table, sealer), yield* next(table, sealer)]
      const again = table.sealer(sealer.head)
      seals.push(yield* next(table, again), yield* next(table, again))
      assertChain(table, seals[0]!.chain)
      assert.deepStrictEqual(seals.map(words), [["manifest"], [], ["manifest"], []])
      assert.strictEqual(again.head?.number, 3)
    })
  )

  it.effect("takes up seals whose answers never came, and knows their events by place and id", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      const known = sealer.head
      const ids = Array.from({ length: 5 }, () => randomBytes(16))
      for (const id of ids) yield* next(table, sealer, false, [id])
      const later = place
      for (const each of [sealer, table.sealer(known)]) {
        yield* each.resume
        for (const id of ids) {
          assert.deepStrictEqual(each.fateOf(textOf(id), { segment: 0, offset: later - 1 }), {
            code: undefined
          })
          assert.isUndefined(each.fateOf(textOf(id), { segment: 0, offset: later }))
        }
        assert.isUndefined(each.fateOf(textOf(randomBytes(16)), { segment: 0, offset: 0 }))
      }
      yield* next(table, sealer)
      assertChain(table, table.seals[0]!.chain)
      assert.lengthOf(table.seals, 7)
    })
  )

  it.effect("the same of the very first seal; and a seal that never arrived is made anew", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer, false)
      yield* next(table, sealer)
      assert.lengthOf(new Set(table.seals.map(({ chain }) => hex(chain))), 1)
      yield* next(table, sealer, false)
      table.seals.pop()
      const seal = yield* next(table, sealer)
      assert.strictEqual(seal.number, 2)
      assertChain(table, seal.chain)
    })
  )

  it.effect("a late answer to a seal that was given up changes nothing", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      yield* sealer.resume
      const late = sealer.seal({ until: "0:1", stored: stored(), dead: [] }, 0)
      sealer.doubt()
      yield* sealer.resume
      const made = sealer.seal({ until: "0:2", stored: stored(), dead: [] }, 0)
      sealer.committed(late)
      assert.strictEqual(sealer.head?.number, 0)
      table.seals.push(made)
      sealer.committed(made)
      assert.strictEqual(sealer.head?.number, 1)
    })
  )

  it.effect("no time goes back, whatever the clock does", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      const first = yield* next(table, sealer, true, undefined, 1_790_000_000_000)
      const second = yield* next(table, table.sealer(sealer.head), true, undefined, 1_780_000_000_000)
      assert.strictEqual(second.at, first.at)
    })
  )

  const others: ReadonlyArray<readonly [string, (table: Table) => void]> = [
    ["set back", (table) => void table.seals.splice(2)],
    ["emptied", (table) => void table.seals.splice(0)],
    [
      "changed at the last seal that was known",
      (table) => {
        table.seals[3] = { ...table.seals[3]!, head: randomBytes(32) }
      }
    ],
    [
      "gone on by somebody without the key",
      (table) => {
        const last = table.seals.at(-1)!
        table.seals.push({ ...last, number: last.number + 1, prev: last.head, head: randomBytes(32) })
      }
    ],
    [
      "gone on with a gap",
      (table) => {
        const last = table.seals.at(-1)!
        table.seals.push({ ...last, number: last.number + 2 })
      }
    ]
  ]
  for (const [what, change] of others) {
    it.effect(
      `begins a new chain after a minute where the database was ${what}, and says so in its first seal`,
      () =>
        Effect.gen(function* () {
          const table = new Table()
          const other = yield* next(table, table.sealer())
          table.seals.pop()
          const sealer = table.sealer()
          for (let i = 0; i < 4; i++) yield* next(table, sealer)
          const left = sealer.head!
          table.seals.push(other)
          const mine = table.seals.filter(({ chain }) => hex(chain) === left.chain)
          const rest = new Table()
          rest.seals = mine
          change(rest)
          table.seals = [other, ...rest.seals]
          const again = table.sealer(left)
          yield* waiting(again.resume)
          const seal = yield* next(table, again)
          assert.strictEqual(seal.number, 0)
          const [previous, ...witnesses] = decodeNotices(seal.notices)!
          assert.deepInclude(previous, { word: "previous", ...left })
          assert.deepInclude(witnesses, {
            word: "witness",
            chain: hex(other.chain),
            number: 0,
            head: hex(other.head)
          })
          const second = yield* next(table, again)
          assert.deepStrictEqual(words(second), [])
          assertChain(table, second.chain)
        })
    )
  }

  it.effect("a database that shows the seals late is believed when it does", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      for (let i = 0; i < 3; i++) yield* next(table, sealer)
      const last = table.seals.pop()!
      sealer.doubt()
      assert.strictEqual((yield* Effect.flip(sealer.resume)).code, "SEAL_MISSING")
      yield* TestClock.adjust(Duration.seconds(30))
      table.seals.push(last)
      const seal = yield* next(table, sealer)
      assert.strictEqual(seal.number, 3)
      assertChain(table, seal.chain)
    })
  )

  it("entries of a seal are as many as were stored", () => {
    assert.lengthOf(encodeEntries([{ eventId: randomBytes(16), manifest: 0, leaf: randomBytes(32) }]), 56)
  })
})
