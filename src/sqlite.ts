/**
 * `effect-audit/sqlite`: delivery to an embedded SQLite file. Needs @effect/sql-libsql.
 *
 * @since 0.1.0
 */

/**
 * @since 0.1.0
 */
export * as SqliteUploader from "./layers/SqliteUploader.js"
