/**
 * `effect-audit/testing`: the audit log in memory, for the tests of programs that use it.
 *
 * @module effect-audit/testing
 * @since 0.1.0
 */
import "./schema/Effect3.js"

/**
 * Runs the real queue and worker on a disk and a database in memory.
 *
 * @since 0.1.0
 */
export * as AuditTest from "./layers/AuditTest.js"
