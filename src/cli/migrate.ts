/** `effect-audit migrate`: the tables, made or fitted. */
import { Effect, Logger, LogLevel, Option } from "effect"
import { misnamed, misnamedColumn } from "../internal/database/mysql/table.js"
import { Command, Options } from "./effectCli.js"
import { usageError } from "./exit.js"
import { visible } from "./format.js"
import { activity, database, databaseOf, events, json, kindsOf, tablesOf } from "./settings.js"
import { loadMysql } from "./mysql.js"
import { logger, print, printJson } from "./terminal.js"

const printOnly = Options.boolean("print").pipe(
  Options.withDescription("Print the SQL for an administrator, and connect to nothing")
)

const index = Options.boolean("index").pipe(
  Options.withDescription("Give existing tables the indexes for those who read, which new ones always have")
)

export const migrate = Command.make(
  "migrate",
  { json, printOnly, index, events, activity, ...database },
  (options) =>
    Effect.gen(function* () {
      const kinds = yield* kindsOf(options.events, options.activity)
      const tables = yield* tablesOf(options.tables)
      const names = kinds.map((kind) => tables[kind.kind] ?? kind.table)
      const deduplication = Option.getOrUndefined(options.deduplication)
      if (options.printOnly) {
        const wrongName = [...names.map(misnamed), ...kinds.map(misnamedColumn)].find(
          (reason) => reason !== undefined
        )
        if (wrongName !== undefined) return yield* usageError(wrongName)
        // without the driver, which an administrator need not have
        const { migrationSql } = yield* Effect.promise(() => import("../layers/MysqlUploader.js"))
        const sql = migrationSql({ tables, deduplication }, kinds, { index: options.index })
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
      const MysqlUploader = yield* loadMysql
      yield* MysqlUploader.migrate(yield* databaseOf(options), kinds, { index: options.index }).pipe(
        // that writers will have to wait
        Logger.withMinimumLogLevel(LogLevel.Warning),
        Effect.provide(logger)
      )
      yield* options.json ? printJson({ tables: names }) : print([`Ready: ${names.join(", ")}`])
    })
).pipe(
  Command.withDescription(
    "Make the tables, or give existing ones what delivery needs, while other programs write to them. May be repeated."
  )
)
