/**
 * The verbs of the audit log.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Context as Services, Effect, Exit, Predicate, Stream } from "effect"
import { dual } from "effect/Function"
import { Activity, type ActivityInput } from "./schema/Activity.js"
import * as AuditEvent from "./schema/AuditEvent.js"
import type { AppendError, FlushError, QueueAccessError } from "./schema/Errors.js"
import { LoginLog, type LoginLogInput } from "./schema/LoginLog.js"
import { UseLog, type UseLogInput } from "./schema/UseLog.js"
import { CurrentActor } from "./services/Actor.js"
import { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "./services/AuditLog.js"

/** `Effect.flatMap(AuditLog, use)`. Hot path: one step instead of three (bench/README.md#steps-of-an-append). */
const withLog = <A, E>(use: (log: AuditLog["Type"]) => Effect.Effect<A, E>): Effect.Effect<A, E, AuditLog> =>
  Effect.withFiberRuntime((fiber) =>
    use(Services.unsafeGet(fiber.currentContext as Services.Context<AuditLog>, AuditLog))
  )

/**
 * Records an event, which is on disk, fsynced, when it returns the receipt. If the layer does not carry the kind, then
 * the program does not compile.
 *
 * Fails with `InvalidEvent`, `QueueWriteError`, `QueueFull` or `QueueClosed`. Each has the event's id and outcome:
 * `record(event, { eventId })` repeats the event without doubling it.
 *
 * @category verbs
 * @since 0.1.0
 */
export const record = <K extends string>(
  event: AuditEvent.Instance<K>,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.Kind<K>> =>
  withLog((log) => log.record(AuditEvent.kindOf(event), event, options))

/**
 * Records that somebody used an AI model, like {@link record}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recordUse = (
  input: UseLogInput,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog> => withLog((log) => log.record(UseLog.kind, input, options))

/**
 * Records that somebody logged in, like {@link record}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recordLogin = (
  input: LoginLogInput,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog> =>
  withLog((log) => log.record(LoginLog.kind, input, options))

/**
 * Records that somebody did something, like {@link record}. The layer must carry the kind: `events: [Activity]`.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recordActivity = (
  input: ActivityInput,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.KindOf<typeof Activity>> =>
  withLog((log) => log.record(Activity.kind, input, options))

/**
 * Records an event of any kind that the layer carries; the event is on disk, fsynced, when this returns. It never
 * fails: a failure goes to the layer's `onAppendFailure`, which logs it by default.
 *
 * @example
 * import { Schema } from "effect"
 * import { Audit, AuditEvent } from "effect-audit"
 *
 * class Payment extends AuditEvent.Class<Payment>()("payment", {
 *   table: "payments",
 *   fields: { account: Schema.String, cents: Schema.Int }
 * }) {}
 *
 * const program = Audit.log(new Payment({ account: "0042", cents: 1999 }))
 *
 * @category verbs
 * @since 0.1.0
 */
export const log = <K extends string>(
  event: AuditEvent.Instance<K>
): Effect.Effect<void, never, AuditLog | AuditEvent.Kind<K>> =>
  withLog((log) => log.log(AuditEvent.kindOf(event), event))

/**
 * Records that somebody used an AI model; the event is on disk, fsynced, when this returns. It never fails: a failure
 * goes to the layer's `onAppendFailure`, which logs it by default.
 *
 * @category verbs
 * @since 0.1.0
 */
export const logUse = (input: UseLogInput): Effect.Effect<void, never, AuditLog> =>
  withLog((log) => log.log(UseLog.kind, input))

/**
 * Records that somebody logged in, like {@link logUse}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const logLogin = (input: LoginLogInput): Effect.Effect<void, never, AuditLog> =>
  withLog((log) => log.log(LoginLog.kind, input))

/**
 * Records that somebody did something, like {@link logUse}. The layer must carry the kind: `events: [Activity]`.
 *
 * @category verbs
 * @since 0.1.0
 */
export const logActivity = (
  input: ActivityInput
): Effect.Effect<void, never, AuditLog | AuditEvent.KindOf<typeof Activity>> =>
  withLog((log) => log.log(Activity.kind, input))

/**
 * Waits until all earlier events are in the database or dead letters. It tries at once, without waiting for the
 * backoff. If that attempt fails, then it fails with `FlushError`, and nothing is lost.
 *
 * @category verbs
 * @since 0.1.0
 */
export const flush: Effect.Effect<void, FlushError, AuditLog> = Effect.flatMap(AuditLog, (log) => log.flush)

/**
 * The state of the audit log: its books, and how delivery is going.
 *
 * @category verbs
 * @since 0.1.0
 */
export const status: Effect.Effect<AuditStatus, QueueAccessError, AuditLog> = Effect.flatMap(
  AuditLog,
  (log) => log.status
)

/**
 * The status now and after each change of the delivery's state.
 *
 * @category verbs
 * @since 0.1.0
 */
export const changes: Stream.Stream<AuditStatus, QueueAccessError, AuditLog> = Stream.unwrap(
  Effect.map(AuditLog, (log) => log.changes)
)

// ------------------------------------------------------------------------------------------------ regions

/**
 * Who is acting, from where, and in which request: see {@link withContext}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Context extends Omit<AuditEvent.Actor, "id" | "type" | "userName"> {
  readonly actor?:
    | {
        readonly id?: string | null | undefined
        readonly name?: string | null | undefined
        /** for example `user`, `service`, `system` */
        readonly type?: string | null | undefined
      }
    | null
    | undefined
}

