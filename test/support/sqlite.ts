/**
 * A second connection to an SQLite file, to check what an uploader stored.
 *
 * @module
 */
import type { Row } from "@libsql/client"
import { createClient } from "@libsql/client"
import type { Scope } from "effect"
import { Effect } from "effect"
import { pathToFileURL } from "node:url"

export const openSqlite = (
  filename: string
): Effect.Effect<(sql: string) => Effect.Effect<ReadonlyArray<Row>>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => createClient({ url: pathToFileURL(filename).href })),
      (client) => Effect.sync(() => client.close())
    ),
    (client) => (sql) =>
      Effect.map(
        Effect.promise(() => client.execute(sql)),
        (result) => result.rows
      )
  )
