/**
 * Databases for tests of the MySQL uploader, as resources of a scope.
 *
 * @module
 */
import type { Scope } from "effect"
import { Effect, Redacted } from "effect"
import type * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import type { TestDatabase } from "./database.js"
import { freshDatabase } from "./database.js"

/** An empty database on the server of the run. */
export const mysqlDatabase: Effect.Effect<TestDatabase, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => freshDatabase()),
  (database) => Effect.promise(() => database.drop())
)

/** How an uploader connects to it. */
export const connectionOptions = ({ config }: TestDatabase): MysqlUploader.Options => ({
  ...config,
  password: Redacted.make(config.password)
})
