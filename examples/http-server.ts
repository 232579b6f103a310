/**
 * An HTTP server that logs who used it, for what, and how that ended. One middleware does it, and no handler knows.
 *
 *     npx tsx examples/http-server.ts
 *     curl -X POST localhost:3000/images -H 'x-user: li' -H 'content-type: application/json' -d '{"prompt":"a red fox"}'
 *
 * The event is on disk before the response is sent. PORT and AUDIT_DIRECTORY say where; SIGINT and SIGTERM let the
 * requests under way end, deliver what waits, and exit.
 */
import {
  HttpMiddleware,
  HttpRouter,
  HttpServer,
  HttpServerError,
  HttpServerRequest,
  HttpServerResponse
} from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Duration, Effect, Layer, Schema } from "effect"
import { AuditLayer, logUse } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { createServer } from "node:http"

const audited = HttpMiddleware.make((handler) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const [duration, response] = yield* handler.pipe(
      // a failure is logged as the response that it would become anyway
      Effect.catchAllCause((cause) => Effect.map(HttpServerError.causeResponse(cause), ([it]) => it)),
      Effect.timed
    )
    yield* logUse({
      userName: request.headers["x-user"],
      deviceName: request.headers["user-agent"],
      prompt: `${request.method} ${request.url}`,
      status: response.status < 400 ? "success" : "failure",
      durationMs: Math.round(Duration.toMillis(duration)),
      finishReason: String(response.status)
    })
    return response
  })
)

const Order = Schema.Struct({ prompt: Schema.NonEmptyString })

const router = HttpRouter.empty.pipe(
  HttpRouter.post(
    "/images",
    Effect.gen(function* () {
      const { prompt } = yield* HttpServerRequest.schemaBodyJson(Order)
      return yield* HttpServerResponse.json({ image: `${encodeURIComponent(prompt)}.png` })
    })
  )
)

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(
  Layer.provide(SqliteUploader.layer({ filename: "./audit.db" }))
)

const ServerLive = NodeHttpServer.layerConfig(createServer, {
  port: Config.withDefault(Config.port("PORT"), 3000)
})

// not as the middleware of `serve`, which would send the response before the event is on disk
audited(router).pipe(
  HttpServer.serve(),
  HttpServer.withLogAddress,
  // the server first: at the end it closes before the audit log, so that the last response is still logged
  Layer.provide(ServerLive),
  Layer.provide(AuditLive),
  Layer.launch,
  NodeRuntime.runMain
)
