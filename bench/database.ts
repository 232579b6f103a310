/**
 * The bench's databases, on the server of the run.
 *
 * @module
 */
import { Effect, Redacted } from "effect"
import { MysqlUploader } from "effect-audit/mysql"
import { createConnection } from "mysql2/promise"
import type { Server } from "./measure.js"

export interface Database {
  readonly name: string
  readonly url: string
  /** Empties the tables, which also gives their files back. */
  readonly empty: () => Promise<void>
  /** Stores so many uses, made by MariaDB, at even distances from a time on; `from` and `length` are milliseconds. */
  readonly fill: (events: number, from: number, length: number) => Promise<void>
  /** Fails unless so many different events are there. */
  readonly expect: (events: number) => Promise<void>
}

/** A database with our tables: the columns of the reference, our two, and the UNIQUE key. */
export const withOurTables = (
  server: Server,
  name: string,
  more: MysqlUploader.MigrateOptions = {}
): Promise<Database> =>
  create(
    server,
    name,
    async (url) => {
      await Effect.runPromise(MysqlUploader.migrate({ url: Redacted.make(url) }, undefined, more))
    },
    more.proof === true ? ["effect_audit_seal"] : []
  )

/** A database with the tables of the reference: without our columns, and without the key. */
export const withReferenceTables = (server: Server, name: string): Promise<Database> =>
  create(server, name, async (url, query) => {
    await Effect.runPromise(MysqlUploader.migrate({ url: Redacted.make(url), deduplication: "none" }))
    const columns = await query<{ readonly name: string }>(
      "SELECT column_name AS name FROM information_schema.columns WHERE table_schema = DATABASE() " +
        "AND table_name = 'nano_banana_user_use_log' AND column_name LIKE 'event\\_%'"
    )
    if (columns.length > 0) throw new Error("the reference's tables have our columns")
  })

type Query = <Row>(sql: string) => Promise<ReadonlyArray<Row>>

const create = async (
  server: Server,
  name: string,
  migrate: (url: string, query: Query) => Promise<void>,
  others: ReadonlyArray<string> = []
): Promise<Database> => {
  const query: Query = async <Row>(sql: string) => {
    const connection = await createConnection({ host: server.host, port: server.port, user: "root" })
    await connection.query(`CREATE DATABASE IF NOT EXISTS ${name} CHARACTER SET utf8mb4`)
    await connection.query(`USE ${name}`)
    const [rows] = await connection.query(sql)
    await connection.end()
    return rows as unknown as ReadonlyArray<Row>
  }
  await query("SELECT 1")
  const url = `mysql://root@${server.host}:${server.port}/${name}`
  await migrate(url, query)
  return {
    name,
    url,
    empty: async () => {
      for (const table of ["nano_banana_user_use_log", ...others]) await query(`TRUNCATE TABLE ${table}`)
    },
    fill: async (events, from, length) => {
      await query(
        "INSERT INTO nano_banana_user_use_log (event_id, event_time, user_name, device_name, prompt, result_path, " +
          "status, model, duration_ms, finish_reason) SELECT UNHEX(MD5(seq)), " +
          `TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ${from} * 1000 + FLOOR(seq * ${length / events} * 1000) MICROSECOND, ` +
          "CONCAT('user ', seq % 1000), 'studio-3', " +
          "CONCAT('fox ', seq, ' in the snow at night, oil on canvas, warm light from a window behind it'), " +
          "CONCAT('out/2026/01/31/', seq, '.png'), IF(seq % 50 = 0, 'failure', 'success'), 'gemini-2.5-flash-image', seq % 5000, " +
          `'STOP' FROM seq_1_to_${events}`
      )
      await query("ANALYZE TABLE nano_banana_user_use_log")
    },
    expect: async (events) => {
      const [found] = await query<{ readonly events: number }>(
        "SELECT COUNT(*) AS events FROM nano_banana_user_use_log"
      )
      if (found?.events !== events)
        throw new Error(`${found?.events ?? 0} of ${events} events were delivered`)
    }
  }
}
