/** The bytes of a proof: different contents have different bytes, everything reads back, and any flipped bit shows. */
import { assert, describe, it } from "@effect/vitest"
import { Either, Redacted } from "effect"
import fc from "fast-check"
import { createHash, generateKeyPairSync } from "node:crypto"
import { digest, frame, NO_HEAD, netstring, netstrings } from "../../src/internal/proof/bytes.js"
import { sealingKey, verifyingKey } from "../../src/internal/proof/keys.js"
import { decodeNotices, encodeNotices, type Notice } from "../../src/internal/proof/notices.js"
import { erasableHash, leafOf, type Manifest, type RowContent } from "../../src/internal/proof/row.js"
import {
  decodeEntries,
  type Entry,
  ENTRY_BYTES,
  headOf,
  numbered,
  seal,
  type Unsealed,
  wrongIn
} from "../../src/internal/proof/seal.js"

const bytes = (minLength: number, maxLength = minLength) => fc.uint8Array({ minLength, maxLength })
const part = fc.oneof(fc.string({ unit: "binary" }), bytes(0, 40))
const word = fc.string({ unit: "binary", maxLength: 8 })
const hex = (length: number) => bytes(length).map((value) => Buffer.from(value).toString("hex"))
const number = fc.maxSafeNat()
const place = fc.record({ segment: fc.nat(), offset: fc.nat() })

const manifest: fc.Arbitrary<Manifest> = fc.uniqueArray(word, { maxLength: 6 }).chain((columns) =>
  fc.record({
    kind: word,
    table: word,
    columns: fc.constant(columns),
    erasable: fc.subarray(columns)
  })
)

const notice: fc.Arbitrary<Notice> = fc.oneof(
  fc.record({ word: fc.constant("manifest" as const), number, manifest }),
  fc.record({ word: fc.constant("dead" as const), place, eventId: fc.uuid(), code: word }),
  fc.record({ word: fc.constant("twin" as const), kind: word, eventId: fc.uuid() }),
  fc.record({ word: fc.constant("erase" as const), kind: word, eventIds: fc.array(fc.uuid()) }),
  fc.record({ word: fc.constant("purge" as const), chain: hex(16), before: number }),
  fc.record({ word: fc.constant("key" as const), publicKey: hex(44) }),
  fc.record({ word: fc.constant("previous" as const), chain: hex(16), number, head: hex(32), found: word }),
  fc.record({ word: fc.constant("witness" as const), chain: hex(16), number, head: hex(32) }),
  fc.record({ word: fc.constant("unsealed" as const), from: place, to: place })
)

const entry = fc.record({ eventId: bytes(16), manifest: number, leaf: bytes(32) })

const encodeEntries = (entries: ReadonlyArray<Entry>) =>
  Buffer.concat(
    entries.map(({ eventId, leaf, manifest }) =>
      numbered(Buffer.concat([eventId, Buffer.alloc(8), leaf]), manifest)
    )
  )

const unsealed: fc.Arbitrary<Unsealed> = fc.record({
  chain: bytes(16),
  number,
  at: fc.constantFrom("2026-01-31 08:00:00.000000", "2026-01-31 08:00:00.000001"),
  until: fc.constantFrom("0:0", "1:12", "11:2"),
  prev: bytes(32),
  entries: fc.array(entry, { maxLength: 4 }).map(encodeEntries),
  notices: fc.array(notice, { maxLength: 3 }).map(encodeNotices)
})

const pair = () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  return {
    sealing: Either.getOrThrow(
      sealingKey(Redacted.make(privateKey.export({ type: "pkcs8", format: "pem" }).toString()))
    ),
    verifying: Either.getOrThrow(verifyingKey(publicKey.export({ type: "spki", format: "pem" }).toString()))
  }
}

const flip = (given: Uint8Array, bit: number): Uint8Array => {
  const flipped = Uint8Array.from(given)
  flipped[bit >>> 3]! ^= 1 << (bit & 7)
  return flipped
}

