/**
 * `effect-audit/mysql`: delivery to MySQL and MariaDB. Needs @effect/sql-mysql2.
 *
 * @since 0.1.0
 */

/**
 * @since 0.1.0
 */
export * as MysqlUploader from "./layers/MysqlUploader.js"
