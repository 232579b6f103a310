/** The reader of the tables of events, page by page. Every statement is a SELECT that the server ends in time. */
import type { SqlError } from "@effect/sql/SqlError"
import { Chunk, Duration, Effect, Option, Redacted, Schedule, Schema } from "effect"
import type { Scope } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { TrailError, UploadError } from "../../../schema/Errors.js"
import { sqlDateTime } from "../../../schema/Line.js"
import { millisOf } from "../../../schema/Row.js"
import { holdsDates } from "../columnTypes.js"
import { EVENT_ID, EVENT_TIME, migrateCommand, tableName, type TableNames } from "../rows.js"
import {
  type Cells,
  type Collect,
  eachRow,
  type FoundColumn,
  type Key,
  Made,
  NO_TABLE,
  type Range,
  type Reader,
  ReadRow,
  type Row,
  type Search,
  TooMuch,
  type Walkable
} from "../walk.js"
import { asText, beyond, condition, type KeyColumn, keyColumn, type ReadColumn } from "./columnsRead.js"
import type { Session } from "./connection.js"
import { isTooLarge } from "./driver.js"
import type { ConnectionSettings } from "./endpoints.js"
import { classify, isTimeout, toUploadError } from "./errors.js"
import { makeSessions } from "./sessions.js"
import { type Columns, columnsOf, dotted, misnamedColumn, quote } from "./table.js"
import { queryTexts, type TextRow } from "./textRows.js"

export interface ReadingSettings extends ConnectionSettings {
  readonly tables?: TableNames | undefined
}

/** Reads by separate sessions, which end with the scope. The first search connects. */
export const makeReader = (settings: ReadingSettings): Effect.Effect<Reader, never, Scope.Scope> =>
  Effect.map(makeSessions(settings, SESSIONS, true), (withSession) => {
    const statementMillis = Duration.toMillis(settings.statementTimeout ?? "10 seconds")
    const limitMillis = Math.max(1, Math.floor(statementMillis * SERVERS_SHARE))

    /** Runs an effect with a session in UTC. If the server was away for a moment, runs it again. */
    const withReader = <A>(
      use: (session: Session) => Effect.Effect<A, SqlError | TooMuch | UploadError>,
      table: string
    ): Effect.Effect<A, TooMuch | TrailError> =>
      withSession((session) =>
        Effect.zipRight(inUtc(session), use(session)).pipe(
          Effect.catchTag("SqlError", ({ cause }) => understood(cause, session, table, statementMillis)),
          // the session is as good as before, so it is kept
          Effect.catchIf(isServersTimeout, (slow) => Effect.succeed(slow))
        )
      ).pipe(
        Effect.flatMap((answer) => (answer instanceof TooMuch ? answer : Effect.succeed(answer))),
        Effect.catchTag("UploadError", ({ cause, class: cls, code, reason }) =>
          Effect.fail(new TrailError({ class: cls, code, reason, cause }))
        ),
        Effect.retry({
          while: (error) => error._tag === "TrailError" && error.class === "transient",
          schedule: Schedule.spaced("500 millis"),
          times: RETRIES
        })
      )

    const shapeOf = (definition: AuditEvent.Any) => {
      const table = tableName(definition, settings.tables)
      return withReader((session) => describe(session, definition, table), table)
    }

    return {
      open: (search) =>
        shapeOf(search.definition).pipe(
          Effect.flatMap((shape) => walkable(shape, search, withReader, limitMillis)),
          Effect.catchTag("TooMuch", ({ error }) => error)
        ),
      byId: (definition, eventId) =>
        shapeOf(definition).pipe(
          Effect.flatMap((shape) => {
            const { id } = shape
            if (id === undefined) return Effect.succeed(NOTHING)
            const isId = `${id.name} = ${id.literal(keyOfId(id, eventId))}`
            const sql = `${selection(shape, [])} WHERE ${isId} LIMIT 1`
            const read = readerOf(shape.columns.length, 0)
            return withReader(
              (session) => read(session, bounded(sql, limitMillis), eachRow(copied)),
              shape.table
            )
          }),
          Effect.map(({ chunk }) => Option.getOrUndefined(Chunk.head(chunk))),
          Effect.catchTag("TooMuch", ({ error }) => error)
        ),
      columns: (table) =>
        withReader(
          (session) =>
            Effect.filterOrFail(
              columnsOf(session, table),
              (present) => present.size > 0,
              () => noTable(session, table)
            ),
          table
        ).pipe(
          Effect.map((present) =>
            Array.from(present, ([name, { type }]): FoundColumn => ({ name, holds: holding(type) })).filter(
              ({ name }) => name !== EVENT_ID && name !== EVENT_TIME
            )
          ),
          Effect.catchTag("TooMuch", ({ error }) => error)
        )
    }
  })

