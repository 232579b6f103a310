/** Seals and the rows that they are about, in MySQL and MariaDB. */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import { SEAL_TABLE, PROOF_COLUMN, type Seal } from "../../proof/seal.js"
import type { Head, Manifest } from "../../../services/Sealing.js"
import { ShownRow, type Source } from "../../proof/verify.js"
import { hex } from "../../proof/bytes.js"
import { numberText } from "../provable.js"
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
import type { Session } from "./connection.js"
import { classify, isOfPreparing } from "./errors.js"
import { type Columns, columnsOf, quote } from "./table.js"

export const CREATE_SEAL_TABLE: string = `CREATE TABLE IF NOT EXISTS ${quote(SEAL_TABLE)} (
  \`chain\` BINARY(16) NOT NULL,
  \`number\` BIGINT UNSIGNED NOT NULL,
  \`at\` DATETIME(6) NOT NULL,
  \`until\` TEXT NOT NULL,
  \`prev\` BINARY(32) NOT NULL,
  \`entries\` MEDIUMBLOB NOT NULL,
  \`notices\` MEDIUMBLOB NOT NULL,
  \`head\` BINARY(32) NOT NULL,
  \`key_id\` BINARY(8) NOT NULL,
  \`sig\` BINARY(64) NOT NULL,
  PRIMARY KEY (\`chain\`, \`number\`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4`

/** Its columns, and the types that a table made by hand must have. */
export const SEAL_COLUMNS: ReadonlyArray<readonly [name: string, type: RegExp]> = [
  ["chain", /^binary\(16\)/],
  ["number", /^bigint/],
  ["at", /^datetime\(6\)/],
  ["until", /text$/],
  ["prev", /^binary\(32\)/],
  ["entries", /^(?:medium|long)blob/],
  ["notices", /^(?:medium|long)blob/],
  ["head", /^binary\(32\)/],
  ["key_id", /^binary\(8\)/],
  ["sig", /^binary\(64\)/]
]

/** The columns that a table of another kind lacks, or has with another type. */
export const misfitSeals = (present: Columns): ReadonlyArray<string> =>
  SEAL_COLUMNS.filter(([name, type]) => !type.test(present.get(name)?.declared.toLowerCase() ?? "")).map(
    ([name]) => name
  )

const INTO = `INSERT INTO ${quote(SEAL_TABLE)} (${SEAL_COLUMNS.map(([name]) => quote(name)).join(", ")})`

/** Writes a seal. As text it would have twice the bytes, all of them searched for placeholders. */
export const insertSeal = (session: Session, seal: Seal): Effect.Effect<unknown, SqlError> => {
  const sql = `${INTO} ${sealValues(seal, quote)}`
  const parameters = sealParameters(seal)
  if (unprepared.has(session)) return session.query(sql, parameters)
  return Effect.catchIf(
    session.execute(sql, parameters),
    ({ cause }) => isOfPreparing(classify(cause, session.endpoint)),
    () => {
      unprepared.add(session)
      return session.query(sql, parameters)
    }
  )
}

/** Sessions whose server, or proxy, prepares nothing. */
const unprepared = new WeakSet<Session>()

const Bytes = Schema.Uint8ArrayFromSelf

const SealRow = Schema.Struct({
  chain: Bytes,
  numbered: Schema.NumberFromString,
  time: Schema.String,
  until: Schema.String,
  prev: Bytes,
  entries: Bytes,
  notices: Bytes,
  head: Bytes,
  key_id: Bytes,
  sig: Bytes
})

/** Larger numbers are none of ours, and JavaScript cannot hold them. */
const IS_NUMBER = `\`number\` <= ${Number.MAX_SAFE_INTEGER}`

// by aliases: ORDER BY would sort the numbers as texts
const SELECT_SEALS =
  "SELECT `chain`, CAST(`number` AS CHAR) AS numbered, CAST(`at` AS CHAR) AS time, `until`, `prev`, `entries`, `notices`, " +
  `\`head\`, \`key_id\`, \`sig\` FROM ${quote(SEAL_TABLE)} WHERE \`chain\` = ? AND ${IS_NUMBER}`

