/**
 * The program of the demo that is killed. It prints the id of each event once `record` has returned, and never ends by
 * itself.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Logger, LogLevel } from "effect"
import { Audit, AuditLayer } from "effect-audit"
import * as Database from "./database.js"
import { events } from "./events.js"

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(
  Layer.provide(
    Layer.unwrapEffect(Effect.map(Config.string("DEMO_DATABASE"), (address) => Database.at(address).uploader))
  )
)

const logAll = Effect.flatMap(Config.integer("DEMO_EVENTS"), (count) =>
  Effect.forEach(
    events(count),
    (event) =>
      (event.kind === "use" ? Audit.recordUse(event.input) : Audit.recordLogin(event.input)).pipe(
        Effect.flatMap(({ eventId }) => Console.log(eventId))
      ),
    { concurrency: 16, discard: true }
  )
)

Effect.zipRight(logAll, Effect.never).pipe(
  Effect.provide(AuditLive),
  Logger.withMinimumLogLevel(LogLevel.None),
  NodeRuntime.runMain
)
