/** The metrics, their documentation, and the spans and annotations of delivery. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Clock, Effect, Layer, Logger, Metric, MetricState, Tracer } from "effect"
import * as HashMap from "effect/HashMap"
import * as TestClock from "effect/TestClock"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { Audit, logUse } from "../../src/index.js"
import * as AuditTest from "../../src/layers/AuditTest.js"
import { freePort } from "../support/net.js"
import { start, temporaryDirectory } from "../support/program.js"

/** The registry's values now, as `name{label=value}`; of a histogram its count. */
const registry = (): ReadonlyMap<string, number> =>
  new Map(
    Metric.unsafeSnapshot()
      .filter(({ metricKey }) => metricKey.name.startsWith("effect_audit_"))
      .map(({ metricKey, metricState }) => {
        const labels = metricKey.tags
          .filter(({ key }) => key !== "queue")
          .map(({ key, value }) => `${key}=${value}`)
          .sort()
        const value = MetricState.isHistogramState(metricState)
          ? metricState.count
          : MetricState.isCounterState(metricState)
            ? Number(metricState.count)
            : MetricState.isGaugeState(metricState)
              ? Number(metricState.value)
              : Number.NaN
        return [`${metricKey.name.replace("effect_audit_", "")}{${labels.join(",")}}`, value] as const
      })
  )

const since = (before: ReadonlyMap<string, number>, name: string) =>
  (registry().get(name) ?? 0) - (before.get(name) ?? 0)

/** Passes seconds one by one, so that a slow machine too has measured by the last but one. */
const seconds = (count: number) => Effect.repeatN(TestClock.adjust("1 second"), count - 1)

describe("metrics", () => {
  it.effect("count recorded, refused, delivered and failed events, and show the state", () =>
    Effect.gen(function* () {
      const before = registry()
      yield* Effect.forEach([1, 2, 3], (n) => logUse({ prompt: String(n), status: "success" }))
      yield* Effect.ignore(Audit.recordUse({ status: 1 as unknown as string }))
      yield* Audit.flush
      yield* seconds(2)
      assert.strictEqual(since(before, "appended_events{kind=use_log}"), 3)
      assert.strictEqual(since(before, "append_failures{error=InvalidEvent,kind=use_log}"), 1)
      assert.strictEqual(since(before, "delivered_events{}"), 3)
      assert.isAtLeast(since(before, "append_duration_seconds{}"), 1)
      assert.isAtLeast(since(before, "batches{}"), 1)
      assert.isAtLeast(since(before, "batch_duration_seconds{}"), 1)
      assert.strictEqual(registry().get("state{state=idle}"), 1)
      assert.strictEqual(registry().get("waiting_events{}"), 0)
      assert.strictEqual(registry().get("missing_events{}"), 0)

      yield* AuditTest.outage
      yield* logUse({ prompt: "x", status: "success" })
      yield* Effect.ignore(Audit.flush)
      yield* seconds(10)
      const now = registry()
      assert.strictEqual(now.get("waiting_events{}"), 1)
      assert.isAbove(now.get("waiting_bytes{}")!, 0)
      assert.isAtLeast(now.get("oldest_age_seconds{}")!, 9)
      assert.strictEqual(now.get("state{state=idle}"), 0)
      assert.isAbove(now.get("backoff_seconds{}")!, 0)
      const failures = [...now].filter(([name]) => name.startsWith("delivery_failures{class=transient"))
      assert.isAbove(
        failures.reduce((sum, [, count]) => sum + count, 0),
        0
      )
    }).pipe(Effect.provide(AuditTest.layer))
  )

  it.effect("do no work while the queue is idle and empty", () =>
    Effect.gen(function* () {
      yield* logUse({ prompt: "x", status: "success" })
      yield* Audit.flush
      yield* TestClock.adjust("10 seconds")
      // only the polls of the worker and of the metrics, of 60 seconds each
      const now = yield* Clock.currentTimeMillis
      const armed = yield* TestClock.sleeps()
      assert.isNotEmpty([...armed])
      for (const at of armed) assert.isAtLeast(at - now, 49_000)
    }).pipe(Effect.provide(AuditTest.layer))
  )
})

