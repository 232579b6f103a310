/**
 * Logins: who logged in.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import * as AuditEvent from "./AuditEvent.js"

/**
 * An event of kind `login_log`: somebody logged in. By default `loginTime` is the wall clock of this machine,
 * `YYYY-MM-DD HH:MM:SS`.
 *
 * @category events
 * @since 0.1.0
 */
export class LoginLog extends AuditEvent.Class<LoginLog>()("login_log", {
  table: "nano_banana_user_log",
  fields: {
    userName: AuditEvent.optional(Schema.String),
    localIp: AuditEvent.optional(Schema.String),
    publicIp: AuditEvent.optional(Schema.String),
    deviceName: AuditEvent.optional(Schema.String),
    loginTime: AuditEvent.optional(Schema.String)
  },
  columns: {
    userName: { type: "VARCHAR(255) NULL" },
    localIp: { type: "VARCHAR(64) NULL" },
    publicIp: { type: "VARCHAR(64) NULL" },
    deviceName: { type: "VARCHAR(255) NULL" },
    loginTime: { type: "DATETIME NULL" }
  },
  erasable: ["userName", "localIp", "publicIp", "deviceName"],
  fromTime: { loginTime: (time) => time.local },
  fromActor: { userName: (actor) => actor.userName, deviceName: (actor) => actor.deviceName },
  sensitive: []
}) {}

/**
 * The input of `logLogin`.
 *
 * @category models
 * @since 0.1.0
 */
export type LoginLogInput = AuditEvent.InputOf<typeof LoginLog>
