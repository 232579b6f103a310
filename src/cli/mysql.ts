/** The uploader for MySQL. Its driver is an optional peer, so that it is loaded by those commands only that need it. */
import { Effect } from "effect"
import { usageError } from "./exit.js"

const load = <A>(module: () => Promise<A>) =>
  Effect.tryPromise({
    try: async () => {
      await import("@effect/sql-mysql2/MysqlClient")
      return module()
    },
    catch: (cause) =>
      usageError(
        `The driver of MySQL cannot be loaded: npm install @effect/sql-mysql2@0.53 (${cause instanceof Error ? cause.message : String(cause)})`
      )
  })

export const loadMysql = load(() => import("../layers/MysqlUploader.js"))

export const loadDoctor = load(() => import("./mysqlDoctor.js"))