/** A copy of a row, which outlives its packet. */
const copied = ({ eventId, time, values }: Row): Row => new ReadRow(eventId, time, [...values])

const NOTHING = new Made<Row>(Chunk.empty(), 0, undefined, 0)

/** one for the page that is read ahead, one for another search */
const SESSIONS = 2
const RETRIES = 2
/** share of our time-out, so that the server ends the statement first */
const SERVERS_SHARE = 0.8
/** milliseconds for the question whether an index knows the answer */
const TRY_MILLIS = 1000

const inUtc = (session: Session): Effect.Effect<void, SqlError> =>
  session.timeZone() === UTC ? Effect.void : session.setTimeZone(UTC)

const UTC = "+00:00"

const isServersTimeout = (error: unknown): error is TooMuch =>
  error instanceof TooMuch && error.what === "slow" && error.error.code !== "ETIMEDOUT"

/** MariaDB runs the text of the first comment, MySQL takes the second for a hint. */
const bounded = (sql: string, millis: number): string =>
  `/*M! SET STATEMENT max_statement_time=${millis / 1000} FOR */ SELECT /*+ MAX_EXECUTION_TIME(${millis}) */ ${sql}`

// ------------------------------------------------------------------------------------------------ the table

interface Shape {
  readonly table: string
  readonly columns: ReadonlyArray<ReadColumn>
  readonly time: KeyColumn | undefined
  readonly id: KeyColumn | undefined
  readonly primaryKey: ReadonlyArray<KeyColumn>
  /** the index over time and id */
  readonly index: string | undefined
}

const describe = (
  session: Session,
  definition: AuditEvent.Any,
  table: string
): Effect.Effect<Shape, SqlError | UploadError> =>
  Effect.gen(function* () {
    const { username } = session.endpoint
    const wrongName = dotted(table) ?? misnamedColumn(definition)
    if (wrongName !== undefined) return yield* unreadable("CONFIG", wrongName)
    const present = yield* columnsOf(session, table)
    if (present.size === 0) return yield* noTable(session, table)
    const missing = definition.columns.filter(({ name }) => !present.has(name.toLowerCase()))
    if (missing.length > 0) {
      return yield* unreadable(
        "1054",
        `${table} has no column ${missing.map(({ name }) => name).join(", ")} that ${username} may read: run ` +
          `${migrateCommand()}, or GRANT SELECT on the whole table`
      )
    }
    const keys = yield* keysOf(session, table)
    return {
      table,
      columns: definition.columns.map(({ field, name }) => ({
        name,
        column: present.get(name.toLowerCase())!,
        isDate: holdsDates(definition.fields[field]!) === "always"
      })),
      time: keyColumnOf(present, EVENT_TIME),
      id: keyColumnOf(present, EVENT_ID),
      primaryKey: (keys.get("PRIMARY") ?? []).flatMap((name) => keyColumnOf(present, name) ?? []),
      index: [...keys].find(([, [first, second]]) => first === EVENT_TIME && second === EVENT_ID)?.[0]
    }
  })

const noTable = ({ endpoint: { database, username } }: Session, table: string) =>
  unreadable(
    NO_TABLE,
    `${database} has no table ${table} that ${username} may read: run ${migrateCommand()}, ` +
      `or GRANT SELECT on it`
  )

const holding = (type: string): FoundColumn["holds"] =>
  /^(?:tiny|small|medium|big)?int$/.test(type) ? "whole" : /^(?:float|double)$/.test(type) ? "number" : "text"

const keyColumnOf = (present: Columns, name: string): KeyColumn | undefined => {
  const column = present.get(name.toLowerCase())
  return column === undefined ? undefined : keyColumn(name, column)
}

/** The columns of each index, in lower case; empty for an expression, or a part of a column. */
const keysOf = (
  session: Session,
  table: string
): Effect.Effect<ReadonlyMap<string, ReadonlyArray<string>>, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String, column: Schema.NullOr(Schema.String) }),
      "SELECT index_name AS name, IF(sub_part IS NULL, LOWER(column_name), NULL) AS `column` " +
        "FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = ? " +
        "ORDER BY index_name, seq_in_index",
      [table]
    ),
    (parts) => {
      const keys = new Map<string, Array<string>>()
      for (const { column, name } of parts) keys.set(name, [...(keys.get(name) ?? []), column ?? ""])
      return keys
    }
  )

