/**
 * A walk through a table along a key: page by page, each statement bounded.
 *
 * Without conditions a page is the next rows of the key's index. With conditions, the whole rest is asked first, since an
 * index of the table may know the answer. If that takes too long, the walk goes by windows: so many rows of the key's
 * index, of which those that fit are asked for. A rare match then costs many short statements, and each of them makes
 * progress. Windows count rows, not time: a million rows may share a millisecond.
 */
import { Chunk, Data, Effect, Option, Stream } from "effect"
import type * as AuditEvent from "../../schema/AuditEvent.js"
import { TrailError } from "../../schema/Errors.js"
import type { Raw } from "../../schema/Row.js"
import type { Test } from "./conditions.js"

/** The values of a row's key, as the database shows them. */
export type Key = ReadonlyArray<string>

/** A row, as it was read. */
export interface Row {
  readonly key: Key
  /** a UUID, lower case */
  readonly eventId: string | null
  /** milliseconds since 1970 UTC */
  readonly time: number | null
  /** those of the kind's columns, in their order */
  readonly values: ReadonlyArray<Raw>
}

/** A page is too much for one statement. */
export class TooMuch extends Data.TaggedError("TooMuch")<{
  /** slow: the time-out ended it; large: its rows take too many bytes */
  readonly what: "slow" | "large"
  readonly error: TrailError
}> {}

/** A table that is read along a key, in an order, within a range. */
export interface Walkable {
  /** At most so many rows that fit, behind one key and up to another. */
  readonly page: (range: {
    readonly after: Key | undefined
    readonly upTo: Key | undefined
    readonly limit: number
    /** whether a quick answer is wanted, or none */
    readonly isTry: boolean
  }) => Effect.Effect<ReadonlyArray<Row>, TooMuch | TrailError>
  /** The key so many rows behind another, whether they fit or not; undefined if there are fewer. */
  readonly ahead: (
    after: Key | undefined,
    rows: number
  ) => Effect.Effect<Key | undefined, TooMuch | TrailError>
  /** where it begins, behind this key */
  readonly start: Key | undefined
  readonly hasConditions: boolean
  /** the time in a key, if it has one */
  readonly timeOf: (key: Key) => number | null
  /** why windows cannot help, if so: no index knows the key */
  readonly noWindows: TrailError | undefined
}

export interface Options {
  readonly limit: number
  readonly onProgress: (time: number | null, found: number) => Effect.Effect<void>
}

/** rows of the first page: a reader who wants a few gets them soon, and nothing is known of their size yet */
const FIRST_PAGE = 64
const LARGEST_PAGE = 4096
/** UTF-16 units of a page, about */
const PAGE_SIZE = 2 * 1024 * 1024
/** rows of the first window */
const FIRST_WINDOW = 32_768
const LARGEST_WINDOW = 1 << 24
/** a window that took less than this many milliseconds is followed by a larger one */
const QUICK = 500

interface State {
  readonly after: Key | undefined
  /** the end of the window under way */
  readonly upTo: Key | undefined
  readonly page: number
  /** rows of a window; undefined as long as there are none */
  readonly window: number | undefined
  readonly found: number
}

/** The rows that fit, in order. */
export const walk = (table: Walkable, { limit, onProgress }: Options): Stream.Stream<Row, TrailError> => {
  const first: State = { after: table.start, upTo: undefined, page: FIRST_PAGE, window: undefined, found: 0 }
  if (limit <= 0) return Stream.empty
  return Stream.paginateChunkEffect(first, (state) =>
    Effect.gen(function* () {
      const { next, rows } = yield* step(table, state, limit - state.found)
      const found = state.found + rows.length
      const at = next?.after
      yield* onProgress(at === undefined ? null : table.timeOf(at), found)
      return [
        Chunk.unsafeFromArray([...rows]),
        next === undefined || found >= limit ? Option.none() : Option.some({ ...next, found })
      ] as const
    })
  )
}

