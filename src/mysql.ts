/**
 * `effect-audit/mysql`: delivery to MySQL and MariaDB. Needs @effect/sql-mysql2.
 *
 * @module effect-audit/mysql
 * @since 0.1.0
 */
import "./schema/Effect3.js"

/**
 * Delivers to MySQL and MariaDB, each event once.
 *
 * @since 0.1.0
 */
export * as MysqlUploader from "./layers/MysqlUploader.js"
/**
 * Reads events that were delivered to MySQL and MariaDB.
 *
 * @since 0.1.0
 */
export * as MysqlTrail from "./layers/MysqlTrail.js"
