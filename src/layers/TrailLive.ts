/** The trail of every database: runs searches, and turns rows into events. */
import { DateTime, Effect, Option, Redacted, Stream } from "effect"
import { testsOf } from "../internal/database/conditions.js"
import {
  type Collect,
  eachRow,
  NO_TABLE,
  type Reader,
  type Row,
  type Search,
  walk
} from "../internal/database/walk.js"
import { eventIdOfLine } from "../internal/python/oldLines.js"
import { findLetter, findWaiting } from "../internal/queue/whereabouts.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { Either } from "../schema/Effect3.js"
import { TrailError } from "../schema/Errors.js"
import { restoring } from "../schema/Row.js"
import type { Disk, DiskError } from "../services/Disk.js"
import type { EventOf, Found, FoundEvent, Query, Trail, Whereabouts } from "../services/Trail.js"

export interface Sources {
  readonly reader: Reader
  /** the kinds that `get` searches if it is called without one */
  readonly kinds: ReadonlyArray<AuditEvent.Any>
  /** the directory of the queue, if `get` must search it, too */
  readonly directory: string | undefined
  readonly disk: Disk["Type"]
}

/** How a search reads: along which key, and whether it needs only the keys. */
type How = Pick<Search, "along" | "keysOnly">

const rowsOf = <E extends AuditEvent.Any, A>(
  reader: Reader,
  definition: E,
  how: How,
  { after, from, limit, onProgress, order = "ascending", to, where }: Query<E>,
  collect: Collect<A>
): Stream.Stream<A, TrailError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const tests = yield* Either.mapLeft(testsOf(definition, where), misused)
      const table = yield* reader.open({
        ...how,
        definition,
        order,
        tests,
        from: yield* millisOf("from", from),
        to: yield* millisOf("to", to),
        after: yield* checked(after)
      })
      const options = {
        limit: limit ?? Number.POSITIVE_INFINITY,
        onProgress: (time: number | null, found: number) =>
          onProgress?.({ time: time === null ? null : new Date(time), found }) ?? Effect.void
      }
      return walk(table, options, collect)
    })
  )

export const search = <E extends AuditEvent.Any, A>(
  reader: Reader,
  definition: E,
  along: Search["along"],
  query: Query<E>,
  collect: Collect<A>
): Stream.Stream<A, TrailError> => rowsOf(reader, definition, { along, keysOnly: false }, query, collect)

export const makeTrail = (sources: Sources): Trail["Type"] => {
  const { reader } = sources
  return {
    find: <E extends AuditEvent.Any>(definition: E, query: Query<E> = {}) =>
      search(reader, definition, "time", query, eachRow(foundOf(definition)<EventOf<E>>)) as Stream.Stream<
        Found<EventOf<E>>,
        TrailError
      >,
    withoutTime: <E extends AuditEvent.Any>(definition: E, query: Query<E> = {}) =>
      search(reader, definition, "primaryKey", query, eachRow(foundOf(definition)<EventOf<E>>)),
    count: (definition, query = {}) =>
      Stream.runCount(
        rowsOf(
          reader,
          definition,
          { along: "time", keysOnly: true },
          query,
          eachRow(() => 1)
        )
      ),
    get: <E extends AuditEvent.Any>(
      ...args: readonly [kind: E, eventId: string] | readonly [eventId: string]
    ): Effect.Effect<Option.Option<Whereabouts<EventOf<E>>>, TrailError> =>
      args.length === 1
        ? whereabouts(sources, sources.kinds, args[0])
        : whereabouts(sources, [args[0]], args[1])
  }
}

const UUID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/

const misused = (reason: string) => new TrailError({ class: "operator", code: "QUERY", reason })

const millisOf = (
  name: string,
  input: DateTime.DateTime.Input | undefined
): Effect.Effect<number | undefined, TrailError> =>
  input === undefined
    ? Effect.succeed(undefined)
    : Option.match(DateTime.make(input), {
        onNone: () => misused(`\`${name}\` is no time: give a Date, or a text such as 2026-01-31T08:00:00Z`),
        onSome: (time) => Effect.succeed(DateTime.toEpochMillis(time))
      })

/** Checks `after`, which becomes a part of a statement. */
const checked = (after: Query<AuditEvent.Any>["after"]) =>
  after === undefined || (UUID.test(after.eventId) && !Number.isNaN(after.time.getTime()))
    ? Effect.succeed(after)
    : misused("`after` is no event: give its `eventId` and `time`, as they were found")

