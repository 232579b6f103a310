/** The sealer: how it continues after any change to its chain, with a table in memory. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Either, Redacted, TestClock } from "effect"
import { randomBytes, randomUUID } from "node:crypto"
import { sealingKey } from "../../src/internal/proof/keys.js"
import { decodeNotices } from "../../src/internal/proof/notices.js"
import { Sealer, type Settings } from "../../src/internal/proof/sealer.js"
import { decodeEntries, wrongIn } from "../../src/internal/proof/seal.js"
import type { UploadError } from "../../src/schema/Errors.js"
import { textOf } from "../../src/schema/EventId.js"
import type { Place } from "../../src/schema/Position.js"
import type { Head, LastSeal, Seal, Sealing, Stored } from "../../src/services/Sealing.js"
import { newKey } from "../support/seals.js"

const key = Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem)))
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

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
    prepare: (batches) => ({ batches }),
    upload: () => Effect.dieMessage("the test stores")
  }

  sealer(
    last?: LastSeal,
    queueId: string = randomUUID(),
    keys: Pick<Settings, "key" | "previousKey"> = { key },
    position: Place = { segment: 3, offset: 70 }
  ) {
    // each start of the program has its own uploader
    const sealing = { ...this.sealing }
    return new Sealer({ ...keys, sealing, last, queueId, position })
  }
}

let place = 0

const stored = (ids: ReadonlyArray<Uint8Array> = [randomBytes(16)]): ReadonlyArray<Stored> => [
  {
    manifest: { kind: "k", table: "t", columns: ["a"], erasable: [] },
    rows: Buffer.concat(ids.flatMap((eventId) => [eventId, Buffer.alloc(8), randomBytes(32)])),
    twins: [],
    rejected: []
  }
]

/** Makes a seal and stores it. Without `answers`, its answer is lost. */
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

const sealOf = ({ head, number }: Seal) => ({ number, head: hex(head) })

const words = (seal: Seal) => (decodeNotices(seal.notices) ?? []).map(({ word }) => word)

