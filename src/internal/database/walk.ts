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
import { stopwatch } from "../monotonic.js"
import type { Test } from "./conditions.js"

/** The values of a row's key, as the database shows them. */
export type Key = ReadonlyArray<string>

/** A row, as it was read. Hot path: a class, not a literal (bench/README.md#literals). */
export class Row {
  constructor(
    readonly key: Key,
    /** a UUID, lower case */
    readonly eventId: string | null,
    /** milliseconds since 1970 UTC */
    readonly time: number | null,
    /** those of the kind's columns, in their order */
    readonly values: ReadonlyArray<Raw>
  ) {}
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
const LARGEST_PAGE = 2048
/** UTF-16 units of a page, about */
const PAGE_SIZE = 1024 * 1024
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
}

/** The rows that fit, in order, and each made something of: a stage of a stream for that would cost as much again. */
export const walk = <A>(
  table: Walkable,
  { limit, onProgress }: Options,
  make: (row: Row) => A
): Stream.Stream<A, TrailError> =>
  Stream.suspend(() => {
    let state: State | undefined =
      limit > 0 ? { after: table.start, upTo: undefined, page: FIRST_PAGE, window: undefined } : undefined
    let found = 0
    // by a state that changes: what is a page longer than the one before would keep all of them in memory
    return Stream.repeatEffectChunkOption(
      Effect.suspend(() =>
        state === undefined
          ? Effect.fail(Option.none<TrailError>())
          : step(table, state, limit - found).pipe(
              Effect.mapError(Option.some),
              Effect.flatMap(({ next, rows }) => {
                found += rows.length
                state = found < limit ? next : undefined
                const at = next === undefined ? null : table.timeOf(next.after!)
                return Effect.as(onProgress(at, found), Chunk.unsafeFromArray(rows.map(make)))
              })
            )
      )
    )
  })

interface Step {
  readonly rows: ReadonlyArray<Row>
  /** undefined at the end */
  readonly next: State | undefined
}

/** One page, and where to go on. */
const step = (table: Walkable, state: State, most: number): Effect.Effect<Step, TrailError> =>
  Effect.catchTag(pageOf(table, state, Math.min(state.page, most)), "TooMuch", (cause) => {
    const smaller = narrower(table, state, cause)
    return smaller instanceof TrailError ? smaller : step(table, smaller, most)
  })

const pageOf = Effect.fnUntraced(function* (table: Walkable, state: State, limit: number) {
  const { after, window } = state
  const elapsed = yield* stopwatch
  const isAtWindow = window !== undefined && state.upTo === undefined
  const upTo = isAtWindow ? yield* table.ahead(after, window) : state.upTo
  const isTry = table.hasConditions && window === undefined
  const rows = yield* table.page({ after, upTo, limit, isTry })
  return stepOf(state, { rows, limit, upTo, took: elapsed() })
})

interface Page {
  readonly rows: ReadonlyArray<Row>
  readonly limit: number
  readonly upTo: Key | undefined
  /** milliseconds */
  readonly took: number
}

const stepOf = (state: State, { limit, rows, took, upTo }: Page): Step => {
  const page = nextPage(state.page, rows)
  if (rows.length === limit) return { rows, next: { ...state, after: rows.at(-1)!.key, upTo, page } }
  if (upTo === undefined) return { rows, next: undefined }
  const { window } = state
  const larger = took < QUICK && window !== undefined ? Math.min(LARGEST_WINDOW, 2 * window) : window
  return { rows, next: { ...state, after: upTo, upTo: undefined, page, window: larger } }
}

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
