/**
 * An HttpApi that says once who is acting: its authentication provides the actor, and every event below it, in any
 * handler or fiber, carries the user and the device.
 *
 *     npx tsx examples/http-api-actor.ts
 *     curl -X POST localhost:3000/images -H 'authorization: Bearer li-studio-3' \
 *       -H 'content-type: application/json' -d '{"prompt":"a red fox"}'
 */
import {
  HttpApi,
  HttpApiBuilder,
  HttpApiEndpoint,
  HttpApiError,
  HttpApiGroup,
  HttpApiMiddleware,
  HttpApiSecurity,
  HttpServer
} from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Redacted, Schema } from "effect"
import { Audit, AuditLayer, CurrentActor, logLogin } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { createServer } from "node:http"

// ---------------------------------------------------------------------------------------- who is acting

class Authentication extends HttpApiMiddleware.Tag<Authentication>()("Authentication", {
  failure: HttpApiError.Unauthorized,
  provides: CurrentActor,
  security: { bearer: HttpApiSecurity.bearer }
}) {}

/** Stands for your own check: a token is `<user>-<device>`. */
const AuthenticationLive = Layer.succeed(Authentication, {
  bearer: (token) => {
    const [, userName, deviceName] = /^(\w+)-(.+)$/.exec(Redacted.value(token)) ?? []
    return userName === undefined
      ? Effect.fail(new HttpApiError.Unauthorized())
      : Effect.succeed({ userName, deviceName })
  }
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
    .middleware(Authentication)
)

const generateImage = (prompt: string) =>
  Effect.gen(function* () {
    if (prompt.includes("dragon")) return yield* new HttpApiError.ServiceUnavailable()
    yield* Effect.sleep("20 millis")
    return { path: `out/${encodeURIComponent(prompt)}.png` }
  })

const StudioLive = HttpApiBuilder.group(StudioApi, "studio", (handlers) =>
  handlers
    .handle("login", () => logLogin({}))
    .handle("images", ({ payload: { prompt } }) =>
      generateImage(prompt).pipe(
        Audit.audited({ prompt, model: "gemini-2.5-flash-image", resultPath: (image) => image.path })
      )
    )
)

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(
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
