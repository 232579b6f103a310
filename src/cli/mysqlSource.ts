/** The source of `prove` on MySQL and MariaDB: one snapshot of the first server that answers. */
import type { SqlError } from "@effect/sql/SqlError"
import { Array as Arr, Duration, Effect, type Scope } from "effect"
import { open } from "../internal/database/mysql/connection.js"
import { type Endpoint, endpointsOf } from "../internal/database/mysql/endpoints.js"
import { classify } from "../internal/database/mysql/errors.js"
import { sourceOf } from "../internal/database/mysql/seals.js"
import { columnsOf } from "../internal/database/mysql/table.js"
import { SEAL_TABLE } from "../internal/proof/seal.js"
import { mapSource, type Source } from "../internal/proof/verify.js"
import type * as MysqlUploader from "../layers/MysqlUploader.js"
import { UploadError } from "../schema/Errors.js"

export const openSource = (
  options: MysqlUploader.Options
): Effect.Effect<Source<UploadError>, UploadError, Scope.Scope> =>
  Effect.flatMap(endpointsOf(options, "prove"), (endpoints) => {
    const [first, ...others] = Arr.map(endpoints, openAt)
    return others.reduce(
      (earlier, next) =>
        Effect.catchIf(
          earlier,
          (error) => error.class === "transient",
          () => next
        ),
      first
    )
  })

const openAt = (endpoint: Endpoint): Effect.Effect<Source<UploadError>, UploadError, Scope.Scope> =>
  Effect.gen(function* () {
    // counting the rows of a large table may take hours
    const session = yield* open({ ...endpoint, statementTimeout: Duration.hours(24) })
    const columns = yield* columnsOf(session, SEAL_TABLE)
    if (columns.size === 0) return yield* unsealed(endpoint)
    yield* session.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    yield* session.query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    return mapSource(sourceOf(session), (error) => toError(error, endpoint))
  }).pipe(Effect.catchTag("SqlError", (error) => toError(error, endpoint)))

const unsealed = ({ database, username }: Endpoint) =>
  new UploadError({
    class: "operator",
    code: "1146",
    reason:
      `${database} has no table ${SEAL_TABLE} that ${username} may read, so nothing was sealed there: ` +
      `GRANT SELECT, or look whether it is the right database`
  })

const toError = ({ cause }: SqlError, endpoint: Endpoint): UploadError => {
  const { class: cls, code, reason } = classify(cause, endpoint)
  return new UploadError({
    class: cls === "transient" ? "transient" : "operator",
    code,
    reason
  })
}
