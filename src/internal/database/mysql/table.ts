/** The table of a kind of events, as an INSERT needs to know it. */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { UploadError } from "../../../schema/Errors.js"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import type { Session } from "./connection.js"
import type { Subject } from "./errors.js"
import { type OwnKey, variationOf } from "./ownKeys.js"
import { holdsDates } from "../columnTypes.js"
import { PROOF_COLUMN } from "../../proof/seal.js"
import { EVENT_ID, EVENT_TIME, type Form, migrateCommand, placeholders } from "../rows.js"
import { typeNote } from "../summary.js"

/** A table that was checked, and takes the events of a kind. */
export interface Table {
  /** for reasons, and to tell its keys from others */
  readonly subject: Subject
  /** whether a failed statement leaves nothing behind: MyISAM and Aria keep the rows before the bad one */
  readonly transactional: boolean
  /** a warning about the table's engine */
  readonly engineNote: string | undefined
  /** how the values of the kind's columns are sent */
  readonly forms: ReadonlyArray<Form>
  /** the time zone in which the table's columns keep what is written to them; undefined for the server's */
  readonly timeZone: string | undefined
  /** an INSERT up to its VALUES; `insertIgnore` leaves out what is there already */
  readonly insert: string
  readonly insertIgnore: string
  /** The INSERT of so many events, with placeholders. */
  readonly prepared: (count: number) => string
  /** Whether so many events are worth a prepared statement. */
  readonly isPrepared: (count: number) => boolean
  /** How many events from `from` on make one statement; 0 if the first one alone is larger than a packet. */
  readonly fitting: (events: ReadonlyArray<StoredEvent>, from: number) => number
  /** the table's own unique keys, which the server may name before ours */
  readonly ownKeys: ReadonlyArray<OwnKey>
  /** a SELECT that counts the ids behind it in the table; undefined if the account may not read them */
  readonly countIds: string | undefined
  /** What to do if a column's character set cannot hold the text of the event. */
  readonly advice: (event: StoredEvent) => string | undefined
  /** A note to follow a text that names a column; empty if the column is none of ours. */
  readonly note: (column: string | undefined) => string
}

export const quote = (name: string): string => `\`${name.replaceAll("`", "``")}\``

/** Why a name cannot be that of a table, if so. */
export const misnamed = (name: string): string | undefined => {
  const reason = dotted(name)
  if (reason !== undefined) return reason
  const wrong = impossible(name)
  if (wrong === undefined) return undefined
  return `${name === "" ? "An empty text" : name} is not the name of a table: ${wrong}`
}

/** Why a name with a dot is refused: quoted, `db.table` is a table of that name in our own database. */
export const dotted = (name: string): string | undefined =>
  name.includes(".")
    ? `${name} is not the name of a table: write it without its database, which is that of the connection ` +
      `(\`database\`, or the path of the URL)`
    : undefined

/** Why no table and no column can have the name (MySQL manual, "Schema Object Names"; isspace of C at the end). */
const impossible = (name: string): string | undefined => {
  if (name === "") return "it is empty"
  const characters = Array.from(name).length
  if (characters > MAX_NAME) return `it has ${characters} characters, and ${MAX_NAME} are the most`
  const [beyond] = /[\u{10000}-\u{10ffff}\ud800-\udfff\0]/u.exec(name) ?? []
  if (beyond !== undefined) {
    const codePoint = beyond.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")
    return `the character U+${codePoint} can be in no name`
  }
  return /[ \t-\r]$/.test(name) ? "it has a blank at its end" : undefined
}

/** characters */
const MAX_NAME = 64

/** The same for the columns of a kind. */
export const misnamedColumn = (definition: AuditEvent.Any): string | undefined => {
  for (const { name } of definition.columns) {
    const wrong = impossible(name)
    if (wrong !== undefined) {
      return `The events ${definition.kind} name a column ${name}, which is not the name of one: ${wrong}`
    }
  }
  return undefined
}

