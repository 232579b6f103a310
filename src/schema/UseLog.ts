/**
 * Uses of AI models: who used which, and how it ended.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import * as AuditEvent from "./AuditEvent.js"

/**
 * An event of kind `use_log`: somebody used an AI model.
 *
 * The defaults are those of the Python class that this package replaces. A missing, null or empty user or device
 * becomes `未知用户` or `未知设备`. A missing or null prompt becomes "". Everything else is stored unchanged.
 *
 * @category events
 * @since 0.1.0
 */
export class UseLog extends AuditEvent.Class<UseLog>()("use_log", {
  table: "nano_banana_user_use_log",
  fields: {
    userName: AuditEvent.nonEmptyText("未知用户"),
    deviceName: AuditEvent.nonEmptyText("未知设备"),
    prompt: AuditEvent.text(""),
    resultPath: AuditEvent.optional(Schema.String),
    /** how it ended, for example `success`; required */
    status: AuditEvent.requiredText("unknown"),
    errorMessage: AuditEvent.optional(Schema.String),
    model: AuditEvent.optional(Schema.String),
    /** how long it took, whole milliseconds */
    durationMs: AuditEvent.optional(Schema.Int),
    finishReason: AuditEvent.optional(Schema.String)
  },
  columns: {
    userName: { type: "VARCHAR(255) NOT NULL" },
    deviceName: { type: "VARCHAR(255) NOT NULL" },
    prompt: { type: "LONGTEXT NOT NULL" },
    resultPath: { type: "TEXT NULL" },
    status: { type: "VARCHAR(64) NOT NULL" },
    errorMessage: { type: "TEXT NULL" },
    model: { type: "VARCHAR(255) NULL" },
    durationMs: { type: "BIGINT NULL" },
    finishReason: { type: "VARCHAR(255) NULL" }
  },
  fromActor: { userName: (actor) => actor.userName, deviceName: (actor) => actor.deviceName },
  sensitive: ["prompt"],
  erasable: ["userName", "deviceName", "prompt", "resultPath", "errorMessage"]
}) {}

/**
 * The input of `logUse`. Only `status` is required.
 *
 * @category models
 * @since 0.1.0
 */
export type UseLogInput = AuditEvent.InputOf<typeof UseLog>
