/**
 * The trail of SQLite: reads delivered events. `effect-audit/sqlite` exports it.
 *
 * @since 0.1.0
 */
import { Config, Effect, Layer } from "effect"
import type { ConfigError, Scope } from "effect"
import type { TableNames } from "../internal/database/rows.js"
import { Activity } from "../schema/Activity.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import { Trail } from "../services/Trail.js"

/**
 * Where the events are.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** the database's file */
  readonly filename: string
  /** the tables of the events, by kind, as in `SqliteUploader` */
  readonly tables?: TableNames | undefined
  /** the kinds that `get` searches; by default `UseLog`, `LoginLog` and `Activity` */
  readonly events?: ReadonlyArray<AuditEvent.Any> | undefined
  /** the directory of the queue, where `get` also finds events that wait or were refused */
  readonly directory?: string | undefined
}

/**
 * Reads from an SQLite file without changing it, also while another program writes to it. Statements run in the thread
 * of the program; each reads a bounded number of rows.
 *
 * @example
 * import { SqliteTrail } from "effect-audit/sqlite"
 *
 * SqliteTrail.layer({ filename: "./audit.db" })
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Trail> => Layer.scoped(Trail, make(options))

/**
 * Like {@link layer}, with options from a Config.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  config: Config.Config.Wrap<Omit<Options, "events">>
): Layer.Layer<Trail, ConfigError.ConfigError> =>
  Layer.scoped(Trail, Effect.flatMap(Config.unwrap(config), make))

/**
 * The trail of {@link layer}, for a layer of your own.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Trail["Type"], never, Scope.Scope> =>
  Effect.gen(function* () {
    // not a static import: most programs only write, and need not load what reads
    const { driver, makeDisk, makeReader, makeTrail } = yield* Effect.promise(reading)
    // loaded now: a program that runs for long should not need files of its installation later
    yield* driver
    const disk = makeDisk()
    return makeTrail({
      reader: yield* makeReader(options, disk),
      kinds: options.events ?? [UseLog, LoginLog, Activity],
      directory: options.directory,
      disk
    })
  })

const reading = async () => {
  const { driver } = await import("../internal/database/sqlite/connection.js")
  const { makeReader } = await import("../internal/database/sqlite/reading.js")
  const { makeTrail } = await import("./TrailLive.js")
  const { make: makeDisk } = await import("./NodeDisk.js")
  return { driver, makeDisk, makeReader, makeTrail }
}
