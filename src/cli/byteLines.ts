/**
 * The lines of an export, written from the bytes that a database sent. Hot path: most values are copied, and no string
 * is made of them (bench/README.md#reading). If a line needs more than that, exported.ts writes it.
 */
import type { Cells } from "../internal/database/walk.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { INVALID } from "../schema/Line.js"
import { type FieldReader, millisOf, plainMillis, readersOf } from "../schema/Row.js"

/** A buffer that grows. */
export class Output {
  bytes: Buffer
  used = 0
  /** texts that wait for one common write: each write costs as much as a short text */
  private waiting = ""

  constructor(room: number) {
    this.bytes = Buffer.allocUnsafe(room)
  }

  reserve(size: number): void {
    if (this.waiting !== "") this.flush()
    this.grow(size)
  }

  /** Writes a text now. */
  text(text: string): void {
    this.grow(3 * text.length)
    this.used += this.bytes.write(text, this.used)
  }

  /** Writes a text together with those that follow. */
  later(text: string): void {
    this.waiting += text
    // Hot path: V8 would copy a text that waits for long
    if (this.waiting.length > PIECE) this.flush()
  }

  get written(): Buffer {
    this.flush()
    return this.bytes.subarray(0, this.used)
  }

  private flush(): void {
    const text = this.waiting
    this.waiting = ""
    this.text(text)
  }

  private grow(size: number): void {
    const most = this.used + size
    if (most <= this.bytes.length) return
    const larger = Buffer.allocUnsafe(2 * most)
    this.bytes.copy(larger, 0, 0, this.used)
    this.bytes = larger
  }
}

/** UTF-16 units */
const PIECE = 2048

/** How a format writes a line. */
export interface Form {
  readonly beforeTime: string
  readonly beforeId: string
  readonly isIdFirst: boolean
  /** before each of the columns */
  readonly before: ReadonlyArray<string>
  readonly behind: string
  /** around a text */
  readonly quote: "" | '"'
  /** NULL */
  readonly nothing: string
  /** of each byte of a text: OTHER, PLAIN, QUOTED or IDEOGRAPH */
  readonly kindOf: Uint8Array
  /** of each byte: 1 if no text that begins or ends with it may be copied */
  readonly edge: Uint8Array
  /** The cell of a value that is not copied; undefined if exported.ts must write the line. */
  readonly cell: (value: unknown, isMasked: boolean) => string | undefined
}

export class LineWriter {
  private readonly readers: ReadonlyArray<FieldReader>
  private readonly before: ReadonlyArray<Buffer>
  private readonly beforeTime: Buffer
  private readonly beforeId: Buffer
  private readonly behind: Buffer
  private readonly nothing: Buffer
  /** bytes of a line apart from its values: the constant parts, time and id */
  private readonly fixed: number

  constructor(
    kind: AuditEvent.Any,
    private readonly form: Form,
    private readonly isMasked: ReadonlyArray<boolean>
  ) {
    this.readers = readersOf(kind)
    this.before = form.before.map((text) => Buffer.from(text))
    this.beforeTime = Buffer.from(form.beforeTime)
    this.beforeId = Buffer.from(form.beforeId)
    this.behind = Buffer.from(form.behind)
    this.nothing = Buffer.from(form.nothing)
    const parts = [...this.before, this.beforeTime, this.beforeId, this.behind]
    this.fixed = parts.reduce((total, { length }) => total + length, IDENTITY_BYTES)
  }

  /** Writes the line of a row. If it cannot, it returns false and has written nothing. */
  write(cells: Cells, output: Output): boolean {
    output.reserve(this.fixed)
    const start = output.used
    if (this.identity(cells, output) && this.values(cells, output)) {
      output.reserve(this.fixed)
      copy(this.behind, 0, this.behind.length, output)
      return true
    }
    output.used = start
    return false
  }

  private identity(cells: Cells, output: Output): boolean {
    const time = this.readers.length
    if (this.form.isIdFirst) return this.id(cells, time + 1, output) && this.time(cells, time, output)
    return this.time(cells, time, output) && this.id(cells, time + 1, output)
  }

  private time({ buffer, ends, starts }: Cells, column: number, output: Output): boolean {
    copy(this.beforeTime, 0, this.beforeTime.length, output)
    const start = starts[column]!
    const end = ends[column]!
    if (end < 0) return this.null(output)
    const text = buffer.toString("latin1", start, end)
    const { quote } = this.form
    // Hot path: toISOString would take as long as the rest of the line
    if (!Number.isNaN(plainMillis(text))) {
      if (quote !== "") output.bytes[output.used++] = QUOTE
      copy(buffer, start, start + 10, output)
      output.bytes[output.used++] = T
      copy(buffer, start + 11, start + 19, output)
      if (text.length === 19) copy(NO_MILLIS, 0, NO_MILLIS.length, output)
      else copy(buffer, start + 19, start + 23, output)
      output.bytes[output.used++] = Z
      if (quote !== "") output.bytes[output.used++] = QUOTE
      return true
    }
    const millis = millisOf(text)
    if (Number.isNaN(millis)) return false
    output.text(`${quote}${new Date(millis).toISOString()}${quote}`)
    return true
  }

  private id({ buffer, ends, starts }: Cells, column: number, output: Output): boolean {
    copy(this.beforeId, 0, this.beforeId.length, output)
    const start = starts[column]!
    const end = ends[column]!
    if (end < 0) return this.null(output)
    if (end - start !== 32) return false
    const isQuoted = this.form.quote !== ""
    const { bytes } = output
    let at = output.used
    if (isQuoted) bytes[at++] = QUOTE
    let from = start
    for (let part = 0; part < PARTS.length; part++) {
      if (part > 0) bytes[at++] = DASH
      for (const to = from + PARTS[part]!; from < to; from++) {
        const code = LOWER[buffer[from]!]!
        if (code === 0) return false
        bytes[at++] = code
      }
    }
    if (isQuoted) bytes[at++] = QUOTE
    output.used = at
    return true
  }

