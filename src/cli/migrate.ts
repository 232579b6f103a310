/** `effect-audit migrate`: makes the tables, or fits existing ones. */
import { Effect, Logger, LogLevel, Option } from "effect"
import { misnamed, misnamedColumn } from "../internal/database/mysql/table.js"
import { tableName } from "../internal/database/rows.js"
import { SEAL_TABLE } from "../internal/proof/seal.js"
import { Command, Options } from "./effectCli.js"
import { usageError } from "./exit.js"
import { visible } from "./format.js"
import { activity, database, databaseOf, events, json, kindsOf, sqlite, tablesOf } from "./settings.js"
import { loadMysql } from "./mysql.js"
import { loadSqlite } from "./sqlite.js"
import { logger, print, printJson } from "./terminal.js"

const printOnly = Options.boolean("print").pipe(
  Options.withDescription("Print the SQL for an administrator, and connect to nothing")
)

const index = Options.boolean("index").pipe(
  Options.withDescription(
    "Also the indexes for those who read: over time and id, and those that the kinds name"
  )
)

const proof = Options.boolean("proof").pipe(
  Options.withDescription(
    "Also what seals need: a column audit_proof, the table effect_audit_seal. Columns that change values are refused"
  )
)

export const migrate = Command.make(
  "migrate",
  { json, printOnly, index, events, activity, proof, sqlite, ...database },
  (options) =>
    Effect.gen(function* () {
      const kinds = yield* kindsOf(options.events, options.activity)
      const tables = yield* tablesOf(options.tables)
      const names = kinds.map((kind) => tableName(kind, tables))
      const deduplication = Option.getOrUndefined(options.deduplication)
      if (options.printOnly) {
        if (Option.isSome(options.sqlite))
          return yield* usageError(
            "--print is for MySQL and MariaDB. An SQLite file has no administrator: migrate it without --print."
          )
        const wrongName = [...names.map(misnamed), ...kinds.map(misnamedColumn)].find(
          (reason) => reason !== undefined
        )
        if (wrongName !== undefined) return yield* usageError(wrongName)
        // without the driver, which an administrator need not have
        const { migrationSql } = yield* Effect.promise(() => import("../layers/MysqlUploader.js"))
        const more = { index: options.index, proof: options.proof }
        const sql = migrationSql({ tables, deduplication }, kinds, more)
        if (options.json) return yield* printJson({ sql })
        const lines = sql.trimEnd().split("\n")
        if (lines.some((line) => visible(line) !== line)) {
          return yield* usageError(
            "A name holds characters that no terminal shows: give the table another one, or print the SQL by --json."
          )
        }
        yield* print(lines)
        return
      }
      const isNamed = Option.isSome(options.url) || Option.isSome(options.database)
      if (Option.isSome(options.sqlite) && !options.proof && !isNamed)
        return yield* usageError(
          "The first delivery makes the tables of an SQLite file: there is nothing to migrate without --proof."
        )
      yield* Option.match(options.proof ? options.sqlite : Option.none(), {
        onNone: () =>
          Effect.gen(function* () {
            const MysqlUploader = yield* loadMysql
            yield* MysqlUploader.migrate(yield* databaseOf(options), kinds, {
              index: options.index,
              proof: options.proof
            })
          }),
        onSome: (filename) =>
          Effect.flatMap(loadSqlite, (SqliteUploader) =>
            SqliteUploader.migrateProof({ filename, tables }, kinds)
          )
      }).pipe(
        // shows the warning that writers will have to wait
        Logger.withMinimumLogLevel(LogLevel.Warning),
        Effect.provide(logger)
      )
      const ready = options.proof ? [...names, SEAL_TABLE] : names
      yield* options.json ? printJson({ tables: ready }) : print([`Ready: ${ready.join(", ")}`])
    })
).pipe(
  Command.withDescription(
    "Make the tables, or give existing ones what delivery needs, while other programs write to them. May be repeated."
  )
)
