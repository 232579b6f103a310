/** The database of a proof: what `prove` reads, and what `erase` and `purge` look at. */
import { Effect, Option } from "effect"
import { loadMysqlSource } from "./mysql.js"
import { databaseOf } from "./settings.js"
import { loadSqliteSource } from "./sqlite.js"

export const sourceOf = (
  options: Parameters<typeof databaseOf>[0] & { readonly sqlite: Option.Option<string> }
) =>
  Option.match(options.sqlite, {
    onNone: () =>
      Effect.flatMap(loadMysqlSource, ({ openSource }) => Effect.flatMap(databaseOf(options), openSource)),
    onSome: (filename) => Effect.flatMap(loadSqliteSource, ({ openSource }) => openSource(filename))
  })
