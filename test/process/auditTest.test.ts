/** AuditTest: the test double, as programs use it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, Schema, TestClock } from "effect"
import { Audit, AuditEvent, LoginLog, logLogin, logUse, UseLog } from "effect-audit"
import { AuditTest } from "effect-audit/testing"

class Visit extends AuditEvent.Class<Visit>()("visit", {
  table: "visits",
  fields: {
    guest: Schema.Struct({ name: Schema.String, tags: Schema.Array(Schema.String) }),
    since: Schema.Date,
    isRegular: Schema.Boolean,
    room: Schema.optional(Schema.NumberFromString)
  }
}) {
  get title() {
    return `${this.guest.name} in ${this.room ?? "no room"}`
  }
}

describe("AuditTest", () => {
  it.effect("delivers instances of the class, in order", () =>
    Effect.gen(function* () {
      yield* logUse({ userName: "li", prompt: "a red fox", status: "success", durationMs: 1840 })
      yield* logLogin({ userName: "li" })
      yield* logUse({ userName: "", prompt: "lone \ud83d", status: "failed" })
      yield* Audit.flush

      const uses = yield* AuditTest.delivered(UseLog)
      assert.deepStrictEqual(
        uses.map(({ durationMs, prompt, status, userName }) => [userName, prompt, status, durationMs]),
        [
          ["li", "a red fox", "success", 1840],
          ["未知用户", "lone \ufffd", "failed", null]
        ]
      )
      assert.instanceOf(uses[0], UseLog)
      const [login] = yield* AuditTest.delivered(LoginLog)
      assert.match(login!.loginTime!, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/)
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("returns values that columns cannot hold", () =>
    Effect.gen(function* () {
      const visit = {
        guest: { name: "Ann", tags: ["vip", "早"] },
        since: new Date("2020-02-29T01:02:03.004Z"),
        isRegular: true
      }
      yield* Audit.record(new Visit({ ...visit, room: 12 }))
      yield* Audit.record(new Visit(visit))
      yield* Audit.flush
      const [first, second] = yield* AuditTest.delivered(Visit)
      assert.deepStrictEqual(first, new Visit({ ...visit, room: 12 }))
      assert.strictEqual(first!.title, "Ann in 12")
      assert.strictEqual(second!.title, "Ann in no room")
    }).pipe(Effect.provide(AuditTest.layerWith({ events: [Visit] })))
  )

  it.effect("simulates an outage: the backoff delivers every event", () =>
    Effect.gen(function* () {
      yield* AuditTest.outage
      yield* logUse({ status: "success" })
      const failure = yield* Effect.flip(Audit.flush)
      assert.strictEqual(failure.waiting, 1)
      assert.strictEqual((yield* Audit.status).state, "offline")
      yield* AuditTest.recover
      assert.lengthOf(yield* AuditTest.delivered(UseLog), 0)
      yield* TestClock.adjust("2 seconds")
      assert.lengthOf(yield* AuditTest.delivered(UseLog), 1)
      assert.strictEqual((yield* Audit.status).state, "idle")
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("refuses events", () =>
    Effect.gen(function* () {
      yield* AuditTest.reject(UseLog, (use) => use.prompt === "bad")
      yield* logUse({ status: "a", prompt: "good" })
      yield* logUse({ status: "b", prompt: "bad" })
      yield* logLogin({})
      yield* Audit.flush
      assert.deepStrictEqual(
        (yield* AuditTest.delivered(UseLog)).map(({ status }) => status),
        ["a"]
      )
      const { dead, delivered } = yield* Audit.status
      assert.deepStrictEqual({ dead, delivered }, { dead: 1, delivered: 2 })
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("simulates a full and a failing disk", () =>
    Effect.gen(function* () {
      const record = Effect.either(Audit.recordUse({ status: "success" }))
      const errorOf = Effect.map(record, (result) => (Either.isLeft(result) ? result.left._tag : "recorded"))
      yield* AuditTest.diskFull
      assert.strictEqual(yield* errorOf, "QueueFull")
      yield* AuditTest.diskFails("EIO")
      assert.strictEqual(yield* errorOf, "QueueWriteError")
      yield* AuditTest.diskWorks
      assert.strictEqual(yield* errorOf, "recorded")
    }).pipe(Effect.provide(AuditTest.layer))
  )
})
