/** Redaction and limits: what of an event reaches the disk. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Schema } from "effect"
import { Audit, AuditEvent, AuditLayer, logLogin, logUse, Redact, Uploader, UseLog } from "effect-audit"
import { AuditTest } from "effect-audit/testing"
import * as fc from "fast-check"
import { createHmac } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { inspect } from "node:util"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { truncate } from "../../src/schema/Rules.js"
import { UploadError } from "../../src/schema/Errors.js"
import { temporaryDirectory } from "../support/queue.js"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { account: Schema.String, cents: Schema.Int, note: AuditEvent.optional(Schema.String) }
}) {}

const KEY = "a key of 16 bytes, or more"
const key = Redacted.make(KEY)
const BYTES = Uint8Array.from({ length: 64 }, (_, index) => index)
const hmac = (text: string) => createHmac("sha256", KEY).update(text).digest("hex")

const delivered = <A>(event: AuditTest.EventClass<A>) =>
  Effect.zipRight(Audit.flush, AuditTest.delivered(event))

describe("redaction", () => {
  it.effect("applies omit, mask, hash and a custom function, by kind and field", () =>
    Effect.gen(function* () {
      yield* logUse({ userName: "li", prompt: "secret", errorMessage: "secret", status: "s" })
      yield* Audit.record(new Payment({ account: "DE0042", cents: 1999, note: "secret" }))
      const [use] = yield* delivered(UseLog)
      assert.deepInclude(use!, { userName: hmac("li"), prompt: "", errorMessage: "***" })
      const [payment] = yield* delivered(Payment)
      assert.deepInclude(payment!, { account: "…42", cents: 2000, note: null })
    }).pipe(
      Effect.provide(
        AuditTest.layerWith({
          events: [Payment],
          redact: {
            use_log: { prompt: Redact.omit, errorMessage: Redact.mask, userName: Redact.hash(key) },
            payment: {
              account: (account) => `…${account.slice(-2)}`,
              cents: (cents) => Math.round(cents / 100) * 100,
              note: Redact.omit
            }
          }
        })
      )
    )
  )

  it.effect("redacts the actor like the event's own fields, and leaves absent fields absent", () =>
    Effect.gen(function* () {
      yield* logUse({ status: "s" }).pipe(Audit.withActor({ userName: "li" }))
      yield* logUse({ status: "s", userName: "" })
      yield* Audit.record(new UseLog({ status: "s", errorMessage: null }))
      const uses = yield* delivered(UseLog)
      assert.deepStrictEqual(
        uses.map(({ errorMessage, userName }) => [userName, errorMessage]),
        [
          [hmac("li"), null],
          ["未知用户", null],
          ["未知用户", null]
        ]
      )
    }).pipe(
      Effect.provide(
        AuditTest.layerWith({
          redact: { use_log: { userName: Redact.hash(key), errorMessage: Redact.mask } }
        })
      )
    )
  )

  it.scopedLive("keeps redacted values off the disk, dead letters included", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const database = yield* makeMemoryUploader()
      yield* database.outage(new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "down" }))
      yield* Effect.gen(function* () {
        yield* logUse({ userName: "li-the-user", prompt: "a-secret-fox", status: "s" })
        yield* logLogin({ userName: "li-the-user" })
      }).pipe(
        Effect.provide(
          AuditLayer.layer({
            directory,
            redact: {
              use_log: { prompt: Redact.omit, userName: Redact.hash(key) },
              login_log: { userName: Redact.hash(key) }
            }
          }).pipe(Layer.provide(Layer.succeed(Uploader, database.uploader)))
        )
      )
      const disk = fs
        .readdirSync(directory, { withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ name }) => fs.readFileSync(path.join(directory, name), "utf8"))
      assert.lengthOf(disk.join("").match(new RegExp(hmac("li-the-user"), "g"))!, 2)
      assert.notMatch(disk.join(""), /li-the-user|a-secret-fox/)
    })
  )

  it.effect("withholds everything if a redaction throws, and gives onAppendFailure the rest", () => {
    const failures: Array<AuditLayer.AppendFailure> = []
    return Effect.gen(function* () {
      yield* logUse({ userName: "li", prompt: "secret", status: "s" })
      yield* AuditTest.diskFull
      yield* logUse({ userName: "li", prompt: "", status: "s" })
      assert.deepStrictEqual(
        failures.map(({ error, input }) => [
          error._tag,
          (input as AuditEvent.InputOf<typeof UseLog>).userName
        ]),
        [
          ["InvalidEvent", "***"],
          ["QueueFull", "***"]
        ]
      )
      assert.notInclude(JSON.stringify(failures), "secret")
      assert.include(failures[0]!.error.message, "prompt: expected a value that its redaction accepts")
      assert.strictEqual((yield* Audit.status).accepted, 0)
    }).pipe(
      Effect.provide(
        AuditTest.layerWith({
          redact: {
            use_log: {
              userName: Redact.mask,
              prompt: (prompt) => {
                throw new Error(prompt)
              }
            }
          },
          onAppendFailure: (failure) => Effect.sync(() => void failures.push(failure))
        })
      )
    )
  })

  it.scopedLive("refuses a key of less than 16 bytes when the layer is built, with advice", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      const build = (secret: string | Uint8Array) =>
        AuditLayer.layer({
          directory,
          redact: { use_log: { userName: Redact.hash(Redacted.make(secret)) } }
        }).pipe(Layer.provide(Layer.succeed(Uploader, uploader)), Layer.build, Effect.scoped)
      for (const secret of ["", "short", "x".repeat(15), "早".repeat(5), BYTES.subarray(0, 15)]) {
        const error = yield* Effect.flip(build(secret))
        assert.strictEqual(error._tag, "QueueOpenError")
        assert.include(error.message, "redact.use_log.userName: the key of Redact.hash has")
        assert.include(error.message, "openssl rand -hex 32")
        if (secret !== "") assert.notInclude(error.message, String(secret))
      }
      for (const secret of ["x".repeat(16), "早".repeat(6), BYTES.subarray(0, 16)]) yield* build(secret)
      const wiped = Redacted.make("x".repeat(16))
      Redacted.unsafeWipe(wiped)
      const number = 4_242_424_242_424_242
      const nones: ReadonlyArray<unknown> = [
        "x".repeat(16),
        undefined,
        null,
        wiped,
        ...[number, null, undefined, ["x".repeat(16)], BYTES.buffer, new Date(number)].map(Redacted.make)
      ]
      for (const none of nones) {
        const redact = { use_log: { userName: Redact.hash(none as never) } }
        const error = yield* AuditLayer.layer({ directory, redact }).pipe(
          Layer.provide(Layer.succeed(Uploader, uploader)),
          Layer.build,
          Effect.scoped,
          Effect.flip
        )
        assert.include(
          error.message,
          "the key of Redact.hash is neither a text nor bytes. Give Redacted.make(key)."
        )
        assert.notInclude(error.message, String(number))
      }
    })
  )

  it("copies a key of bytes, so that later changes have no effect", () => {
    const digest = createHmac("sha256", BYTES.subarray(8, 40)).update("li").digest("hex")
    const own = Uint8Array.from(BYTES)
    const shared = new Uint8Array(new SharedArrayBuffer(64))
    shared.set(BYTES)
    for (const bytes of [own, Buffer.from(BYTES), shared]) {
      const key = Redacted.make(bytes.subarray(8, 40))
      const hash = Redact.hash(key)
      assert.strictEqual(hash("li"), digest)
      bytes.fill(0)
      assert.strictEqual(hash("li"), digest)
      Redacted.unsafeWipe(key)
      assert.strictEqual(hash("li"), digest)
      assert.notInclude(inspect(hash, { depth: 9, showHidden: true }), "0809")
    }
  })

  it.effect("redacts an input that is not an object as a whole, before onAppendFailure sees it", () => {
    const failures: Array<AuditLayer.AppendFailure> = []
    const inputs: ReadonlyArray<unknown> = ["SECRET", 7n, () => "SECRET", Symbol("SECRET"), ["SECRET"], null]
    return Effect.gen(function* () {
      for (const input of inputs) yield* logUse(input as never)
      assert.lengthOf(failures, inputs.length)
      for (const { error, input } of failures) {
        assert.strictEqual(error._tag, "InvalidEvent")
        assert.notInclude(inspect(input, { depth: 5 }) + error.message, "SECRET")
        assert.notStrictEqual(typeof input, "function")
      }
    }).pipe(
      Effect.provide(
        AuditTest.layerWith({
          redact: { use_log: { prompt: Redact.omit } },
          onAppendFailure: (failure) => Effect.sync(() => void failures.push(failure))
        })
      )
    )
  })

  it.scopedLive("refuses a rule that would never apply when the layer is built", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { uploader } = yield* makeMemoryUploader()
      const reasonFor = (rules: Pick<AuditLayer.Options, "redact" | "limits">) =>
        AuditLayer.layer({ directory, ...rules }).pipe(
          Layer.provide(Layer.succeed(Uploader, uploader)),
          Layer.build,
          Effect.flip,
          Effect.map((error) => error.message)
        )
      const rule = { userName: Redact.mask, prmopt: Redact.omit }
      assert.include(
        yield* reasonFor({ redact: { use_log: rule } }),
        "redact.use_log.prmopt: there is no such"
      )
      const rules = { payment: { note: Redact.omit } }
      assert.include(
        yield* reasonFor({ redact: rules as object }),
        'the kind "payment", which is not in `events`'
      )
      assert.include(yield* reasonFor({ limits: { use_log: { prompt: 15 } } }), "at least 16")
    })
  )
})

describe("limits", () => {
  it.effect("cut a text, and mark the cut at its end", () =>
    Effect.gen(function* () {
      yield* logUse({ prompt: "x".repeat(100), status: "s" })
      yield* logUse({ prompt: "x".repeat(20), status: "s" })
      const uses = yield* delivered(UseLog)
      assert.deepStrictEqual(
        uses.map((use) => use.prompt),
        ["x".repeat(13) + "…[+87]", "x".repeat(20)]
      )
    }).pipe(Effect.provide(AuditTest.layerWith({ limits: { use_log: { prompt: 20 } } })))
  )

  it("count characters as VARCHAR does, never split one, and never exceed the limit", () => {
    const unit = fc.constantFrom("a", "早", "🦊", "\ud83d", "\udd8a")
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 60 }), fc.integer({ min: 16, max: 40 }), (units, limit) => {
        const text = units.join("")
        const cut = truncate(text, limit)
        const points = Array.from(text)
        if (points.length <= limit) {
          assert.strictEqual(cut, text)
        } else {
          const [, kept, missing] = /^(.*)…\[\+(\d+)\]$/su.exec(cut)!
          assert.strictEqual(kept, points.slice(0, -Number(missing)).join(""))
          assert.isAtMost(Array.from(cut).length, limit)
          assert.isAtLeast(Array.from(cut).length, limit - 1)
        }
      })
    )
  })
})
