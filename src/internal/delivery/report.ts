/** The report: how delivery is going, in the status, the log and the metrics. */
import { Cause, Data, Duration, Effect, Metric, Option, Redacted, SubscriptionRef, type Stream } from "effect"
import { visible } from "../../schema/Visible.js"
import type { QueueFile } from "../../services/QueueFile.js"
import type { DeliveryFailure, DeliveryStatus } from "../../services/Scheduler.js"
import * as metrics from "../metrics.js"
import type { PassError } from "./pass.js"

/** An untyped failure: a fault of this package, or of a program's own disk. */
export class Defect extends Data.TaggedError("Defect")<{ readonly defect: Cause.Cause<unknown> }> {
  override get message(): string {
    return "delivery stopped unexpectedly; nothing is lost. Report it, with the log at Debug; it is tried again"
  }
}

export type AttemptError = PassError | Defect

export const errorOf = (cause: Cause.Cause<PassError>): AttemptError =>
  Option.getOrElse(Cause.failureOption(cause), () => new Defect({ defect: cause }))

export interface Report {
  readonly status: Effect.Effect<DeliveryStatus>
  readonly changes: Stream.Stream<DeliveryStatus>
  /** Emits the same status again. */
  readonly repeat: Effect.Effect<void>
  readonly began: Effect.Effect<void>
  /** The cursor has passed delivered events at this time, milliseconds since 1970 UTC. */
  readonly delivered: (at: number) => Effect.Effect<void>
  readonly succeeded: Effect.Effect<void>
  readonly failed: (error: AttemptError) => Effect.Effect<void>
  /** The next attempt comes after this delay. */
  readonly backsOff: (delay: Duration.Duration) => Effect.Effect<void>
  /** Sets the last status, which others see when this process is gone. */
  readonly conclude: (hasDrained: boolean) => Effect.Effect<void>
}

const UNFINISHED: DeliveryFailure = {
  class: "transient",
  code: "ETIMEDOUT",
  reason: "the last delivery did not end within shutdownTimeout; the next start delivers what waits"
}

const IDLE = { state: "idle", failure: undefined, failures: 0, nextTry: undefined } as const

export const make = (queue: QueueFile["Type"]): Effect.Effect<Report> =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const own = metrics.ofQueue(queue.directory)
    const failures = own(metrics.deliveryFailures)
    const backoff = own(metrics.backoff)
    const status = yield* SubscriptionRef.make<DeliveryStatus>({ ...IDLE, lastDelivery: undefined })
    const update = (change: Partial<DeliveryStatus>) =>
      SubscriptionRef.update(status, (now) => ({ ...now, ...change }))

    const failed: Report["failed"] = (error) =>
      Effect.gen(function* () {
        const failure = failureOf(error)
        const before = yield* SubscriptionRef.get(status)
        const state = stateOf(failure)
        yield* update({ state, failure, failures: before.failures + 1 })
        // once for each change of state, not for each retry
        if (before.state !== state || before.failure?.code !== failure.code) {
          const { next, settled } = yield* queue.progress
          const reason = visible(`${failure.reason} (${failure.code})`)
          const text = `audit: ${next - settled} events wait on disk: ${reason}`
          yield* state === "needsOperator" ? Effect.logError(text) : Effect.logWarning(text)
        }
        const original = originalOf(error)
        yield* Effect.logDebug(
          "audit: delivery failed",
          ...(original === undefined ? [error] : [error, original])
        )
        const ofClass = Metric.tagged(failures, "class", failure.class)
        yield* Metric.increment(Metric.tagged(ofClass, "code", failure.code))
      })

    return {
      status: SubscriptionRef.get(status),
      changes: status.changes,
      repeat: update({}),
      began: Effect.flatMap(SubscriptionRef.get(status), ({ failure }) =>
        failure === undefined ? update({ state: "delivering" }) : Effect.void
      ),
      delivered: (at) => update({ lastDelivery: at }),
      succeeded: Effect.gen(function* () {
        const { failure } = yield* SubscriptionRef.get(status)
        if (failure !== undefined) yield* Effect.logInfo("audit: delivery has recovered")
        yield* update(IDLE)
        yield* Metric.set(backoff, 0)
      }),
      failed,
      backsOff: (delay) =>
        Effect.suspend(() =>
          Effect.zipRight(
            update({ nextTry: clock.unsafeCurrentTimeMillis() + Duration.toMillis(delay) }),
            Metric.set(backoff, Duration.toSeconds(delay))
          )
        ),
      conclude: Effect.fnUntraced(function* (hasDrained) {
        const { next, settled } = yield* queue.progress
        const { failure = hasDrained ? undefined : UNFINISHED } = yield* SubscriptionRef.get(status)
        yield* next === settled || failure === undefined
          ? update(IDLE)
          : update({ state: stateOf(failure), failure, nextTry: undefined })
        if (next > settled) {
          yield* Effect.logWarning(
            `audit: ${next - settled} events wait on disk for the next start (${queue.directory})`
          )
        }
      })
    }
  })

const stateOf = (failure: DeliveryFailure) => (failure.class === "operator" ? "needsOperator" : "offline")

/** The original error, only for the log at Debug: its text may echo a row. */
const originalOf = (error: AttemptError): unknown => {
  if (error._tag === "Defect") return error.defect
  return error._tag === "UploadError" && error.cause !== undefined ? Redacted.value(error.cause) : undefined
}

const failureOf = (error: AttemptError): DeliveryFailure => {
  switch (error._tag) {
    case "UploadError":
      return { class: error.class, code: error.code, reason: error.reason }
    case "QueueAccessError":
      // the disk does not mend itself
      return { class: "operator", code: error.code, reason: error.message }
    case "Defect":
      return { class: "operator", code: "DEFECT", reason: error.message }
  }
}
