/**
 * The lines of the dead-letter file: a letter, and what became of one. Read by hand, since a Schema takes ten times as
 * long, and a file may have a hundred thousand of them.
 */
import { RETRY_BYTES } from "../../schema/Line.js"
import { idOf, placeOf, type Place, type Position } from "../../schema/Position.js"
import type { QueueRecord, Refusal, RefusalClass } from "../../services/QueueFile.js"
import { isCount, isIsoTime, isLetterId, MAX_SEQUENCE } from "./fields.js"

export const CLASSES: ReadonlyArray<RefusalClass> = [
  "malformed",
  "unknownKind",
  "invalid",
  "oversize",
  "rejected",
  "torn",
  "blank"
]

/** What is known of a letter without its content: enough for the books, and for the next number. */
export interface Head {
  readonly sequence: number
  /** its line has no number of its own: `sequence` is that of the next one */
  readonly surplus?: true | undefined
  readonly class: RefusalClass
}

/** The head alone. */
export const headOf = ({ class: cls, sequence, surplus }: Head): Head => ({ sequence, surplus, class: cls })

/** A letter as it stands in the file; the content comes last, so that the rest can be read without it. */
export interface Letter extends Position, Head {
  readonly type: "letter"
  readonly id: string
  /** of the line, bytes */
  readonly length: number
  readonly kind?: string | undefined
  readonly code?: string | undefined
  readonly reason: string
  readonly at: string
  /** the line, if it is UTF-8; else `base64` */
  readonly line?: string | undefined
  readonly base64?: string | undefined
  /** what `base64` is besides: the line, compressed */
  readonly encoding?: Encoding | undefined
}

/** Members of gzip, one behind the other (RFC 1952, section 2.2). */
export type Encoding = "gzip"

/**
 * What became of a letter: an operator decided it (`retried`, `discarded`), its line was `delivered` after all, or its
 * content was `erased`, which of a torn end is all that can happen.
 */
export interface Outcome {
  readonly type: "retried" | "discarded" | "delivered" | "erased"
  readonly id: string
  readonly at: string
  /** who decided */
  readonly by?: string | undefined
  /** It speaks for a letter whose own entry is gone, or cannot be read. */
  readonly head?: Head | undefined
}

export type Entry = Letter | Outcome

const OUTCOMES: ReadonlyArray<unknown> = [
  "retried",
  "discarded",
  "delivered",
  "erased"
] satisfies ReadonlyArray<Outcome["type"]>

type Fields = Readonly<Record<string, unknown>>

const isClass = (value: unknown): value is RefusalClass => (CLASSES as ReadonlyArray<unknown>).includes(value)

/** Where the line of a letter stood is said twice, and bounds its number: each line before it has a byte or more. */
const isNumberOf = ({ offset, segment }: Place, sequence: unknown): sequence is number =>
  isCount(sequence) && sequence >= segment && sequence <= segment + offset && sequence <= MAX_SEQUENCE

const isAbout = ({ id, offset, segment }: Fields): boolean =>
  isLetterId(id) && isCount(segment) && isCount(offset) && id === idOf({ segment, offset })

/** Earlier versions did not repeat the place of every decision. */
const isLoosely = (fields: Fields): boolean =>
  fields.segment === undefined && fields.offset === undefined ? isExactId(fields.id) : isAbout(fields)

const isExactId = (id: unknown): boolean => {
  if (!isLetterId(id)) return false
  const { offset, segment } = placeOf(id)
  return isCount(segment) && isCount(offset)
}

const optionalText = (value: unknown) => (typeof value === "string" ? value : undefined)
/** letters that were refused together have one time */
let lastTime = "unknown"
const timeOf = (value: unknown): string => {
  if (value === lastTime) return lastTime
  return isIsoTime(value) ? (lastTime = value) : "unknown"
}

/** An entry by its fields, undefined if it is none. A damaged text costs the text, and not the letter. */
export const entryOf = (value: unknown): Entry | undefined => {
  if (typeof value !== "object" || value === null) return undefined
  const fields = value as Fields
  if (fields.type === "letter") return letterOf(fields)
  return OUTCOMES.includes(fields.type) && isLoosely(fields) ? outcomeOf(fields) : undefined
}

const letterOf = (fields: Fields): Letter | undefined => {
  const {
    at,
    base64,
    class: cls,
    code,
    encoding,
    id,
    kind,
    length,
    line,
    offset,
    reason,
    segment,
    sequence,
    surplus
  } = fields
  if (!isAbout(fields)) return undefined
  const place = { segment: segment as number, offset: offset as number }
  if (!isNumberOf(place, sequence) || !isCount(length)) return undefined
  if (surplus !== undefined && surplus !== true) return undefined
  if (line !== undefined && typeof line !== "string") return undefined
  if (base64 !== undefined && typeof base64 !== "string") return undefined
  return {
    type: "letter",
    id: id as string,
    ...place,
    sequence,
    surplus,
    length,
    class: isClass(cls) ? cls : "malformed",
    kind: optionalText(kind),
    code: optionalText(code),
    reason: optionalText(reason) ?? "the reason is damaged",
    at: timeOf(at),
    line,
    base64,
    // the only one that there is, also where a bit of the word is damaged
    encoding: encoding === undefined ? undefined : "gzip"
  }
}

