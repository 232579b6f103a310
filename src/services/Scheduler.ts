/**
 * The scheduler: decides when the queue is delivered.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect, Stream } from "effect"
import type { FlushError, UploadFailureClass } from "../schema/Errors.js"

/**
 * Why the last attempt failed, without texts of the database.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeliveryFailure {
  readonly class: UploadFailureClass
  readonly code: string
  /** what is wrong and what to do next */
  readonly reason: string
}

/**
 * How delivery is going.
 *
 * - `idle`: nothing waits
 * - `delivering`: a pass is under way
 * - `offline`: the last attempt failed, and the cause passes by itself
 * - `needsOperator`: the last attempt failed, and somebody must mend the cause
 *
 * @category models
 * @since 0.1.0
 */
export interface DeliveryStatus {
  readonly state: "idle" | "delivering" | "offline" | "needsOperator"
  readonly failure: DeliveryFailure | undefined
  /** consecutive failures */
  readonly failures: number
  /** when the next attempt comes, milliseconds since 1970 UTC */
  readonly nextTry: number | undefined
  /** when the database last acknowledged a commit, milliseconds since 1970 UTC */
  readonly lastDelivery: number | undefined
}

/**
 * The service that runs the worker.
 *
 * @category services
 * @since 0.1.0
 */
export class Scheduler extends Context.Tag("effect-audit/Scheduler")<
  Scheduler,
  {
    /** Delivers now, without waiting for the backoff. */
    readonly wake: Effect.Effect<void>
    /**
     * Returns when all earlier appends are delivered or dead letters. If the database cannot be reached, then it fails
     * after one attempt.
     */
    readonly flush: Effect.Effect<void, FlushError>
    readonly status: Effect.Effect<DeliveryStatus>
    /** The status now and after each change. */
    readonly changes: Stream.Stream<DeliveryStatus>
  }
>() {}
