/**
 * The walk: reads a table along a key, page by page, with bounded statements.
 *
 * Without conditions a page is the next rows of the key's index. With conditions the whole rest is asked first, since
 * an index of the table may know the answer. If that takes too long, the walk goes by windows: ranges of the key's
 * index, searched one by one. Then a rare match costs many short statements, and each of them makes progress. Windows
 * count rows, not time: a million rows may share a millisecond.
 */
import { Channel, Chunk, Data, Effect, Fiber, Stream } from "effect"
import type * as AuditEvent from "../../schema/AuditEvent.js"
import { TrailError } from "../../schema/Errors.js"
import type { Raw } from "../../schema/Row.js"
import { stopwatch } from "../monotonic.js"
import type { Test } from "./conditions.js"

/** The values of a row's key, as the database shows them. */
export type Key = ReadonlyArray<string>

export interface Row {
  /** a UUID, lower case */
  readonly eventId: string | null
  /** milliseconds since 1970 UTC */
  readonly time: number | null
  /** the kind's columns first, in their order */
  readonly values: ReadonlyArray<Raw>
  /** the same as bytes, if the database sent texts */
  readonly cells?: Cells | undefined
}

/** A row of values. Hot path: a class, not a literal (bench/README.md#literals). */
export class ReadRow implements Row {
  constructor(
    readonly eventId: string | null,
    readonly time: number | null,
    readonly values: ReadonlyArray<Raw>,
    readonly cells?: Cells
  ) {}
}

/** The texts of a row in UTF-8: the kind's columns, the time as `sqlDateTime`, and the digits of the id. */
export interface Cells {
  readonly buffer: Buffer
  /** where each begins */
  readonly starts: ArrayLike<number>
  /** where each ends; -1 for NULL */
  readonly ends: ArrayLike<number>
}

/** Takes the rows of a page as they arrive. The values of a row are valid until the next one. */
export interface Collector<A> {
  readonly add: (row: Row) => void
  /** what was made of the rows */
  readonly result: () => Chunk.Chunk<A>
}

/** Begins a page. If a page fails, it is begun again. */
export type Collect<A> = () => Collector<A>

export const eachRow =
  <A>(make: (row: Row) => A): Collect<A> =>
  () => {
    // Hot path: no literal (bench/README.md#literals)
    const rows = NONE.slice() as Array<A>
    return { add: (row) => void rows.push(make(row)), result: () => Chunk.unsafeFromArray(rows) }
  }

const NONE: ReadonlyArray<never> = []

/** What was made of the rows of a page. Hot path: a class, not a literal (bench/README.md#literals). */
export class Made<A> {
  constructor(
    readonly chunk: Chunk.Chunk<A>,
    readonly count: number,
    readonly last: Key | undefined,
    /** bytes of all rows, about */
    readonly size: number
  ) {}
}

/** A page that is too much for one statement. */
export class TooMuch extends Data.TaggedError("TooMuch")<{
  /** slow: the time-out ended it; large: its rows have too many bytes */
  readonly what: "slow" | "large"
  readonly error: TrailError
}> {}

export interface Range {
  readonly after: Key | undefined
  readonly upTo: Key | undefined
  readonly limit: number
  /** whether to give up early, if no index knows the answer */
  readonly isTry: boolean
}

/** A table that is read along a key, in an order, within a range. */
export interface Walkable {
  /** At most `limit` rows that fit, after one key and up to another. */
  readonly page: <A>(range: Range, collect: Collect<A>) => Effect.Effect<Made<A>, TooMuch | TrailError>
  /** The key so many rows after another, whether they fit or not; undefined if there are fewer. */
  readonly ahead: (
    after: Key | undefined,
    rows: number
  ) => Effect.Effect<Key | undefined, TooMuch | TrailError>
  /** the key behind which the walk begins */
  readonly start: Key | undefined
  readonly hasConditions: boolean
  /** the time in a key, if it has one */
  readonly timeOf: (key: Key) => number | null
  /** why windows cannot help, if no index knows the key */
  readonly noWindows: TrailError | undefined
}

export interface Options {
  readonly limit: number
  readonly onProgress: (time: number | null, found: number) => Effect.Effect<void>
}

/** rows of the first page: small, since a reader may want few, and nothing is known of their size yet */
const FIRST_PAGE = 64
const LARGEST_PAGE = 1024
/** bytes of a page, about */
const PAGE_SIZE = 1024 * 1024
/** Pages are this many times as large if no index serves the key: each of them reads the whole table. */
const SCAN_FACTOR = 16
/** rows of the first window */
const FIRST_WINDOW = 32_768
const LARGEST_WINDOW = 1 << 24
/** milliseconds: if a window takes less, the next one is larger */
const QUICK = 500

interface State {
  readonly after: Key | undefined
  /** the end of the window under way */
  readonly upTo: Key | undefined
  readonly page: number
  /** rows of a window; undefined as long as the walk needs none */
  readonly window: number | undefined
}

