/** The source of `prove` on an SQLite file, which it does not change. */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as LibsqlClient from "@effect/sql-libsql/LibsqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, type Scope } from "effect"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { operator, toUploadError } from "../internal/database/sqlite/errors.js"
import { typesOf } from "../internal/database/sqlite/proofMigration.js"
import { sourceOf } from "../internal/database/sqlite/seals.js"
import { SEAL_TABLE } from "../internal/proof/seal.js"
import { mapSource, type Source } from "../internal/proof/verify.js"
import { UploadError } from "../schema/Errors.js"
import { Disk } from "../services/Disk.js"
import { type Ended, usageError } from "./exit.js"

export const openSource = (
  filename: string
): Effect.Effect<Source<UploadError>, UploadError | Ended, Scope.Scope | Disk> =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const file = path.resolve(filename)
    const info = yield* Effect.orElseSucceed(disk.info(file), () => undefined)
    // SQLite would make a missing file
    if (info?.type !== "file")
      return yield* usageError(`${file} is no file: give that of the SQLite database.`)
    const toError = ({ cause }: SqlError) => toUploadError(cause, file)
    return yield* Effect.gen(function* () {
      const client = yield* LibsqlClient.make({ url: pathToFileURL(file) }).pipe(
        Effect.provide(Reactivity.layer),
        // the client throws when it cannot open the file
        Effect.catchAllDefect((cause) => operator("SQLITE_CANTOPEN", file, cause))
      )
      const connection = yield* client.reserve
      if ((yield* typesOf(connection, SEAL_TABLE)).size === 0)
        return yield* new UploadError({
          class: "operator",
          code: "SQLITE_ERROR",
          reason: `${file} has no table ${SEAL_TABLE}, so nothing was sealed there: look whether it is the right file`
        })
      // the transaction shows one snapshot from its first SELECT on
      yield* connection.executeRaw("BEGIN", [])
      return mapSource(sourceOf(connection), toError)
    }).pipe(Effect.catchTag("SqlError", (error) => toError(error)))
  })
