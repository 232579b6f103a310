/**
 * Databases for tests: a separate one for each test, on the server of the run.
 *
 * @module
 */
import { randomUUID } from "node:crypto"
import type { RowDataPacket } from "mysql2/promise"
import { createConnection, createPool } from "mysql2/promise"

/** How a program connects to a {@link TestDatabase}. */
export interface ConnectionSettings {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: string
  readonly database: string
}

/** A database that belongs to one test. */
export interface TestDatabase {
  readonly url: string
  readonly config: ConnectionSettings
  /** Runs a statement as root inside the database and returns its rows (none for a write). */
  readonly query: <Row = Record<string, unknown>>(
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Promise<Array<Row>>
  /** Drops the database and disconnects. */
  readonly drop: () => Promise<void>
}

/** Creates an empty utf8mb4 database, on the server of the run unless a URL names another. */
export const freshDatabase = async (rootUrl?: string): Promise<TestDatabase> => {
  // Imported late, since benchmarks and crash tests give a URL and cannot load vitest.
  const url = new URL(rootUrl ?? (await import("vitest")).inject("mysqlRootUrl"))
  const database = `audit_${randomUUID().replaceAll("-", "")}`
  const account = {
    host: url.hostname,
    port: url.port === "" ? 3306 : Number(url.port),
    password: decodeURIComponent(url.password)
  }
  const username = decodeURIComponent(url.username)
  url.pathname = `/${database}`

  const connection = await createConnection({ ...account, user: username })
  await connection.query(`CREATE DATABASE \`${database}\` CHARACTER SET utf8mb4`)
  await connection.end()

  // a pool, since it reconnects after a restart of the server
  const pool = createPool({
    ...account,
    user: username,
    database,
    connectionLimit: 2,
    supportBigNumbers: true,
    dateStrings: true
  })

  return {
    url: url.href,
    config: { ...account, username, database },
    query: async <Row>(sql: string, params: ReadonlyArray<unknown> = []) => {
      const [rows] = await pool.query<Array<RowDataPacket>>(sql, [...params])
      return Array.isArray(rows) ? (rows as Array<Row>) : []
    },
    drop: async () => {
      try {
        await pool.query(`DROP DATABASE IF EXISTS \`${database}\``)
      } finally {
        await pool.end()
      }
    }
  }
}

/** Creates the two tables of the reference without anything of ours. */
export const createReferenceTables = async (database: Pick<TestDatabase, "query">): Promise<void> => {
  await database.query(`
    CREATE TABLE nano_banana_user_use_log (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      user_name VARCHAR(255) NOT NULL,
      device_name VARCHAR(255) NOT NULL,
      prompt LONGTEXT NOT NULL,
      result_path TEXT NULL,
      status VARCHAR(64) NOT NULL,
      error_message TEXT NULL,
      model VARCHAR(255) NULL,
      duration_ms INT NULL,
      finish_reason VARCHAR(64) NULL,
      created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) ENGINE = InnoDB CHARACTER SET utf8mb4`)
  await database.query(`
    CREATE TABLE nano_banana_user_log (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      user_name VARCHAR(255) NULL,
      local_ip VARCHAR(64) NULL,
      public_ip VARCHAR(64) NULL,
      device_name VARCHAR(255) NULL,
      login_time DATETIME NULL,
      created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) ENGINE = InnoDB CHARACTER SET utf8mb4`)
}