/** Why a table of this engine cannot receive events, if so. */
export const unfit = (name: string, engine: string | null, deduplicate: boolean): string | undefined => {
  const it = engine?.toUpperCase()
  if (it === "BLACKHOLE") {
    return `${name} has the engine BLACKHOLE, which stores nothing: ALTER TABLE ${quote(name)} ENGINE = InnoDB`
  }
  return deduplicate && it !== undefined && WITHOUT_KEYS.has(it)
    ? `${name} has the engine ${it}, which keeps no unique key over ${EVENT_ID}: ALTER TABLE ${quote(name)} ` +
        `ENGINE = InnoDB, ${WAY_OUT}`
    : undefined
}

/** What to do if a table can have no unique key. */
export const WAY_OUT = `name another table in \`tables\`, or set deduplication to "none" and each event is stored at least once`

/** A MERGE table enforces no key over its parts, and the key of a FEDERATED one is another server's. */
const WITHOUT_KEYS = new Set(["MRG_MYISAM", "FEDERATED", "CSV", "ARCHIVE"])

/** A warning about an engine that receives events all the same. */
export const engineNote = (name: string, engine: string | null): string | undefined =>
  engine?.toUpperCase() === "MEMORY"
    ? `${name} has the engine MEMORY: its events are gone when the server is restarted`
    : undefined

/** Why the table's own `event_id` or `event_time` would not keep what delivery writes into them, if so. */
export const misfit = (name: string, present: Columns): string | undefined => {
  const found = [
    { column: EVENT_ID, holds: holdsIds, wanted: "BINARY(16)" },
    { column: EVENT_TIME, holds: holdsTimes, wanted: "DATETIME(6)" }
  ].flatMap(({ column, holds, wanted }) => {
    const it = present.get(column)
    if (it === undefined) return []
    // not DEFAULT_GENERATED, by which MySQL means an expression as the default
    const generated = /(?:virtual|stored) generated/i.exec(it.extra ?? "")?.[0]
    if (generated === undefined && holds(it)) return []
    return [`${column} (${[it.declared, generated].filter(Boolean).join(" ")}), which has to be ${wanted}`]
  })
  return found.length === 0
    ? undefined
    : `${name} has a column of another type than delivery writes: ${found.join("; ")}. Rename that column and run ` +
        `\`effect-audit migrate\`, name another table in \`tables\`, or set deduplication to "none"`
}

/** A shorter column refuses ids, and a longer one of fixed length pads them. UUID is MariaDB's. */
const holdsIds = ({ length, type }: Column): boolean =>
  type === "uuid" || (type === "binary" && length === 16) || (type === "varbinary" && (length ?? 0) >= 16)

/** A text has room for `YYYY-MM-DD HH:MM:SS.mmm`. */
const holdsTimes = ({ length, type }: Column): boolean =>
  /^(?:datetime|timestamp)$/.test(type) || (/char$|text$/.test(type) && (length ?? 0) >= 23)

