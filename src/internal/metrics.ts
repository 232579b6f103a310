/**
 * The metrics, which docs/metrics.md explains. All carry the tag `queue`, the directory.
 *
 * No metric is updated for a single event. Appends are counted in plain numbers, which layers/Metrics.ts soon puts into
 * the registry.
 */
import { Metric } from "effect"
import { FiberRef, MetricBoundaries } from "../schema/Effect3.js"
import type { AppendError } from "../schema/Errors.js"
import { attempt } from "./contained.js"

const name = (metric: string) => `effect_audit_${metric}`

const counter = (metric: string, description: string) =>
  Metric.counter(name(metric), { description, incremental: true })

const gauge = (metric: string, description: string) => Metric.gauge(name(metric), { description })

const seconds = (metric: string, description: string, boundaries: MetricBoundaries.MetricBoundaries) =>
  Metric.histogram(name(metric), boundaries, description)

const doubling = (start: number, count: number) => MetricBoundaries.exponential({ start, factor: 2, count })

export const appended = counter("appended_events", "Events that were recorded, by kind")
export const appendFailures = counter("append_failures", "Events that were not recorded, by kind and error")
export const appendDuration = seconds(
  "append_duration_seconds",
  "How long the disk took for a group of events, fsync included",
  doubling(0.0001, 16)
)

export const waitingEvents = gauge("waiting_events", "Events on disk that wait for delivery")
export const waitingBytes = gauge("waiting_bytes", "Bytes on disk that wait for delivery")
export const oldestAge = gauge("oldest_age_seconds", "The age of the oldest event that waits; 0 if none does")
export const deadLetters = gauge("dead_letters", "Dead letters that wait for a decision")
export const missingEvents = gauge("missing_events", "Lines that the books promise and the disk lacks")
export const sealNumber = gauge("seal_number", "The number of the last seal, where delivery seals")
export const forkedChain = gauge("forked_chain", "1 once a chain of seals was not as it was left, for ever")
export const freeBytes = gauge("disk_free_bytes", "Free bytes on the disk of the queue")

export const deliveredEvents = counter("delivered_events", "Events that the database has committed")
export const batches = counter("batches", "Batches that were settled")
export const batchDuration = seconds(
  "batch_duration_seconds",
  "How long the database took for a batch",
  doubling(0.001, 15)
)
export const deliveryFailures = counter("delivery_failures", "Failed attempts to deliver, by class and code")
export const backoff = gauge(
  "backoff_seconds",
  "How long the worker waits between attempts; 0 if the last one succeeded"
)
export const state = gauge("state", "1 for the present state of delivery, 0 for the others, by state")

/** A metric of one queue. If the program's registry throws, then the update is lost. */
export const ofQueue =
  (directory: string) =>
  <Type, In, Out>(metric: Metric.Metric<Type, In, Out>): Metric.Metric<Type, In, Out> =>
    contained(Metric.tagged(metric, "queue", directory))

const contained = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>): Metric.Metric<Type, In, Out> => {
  const nothing = () => undefined
  return Metric.make(
    metric.keyType,
    (input, labels) => attempt(() => metric.unsafeUpdate(input, labels), nothing),
    (labels) => metric.unsafeValue(labels),
    (input, labels) => attempt(() => metric.unsafeModify(input, labels), nothing)
  )
}

/** The program's own tags, for `unsafeUpdate`. Hot path: `Metric.update` takes too many steps. */
export const labels = FiberRef.get(FiberRef.currentMetricLabels)

export const STATES = ["idle", "delivering", "offline", "needsOperator"] as const

/** Counts of one kind since the start: events that were appended, and that were not. */
export interface KindTally {
  appended: number
  readonly failed: Partial<Record<AppendError["_tag"], number>>
}

/** Counts by kind; `unknown` stands for kinds that the audit log does not carry. */
export interface Tally {
  readonly of: (kind: string) => KindTally
  readonly failed: (kind: string, error: AppendError["_tag"]) => void
  readonly all: ReadonlyMap<string, KindTally>
  /** Calls the function after each failure. The queue tells of successes. */
  readonly onFailure: (listener: () => void) => void
}

export const makeTally = (kinds: ReadonlyArray<{ readonly kind: string }>): Tally => {
  const unknown: KindTally = { appended: 0, failed: {} }
  const all = new Map<string, KindTally>(kinds.map(({ kind }) => [kind, { appended: 0, failed: {} }]))
  all.set("unknown", unknown)
  const of = (kind: string) => all.get(kind) ?? unknown
  let notify: () => void = () => undefined
  return {
    of,
    all,
    failed: (kind, error) => {
      const { failed } = of(kind)
      failed[error] = (failed[error] ?? 0) + 1
      notify()
    },
    onFailure: (listener) => {
      notify = listener
    }
  }
}