interface Step {
  readonly rows: ReadonlyArray<Row>
  /** undefined at the end */
  readonly next: State | undefined
}

/** One page, and where to go on. */
const step = (table: Walkable, state: State, most: number): Effect.Effect<Step, TrailError> =>
  Effect.gen(function* () {
    const limit = Math.min(state.page, most)
    const { after, window } = state
    const startedAt = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    const isAtWindow = window !== undefined && state.upTo === undefined
    const upTo = isAtWindow ? yield* table.ahead(after, window) : state.upTo
    const rows = yield* table.page({
      after,
      upTo,
      limit,
      isTry: table.hasConditions && window === undefined
    })
    const took = (yield* Effect.clockWith((clock) => clock.currentTimeMillis)) - startedAt
    const isFull = rows.length === limit
    const page = nextPage(state.page, rows)
    if (isFull) return { rows, next: { ...state, after: rows.at(-1)!.key, upTo, page } }
    if (upTo === undefined) return { rows, next: undefined }
    const larger = took < QUICK && window !== undefined ? Math.min(LARGEST_WINDOW, 2 * window) : window
    return { rows, next: { ...state, after: upTo, upTo: undefined, page, window: larger } }
  }).pipe(
    Effect.catchTag("TooMuch", (cause) => {
      const smaller = narrower(table, state, cause)
      return smaller instanceof TrailError ? smaller : step(table, smaller, most)
    })
  )

/** As many rows as make a page of the size that is wanted, if the next are like these. */
const nextPage = (page: number, rows: ReadonlyArray<Row>): number => {
  const last = rows.slice(-FIRST_PAGE)
  if (last.length === 0) return page
  const size = last.reduce((sum, { values }) => {
    for (const value of values) sum += typeof value === "string" ? value.length + 8 : 8
    return sum
  }, last.length)
  const wanted = Math.floor((PAGE_SIZE * last.length) / size)
  return Math.max(1, Math.min(LARGEST_PAGE, 4 * page, wanted))
}

/** What to ask for in place of what was too much; the failure if there is nothing smaller. */
const narrower = (table: Walkable, state: State, { error, what }: TooMuch): State | TrailError => {
  if (what === "slow" && table.noWindows !== undefined) return table.noWindows
  if (what === "large" || !table.hasConditions) {
    return state.page > 1 ? { ...state, page: Math.max(1, Math.floor(state.page / 8)) } : error
  }
  if (state.window === undefined) return { ...state, window: FIRST_WINDOW, upTo: undefined }
  return state.window > 1
    ? { ...state, window: Math.max(1, Math.floor(state.window / 8)), upTo: undefined }
    : error
}

/** What reads the tables of a database. */
export interface Reader {
  /** A table, to be walked through: by time and id, or by its primary key the rows that lack one of them. */
  readonly open: (search: Search) => Effect.Effect<Walkable, TrailError>
  /** The row of an event; undefined if there is none. */
  readonly byId: (definition: AuditEvent.Any, eventId: string) => Effect.Effect<Row | undefined, TrailError>
  /** The columns of a table, ours left out. */
  readonly columns: (table: string) => Effect.Effect<ReadonlyArray<FoundColumn>, TrailError>
}

/** A column of a table that belongs to no kind that is known. */
export interface FoundColumn {
  readonly name: string
  readonly holds: "text" | "whole" | "number"
}

export interface Search {
  readonly definition: AuditEvent.Any
  readonly along: "time" | "primaryKey"
  /** whether the values of the columns are left out */
  readonly keysOnly: boolean
  readonly order: "ascending" | "descending"
  readonly tests: ReadonlyArray<Test>
  /** milliseconds since 1970, the first that is meant */
  readonly from: number | undefined
  /** the first behind those that are meant */
  readonly to: number | undefined
  /** the event behind which it begins */
  readonly after: { readonly eventId: string; readonly time: Date } | undefined
}
