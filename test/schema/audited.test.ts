/** Audited effects: each records its outcome. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Deferred, Effect, Exit, Fiber, Schema, TestClock } from "effect"
import { Audit, AuditEvent, UseLog } from "effect-audit"
import { AuditTest } from "effect-audit/testing"

class Blocked extends Data.TaggedError("Blocked")<{ readonly reason: string }> {
  override get message() {
    return `blocked: ${this.reason}`
  }
}

class Payment extends AuditEvent.Class<Payment>()("payment", {
  table: "payments",
  fields: { cents: Schema.Int, outcome: Schema.String, receipt: AuditEvent.optional(Schema.String) }
}) {}

const delivered = <A>(event: AuditTest.EventClass<A>) =>
  Effect.zipRight(Audit.flush, AuditTest.delivered(event))

const image = Effect.as(Effect.sleep("1840 millis"), { path: "out/1.png" })

const audit = Audit.audited<{ readonly path: string }>({
  prompt: "a red fox",
  model: "gemini",
  resultPath: (image) => image.path
})

describe("audited", () => {
  it.effect("records a success with the result, the duration, and fields known afterwards", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(
        image.pipe(
          Audit.audited({ prompt: "a red fox", model: "gemini", resultPath: (image) => image.path }),
          Audit.withActor({ userName: "li" })
        )
      )
      yield* TestClock.adjust("1840 millis")
      assert.deepStrictEqual(yield* Fiber.join(fiber), { path: "out/1.png" })
      assert.deepStrictEqual(yield* delivered(UseLog), [
        new UseLog({
          userName: "li",
          prompt: "a red fox",
          resultPath: "out/1.png",
          status: "success",
          model: "gemini",
          durationMs: 1840
        })
      ])
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("records a failure, a defect, and both at once, and leaves the cause as it is", () =>
    Effect.gen(function* () {
      const failure = Cause.fail(new Blocked({ reason: "SAFETY" }))
      const defect = Cause.die(new TypeError("x is undefined"))
      for (const cause of [failure, defect, Cause.parallel(defect, failure)]) {
        const exit = yield* Effect.exit(Effect.failCause(cause).pipe(audit))
        assert.deepStrictEqual(exit, Exit.failCause(cause))
      }
      yield* Effect.exit(Effect.fail("just a text").pipe(audit))
      yield* Effect.exit(Effect.die({ code: 7 }).pipe(audit))
      const uses = yield* delivered(UseLog)
      assert.deepStrictEqual(
        uses.map(({ errorMessage, resultPath, status }) => [status, errorMessage, resultPath]),
        [
          ["failure", "blocked: SAFETY", null],
          ["defect", "x is undefined", null],
          ["failure", "blocked: SAFETY; x is undefined", null],
          ["failure", "just a text", null],
          ["defect", '{"code":7}', null]
        ]
      )
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("records an interruption before the fiber ends", () =>
    Effect.gen(function* () {
      const started = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(
        Effect.zipRight(Deferred.succeed(started, undefined), Effect.never).pipe(audit)
      )
      yield* Deferred.await(started)
      yield* TestClock.adjust("250 millis")
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isInterrupted(exit))
      assert.strictEqual((yield* Audit.status).accepted, 1)
      const [use] = yield* delivered(UseLog)
      assert.deepInclude(use!, { status: "interrupted", errorMessage: null, durationMs: 250 })
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("omits the field whose function throws, and keeps the event and the result", () =>
    Effect.gen(function* () {
      const result = yield* Effect.succeed(1).pipe(
        Audit.audited({
          prompt: "p",
          resultPath: () => {
            throw new Error("no path")
          }
        })
      )
      assert.strictEqual(result, 1)
      const [use] = yield* delivered(UseLog)
      assert.deepInclude(use!, { status: "success", prompt: "p", resultPath: null })
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("does not change the result if the log cannot be written", () =>
    Effect.gen(function* () {
      yield* AuditTest.diskFull
      assert.deepStrictEqual(yield* Effect.succeed({ path: "p" }).pipe(audit), { path: "p" })
      const exit = yield* Effect.exit(Effect.fail("e").pipe(audit))
      assert.deepStrictEqual(exit, Exit.fail("e"))
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("with onAppendFailure: die ends the program if the log cannot be written", () =>
    Effect.gen(function* () {
      yield* AuditTest.diskFull
      const exit = yield* Effect.exit(Effect.succeed({ path: "p" }).pipe(audit))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
    }).pipe(Effect.provide(AuditTest.layerWith({ onAppendFailure: "die" })))
  )
})

describe("auditedAs", () => {
  it.effect("records any kind, made from the exit and the duration", () =>
    Effect.gen(function* () {
      const audited = Audit.auditedAs(Payment, (exit: Exit.Exit<string, string>, durationMs) => ({
        cents: durationMs,
        outcome: Audit.statusOf(exit),
        receipt: Exit.isSuccess(exit) ? exit.value : exit.cause.toString()
      }))
      yield* audited(Effect.succeed("r1"))
      yield* Effect.exit(audited(Effect.fail("declined")))
      yield* Effect.succeed("r2").pipe(
        Audit.auditedAs(Payment, (exit) => ({ cents: 1, outcome: Exit.getOrElse(exit, () => "none") }))
      )
      assert.deepStrictEqual(
        (yield* delivered(Payment)).map(({ outcome, receipt }) => [outcome, receipt]),
        [
          ["success", "r1"],
          ["failure", "Error: declined"],
          ["r2", null]
        ]
      )
    }).pipe(Effect.provide(AuditTest.layerWith({ events: [Payment] })))
  )

  it.effect("treats a function that throws as an invalid event", () => {
    const failures: Array<string> = []
    return Effect.gen(function* () {
      const result = yield* Effect.succeed("r1").pipe(
        Audit.auditedAs(Payment, () => {
          throw new Error("secret")
        })
      )
      assert.strictEqual(result, "r1")
      assert.lengthOf(failures, 1)
      assert.include(failures[0], "event: expected an object of kind payment")
    }).pipe(
      Effect.provide(
        AuditTest.layerWith({
          events: [Payment],
          onAppendFailure: ({ error }) => Effect.sync(() => void failures.push(error.message))
        })
      )
    )
  })
})
