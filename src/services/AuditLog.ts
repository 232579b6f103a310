/**
 * The audit log as a service. Programs use the verbs of `Audit`, `logUse` and `logLogin` instead.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect, Stream } from "effect"
import type { AppendError, FlushError, QueueAccessError } from "../schema/Errors.js"
import type { QueueStatus } from "./QueueFile.js"
import type { DeliveryStatus } from "./Scheduler.js"

/**
 * The proof that an event is on disk.
 *
 * @category models
 * @since 0.1.0
 */
export interface Receipt {
  /** a UUIDv7 (RFC 9562); `event_id` of the row */
  readonly eventId: string
  /** milliseconds since 1970 UTC; `event_time` of the row */
  readonly time: number
  /** the number of the line in the queue; never used again */
  readonly sequence: number
}

/**
 * The options of one `Audit.record`.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordOptions {
  /** a UUID; a new one by default. Repeat an event under its old id: it is stored once. */
  readonly eventId?: string | undefined
}

/**
 * The state of the audit log: its books, and how delivery is going.
 *
 * @category models
 * @since 0.1.0
 */
export interface AuditStatus extends QueueStatus, DeliveryStatus {}

/**
 * The service behind the verbs.
 *
 * @category services
 * @since 0.1.0
 */
export class AuditLog extends Context.Tag("effect-audit/AuditLog")<
  AuditLog,
  {
    /** Appends an event, which is on disk when this returns. */
    readonly record: (
      kind: string,
      input: unknown,
      options?: RecordOptions
    ) => Effect.Effect<Receipt, AppendError>
    /** Like `record`, but a failure goes to `onAppendFailure`. */
    readonly log: (kind: string, input: unknown) => Effect.Effect<void>
    readonly flush: Effect.Effect<void, FlushError>
    readonly status: Effect.Effect<AuditStatus, QueueAccessError>
    readonly changes: Stream.Stream<AuditStatus, QueueAccessError>
  }
>() {}