/**
 * Sets who is acting, from where and in which request, for a region of a program. It fills the open fields of events,
 * by the `fromActor` of their kind; `Activity` uses all of it.
 *
 * The event's own value comes first, then the inner region, then the outer one, then the field's default. An actor is
 * one whole: the id of an outer actor is never joined to the name of an inner one. Fibers that are forked in the region
 * inherit it, also daemons.
 *
 * @example
 * import { Audit, logActivity } from "effect-audit"
 *
 * const program = logActivity({ action: "role.change", targetId: "8", outcome: "success" }).pipe(
 *   Audit.withContext({ actor: { id: "7", name: "li", type: "user" }, requestId: "4f1c", ip: "10.0.0.5" })
 * )
 *
 * @category regions
 * @since 0.1.0
 */
export const withContext: {
  (context: Context): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, context: Context): Effect.Effect<A, E, R>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, context: Context): Effect.Effect<A, E, R> =>
  Effect.flatMap(CurrentActor, (outer) => {
    const { actor, ...given } = context
    const { id, name, type } = actor ?? {}
    const isNamed = [id, name, type].some(Predicate.isNotNullable)
    const inner = Object.entries(given).filter(([, value]) => Predicate.isNotNullable(value))
    return Effect.provideService(self, CurrentActor, {
      ...outer,
      ...(isNamed ? { id, type, userName: name } : {}),
      ...Object.fromEntries(inner)
    })
  })
)

/**
 * Sets who is acting, for a region of a program: the short form of {@link withContext}. For `UseLog` and `LoginLog` it
 * fills the fields `userName` and `deviceName`.
 *
 * @example
 * import { Effect } from "effect"
 * import { Audit, logUse } from "effect-audit"
 *
 * const program = logUse({ prompt: "a red fox", status: "success" }).pipe(
 *   Audit.withActor({ userName: "li", deviceName: "studio-3" })
 * )
 *
 * @category regions
 * @since 0.1.0
 */
export const withActor: {
  (actor: AuditEvent.Actor): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, actor: AuditEvent.Actor): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    { id, type, userName, ...context }: AuditEvent.Actor
  ): Effect.Effect<A, E, R> => withContext(self, { ...context, actor: { id, name: userName, type } })
)

/**
 * The input of {@link audited}: the fields of `UseLogInput` that it cannot know. Each is a value, or a function of the
 * effect's success. If the effect does not succeed, or the function throws, then the field is left out.
 *
 * @category models
 * @since 0.1.0
 */
export type Audited<A> = {
  readonly [F in keyof Omit<UseLogInput, "status" | "errorMessage" | "durationMs">]:
    UseLogInput[F] | ((success: A) => UseLogInput[F])
}

/**
 * Runs the effect and records it as `use_log`, however it ends. The event gets the duration, the `status` of
 * {@link statusOf} and, after a failure or a defect, the `errorMessage`.
 *
 * The effect's result does not change. If the event cannot be recorded, then it goes to `onAppendFailure`. Recording is
 * not interrupted, even if the effect is.
 *
 * Set the actor around it: `effect.pipe(Audit.audited({ prompt }), Audit.withActor(actor))`.
 *
 * @example
 * import { Effect } from "effect"
 * import { Audit } from "effect-audit"
 *
 * declare const generateImage: (prompt: string) => Effect.Effect<{ readonly path: string }, Error>
 *
 * const program = (prompt: string) =>
 *   generateImage(prompt).pipe(
 *     Audit.audited({ prompt, model: "gemini-2.5-flash-image", resultPath: (image) => image.path })
 *   )
 *
 * @category regions
 * @since 0.1.0
 */
