/**
 * The reader of the tables of an SQLite file, page by page. Its statements run in the program's thread, and nothing
 * ends them. So each looks at a bounded number of rows.
 */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Exit, Redacted, Schema, Scope } from "effect"
import * as path from "node:path"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { ExecutionStrategy } from "../../../schema/Effect3.js"
import { textOf, writeId, ID_BYTES } from "../../../schema/EventId.js"
import { TrailError } from "../../../schema/Errors.js"
import { sqlDateTime } from "../../../schema/Line.js"
import { millisOf, type Raw } from "../../../schema/Row.js"
import type { Disk } from "../../../services/Disk.js"
import type { Stored, Test } from "../conditions.js"
import { EVENT_ID, EVENT_TIME, tableName, type TableNames, TIME_INDEX } from "../rows.js"
import {
  type Collect,
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
import { createIndex, isTextType, open, quote } from "./connection.js"

export interface ReadingSettings {
  readonly filename: string
  readonly tables?: TableNames | undefined
}

type Query = (
  sql: string,
  params?: ReadonlyArray<unknown>
) => Effect.Effect<ReadonlyArray<FoundRow>, TrailError>
type FoundRow = Readonly<Record<string, string | number | ArrayBuffer | null>>

/** Reads by a connection that lives as long as the scope. The first search opens the file. */
export const makeReader = (
  { filename, tables }: ReadingSettings,
  disk: Disk["Type"]
): Effect.Effect<Reader, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const file = path.resolve(filename)
    const permit = Effect.unsafeMakeSemaphore(1)
    let opened: Connection | undefined

    const connection = Effect.suspend(() =>
      opened === undefined
        ? openFile(file, disk).pipe(
            Effect.provideService(Scope.Scope, scope),
            Effect.tap((connection) => Effect.sync(() => (opened = connection)))
          )
        : Effect.succeed(opened)
    )
    const query: Query = (sql, params = []) =>
      permit.withPermits(1)(
        Effect.flatMap(Effect.uninterruptible(connection), (connection) =>
          Effect.mapError(
            connection.execute(sql, params, undefined) as Effect.Effect<ReadonlyArray<FoundRow>, SqlError>,
            ({ cause }) => failed(cause, file)
          )
        )
      )
    const shapeOf = (definition: AuditEvent.Any) =>
      describe(query, definition, tableName(definition, tables), file)

    return {
      open: (search) => Effect.flatMap(shapeOf(search.definition), (shape) => walkable(query, shape, search)),
      byId: (definition, eventId) =>
        Effect.gen(function* () {
          const shape = yield* shapeOf(definition)
          if (!shape.hasId) return undefined
          const sql = `${selection(shape)} WHERE ${quote(EVENT_ID)} = ? LIMIT 1`
          const [found] = yield* query(sql, [bytesOfId(eventId)])
          return found === undefined ? undefined : rowOf(found)
        }),
      columns: (table) =>
        Effect.map(tableInfo(query, table, file), (columns) =>
          Array.from(columns, ([name, type]): FoundColumn => ({ name, holds: holding(type) })).filter(
            ({ name }) => name !== EVENT_ID && name !== EVENT_TIME
          )
        )
    }
  })

/** Opening a missing file would make it, so that is refused. */
const openFile = (file: string, disk: Disk["Type"]): Effect.Effect<Connection, TrailError, Scope.Scope> =>
  Effect.gen(function* () {
    const info = yield* Effect.mapError(disk.info(file), (error) => failed(error, file))
    if (info?.type !== "file") {
      return yield* new TrailError({
        class: "operator",
        code: "SQLITE_CANTOPEN",
        reason: `There is no database file ${file}: the first delivery makes it`
      })
    }
    const scope = yield* Effect.scope
    const own = yield* Scope.fork(scope, ExecutionStrategy.sequential)
    return yield* open(file, ["query_only = ON", `busy_timeout = ${BUSY_MILLIS}`], "string").pipe(
      Scope.extend(own),
      Effect.mapError(({ cause }) => failed(cause, file)),
      // the client throws when it cannot open the file
      Effect.catchAllDefect((cause) => failed(cause, file)),
      Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
    )
  })

