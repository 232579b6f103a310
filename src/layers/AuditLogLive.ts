/**
 * The audit log: gives an event its id and time, checks it and appends it, and handles the failures.
 *
 * @since 0.1.0
 */
import { Clock, Context, Effect, Layer, Stream, Tracer } from "effect"
import type { Fiber } from "effect"
import { validate as isUuid } from "uuid"
import { makeGenerator } from "../schema/EventId.js"
import { MAX_LINE_BYTES } from "../internal/queue/lines.js"
import { contained, unsafeMillis } from "../internal/contained.js"
import { makeTally, type Tally } from "../internal/metrics.js"
import { makePrepare, ofKind, type Prepared, type Rules } from "../schema/Rules.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Either } from "../schema/Effect3.js"
import { type AppendError, InvalidEvent } from "../schema/Errors.js"
import { compile, type Issue } from "../schema/Line.js"
import { CurrentActor } from "../services/Actor.js"
import { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "../services/AuditLog.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler } from "../services/Scheduler.js"

/**
 * What `logUse` and `logLogin` do if an event cannot be recorded.
 *
 * - `log`: log an error with the event's id and the cause, and go on
 * - `die`: for a program that must not go on unaudited
 * - a function: call it with the failure
 *
 * @category models
 * @since 0.1.0
 */
export type OnAppendFailure = "log" | "die" | ((failure: AppendFailure) => Effect.Effect<void>)

/**
 * An event that was not recorded.
 *
 * @category models
 * @since 0.1.0
 */
export interface AppendFailure {
  readonly error: AppendError
  readonly kind: string
  /** the event after redaction, which may still hold personal data; undefined if nothing of it may be shown */
  readonly input: unknown
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** the kinds of events that the log carries */
  readonly events: ReadonlyArray<AuditEvent.Any>
  /** redactions, by kind */
  readonly redact?: Readonly<Record<string, Rules["redact"]>> | undefined
  /** limits of texts, by kind */
  readonly limits?: Readonly<Record<string, Rules["limits"]>> | undefined
  /** `log` by default */
  readonly onAppendFailure?: OnAppendFailure | undefined
  /** the longest line of an event, bytes; 8 MiB by default */
  readonly maxLineBytes?: number | undefined
  /** counts the events that were recorded, and that were not */
  readonly tally?: Tally | undefined
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<AuditLog["Type"], never, QueueFile | Scheduler> =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const scheduler = yield* Scheduler
    const kinds = new Map(
      options.events.map((event) => {
        const rules = {
          redact: ofKind(options.redact, event.kind),
          limits: ofKind(options.limits, event.kind)
        }
        return [event.kind, { ...compile(event), prepare: makePrepare(event, rules) }]
      })
    )
    const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES
    const newId = makeGenerator()
    const tally = options.tally ?? makeTally(options.events)

    const prepare = (kind: string, input: unknown, fiber: Fiber.RuntimeFiber<unknown, unknown>): Prepared => {
      const context = fiber.currentContext.unsafeMap
      const actor = context.get(CurrentActor.key) as CurrentActor["Type"] | undefined
      const span = context.get(Tracer.ParentSpan.key) as Tracer.AnySpan | undefined
      const known = kinds.get(kind)
      // the kind is unknown, so nobody knows which content must be hidden
      if (known === undefined) return { input: undefined, issues: NONE }
      try {
        return known.prepare(input, actor, span) ?? { input, issues: NONE }
      } catch {
        // a getter of the input, or `fromActor` or `fromSpan` of its kind, threw
        return { input: undefined, issues: UNREADABLE }
      }
    }

    /** Hot path: `onFailure` and `onSuccess` run in the step that counts, so that an event takes one step less. */
    const append = <A, E>(
      kind: string,
      { input, issues }: Prepared,
      recordOptions: RecordOptions | undefined,
      now: number,
      onFailure: (error: AppendError) => Effect.Effect<A, E>,
      onSuccess: (receipt: Receipt) => Effect.Effect<A, E>
    ): Effect.Effect<A, E> => {
      const eventId = recordOptions?.eventId ?? newId(now)
      const counts = tally.of(kind)
      const failed = (error: AppendError) => {
        tally.failed(kind, error._tag)
        return onFailure(error)
      }
      const invalid = (issues: ReadonlyArray<Issue>) =>
        failed(new InvalidEvent({ eventId, outcome: "absent", kind, issues }))
      const codec = kinds.get(kind)
      if (codec === undefined) {
        return invalid([
          kind === ""
            ? { field: "event", expected: "an event, made by its class" }
            : { field: "kind", expected: `one of ${[...kinds.keys()].join(", ")}; add it to \`events\`` }
        ])
      }
      if (issues.length > 0) return invalid(issues)
      if (recordOptions?.eventId !== undefined && !isUuid(eventId)) {
        return invalid([{ field: "eventId", expected: "a UUID" }])
      }
      const line = codec.encode(input, eventId, now)
      if (Either.isLeft(line)) return invalid(line.left)
      // a UTF-16 unit takes at most three bytes, so most lines need no exact length
      if (line.right.length * 3 > maxLineBytes && Buffer.byteLength(line.right) - 1 > maxLineBytes) {
        return invalid([
          { field: "event", expected: `at most ${maxLineBytes} bytes as a line (maxLineBytes)` }
        ])
      }
      return Effect.matchEffect(
        queue.append(line.right, eventId),
        new Continuation(failed, (sequence: number) => {
          counts.appended++
          return onSuccess({ eventId, time: now, sequence })
        })
      )
    }

    const record: AuditLog["Type"]["record"] = (kind, input, recordOptions) =>
      Effect.withFiberRuntime((fiber) =>
        append(
          kind,
          prepare(kind, input, fiber),
          recordOptions,
          currentTime(fiber),
          Effect.fail,
          Effect.succeed
        )
      )

    const failureOf = failureHandler(options.onAppendFailure ?? "log")

    const status: AuditLog["Type"]["status"] = Effect.zipWith(
      queue.status,
      scheduler.status,
      (books, delivery): AuditStatus => ({ ...books, ...delivery })
    )

    return {
      record,
      log: (kind, input) =>
        Effect.withFiberRuntime((fiber) => {
          const prepared = prepare(kind, input, fiber)
          const onFailure = failureOf(kind, prepared.input)
          return append(kind, prepared, undefined, currentTime(fiber), onFailure, nothing)
        }),
      flush: scheduler.flush,
      status,
      changes: Stream.mapEffect(scheduler.changes, () => status)
    }
  })

