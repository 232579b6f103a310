/** What must compile, and what must not. */
import { Effect, Layer, Redacted, Schema } from "effect"
import { describe, expectTypeOf, test } from "vitest"
import type {
  AppendError,
  AuditLog,
  LoginLogInput,
  QueueLocked,
  QueueOpenError,
  Receipt,
  Uploader,
  UseLogInput
} from "effect-audit"
import { Audit, AuditEvent, AuditLayer, LoginLog, logLogin, logUse, UseLog } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { account: Schema.String, cents: Schema.Int, note: AuditEvent.optional(Schema.String) },
  columns: { account: "account_no", cents: { type: "INT UNSIGNED NOT NULL" } }
}) {}

class Refund extends AuditEvent.Class<Refund>()("refund", {
  table: "refunds",
  fields: { cents: Schema.Int }
}) {}

const UploaderLive = MysqlUploader.layer({ url: Redacted.make("mysql://app@db/app") })
/** Compiles only if nothing is left to be provided. */
const complete = <A, E>(program: Effect.Effect<A, E>) => program
/** Looks at the types only. */
const construct = (_: () => AuditEvent.Instance) => undefined

describe("a program", () => {
  test("that provides the uploader is complete", () => {
    const AuditLive = AuditLayer.layer({ directory: "./audit" }).pipe(Layer.provide(UploaderLive))
    complete(logLogin({ userName: "li" }).pipe(Effect.provide(AuditLive)))
    complete(Audit.record(new UseLog({ status: "success" })).pipe(Effect.provide(AuditLive)))
    complete(Audit.record(new LoginLog({})).pipe(Effect.provide(AuditLive)))
  })

  test("that forgets the uploader does not compile", () => {
    const AuditLive = AuditLayer.layer({ directory: "./audit" })
    expectTypeOf(AuditLive).toExtend<Layer.Layer<AuditLog, QueueOpenError | QueueLocked, Uploader>>()
    const program = logLogin({ userName: "li" }).pipe(Effect.provide(AuditLive))
    expectTypeOf(program).toEqualTypeOf<Effect.Effect<void, QueueOpenError | QueueLocked, Uploader>>()
    // @ts-expect-error -- the uploader is missing
    complete(program)
  })

  test("that forgets the audit log does not compile", () => {
    // @ts-expect-error -- the audit log is missing
    complete(logUse({ status: "success" }))
  })
})

describe("an own kind of event", () => {
  const pay = Audit.record(new Payment({ account: "0042", cents: 1999 }))

  test("says in R that the layer must carry it", () => {
    expectTypeOf(pay).toEqualTypeOf<
      Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.Kind<"payment">>
    >()
  })

  test("is recorded through a layer that carries it", () => {
    const AuditLive = AuditLayer.layer({ directory: "./audit", events: [Payment, Refund] })
    complete(pay.pipe(Effect.provide(AuditLive), Effect.provide(UploaderLive)))
    complete(
      Audit.record(new Refund({ cents: 1 })).pipe(Effect.provide(AuditLive), Effect.provide(UploaderLive))
    )
  })

  test("does not compile with a layer that does not", () => {
    const AuditLive = AuditLayer.layer({ directory: "./audit", events: [Refund] }).pipe(
      Layer.provide(UploaderLive)
    )
    // @ts-expect-error -- no layer carries payments
    complete(pay.pipe(Effect.provide(AuditLive)))
  })

  test("has the input of its fields", () => {
    expectTypeOf<AuditEvent.InputOf<typeof Payment>>().toEqualTypeOf<{
      readonly account: string
      readonly cents: number
      readonly note?: string | null | undefined
    }>()
    // @ts-expect-error -- the account is required
    construct(() => new Payment({ cents: 1 }))
    // @ts-expect-error -- cents is a number
    construct(() => new Payment({ account: "0042", cents: "1999" }))
  })

  test("names columns of its own fields only", () => {
    AuditEvent.Class()("typo", {
      table: "payments",
      fields: { account: Schema.String },
      // @ts-expect-error -- there is no field of this name
      columns: { acount: "account_no" }
    })
    AuditEvent.Class()("typo", {
      table: "payments",
      fields: { at: Schema.String },
      // @ts-expect-error -- there is no field of this name
      fromTime: { att: () => "" }
    })
  })
})

describe("the reference's events", () => {
  test("status is required", () => {
    logUse({ status: "success" })
    // @ts-expect-error -- status is missing
    logUse({ userName: "li" })
    // @ts-expect-error -- status is a text
    logUse({ status: null })
    // @ts-expect-error -- status is missing
    construct(() => new UseLog({ userName: "li" }))
  })

  test("every other field may be left out, null or undefined", () => {
    type Text = string | null | undefined
    expectTypeOf<UseLogInput>().toEqualTypeOf<{
      readonly status: string
      readonly userName?: Text
      readonly deviceName?: Text
      readonly prompt?: Text
      readonly resultPath?: Text
      readonly errorMessage?: Text
      readonly model?: Text
      readonly durationMs?: number | null | undefined
      readonly finishReason?: Text
    }>()
    expectTypeOf<LoginLogInput>().toEqualTypeOf<{
      readonly userName?: Text
      readonly localIp?: Text
      readonly publicIp?: Text
      readonly deviceName?: Text
      readonly loginTime?: Text
    }>()
  })

  test("a field that does not exist does not compile", () => {
    // @ts-expect-error -- there is no field of this name
    logUse({ status: "success", username: "li" })
  })

  test("logUse and logLogin do not fail", () => {
    expectTypeOf(logUse({ status: "success" })).toEqualTypeOf<Effect.Effect<void, never, AuditLog>>()
    expectTypeOf(logLogin({})).toEqualTypeOf<Effect.Effect<void, never, AuditLog>>()
  })
})
