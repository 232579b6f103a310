/** The demo's database: the MySQL of AUDIT_MYSQL_URL or, without one, an embedded SQLite file. */
import { SqlClient, type SqlError } from "@effect/sql"
import { LibsqlClient } from "@effect/sql-libsql"
import { MysqlClient } from "@effect/sql-mysql2"
import { type ConfigError, Effect, type Layer, Redacted } from "effect"
import { LoginLog, type Uploader, UseLog } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"
import { pathToFileURL } from "node:url"

export interface Database {
  /** for people */
  readonly name: string
  /** where it is, for the environment of another process */
  readonly address: string
  readonly uploader: Layer.Layer<Uploader>
  readonly client: Layer.Layer<SqlClient.SqlClient, SqlError.SqlError | ConfigError.ConfigError>
}

/** `address` is a MySQL URL or the name of a file. */
export const at = (address: string): Database => {
  if (!URL.canParse(address) || !/^(mysql|mariadb):$/.test(new URL(address).protocol)) {
    return {
      name: "the embedded SQLite file",
      address,
      uploader: SqliteUploader.layer({ filename: address }),
      client: LibsqlClient.layer({ url: pathToFileURL(address).href })
    }
  }
  const url = Redacted.make(address)
  return {
    name: `MySQL at ${new URL(address).host}`,
    address,
    uploader: MysqlUploader.layer({ url }),
    client: MysqlClient.layer({ url })
  }
}

/** The same server, at a port where nobody listens. */
export const unreachable = (address: string): string => {
  const url = new URL(address)
  url.host = "127.0.0.1:1"
  return url.href
}

const TABLES = [UseLog.table, LoginLog.table]
const hex = (id: string) => `X'${id.replaceAll("-", "")}'`

/** Which of the events are in the database: other programs may write to the same tables. */
export const storedIds = (ids: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    // UUIDv7 grow with time
    const sorted = ids.toSorted()
    const range = `${hex(sorted[0]!)} AND ${hex(sorted.at(-1)!)}`
    const rows = yield* Effect.forEach(TABLES, (table) =>
      sql.unsafe<{ readonly id: string }>(
        `SELECT LOWER(HEX(event_id)) AS id FROM ${table} WHERE event_id BETWEEN ${range}`
      )
    )
    const ours = new Map(ids.map((id) => [id.replaceAll("-", ""), id]))
    return rows.flat().flatMap(({ id }) => ours.get(id) ?? [])
  })

/** The newest uses, as anybody would read them. */
export const newest = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  sql.unsafe<{
    readonly user_name: string
    readonly prompt: string
    readonly model: string
    readonly status: string
    readonly duration_ms: number
  }>(
    `SELECT user_name, prompt, model, status, duration_ms FROM ${UseLog.table} ORDER BY event_id DESC LIMIT 5`
  )
)

/** Takes a row out behind the audit log's back. */
export const removeOne = (id: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.forEach(TABLES, (table) => sql.unsafe(`DELETE FROM ${table} WHERE event_id = ${hex(id)}`))
  )
