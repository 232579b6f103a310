/**
 * The trail: reads delivered events. It writes nothing, so an account that may only SELECT is enough.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { DateTime, Effect, Option, Schema, Stream } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { TrailError } from "../schema/Errors.js"
import type { Issue } from "../schema/Line.js"
import type { Raw } from "../schema/Row.js"

/**
 * The events of a class.
 *
 * @category models
 * @since 0.1.0
 */
export type EventOf<E extends AuditEvent.Any> = E["prototype"]

/**
 * An event that was found.
 *
 * @category models
 * @since 0.1.0
 */
export interface FoundEvent<A, Id = string, Time = Date> {
  readonly _tag: "Event"
  readonly kind: string
  readonly eventId: Id
  /** when it happened */
  readonly time: Time
  readonly event: A
}

/**
 * A row that does not fit its kind, for example one from before a field was added.
 *
 * @category models
 * @since 0.1.0
 */
export interface UnfitRow<Id = string, Time = Date> {
  readonly _tag: "UnfitRow"
  readonly kind: string
  readonly eventId: Id
  /** when it happened */
  readonly time: Time
  /** the columns of the kind, as the database shows them */
  readonly raw: Readonly<Record<string, Raw>>
  /** the fields that do not fit, and what was expected */
  readonly issues: ReadonlyArray<Issue>
}

/**
 * A result of a search: an event, or a row that does not fit its kind.
 *
 * @category models
 * @since 0.1.0
 */
export type Found<A, Id = string, Time = Date> = FoundEvent<A, Id, Time> | UnfitRow<Id, Time>

/**
 * Values that can be searched for.
 *
 * @category models
 * @since 0.1.0
 */
export type Scalar = string | number | bigint | boolean | Date

/**
 * A condition on the value of a field:
 *
 * - a value: exactly this value, whatever the collation of the column
 * - `null`: no value
 * - `{ in }`: one of these values
 * - `{ prefix }`: a text that begins with the prefix
 * - `{ from, to }`: at least `from`, and less than `to`; texts are ordered by code points
 *
 * @category models
 * @since 0.1.0
 */
export type Condition<A> =
  | A
  | null
  | { readonly in: ReadonlyArray<A> }
  | ([A] extends [string] ? { readonly prefix: string } : never)
  | ([A] extends [boolean] ? never : { readonly from?: A | undefined; readonly to?: A | undefined })

/**
 * Conditions on the fields of a kind, all of which must hold. Only texts, numbers, booleans and dates can be searched.
 *
 * @category models
 * @since 0.1.0
 */
export type Where<E extends AuditEvent.Any> = {
  readonly [
    F in keyof E["fields"] as NonNullable<Schema.Schema.Type<E["fields"][F]>> extends Scalar ? F : never
  ]?: Condition<NonNullable<Schema.Schema.Type<E["fields"][F]>>> | undefined
}

/**
 * How far a search has come.
 *
 * @category models
 * @since 0.1.0
 */
export interface Progress {
  /** everything up to this time was searched; in descending order, everything down to it */
  readonly time: Date | null
  /** how many rows were found */
  readonly found: number
}

/**
 * A search for events of a kind.
 *
 * @category options
 * @since 0.1.0
 */
export interface Query<E extends AuditEvent.Any> {
  /** events at this time, and later */
  readonly from?: DateTime.DateTime.Input | undefined
  /** events before this time */
  readonly to?: DateTime.DateTime.Input | undefined
  readonly where?: Where<E> | undefined
  /** continues after this event, the last one of an earlier search */
  readonly after?: { readonly eventId: string; readonly time: Date } | undefined
  /** by time, then by id; by default the oldest first */
  readonly order?: "ascending" | "descending" | undefined
  /** how many events, at most */
  readonly limit?: number | undefined
  /** called after each page, even if the page has no events */
  readonly onProgress?: ((progress: Progress) => Effect.Effect<void>) | undefined
}

/**
 * Where an event is.
 *
 * - `Delivered`: in its table
 * - `Waiting`: in the queue, on its way to the database
 * - `DeadLetter`: refused, and in the queue until an operator decides
 *
 * @category models
 * @since 0.1.0
 */
export type Whereabouts<A> =
  | { readonly _tag: "Delivered"; readonly found: Found<A, string, Date | null> }
  | {
      readonly _tag: "Waiting"
      readonly eventId: string
      /** the line of the event in the queue */
      readonly line: Readonly<Record<string, unknown>>
    }
  | {
      readonly _tag: "DeadLetter"
      readonly eventId: string
      readonly line: Readonly<Record<string, unknown>>
      /** the letter's id, for `effect-audit dead` */
      readonly letter: string
      readonly class: string
      readonly code: string | undefined
      readonly reason: string
    }

/**
 * The service that reads delivered events, in the order of time, then of ids. Each statement is bounded in time, and
 * few rows are in memory at once.
 *
 * @example
 * import { Effect, Stream } from "effect"
 * import { Activity, Trail } from "effect-audit"
 *
 * const denied = Effect.flatMap(Trail, (trail) =>
 *   trail
 *     .find(Activity, { from: "2026-01-01", where: { outcome: "denied", action: { prefix: "document." } } })
 *     .pipe(Stream.runForEach((found) => Effect.log(found.time, found._tag === "Event" ? found.event.actorId : found.raw)))
 * )
 *
 * @category services
 * @since 0.1.0
 */
export class Trail extends Context.Tag("effect-audit/Trail")<
  Trail,
  {
    /** The events of a kind, in the order of time. Rows without a time or an id are found by `withoutTime`. */
    readonly find: <E extends AuditEvent.Any>(
      kind: E,
      query?: Query<E>
    ) => Stream.Stream<Found<EventOf<E>>, TrailError>
    /**
     * The rows of a kind without a time or without an id, in the order of their primary key. They come from other
     * writers, or from before `migrate`.
     */
    readonly withoutTime: <E extends AuditEvent.Any>(
      kind: E,
      query?: Pick<Query<E>, "where" | "order" | "limit" | "onProgress">
    ) => Stream.Stream<Found<EventOf<E>, string | null, Date | null>, TrailError>
    /** How many events `find` would find. */
    readonly count: <E extends AuditEvent.Any>(
      kind: E,
      query?: Omit<Query<E>, "after" | "limit" | "order">
    ) => Effect.Effect<number, TrailError>
    /**
     * Where an event is; none if it is nowhere. Without a kind it searches all kinds of the layer. Kinds whose table
     * does not exist, or may not be read, are skipped; if that is all of them, then it fails.
     */
    readonly get: {
      <E extends AuditEvent.Any>(
        kind: E,
        eventId: string
      ): Effect.Effect<Option.Option<Whereabouts<EventOf<E>>>, TrailError>
      (eventId: string): Effect.Effect<Option.Option<Whereabouts<AuditEvent.Instance>>, TrailError>
    }
  }
>() {}