const NONE: ReadonlyArray<Issue> = []
const UNREADABLE: ReadonlyArray<Issue> = [{ field: "event", expected: "fields that can be read" }]

/** `Clock.currentTimeMillis`. Hot path: without its extra steps (bench/README.md#steps-of-an-append). */
const currentTime = (fiber: Fiber.RuntimeFiber<unknown, unknown>): number =>
  unsafeMillis(Context.get(fiber.currentDefaultServices, Clock.Clock))

const nothing = () => Effect.void

/** The continuation of an append. Hot path: a class, not a literal (bench/README.md#literals). */
class Continuation<A, B> {
  constructor(
    readonly onFailure: (error: AppendError) => A,
    readonly onSuccess: (sequence: number) => B
  ) {}
}

/**
 * Makes the handler of failed appends. Hot path: only a function of the program keeps the input
 * (bench/README.md#what-an-input-keeps).
 */
const failureHandler = (
  handler: OnAppendFailure
): ((kind: string, input: unknown) => (error: AppendError) => Effect.Effect<void>) => {
  if (typeof handler === "function") return (kind, input) => (error) => handler({ error, kind, input })
  if (handler === "die") return () => Effect.die
  return (kind) => (error) =>
    // contained, since the caller's loggers may throw
    Effect.logError(`audit: ${error.message}`).pipe(
      Effect.annotateLogs({ eventId: error.eventId, kind, outcome: error.outcome }),
      contained
    )
}

/**
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<AuditLog, never, QueueFile | Scheduler> =>
  Layer.effect(AuditLog, make(options))