/** Checks the table. If it is not as it must be, an operator has to mend it. */
export const describe = (
  session: Session,
  definition: AuditEvent.Any,
  name: string,
  deduplicate: boolean
): Effect.Effect<Table, SqlError | UploadError> =>
  Effect.gen(function* () {
    const { database, username } = session.endpoint
    const wrongName = misnamed(name) ?? misnamedColumn(definition)
    if (wrongName !== undefined) return yield* unusable("CONFIG", wrongName)
    const present = yield* columnsOf(session, name)
    const columnOf = (column: string) => present.get(column.toLowerCase())
    // the columns of a table that an account may insert into are visible to it
    if (present.size === 0) {
      return yield* unusable(
        "1146",
        `${database} has no table ${name} that ${username} may insert into: run ` +
          `${migrateCommand()}, or GRANT INSERT`
      )
    }

    // before missing columns: migrate, which is the advice for those, refuses a misfit
    const wrongColumns = deduplicate ? misfit(name, present) : undefined
    if (wrongColumns !== undefined) return yield* unusable("COLUMN_TYPE", wrongColumns)
    const columns = [...(deduplicate ? [EVENT_ID, EVENT_TIME] : []), ...definition.columns.map((_) => _.name)]
    const missing = columns.filter((column) => columnOf(column) === undefined)
    if (missing.length > 0) {
      return yield* unusable(
        "1054",
        `${name} has no column ${missing.join(", ")}: run ` +
          migrateCommand(...(missing.includes(PROOF_COLUMN) ? ["--proof"] : []))
      )
    }

    const { engine, transactional } = yield* engineOf(session, name)
    const wrongEngine = unfit(name, engine, deduplicate)
    if (wrongEngine !== undefined) return yield* unusable("ENGINE", wrongEngine)

    const keys = deduplicate ? yield* uniqueKeysOf(session, name) : []
    const eventKeys = keys.filter(isOverEventId).map((key) => key.name)
    if (deduplicate && eventKeys.length === 0) {
      return yield* unusable(
        "NO_UNIQUE_KEY",
        `${name} has no unique key over ${EVENT_ID}: run ${migrateCommand()}, ` +
          `or set deduplication to "none"`
      )
    }

    const timeZone = yield* timeZoneOf(session, definition, name, deduplicate, present)
    const into = `INTO ${quote(name)} (${columns.map(quote).join(",")}) VALUES `
    const inserts = new Map<number, string>()
    const maxRows = Math.floor(MAX_PLACEHOLDERS / columns.length)
    const counter = [...present].find(([, { extra }]) => /auto_increment/i.test(extra ?? ""))?.[0]
    const isOurs = (column: string) => columns.some((ours) => ours.toLowerCase() === column)

    return {
      subject: {
        ...session.endpoint,
        table: name,
        eventKeys,
        columns,
        counter: counter === undefined || isOurs(counter) ? undefined : counter
      },
      transactional,
      engineNote: engineNote(name, engine),
      // a salt is bytes already
      forms: definition.columns.map(({ name }) =>
        name === PROOF_COLUMN ? undefined : formOf(columnOf(name))
      ),
      timeZone,
      ownKeys: ownKeysOf(definition, keys, present),
      countIds: readsIds(present)
        ? `SELECT COUNT(DISTINCT ${EVENT_ID}) AS n FROM ${quote(name)} WHERE ${EVENT_ID} IN `
        : undefined,
      insert: `INSERT ${into}`,
      insertIgnore: `INSERT IGNORE ${into}`,
      prepared: (count) => {
        let sql = inserts.get(count)
        if (sql === undefined) {
          sql = `INSERT ${into}${placeholders(count, columns.length)}`
          inserts.set(count, sql)
        }
        return sql
      },
      isPrepared: (count) => session.prepares() && isPrepared(count),
      fitting: (events, from) => {
        const room = session.maxPacket - STATEMENT_BYTES
        const most = Math.min(maxRows, events.length - from)
        const count = atMostBytes(events, from, most) <= room ? most : countFitting(events, from, most, room)
        // Hot path: hundreds of rows go prepared, the rest as text; all of them as text would be slower
        return session.prepares() && count > PREPARED_STEP ? count - (count % PREPARED_STEP) : count
      },
      note: (column = "") => {
        const declared = isOurs(column.toLowerCase()) ? columnOf(column)?.declared : undefined
        return declared === undefined ? "" : typeNote(column, declared)
      },
      advice: (event) => {
        const column = definition.columns.find((column, index) =>
          cannotHold(columnOf(column.name)?.charset, event.row[index])
        )
        return column === undefined
          ? undefined
          : `the character set ${columnOf(column.name)?.charset ?? ""} of ${name}.${column.name} cannot hold the text: ` +
              `ALTER TABLE ${quote(name)} CONVERT TO CHARACTER SET utf8mb4`
      }
    }
  })

const formOf = (column: Column | undefined): Form => {
  if (column === undefined) return undefined
  if (column.type === "bit") return "bits"
  if (WHOLE.test(column.type)) return "whole"
  if (TIMES.has(column.type)) return column.type as "year" | "time" | "date" | "datetime" | "timestamp"
  if (column.type === "enum" || column.type === "set") return membersOf(column.declared)
  return column.charset !== null || DIGITS.test(column.type) ? "digits" : "finite"
}

/** Anchored, since POINT ends in `int` as well. */
const WHOLE = /^(?:tiny|small|medium|big)?int$/

