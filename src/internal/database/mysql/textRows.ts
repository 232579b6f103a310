/**
 * Rows of texts, read from the driver's packets. Hot path: without generated code, the driver would take most of the
 * time of a search (bench/README.md#reading).
 */
import type { Cells } from "../walk.js"
import { type Packet, protocolError, type Querying, type Statement } from "./driver.js"

/** The values of a row; NULL is null. */
type Texts = ReadonlyArray<string | null>

/**
 * Runs a SELECT of so many columns, all texts in UTF-8. Hands on each row as it arrives, always in the same object. If
 * a driver shows its packets in another way, it reads the rows itself.
 */
export const queryTexts = (
  connection: Querying,
  sql: string,
  columns: number,
  take: (row: TextRow) => void,
  done: (error: Error | null) => void
): void => {
  const found = new TextRow(columns)
  const statement = connection.query({ sql, values: [], rowsAsArray: true }, (error, rows) => {
    if (error !== null) return done(error)
    const others = Array.isArray(rows) ? (rows as ReadonlyArray<unknown>) : []
    if (!others.every((row) => isTexts(row, columns))) {
      return done(protocolError("rows of another kind than those that were asked for"))
    }
    for (const texts of others) {
      found.take(texts)
      take(found)
    }
    done(null)
  })
  const { row: driversRow } = statement
  const row: Statement["row"] = (packet, owner) => {
    if (packet.isEOF() || !Buffer.isBuffer(packet.buffer)) return driversRow.call(statement, packet, owner)
    found.read(packet)
    take(found)
    return row
  }
  statement.row = row
}

const isTexts = (row: unknown, columns: number): row is Texts =>
  Array.isArray(row) &&
  row.length === columns &&
  row.every((value: unknown) => value === null || typeof value === "string")

/** A row: bytes in a packet, which become texts on demand. */
export class TextRow implements Cells {
  buffer: Buffer = EMPTY
  /** where each text begins in the buffer */
  readonly starts: Int32Array
  /** where each ends; -1 for NULL */
  readonly ends: Int32Array
  /** bytes of all texts, about */
  size = 0
  private texts: Array<string | null>
  private isDecoded = false

  constructor(readonly columns: number) {
    this.starts = new Int32Array(columns)
    this.ends = new Int32Array(columns)
    this.texts = new Array<string | null>(columns).fill(null)
  }

  /** Reads a row, in which each value follows its length (MySQL's protocol, "Text Resultset Row"). */
  read({ buffer, end, offset }: Packet): void {
    const { columns, ends, starts } = this
    let at = offset
    for (let column = 0; column < columns; column++) {
      let length = buffer[at++]!
      if (length === NULL) {
        ends[column] = -1
        continue
      }
      if (length > NULL) {
        const bytes = length === 0xfc ? 2 : length === 0xfd ? 3 : 8
        // 6 of 8 bytes are enough for any packet
        length = at + bytes <= end ? buffer.readUIntLE(at, Math.min(bytes, 6)) : Number.POSITIVE_INFINITY
        at += bytes
      }
      if (at + length > end) throw protocolError("a row that ends before its values do")
      starts[column] = at
      ends[column] = at += length
    }
    if (at !== end) throw protocolError("a row of more values than were asked for")
    this.buffer = buffer
    this.size = end - offset
    this.isDecoded = false
  }

  /** Takes a row that the driver has read. */
  take(texts: Texts): void {
    this.buffer = EMPTY
    this.size = texts.join().length
    this.texts = [...texts]
    this.isDecoded = true
  }

  text(column: number): string | null {
    const { buffer, ends, isDecoded, starts, texts } = this
    if (isDecoded) return texts[column]!
    const end = ends[column]!
    return end < 0 ? null : utf8Of(buffer, starts[column]!, end)
  }

  /** The row as bytes; undefined if the driver has read it. */
  get cells(): Cells | undefined {
    return this.buffer === EMPTY ? undefined : this
  }

  /** All texts; the next row comes in the same array. */
  get all(): Texts {
    if (!this.isDecoded) {
      for (let column = 0; column < this.columns; column++) this.texts[column] = this.text(column)
      this.isDecoded = true
    }
    return this.texts
  }
}

const NULL = 0xfb

const EMPTY = Buffer.alloc(0)

const { utf8Slice } = Buffer.prototype as { utf8Slice?: (this: Buffer, start: number, end: number) => string }

/** By Node's own function under `toString`, as in the driver: calling `toString` costs as much as a short text. */
const utf8Of: (buffer: Buffer, start: number, end: number) => string =
  utf8Slice === undefined
    ? (buffer, start, end) => buffer.toString("utf8", start, end)
    : (buffer, start, end) => utf8Slice.call(buffer, start, end)