const outcomeOf = (fields: Fields): Outcome => {
  const { at, by, class: cls, id, sequence, surplus, type } = fields
  const hasHead =
    isNumberOf(placeOf(id as string), sequence) && isClass(cls) && (surplus === undefined || surplus === true)
  return {
    type: type as Outcome["type"],
    id: id as string,
    at: timeOf(at),
    by: optionalText(by) ?? "unknown",
    head: hasHead ? { sequence: sequence, surplus, class: cls } : undefined
  }
}

/** Reads an entry. */
export const parse = (text: string): Entry | undefined => {
  try {
    return entryOf(JSON.parse(text))
  } catch {
    return undefined
  }
}

/** a quote inside a JSON string is escaped, so these can only be the keys */
const [LINE, BASE64] = [Buffer.from(',"line":"'), Buffer.from(',"base64":"')]

/** Where the content of an entry begins, bytes; -1 if it ends before that. */
export const contentAt = (bytes: Buffer): number => {
  const line = bytes.indexOf(LINE)
  // a line may say anything behind its own beginning, but no such key: its quotes are escaped
  return line === -1 ? bytes.indexOf(BASE64) : line
}

/** Reads the beginning of an entry, as far as its content. */
export const parseBeginning = (bytes: Buffer, content: number): Entry | undefined =>
  parse(`${bytes.toString("utf8", 0, content)}}`)

