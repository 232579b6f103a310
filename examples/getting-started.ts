/** The program of docs/getting-started.md: two events, to the MySQL or MariaDB of AUDIT_MYSQL_URL. */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer } from "effect"
import { AuditLayer, logLogin, logUse } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"

const AuditLive = AuditLayer.layer({ directory: "./audit" }).pipe(
  Layer.provide(MysqlUploader.layerConfig({ url: Config.redacted("AUDIT_MYSQL_URL") }))
)

const program = Effect.gen(function* () {
  yield* logLogin({ userName: "li", localIp: "10.0.0.5", deviceName: "studio-3" })
  yield* logUse({
    userName: "li",
    prompt: "a red fox",
    resultPath: "out/1.png",
    status: "success",
    durationMs: 1840
  })
})

program.pipe(Effect.provide(AuditLive), NodeRuntime.runMain)