const BUSY_MILLIS = 1000

const failed = (cause: unknown, file: string): TrailError => {
  const { code, rawCode } = cause as { code?: unknown; rawCode?: unknown }
  const isBusy = typeof rawCode === "number" && [5, 6].includes(rawCode & 0xff)
  return new TrailError({
    class: isBusy ? "transient" : "operator",
    code: typeof code === "string" ? code : "SQLITE_ERROR",
    reason: isBusy
      ? `The database file ${file} is locked by another program: read again`
      : `The database file ${file} cannot be read: it must be SQLite's, readable, and its tables those that this package made`,
    cause: Redacted.make(cause)
  })
}

// ------------------------------------------------------------------------------------------------ the table

interface ReadColumn {
  readonly name: string
  /** whether numbers are stored in it as their digits */
  readonly isText: boolean
}

interface Shape {
  readonly table: string
  readonly columns: ReadonlyArray<ReadColumn>
  readonly hasTime: boolean
  readonly hasId: boolean
  /** whether an index is over time and id */
  readonly isIndexed: boolean
}

const describe = (
  query: Query,
  definition: AuditEvent.Any,
  table: string,
  file: string
): Effect.Effect<Shape, TrailError> =>
  Effect.gen(function* () {
    const present = yield* tableInfo(query, table, file)
    const missing = definition.columns.filter(({ name }) => !present.has(name.toLowerCase()))
    if (missing.length > 0) {
      return yield* new TrailError({
        class: "operator",
        code: "1054",
        reason:
          `The table ${table} of ${file} has no column ${missing.map(({ name }) => name).join(", ")}: ` +
          `ALTER TABLE ${quote(table)} ADD COLUMN it`
      })
    }
    let isIndexed = false
    for (const { name } of yield* look(query, "SELECT name FROM pragma_index_list(?)", table)) {
      const columns = yield* look(query, "SELECT name FROM pragma_index_info(?) ORDER BY seqno", name ?? "")
      isIndexed ||= columns[0]?.name === EVENT_TIME && columns[1]?.name === EVENT_ID
    }
    return {
      table,
      columns: definition.columns.map(({ name }) => ({
        name,
        isText: isTextType(present.get(name.toLowerCase()) ?? "")
      })),
      hasTime: present.has(EVENT_TIME),
      hasId: present.has(EVENT_ID),
      isIndexed
    }
  })

const look = (query: Query, sql: string, of: string) =>
  Effect.flatMap(query(sql, [of]), (rows) => Effect.orDie(Schema.decodeUnknown(Found)(rows)))

/** The types of a table's columns, by name in lower case. */
const tableInfo = (query: Query, table: string, file: string) =>
  look(query, "SELECT name, type FROM pragma_table_info(?)", table).pipe(
    Effect.map(
      (found) => new Map(found.map(({ name, type = "" }) => [(name ?? "").toLowerCase(), type] as const))
    ),
    Effect.filterOrFail(
      (columns) => columns.size > 0,
      () =>
        new TrailError({
          class: "operator",
          code: NO_TABLE,
          reason: `${file} has no table ${table}: the first delivery makes it`
        })
    )
  )

/** SQLite's "Datatypes", 3.1. */
const holding = (type: string): FoundColumn["holds"] =>
  /int/i.test(type) ? "whole" : /real|floa|doub/i.test(type) ? "number" : "text"

const Found = Schema.Array(
  Schema.Struct({ name: Schema.NullOr(Schema.String), type: Schema.optional(Schema.String) })
)

// ------------------------------------------------------------------------------------------------- the walk