export const audited: {
  <A>(fields: Audited<A>): <E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | AuditLog>
  <A, E, R>(self: Effect.Effect<A, E, R>, fields: Audited<A>): Effect.Effect<A, E, R | AuditLog>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, fields: Audited<A>): Effect.Effect<A, E, R | AuditLog> =>
  onEnd(self, UseLog.kind, (exit, durationMs) => {
    const given = Object.entries(fields).map(([name, field]) => [
      name,
      typeof field === "function" ? valueOf(field as (success: A) => unknown, exit) : field
    ])
    return {
      ...(Object.fromEntries(given) as Partial<UseLogInput>),
      status: statusOf(exit),
      errorMessage: Exit.match(exit, { onSuccess: () => null, onFailure: errorMessageOf }),
      durationMs
    }
  })
)

/**
 * Like {@link audited}, for any kind of event. The function makes the input from the effect's exit and duration, in
 * whole milliseconds. If the function throws, then the event is an `InvalidEvent`.
 *
 * @example
 * import { Effect, Schema } from "effect"
 * import { Audit, AuditEvent } from "effect-audit"
 *
 * class Payment extends AuditEvent.Class<Payment>()("payment", {
 *   table: "payments",
 *   fields: { account: Schema.String, cents: Schema.Int, outcome: Schema.String }
 * }) {}
 *
 * declare const charge: (account: string, cents: number) => Effect.Effect<string, Error>
 *
 * const program = (account: string, cents: number) =>
 *   charge(account, cents).pipe(
 *     Audit.auditedAs(Payment, (exit) => ({ account, cents, outcome: Audit.statusOf(exit) }))
 *   )
 *
 * @category regions
 * @since 0.1.0
 */
export const auditedAs: {
  <C extends AuditEvent.Any, A, E>(
    event: C,
    input: (exit: Exit.Exit<A, E>, durationMs: number) => AuditEvent.InputOf<C>
  ): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | AuditLog | AuditEvent.KindOf<C>>
  <A, E, R, C extends AuditEvent.Any>(
    self: Effect.Effect<A, E, R>,
    event: C,
    input: (exit: Exit.Exit<A, E>, durationMs: number) => AuditEvent.InputOf<C>
  ): Effect.Effect<A, E, R | AuditLog | AuditEvent.KindOf<C>>
} = dual(
  3,
  <A, E, R, C extends AuditEvent.Any>(
    self: Effect.Effect<A, E, R>,
    event: C,
    input: (exit: Exit.Exit<A, E>, durationMs: number) => AuditEvent.InputOf<C>
  ): Effect.Effect<A, E, R | AuditLog | AuditEvent.KindOf<C>> => onEnd(self, event.kind, input)
)

/**
 * How an effect ended.
 *
 * - `success`
 * - `failure`: with a typed error
 * - `defect`: it died of something unexpected
 * - `interrupted`: only by an interruption
 *
 * @category regions
 * @since 0.1.0
 */
export const statusOf = (
  exit: Exit.Exit<unknown, unknown>
): "success" | "failure" | "defect" | "interrupted" => {
  if (Exit.isSuccess(exit)) return "success"
  if (Cause.isFailure(exit.cause)) return "failure"
  return Cause.isDie(exit.cause) ? "defect" : "interrupted"
}

/**
 * How an effect ended, for the `outcome` of `Activity`: everything except a success is a `failure`.
 *
 * @category regions
 * @since 0.1.0
 */
export const outcomeOf = (exit: Exit.Exit<unknown, unknown>): "success" | "failure" =>
  Exit.isSuccess(exit) ? "success" : "failure"

/** The messages of the errors, or, if one is empty, its name; null if there was only an interruption. */
const errorMessageOf = (cause: Cause.Cause<unknown>): string | null => {
  const messages = [...Cause.failures(cause), ...Cause.defects(cause)].map((error) =>
    error instanceof Error
      ? error.message || error.name
      : Cause.pretty(Cause.fail(error)).replace(/^Error: /, "")
  )
  return messages.length === 0 ? null : messages.join("; ")
}

const valueOf = <A>(field: (success: A) => unknown, exit: Exit.Exit<A, unknown>): unknown => {
  try {
    return Exit.isSuccess(exit) ? field(exit.value) : undefined
  } catch {
    return undefined
  }
}

const onEnd = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  kind: string,
  input: (exit: Exit.Exit<A, E>, durationMs: number) => unknown
): Effect.Effect<A, E, R | AuditLog> =>
  Effect.flatMap(Clock.currentTimeNanos, (start) =>
    Effect.onExit(self, (exit) =>
      Effect.gen(function* () {
        const log = yield* AuditLog
        const durationMs = Math.round(Number((yield* Clock.currentTimeNanos) - start) / 1e6)
        const made = yield* Effect.either(Effect.try(() => input(exit, durationMs)))
        yield* log.log(kind, made._tag === "Right" ? made.right : undefined)
      })
    )
  )
