/** The events of the page: what the database has, found by the filters of the page. */
import { Chunk, Effect, Option, Schema, Stream } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { usageError } from "./exit.js"
import { linesOf } from "./exported.js"
import { isId } from "./mask.js"
import { momentOf } from "./moment.js"
import type { Recorder } from "./readings.js"
import { userFieldOf, whereOf } from "./search.js"
import { asJson, csvHead, showing, whereaboutsShown } from "./shown.js"
import { noEvent, type OpenTrail } from "./trail.js"

/** What the page reads from, and what records each reading. */
export interface EventSource {
  /** undefined where no database is named */
  readonly open: OpenTrail | undefined
  readonly kinds: ReadonlyArray<AuditEvent.Any>
  readonly record: Recorder
}

const orEmpty = Schema.optionalWith(Schema.String, { default: () => "" })

export const Filters = Schema.Struct({
  kind: Schema.String,
  user: orEmpty,
  since: orEmpty,
  until: orEmpty,
  /** conditions as for --where, separated by semicolons */
  where: orEmpty
})

export const Page = Schema.Struct({
  ...Filters.fields,
  /** id and time of the last event of the page before */
  after: Schema.optional(Schema.String),
  time: Schema.optional(Schema.String)
})

export const One = Schema.Struct({ id: Schema.String, reveal: Schema.optional(Schema.Literal("yes")) })

/** events of a page */
const PAGE = 100

const NO_DATABASE =
  'Events are read from the database: start "effect-audit serve" with --url, or --sqlite FILE, for an account that may SELECT.'

export const kindsOf = ({ kinds, open }: EventSource) => ({
  kinds: kinds.map(({ columns, kind }) => ({ kind, fields: columns.map(({ key }) => key) })),
  ...(open === undefined ? { problem: NO_DATABASE } : {})
})

const searchOf = (
  { kinds, open }: EventSource,
  { kind: name, since, until, user, where }: typeof Filters.Type
) =>
  Effect.gen(function* () {
    if (open === undefined) return yield* usageError(NO_DATABASE)
    const kind = kinds.find(({ kind }) => kind === name)
    if (kind === undefined) return yield* usageError(`No events ${name} are known here.`)
    const userField = userFieldOf(kind)
    if (user !== "" && userField === undefined) return yield* usageError(`Events ${name} name no user.`)
    const given = Option.liftPredicate((text: string) => text !== "")
    const conditions = where
      .split(";")
      .map((text) => text.trim())
      .filter((text) => text !== "")
    const query = {
      from: yield* momentOf("since", given(since)),
      to: yield* momentOf("until", given(until)),
      where: {
        ...(yield* whereOf(kind, conditions)),
        ...(user === "" ? {} : { [userField!]: user })
      } as never,
      order: "descending" as const
    }
    return { kind, query, open }
  })

/** A page of events, the newest first. */
export const pageOf = (source: EventSource, { after, time, ...filters }: typeof Page.Type) =>
  Effect.gen(function* () {
    const { kind, open, query } = yield* searchOf(source, filters)
    const behind =
      after === undefined || time === undefined ? undefined : { eventId: after, time: new Date(time) }
    const found = yield* open.trail
      .find(kind, { ...query, after: behind, limit: PAGE + 1 })
      .pipe(Stream.map(showing(kind, false)), Stream.runCollect)
    const user = userFieldOf(kind)
    return {
      events: Chunk.toReadonlyArray(Chunk.take(found, PAGE)).map(asJson),
      userKey: kind.columns.find(({ field }) => field === user)?.key,
      hasMore: found.length > PAGE
    }
  })

/** One event, wherever it is. */
export const oneOf = ({ kinds, open, record }: EventSource, { id, reveal }: typeof One.Type) =>
  Effect.gen(function* () {
    if (open === undefined) return yield* usageError(NO_DATABASE)
    if (!isId(id)) return yield* usageError("That is no id of an event.")
    const isRevealed = reveal === "yes"
    yield* record({ action: "audit.get", targets: [id.toLowerCase()], asked: { reveal: isRevealed } })
    const found = yield* open.trail.get(id)
    if (Option.isNone(found)) return yield* noEvent(id, kinds, open)
    return whereaboutsShown(found.value, kinds, isRevealed)
  })

export const csvOf = (source: EventSource, filters: typeof Filters.Type) =>
  Effect.gen(function* () {
    const { kind, open, query } = yield* searchOf(source, filters)
    yield* source.record({ action: "audit.export", targets: [kind.kind], asked: filters })
    const lines = Stream.map(linesOf(open, kind, query, false, "csv"), ({ bytes }) => bytes)
    return Stream.concat(Stream.make(Buffer.from(csvHead(kind))), lines)
  })
