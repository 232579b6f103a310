/**
 * The actor: who is acting.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"

/**
 * The actor of the running fiber, and its request; nobody by default. `Audit.withContext` sets it for a region of a
 * program, and fibers that are forked there inherit it. A middleware of an HttpApi can provide it, too.
 *
 * @category services
 * @since 0.1.0
 */
export class CurrentActor extends Context.Reference<CurrentActor>()("effect-audit/CurrentActor", {
  defaultValue: (): AuditEvent.Actor => NOBODY
}) {}

const NOBODY: AuditEvent.Actor = {}
