/** Seals and the rows that they are about, in SQLite. */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import { textOf as idText } from "../../../schema/EventId.js"
import type { Head, Manifest } from "../../../services/Sealing.js"
import { hex } from "../../proof/bytes.js"
import { PROOF_COLUMN, type Seal, SEAL_TABLE } from "../../proof/seal.js"
import { MOST_IDS, ShownRow, type Source } from "../../proof/verify.js"
import {
  fittingRows,
  fittingSeals,
  lackOf,
  MOST_IDS_OF_TABLE,
  MOST_SEALS,
  NONE_PROVEN,
  sealParameters,
  sealValues,
  whereIn
} from "../proving.js"
import { EVENT_ID, EVENT_TIME } from "../rows.js"
import { quote } from "./connection.js"
import { textOf } from "./provable.js"

export const CREATE_SEAL_TABLE: string = `CREATE TABLE IF NOT EXISTS ${quote(SEAL_TABLE)} (
  "chain" BLOB NOT NULL,
  "number" INTEGER NOT NULL,
  "at" TEXT NOT NULL,
  "until" TEXT NOT NULL,
  "prev" BLOB NOT NULL,
  "entries" BLOB NOT NULL,
  "notices" BLOB NOT NULL,
  "head" BLOB NOT NULL,
  "key_id" BLOB NOT NULL,
  "sig" BLOB NOT NULL,
  PRIMARY KEY ("chain", "number")
)`

const SEAL_COLUMNS = ["chain", "number", "at", "until", "prev", "entries", "notices", "head", "key_id", "sig"]

export const insertSeal = (connection: Connection, seal: Seal): Effect.Effect<unknown, SqlError> =>
  connection.executeRaw(
    `INSERT INTO ${quote(SEAL_TABLE)} (${SEAL_COLUMNS.map(quote).join(", ")}) ${sealValues(seal, quote)}`,
    sealParameters(seal)
  )

/** libsql gives bytes as an ArrayBuffer. Anything else is none of ours, and becomes no bytes. */
const Bytes = Schema.transform(Schema.Unknown, Schema.Uint8ArrayFromSelf, {
  strict: true,
  decode: (value) => (value instanceof ArrayBuffer ? new Uint8Array(value) : new Uint8Array(0)),
  encode: (bytes) => bytes
})

/** The same for a text, in place of which somebody may have written something else. */
const Text = Schema.transform(Schema.Unknown, Schema.String, {
  strict: true,
  decode: (value) => (typeof value === "string" ? value : ""),
  encode: (text) => text
})

/** Other numbers are none of ours, and JavaScript cannot hold them. */
const IS_NUMBER = `typeof("number") = 'integer' AND "number" <= ${Number.MAX_SAFE_INTEGER}`

const SealRow = Schema.Struct({
  chain: Bytes,
  number: Schema.Number,
  at: Text,
  until: Text,
  prev: Bytes,
  entries: Bytes,
  notices: Bytes,
  head: Bytes,
  key_id: Bytes,
  sig: Bytes
})

/** The newest seals of at most a hundred chains. */
export const selectHeads = (connection: Connection): Effect.Effect<ReadonlyArray<Head>, SqlError> =>
  Effect.map(
    select(
      connection,
      Schema.Struct({ chain: Bytes, number: Schema.Number, head: Bytes }),
      `SELECT "chain", MAX("number") AS "number", "head" FROM ${quote(SEAL_TABLE)} WHERE ${IS_NUMBER} GROUP BY "chain" ORDER BY MAX("at") DESC LIMIT 100`
    ),
    (rows) => rows.map(({ chain, head, number }) => ({ chain: hex(chain), number, head: hex(head) }))
  )

