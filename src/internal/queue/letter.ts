/**
 * The lines of the dead-letter file: a letter, or its outcome.
 *
 * They are read by hand: a file may have 100,000 of them, and a Schema takes ten times as long.
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

/** The facts of a letter that the books and the next number need. */
export interface Head {
  readonly sequence: number
  /** its line has no number: `sequence` is that of the next line */
  readonly surplus?: true | undefined
  readonly class: RefusalClass
}

export const headOf = ({ class: cls, sequence, surplus }: Head): Head => ({ sequence, surplus, class: cls })

/** A letter in the file. The content comes last, so that the rest can be read without it. */
export interface Letter extends Position, Head {
  readonly type: "letter"
  readonly id: string
  /** the length of the line, bytes */
  readonly length: number
  readonly kind?: string | undefined
  readonly code?: string | undefined
  readonly reason: string
  readonly at: string
  /** the line, if it is UTF-8; else `base64` */
  readonly line?: string | undefined
  readonly base64?: string | undefined
  /** set if `base64` is the compressed line */
  readonly encoding?: Encoding | undefined
}

/** Concatenated gzip members (RFC 1952, section 2.2). */
export type Encoding = "gzip"

/**
 * The outcome of a letter. An operator has decided it (`retried`, `discarded`), its line was `delivered` after all, or
 * its content was `erased`. Torn ends can only be erased.
 */
