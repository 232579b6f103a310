/**
 * The judge: from outside the process it reads the queue's directory and the database, and names broken promises. It
 * shares no code with the library, and takes the file format from ARCHITECTURE.md.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { crc32 } from "node:zlib"

/** The content of a queue's directory between two processes. */
export interface Books {
  readonly accepted: number
  readonly delivered: number
  readonly waiting: number
  readonly refused: number
  readonly torn: number
  readonly missing: number
  /** Event ids of the lines after the cursor. */
  readonly waitingIds: ReadonlyArray<string>
  /**
   * Event ids of the dead letters. Those that were retried or delivered are not among them, nor those that a crash kept
   * from the books: their lines still wait, and the database may accept them.
   */
  readonly deadIds: ReadonlyArray<string>
  /** The number of discarded letters. Their content is erased, so nothing tells which events they were. */
  readonly discarded: number
}

/** Reads a directory that no process has open. */
export const readBooks = (directory: string): Books => {
  const cursor = readCursor(path.join(directory, "cursor"))
  const segments = fs
    .readdirSync(directory)
    .filter((name) => /^\d{20}\.ndjson$/.test(name))
    .sort()
    .map((name) => ({
      first: Number(name.slice(0, 20)),
      lines: readLines(path.join(directory, name))
    }))
  const waiting = segments.flatMap(({ first, lines }) =>
    lines
      .filter(({ offset }) => first > cursor.segment || (first === cursor.segment && offset >= cursor.offset))
      .map(({ offset, text }) => ({ place: `${first}:${offset}`, text }))
  )
  const last = segments.at(-1)
  const next = Math.max(cursor.settled, last === undefined ? 0 : last.first + last.lines.length)
  const entries = readLines(path.join(directory, "dead-letter.ndjson")).flatMap(({ text }) => entryOf(text))
  const closed = new Set([
    ...entries.filter(({ type }) => type === "retried" || type === "delivered").map(({ id }) => id),
    ...waiting.map(({ place }) => place)
  ])
  const letters = entries.flatMap(({ class: cls, id, line, type }) =>
    type === "letter" && cls !== "torn" && line !== undefined && !closed.has(id) ? [line] : []
  )
  return {
    accepted: next + cursor.surplus,
    delivered: cursor.delivered,
    waiting: waiting.length,
    refused: cursor.refused,
    torn: cursor.torn,
    missing: cursor.missing,
    waitingIds: waiting.flatMap(({ text }) => idOf(text)),
    deadIds: letters.flatMap(idOf),
    discarded: new Set(entries.flatMap(({ id, type }) => (type === "discarded" ? [id] : []))).size
  }
}

/** The evidence for the judge. */
export interface Evidence {
  /** Ids that the process printed after `record` had returned, in all its lives. */
  readonly acknowledged: ReadonlyArray<string>
  readonly books: Books
  /** The `event_id` of each row, as a UUID. */
  readonly rows: ReadonlyArray<string>
  /** Ids that the database refused, including those that were discarded. */
  readonly refused?: ReadonlyArray<string>
  /** How many retries may have been interrupted: each may leave its event in the queue twice, with one id. */
  readonly interruptedRetries?: number
}

/** The broken promises; empty if all is well. */
export const judge = ({
  acknowledged,
  books,
  interruptedRetries = 0,
  refused: refusedIds = [],
  rows
}: Evidence): ReadonlyArray<string> => {
  const stored = new Set(rows)
  const known = new Set([...rows, ...books.waitingIds, ...books.deadIds])
  const gone = acknowledged.filter((id) => !known.has(id))
  const mayBeDiscarded = new Set(refusedIds)
  const erased = gone.filter((id) => mayBeDiscarded.has(id))
  const lost = erased.length <= books.discarded ? gone.filter((id) => !mayBeDiscarded.has(id)) : gone
  const both = books.deadIds.filter((id) => stored.has(id))
  const { accepted, delivered, missing, refused, torn, waiting } = books
  // the process died before it noted a commit, so the batch is delivered again and stored once
  const unnoted = rows.length - delivered
  const claims: ReadonlyArray<readonly [holds: boolean, otherwise: string]> = [
    [lost.length === 0, `${lost.length} acknowledged events are lost: ${lost.slice(0, 3).join(", ")} ...`],
    [stored.size === rows.length, `${rows.length - stored.size} events are stored twice`],
    [both.length <= interruptedRetries, `${both.length} events are stored and among the dead letters`],
    [
      accepted === delivered + waiting + refused + torn,
      `accepted ${accepted} is not delivered ${delivered} + waiting ${waiting} + refused ${refused} + torn ${torn}`
    ],
    [missing === 0, `${missing} lines are missing`],
    [new Set(acknowledged).size === acknowledged.length, "an id was given twice"],
    [acknowledged.length <= accepted, `${acknowledged.length} acknowledged, but ${accepted} accepted`],
    [
      unnoted >= -interruptedRetries && unnoted <= waiting,
      `${rows.length} rows, but ${delivered} delivered and ${waiting} waiting`
    ]
  ]
  return claims.filter(([holds]) => !holds).map(([, otherwise]) => otherwise)
}

/** The ids of all rows as UUIDs, by a function that runs SQL. */
export const readRows = async (
  query: (sql: string) => Promise<ReadonlyArray<unknown>>
): Promise<ReadonlyArray<string>> => {
  const rows: Array<string> = []
  for (const table of ["nano_banana_user_use_log", "nano_banana_user_log"]) {
    const found = await query(`SELECT LOWER(HEX(event_id)) AS id FROM ${table}`)
    for (const { id } of found as ReadonlyArray<{ readonly id: string }>) {
      rows.push(id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"))
    }
  }
  return rows
}

type Cursor = Readonly<
  Record<
    | "generation"
    | "segment"
    | "offset"
    | "settled"
    | "delivered"
    | "refused"
    | "torn"
    | "missing"
    | "surplus",
    number
  >
>

/** Reads two slots of 512 bytes: JSON, blanks, eight hexadecimal digits of CRC-32, line feed. The newer one counts. */
const readCursor = (file: string): Cursor => {
  const bytes = fs.readFileSync(file)
  const slots = [0, 512].flatMap((start) => {
    const body = bytes.subarray(start, start + 503)
    const checksum = bytes.toString("latin1", start + 503, start + 511)
    return crc32(body) === Number.parseInt(checksum, 16) ? [JSON.parse(body.toString()) as Cursor] : []
  })
  const [newest] = slots.sort((a, b) => b.generation - a.generation)
  if (newest === undefined) throw new Error(`both slots of ${file} are damaged`)
  return newest
}

/** The lines of a file that may be absent; blank ones are skipped. */
const readLines = (file: string) => {
  const lines: Array<{ readonly offset: number; readonly text: string }> = []
  if (!fs.existsSync(file)) return lines
  let offset = 0
  for (const text of fs.readFileSync(file, "utf8").split("\n")) {
    if (text !== "") lines.push({ offset, text })
    offset += Buffer.byteLength(text) + 1
  }
  return lines
}

interface Entry {
  readonly type: string
  readonly id: string
  readonly class?: string
  readonly line?: string
}

const entryOf = (text: string): ReadonlyArray<Entry> => {
  try {
    return [JSON.parse(text) as Entry]
  } catch {
    // a crash cut the entry short, and the letter was written again
    return []
  }
}

const idOf = (line: string): ReadonlyArray<string> => {
  try {
    const { event_id } = JSON.parse(line) as { readonly event_id?: string }
    return event_id === undefined ? [] : [event_id]
  } catch {
    // a torn end
    return []
  }
}
