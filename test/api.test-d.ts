/** What the compiler accepts, and what it refuses: the guarantees that cost nothing at run time. */
import type { Layer } from "effect"
import { Effect, Redacted, Schema } from "effect"
import type { LoginLog } from "effect-audit"
import {
  Audit,
  AuditEvent,
  AuditLayer,
  type AppendError,
  type AuditLog,
  logUse,
  type Receipt,
  Redact,
  type Uploader,
  UseLog,
  type UseLogInput
} from "effect-audit"
import { describe, expectTypeOf, test } from "vitest"

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: {
    account: Schema.String,
    cents: Schema.Int,
    currency: Schema.Literal("EUR", "USD"),
    note: AuditEvent.optional(Schema.String)
  },
  columns: { account: "account_no" }
}) {}

const directory = "./audit"
const PaymentsLive = AuditLayer.layer({ directory, events: [Payment] })
const payment = { account: "0042", cents: 1999, currency: "EUR" } as const

describe("own kinds", () => {
  test("are known by their name in R, and carried by the layer that lists them", () => {
    const program = Audit.record(new Payment(payment))
    expectTypeOf(program).toEqualTypeOf<
      Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.Kind<"payment">>
    >()
    expectTypeOf(Effect.provide(program, PaymentsLive)).toExtend<Effect.Effect<Receipt, unknown, Uploader>>()

    const without = Effect.provide(program, AuditLayer.layer({ directory }))
    expectTypeOf(without).not.toExtend<Effect.Effect<Receipt, unknown, Uploader>>()
    expectTypeOf<Effect.Effect.Context<typeof without>>().toEqualTypeOf<
      Uploader | AuditEvent.Kind<"payment">
    >()
  })

  test("UseLog and LoginLog are always carried", () => {
    expectTypeOf<Layer.Layer.Success<typeof PaymentsLive>>().toEqualTypeOf<
      AuditLog | AuditEvent.Kind<"payment"> | AuditEvent.Kind<"use_log"> | AuditEvent.Kind<"login_log">
    >()
  })

  test("a wrong event is refused", () => {
    new Payment(payment)
    // @ts-expect-error a field is missing
    new Payment({ account: "0042", cents: 1999 })
    // @ts-expect-error no such field
    new Payment({ ...payment, colour: "red" })
    // @ts-expect-error no such value
    new Payment({ ...payment, currency: "GBP" })
    // @ts-expect-error not an event
    expectTypeOf(Audit.record).toBeCallableWith({ account: "0042" })
  })

  test("a column of a field that is not there is refused", () => {
    class Wrong extends AuditEvent.Class<Wrong>()("wrong", {
      table: "wrong",
      fields: { account: Schema.String },
      // @ts-expect-error no such field
      columns: { acount: "account_no" }
    }) {}
    class WrongActor extends AuditEvent.Class<WrongActor>()("wrong", {
      table: "wrong",
      fields: { cents: Schema.Int },
      // @ts-expect-error a text is no number
      fromActor: { cents: (actor) => actor.userName }
    }) {}
    expectTypeOf(new Wrong({ account: "" })).toExtend<AuditEvent.Instance<"wrong">>()
    expectTypeOf(new WrongActor({ cents: 1 })).toExtend<AuditEvent.Instance<"wrong">>()
  })

  test("every optional field may be left out, null or undefined", () => {
    expectTypeOf<UseLogInput["durationMs"]>().toEqualTypeOf<number | null | undefined>()
    expectTypeOf<UseLogInput["status"]>().toEqualTypeOf<string>()
    expectTypeOf<AuditEvent.InputOf<typeof Payment>["note"]>().toEqualTypeOf<string | null | undefined>()
    expectTypeOf(logUse({ status: "success" })).toEqualTypeOf<Effect.Effect<void, never, AuditLog>>()
  })
})

describe("audited", () => {
  class Blocked extends Schema.TaggedError<Blocked>()("Blocked", {}) {}
  const image = Effect.succeed({ path: "a.png" }) as Effect.Effect<
    { readonly path: string },
    Blocked,
    LoginLog
  >

  test("keeps the result, the error and the requirements", () => {
    expectTypeOf(image.pipe(Audit.audited({ prompt: "p", resultPath: (image) => image.path }))).toEqualTypeOf<
      Effect.Effect<{ readonly path: string }, Blocked, LoginLog | AuditLog>
    >()
    expectTypeOf(image.pipe(Audit.audited({ prompt: "p" }))).toEqualTypeOf<
      Effect.Effect<{ readonly path: string }, Blocked, LoginLog | AuditLog>
    >()
    expectTypeOf(Audit.audited(image, { resultPath: (image) => image.path })).toEqualTypeOf<
      Effect.Effect<{ readonly path: string }, Blocked, LoginLog | AuditLog>
    >()
    // @ts-expect-error what it measures is not given
    expectTypeOf(image.pipe(Audit.audited({ status: "success" }))).toBeObject()
  })

  test("of an own kind, knows the exit and the kind", () => {
    expectTypeOf(
      image.pipe(Audit.auditedAs(Payment, (exit) => ({ ...payment, note: Audit.statusOf(exit) })))
    ).toEqualTypeOf<
      Effect.Effect<{ readonly path: string }, Blocked, LoginLog | AuditLog | AuditEvent.Kind<"payment">>
    >()
    // @ts-expect-error a field is missing
    expectTypeOf(image.pipe(Audit.auditedAs(Payment, () => ({ account: "0042" })))).toBeObject()
  })
})

describe("redaction and limits", () => {
  const key = Redacted.make("key")

  test("are typed by kind and field, own kinds and built-in ones", () => {
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

  test("what does not fit the field is refused", () => {
    // @ts-expect-error the field must be given
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { account: Redact.omit } } })
    // @ts-expect-error a number cannot be masked
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { cents: Redact.mask } } })
    // @ts-expect-error only two texts are allowed
    AuditLayer.layer({ directory, events: [Payment], redact: { payment: { currency: Redact.mask } } })
    // @ts-expect-error no such field
    AuditLayer.layer({ directory, redact: { use_log: { prmopt: Redact.omit } } })
    // @ts-expect-error a kind that is not carried
    AuditLayer.layer({ directory, redact: { payment: { note: Redact.omit } } })
    // @ts-expect-error a number has no length
    AuditLayer.layer({ directory, limits: { use_log: { durationMs: 100 } } })
    // @ts-expect-error cut, it would no longer be one of the two texts
    AuditLayer.layer({ directory, events: [Payment], limits: { payment: { currency: 100 } } })
  })
})

test("a class of events is a Schema", () => {
  expectTypeOf(Schema.decodeUnknownSync(UseLog)({})).toEqualTypeOf<UseLog>()
})
