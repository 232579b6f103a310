/** The loaders of what needs the MySQL driver. */
import * as FileSystem from "@effect/platform/FileSystem"
import { Effect } from "effect"
import { createRequire } from "node:module"
import * as path from "node:path"
import * as tls from "node:tls"
import { loader } from "./driver.js"

const load = loader("MySQL", "@effect/sql-mysql2@0.53", () => import("@effect/sql-mysql2/MysqlClient"))

const require = createRequire(import.meta.url)

/** Loads all files of the driver and of Node now: as the owner of a queue, the process may not be able to read them. */
const loadWhole = Effect.gen(function* () {
  if (process.geteuid?.() !== 0) return
  // loads the certificate authorities, those of NODE_EXTRA_CA_CERTS included
  tls.createSecureContext()
  const name = path.join("mysql2", "lib", "connection.js")
  const loaded = Object.keys(require.cache).find((file) => file.endsWith(name))
  if (loaded === undefined) return
  const directory = path.dirname(loaded)
  const files = yield* (yield* FileSystem.FileSystem).readDirectory(directory, { recursive: true })
  for (const file of files.filter((file) => file.endsWith(".js"))) {
    // a file that lacks an optional package is never needed
    yield* Effect.ignore(Effect.try(() => require(path.join(directory, file)) as unknown))
  }
  // loads the tables of iconv-lite
  const iconv = createRequire(loaded)("iconv-lite") as { encodingExists: (name: string) => boolean }
  iconv.encodingExists("utf8")
}).pipe(
  // if something needed is missing, using it fails later and says so
  Effect.catchAllCause(() => Effect.void)
)

export const loadMysql = Effect.gen(function* () {
  const uploader = yield* load(() => import("../layers/MysqlUploader.js"))
  const { driver } = yield* load(() => import("../internal/database/mysql/connection.js"))
  yield* driver
  yield* loadWhole
  return uploader
})

export const loadDoctor = load(() => import("./mysqlDoctor.js"))

export const loadMysqlSource = load(() => import("./mysqlSource.js"))