/** Whose letter a line was that is no entry any more: cut off, or blanked in part. */
export const idOfRemains = (text: string): string | undefined => {
  const [, id, segment, offset] =
    /^\{"type":"letter","id":"(\d{1,16}:\d{1,16})","segment":(\d{1,16}),"offset":(\d{1,16}),/.exec(text) ?? []
  return id !== undefined && id === `${segment ?? ""}:${offset ?? ""}` && isExactId(id) ? id : undefined
}

// --------------------------------------------------------------------------------------------------------- written

/** A head is read in 4096 bytes; these leave room for the rest of it, bytes of JSON. */
const REASON_BYTES = 2048
const KIND_BYTES = 512
const CODE_BYTES = 256

const bytesOfJson = (text: string) => Buffer.byteLength(JSON.stringify(text))

/** The text, or as much of its beginning as fits into so many bytes of JSON. */
const bounded = (text: string, most: number): string => {
  if (text.length <= most && bytesOfJson(text) <= most) return text
  const room = most - bytesOfJson("…")
  let [end, tooLong] = [0, Math.min(text.length, most) + 1]
  while (tooLong - end > 1) {
    const middle = (end + tooLong) >> 1
    if (bytesOfJson(text.slice(0, middle)) <= room) end = middle
    else tooLong = middle
  }
  // not half of a character
  if (/[\ud800-\udbff]/.test(text.charAt(end - 1))) end--
  return `${text.slice(0, end)}…`
}

/** A letter's entry up to its content. */
export const encodeHead = (
  { class: cls, code, kind, reason, record }: Refusal,
  at: string,
  encoding?: Encoding
): string => {
  const letter: Letter = {
    type: "letter",
    id: idOf(record),
    segment: record.segment,
    offset: record.offset,
    sequence: record.sequence,
    ...(record.surplus ? { surplus: true } : {}),
    length: record.length,
    class: cls,
    kind: kind === undefined ? undefined : bounded(kind, KIND_BYTES),
    code: code === undefined ? undefined : bounded(code, CODE_BYTES),
    reason: bounded(reason, REASON_BYTES),
    at,
    encoding
  }
  return JSON.stringify(letter).slice(0, -1)
}

/**
 * What a letter holds, as the end of its entry: the line as text where that is what it is, and not much longer. Undefined
 * if it is to be compressed: one that is oversize, or no text and long, may be a hole in a file that lost its blocks.
 */
export const encodeContent = ({
  bytes,
  problem
}: Pick<QueueRecord, "bytes" | "problem">): string | undefined => {
  if (problem === "oversize") return undefined
  const content = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const line = content.toString("utf8")
  if (Buffer.from(line, "utf8").equals(content)) {
    const text = JSON.stringify(line)
    // six bytes for a NUL: a reserve would have to be as large
    if (Buffer.byteLength(text) <= MOST_ESCAPED * content.length + 2) return `,"line":${text}}`
  }
  return content.length > MOST_PLAIN ? undefined : `,"base64":"${content.toString("base64")}"}`
}

/** What is no text is compressed from here on, bytes. */
const MOST_PLAIN = 16 * 1024

/** So many times as long as the line its text may be: JSON in JSON is at most that. */
const MOST_ESCAPED = 2

/** The most bytes that the letter of a line takes which is not oversize. */
export const letterBytes = (maxLineBytes: number): number =>
  MOST_ESCAPED * (maxLineBytes + RETRY_BYTES) + 4096

/** No line of a file that holds heads alone is longer, bytes. */
const HEAD_BYTES = 200

/** What became of a letter, in one line of at most 200 bytes: who and when give way to numbers of many digits. */
export const encodeOutcome = ({ at, by, head, id, type }: Outcome): string => {
  // by hand, since it is written twice for each of a hundred thousand letters; ids and numbers need no escape
  const { offset, segment } = placeOf(id)
  const facts = `{"type":"${type}","id":"${id}"`
  const time = `,"at":${JSON.stringify(at)}`
  const surplus = head?.surplus === true ? `,"surplus":true` : ""
  const headText = head === undefined ? "" : `,"sequence":${head.sequence}${surplus},"class":"${head.class}"`
  const place = `,"segment":${segment},"offset":${offset}${headText}}`
  const left = HEAD_BYTES - facts.length - time.length - place.length
  if (left < 0) return `${facts}${place}`
  const room = left - `,"by":`.length
  return by === undefined || room < 10
    ? `${facts}${time}${place}`
    : `${facts}${time},"by":${JSON.stringify(bounded(by, room))}${place}`
}

// ---------------------------------------------------------------------------------------------------------- erased

const BLANK = 0x20
const [BRACE, QUOTE, BACKSLASH] = [0x7d, 0x22, 0x5c]

/** How every letter ends; one that does not was cut off. */
const END = Buffer.from('"}')
/** so many bytes tell whether a letter has its end */
export const END_BYTES = 64
/** Whether these last bytes are the end of a letter. An editor may leave white space, a content escapes its quotes. */
export const isEnded = (bytes: Buffer): boolean =>
  (bytes.at(-1) === BRACE && bytes.at(-2) === QUOTE && bytes.at(-3) !== BACKSLASH) ||
  /(?:^|[^\\])(?:\\\\)*"\}[ \t\r]*$/.test(bytes.toString("latin1", Math.max(0, bytes.length - END_BYTES)))

/** An entry without its content, of the same length. */
export interface Erased {
  readonly beginning: Buffer
  readonly end: Buffer
}

/**
 * A letter's entry with blanks for the reason and the content, as every version reads it; blanks alone, if the entry is
 * too short for that.
 */
export const erasedOf = (letter: Letter, length: number): Erased => {
  const { at, class: cls, id, length: bytes, offset, segment, sequence, surplus } = letter
  const facts = {
    type: "letter",
    id,
    segment,
    offset,
    sequence,
    surplus,
    length: bytes,
    class: cls,
    reason: "",
    at
  }
  const open = Buffer.from(`${JSON.stringify(facts).slice(0, -1)},"line":"`)
  return open.length + END.length <= length ? { beginning: open, end: END } : NOTHING
}

/** A line of blanks. */
export const NOTHING: Erased = { beginning: Buffer.alloc(0), end: Buffer.alloc(0) }

/** Whether the first or last bytes of an entry, or all of them, are as if it were erased. */
export const isErased = ({ beginning, end }: Erased, bytes: Buffer, length: number): boolean => {
  const isWhole = bytes.length === length
  const from = beginning.length
  const to = isWhole ? length - end.length : bytes.length
  if (!bytes.subarray(0, from).equals(beginning)) return false
  if (isWhole && !bytes.subarray(to).equals(end)) return false
  return isBlank(bytes.subarray(from, to))
}

/** Blanks and NULs hold nothing: to overwrite a hole would take the room that it has not. */
export const isBlank = (bytes: Uint8Array): boolean => {
  // not by `every`: a hole may have hundreds of megabytes
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== BLANK && bytes[at] !== 0) return false
  return true
}

/** Makes it of the bytes of an entry. */
export const fillErased = ({ beginning, end }: Erased, entry: Buffer): void => {
  entry.fill(BLANK)
  beginning.copy(entry)
  end.copy(entry, entry.length - end.length)
}

/** The bytes from one place of an erased entry to another. */
export const erasedBytes = ({ beginning, end }: Erased, length: number, from: number, to: number): Buffer => {
  const bytes = Buffer.alloc(to - from, BLANK)
  beginning.subarray(from, to).copy(bytes)
  const endsAt = length - end.length
  end.copy(bytes, Math.max(0, endsAt - from), Math.max(0, from - endsAt))
  return bytes
}
