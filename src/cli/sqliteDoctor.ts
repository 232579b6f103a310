/** The checks of `doctor` on an SQLite file, which they do not change. */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as LibsqlClient from "@effect/sql-libsql/LibsqlClient"
import { Cause, Effect, Exit, Schema } from "effect"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { EVENT_ID, EVENT_TIME, tableName } from "../internal/database/rows.js"
import { PROOF_COLUMN, SEAL_TABLE } from "../internal/proof/seal.js"
import type * as SqliteUploader from "../layers/SqliteUploader.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Disk } from "../services/Disk.js"
import type { Finding } from "./findings.js"
import { failure, ok, warning } from "./findings.js"
import { formatBytes } from "./format.js"

export const examine = (
  { filename, tables }: SqliteUploader.Options,
  kinds: ReadonlyArray<AuditEvent.Any>,
  { proof }: { readonly proof?: unknown },
  report: (finding: Finding) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    const isSealed = proof !== undefined
    const disk = yield* Disk
    const file = path.resolve(filename)
    const parent = yield* disk.info(path.dirname(file))
    if (parent?.type !== "directory")
      return yield* report(failure("file", `${path.dirname(file)} is no directory: make it`))
    const info = yield* disk.info(file)
    if (info === undefined)
      return yield* report(
        isSealed
          ? failure("file", `${file} does not exist yet, and seals need a table: run "${MIGRATE}"`)
          : warning("file", `${file} does not exist yet: the first delivery makes it`)
      )
    if (info.type !== "file") return yield* report(failure("file", `${file} is no file: give another path`))
    // SQLite would make files beside it that belong to root
    if (process.geteuid?.() === 0 && info.uid !== 0)
      return yield* report(
        warning(
          "file",
          `${file} belongs to uid ${info.uid}: examined by that user only, sudo -u '#${info.uid}'`
        )
      )
    const found = yield* Effect.exit(Effect.scoped(columnsIn(file, kinds, tables)))
    if (Exit.isFailure(found))
      return yield* report(failure("file", `${file} cannot be read as SQLite (${reasonOf(found.cause)})`))
    yield* report(ok("file", `${file} (${formatBytes(info.size)})`))
    for (const { columns, kind, name } of found.value.tables)
      yield* report(judge(kind, name, columns, isSealed))
    if (isSealed)
      yield* report(
        found.value.hasSeals
          ? ok(`table ${SEAL_TABLE}`, "is there")
          : failure(`table ${SEAL_TABLE}`, `does not exist: run "${MIGRATE}"`)
      )
  })

const MIGRATE = "effect-audit migrate --proof --sqlite FILE"

const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error
  return inner instanceof Error ? inner.message : String(inner)
}

const Columns = Schema.Array(Schema.Struct({ name: Schema.String }))

/** The columns of the table of each kind, none if there is no table; and whether there is a table of seals. */
const columnsIn = (
  file: string,
  kinds: ReadonlyArray<AuditEvent.Any>,
  tables: SqliteUploader.Options["tables"]
) =>
  Effect.gen(function* () {
    const client = yield* LibsqlClient.make({ url: pathToFileURL(file) })
    const columnsOf = (table: string) =>
      client.unsafe("SELECT name FROM pragma_table_info(?)", [table]).pipe(
        Effect.flatMap(Schema.decodeUnknown(Columns)),
        Effect.map((columns) => new Set(columns.map(({ name }) => name)))
      )
    return {
      tables: yield* Effect.forEach(kinds, (kind) => {
        const name = tableName(kind, tables)
        return Effect.map(columnsOf(name), (columns) => ({ kind, name, columns }))
      }),
      hasSeals: (yield* columnsOf(SEAL_TABLE)).size > 0
    }
  }).pipe(Effect.provide(Reactivity.layer))

const judge = (
  kind: AuditEvent.Any,
  name: string,
  columns: ReadonlySet<string>,
  isSealed: boolean
): Finding => {
  const subject = `table ${name}`
  if (columns.size === 0)
    return isSealed
      ? failure(subject, `does not exist, and needs ${PROOF_COLUMN}: run "${MIGRATE}"`)
      : warning(subject, "does not exist yet: the first delivery makes it")
  const wanted = [EVENT_ID, EVENT_TIME, ...kind.columns.map((column) => column.name)]
  const missing = wanted.filter((column) => !columns.has(column))
  if (missing.length > 0)
    return failure(
      subject,
      `lacks ${missing.join(", ")}: add them, or rename the table, and the next delivery makes it`
    )
  return isSealed && !columns.has(PROOF_COLUMN)
    ? failure(subject, `lacks ${PROOF_COLUMN}: run "${MIGRATE}"`)
    : ok(subject, `${columns.size} columns`)
}
