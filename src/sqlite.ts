/**
 * `effect-audit/sqlite`: delivery to an embedded SQLite file. Needs @effect/sql-libsql.
 *
 * @module effect-audit/sqlite
 * @since 0.1.0
 */
import "./schema/Effect3.js"

/**
 * Delivers to an embedded SQLite file.
 *
 * @since 0.1.0
 */
export * as SqliteUploader from "./layers/SqliteUploader.js"
/**
 * Reads events that were delivered to an SQLite file.
 *
 * @since 0.1.0
 */
export * as SqliteTrail from "./layers/SqliteTrail.js"