/** Which of the ids are in the table, as texts. */
export const presentIds = (
  connection: Connection,
  table: string,
  eventIds: ReadonlyArray<Uint8Array>
): Effect.Effect<Set<string>, SqlError> =>
  Effect.gen(function* () {
    const present = new Set<string>()
    for (let from = 0; from < eventIds.length; from += MOST_IDS) {
      const some = eventIds.slice(from, from + MOST_IDS)
      const rows = yield* select(
        connection,
        Schema.Struct({ id: Bytes }),
        `SELECT ${EVENT_ID} AS id FROM ${quote(table)} WHERE ${whereIn(some, some.length)}`
      )
      for (const { id } of rows) present.add(idText(id))
    }
    return present
  })

const select = <Row, I>(
  connection: Connection,
  row: Schema.Schema<Row, I>,
  sql: string,
  params: ReadonlyArray<unknown> = []
): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
  connection.execute(sql, params, undefined).pipe(
    // libsql's rows are arrays with names on them
    Effect.map((rows) => rows.map((found) => ({ ...(found as object) }))),
    Effect.flatMap(Schema.decodeUnknown(Schema.Array(row))),
    Effect.catchTag("ParseError", Effect.die)
  )

/** The seals of a chain, the first parameter, that fulfil a condition. */
export const selectSeals = (connection: Connection, rest: string, params: ReadonlyArray<unknown>) =>
  Effect.map(
    select(
      connection,
      SealRow,
      `SELECT ${SEAL_COLUMNS.map(quote).join(", ")} FROM ${quote(SEAL_TABLE)} WHERE "chain" = ? AND ${IS_NUMBER} ${rest}`,
      params
    ),
    (rows) => rows.map(({ key_id: keyId, ...row }): Seal => ({ ...row, keyId }))
  )

const columnsOf = (connection: Connection, table: string): Effect.Effect<ReadonlySet<string>, SqlError> =>
  Effect.map(
    select(connection, Schema.Struct({ name: Schema.String }), "SELECT name FROM pragma_table_info(?)", [
      table
    ]),
    (columns) => new Set(columns.map(({ name }) => name.toLowerCase()))
  )