const walkable = (query: Query, shape: Shape, search: Search): Effect.Effect<Walkable, TrailError> =>
  Effect.gen(function* () {
    const { hasId, hasTime, isIndexed, table } = shape
    const isByTime = search.along === "time"
    if (isByTime && !(hasTime && hasId)) {
      return yield* new TrailError({
        class: "operator",
        code: "1054",
        reason: `${table} has no ${EVENT_TIME} or no ${EVENT_ID}: its rows are read by \`withoutTime\``
      })
    }
    const key = isByTime ? [quote(EVENT_TIME), quote(EVENT_ID)] : ["_rowid_"]
    const [forward, back] = search.order === "ascending" ? ([">", "<="] as const) : (["<", ">="] as const)
    const direction = search.order === "ascending" ? "" : " DESC"
    const orderBy = ` ORDER BY ${key.map((name) => `${name}${direction}`).join(", ")}`
    const filters = rangeOf(shape, search)
    const tests = search.tests.map(({ index, is }) => condition(shape.columns[index]!, is))
    const beyond = (operator: string, at: Key | undefined): ReadonlyArray<Clause> =>
      at === undefined
        ? []
        : [
            {
              sql: `(${key.join(", ")}) ${operator} (${key.map(() => "?").join(", ")})`,
              params: isByTime ? [at[0]!, Buffer.from(at[1]!, "hex")] : [Number(at[0])]
            }
          ]
    const run = (select: string, clauses: ReadonlyArray<Clause>, rest: string) =>
      query(
        `${select}${clauses.length === 0 ? "" : ` WHERE ${clauses.map(({ sql }) => sql).join(" AND ")}`}${rest}`,
        clauses.flatMap(({ params }) => params)
      )
    const columns = selection(search.keysOnly ? { ...shape, columns: [] } : shape)
    const keyOnly = `SELECT ${isByTime ? `${key[0]!} AS k0, hex(${key[1]!}) AS k1` : "_rowid_ AS k0"} FROM ${quote(table)}`

    return {
      start:
        isByTime && search.after !== undefined
          ? [sqlDateTime(search.after.time.getTime()), search.after.eventId.replaceAll("-", "")]
          : undefined,
      hasConditions: tests.length > 0 || !isByTime,
      timeOf: (key) => (isByTime ? millisOf(key[0]!) : null),
      noWindows: undefined,
      page: <A>({ after, isTry, limit, upTo }: Range, collect: Collect<A>) => {
        // nothing would end this statement
        if (isTry && (isIndexed || !isByTime)) return tooSlow(table)
        const clauses = [...filters, ...beyond(forward, after), ...beyond(back, upTo), ...tests]
        return Effect.map(run(columns, clauses, `${orderBy} LIMIT ${limit}`), (found) => {
          const { add, result } = collect()
          for (const row of found) add(rowOf(row))
          return new Made(
            result(),
            found.length,
            found.length === 0 ? undefined : keyOf(found.at(-1)!, search.along),
            found.reduce((sum, row) => sum + sizeOf(row), 0)
          )
        })
      },
      ahead: (after, rows) =>
        run(
          keyOnly,
          [...(isByTime ? filters : []), ...beyond(forward, after)],
          `${orderBy} LIMIT 1 OFFSET ${rows - 1}`
        ).pipe(Effect.map(([row]) => (row === undefined ? undefined : Object.values(row).map(String))))
    }
  })

/** Makes the walk go by windows. */
const tooSlow = (table: string) =>
  new TooMuch({
    what: "slow",
    error: new TrailError({
      class: "operator",
      code: "NO_INDEX",
      reason:
        `${table} has no index over (${EVENT_TIME}, ${EVENT_ID}), and is too large to be read without: run ` +
        createIndex(table, TIME_INDEX)
    })
  })

interface Clause {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
}

