/**
 * Activities: who did what, from where, in which request, and how it ended.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import * as AuditEvent from "./AuditEvent.js"

/** A text that an index can hold: at most 255 characters, as in `VARCHAR(255)`. */
const Name = Schema.String.pipe(Schema.maxLength(255))
const Word = Schema.String.pipe(Schema.maxLength(64))

/**
 * An event of kind `activity`: somebody did something to something. Examples: a failed login, a denied read, a changed
 * role. The layer carries it on request: `AuditLayer.layer({ directory, events: [Activity] })`.
 *
 * If the event lacks the actor, address, user agent or request, then they come from `Audit.withContext`. `traceId` and
 * `spanId` come from the current span. Names and ids have at most 255 characters, and types 64. If one is longer, then
 * the event is an `InvalidEvent`: use `limits` to cut it.
 *
 * @example
 * import { Activity, Audit, AuditLayer, logActivity } from "effect-audit"
 *
 * const options: AuditLayer.Options<readonly [typeof Activity]> = { directory: "./audit", events: [Activity] }
 *
 * const program = logActivity({
 *   action: "document.delete",
 *   targetType: "document",
 *   targetId: "0042",
 *   outcome: "denied",
 *   reason: "not the owner"
 * }).pipe(Audit.withContext({ actor: { id: "7", name: "li", type: "user" }, requestId: "4f1c", ip: "10.0.0.5" }))
 *
 * @category events
 * @since 0.1.0
 */
export class Activity extends AuditEvent.Class<Activity>()("activity", {
  table: "audit_activity",
  fields: {
    actorId: AuditEvent.optional(Name),
    actorName: AuditEvent.optional(Name),
    /** for example `user`, `service`, `system` */
    actorType: AuditEvent.optional(Word),
    /** what was done, for example `document.delete`; required */
    action: Name.pipe(Schema.nonEmptyString()),
    /** what it was done to, for example `document` */
    targetType: AuditEvent.optional(Name),
    targetId: AuditEvent.optional(Name),
    targetName: AuditEvent.optional(Schema.String),
    /** how it ended; required */
    outcome: Schema.Literal("success", "failure", "denied"),
    /** why it ended like this, in words */
    reason: AuditEvent.optional(Schema.String),
    ip: AuditEvent.optional(Word),
    userAgent: AuditEvent.optional(Schema.String),
    requestId: AuditEvent.optional(Name),
    traceId: AuditEvent.optional(Word),
    spanId: AuditEvent.optional(Word),
    /** any other JSON; the table holds it as text */
    metadata: AuditEvent.optional(Schema.Record({ key: Schema.String, value: Schema.Unknown }))
  },
  columns: {
    actorId: { type: "VARCHAR(255) NULL" },
    actorName: { type: "VARCHAR(255) NULL" },
    actorType: { type: "VARCHAR(64) NULL" },
    action: { type: "VARCHAR(255) NOT NULL" },
    targetType: { type: "VARCHAR(255) NULL" },
    targetId: { type: "VARCHAR(255) NULL" },
    targetName: { type: "TEXT NULL" },
    reason: { type: "TEXT NULL" },
    ip: { type: "VARCHAR(64) NULL" },
    userAgent: { type: "TEXT NULL" },
    requestId: { type: "VARCHAR(255) NULL" },
    traceId: { type: "VARCHAR(64) NULL" },
    spanId: { type: "VARCHAR(64) NULL" }
  },
  fromActor: {
    actorId: (actor) => actor.id,
    actorName: (actor) => actor.userName,
    actorType: (actor) => actor.type,
    ip: (actor) => actor.ip,
    userAgent: (actor) => actor.userAgent,
    requestId: (actor) => actor.requestId,
    traceId: (actor) => actor.traceId,
    spanId: (actor) => actor.spanId
  },
  fromSpan: { traceId: (span) => span.traceId, spanId: (span) => span.spanId },
  indexes: [["actorId"], ["targetType", "targetId"]],
  sensitive: ["reason", "metadata"]
}) {}

/**
 * The input of `logActivity`. Only `action` and `outcome` are required.
 *
 * @category models
 * @since 0.1.0
 */
export type ActivityInput = AuditEvent.InputOf<typeof Activity>
