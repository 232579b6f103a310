/** The loaders of what needs the SQLite driver. */
import { loader } from "./driver.js"

const load = loader("SQLite", "@effect/sql-libsql@0.42", () => import("@effect/sql-libsql/LibsqlClient"))

export const loadSqlite = load(() => import("../layers/SqliteUploader.js"))

export const loadSqliteDoctor = load(() => import("./sqliteDoctor.js"))

export const loadSqliteSource = load(() => import("./sqliteSource.js"))