// ------------------------------------------------------------------------------------------------- the walk

type WithReader = <A>(
  use: (session: Session) => Effect.Effect<A, SqlError | TooMuch | UploadError>,
  table: string
) => Effect.Effect<A, TooMuch | TrailError>

const walkable = (
  shape: Shape,
  search: Search,
  withReader: WithReader,
  limitMillis: number
): Effect.Effect<Walkable, TrailError> =>
  Effect.gen(function* () {
    const { index, table } = shape
    const key = yield* keyOf(shape, search)
    const isByTime = search.along === "time"
    const filters = rangeOf(shape, search)
    const tests = search.tests.map((test) => condition(shape.columns[test.index]!, test.is))
    const [forward, back] = search.order === "ascending" ? ([">", "<"] as const) : (["<", ">"] as const)
    const direction = search.order === "ascending" ? "" : " DESC"
    const orderBy = ` ORDER BY ${key.map(({ name }) => `${name}${direction}`).join(", ")}`
    const within = (after: ReadonlyArray<string> | undefined, upTo: ReadonlyArray<string> | undefined) => [
      ...filters,
      ...(after === undefined ? [] : [beyond(key, after, forward, false)]),
      ...(upTo === undefined ? [] : [beyond(key, upTo, back, true)])
    ]
    const where = (conditions: ReadonlyArray<string>) =>
      conditions.length === 0 ? "" : ` WHERE ${conditions.join(" AND ")}`
    const forced = isByTime && index !== undefined ? ` FORCE INDEX (${quote(index)})` : ""
    const shown = search.keysOnly ? [] : shape.columns
    const columns = selection({ ...shape, columns: shown }, isByTime ? [] : key)
    const read = readerOf(shown.length, isByTime ? 0 : key.length)

    return {
      start:
        isByTime && search.after !== undefined
          ? [sqlDateTime(search.after.time.getTime()), keyOfId(shape.id!, search.after.eventId)]
          : undefined,
      hasConditions: tests.length > 0 || !isByTime,
      timeOf: (key) => (isByTime ? millisOf(key[0]!) : null),
      noWindows: isByTime && index === undefined ? noIndex(table) : undefined,
      page: <A>({ after, isTry, limit, upTo }: Range, collect: Collect<A>) => {
        // without the hint: the index of another column may know the answer
        const from = `${columns}${isTry && tests.length > 0 ? "" : forced}`
        const sql = `${from}${where([...within(after, upTo), ...tests])}${orderBy} LIMIT ${limit}`
        const millis = isTry && index !== undefined ? Math.min(TRY_MILLIS, limitMillis) : limitMillis
        return withReader((session) => read(session, bounded(sql, millis), collect), table)
      },
      ahead: (after, rows) => {
        const texts = key.map(({ text }, column) => `${text} AS k${column}`).join(", ")
        const sql =
          `${texts} FROM ${quote(table)}${forced}` +
          // without the filters of the time: rows without a time are among those that are counted
          where(isByTime ? within(after, undefined) : within(after, undefined).slice(filters.length)) +
          `${orderBy} LIMIT 1 OFFSET ${rows - 1}`
        return withReader((session) => session.query(bounded(sql, limitMillis)), table).pipe(
          Effect.map((found) => {
            const [row] = found as ReadonlyArray<Readonly<Record<string, string>>>
            return row === undefined ? undefined : Object.values(row)
          })
        )
      }
    }
  })

/** An id as the column shows it: its digits, or for MariaDB's type UUID with dashes. */
const keyOfId = ({ text }: KeyColumn, eventId: string): string =>
  text.startsWith("HEX") ? eventId.replaceAll("-", "") : eventId

const keyOf = (
  { id, primaryKey, table, time }: Shape,
  { along }: Search
): Effect.Effect<ReadonlyArray<KeyColumn>, TrailError> => {
  if (along === "time") {
    return time === undefined || id === undefined
      ? new TrailError({
          class: "operator",
          code: "1054",
          reason:
            `${table} has no ${EVENT_TIME} or no ${EVENT_ID}: run ${migrateCommand()}; its rows are ` +
            `read by \`withoutTime\``
        })
      : Effect.succeed([time, id])
  }
  return primaryKey.length === 0
    ? new TrailError({
        class: "operator",
        code: "NO_PRIMARY_KEY",
        reason: `${table} has no primary key, in the order of which rows without a time could be read: add one`
      })
    : Effect.succeed(primaryKey)
}

