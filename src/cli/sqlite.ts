/** The uploader for SQLite. Its driver is an optional peer, so that it is loaded by those commands only that need it. */
import { Effect } from "effect"
import { usageError } from "./exit.js"

const load = <A>(module: () => Promise<A>) =>
  Effect.tryPromise({
    try: async () => {
      await import("@effect/sql-libsql/LibsqlClient")
      return module()
    },
    catch: (cause) =>
      usageError(
        `The driver of SQLite cannot be loaded: npm install @effect/sql-libsql@0.42 (${cause instanceof Error ? cause.message : String(cause)})`
      )
  })

export const loadSqlite = load(() => import("../layers/SqliteUploader.js"))

export const loadSqliteDoctor = load(() => import("./sqliteDoctor.js"))
