/**
 * The verbs of the audit log.
 *
 * @since 0.1.0
 */
import { Effect, Stream } from "effect"
import * as AuditEvent from "./schema/AuditEvent.js"
import type { AppendError, FlushError, QueueAccessError } from "./schema/Errors.js"
import { LoginLog, type LoginLogInput } from "./schema/LoginLog.js"
import { UseLog, type UseLogInput } from "./schema/UseLog.js"
import { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "./services/AuditLog.js"

/**
 * Records an event; it is on disk, fsynced, when the receipt is there. The layer must carry its kind: otherwise the
 * program does not compile.
 *
 * Fails with `InvalidEvent`, `QueueWriteError`, `QueueFull` or `QueueClosed`; each carries the event's id and what is
 * known of it, and `record(event, { eventId })` repeats it without doubling it.
 *
 * @category verbs
 * @since 0.1.0
 */
export const record = <K extends string>(
  event: AuditEvent.Instance<K>,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog | AuditEvent.Kind<K>> =>
  Effect.flatMap(AuditLog, (log) => log.record(event[AuditEvent.TypeId], event, options))

/**
 * Records that somebody used an AI model; like {@link record}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recordUse = (
  input: UseLogInput,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog> =>
  Effect.flatMap(AuditLog, (log) => log.record(UseLog.kind, input, options))

/**
 * Records that somebody logged in; like {@link record}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recordLogin = (
  input: LoginLogInput,
  options?: RecordOptions
): Effect.Effect<Receipt, AppendError, AuditLog> =>
  Effect.flatMap(AuditLog, (log) => log.record(LoginLog.kind, input, options))

/**
 * Records that somebody used an AI model; it is on disk, fsynced, when it returns. It does not fail: a failure goes to
 * `onAppendFailure` of the layer, which logs it by default.
 *
 * @category verbs
 * @since 0.1.0
 */
export const logUse = (input: UseLogInput): Effect.Effect<void, never, AuditLog> =>
  Effect.flatMap(AuditLog, (log) => log.log(UseLog.kind, input))

/**
 * Records that somebody logged in; like {@link logUse}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const logLogin = (input: LoginLogInput): Effect.Effect<void, never, AuditLog> =>
  Effect.flatMap(AuditLog, (log) => log.log(LoginLog.kind, input))

/**
 * Waits until everything that was recorded before is in the database or among the dead letters. Tries at once,
 * whatever the backoff says; fails with `FlushError` after one attempt, and nothing is lost.
 *
 * @category verbs
 * @since 0.1.0
 */
export const flush: Effect.Effect<void, FlushError, AuditLog> = Effect.flatMap(AuditLog, (log) => log.flush)

/**
 * How the audit log is: its books, what waits, and how delivery is going.
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
