/**
 * Databases for tests of the MySQL uploader, as resources of a scope.
 *
 * @module
 */
import { assert } from "@effect/vitest"
import type { Scope } from "effect"
import { Cause, Context, Effect, Exit, Layer, Redacted } from "effect"
import { inspect } from "node:util"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import { Uploader } from "../../src/services/Uploader.js"
import type { TestDatabase } from "./database.js"
import { freshDatabase } from "./database.js"

/** An empty database, on the server of the run unless a URL names another. */
export const mysqlDatabase = (rootUrl?: string): Effect.Effect<TestDatabase, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => freshDatabase(rootUrl)),
    (database) => Effect.promise(() => database.drop())
  )

/** How root connects to the database. */
export const connectionOptions = ({ config }: TestDatabase): MysqlUploader.Options => ({
  ...config,
  password: Redacted.make(config.password)
})

/** A separate uploader. */
export const uploaderOf = (
  options: MysqlUploader.Options
): Effect.Effect<Uploader["Type"], never, Scope.Scope> =>
  Effect.map(Layer.build(MysqlUploader.layer(options)), Context.get(Uploader))

/** The password of {@link account}, which no error may show. */
export const PASSWORD = "s3cr3t-ключ"

let accounts = 0

/** An account with the given rights on the database, and no others. */
export const account = (
  database: TestDatabase,
  rights: string,
  require = ""
): Effect.Effect<MysqlUploader.Options, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const username = `account_${process.pid}_${accounts++}`
      await database.query(`CREATE USER '${username}'@'%' IDENTIFIED BY '${PASSWORD}' ${require}`)
      await database.query(`GRANT ${rights} ON \`${database.config.database}\`.* TO '${username}'@'%'`)
      return { ...connectionOptions(database), username, password: Redacted.make(PASSWORD) }
    }),
    ({ username }) => Effect.promise(() => database.query(`DROP USER '${username}'@'%'`))
  )

/** The typed failure of an effect. Printed in any way, it must show neither the password nor an event's content. */
export const failureOf = <A, R>(
  effect: Effect.Effect<A, UploadError, R>
): Effect.Effect<UploadError, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    if (Exit.isSuccess(exit)) throw new Error(`it succeeded: ${inspect(exit.value)}`)
    const error = Cause.squash(exit.cause)
    assert.instanceOf(error, UploadError)
    for (const shown of [
      inspect(error, { depth: 20, showHidden: true }),
      JSON.stringify(error),
      Cause.pretty(exit.cause)
    ]) {
      assert.notInclude(shown, PASSWORD)
      assert.notInclude(shown, "PROMPT")
    }
    assert.isAbove(error.reason.length, 30)
    return error
  })

/** A database with the tables of the events, for tests without a scope. */
export const migratedDatabase = async (rootUrl?: string): Promise<TestDatabase> => {
  const database = await freshDatabase(rootUrl)
  await Effect.runPromise(MysqlUploader.migrate(connectionOptions(database)))
  return database
}
