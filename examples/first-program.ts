/**
 * The first program: two events, on disk when the calls return, and in the database soon after.
 *
 *     npx tsx examples/first-program.ts
 *
 * It delivers to the MySQL of AUDIT_MYSQL_URL (after `effect-audit migrate`) or, without one, to ./audit.db, an
 * embedded SQLite file. What cannot be delivered now waits in ./audit for the next start.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Option } from "effect"
import { AuditLayer, logLogin, logUse } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"

const UploaderLive = Config.option(Config.redacted("AUDIT_MYSQL_URL")).pipe(
  Effect.map(
    Option.match({
      onNone: () => SqliteUploader.layer({ filename: "./audit.db" }),
      onSome: (url) => MysqlUploader.layer({ url })
    })
  ),
  Layer.unwrapEffect
)

const AuditLive = AuditLayer.layer({ directory: "./audit" }).pipe(Layer.provide(UploaderLive))

const program = Effect.gen(function* () {
  yield* logLogin({ userName: "li", localIp: "10.0.0.5", deviceName: "studio-3" })
  yield* logUse({
    userName: "li",
    deviceName: "studio-3",
    prompt: "a red fox",
    resultPath: "out/1.png",
    status: "success",
    model: "gemini-2.5-flash-image",
    durationMs: 1840,
    finishReason: "STOP"
  })
})

program.pipe(Effect.provide(AuditLive), NodeRuntime.runMain)