/** The source of a proof; the connection must show one snapshot. */
export const sourceOf = (connection: Connection): Source<SqlError> => ({
  chains: Effect.map(
    select(
      connection,
      Schema.Struct({ chain: Bytes, seals: Schema.Number }),
      `SELECT "chain", COUNT(*) AS seals FROM ${quote(SEAL_TABLE)} GROUP BY "chain" ORDER BY MIN("at"), "chain"`
    ),
    (rows) => rows.map(({ chain, seals }) => ({ chain: hex(chain), seals }))
  ),
  seals: (chain, from) =>
    Effect.gen(function* () {
      const id = Buffer.from(chain, "hex")
      const sizes = yield* select(
        connection,
        Schema.Struct({ size: Schema.NullOr(Schema.Number) }),
        `SELECT LENGTH("entries") + LENGTH("notices") AS size FROM ${quote(SEAL_TABLE)} ` +
          `WHERE "chain" = ? AND ${IS_NUMBER} AND "number" >= ? ORDER BY "number" LIMIT ${MOST_SEALS}`,
        [id, from]
      )
      if (sizes.length === 0) return []
      const limit = fittingSeals(sizes)
      return yield* selectSeals(connection, `AND "number" >= ? ORDER BY "number" LIMIT ${limit}`, [id, from])
    }),
  seal: (chain, number) =>
    Effect.map(
      selectSeals(connection, `AND "number" = ?`, [Buffer.from(chain, "hex"), number]),
      ([seal]) => seal
    ),
  lacks: (manifest) =>
    Effect.map(columnsOf(connection, manifest.table), (present) =>
      lackOf(manifest, present, "the table is gone")
    ),
  rows: (manifest, eventIds) =>
    Effect.gen(function* () {
      const sizes = manifest.columns
        .map((name) => `COALESCE(LENGTH(CAST(${quote(name)} AS BLOB)), 0)`)
        .join(" + ")
      const sizeOf = (count: number) =>
        Effect.map(
          select(
            connection,
            Schema.Struct({ size: Schema.NullOr(Schema.Number) }),
            `SELECT SUM(${sizes}) AS size FROM ${quote(manifest.table)} WHERE ${whereIn(eventIds, count)}`
          ),
          ([found]) => found?.size ?? 0
        )
      const ids = sizes === "" ? eventIds.length : yield* fittingRows(eventIds.length, sizeOf)
      return { ids, rows: yield* selectRows(connection, manifest, whereIn(eventIds, ids)) }
    }),
  tables: Effect.map(
    select(
      connection,
      Schema.Struct({ name: Schema.String }),
      "SELECT m.name AS name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' " +
        "AND LOWER(c.name) IN (?, ?) GROUP BY m.name HAVING COUNT(*) = 2",
      [PROOF_COLUMN, EVENT_ID]
    ),
    (rows) => rows.map(({ name }) => name)
  ),
  count: (table) =>
    Effect.map(
      select(
        connection,
        Schema.Struct({ proven: Schema.Number, nameless: Schema.Number, bare: Schema.Number }),
        `SELECT COUNT(${PROOF_COLUMN}) AS proven, COUNT(CASE WHEN typeof(${EVENT_ID}) <> 'blob' THEN ${PROOF_COLUMN} END) ` +
          `AS nameless, COUNT(*) - COUNT(${PROOF_COLUMN}) AS bare FROM ${quote(table)}`
      ),
      ([counts]) => counts ?? NONE_PROVEN
    ),
  quote,
  emptied: (table, column) =>
    Effect.map(
      select(
        connection,
        Schema.Struct({ required: Schema.Number }),
        `SELECT "notnull" AS required FROM pragma_table_info(?) WHERE LOWER(name) = LOWER(?)`,
        [table, column]
      ),
      ([found]) => (found?.required === 1 ? "''" : "NULL")
    ),
  provenIds: (table, after) =>
    Effect.map(
      select(
        connection,
        Schema.Struct({ id: Bytes }),
        `SELECT ${EVENT_ID} AS id FROM ${quote(table)} WHERE ${PROOF_COLUMN} IS NOT NULL AND typeof(${EVENT_ID}) = 'blob' ` +
          `AND ${EVENT_ID} > ? ORDER BY ${EVENT_ID} LIMIT ${MOST_IDS_OF_TABLE}`,
        [Buffer.from(after)]
      ),
      (rows) => rows.map(({ id }) => id)
    )
})

const ShownColumns = Schema.Struct(
  { id: Bytes, proof: Schema.NullOr(Schema.Unknown) },
  Schema.Record({ key: Schema.String, value: Schema.Unknown })
)

/**
 * A value with its storage class. A whole number comes as its digits, since it may be too large for JavaScript. A text
 * comes as its bytes, since libsql ends it at a NUL.
 */
const shown = (column: string, as: string): string =>
  `typeof(${column}) AS t${as}, CASE typeof(${column}) WHEN 'integer' THEN CAST(${column} AS TEXT) ` +
  `WHEN 'text' THEN CAST(${column} AS BLOB) ELSE ${column} END AS v${as}`

/** The rows of a table as they are hashed. */
export const selectRows = (
  connection: Connection,
  { columns, table }: Pick<Manifest, "columns" | "table">,
  where: string
): Effect.Effect<ReadonlyArray<ShownRow>, SqlError> => {
  const list = [EVENT_TIME, ...columns.map(quote)].map((column, index) => shown(column, String(index)))
  return Effect.map(
    select(
      connection,
      ShownColumns,
      `SELECT ${EVENT_ID} AS id, ${PROOF_COLUMN} AS proof, ${list.join(", ")} FROM ${quote(table)} WHERE ${where}`
    ),
    (rows) =>
      rows.map(({ id, proof, ...row }): ShownRow => {
        const texts = list.map((_, index) => textOf(String(row[`t${index}`]), row[`v${index}`]))
        const [eventTime = null, ...values] = texts.map((text) => text ?? null)
        const shownProof = proof instanceof ArrayBuffer ? new Uint8Array(proof) : null
        return new ShownRow(id, eventTime, values, shownProof, texts.includes(undefined))
      })
  )
}