/** Checks that the seals of a chain follow each other. */
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
  it.effect("continues its chain over starts, and records a manifest once in each", () =>
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

  it.effect("finds the seals of lost answers, and knows their events by position and id", () =>
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

  it.effect("knows them again if the program ends before the cursor is behind all of them", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      const start = place
      const lost = [[randomBytes(16), randomBytes(16)], [randomBytes(16)]]
      for (const ids of lost) yield* next(table, sealer, false, ids)
      yield* sealer.resume
      const [behind, before] = [place, start + 1].map((offset) => ({ segment: 0, offset }))
      assert.deepStrictEqual(sealer.headAt(behind!), sealer.head)
      // the last one: as an older version wrote it, whatever the cursor was behind
      for (const last of [sealer.headAt(before!), { ...sealer.head!, ...sealOf(table.seals[1]!) }]) {
        const again = table.sealer(last, undefined, undefined, before)
        yield* again.resume
        for (const id of lost.flat()) assert.isDefined(again.fateOf(textOf(id), before!), hex(id))
        yield* next(table, again)
        assert.isFalse(again.hasFates)
        assert.deepStrictEqual(again.headAt(behind!), again.head)
        table.seals.pop()
      }
    })
  )

  it.effect("finds a first seal of a lost answer, and makes again a seal that never arrived", () =>
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

  it.effect("finds at the next start a first seal that no cursor knows, and its events", () =>
    Effect.gen(function* () {
      const table = new Table()
      const queueId = randomUUID()
      const id = randomBytes(16)
      const first = yield* next(table, table.sealer(undefined, queueId), false, [id])
      const again = table.sealer(undefined, queueId)
      yield* again.resume
      assert.deepStrictEqual(again.fateOf(textOf(id), { segment: 0, offset: place - 1 }), { code: undefined })
      const second = yield* next(table, again)
      assert.deepStrictEqual(words(second), ["manifest"])
      assertChain(table, first.chain)
      // another queue has another chain
      const other = yield* next(table, table.sealer())
      assert.deepStrictEqual(words(other), ["witness", "manifest"])
    })
  )

  it.effect("records the old chain in a new one, also if its first seal fails or its answer is lost", () =>
    Effect.gen(function* () {
      const table = new Table()
      const queueId = randomUUID()
      const sealer = table.sealer(undefined, queueId)
      for (let i = 0; i < 3; i++) yield* next(table, sealer)
      const left = sealer.head!
      table.seals = table.seals.slice(0, 1)
      const again = table.sealer(left, queueId)
      yield* waiting(again.resume)
      // this seal never arrives
      const lost = again.seal({ until: "0:1", stored: stored(), dead: [] }, 0)
      again.doubt()
      assert.deepStrictEqual(again.head, left)
      yield* again.resume
      const made = again.seal({ until: "0:1", stored: stored(), dead: [] }, 0)
      assert.deepStrictEqual(decodeNotices(made.notices), decodeNotices(lost.notices))
      assert.deepInclude(decodeNotices(made.notices)![0], { word: "previous", ...left })
      // the seal arrives, and the program ends: the next start finds the seal
      table.seals.push(made)
      const third = table.sealer(left, queueId)
      yield* waiting(third.resume)
      assert.deepStrictEqual(third.head, {
        chain: hex(made.chain),
        number: 0,
        head: hex(made.head),
        forked: 1
      })
      yield* next(table, third)
      assertChain(table, made.chain)
      assert.strictEqual(third.head!.forked, 1)
      assert.strictEqual(table.sealer(third.head).head!.forked, 1)
    })
  )

  it.effect("records once between which positions events were delivered without a seal", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      const from = { segment: 0, offset: place }
      const again = table.sealer({ ...sealer.head!, bare: 1 })
      const seal = yield* next(table, again)
      assert.deepStrictEqual(decodeNotices(seal.notices)!.at(-1), {
        word: "unsealed",
        from,
        to: { segment: 3, offset: 70 }
      })
      assert.notProperty(again.head, "bare")
      assert.notInclude(words(yield* next(table, again)), "unsealed")
    })
  )

  it.effect("names a new key once, in a seal that the previous key signs", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      const newKeys = {
        key: Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem))),
        previousKey: key
      }
      const again = table.sealer(sealer.head, undefined, newKeys)
      const named = yield* next(table, again, false)
      assert.include(words(named), "key")
      assert.isUndefined(wrongIn(named, key))
      // its answer was lost
      const after = yield* next(table, again)
      assert.notInclude(words(after), "key")
      assert.isUndefined(wrongIn(after, newKeys.key))
      const later = yield* next(table, table.sealer(again.head, undefined, newKeys))
      assert.isUndefined(wrongIn(later, newKeys.key))
      assert.notInclude(words(later), "key")
      assert.lengthOf(new Set(table.seals.map(({ chain }) => hex(chain))), 1)
      // a program whose previous key is lost
      const { key: other } = { key: Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem))) }
      const stranger = table.sealer(again.head, undefined, { key: other })
      yield* waiting(stranger.resume)
      assert.strictEqual((yield* next(table, stranger)).number, 0)
    })
  )

  it.effect("needs the previous key no longer after the seal that names the new one", () =>
    Effect.gen(function* () {
      const table = new Table()
      const sealer = table.sealer()
      yield* next(table, sealer)
      const renewed = Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem)))
      const handing = table.sealer(sealer.head, undefined, { key: renewed, previousKey: key })
      const handOver = yield* next(table, handing)
      assert.isUndefined(wrongIn(handOver, key))
      const after = table.sealer(handing.head, undefined, { key: renewed })
      const seals = [
        yield* next(table, after),
        yield* next(table, table.sealer(after.head, undefined, { key: renewed }))
      ]
      for (const seal of seals) assert.isUndefined(wrongIn(seal, renewed))
      assert.deepStrictEqual(
        seals.map(({ number }) => number),
        [2, 3]
      )
      assert.lengthOf(new Set(table.seals.map(({ chain }) => hex(chain))), 1)
      // a third key was never named
      const third = Either.getOrThrow(sealingKey(Redacted.make(newKey().privatePem)))
      yield* waiting(table.sealer(handing.head, undefined, { key: third }).resume)
    })
  )

  it.effect("ignores a late answer to an abandoned seal", () =>
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

  it.effect("never lets a seal's time go back", () =>
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
      "changed at the last known seal",
      (table) => {
        table.seals[3] = { ...table.seals[3]!, head: randomBytes(32) }
      }
    ],
    [
      "continued by somebody without the key",
      (table) => {
        const last = table.seals.at(-1)!
        table.seals.push({ ...last, number: last.number + 1, prev: last.head, head: randomBytes(32) })
      }
    ],
    [
      "continued with a gap",
      (table) => {
        const last = table.seals.at(-1)!
        table.seals.push({ ...last, number: last.number + 2 })
      }
    ]
  ]
  for (const [what, change] of others) {
    it.effect(
      `begins a new chain after a minute if the database was ${what}, and records it in its first seal`,
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

  it.effect("continues its chain when a database shows the seals late", () =>
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

  it.effect("names the manifest of each entry, whatever kinds were stored", () =>
    Effect.gen(function* () {
      const sealer = new Table().sealer()
      yield* sealer.resume
      const ofKind = (kind: string) =>
        stored().map((each) => ({ ...each, manifest: { ...each.manifest, kind } }))
      const kinds = ["a", "b", "a", "c"].flatMap(ofKind)
      const { entries, notices } = sealer.seal({ until: "0:1", stored: kinds, dead: [] }, 1_790_000_000_000)
      const read = decodeEntries(entries)!
      assert.deepStrictEqual(
        read.map(({ manifest }) => manifest),
        [0, 1, 0, 2]
      )
      assert.deepStrictEqual(
        Buffer.concat(read.flatMap(({ eventId, leaf }) => [eventId, Buffer.alloc(8), leaf])),
        Buffer.concat(kinds.map(({ rows }) => rows))
      )
      assert.deepStrictEqual(
        decodeNotices(notices)!.map((notice) => notice.word === "manifest" && notice.manifest.kind),
        ["a", "b", "c"]
      )
    })
  )
})
