/**
 * Probes for a load balancer, Kubernetes or a monitor: is the program alive, and can it be relied on?
 *
 *     npx tsx examples/health.ts
 *     curl -i localhost:3000/live localhost:3000/ready
 *
 * If the database is away, do not restart the program or take it out of service: its events wait on disk. An answer of
 * 503 says that somebody has to act.
 */
import { HttpRouter, HttpServer, HttpServerResponse } from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer } from "effect"
import { Audit, AuditLayer } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { createServer } from "node:http"

const ready = Audit.status.pipe(
  Effect.flatMap(({ dead, failure, missing, oldest, state, waiting }) => {
    const needsSomebody = state === "needsOperator" || missing > 0
    const body = { state, reason: failure?.reason, waiting, oldest, dead, missing }
    return HttpServerResponse.json(body, { status: needsSomebody ? 503 : 200 })
  }),
  // if the directory cannot be read, it can hardly be written to
  Effect.catchTag("QueueAccessError", ({ message }) =>
    HttpServerResponse.json({ reason: message }, { status: 503 })
  )
)

const router = HttpRouter.empty.pipe(
  HttpRouter.get("/live", HttpServerResponse.text("alive\n")),
  HttpRouter.get("/ready", ready)
)

const UploaderLive = Layer.unwrapEffect(
  Effect.map(Config.withDefault(Config.nonEmptyString("AUDIT_SQLITE_FILE"), "./audit.db"), (filename) =>
    SqliteUploader.layer({ filename })
  )
)

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(Layer.provide(UploaderLive))

const ServerLive = NodeHttpServer.layerConfig(createServer, {
  port: Config.withDefault(Config.port("PORT"), 3000)
})

router.pipe(
  HttpServer.serve(),
  HttpServer.withLogAddress,
  Layer.provide(ServerLive),
  Layer.provide(AuditLive),
  Layer.launch,
  NodeRuntime.runMain
)