const rangeOf = ({ hasId, hasTime }: Shape, { along, from, to }: Search): ReadonlyArray<Clause> => {
  const [time, id] = [quote(EVENT_TIME), quote(EVENT_ID)]
  if (along === "primaryKey") {
    return hasTime && hasId ? [{ sql: `(${time} IS NULL OR ${id} IS NULL)`, params: [] }] : []
  }
  return [
    from === undefined
      ? { sql: `${time} IS NOT NULL`, params: [] }
      : { sql: `${time} >= ?`, params: [sqlDateTime(from)] },
    ...(to === undefined ? [] : [{ sql: `${time} < ?`, params: [sqlDateTime(to)] }]),
    { sql: `${id} IS NOT NULL`, params: [] }
  ]
}

/** Texts are read as bytes: the driver ends a text at its first NUL. */
const asRead = (name: string): string => {
  const it = quote(name)
  return `CASE typeof(${it}) WHEN 'text' THEN CAST(${it} AS BLOB) ELSE ${it} END`
}

const selection = ({ columns, hasId, hasTime, table }: Shape): string => {
  const identity = [
    hasTime ? asRead(EVENT_TIME) : "NULL",
    hasId ? `hex(${quote(EVENT_ID)})` : "NULL",
    "_rowid_"
  ]
  const texts = [...identity, ...columns.map(({ name }) => asRead(name))]
  return `SELECT ${texts.map((text, column) => `${text} AS c${column}`).join(", ")} FROM ${quote(table)}`
}

const rowOf = (found: FoundRow): Row => {
  const [time, hex, , ...values] = Object.values(found).map(rawOf) as [Raw, Raw, Raw, ...Array<Raw>]
  const isId = typeof hex === "string" && hex.length === 2 * ID_BYTES
  const millis = typeof time === "string" ? millisOf(time) : Number.NaN
  return new ReadRow(
    isId ? textOf(Buffer.from(hex, "hex")) : null,
    Number.isNaN(millis) ? null : millis,
    values
  )
}

const keyOf = (found: FoundRow, along: Search["along"]): Key => {
  const [time, hex, rowid] = Object.values(found).map(rawOf)
  return along === "time" ? [String(time), String(hex)] : [String(rowid)]
}

const sizeOf = (found: FoundRow): number =>
  Object.values(found).reduce<number>(
    (sum, value) =>
      sum +
      8 +
      (value instanceof ArrayBuffer ? value.byteLength : typeof value === "string" ? value.length : 0),
    0
  )

const rawOf = (value: string | number | ArrayBuffer | null): Raw =>
  value instanceof ArrayBuffer ? Buffer.from(value).toString("utf8") : value

const bytesOfId = (eventId: string): Buffer => {
  const bytes = Buffer.alloc(ID_BYTES)
  writeId(eventId, bytes, 0)
  return bytes
}

/** Compares the bytes of a text, whatever the collation of the column. */
const condition = ({ isText, name }: ReadColumn, test: Test["is"]): Clause => {
  const it = `${quote(name)} COLLATE BINARY`
  switch (test._tag) {
    case "null":
      return { sql: `${quote(name)} IS NULL`, params: [] }
    case "in":
      return {
        sql: `${it} IN (${test.values.map(() => "?").join(", ")})`,
        params: isText ? test.values.map(String) : test.values
      }
    case "prefix": {
      const bytes = Buffer.from(test.text)
      if (bytes.length === 0) return { sql: `${quote(name)} IS NOT NULL`, params: [] }
      // an index can serve the first comparison
      return {
        sql: `(${it} >= ? AND substr(CAST(${quote(name)} AS BLOB), 1, ${bytes.length}) = ?)`,
        params: [test.text, bytes]
      }
    }
    case "range": {
      const bound = (operator: string, value: Stored | undefined) => {
        if (value === undefined) return []
        const isNumber = isText && typeof value !== "string"
        return [{ sql: `${isNumber ? `CAST(${quote(name)} AS REAL)` : it} ${operator} ?`, value }]
      }
      const bounds = [...bound(">=", test.from), ...bound("<", test.to)]
      return {
        sql: bounds.map(({ sql }) => sql).join(" AND "),
        params: bounds.map(({ value }) => value)
      }
    }
  }
}
