/** The actor: explicit, then the inner region, then the outer one, then the default. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema } from "effect"
import {
  Activity,
  Audit,
  AuditEvent,
  CurrentActor,
  logActivity,
  LoginLog,
  logLogin,
  logUse,
  UseLog
} from "effect-audit"
import { AuditTest } from "effect-audit/testing"

/** A kind with other names for the actor's fields; nothing fills its second field. */
class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { payer: AuditEvent.text("nobody"), userName: AuditEvent.optional(Schema.String) },
  fromActor: { payer: (actor) => actor.userName }
}) {}

const users = Effect.gen(function* () {
  yield* Audit.flush
  return (yield* AuditTest.delivered(UseLog)).map((use) => [use.userName, use.deviceName])
})

describe("withActor", () => {
  it.effect("prefers explicit values, then the inner region, the outer one, the default", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* logUse({ status: "s", userName: "explicit" })
        yield* logUse({ status: "s" })
        yield* logUse({ status: "s" }).pipe(Audit.withActor({ userName: "inner" }))
        yield* logUse({ status: "s", userName: "" }).pipe(Audit.withActor({ userName: null }))
      }).pipe(Audit.withActor({ userName: "outer", deviceName: "studio" }))
      yield* logUse({ status: "s" })
      assert.deepStrictEqual(yield* users, [
        ["explicit", "studio"],
        ["outer", "studio"],
        ["inner", "studio"],
        ["outer", "studio"],
        ["未知用户", "未知设备"]
      ])
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("survives fork and forkDaemon, and ends with its region", () =>
    Effect.gen(function* () {
      const fibers = yield* Effect.all([
        Effect.fork(Effect.yieldNow().pipe(Effect.zipRight(logUse({ status: "s" })))),
        Effect.forkDaemon(Effect.yieldNow().pipe(Effect.zipRight(logUse({ status: "s" }))))
      ]).pipe(
        Effect.flatMap(Fiber.joinAll),
        Audit.withActor({ userName: "li", deviceName: "pc" }),
        Effect.fork
      )
      yield* Fiber.join(fibers)
      assert.deepStrictEqual(yield* users, [
        ["li", "pc"],
        ["li", "pc"]
      ])
      assert.deepStrictEqual(yield* CurrentActor, {})
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("names the actor in the fields that a kind declares, also in events made by a constructor", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* logLogin({ localIp: "10.0.0.5" })
        yield* Audit.record(new Payment({}))
        yield* Audit.record(new Payment({ payer: "wang" }))
        yield* Audit.record(new UseLog({ status: "s" }))
      }).pipe(Audit.withActor({ userName: "li", deviceName: "pc" }))
      assert.deepStrictEqual(yield* users, [["li", "pc"]])
      const [login] = yield* AuditTest.delivered(LoginLog)
      assert.deepInclude(login!, { userName: "li", deviceName: "pc", localIp: "10.0.0.5", publicIp: null })
      assert.deepStrictEqual(
        (yield* AuditTest.delivered(Payment)).map(({ payer, userName }) => [payer, userName]),
        [
          ["li", null],
          ["wang", null]
        ]
      )
    }).pipe(Effect.provide(AuditTest.layerWith({ events: [Payment] })))
  )

  it.effect("replaces the default name if it wraps the whole program", () =>
    Effect.gen(function* () {
      yield* logUse({ status: "s" })
      yield* logUse({ status: "s", userName: "", deviceName: null })
      yield* Audit.log(new UseLog({ status: "s" }))
      yield* Effect.void.pipe(Audit.audited({ prompt: "a" }))
      yield* Effect.flatMap(Effect.forkDaemon(logUse({ status: "s" })), Fiber.join)
      yield* logUse({ status: "s" }).pipe(Audit.withActor({ userName: "li" }))
      const nobody = ["unknown", "unknown"]
      assert.deepStrictEqual(yield* users, [...Array.from({ length: 5 }, () => nobody), ["li", "unknown"]])
    }).pipe(Audit.withActor({ userName: "unknown", deviceName: "unknown" }), Effect.provide(AuditTest.layer))
  )
})

describe("the default name", () => {
  it.effect("is used in the tables of the Python class only", () =>
    Effect.gen(function* () {
      yield* logLogin({})
      yield* logActivity({ action: "a", outcome: "success" })
      yield* Audit.log(new Payment({}))
      yield* Audit.flush
      const events = [
        ...(yield* AuditTest.delivered(LoginLog)),
        ...(yield* AuditTest.delivered(Activity)),
        ...(yield* AuditTest.delivered(Payment))
      ]
      assert.lengthOf(events, 3)
      for (const event of events) assert.notMatch(JSON.stringify(event), /[^ -~]/)
    }).pipe(Effect.provide(AuditTest.layerWith({ events: [Activity, Payment] })))
  )
})
