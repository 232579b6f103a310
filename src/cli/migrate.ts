/** `effect-audit migrate`: the tables, made or fitted. */
import { Command, Options } from "@effect/cli"
import { Effect, Option } from "effect"
import { database, databaseOf, events, json, kindsOf, tablesOf } from "./settings.js"
import { loadMysql } from "./mysql.js"
import { print, printJson } from "./terminal.js"

const printOnly = Options.boolean("print").pipe(
  Options.withDescription("Print the SQL for an administrator, and connect to nothing")
)

export const migrate = Command.make("migrate", { json, printOnly, events, ...database }, (options) =>
  Effect.gen(function* () {
    const MysqlUploader = yield* loadMysql
    const kinds = yield* kindsOf(options.events)
    const tables = yield* tablesOf(options.tables)
    const deduplication = Option.getOrUndefined(options.deduplication)
    if (options.printOnly) {
      const sql = MysqlUploader.migrationSql({ tables, deduplication }, kinds)
      yield* options.json ? printJson({ sql }) : print(sql.trimEnd())
      return
    }
    yield* MysqlUploader.migrate(yield* databaseOf(options), kinds)
    const names = kinds.map((kind) => tables[kind.kind] ?? kind.table)
    yield* options.json ? printJson({ tables: names }) : print(`Ready: ${names.join(", ")}`)
  })
).pipe(
  Command.withDescription(
    "Make the tables, or give existing ones what delivery needs, while other programs write to them. May be repeated."
  )
)
