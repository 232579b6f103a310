/**
 * The table of a kind of events, as an INSERT needs to know it.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { UploadError } from "../../../schema/Errors.js"
import type { SqlValue, StoredEvent } from "../../../schema/Line.js"
import type { Session } from "./connection.js"
import type { Subject } from "./errors.js"
import { EVENT_ID, EVENT_TIME, placeholders } from "../rows.js"

/** A table that was found to take the events of a kind. */
export interface Table {
  /** for reasons, and to tell its keys from others */
  readonly subject: Subject
  /** whether a statement that fails leaves nothing behind: MyISAM and Aria keep the rows before the bad one */
  readonly transactional: boolean
  /** The INSERT of so many events, and whether it is worth a prepared statement. */
  readonly insert: (count: number) => { readonly sql: string; readonly prepared: boolean }
  /** The same INSERT, leaving out what is there already. */
  readonly insertIgnore: (count: number) => string
  /** How many events, from the one at `from` on, make one statement; 0 if that one alone is larger than a packet. */
  readonly fitting: (events: ReadonlyArray<StoredEvent>, from: number) => number
  /** What is wrong if a column's character set cannot hold the text of the event. */
  readonly unfit: (event: StoredEvent) => UploadError | undefined
}

/** Quotes an identifier. */
export const quote = (name: string): string => `\`${name.replaceAll("`", "``")}\``

/** Looks at the table; it is an operator's matter if it is not as it must be. */
export const describe = (
  session: Session,
  definition: AuditEvent.Any,
  name: string,
  deduplicate: boolean
): Effect.Effect<Table, SqlError | UploadError> =>
  Effect.gen(function* () {
    const { database, username } = session.endpoint
    const charsets = yield* columnsOf(session, name)
    // the columns of a table that an account may insert into are visible to it
    if (charsets.size === 0) {
      return yield* unusable(
        "1146",
        `${database} has no table ${name} that ${username} may insert into: run \`effect-audit migrate\` or GRANT INSERT`
      )
    }

    const columns = [...(deduplicate ? [EVENT_ID, EVENT_TIME] : []), ...definition.columns.map((_) => _.name)]
    const missing = columns.filter((column) => !charsets.has(column.toLowerCase()))
    if (missing.length > 0) {
      return yield* unusable(
        "1054",
        `${name} has no column ${missing.join(", ")}: run \`effect-audit migrate\``
      )
    }

    const eventKeys = deduplicate ? yield* eventKeysOf(session, name) : []
    if (deduplicate && eventKeys.length === 0) {
      return yield* unusable(
        "NO_UNIQUE_KEY",
        `${name} has no unique key over ${EVENT_ID}: run \`effect-audit migrate\`, or set deduplication to "none"`
      )
    }

    const into = `INTO ${quote(name)} (${columns.map(quote).join(",")}) VALUES `
    const inserts = new Map<number, string>()
    const maxRows = Math.floor(MAX_PLACEHOLDERS / columns.length)

    return {
      subject: { ...session.endpoint, table: name, eventKeys },
      transactional: yield* isTransactional(session, name),
      insert: (count) => {
        const prepared = isPrepared(count)
        let sql = inserts.get(count)
        if (sql === undefined) {
          sql = `INSERT ${into}${placeholders(count, columns.length)}`
          if (prepared) inserts.set(count, sql)
        }
        return { sql, prepared }
      },
      insertIgnore: (count) => `INSERT IGNORE ${into}${placeholders(count, columns.length)}`,
      fitting: (events, from) => {
        const room = session.maxPacket - STATEMENT_BYTES
        const most = Math.min(maxRows, events.length - from)
        const count = atMostBytes(events, from, most) <= room ? most : countFitting(events, from, most, room)
        // the hundreds are prepared, what is left is text: two statements, and faster than one as text
        return count > PREPARED_STEP ? count - (count % PREPARED_STEP) : count
      },
      unfit: (event) => {
        const column = definition.columns.find((column, index) =>
          cannotHold(charsets.get(column.name.toLowerCase()), event.row[index])
        )
        return column === undefined
          ? undefined
          : unusable(
              "1366",
              `The character set ${charsets.get(column.name.toLowerCase()) ?? ""} of ${name}.${column.name} cannot hold ` +
                `all text: ALTER TABLE ${quote(name)} CONVERT TO CHARACTER SET utf8mb4`
            )
      }
    }
  })

