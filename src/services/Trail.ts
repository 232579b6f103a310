/**
 * Reads the events that were delivered. It writes nothing, so an account of its own that may SELECT is enough.
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
 * An event as it was found.
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
 * What a search finds: an event, or a row that does not fit its kind.
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
 * What the value of a field must be:
 *
 * - a value: exactly that, whatever the collation of the column
 * - `null`: none
 * - `{ in }`: one of these values
 * - `{ prefix }`: a text that begins so
 * - `{ from, to }`: from the first on, and before the second; texts are ordered by their code points
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
 * Conditions on the fields of a kind, all of which must hold. Fields that are no texts, numbers, booleans or dates cannot
 * be searched.
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
  /** everything up to this time has been looked at; in descending order everything down to it */
  readonly time: Date | null
  /** so many rows were found */
  readonly found: number
}

/**
 * What to look for.
 *
 * @category options
 * @since 0.1.0
 */
export interface Query<E extends AuditEvent.Any> {
  /** events of this time, and later ones */
  readonly from?: DateTime.DateTime.Input | undefined
  /** events before this time */
  readonly to?: DateTime.DateTime.Input | undefined
  readonly where?: Where<E> | undefined
  /** go on behind this event, the last one that was found before */
  readonly after?: { readonly eventId: string; readonly time: Date } | undefined
  /** by time, and by id within one; the oldest first by default */
  readonly order?: "ascending" | "descending" | undefined
  /** at most so many events */
  readonly limit?: number | undefined
  /** told after each page, also while nothing is found */
  readonly onProgress?: ((progress: Progress) => Effect.Effect<void>) | undefined
}

/**
 * Where an event is.
 *
 * - `Delivered`: in its table
 * - `Waiting`: in the queue, on its way to the database
 * - `DeadLetter`: in the queue, refused, until somebody decides about it
 *
 * @category models
 * @since 0.1.0
 */
export type Whereabouts<A> =
  | { readonly _tag: "Delivered"; readonly found: Found<A, string, Date | null> }
  | {
      readonly _tag: "Waiting"
      readonly eventId: string
      /** the event as it stands in the queue */
      readonly line: Readonly<Record<string, unknown>>
    }
  | {
      readonly _tag: "DeadLetter"
      readonly eventId: string
      readonly line: Readonly<Record<string, unknown>>
      /** by which `effect-audit dead` knows it */
      readonly letter: string
      readonly class: string
      readonly code: string | undefined
      readonly reason: string
    }

/**
 * The service that reads what was delivered, in the order of time and, within one time, of the ids. Each statement is
 * bounded in time, and few rows are in memory at once.
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
    /** The events of a kind, in the order of time. Rows without a time or an id are left to `withoutTime`. */
    readonly find: <E extends AuditEvent.Any>(
      kind: E,
      query?: Query<E>
    ) => Stream.Stream<Found<EventOf<E>>, TrailError>
    /** The rows of a kind that have no time or no id, by their primary key: those of other writers, or from before `migrate`. */
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
     * Where an event is; none if it is nowhere. Without a kind all kinds of the layer are looked through. Those that have
     * no table, or none that the account may read, are passed over; it fails if that is all of them.
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
