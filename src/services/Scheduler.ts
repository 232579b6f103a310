/**
 * Decides when the queue is delivered.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect, Stream } from "effect"
import type { FlushError, UploadFailureClass } from "../schema/Errors.js"

/**
 * Why the last attempt failed; free of the database's texts.
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
 * - `offline`: the last attempt failed, and it will pass by itself
 * - `needsOperator`: the last attempt failed, and somebody has to do something
 *
 * @category models
 * @since 0.1.0
 */
export interface DeliveryStatus {
  readonly state: "idle" | "delivering" | "offline" | "needsOperator"
  readonly failure: DeliveryFailure | undefined
  /** consecutive failures */
  readonly failures: number
  /** when it is tried again, milliseconds since 1970 UTC */
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
    /** Delivers now, whatever the backoff says. */
    readonly wake: Effect.Effect<void>
    /**
     * Returns when everything that was appended before is delivered or among the dead letters; makes one attempt if
     * the database cannot be reached.
     */
    readonly flush: Effect.Effect<void, FlushError>
    readonly status: Effect.Effect<DeliveryStatus>
    /** The status now and after each change. */
    readonly changes: Stream.Stream<DeliveryStatus>
  }
>() {}