export interface Outcome {
  readonly type: "retried" | "discarded" | "delivered" | "erased"
  readonly id: string
  readonly at: string
  /** the operator who decided */
  readonly by?: string | undefined
  /** the head of the letter, whose own entry may be gone or unreadable */
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

/** The place bounds the number: each line before this one has a byte or more. */
const isNumberOf = ({ offset, segment }: Place, sequence: unknown): sequence is number =>
  isCount(sequence) && sequence >= segment && sequence <= segment + offset && sequence <= MAX_SEQUENCE

/** An entry says its place twice, so that a damaged digit is noticed. */
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
/** cached, since letters that were refused together have one time */
let lastTime = "unknown"
const timeOf = (value: unknown): string => {
  if (value === lastTime) return lastTime
  return isIsoTime(value) ? (lastTime = value) : "unknown"
}

/** The entry with these fields; undefined if they are invalid. If a text is damaged, then only the text is lost. */
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
    // gzip is the only encoding, so a damaged word means gzip, too
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

export const parse = (text: string): Entry | undefined => {
  try {
    return entryOf(JSON.parse(text))
  } catch {
    return undefined
  }
}

/** a quote inside a JSON string is escaped, so these bytes can only be keys */
const [LINE, BASE64] = [Buffer.from(',"line":"'), Buffer.from(',"base64":"')]

/** The offset at which an entry's content begins; -1 if there is none. */
export const contentAt = (bytes: Buffer): number => {
  const line = bytes.indexOf(LINE)
  return line === -1 ? bytes.indexOf(BASE64) : line
}

/** Reads an entry up to its content. */
export const parseBeginning = (bytes: Buffer, content: number): Entry | undefined =>
  parse(`${bytes.toString("utf8", 0, content)}}`)

/** The id in a letter's entry that was cut off, or is blanked in part. */
export const idOfRemains = (text: string): string | undefined => {
  const [, id, segment, offset] =
    /^\{"type":"letter","id":"(\d{1,16}:\d{1,16})","segment":(\d{1,16}),"offset":(\d{1,16}),/.exec(text) ?? []
  return id !== undefined && id === `${segment ?? ""}:${offset ?? ""}` && isExactId(id) ? id : undefined
}

// --------------------------------------------------------------------------------------------------------- written

/** Limits in bytes of JSON: a whole head must fit into 4096 bytes. */
const REASON_BYTES = 2048
const KIND_BYTES = 512
const CODE_BYTES = 256

const bytesOfJson = (text: string) => Buffer.byteLength(JSON.stringify(text))

/** The text, cut so that its JSON has at most `most` bytes. */
const bounded = (text: string, most: number): string => {
  if (text.length <= most && bytesOfJson(text) <= most) return text
  const room = most - bytesOfJson("…")
  let [end, tooLong] = [0, Math.min(text.length, most) + 1]
  while (tooLong - end > 1) {
    const middle = (end + tooLong) >> 1
    if (bytesOfJson(text.slice(0, middle)) <= room) end = middle
    else tooLong = middle
  }
  // never half of a surrogate pair
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
 * The end of a letter's entry: the line as text; or as base64, if it is not UTF-8 or needs many escapes. Undefined if
 * the line must be compressed: if it is oversize, or long and no text, then it may be a hole in the file.
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
    // an escaped NUL takes six bytes, and the reserve must be as large as the largest letter
    if (Buffer.byteLength(text) <= MOST_ESCAPED * content.length + 2) return `,"line":${text}}`
  }
  return content.length > MOST_PLAIN ? undefined : `,"base64":"${content.toString("base64")}"}`
}

/** A longer line that is no text is compressed, bytes. */
const MOST_PLAIN = 16 * 1024

/** How many times as long as the line its JSON may be. JSON in JSON is at most twice as long. */
const MOST_ESCAPED = 2

/** The most bytes that a letter takes, unless its line is oversize. */
export const letterBytes = (maxLineBytes: number): number =>
  MOST_ESCAPED * (maxLineBytes + RETRY_BYTES) + 4096

/** The longest line in a file of heads, bytes. */
const HEAD_BYTES = 200

/** An outcome in one line of at most 200 bytes: if numbers are long, then `by` and `at` are left out. */
export const encodeOutcome = ({ at, by, head, id, type }: Outcome): string => {
  // by hand, since 100,000 letters need two lines each; ids and numbers need no escapes
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

/** Every whole letter ends like this. */
const END = Buffer.from('"}')
/** how many of the last bytes `isEnded` needs */
export const END_BYTES = 64
/** Whether these are the last bytes of a whole letter. An editor may add white space; content escapes its quotes. */
export const isEnded = (bytes: Buffer): boolean =>
  (bytes.at(-1) === BRACE && bytes.at(-2) === QUOTE && bytes.at(-3) !== BACKSLASH) ||
  /(?:^|[^\\])(?:\\\\)*"\}[ \t\r]*$/.test(bytes.toString("latin1", Math.max(0, bytes.length - END_BYTES)))

/** An erased entry: its beginning and end, with blanks between them up to the old length. */
export interface Erased {
  readonly beginning: Buffer
  readonly end: Buffer
}

/**
 * A letter's entry with an empty reason and blank content, which every version reads. If the entry is too short for
 * that, then blanks alone.
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

/** Whether the bytes are those of the erased entry: all of them, or only the first. */
export const isErased = ({ beginning, end }: Erased, bytes: Buffer, length: number): boolean => {
  const isWhole = bytes.length === length
  const from = beginning.length
  const to = isWhole ? length - end.length : bytes.length
  if (!bytes.subarray(0, from).equals(beginning)) return false
  if (isWhole && !bytes.subarray(to).equals(end)) return false
  return isBlank(bytes.subarray(from, to))
}

/** Whether there is nothing to erase. NULs count as blanks: overwriting a hole would take room on the disk. */
export const isBlank = (bytes: Uint8Array): boolean => {
  // a loop, since `every` is slow and a hole may have hundreds of megabytes
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== BLANK && bytes[at] !== 0) return false
  return true
}

/** Overwrites the bytes of an entry with its erased form. */
export const fillErased = ({ beginning, end }: Erased, entry: Buffer): void => {
  entry.fill(BLANK)
  beginning.copy(entry)
  end.copy(entry, entry.length - end.length)
}

/** The bytes between two offsets of an erased entry. */
export const erasedBytes = ({ beginning, end }: Erased, length: number, from: number, to: number): Buffer => {
  const bytes = Buffer.alloc(to - from, BLANK)
  beginning.subarray(from, to).copy(bytes)
  const endsAt = length - end.length
  end.copy(bytes, Math.max(0, endsAt - from), Math.max(0, from - endsAt))
  return bytes
}
