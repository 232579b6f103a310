/** The connection to an SQLite file. */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect } from "effect"
import type { Scope } from "effect"
import { pathToFileURL } from "node:url"
import * as drivers from "../driver.js"
import type { Index } from "../rows.js"

export const driver = drivers.load("@effect/sql-libsql@0.42", async () => ({
  LibsqlClient: await import("@effect/sql-libsql/LibsqlClient"),
  Reactivity: await import("@effect/experimental/Reactivity")
}))

/** Opens the file, and makes it if it does not exist. Dies if it cannot be opened. */
export const open = (
  file: string,
  pragmas: ReadonlyArray<string>,
  intMode: "number" | "string" = "number"
): Effect.Effect<Connection, SqlError, Scope.Scope> =>
  Effect.gen(function* () {
    const { LibsqlClient, Reactivity } = yield* driver
    const client = yield* LibsqlClient.make({ url: pathToFileURL(file), intMode }).pipe(
      Effect.provide(Reactivity.layer)
    )
    const connection = yield* client.reserve
    for (const pragma of pragmas) yield* connection.executeRaw(`PRAGMA ${pragma}`, [])
    return connection
  })

export const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** Names of indexes are unique within the whole file, so each contains the table's name. */
export const createIndex = (table: string, { columns, name }: Index): string =>
  `CREATE INDEX IF NOT EXISTS ${quote(`${name}_${table}`)} ON ${quote(table)} (${columns.map(quote).join(", ")})`

/** Whether a column of the type turns numbers into texts (SQLite's "Datatypes", 3.1). */
export const isTextType = (type: string): boolean => /char|clob|text/i.test(type) && !/int/i.test(type)
