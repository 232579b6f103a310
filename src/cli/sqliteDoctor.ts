/** The checks of `doctor` on an SQLite file, which they do not change. */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as LibsqlClient from "@effect/sql-libsql/LibsqlClient"
import { Cause, Effect, Exit, Schema } from "effect"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { EVENT_ID, EVENT_TIME, tableName } from "../internal/database/rows.js"
import type * as SqliteUploader from "../layers/SqliteUploader.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Disk } from "../services/Disk.js"
import type { Finding } from "./findings.js"
import { failure, ok, warning } from "./findings.js"
import { formatBytes } from "./format.js"

export const examine = (
  { filename, tables }: SqliteUploader.Options,
  kinds: ReadonlyArray<AuditEvent.Any>,
  report: (finding: Finding) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const file = path.resolve(filename)
    const parent = yield* disk.info(path.dirname(file))
    if (parent?.type !== "directory")
      return yield* report(failure("file", `${path.dirname(file)} is no directory: make it`))
    const info = yield* disk.info(file)
    if (info === undefined)
      return yield* report(warning("file", `${file} does not exist yet: the first delivery makes it`))
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
    for (const { columns, kind, name } of found.value) yield* report(judge(kind, name, columns))
  })

const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error
  return inner instanceof Error ? inner.message : String(inner)
}

const Columns = Schema.Array(Schema.Struct({ name: Schema.String }))

/** The columns of the table of each kind, none if there is no table. */
const columnsIn = (
  file: string,
  kinds: ReadonlyArray<AuditEvent.Any>,
  tables: SqliteUploader.Options["tables"]
) =>
  Effect.gen(function* () {
    const client = yield* LibsqlClient.make({ url: pathToFileURL(file) })
    return yield* Effect.forEach(kinds, (kind) =>
      Effect.gen(function* () {
        const name = tableName(kind, tables)
        const rows = yield* client.unsafe("SELECT name FROM pragma_table_info(?)", [name])
        const columns = yield* Schema.decodeUnknown(Columns)(rows)
        return { kind, name, columns: new Set(columns.map((column) => column.name)) }
      })
    )
  }).pipe(Effect.provide(Reactivity.layer))

const judge = (kind: AuditEvent.Any, name: string, columns: ReadonlySet<string>): Finding => {
  const subject = `table ${name}`
  if (columns.size === 0) return warning(subject, "does not exist yet: the first delivery makes it")
  const missing = [EVENT_ID, EVENT_TIME, ...kind.columns.map((column) => column.name)].filter(
    (column) => !columns.has(column)
  )
  return missing.length === 0
    ? ok(subject, `${columns.size} columns`)
    : failure(
        subject,
        `lacks ${missing.join(", ")}: add them, or rename the table, and the next delivery makes it`
      )
}
