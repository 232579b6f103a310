/**
 * Rows of texts, as the driver's packets hold them. Hot path: without code that is made at run time, the driver takes
 * most of the time of a search (bench/README.md#reading).
 */
import { protocolError } from "./driver.js"

/** The values of a row; NULL is null. */
export type Texts = ReadonlyArray<string | null>

/** A packet of the driver: a row lies between offset and end. */
interface Packet {
  readonly buffer: Buffer
  readonly offset: number
  readonly end: number
  readonly isEOF: () => boolean
}

/** A statement of the driver, which calls `row` for each packet, and goes on with what that returns. */
interface Statement {
  row: (this: Statement, packet: Packet, connection: unknown) => unknown
}

/** Of the driver's connection, what runs a statement. */
export interface Querying {
  readonly query: (
    options: { readonly sql: string; readonly values: ReadonlyArray<never>; readonly rowsAsArray: true },
    done: (error: Error | null, rows: unknown) => void
  ) => Statement
}

/**
 * Runs a SELECT of so many columns, all of them texts in UTF-8, and hands on each row as it arrives: the next one comes
 * in the same array. A driver that shows its packets in another way reads the rows itself.
 */
export const queryTexts = (
  connection: Querying,
  sql: string,
  columns: number,
  take: (texts: Texts, bytes: number) => void,
  done: (error: Error | null) => void
): void => {
  const statement = connection.query({ sql, values: [], rowsAsArray: true }, (error, rows) => {
    if (error !== null) return done(error)
    const others = Array.isArray(rows) ? (rows as ReadonlyArray<unknown>) : []
    if (!others.every((row) => isTexts(row, columns))) {
      return done(protocolError("rows of another kind than those that were asked for"))
    }
    for (const texts of others) take(texts, texts.join().length)
    done(null)
  })
  const { row: driversRow } = statement
  const texts = new Array<string | null>(columns).fill(null)
  const row: Statement["row"] = (packet, owner) => {
    if (packet.isEOF() || !Buffer.isBuffer(packet.buffer)) return driversRow.call(statement, packet, owner)
    readTexts(packet, texts)
    take(texts, packet.end - packet.offset)
    return row
  }
  statement.row = row
}

const isTexts = (row: unknown, columns: number): row is Texts =>
  Array.isArray(row) &&
  row.length === columns &&
  row.every((value: unknown) => value === null || typeof value === "string")

/**
 * Reads a row into an array of as many values: each stands behind its length (MySQL's protocol, "Text Resultset Row").
 */
export const readTexts = ({ buffer, end, offset }: Packet, texts: Array<string | null>): void => {
  let at = offset
  for (let column = 0; column < texts.length; column++) {
    let length = buffer[at++]!
    if (length === NULL) {
      texts[column] = null
      continue
    }
    if (length > NULL) {
      const bytes = length === 0xfc ? 2 : length === 0xfd ? 3 : 8
      // of the longest, 6 bytes are more than any packet has
      length = at + bytes <= end ? buffer.readUIntLE(at, Math.min(bytes, 6)) : Number.POSITIVE_INFINITY
      at += bytes
    }
    if (at + length > end) throw protocolError("a row that ends before its values do")
    texts[column] = utf8Of(buffer, at, at + length)
    at += length
  }
  if (at !== end) throw protocolError("a row of more values than were asked for")
}

const NULL = 0xfb

const { utf8Slice } = Buffer.prototype as { utf8Slice?: (this: Buffer, start: number, end: number) => string }

/** By Node's own function under `toString`, as the driver does it: the way there costs as much as a short text. */
const utf8Of: (buffer: Buffer, start: number, end: number) => string =
  utf8Slice === undefined
    ? (buffer, start, end) => buffer.toString("utf8", start, end)
    : (buffer, start, end) => utf8Slice.call(buffer, start, end)