/** Turns rows into events; if a row does not fit, then into an `UnfitRow` that says why. */
export const foundOf = (definition: AuditEvent.Any) => {
  const restore = restoring(definition)
  const { columns, kind } = definition
  return <A>({ eventId, time, values }: Row): Found<A, string | null, Date | null> => {
    const event = restore(values)
    const at = time === null ? null : new Date(time)
    return Either.isRight(event)
      ? new ReadEvent(kind, eventId, at, event.right as A)
      : {
          _tag: "UnfitRow",
          kind,
          eventId,
          time: at,
          raw: Object.fromEntries(columns.map(({ name }, index) => [name, values[index] ?? null])),
          issues: event.left
        }
  }
}

/** Hot path: a class, not a literal (bench/README.md#literals). */
class ReadEvent<A> implements FoundEvent<A, string | null, Date | null> {
  readonly _tag = "Event"
  constructor(
    readonly kind: string,
    readonly eventId: string | null,
    readonly time: Date | null,
    readonly event: A
  ) {}
}

/**
 * Searches the queue first: events go from there to the database, and never back. A delivered event may be in the queue
 * for a moment longer, so the database decides.
 */
const whereabouts = <A>(
  { directory, disk, reader }: Sources,
  kinds: ReadonlyArray<AuditEvent.Any>,
  given: unknown
): Effect.Effect<Option.Option<Whereabouts<A>>, TrailError> =>
  Effect.gen(function* () {
    // a JavaScript program may pass any value
    const eventId = typeof given === "string" ? given.toLowerCase() : ""
    if (!UUID.test(eventId)) return yield* misused("The id of an event is a UUID, as its receipt has it")
    const ofKinds = (line: Readonly<Record<string, unknown>>) => kinds.some(({ kind }) => kind === line.kind)
    const inQueue = <B>(find: typeof findWaiting | typeof findLetter) =>
      directory === undefined
        ? Effect.succeed(Option.none<B>())
        : (
            find(disk, disk.resolve(directory), eventId, eventIdOfLine) as Effect.Effect<
              Option.Option<B>,
              DiskError
            >
          ).pipe(Effect.mapError(queueUnreadable))

    const waiting = Option.filter(yield* inQueue<Readonly<Record<string, unknown>>>(findWaiting), ofKinds)
    const asWaiting = Option.map(waiting, (line): Whereabouts<A> => ({ _tag: "Waiting", eventId, line }))
    const found = yield* Effect.either(delivered<A>(reader, kinds, eventId))
    if (Either.isRight(found) && Option.isSome(found.right)) return found.right
    const failure = Either.isLeft(found) ? found.left : undefined
    const isAbsent = failure === undefined || failure.code === NO_TABLE
    // the event may wait for the database, or for its table
    if (Option.isSome(asWaiting) && (isAbsent || failure.class === "transient")) return asWaiting
    if (!isAbsent) return yield* failure
    const dead = Option.map(
      Option.filter(yield* inQueue<Letter>(findLetter), ({ line }) => ofKinds(line)),
      ({ letter, line }): Whereabouts<A> => ({
        _tag: "DeadLetter",
        eventId,
        line,
        letter: letter.id,
        class: letter.class,
        code: letter.code,
        reason: letter.reason
      })
    )
    return failure === undefined || Option.isSome(dead) ? dead : yield* failure
  })

type Letter = Option.Option.Value<Effect.Effect.Success<ReturnType<typeof findLetter>>>

/** Finds a delivered event. Kinds without a table are skipped; if that is all of them, then it fails. */
const delivered = <A>(
  reader: Reader,
  kinds: ReadonlyArray<AuditEvent.Any>,
  eventId: string
): Effect.Effect<Option.Option<Whereabouts<A>>, TrailError> =>
  Effect.gen(function* () {
    const absent: Array<TrailError> = []
    for (const definition of kinds) {
      const row = yield* reader.byId(definition, eventId).pipe(
        Effect.catchIf(
          ({ code }) => code === NO_TABLE,
          (error) => Effect.sync(() => void absent.push(error))
        )
      )
      if (row === undefined) continue
      const found = foundOf(definition)<A>(row) as Found<A, string, Date | null>
      return Option.some({ _tag: "Delivered", found })
    }
    const [first] = absent
    return first !== undefined && absent.length === kinds.length ? yield* first : Option.none()
  })

const queueUnreadable = (error: DiskError) =>
  new TrailError({
    class: "operator",
    code: error.code,
    reason: `The queue cannot be read: ${error.message}`,
    cause: Redacted.make(error)
  })
