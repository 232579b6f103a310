/**
 * The metrics of an audit log on a Prometheus text endpoint.
 *
 *     npx tsx examples/metrics.ts
 *     curl localhost:9464/metrics
 *
 * docs/metrics.md explains the names; METRICS_PORT says where. Beside effect-audit it needs @effect/opentelemetry,
 * @opentelemetry/exporter-prometheus and their peers.
 */
import * as Metrics from "@effect/opentelemetry/Metrics"
import * as Resource from "@effect/opentelemetry/Resource"
import { NodeRuntime } from "@effect/platform-node"
import { PrometheusExporter } from "@opentelemetry/exporter-prometheus"
import { Config, Effect, Layer, Schedule } from "effect"
import { AuditLayer, logUse } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"

const MetricsLive = Layer.unwrapEffect(
  Effect.map(Config.withDefault(Config.port("METRICS_PORT"), 9464), (port) =>
    Metrics.layer(() => new PrometheusExporter({ host: "127.0.0.1", port })).pipe(
      Layer.provide(Resource.layer({ serviceName: "painter" }))
    )
  )
)

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(
  Layer.provide(SqliteUploader.layer({ filename: "./audit.db" }))
)

const paint = logUse({ userName: "li", prompt: "a red fox", status: "success", durationMs: 1840 })

Effect.repeat(paint, Schedule.spaced("100 millis")).pipe(
  Effect.provide(Layer.merge(AuditLive, MetricsLive)),
  NodeRuntime.runMain
)