const rangeOf = ({ id, time }: Shape, { along, from, to }: Search): ReadonlyArray<string> => {
  if (along === "time") {
    return [
      from === undefined
        ? `${time!.name} IS NOT NULL`
        : `${time!.name} >= ${time!.literal(sqlDateTime(from))}`,
      ...(to === undefined ? [] : [`${time!.name} < ${time!.literal(sqlDateTime(to))}`]),
      `${id!.name} IS NOT NULL`
    ]
  }
  // if a column is missing, all rows lack it
  return time === undefined || id === undefined ? [] : [`(${time.name} IS NULL OR ${id.name} IS NULL)`]
}

const noIndex = (table: string) =>
  new TrailError({
    class: "operator",
    code: "NO_INDEX",
    reason:
      `${table} has no index over (${EVENT_TIME}, ${EVENT_ID}), and is too large to be read without: run ` +
      migrateCommand("--index")
  })

/** The columns of the kind, time and id, and the key if it is another one. */
const selection = (
  { columns, id, table, time }: Pick<Shape, "columns" | "id" | "table" | "time">,
  key: ReadonlyArray<KeyColumn>
): string => {
  const ours = [time?.text ?? "NULL", id?.text ?? "NULL", ...key.map(({ text }) => text)]
  return (
    [...columns.map(asText), ...ours].map((text, column) => `${text} AS c${column}`).join(", ") +
    ` FROM ${quote(table)}`
  )
}

/** Reads rows of {@link selection} with so many columns of the kind. A length of 0 means the key of time and id. */
const readerOf = (columns: number, keyLength: number) => {
  const key = columns + 2
  return <A>(session: Session, sql: string, collect: Collect<A>): Effect.Effect<Made<A>, SqlError> =>
    Effect.suspend(() => {
      const { add, result } = collect()
      let count = 0
      let size = 0
      let row: FoundRow | undefined
      const take = (texts: TextRow) => {
        count++
        size += texts.size
        // the next row comes in the same object
        add((row ??= new FoundRow(texts, columns)))
      }
      const read = session.withDriver((connection, done) =>
        queryTexts(connection, sql, key + keyLength, take, done)
      )
      return Effect.map(read, () => {
        const last = row?.texts.all
        const end = keyLength === 0 ? last?.slice(columns, key) : last?.slice(key)
        return new Made(result(), count, end as Key | undefined, size)
      })
    })
}

/** A row of {@link selection}, whose texts are made on demand. */
class FoundRow implements Row {
  constructor(
    readonly texts: TextRow,
    /** of the kind; behind them come time and id */
    private readonly columns: number
  ) {}

  get eventId(): string | null {
    const shown = this.texts.text(this.columns + 1)
    return shown === null ? null : idOf(shown)
  }

  get time(): number | null {
    const text = this.texts.text(this.columns)
    return text === null ? null : timeOf(text)
  }

  get values(): ReadonlyArray<string | null> {
    return this.texts.all
  }

  get cells(): Cells | undefined {
    return this.texts.cells
  }
}

const timeOf = (text: string): number | null => {
  const millis = millisOf(text)
  return Number.isNaN(millis) ? null : millis
}

/** A UUID from its digits. MariaDB shows a column of type UUID with dashes. */
const idOf = (shown: string): string => {
  const hex = shown.toLowerCase()
  if (hex[8] === "-" || hex.length < 32) return hex
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`
}

// ------------------------------------------------------------------------------------------------- failures

const unreadable = (code: string, reason: string): UploadError =>
  new UploadError({ class: "operator", code, reason })

const understood = (
  cause: unknown,
  session: Session,
  table: string,
  timeoutMillis: number
): Effect.Effect<never, TooMuch | UploadError> => {
  const failure = classify(cause, { ...session.endpoint, table })
  const trailError = (cls: "operator" | "transient", code: string, reason: string) =>
    new TrailError({ class: cls, code, reason, cause: Redacted.make(cause) })
  if (isTimeout(failure)) {
    const reason =
      `${session.endpoint.host} took longer than ${Duration.format(Duration.millis(timeoutMillis))} to read a page of ` +
      `${table}: raise statementTimeout, or ask for less at once`
    return new TooMuch({ what: "slow", error: trailError("transient", failure.code, reason) })
  }
  if (isTooLarge(cause)) {
    const reason = `A row of ${table} is larger than 64 MiB, which is more than is read at once`
    return new TooMuch({ what: "large", error: trailError("operator", failure.code, reason) })
  }
  return toUploadError(failure)
}
