/** The types: what must compile, and what must not. */
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
import { Audit, AuditEvent, AuditLayer, LoginLog, logLogin, logUse, Redact, UseLog } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: {
    account: Schema.String,
    cents: Schema.Int,
    currency: Schema.Literal("EUR", "USD"),
    note: AuditEvent.optional(Schema.String)
  },
  columns: { account: "account_no", cents: { type: "INT UNSIGNED NOT NULL" } }
}) {}

class Refund extends AuditEvent.Class<Refund>()("refund", {
  table: "refunds",
  fields: { cents: Schema.Int }
}) {}

const directory = "./audit"
const payment = { account: "0042", cents: 1999, currency: "EUR" } as const
const UploaderLive = MysqlUploader.layer({ url: Redacted.make("mysql://app@db/app") })
/** Compiles only if the program needs nothing more. */
const complete = <A, E>(program: Effect.Effect<A, E>) => program
/** Checks the types, and runs nothing. */
const construct = (_: () => AuditEvent.Instance) => undefined

describe("a program", () => {
  const AuditLive = AuditLayer.layer({ directory })

  test("compiles with an uploader", () => {
    const WithUploader = Layer.provide(AuditLive, UploaderLive)
    complete(logLogin({ userName: "li" }).pipe(Effect.provide(WithUploader)))
    complete(Audit.record(new UseLog({ status: "success" })).pipe(Effect.provide(WithUploader)))
    complete(Audit.record(new LoginLog({})).pipe(Effect.provide(WithUploader)))
  })

  test("does not compile without an uploader", () => {
    expectTypeOf(AuditLive).toExtend<Layer.Layer<AuditLog, QueueOpenError | QueueLocked, Uploader>>()
    const program = logLogin({ userName: "li" }).pipe(Effect.provide(AuditLive))
    expectTypeOf(program).toEqualTypeOf<Effect.Effect<void, QueueOpenError | QueueLocked, Uploader>>()
    // @ts-expect-error -- the uploader is missing
    complete(program)
  })

  test("does not compile without the audit log", () => {
    // @ts-expect-error -- the audit log is missing
    complete(logUse({ status: "success" }))
  })
})

describe("an own kind of event", () => {
  const pay = Audit.record(new Payment(payment))

  test("requires in R a layer that carries it", () => {
    expectTypeOf(pay).toEqualTypeOf<
      Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.Kind<"payment">>
    >()
  })

  test("compiles with a layer that carries it beside the built-in kinds", () => {
    const AuditLive = AuditLayer.layer({ directory, events: [Payment, Refund] })
    expectTypeOf<Layer.Layer.Success<typeof AuditLive>>().toEqualTypeOf<
      | AuditLog
      | AuditEvent.Kind<"payment">
      | AuditEvent.Kind<"refund">
      | AuditEvent.Kind<"use_log">
      | AuditEvent.Kind<"login_log">
    >()
    complete(pay.pipe(Effect.provide(AuditLive), Effect.provide(UploaderLive)))
    complete(
      Audit.record(new Refund({ cents: 1 })).pipe(Effect.provide(AuditLive), Effect.provide(UploaderLive))
    )
  })

  test("does not compile with a layer that lacks it", () => {
    const program = pay.pipe(Effect.provide(AuditLayer.layer({ directory, events: [Refund] })))
    expectTypeOf<Effect.Effect.Context<typeof program>>().toEqualTypeOf<
      Uploader | AuditEvent.Kind<"payment">
    >()
    // @ts-expect-error -- no layer carries payments
    complete(program.pipe(Effect.provide(UploaderLive)))
  })

  test("has the input of its fields", () => {
    expectTypeOf<AuditEvent.InputOf<typeof Payment>>().toEqualTypeOf<{
      readonly account: string
      readonly cents: number
      readonly currency: "EUR" | "USD"
      readonly note?: string | null | undefined
    }>()
    // @ts-expect-error -- the account is required
    construct(() => new Payment({ cents: 1, currency: "EUR" }))
    // @ts-expect-error -- cents is a number
    construct(() => new Payment({ ...payment, cents: "1999" }))
    // @ts-expect-error -- the currency does not exist
    construct(() => new Payment({ ...payment, currency: "GBP" }))
    // @ts-expect-error -- there is no field of this name
    construct(() => new Payment({ ...payment, colour: "red" }))
    // @ts-expect-error -- the fields alone are not an event
    Audit.record(payment)
  })

  test("accepts the names of its own fields only", () => {
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
    AuditEvent.Class()("typo", {
      table: "payments",
      fields: { cents: Schema.Int },
      // @ts-expect-error -- a text is not a number
      fromActor: { cents: (actor) => actor.userName }
    })
  })
})