describe("delivery", () => {
  it.effect("has a span for each upload, and annotates the log", () => {
    const spans: Array<Tracer.Span> = []
    const annotations: Array<Readonly<Record<string, unknown>>> = []
    const tracer = Tracer.make({
      span: (name, parent, context, links, startTime, kind) => {
        const attributes = new Map<string, unknown>()
        const span: Tracer.Span = {
          _tag: "Span",
          name,
          spanId: String(spans.length),
          traceId: "trace",
          parent,
          context,
          status: { _tag: "Started", startTime },
          attributes,
          links,
          sampled: true,
          kind,
          end: () => undefined,
          attribute: (key, value) => void attributes.set(key, value),
          event: () => undefined,
          addLinks: () => undefined
        }
        spans.push(span)
        return span
      },
      context: (f) => f()
    })
    const logger = Logger.make(({ annotations: given }) => {
      annotations.push(Object.fromEntries(HashMap.toEntries(given)))
    })
    return Effect.gen(function* () {
      yield* logUse({ prompt: "x", status: "success" })
      yield* Audit.flush
      yield* AuditTest.outage
      yield* logUse({ prompt: "y", status: "success" })
      yield* Effect.ignore(Audit.flush)
      const [upload] = spans.filter(({ name }) => name === "effect-audit.upload")
      assert.deepInclude(Object.fromEntries(upload!.attributes), {
        "audit.kind": "use_log",
        "audit.events": 1,
        "audit.batch": "0:0"
      })
      assert.strictEqual(upload!.parent._tag, "None")
      assert.isEmpty(spans.filter(({ name }) => name !== "effect-audit.upload" && name !== "program"))
      assert.isTrue(annotations.some(({ queue }) => typeof queue === "string"))
    }).pipe(
      Effect.provide(AuditTest.layer),
      Effect.withSpan("program"),
      Effect.provide(Layer.merge(Layer.setTracer(tracer), Logger.replace(Logger.defaultLogger, logger)))
    )
  })
})