/** The members of `enum('a','it''s')`. Only numbers among them matter, so no other escape does. */
const membersOf = (declared: string): ReadonlySet<string> =>
  new Set(Array.from(declared.matchAll(/'((?:[^']|'')*)'/g), ([, member]) => member!.replaceAll("''", "'")))

const TIMES = new Set(["year", "time", "date", "datetime", "timestamp"])

/**
 * Types that take a number as its digits. MySQL's JSON has no character set, and refuses a number that is no text. For
 * an address, a UUID or a shape, MariaDB refuses a number by 4078, which nobody knows. It refuses a text by a code that
 * blames the row.
 */
const DIGITS =
  /^(?:decimal|json|(?:var)?binary|(?:tiny|medium|long)?blob|uuid|inet[46]|geometry|(?:multi)?(?:point|linestring|polygon)|geom(?:etry)?collection)$/

/**
 * The time zone in which a table is written. Our times are UTC. A TIMESTAMP column reads them in the session's zone: it
 * shifts them, and refuses an hour that a clock change skips. A session in UTC helps, unless it shifts something else.
 * That is a TIMESTAMP that the program gives as text, or what the server makes by the session's clock.
 */
const timeZoneOf = (
  session: Session,
  definition: AuditEvent.Any,
  name: string,
  deduplicate: boolean,
  present: Columns
): Effect.Effect<string | undefined, UploadError> =>
  Effect.suspend(() => {
    const isTimestamp = (column: string) => present.get(column.toLowerCase())?.type === "timestamp"
    const timestamps = definition.columns.filter((column) => isTimestamp(column.name))
    const dates = timestamps.filter((column) => holdsDates(definition.fields[column.field]!) !== "never")
    const isOurs = deduplicate && isTimestamp(EVENT_TIME)
    if ((dates.length === 0 && !isOurs) || session.isUtc) return Effect.succeed(undefined)
    const isAlone = timestamps.every((column) => holdsDates(definition.fields[column.field]!) === "always")
    const written = [...dates.map((column) => column.name), ...(isOurs ? [EVENT_TIME] : [])]
    const shifted = [...present].find(([, column]) => isMadeInZone(column, written))
    if (isAlone && shifted === undefined) return Effect.succeed("+00:00")
    return unusable(
      "TIME_ZONE",
      `The events ${definition.kind} write dates to TIMESTAMP columns of ${name} (${written.join(", ")}), which the server would ` +
        `shift by its time zone, and UTC for the session would shift ${shifted?.[0] ?? "the other TIMESTAMP columns"}: make them ` +
        `DATETIME(3), or run the server with default_time_zone = '+00:00'`
    )
  })

/**
 * Whether the server makes the column's value by the session's clock: by a default, or generated from a TIMESTAMP and
 * stored. A TIMESTAMP itself keeps its moment in every zone.
 */
const isMadeInZone = (
  { expression, extra, standard, type }: Column,
  timestamps: ReadonlyArray<string>
): boolean => {
  if (type === "timestamp") return false
  if (CLOCK.test(withoutTexts(standard ?? ""))) return true
  if (!/stored generated/i.test(extra ?? "")) return false
  const generated = withoutTexts(expression ?? "").toLowerCase()
  return timestamps.some((name) => {
    const column = quote(name.toLowerCase())
    // NULL, and the moment itself, are the same in every zone
    return [`isnull(${column})`, `${column} is null`, `${column} is not null`, `unix_timestamp(${column})`]
      .reduce((rest, harmless) => rest.replaceAll(harmless, ""), generated)
      .includes(column)
  })
}

/** An expression without its texts, which name no functions or columns. MySQL escapes quotes: `_utf8mb4\'at\'`. */
const withoutTexts = (expression: string): string =>
  expression.replaceAll("\\'", "'").replaceAll(/'(?:[^'\\]|''|\\.)*'/g, "")