describe("framing", () => {
  it("gives different parts different bytes", () => {
    fc.assert(
      fc.property(word, fc.array(part), word, fc.array(part), (domain, parts, other, others) => {
        const isSame =
          domain === other &&
          parts.length === others.length &&
          parts.every((each, i) => Buffer.compare(Buffer.from(each), Buffer.from(others[i]!)) === 0)
        assert.strictEqual(frame(domain, parts).equals(frame(other, others)), isSame)
      })
    )
    // parts that plain concatenation would confuse
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 1 }), fc.nat(), (text, at) => {
        const cut = at % text.length
        assert.notDeepEqual(frame("x", [text.slice(0, cut), text.slice(cut)]), frame("x", [text]))
      })
    )
  })

  it("hashes lengths and parts with SHA-256", () => {
    const length = (size: number) => Buffer.from(size.toString(16).padStart(16, "0"), "hex")
    const expected = createHash("sha256")
      .update(
        Buffer.concat([length(1), Buffer.from("d"), length(2), Buffer.from("é"), length(1), Buffer.of(255)])
      )
      .digest()
    assert.deepStrictEqual(digest("d", ["é", Uint8Array.of(255)]), expected)
  })

  it("hashes any parts so: long, not ASCII, with lone surrogates, none", () => {
    const length = (size: number) => Buffer.from(size.toString(16).padStart(16, "0"), "hex")
    const framed = (parts: ReadonlyArray<string | Uint8Array>) =>
      Buffer.concat(
        parts.flatMap((part) => {
          const bytes = Buffer.from(part as string)
          return [length(bytes.length), bytes]
        })
      )
    const long = fc
      .tuple(
        fc.string({ unit: "binary" }),
        fc.constantFrom("a", "é", "画", "\u{1f600}", "\ud800"),
        fc.nat(300)
      )
      .map(([text, character, count]) => character.repeat(count) + text)
    const any = fc.oneof(part, long, fc.string({ unit: "grapheme" }), fc.constant("x".repeat(200_000)))
    fc.assert(
      fc.property(any, fc.array(any, { maxLength: 12 }), (domain, parts) => {
        const name = typeof domain === "string" ? domain : "d"
        const expected = framed([name, ...parts])
        assert.isTrue(frame(name, parts).equals(expected))
        assert.deepStrictEqual(digest(name, parts), createHash("sha256").update(expected).digest())
      })
    )
  })

  it("reads netstrings back, and rejects anything else", () => {
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        const written = Buffer.concat(parts.map(netstring))
        assert.deepStrictEqual(
          netstrings(written)?.map((each) => each.toString("hex")),
          parts.map((each) => Buffer.from(each).toString("hex"))
        )
      })
    )
    for (const text of [
      "1",
      "1:",
      "1:a",
      "01:a,",
      "2:a,",
      "-1:,",
      ":,",
      "1:a;",
      "1:a,x",
      "9999999999:a,",
      "1e0:a,"
    ]) {
      assert.isUndefined(netstrings(Buffer.from(text)), text)
    }
    // any bytes that can be read are written the same
    fc.assert(
      fc.property(bytes(0, 20), (given) => {
        const read = netstrings(given)
        if (read !== undefined) assert.deepStrictEqual(Buffer.concat(read.map(netstring)), Buffer.from(given))
      })
    )
  })
})

describe("seals", () => {
  it("read back entries and notices", () => {
    fc.assert(
      fc.property(fc.array(entry), fc.array(notice), (entries, notices) => {
        const read = decodeEntries(encodeEntries(entries))
        assert.deepStrictEqual(
          read?.map(({ eventId, leaf, manifest }) => ({
            eventId: Uint8Array.from(eventId),
            manifest,
            leaf: Uint8Array.from(leaf)
          })),
          entries
        )
        assert.deepStrictEqual(decodeNotices(encodeNotices(notices)), notices)
      })
    )
    assert.isUndefined(decodeEntries(Buffer.alloc(ENTRY_BYTES - 1)))
  })

  it("reject invalid notices, and those of a later version", () => {
    const of = (...texts: ReadonlyArray<string>) => netstring(Buffer.concat(texts.map(netstring)))
    for (const wrong of [
      of(),
      of("later", "1"),
      of("purge"),
      of("purge", "1"),
      of("purge", "0f".repeat(16), "-1"),
      of("purge", "0f", "1"),
      of("purge", "0f".repeat(16), "1", "2"),
      of("purge", "0f".repeat(16), "9007199254740993"),
      of("witness", "00", "1", "00"),
      of("manifest", "0", "{}"),
      of("manifest", "0", "no json"),
      netstring(Buffer.concat([netstring("twin"), netstring("k"), netstring(Buffer.of(0xff))]))
    ]) {
      assert.isUndefined(decodeNotices(wrong), wrong.toString())
    }
  })

  it("change their head if bytes move between any two parts", () => {
    fc.assert(
      fc.property(unsealed, fc.nat(), (given, at) => {
        const all = Buffer.concat([given.entries, given.notices])
        const cut = at % (all.length + 1)
        const moved = { ...given, entries: all.subarray(0, cut), notices: all.subarray(cut) }
        assert.strictEqual(headOf(moved).equals(headOf(given)), cut === given.entries.length)
      })
    )
  })

  it("reveal any flipped bit", () => {
    const { sealing, verifying } = pair()
    fc.assert(
      fc.property(unsealed, fc.nat(), (given, at) => {
        const sealed = seal(given, sealing)
        assert.isUndefined(wrongIn(sealed, verifying))
        for (const field of ["chain", "prev", "entries", "notices", "head", "keyId", "sig"] as const) {
          const bits = sealed[field].length * 8
          if (bits === 0) continue
          const harmed = { ...sealed, [field]: flip(sealed[field], at % bits) }
          assert.isDefined(wrongIn(harmed, verifying), field)
        }
        assert.strictEqual(
          wrongIn({ ...sealed, number: sealed.number === 0 ? 1 : sealed.number - 1 }, verifying),
          "head"
        )
        assert.strictEqual(wrongIn({ ...sealed, at: `${sealed.at} ` }, verifying), "head")
        assert.strictEqual(wrongIn({ ...sealed, until: `${sealed.until}0` }, verifying), "head")
      }),
      { numRuns: 50 }
    )
  })

  it("need the key", () => {
    const [ours, theirs] = [pair(), pair()]
    const given: Unsealed = {
      chain: Buffer.alloc(16, 1),
      number: 0,
      at: "2026-01-31 08:00:00.000000",
      until: "0:0",
      prev: NO_HEAD,
      entries: Buffer.alloc(0),
      notices: Buffer.alloc(0)
    }
    const forged = seal(given, theirs.sealing)
    assert.strictEqual(wrongIn(forged, ours.verifying), "key")
    assert.strictEqual(wrongIn({ ...forged, keyId: ours.verifying.id }, ours.verifying), "signature")
    const sealed = seal(given, ours.sealing)
    assert.strictEqual(
      wrongIn({ ...sealed, head: headOf({ ...given, number: 1 }), number: 1 }, ours.verifying),
      "signature"
    )
    assert.strictEqual(wrongIn({ ...sealed, sig: new Uint8Array(0) }, ours.verifying), "signature")
  })
})

