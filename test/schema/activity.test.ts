/** Activity: its own fields, and those from the region and the span. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, Fiber } from "effect"
import * as fc from "fast-check"
import { Activity, Audit, AuditLog, CurrentActor, logActivity, logUse, UseLog } from "effect-audit"
import { AuditTest } from "effect-audit/testing"
import { compile, makeDecoder } from "../../src/schema/Line.js"
import { restoringField } from "../../src/schema/Row.js"

const ID = "01890a5d-ac96-774b-bcce-b302099a8057"
const decode = (line: string) => makeDecoder(new Map([[Activity.kind, compile(Activity)]]))(line, () => ID)

const layer = AuditTest.layerWith({ events: [Activity] })

const delivered = Effect.zipRight(Audit.flush, AuditTest.delivered(Activity))

const CONTEXT: Audit.Context = {
  actor: { id: "7", name: "li", type: "user" },
  ip: "10.0.0.5",
  userAgent: "curl/8",
  requestId: "4f1c"
}

describe("Activity", () => {
  it.effect("takes actor, origin and request from the region, and the rest from the event", () =>
    Effect.gen(function* () {
      yield* logActivity({
        action: "document.delete",
        targetType: "document",
        targetId: "0042",
        outcome: "denied",
        reason: "not the owner",
        metadata: { bytes: 12, tags: ["a", "b"], nested: { ok: true, none: null } }
      }).pipe(Audit.withContext(CONTEXT))
      const [activity] = yield* delivered
      assert.deepInclude(activity, {
        actorId: "7",
        actorName: "li",
        actorType: "user",
        action: "document.delete",
        targetType: "document",
        targetId: "0042",
        targetName: null,
        outcome: "denied",
        reason: "not the owner",
        ip: "10.0.0.5",
        userAgent: "curl/8",
        requestId: "4f1c",
        traceId: null,
        spanId: null,
        metadata: { bytes: 12, tags: ["a", "b"], nested: { ok: true, none: null } }
      })
    }).pipe(Effect.provide(layer))
  )

  it("keeps every key of its metadata, __proto__ included, and restores it from a row", () => {
    for (const metadata of [
      '{"__proto__":1,"a":2}',
      '{"__proto__":{"isAdmin":true},"constructor":{"prototype":null}}',
      '{"a":{"__proto__":{"x":[1]}}}'
    ]) {
      const given = JSON.parse(metadata) as Record<string, unknown>
      const line = Either.getOrThrow(
        compile(Activity).encode({ action: "a", outcome: "success", metadata: given }, ID, 0)
      )
      assert.include(line, `"metadata":${metadata}`)
      const { row } = Either.getOrThrow(decode(line))
      assert.strictEqual(row.at(-1), metadata)
      const restored = restoringField(Activity.fields.metadata)(metadata)
      assert.strictEqual(JSON.stringify(restored), metadata)
    }
    assert.isUndefined(({} as Record<string, unknown>).isAdmin)
  })

  it.effect("takes the trace from the current span, unless the event or the region gives one", () =>
    Effect.gen(function* () {
      const act = logActivity({ action: "a", outcome: "success" })
      yield* act
      const span = yield* Effect.zipRight(act, Effect.currentSpan).pipe(Effect.withSpan("request"))
      yield* Audit.withContext(act, { traceId: "t-region" }).pipe(Effect.withSpan("request"))
      yield* logActivity({ action: "a", outcome: "success", traceId: "t-own", spanId: "s-own" }).pipe(
        Effect.withSpan("request")
      )
      const traces = (yield* delivered).map(({ spanId, traceId }) => [traceId, spanId])
      assert.deepStrictEqual(traces[0], [null, null])
      assert.deepStrictEqual(traces[1], [span.traceId, span.spanId])
      assert.strictEqual(traces[2]?.[0], "t-region")
      assert.deepStrictEqual(traces[3], ["t-own", "s-own"])
    }).pipe(Effect.provide(layer))
  )

  it.effect("records the outcome of an effect", () =>
    Effect.gen(function* () {
      const remove = (id: string): Effect.Effect<void, Error> =>
        id === "1" ? Effect.void : Effect.fail(new Error(`${id} is locked`))
      const audited = (id: string) =>
        remove(id).pipe(
          Audit.auditedAs(Activity, (exit) => ({
            action: "document.delete",
            targetId: id,
            outcome: Audit.outcomeOf(exit)
          })),
          Effect.ignore
        )
      yield* Effect.all([audited("1"), audited("2")])
      assert.deepStrictEqual(
        (yield* delivered).map(({ outcome, targetId }) => [targetId, outcome]),
        [
          ["1", "success"],
          ["2", "failure"]
        ]
      )
    }).pipe(Effect.provide(layer))
  )

  it.effect("refuses values that the table cannot hold, and names the field", () =>
    Effect.gen(function* () {
      for (const [field, input] of [
        ["action", { action: "", outcome: "success" }],
        ["outcome", { action: "a", outcome: "perhaps" }],
        ["targetId", { action: "a", outcome: "success", targetId: "x".repeat(256) }],
        ["ip", { action: "a", outcome: "success", ip: "x".repeat(65) }],
        ["metadata", { action: "a", outcome: "success", metadata: { big: 1n } }]
      ] as const) {
        const error = yield* Effect.flip(Effect.flatMap(AuditLog, (log) => log.record("activity", input)))
        assert.strictEqual(error._tag, "InvalidEvent", field)
        if (error._tag === "InvalidEvent")
          assert.deepStrictEqual(
            error.issues.map((issue) => issue.field),
            [field]
          )
      }
    }).pipe(Effect.provide(layer))
  )

  it.effect("is refused by a layer that does not carry it", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Effect.flatMap(AuditLog, (log) => log.record("activity", { action: "a", outcome: "success" }))
      )
      assert.include(error.message, "add it to `events`")
    }).pipe(Effect.provide(AuditTest.layer))
  )
})

describe("withContext", () => {
  const part = fc.option(fc.constantFrom("a", "b", "c"), { nil: undefined })
  const context = fc.record(
    {
      actor: fc.option(fc.record({ id: part, name: part, type: part }, { requiredKeys: [] }), { nil: null }),
      deviceName: part,
      ip: part,
      userAgent: part,
      requestId: part,
      traceId: part,
      spanId: part
    },
    { requiredKeys: [] }
  )

  it.effect("prefers the inner region to the outer one, and never mixes two actors", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(context, context, async (outer, inner) => {
          const seen = await Effect.runPromise(
            CurrentActor.pipe(Audit.withContext(inner), Audit.withContext(outer))
          )
          const names = ["deviceName", "ip", "userAgent", "requestId", "traceId", "spanId"] as const
          for (const name of names) assert.strictEqual(seen[name], inner[name] ?? outer[name], name)
          const isNamed = (actor: typeof inner.actor) =>
            Object.values(actor ?? {}).some((value) => value !== undefined)
          const actor = isNamed(inner.actor) ? inner.actor : isNamed(outer.actor) ? outer.actor : undefined
          assert.deepStrictEqual([seen.id, seen.userName, seen.type], [actor?.id, actor?.name, actor?.type])
        })
      )
    )
  )

  it.effect("applies to the other kinds too, and is inherited by fibers", () =>
    Effect.gen(function* () {
      yield* Effect.forkDaemon(logUse({ status: "s" })).pipe(
        Effect.flatMap(Fiber.join),
        Audit.withContext({ actor: { id: "7", name: "li" }, deviceName: "pc" })
      )
      yield* Audit.flush
      const [use] = yield* AuditTest.delivered(UseLog)
      assert.deepInclude(use, { userName: "li", deviceName: "pc" })
    }).pipe(Effect.provide(layer))
  )
})