const unusable = (code: string, reason: string) => new UploadError({ class: "operator", code, reason })

/** The columns of a table, in lower case, with the character sets of those that have one. */
export const columnsOf = (
  session: Session,
  table: string
): Effect.Effect<ReadonlyMap<string, string | null>, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String, charset: Schema.NullOr(Schema.String) }),
      "SELECT column_name AS name, character_set_name AS charset FROM information_schema.columns " +
        "WHERE table_schema = DATABASE() AND table_name = ?",
      [table]
    ),
    (columns) => new Map(columns.map(({ charset, name }) => [name.toLowerCase(), charset]))
  )

/** The names of the unique keys over event_id alone. */
export const eventKeysOf = (
  session: Session,
  table: string
): Effect.Effect<ReadonlyArray<string>, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String }),
      "SELECT index_name AS name FROM information_schema.statistics " +
        "WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 " +
        "GROUP BY index_name HAVING COUNT(*) = 1 AND MAX(column_name) = ? AND MAX(sub_part) IS NULL",
      [table, EVENT_ID]
    ),
    (keys) => keys.map((key) => key.name)
  )

const isTransactional = (session: Session, table: string): Effect.Effect<boolean, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ transactions: Schema.NullOr(Schema.String) }),
      "SELECT transactions FROM information_schema.engines WHERE engine = " +
        "(SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?)",
      [table]
    ),
    // a view, or a server that does not say
    ([engine]) => engine?.transactions !== "NO"
  )

/** The server's limit; above it 1390. */
const MAX_PLACEHOLDERS = 65_535

/** A statement without its rows: header, table and columns. */
const STATEMENT_BYTES = 8192

// measured: prepared is a quarter faster than text, but preparing costs as much, so only few sizes are worth it
const PREPARED_STEP = 100
const isPrepared = (count: number) => count === 1 || count % PREPARED_STEP === 0

/** More bytes than the events need in any form: three for each UTF-16 unit, which escaping may double. */
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

/** How many events fit if it must be known exactly; a single one is prepared, and then nothing is escaped. */
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

/** No fewer bytes than the statement of an event has that is stored alone. */
export const bytesOf = (events: ReadonlyArray<StoredEvent>): number =>
  events.reduce((total, event) => total + IDENTITY_BYTES + bytesOfRow(event), STATEMENT_BYTES)

const bytesOfRow = ({ row }: StoredEvent): number =>
  row.reduce<number>(
    (total, value) => total + VALUE_BYTES + (typeof value === "string" ? Buffer.byteLength(value) : 0),
    0
  )

/** event_id and event_time */
const IDENTITY_BYTES = 128
/** a number; or of a text the quotes and the comma, or its type and length */
const VALUE_BYTES = 32

/**
 * Asked only after the server has refused a text, since a narrow column may well hold everything it is ever given.
 * Characters outside ASCII are beyond some sets and not others; in utf8mb3 it is those outside the first plane.
 */
const cannotHold = (charset: string | null | undefined, value: SqlValue | undefined): boolean => {
  if (typeof charset !== "string" || typeof value !== "string" || /^utf8mb4$|^utf(16|32)/.test(charset))
    return false
  // eslint-disable-next-line no-control-regex -- the range is that of ASCII
  return (/^utf8|^ucs2/.test(charset) ? /[\u{10000}-\u{10ffff}]/u : /[^\u0000-\u007f]/).test(value)
}