/** The seals of a chain, the first parameter, that fulfil a condition. */
export const selectSeals = (session: Session, rest: string, params: ReadonlyArray<unknown>) =>
  Effect.map(session.select(SealRow, `${SELECT_SEALS} ${rest}`, params), (rows) =>
    rows.map(({ key_id: keyId, numbered: number, time: at, ...row }): Seal => ({ ...row, number, at, keyId }))
  )

/** The newest seals of at most a hundred chains. */
export const selectHeads = (session: Session): Effect.Effect<ReadonlyArray<Head>, SqlError> =>
  Effect.map(
    session.select(
      Schema.Struct({ chain: Bytes, number: Schema.NumberFromString, head: Bytes }),
      `SELECT s.\`chain\`, CAST(s.\`number\` AS CHAR) AS \`number\`, s.\`head\` FROM ${quote(SEAL_TABLE)} s JOIN (` +
        `SELECT \`chain\`, MAX(\`number\`) AS \`number\` FROM ${quote(SEAL_TABLE)} WHERE ${IS_NUMBER} GROUP BY \`chain\`) newest ` +
        "ON newest.`chain` = s.`chain` AND newest.`number` = s.`number` ORDER BY s.`at` DESC LIMIT 100"
    ),
    (rows) => rows.map(({ chain, head, number }) => ({ chain: hex(chain), number, head: hex(head) }))
  )

const Size = Schema.Struct({ size: Schema.NullOr(Schema.Union(Schema.Number, Schema.NumberFromString)) })

/** The source of a proof; the session must show one snapshot. */
export const sourceOf = (session: Session): Source<SqlError> => {
  /** columns by table, since manifests repeat */
  const known = new Map<string, Columns>()
  const columnsIn = (table: string) =>
    Effect.suspend(() => {
      const columns = known.get(table)
      return columns === undefined
        ? Effect.tap(columnsOf(session, table), (found) => known.set(table, found))
        : Effect.succeed(columns)
    })
  return {
    chains: session
      .select(
        Schema.Struct({ chain: Bytes, seals: Schema.Number }),
        `SELECT \`chain\`, COUNT(*) AS seals FROM ${quote(SEAL_TABLE)} GROUP BY \`chain\` ORDER BY MIN(\`at\`), \`chain\``
      )
      .pipe(Effect.map((rows) => rows.map(({ chain, seals }) => ({ chain: hex(chain), seals })))),
    seals: (chain, from) =>
      Effect.gen(function* () {
        const id = Buffer.from(chain, "hex")
        const sizes = yield* session.select(
          Size,
          `SELECT LENGTH(\`entries\`) + LENGTH(\`notices\`) AS size FROM ${quote(SEAL_TABLE)} ` +
            `WHERE \`chain\` = ? AND ${IS_NUMBER} AND \`number\` >= ? ORDER BY \`number\` LIMIT ${MOST_SEALS}`,
          [id, from]
        )
        if (sizes.length === 0) return []
        const limit = fittingSeals(sizes)
        return yield* selectSeals(session, `AND \`number\` >= ? ORDER BY \`number\` LIMIT ${limit}`, [
          id,
          from
        ])
      }),
    seal: (chain, number) =>
      Effect.map(
        selectSeals(session, "AND `number` = ?", [Buffer.from(chain, "hex"), number]),
        ([seal]) => seal
      ),
    lacks: (manifest) =>
      Effect.map(columnsIn(manifest.table), (present) =>
        lackOf(manifest, present, "the table is gone, or the account may not read it")
      ),
    rows: (manifest, eventIds) =>
      Effect.gen(function* () {
        const present = yield* columnsIn(manifest.table)
        const large = manifest.columns.filter((name) =>
          /^(?:medium|long)/.test(present.get(name.toLowerCase())?.type ?? "")
        )
        const sizes = large.map((name) => `COALESCE(LENGTH(${quote(name)}), 0)`).join(" + ")
        const sizeOf = (count: number) =>
          Effect.map(
            session.select(
              Size,
              `SELECT SUM(${sizes}) AS size FROM ${quote(manifest.table)} WHERE ${whereIn(eventIds, count)}`
            ),
            ([found]) => found?.size ?? 0
          )
        const ids = sizes === "" ? eventIds.length : yield* fittingRows(eventIds.length, sizeOf)
        return { ids, rows: yield* selectRows(session, manifest, present, whereIn(eventIds, ids)) }
      }),
    tables: Effect.map(
      session.select(
        Schema.Struct({ name: Schema.String }),
        "SELECT c.table_name AS name FROM information_schema.columns c JOIN information_schema.tables t " +
          "ON t.table_schema = c.table_schema AND t.table_name = c.table_name AND t.table_type <> 'VIEW' " +
          "WHERE c.table_schema = DATABASE() AND c.column_name IN (?, ?) GROUP BY c.table_name HAVING COUNT(*) = 2",
        [PROOF_COLUMN, EVENT_ID]
      ),
      (rows) => rows.map(({ name }) => name)
    ),
    count: (table) =>
      Effect.map(
        session.select(
          Schema.Struct({ proven: Schema.Number, nameless: Schema.Number, bare: Schema.Number }),
          `SELECT COUNT(${PROOF_COLUMN}) AS proven, COUNT(CASE WHEN ${EVENT_ID} IS NULL THEN ${PROOF_COLUMN} END) AS nameless, ` +
            `COUNT(*) - COUNT(${PROOF_COLUMN}) AS bare FROM ${quote(table)}`
        ),
        ([counts]) => counts ?? NONE_PROVEN
      ),
    quote,
    emptied: (table, column) =>
      Effect.map(columnsIn(table), (present) =>
        present.get(column.toLowerCase())?.nullable === "NO" ? "''" : "NULL"
      ),
    provenIds: (table, after) =>
      Effect.map(
        session.select(
          Schema.Struct({ id: Bytes }),
          `SELECT ${EVENT_ID} AS id FROM ${quote(table)} WHERE ${PROOF_COLUMN} IS NOT NULL AND ${EVENT_ID} > ? ` +
            `ORDER BY ${EVENT_ID} LIMIT ${MOST_IDS_OF_TABLE}`,
          [Buffer.from(after)]
        ),
        (rows) => rows.map(({ id }) => id)
      )
  }
}