describe("leaves", () => {
  const value = fc.option(fc.string({ unit: "binary", maxLength: 5 }))
  const sealedRow = manifest.chain((given) =>
    fc.record({
      manifest: fc.constant(given),
      salt: bytes(16),
      row: fc.record({
        eventId: bytes(16),
        eventTime: value,
        values: fc.tuple(...given.columns.map(() => value))
      })
    })
  )
  const leaf = (given: Manifest, row: RowContent, salt: Uint8Array) =>
    leafOf(given, row, erasableHash(given, row, salt)).toString("hex")

  it("differ for any other value: NULL, the empty text, a blank, a value in the next column", () => {
    fc.assert(
      fc.property(sealedRow, fc.nat(), value, bytes(16), ({ manifest, row, salt }, at, other, otherBytes) => {
        const found = leaf(manifest, row, salt)
        const isSame = (changed: RowContent, by = salt) => leaf(manifest, changed, by) === found
        assert.isTrue(isSame({ ...row, values: [...row.values] }))
        assert.strictEqual(isSame({ ...row, eventTime: other }), other === row.eventTime)
        assert.strictEqual(
          isSame({ ...row, eventId: otherBytes }),
          Buffer.compare(otherBytes, row.eventId) === 0
        )
        assert.strictEqual(isSame(row, otherBytes), Buffer.compare(otherBytes, salt) === 0)
        if (row.values.length === 0) return
        const i = at % row.values.length
        assert.strictEqual(isSame({ ...row, values: row.values.with(i, other) }), other === row.values[i])
        const j = (i + 1) % row.values.length
        const swapped = row.values.with(i, row.values[j]!).with(j, row.values[i]!)
        assert.strictEqual(isSame({ ...row, values: swapped }), row.values[i] === row.values[j])
      })
    )
  })

  it("stay the same for an erased row, which keeps no content", () => {
    fc.assert(
      fc.property(sealedRow, ({ manifest, row, salt }) => {
        const hash = erasableHash(manifest, row, salt)
        const erased = {
          ...row,
          values: row.values.map((given, i) =>
            manifest.erasable.includes(manifest.columns[i]!) ? null : given
          )
        }
        assert.deepStrictEqual(leafOf(manifest, erased, hash), leafOf(manifest, row, hash))
      })
    )
  })
})

describe("keys", () => {
  it("must be Ed25519: the error shows how to make one, and nothing of the refused key", () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 })
    const good = generateKeyPairSync("ed25519")
    const privatePem = (key: typeof good.privateKey) =>
      key.export({ type: "pkcs8", format: "pem" }).toString()
    const publicPem = (key: typeof good.publicKey) => key.export({ type: "spki", format: "pem" }).toString()
    const escaped = privatePem(good.privateKey).replaceAll("\n", "\\n")
    assert.isTrue(Either.isRight(sealingKey(Redacted.make(escaped))))
    const encrypted = good.privateKey
      .export({ type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase: "s3cret" })
      .toString()
    for (const wrong of [
      "",
      "s3cret",
      "./audit-key.pem",
      encrypted,
      privatePem(rsa.privateKey),
      publicPem(good.publicKey)
    ]) {
      const refused = sealingKey(Redacted.make(wrong))
      assert.isTrue(Either.isLeft(refused))
      assert.match(
        Either.getOrElse(Either.flip(refused), () => ""),
        /without a passphrase.*not its path.*Only if there is no key yet.*openssl genpkey -algorithm ed25519/
      )
      assert.notInclude(JSON.stringify(refused), "s3cret")
    }
    for (const wrong of ["", "s3cret", publicPem(rsa.publicKey), privatePem(good.privateKey)]) {
      const refused = verifyingKey(wrong)
      assert.match(
        Either.getOrElse(Either.flip(refused), () => ""),
        /openssl pkey -in/
      )
    }
  })
})
