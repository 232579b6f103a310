/**
 * An HttpApi that says once who is acting, from where and in which request. Its authentication provides the actor.
 * Every event below it, in any handler or fiber, carries what its kind asks for.
 *
 *     npx tsx examples/http-api-actor.ts
 *     curl -X POST localhost:3000/images -H 'authorization: Bearer li-studio-3' \
 *       -H 'content-type: application/json' -d '{"prompt":"a red fox"}'
 *     curl -X DELETE localhost:3000/images/0042 -H 'authorization: Bearer li-studio-3'
 */
import {
  HttpApi,
  HttpApiBuilder,
  HttpApiEndpoint,
  HttpApiError,
  HttpApiGroup,
  HttpApiMiddleware,
  HttpApiSecurity,
  HttpServer,
  HttpServerRequest
} from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Option, Redacted, Schema } from "effect"
import { Activity, Audit, AuditLayer, CurrentActor, logLogin } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { createServer } from "node:http"

// ---------------------------------------------------------------------------------------- who is acting

class Authentication extends HttpApiMiddleware.Tag<Authentication>()("Authentication", {
  failure: HttpApiError.Unauthorized,
  provides: CurrentActor,
  security: { bearer: HttpApiSecurity.bearer }
}) {}

/** In place of your own check: a token is `<user>-<device>`. */
const AuthenticationLive = Layer.succeed(Authentication, {
  bearer: (token) =>
    Effect.gen(function* () {
      const [, userName, deviceName] = /^(\w+)-(.+)$/.exec(Redacted.value(token)) ?? []
      if (userName === undefined) return yield* new HttpApiError.Unauthorized()
      const { headers, remoteAddress } = yield* HttpServerRequest.HttpServerRequest
      return {
        type: "user",
        userName,
        deviceName,
        ip: Option.getOrUndefined(remoteAddress),
        userAgent: headers["user-agent"],
        requestId: headers["x-request-id"]
      }
    })
})

// -------------------------------------------------------------------------------------------- what it does

const Image = Schema.Struct({ path: Schema.String })

const StudioApi = HttpApi.make("studio").add(
  HttpApiGroup.make("studio")
    .add(HttpApiEndpoint.post("login", "/login"))
    .add(
      HttpApiEndpoint.post("images", "/images")
        .setPayload(Schema.Struct({ prompt: Schema.NonEmptyString }))
        .addSuccess(Image)
        .addError(HttpApiError.ServiceUnavailable)
    )
    .add(
      HttpApiEndpoint.del("removeImage", "/images/:id")
        .setPath(Schema.Struct({ id: Schema.String }))
        .addError(HttpApiError.NotFound)
    )
    .middleware(Authentication)
)

const generateImage = (prompt: string) =>
  Effect.gen(function* () {
    if (prompt.includes("dragon")) return yield* new HttpApiError.ServiceUnavailable()
    yield* Effect.sleep("20 millis")
    return { path: `out/${encodeURIComponent(prompt)}.png` }
  })

const removeImage = (id: string): Effect.Effect<void, HttpApiError.NotFound> =>
  id === "0042" ? Effect.void : new HttpApiError.NotFound()

const StudioLive = HttpApiBuilder.group(StudioApi, "studio", (handlers) =>
  handlers
    .handle("login", () => logLogin({}))
    .handle("images", ({ payload: { prompt } }) =>
      generateImage(prompt).pipe(
        Audit.audited({ prompt, model: "gemini-2.5-flash-image", resultPath: (image) => image.path })
      )
    )
    .handle("removeImage", ({ path: { id } }) =>
      removeImage(id).pipe(
        Audit.auditedAs(Activity, (exit) => ({
          action: "image.delete",
          targetType: "image",
          targetId: id,
          outcome: Audit.outcomeOf(exit)
        }))
      )
    )
)

const AuditLive = AuditLayer.layerConfig(AuditLayer.config, { events: [Activity] }).pipe(
  Layer.provide(SqliteUploader.layer({ filename: "./audit.db" }))
)

const ServerLive = NodeHttpServer.layerConfig(createServer, {
  port: Config.withDefault(Config.port("PORT"), 3000)
})

HttpApiBuilder.serve().pipe(
  HttpServer.withLogAddress,
  Layer.provide(HttpApiBuilder.api(StudioApi)),
  Layer.provide(StudioLive),
  Layer.provide(AuthenticationLive),
  // the server first: at the end it closes before the audit log, so that the last response is still logged
  Layer.provide(ServerLive),
  Layer.provide(AuditLive),
  Layer.launch,
  NodeRuntime.runMain
)
