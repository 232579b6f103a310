/**
 * `effect-audit/testing`: the audit log in memory, for the tests of programs that use it.
 *
 * @since 0.1.0
 */

/**
 * @since 0.1.0
 */
export * as AuditTest from "./layers/AuditTest.js"