interface ShownColumns extends Readonly<Record<string, unknown>> {
  readonly id: Uint8Array
  readonly time: string | null
  readonly proof: Uint8Array | null
}

const isText = (value: unknown): value is string | null => value === null || typeof value === "string"

/** Hot path: checked by hand, since a Schema of a record copies each row. */
const ShownColumns = Schema.declare((row): row is ShownColumns => {
  const { id, proof, time } = row as Readonly<Record<string, unknown>>
  return id instanceof Uint8Array && isText(time) && (proof === null || proof instanceof Uint8Array)
})

/** The columns of a manifest as texts, whatever their types are. */
export const shown = (columns: ReadonlyArray<string>): string =>
  [
    `${EVENT_ID} AS id`,
    `CAST(${EVENT_TIME} AS CHAR) AS time`,
    `${PROOF_COLUMN} AS proof`,
    ...columns.map((name, index) => `CAST(${quote(name)} AS CHAR) AS c${index}`)
  ].join(", ")

/** The rows of a table as they are hashed. */
export const selectRows = (
  session: Session,
  { columns, table }: Pick<Manifest, "columns" | "table">,
  present: Columns,
  where: string
): Effect.Effect<ReadonlyArray<ShownRow>, SqlError> =>
  Effect.map(
    session.select(ShownColumns, `SELECT ${shown(columns)} FROM ${quote(table)} WHERE ${where}`),
    (rows) => {
      const isNumber = columns.map((name) => present.get(name.toLowerCase())?.type === "double")
      const names = columns.map((_, index) => `c${index}`)
      return rows.map((row) => {
        const values: Array<string | null> = []
        let isStrange = false
        for (let i = 0; i < names.length; i++) {
          const value = row[names[i]!]
          isStrange ||= !isText(value)
          // all servers show the same digits, but begin the exponent in different places
          if (isNumber[i]! && typeof value === "string") values.push(numberText(Number(value)))
          else values.push(isText(value) ? value : null)
        }
        return new ShownRow(row.id, row.time, values, row.proof, isStrange)
      })
    }
  )