/**
 * Walks a table, and streams what `collect` makes of the rows that fit. It is made as the rows arrive, so that nothing
 * else of them is kept (bench/README.md#reading). If a page fails, it is made again.
 */
export const walk = <A>(
  table: Walkable,
  { limit, onProgress }: Options,
  collect: Collect<A>
): Stream.Stream<A, TrailError> =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    let found = 0
    let ahead: Fiber.Fiber<Step<A>, TrailError> | undefined
    /** Reads the page of a state while the consumer works on the one before. */
    const readAhead = (state: State | undefined) =>
      state === undefined || found >= limit
        ? Effect.sync(() => void (ahead = undefined))
        : Effect.map(
            Effect.forkIn(step(table, state, limit - found, collect), scope),
            (fiber) => void (ahead = fiber)
          )
    yield* readAhead({ after: table.start, upTo: undefined, page: FIRST_PAGE, window: undefined })
    // by variables: what a page hands to the next one would keep all pages in memory
    const pages: Channel.Channel<Chunk.Chunk<A>, unknown, TrailError> = Channel.flatMap(
      Channel.fromEffect(
        Effect.suspend(() => (ahead === undefined ? Effect.succeed(undefined) : Fiber.join(ahead)))
      ),
      (taken) => {
        if (taken === undefined) return Channel.void
        const { chunk, count, next } = taken
        found += count
        const at = next === undefined ? null : table.timeOf(next.after!)
        return Channel.flatMap(
          Channel.fromEffect(Effect.zipRight(readAhead(next), onProgress(at, found))),
          () => Channel.flatMap(Channel.write(chunk), () => pages)
        )
      }
    )
    return Stream.fromChannel(pages)
  }).pipe(Stream.unwrapScoped)

/** Hot path: a class, not a literal (bench/README.md#literals). */
class Step<A> {
  constructor(
    readonly chunk: Chunk.Chunk<A>,
    readonly count: number,
    /** undefined at the end */
    readonly next: State | undefined
  ) {}
}

/** Reads one page; says where to go on. */
const step = <A>(
  table: Walkable,
  state: State,
  most: number,
  collect: Collect<A>
): Effect.Effect<Step<A>, TrailError> =>
  Effect.catchTag(pageOf(table, state, Math.min(state.page, most), collect), "TooMuch", (cause) => {
    const smaller = narrower(table, state, cause)
    return smaller instanceof TrailError ? smaller : step(table, smaller, most, collect)
  })

const pageOf = <A>(table: Walkable, state: State, limit: number, collect: Collect<A>) =>
  Effect.gen(function* () {
    const { after, window } = state
    const elapsed = yield* stopwatch
    const isAtWindow = window !== undefined && state.upTo === undefined
    const upTo = isAtWindow ? yield* table.ahead(after, window) : state.upTo
    const isTry = table.hasConditions && window === undefined
    const made = yield* table.page({ after, upTo, limit, isTry }, collect)
    return new Step(made.chunk, made.count, nextOf(table, state, made, upTo, limit, elapsed()))
  })

/** Where to go on after a page; undefined at the end. */
const nextOf = (
  table: Walkable,
  state: State,
  made: Made<unknown>,
  upTo: Key | undefined,
  limit: number,
  /** milliseconds */
  took: number
): State | undefined => {
  const page = nextPage(state.page, made, table.noWindows === undefined ? 1 : SCAN_FACTOR)
  if (made.count === limit) return { ...state, after: made.last, upTo, page }
  if (upTo === undefined) return undefined
  const { window } = state
  const larger = took < QUICK && window !== undefined ? Math.min(LARGEST_WINDOW, 2 * window) : window
  return { ...state, after: upTo, upTo: undefined, page, window: larger }
}

/** The rows of the next page, so that it has the wanted size if they are like these. */
const nextPage = (page: number, { count, size }: Made<unknown>, factor: number): number => {
  if (count === 0) return page
  const wanted = Math.floor((factor * PAGE_SIZE * count) / Math.max(1, size))
  return Math.max(1, Math.min(factor * LARGEST_PAGE, 4 * page, wanted))
}

/** What to ask for after a page was too much; the failure if there is nothing smaller. */
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

/** The code of a search if there is no such table, or the account may not read it: MySQL's number. */
export const NO_TABLE = "1146"

export interface Reader {
  /** A table to walk: by time and id, or, for rows that lack one of them, by its primary key. */
  readonly open: (search: Search) => Effect.Effect<Walkable, TrailError>
  /** The row of an event; undefined if there is none. */
  readonly byId: (definition: AuditEvent.Any, eventId: string) => Effect.Effect<Row | undefined, TrailError>
  /** The columns of a table, ours left out. */
  readonly columns: (table: string) => Effect.Effect<ReadonlyArray<FoundColumn>, TrailError>
}

/** A column of a table whose kind is unknown. */
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
  /** milliseconds since 1970 UTC, inclusive */
  readonly from: number | undefined
  /** exclusive */
  readonly to: number | undefined
  /** the event after which it begins */
  readonly after: { readonly eventId: string; readonly time: Date } | undefined
}
