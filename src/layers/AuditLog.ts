/**
 * Gives an event its id and time, checks it, and appends it; decides what happens when that fails.
 *
 * @since 0.1.0
 */
import { Clock, Effect, Either, Layer, Stream } from "effect"
import { validate as isUuid } from "uuid"
import { makeGenerator } from "../internal/eventId.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { type AppendError, InvalidEvent } from "../schema/Errors.js"
import { compile, type Issue } from "../schema/Line.js"
import { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "../services/AuditLog.js"
import { QueueFile } from "../services/QueueFile.js"
import { Scheduler } from "../services/Scheduler.js"

/**
 * What `logUse` and `logLogin` do when an event cannot be recorded: `log` an error that names its id and the cause
 * and go on; `die`, for a program that must not go on unaudited; or a function of the failure.
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
  /** the event as the program gave it: personal data */
  readonly input: unknown
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** the kinds of events that are carried */
  readonly events: ReadonlyArray<AuditEvent.Any>
  /** `log` by default */
  readonly onAppendFailure?: OnAppendFailure | undefined
  /** a longer event is refused, in bytes of its line; 8 MiB by default */
  readonly maxLineBytes?: number | undefined
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<AuditLog["Type"], never, QueueFile | Scheduler> =>
  Effect.gen(function* () {
    const queue = yield* QueueFile
    const scheduler = yield* Scheduler
    const codecs = new Map(options.events.map((event) => [event.kind, compile(event)]))
    const maxLineBytes = options.maxLineBytes ?? 8 * 1024 * 1024
    const newId = makeGenerator()

    const append = (
      kind: string,
      input: unknown,
      recordOptions: RecordOptions | undefined,
      now: number
    ): Effect.Effect<Receipt, AppendError> => {
      const eventId = recordOptions?.eventId ?? newId(now)
      const invalid = (issues: ReadonlyArray<Issue>) =>
        new InvalidEvent({ eventId, outcome: "absent", kind, issues })
      const codec = codecs.get(kind)
      if (codec === undefined) {
        return invalid([
          { field: "kind", expected: `one of ${[...codecs.keys()].join(", ")}; add it to \`events\`` }
        ])
      }
      if (recordOptions?.eventId !== undefined && !isUuid(eventId)) {
        return invalid([{ field: "eventId", expected: "a UUID" }])
      }
      const line = codec.encode(input, eventId, now)
      if (Either.isLeft(line)) return invalid(line.left)
      // a UTF-16 unit takes three bytes at most: most lines need no second look
      if (line.right.length * 3 > maxLineBytes && Buffer.byteLength(line.right) - 1 > maxLineBytes) {
        return invalid([
          { field: "event", expected: `at most ${maxLineBytes} bytes as a line (maxLineBytes)` }
        ])
      }
      return Effect.map(queue.append(line.right, eventId), (sequence) => ({ eventId, time: now, sequence }))
    }

    const record: AuditLog["Type"]["record"] = (kind, input, recordOptions) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => append(kind, input, recordOptions, now))

    const onFailure = failureHandler(options.onAppendFailure ?? "log")

    const status: AuditLog["Type"]["status"] = Effect.zipWith(
      queue.status,
      scheduler.status,
      (books, delivery): AuditStatus => ({ ...books, ...delivery })
    )

    return {
      record,
      log: (kind, input) =>
        Effect.matchEffect(record(kind, input), {
          onFailure: (error) => onFailure({ error, kind, input }),
          onSuccess: () => Effect.void
        }),
      flush: scheduler.flush,
      status,
      changes: Stream.mapEffect(scheduler.changes, () => status)
    }
  })

const failureHandler = (handler: OnAppendFailure): ((failure: AppendFailure) => Effect.Effect<void>) => {
  if (handler === "die") return ({ error }) => Effect.die(error)
  if (handler !== "log") return handler
  return ({ error, kind }) =>
    Effect.logError(`audit: ${error.message}`).pipe(
      Effect.annotateLogs({ eventId: error.eventId, kind, outcome: error.outcome })
    )
}

/**
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<AuditLog, never, QueueFile | Scheduler> =>
  Layer.effect(AuditLog, make(options))