describe("the reference's events", () => {
  test("require the status", () => {
    logUse({ status: "success" })
    // @ts-expect-error -- status is missing
    logUse({ userName: "li" })
    // @ts-expect-error -- status must be a text
    logUse({ status: null })
    // @ts-expect-error -- status is missing
    construct(() => new UseLog({ userName: "li" }))
  })

  test("accept every other field as absent, null or undefined", () => {
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

  test("accept no unknown field", () => {
    // @ts-expect-error -- there is no field of this name
    logUse({ status: "success", username: "li" })
  })

  test("never fail through logUse and logLogin", () => {
    expectTypeOf(logUse({ status: "success" })).toEqualTypeOf<Effect.Effect<void, never, AuditLog>>()
    expectTypeOf(logLogin({})).toEqualTypeOf<Effect.Effect<void, never, AuditLog>>()
  })

  test("have Schemas as classes", () => {
    expectTypeOf(Schema.decodeUnknownSync(UseLog)({})).toEqualTypeOf<UseLog>()
  })
})

describe("audited", () => {
  class Blocked extends Schema.TaggedError<Blocked>()("Blocked", {}) {}
  interface Image {
    readonly path: string
  }
  const image = Effect.succeed({ path: "a.png" }) as Effect.Effect<Image, Blocked, LoginLog>

  test("keeps the result, the error and the requirements", () => {
    type Result = Effect.Effect<Image, Blocked, LoginLog | AuditLog>
    expectTypeOf(
      image.pipe(Audit.audited({ prompt: "p", resultPath: (image) => image.path }))
    ).toEqualTypeOf<Result>()
    expectTypeOf(image.pipe(Audit.audited({ prompt: "p" }))).toEqualTypeOf<Result>()
    expectTypeOf(Audit.audited(image, { resultPath: (image) => image.path })).toEqualTypeOf<Result>()
    // @ts-expect-error -- audited sets the status
    image.pipe(Audit.audited({ status: "success" }))
  })

  test("knows the exit and the kind of an own event", () => {
    expectTypeOf(
      image.pipe(Audit.auditedAs(Payment, (exit) => ({ ...payment, note: Audit.statusOf(exit) })))
    ).toEqualTypeOf<Effect.Effect<Image, Blocked, LoginLog | AuditLog | AuditEvent.Kind<"payment">>>()
    // @ts-expect-error -- fields are missing
    image.pipe(Audit.auditedAs(Payment, () => ({ account: "0042" })))
  })
})

describe("redaction and limits", () => {
  const key = Redacted.make("key")

  test("are typed by kind and field, for own kinds and built-in ones", () => {
    AuditLayer.layer({
      directory,
      events: [Payment],
      redact: {
        payment: {
          note: Redact.omit,
          account: (account) => {
            expectTypeOf(account).toEqualTypeOf<string>()
            return account.slice(-4)
          },
          cents: (cents) => {
            expectTypeOf(cents).toEqualTypeOf<number>()
            return 0
          }
        },
        use_log: { prompt: Redact.omit, userName: Redact.hash(key), model: (model) => model.toUpperCase() },
        login_log: { publicIp: Redact.mask }
      },
      limits: { use_log: { prompt: 4096 }, payment: { note: 100 } }
    })
  })

  test("do not compile if they do not fit the field", () => {
    // @ts-expect-error -- the field must be given
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { account: Redact.omit } } })
    // @ts-expect-error -- a number cannot be masked
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { cents: Redact.mask } } })
    // @ts-expect-error -- only two texts are allowed
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { currency: Redact.mask } } })
    // @ts-expect-error -- there is no field of this name
    AuditLayer.layer({ directory, redact: { use_log: { prmopt: Redact.omit } } })
    // @ts-expect-error -- the layer does not carry the kind
    AuditLayer.layer({ directory, redact: { payment: { note: Redact.omit } } })
    // @ts-expect-error -- a number has no length
    AuditLayer.layer({ directory, limits: { use_log: { durationMs: 100 } } })
    // @ts-expect-error -- a cut value would not be one of the two texts
    AuditLayer.layer({ directory, events: [Payment], limits: { payment: { currency: 100 } } })
  })
})