describe("documentation", () => {
  const read = (file: string) => fs.readFileSync(new URL(`../../${file}`, import.meta.url), "utf8")
  const defined = [
    ...read("src/internal/metrics.ts").matchAll(/= (counter|gauge|seconds)\(\s*"([a-z_]+)"/g)
  ].map(([, type, name]) => ({ type: type!, name: `effect_audit_${name!}` }))
  /** the names that the OpenTelemetry exporter uses */
  const exported = defined.flatMap(({ name, type }) =>
    type === "counter"
      ? [`${name}_total`]
      : type === "gauge"
        ? [name]
        : [`${name}_bucket`, `${name}_sum`, `${name}_count`]
  )

  /** test/proof/visible.test.ts covers these */
  const OF_PROOF = ["effect_audit_seal_number", "effect_audit_forked_chain"]

  it("examples/metrics.ts exports them by these names", async () => {
    const directory = temporaryDirectory()
    const port = await freePort()
    const program = start("examples/metrics.ts", { cwd: directory.path, env: { METRICS_PORT: String(port) } })
    try {
      const delivered = /^effect_audit_delivered_events_total\{[^}]*\} [1-9]/m
      const text = await vi.waitFor(
        async () => {
          const answer = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
          assert.match(answer, delivered)
          return answer
        },
        { timeout: 30_000, interval: 200 }
      )
      assert.match(text, /^effect_audit_appended_events_total\{[^}]*kind="use_log"[^}]*\} \d+/m)
      assert.match(text, /^effect_audit_state\{[^}]*state="needsOperator"[^}]*\} 0/m)
      const names = new Set(text.match(/^effect_audit_[a-z_]+/gm))
      for (const name of names) assert.include(exported, name)
      // the others appear with the first failure, or with a proof
      const absent = exported.filter((name) => !names.has(name))
      assert.deepEqual(absent, [
        "effect_audit_append_failures_total",
        ...OF_PROOF,
        "effect_audit_delivery_failures_total"
      ])
    } finally {
      program.kill("SIGTERM")
      assert.strictEqual((await program.ended).code, 0)
      directory.remove()
    }
  })

  const dashboard = JSON.parse(read("docs/grafana-dashboard.json")) as {
    readonly panels: ReadonlyArray<{
      readonly title: string
      readonly description: string
      readonly targets: ReadonlyArray<{ readonly expr: string; readonly legendFormat: string }>
    }>
  }
  const targets = dashboard.panels.flatMap((panel) => panel.targets)
  /** the text of each alert, from its expression on */
  const alerts = read("docs/alerts.yml")
    .split(/- alert: /)
    .slice(1)

  it("the dashboard and the alerts use metrics that exist", () => {
    for (const texts of [targets.map(({ expr }) => expr), alerts]) {
      const used = new Set(texts.flatMap((text) => text.match(/\beffect_audit_[a-z_]+/g) ?? []))
      assert.isAtLeast(used.size, 5)
      for (const name of used) assert.include(exported, name)
    }
  })

  it.effect("the dashboard, the alerts and docs/metrics.md use labels that the metrics have", () =>
    Effect.gen(function* () {
      // everything that can happen, so that each label appears
      yield* Effect.ignore(Audit.recordUse({ status: 1 as unknown as string }))
      yield* logUse({ status: "success" })
      yield* Audit.flush
      yield* AuditTest.outage
      yield* logUse({ status: "success" })
      yield* Effect.ignore(Audit.flush)
      yield* seconds(2)
      const labels = new Map<string, Set<string>>(OF_PROOF.map((name) => [name, new Set(["queue"])]))
      for (const { metricKey } of Metric.unsafeSnapshot()) {
        const keys = labels.get(metricKey.name) ?? new Set()
        for (const { key } of metricKey.tags) keys.add(key)
        labels.set(metricKey.name, keys)
      }

      const documented = Array.from(
        read("docs/metrics.md").matchAll(/^\| `(effect_audit_\w+)` +\|[^|]+\|[^|]+\|([^|]*)\|/gm),
        ([, name, text]) =>
          [
            name!,
            [...text!.matchAll(/\w+/g)]
              .map(([label]) => label)
              .concat("queue")
              .sort()
          ] as const
      )
      assert.deepStrictEqual(
        Object.fromEntries(documented),
        Object.fromEntries(defined.map(({ name }) => [name, [...labels.get(name)!].sort()]))
      )

      let checked = 0
      for (const text of [...targets.map(({ expr, legendFormat }) => `${expr} ${legendFormat}`), ...alerts]) {
        const [name] = /effect_audit_[a-z_]+?(?=_(total|bucket)\b|\b)/.exec(text)!
        const used = [
          ...text.matchAll(/[{,](\w+)=/g),
          ...text.matchAll(/\bby \((\w+)(?:, (\w+))?\)/g),
          ...text.matchAll(/\{\{ ?(?:\$labels\.)?(\w+) ?\}\}/g)
        ].flatMap(([, ...found]) => found.filter(Boolean))
        checked += used.length
        for (const label of used.filter((label) => label !== "le"))
          assert.include([...labels.get(name)!], label, text)
      }
      assert.isAtLeast(checked, 30)
    }).pipe(Effect.provide(AuditTest.layer))
  )

  const hasPromtool = spawnSync("promtool", ["--version"]).status === 0
  describe.skipIf(!hasPromtool)("promtool (skipped without Prometheus)", () => {
    const promtool = (...args: ReadonlyArray<string>) => {
      const { status, stderr, stdout } = spawnSync("promtool", args, {
        cwd: fileURLToPath(new URL("..", import.meta.url)),
        encoding: "utf8"
      })
      assert.strictEqual(status, 0, stdout + stderr)
    }

    it("the alerts fire when they should, and only then", () => {
      promtool("check", "rules", "--lint-fatal", "docs/alerts.yml")
      promtool("test", "rules", "test/fixtures/alerts.yml")
    })

    it("the expressions of the dashboard are PromQL", () => {
      const directory = temporaryDirectory()
      const rules = targets.map(({ expr }, index) => ({
        record: `panel:${index}`,
        expr: expr.replaceAll("$__rate_interval", "5m")
      }))
      const file = path.join(directory.path, "panels.json")
      fs.writeFileSync(file, JSON.stringify({ groups: [{ name: "panels", rules }] }))
      promtool("check", "rules", file)
      directory.remove()
    })
  })

  it("docs/metrics.md names every metric, and no other", () => {
    const named = new Set(read("docs/metrics.md").match(/\beffect_audit_[a-z_]+[a-z]/g))
    assert.deepEqual([...named].sort(), defined.map(({ name }) => name).sort())
  })

  it("each alert has a description", () => {
    assert.isAtLeast(alerts.length, 5)
    for (const alert of alerts) assert.match(alert, /expr: .+[^]*summary: .+[^]*description: .+/)
  })

  it("the dashboard describes each panel", () => {
    for (const { description, title } of dashboard.panels) assert.isAbove(description.length, title.length)
  })
})

// last, since the registry keeps the label, which the documentation does not list
describe("metrics of a program with labels", () => {
  it.effect("carry the labels of the program", () =>
    Effect.gen(function* () {
      const before = registry()
      yield* logUse({ prompt: "x", status: "success" })
      yield* Audit.flush
      yield* seconds(2)
      for (const name of ["delivered_events", "batches", "batch_duration_seconds", "append_duration_seconds"])
        assert.isAtLeast(since(before, `${name}{service=shop}`), 1, name)
    }).pipe(Effect.provide(AuditTest.layer), Effect.tagMetrics("service", "shop"))
  )
})
