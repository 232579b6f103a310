/**
 * Databases to read: an uploader delivers events, and a trail reads them.
 *
 * @module
 */
import type { Scope } from "effect"
import { Chunk, Context, Effect, Layer, Stream } from "effect"
import * as path from "node:path"
import * as MysqlTrail from "../../src/layers/MysqlTrail.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteTrail from "../../src/layers/SqliteTrail.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Trail } from "../../src/services/Trail.js"
import { Uploader } from "../../src/services/Uploader.js"
import type { TestDatabase } from "./database.js"
import { account, connectionOptions, mysqlDatabase } from "./mysql.js"
import { temporaryDirectory } from "./queue.js"
import { openSqlite } from "./sqlite.js"

export interface ReadTarget {
  readonly trail: Trail["Type"]
  /** Delivers events, and expects none refused. */
  readonly deliver: (definition: AuditEvent.Any, events: ReadonlyArray<StoredEvent>) => Effect.Effect<void>
  /** Runs a statement over another connection. */
  readonly execute: (sql: string) => Effect.Effect<unknown>
  /** Another trail of the same database. */
  readonly other: (
    options: Pick<MysqlTrail.Options, "directory" | "events" | "statementTimeout" | "tables">
  ) => Effect.Effect<Trail["Type"], never, Scope.Scope>
}

const trailOf = (layer: Layer.Layer<Trail>) => Effect.map(Layer.build(layer), Context.get(Trail))

const deliverBy =
  (uploader: Uploader["Type"]): ReadTarget["deliver"] =>
  (definition, events) =>
    events.length === 0
      ? Effect.void
      : uploader.upload({ definition, events }).pipe(
          Effect.orDie,
          Effect.flatMap(({ rejected }) => (rejected.length === 0 ? Effect.void : Effect.die(rejected)))
        )

/** A MySQL database; the trail's account has SELECT and no other right. */
export const mysqlTarget = (rootUrl: string, kinds: ReadonlyArray<AuditEvent.Any>) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    const options = connectionOptions(database)
    yield* MysqlUploader.migrate(options, kinds, { index: true })
    const reader = yield* account(database, "SELECT")
    const uploader = Context.get(yield* Layer.build(MysqlUploader.layer(options)), Uploader)
    return {
      trail: yield* trailOf(MysqlTrail.layer(reader)),
      deliver: deliverBy(uploader),
      execute: (sql) => Effect.promise(() => database.query(sql)),
      other: (more) => trailOf(MysqlTrail.layer({ ...reader, ...more }))
    } satisfies ReadTarget
  })

export const sqliteTarget = Effect.gen(function* () {
  const filename = path.join(yield* temporaryDirectory, "a 100% odd #name?.db")
  const uploader = Context.get(yield* Layer.build(SqliteUploader.layer({ filename })), Uploader)
  const execute = yield* openSqlite(filename)
  return {
    trail: yield* trailOf(SqliteTrail.layer({ filename })),
    deliver: deliverBy(uploader),
    execute,
    other: ({ directory, events, tables }) =>
      trailOf(SqliteTrail.layer({ filename, directory, events, tables }))
  } satisfies ReadTarget
})

/** All elements of a stream. */
export const all = <A, E>(stream: Stream.Stream<A, E>): Effect.Effect<ReadonlyArray<A>, E> =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

/** How often the server repeats a prompt before it hashes it: about a millisecond of processor time. */
export const REPEATED = 70_000

/** Makes reading slow: `error_message` becomes the hash of a long text, computed at each read. */
export const makeSlow = (database: TestDatabase) =>
  Effect.promise(() =>
    database.query(
      `ALTER TABLE ${UseLog.table} DROP COLUMN error_message, ` +
        `ADD COLUMN error_message VARCHAR(128) AS (SHA2(REPEAT(prompt, ${REPEATED}), 512)) VIRTUAL`
    )
  )
