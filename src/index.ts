/**
 * The audit log that Effect programs can trust.
 *
 * @module effect-audit
 * @since 0.1.0
 */
import "./schema/Effect3.js"

/**
 * The verbs: record, flush, status, and audited regions of a program.
 *
 * @since 0.1.0
 */
export * as Audit from "./Audit.js"
export { logActivity, logLogin, logUse } from "./Audit.js"
export { openAuditLogger, type AuditLogger, type AuditLoggerOptions } from "./AuditLogger.js"
/**
 * Composes the audit log; its options.
 *
 * @since 0.1.0
 */
export * as AuditLayer from "./layers/AuditLayer.js"
/**
 * Kinds of events, and their fields.
 *
 * @since 0.1.0
 */
export * as AuditEvent from "./schema/AuditEvent.js"
export * from "./schema/Errors.js"
/**
 * Redactions and limits: which content of an event may reach the disk.
 *
 * @since 0.1.0
 */
export * as Redact from "./schema/Redact.js"
export { CurrentActor } from "./services/Actor.js"
export { Activity, type ActivityInput } from "./schema/Activity.js"
export { LoginLog, type LoginLogInput } from "./schema/LoginLog.js"
export { UseLog, type UseLogInput } from "./schema/UseLog.js"
export { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "./services/AuditLog.js"
export type { Balance, QueueStatus } from "./services/QueueFile.js"
export type { DeliveryFailure, DeliveryStatus } from "./services/Scheduler.js"
export { Uploader, type Rejection, type UploadBatch, type UploadResult } from "./services/Uploader.js"
export {
  Trail,
  type Condition,
  type EventOf,
  type Found,
  type FoundEvent,
  type Progress,
  type Query,
  type Scalar,
  type UnfitRow,
  type Whereabouts,
  type Where
} from "./services/Trail.js"