/** Functions that say the time in the session's zone. */
const CLOCK =
  /\b(?:current_(?:timestamp|date|time)\b|(?:now|curdate|curtime|sysdate|localtime(?:stamp)?|from_unixtime)\s*\()/i

export const unusable = (code: string, reason: string): UploadError =>
  new UploadError({ class: "operator", code, reason })

/** A column, as information_schema shows it. */
const Column = Schema.Struct({
  /** null if it holds no text */
  charset: Schema.NullOr(Schema.String),
  /** without its length, in lower case: `varchar`, `timestamp` */
  type: Schema.String,
  /** its default */
  standard: Schema.NullOr(Schema.String),
  extra: Schema.NullOr(Schema.String),
  /** what it is generated from */
  expression: Schema.NullOr(Schema.String),
  /** of texts and bytes */
  length: Schema.NullOr(Schema.Union(Schema.Number, Schema.NumberFromString)),
  nullable: Schema.String,
  /** what the account may do with it */
  rights: Schema.String,
  /** the whole type, `varchar(36)` */
  declared: Schema.String
})

export type Column = typeof Column.Type

/** By name, in lower case. */
export type Columns = ReadonlyMap<string, Column>

/** The columns of a table that the account may see. */
export const columnsOf = (session: Session, table: string): Effect.Effect<Columns, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String, ...Column.fields }),
      "SELECT column_name AS name, character_set_name AS charset, LOWER(data_type) AS type, " +
        "column_default AS standard, extra AS extra, generation_expression AS expression, character_maximum_length AS length, is_nullable AS nullable, " +
        "column_type AS declared, privileges AS rights FROM information_schema.columns " +
        "WHERE table_schema = DATABASE() AND table_name = ?",
      [table]
    ),
    (columns) => new Map(columns.map(({ name, ...column }) => [name.toLowerCase(), column]))
  )

interface UniqueKey {
  readonly name: string
  /** null for an expression */
  readonly columns: ReadonlyArray<string | null>
  /** whether it covers only the beginning of a column */
  readonly isPartial: boolean
}

/**
 * The unique keys. For tables that keep old versions of rows, MariaDB adds the end of a row's life to each key. It is
 * left out here: among living rows such a key is as unique without it.
 */
export const uniqueKeysOf = (
  session: Session,
  table: string
): Effect.Effect<ReadonlyArray<UniqueKey>, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({
        name: Schema.String,
        column: Schema.NullOr(Schema.String),
        part: Schema.NullOr(Schema.Unknown)
      }),
      "SELECT index_name AS name, column_name AS `column`, sub_part AS part FROM information_schema.statistics " +
        "WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 AND COALESCE(column_name, '') NOT IN (" +
        "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? " +
        "AND UPPER(generation_expression) = 'ROW END') ORDER BY index_name, seq_in_index",
      [table, table]
    ),
    (parts) =>
      [...new Set(parts.map(({ name }) => name))].map((name) => {
        const own = parts.filter((part) => part.name === name)
        return {
          name,
          columns: own.map(({ column }) => column),
          isPartial: own.some(({ part }) => part !== null)
        }
      })
  )

export const isOverEventId = ({ columns, isPartial }: UniqueKey): boolean =>
  columns.length === 1 && columns[0]?.toLowerCase() === EVENT_ID && !isPartial

/** The names of the unique keys over event_id alone. */
export const eventKeysOf = (
  session: Session,
  table: string
): Effect.Effect<ReadonlyArray<string>, SqlError> =>
  Effect.map(uniqueKeysOf(session, table), (keys) => keys.filter(isOverEventId).map(({ name }) => name))

/** The unique keys over columns that the kind writes. Any other key's refusal is never about an event's content. */
const ownKeysOf = (
  definition: AuditEvent.Any,
  keys: ReadonlyArray<UniqueKey>,
  present: Columns
): ReadonlyArray<OwnKey> => {
  const places = new Map(definition.columns.map(({ name }, index) => [name.toLowerCase(), index]))
  const placeOf = (column: string | null) => places.get(column?.toLowerCase() ?? "") ?? -1
  return keys
    .filter(
      (key) => !isOverEventId(key) && key.columns.some((column) => column === null || placeOf(column) >= 0)
    )
    .map(({ columns, name }) => ({
      name,
      variation: variationOf(
        columns.map((column) => ({
          index: placeOf(column),
          column: present.get(column?.toLowerCase() ?? "")
        }))
      )
    }))
}

