import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, TestClock } from "effect"
import { Audit, LoginLog, UseLog } from "effect-audit"
import { AuditTest } from "effect-audit/testing"
import { ImageModel, Refused, session } from "../examples/studio.js"

/** Takes two seconds for each image and draws no dragons. */
const ModelTest = Layer.succeed(ImageModel, {
  generate: (prompt) =>
    prompt.includes("dragon")
      ? Effect.fail(new Refused({ reason: "SAFETY" }))
      : Effect.delay(Effect.succeed({ path: `out/${prompt}.png` }), "2 seconds")
})

const li = { userName: "li", deviceName: "studio-3" }

describe("session", () => {
  it.effect("records who did what, how long it took and how it ended", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(session(li, ["fox", "dragon"]))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), ["out/fox.png"])
      yield* Audit.flush

      const [login] = yield* AuditTest.delivered(LoginLog)
      assert.strictEqual(login?.userName, "li")
      const model = "gemini-2.5-flash-image"
      assert.deepStrictEqual(yield* AuditTest.delivered(UseLog), [
        new UseLog({
          ...li,
          model,
          prompt: "fox",
          status: "success",
          resultPath: "out/fox.png",
          durationMs: 2000
        }),
        new UseLog({
          ...li,
          model,
          prompt: "dragon",
          status: "failure",
          errorMessage: "the model refused: SAFETY",
          durationMs: 0
        })
      ])
    }).pipe(Effect.provide([AuditTest.layer, ModelTest]))
  )

  it.effect("is not affected by an outage of the database, and loses nothing", () =>
    Effect.gen(function* () {
      yield* AuditTest.outage
      yield* session(li, ["dragon"])
      assert.strictEqual((yield* Audit.status).waiting, 2)

      yield* AuditTest.recover
      yield* Audit.flush
      assert.lengthOf(yield* AuditTest.delivered(UseLog), 1)
    }).pipe(Effect.provide([AuditTest.layer, ModelTest]))
  )

  it.effect("continues when the disk of the audit log is full", () =>
    Effect.gen(function* () {
      yield* AuditTest.diskFull
      assert.deepStrictEqual(yield* session(li, ["dragon"]), [])
      assert.strictEqual((yield* Audit.status).accepted, 0)
    }).pipe(Effect.provide([AuditTest.layer, ModelTest]))
  )
})