  private values(cells: Cells, output: Output): boolean {
    const { before, isMasked, readers } = this
    for (let i = 0; i < readers.length; i++) {
      const reader = readers[i]!
      const start = cells.starts[i]!
      const end = cells.ends[i]!
      const prefix = before[i]!
      output.reserve(this.fixed + Math.max(0, end - start))
      copy(prefix, 0, prefix.length, output)
      const isPlain = isMasked[i] !== true && this.plain(reader, cells.buffer, start, end, output)
      if (isPlain) continue
      const raw = end < 0 ? null : cells.buffer.toString("utf8", start, end)
      if (!this.other(i, reader, raw, output)) return false
    }
    return true
  }

  /** Copies a value whose bytes are its cell; returns false for any other. */
  private plain(reader: FieldReader, buffer: Buffer, start: number, end: number, output: Output): boolean {
    if (end < 0) return reader.isNullable && this.null(output)
    if (reader.isNumber) {
      if (!isWhole(buffer, start, end)) return false
      copy(buffer, start, end, output)
      return true
    }
    return reader.isText && this.text(buffer, start, end, output)
  }

  /** Copies a text; returns false if it has bytes that may not be copied. */
  private text(buffer: Buffer, start: number, end: number, output: Output): boolean {
    const { edge, kindOf, quote } = this.form
    if (start < end && (edge[buffer[start]!] === 1 || edge[buffer[end - 1]!] === 1)) return false
    const { bytes } = output
    let to = output.used
    let isQuoted = quote !== ""
    if (isQuoted) bytes[to++] = QUOTE
    for (let at = start; at < end; at++) {
      const code = buffer[at]!
      const kind = kindOf[code]!
      if (kind === IDEOGRAPH) {
        if (at + 2 >= end) return false
        bytes[to++] = code
        bytes[to++] = buffer[++at]!
        bytes[to++] = buffer[++at]!
        continue
      }
      if (kind === OTHER) return false
      if (kind === QUOTED && !isQuoted) {
        isQuoted = true
        bytes.copyWithin(output.used + 1, output.used, to++)
        bytes[output.used] = QUOTE
      }
      bytes[to++] = code
    }
    if (isQuoted) bytes[to++] = QUOTE
    output.used = to
    return true
  }

  private other(index: number, reader: FieldReader, raw: string | null, output: Output): boolean {
    const value = readBy(reader, raw)
    const cell = value === INVALID ? undefined : this.form.cell(value, this.isMasked[index]!)
    if (cell !== undefined) output.text(cell)
    return cell !== undefined
  }

  private null(output: Output): true {
    copy(this.nothing, 0, this.nothing.length, output)
    return true
  }
}

/** not copied */
const OTHER = 0
/** copied */
const PLAIN = 1
/** copied, and the text is put in quotes */
const QUOTED = 2
/** the first of three bytes that are all copied */
const IDEOGRAPH = 3

/** The kind of each byte: `others` are not copied, a text with one of `quoted` needs quotes. */
export const kindsOf = (others: string, quoted: string): Uint8Array =>
  Uint8Array.from({ length: 256 }, (_, code) => {
    if (code >= FIRST_IDEOGRAPH && code <= LAST_IDEOGRAPH) return IDEOGRAPH
    const character = String.fromCharCode(code)
    if (code < 0x20 || code > 0x7e || others.includes(character)) return OTHER
    return quoted.includes(character) ? QUOTED : PLAIN
  })

/** 1 for each of these characters. */
export const marked = (characters: string): Uint8Array =>
  Uint8Array.from({ length: 256 }, (_, code) => (characters.includes(String.fromCharCode(code)) ? 1 : 0))

/** an upper bound for a time, an id, their quotes, and a NULL or the quotes of a value */
const IDENTITY_BYTES = 100

const QUOTE = '"'.charCodeAt(0)
const DASH = "-".charCodeAt(0)
const T = "T".charCodeAt(0)
const Z = "Z".charCodeAt(0)
const NO_MILLIS = Buffer.from(".000")

/** digits of the parts of a UUID */
const PARTS = [8, 4, 4, 4, 12]
/** the lowercase digit for each that HEX() writes; 0 for any other byte */
const LOWER = Uint8Array.from({ length: 256 }, (_, code) => {
  const character = String.fromCharCode(code)
  return /^[0-9A-F]$/.test(character) ? character.toLowerCase().charCodeAt(0) : 0
})

/** The first bytes, in UTF-8, of U+4000 to U+9FFF: no format escapes ideographs. The server has checked the UTF-8. */
const FIRST_IDEOGRAPH = 0xe4
const LAST_IDEOGRAPH = 0xe9

const copy = (from: Buffer, start: number, end: number, output: Output): void => {
  const { bytes } = output
  let to = output.used
  for (let at = start; at < end; at++) bytes[to++] = from[at]!
  output.used = to
}

/** Whether the bytes are a number as JavaScript writes it: at most 15 digits, no leading zero, no -0. */
const isWhole = (buffer: Buffer, start: number, end: number): boolean => {
  const first = buffer[start] === DASH ? start + 1 : start
  const length = end - first
  if (length < 1 || length > 15) return false
  for (let at = first; at < end; at++) if (buffer[at]! < 0x30 || buffer[at]! > 0x39) return false
  return buffer[first] !== 0x30 || (length === 1 && first === start)
}

/** A Schema of the program may throw. */
const readBy = (reader: FieldReader, raw: string | null): unknown => {
  try {
    return reader.read(raw)
  } catch {
    return INVALID
  }
}