const readsIds = (present: Columns): boolean => /\bselect\b/i.test(present.get(EVENT_ID)?.rights ?? "")

/** Whether an event that is there already can be told from another one with the same key. */
export const isTellable = (
  definition: AuditEvent.Any,
  keys: ReadonlyArray<UniqueKey>,
  present: Columns,
  transactional: boolean
): boolean => {
  const own = ownKeysOf(definition, keys, present)
  return (
    own.length === 0 ||
    readsIds(present) ||
    (transactional && own.every((key) => key.variation !== undefined))
  )
}

/** The engine of a table; null for a view. Some servers do not say whether it has transactions. */
export const engineOf = (
  session: Session,
  table: string
): Effect.Effect<{ readonly engine: string | null; readonly transactional: boolean }, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ engine: Schema.NullOr(Schema.String), transactions: Schema.NullOr(Schema.String) }),
      "SELECT t.engine AS engine, e.transactions AS transactions FROM information_schema.tables t " +
        "LEFT JOIN information_schema.engines e ON e.engine = t.engine " +
        "WHERE t.table_schema = DATABASE() AND t.table_name = ?",
      [table]
    ),
    ([found]) => ({ engine: found?.engine ?? null, transactional: found?.transactions !== "NO" })
  )

/** The server's limit; above it the server fails with 1390. */
const MAX_PLACEHOLDERS = 65_535

/** bytes of a statement without its rows: header, table and columns */
const STATEMENT_BYTES = 8192

// measured: prepared is a quarter faster than text, but preparing costs as much, so it pays for few sizes only
const PREPARED_STEP = 100
const isPrepared = (count: number) => count === 1 || count % PREPARED_STEP === 0

/** An upper bound of the events' bytes in any form: three for each UTF-16 unit, which escaping may double. */
const atMostBytes = (events: ReadonlyArray<StoredEvent>, from: number, count: number): number => {
  let units = 0
  let values = 0
  for (let index = from; index < from + count; index++) {
    const { row } = events[index]!
    values += row.length
    for (const value of row) if (typeof value === "string") units += value.length
  }
  return 6 * units + values * VALUE_BYTES + count * IDENTITY_BYTES
}

/** How many events fit, exactly. A single one goes prepared, so nothing of it is escaped. */
const countFitting = (
  events: ReadonlyArray<StoredEvent>,
  from: number,
  most: number,
  room: number
): number => {
  let total = 0
  for (let count = 0; count < most; count++) {
    const { row } = events[from + count]!
    let bytes = 0
    for (const value of row) if (typeof value === "string") bytes += Buffer.byteLength(value)
    const others = IDENTITY_BYTES + row.length * VALUE_BYTES
    total += 2 * bytes + others
    if (total > room) return count > 0 || bytes + others > room ? count : 1
  }
  return most
}

/** An upper bound of the bytes of a statement, if the events are stored alone. */
export const bytesOf = (events: ReadonlyArray<StoredEvent>): number =>
  events.reduce((total, event) => total + IDENTITY_BYTES + bytesOfRow(event), STATEMENT_BYTES)

const bytesOfRow = ({ row }: StoredEvent): number =>
  row.reduce<number>(
    (total, value) => total + VALUE_BYTES + (typeof value === "string" ? Buffer.byteLength(value) : 0),
    0
  )

/** bytes of event_id and event_time, an upper bound */
const IDENTITY_BYTES = 128
/** bytes of a number; or of what a text has besides its content: quotes and comma, or type and length */
const VALUE_BYTES = 32

/**
 * Whether a character set cannot hold a text. Asked only after the server refused it, since a narrow column may well
 * hold everything it is ever given. What lies beyond ASCII differs by set; in utf8mb3 it is all beyond the first plane.
 */
const cannotHold = (charset: string | null | undefined, value: SqlValue | undefined): boolean => {
  if (typeof charset !== "string" || typeof value !== "string" || /^utf8mb4$|^utf(16|32)/.test(charset))
    return false
  // eslint-disable-next-line no-control-regex -- the range is that of ASCII
  return (/^utf8|^ucs2/.test(charset) ? /[\u{10000}-\u{10ffff}]/u : /[^\u0000-\u007f]/).test(value)
}
