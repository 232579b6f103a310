/**
 * The dead letters: lines that cannot be delivered, byte for byte, with the reason; and the decisions about them.
 * Append-only NDJSON, so that it is its own history.
 */
import { Clock, Effect, Option, Schema, type Scope } from "effect"
import { type Disk, DiskError, type File } from "../../services/Disk.js"
import { Either } from "../../schema/Effect3.js"
import { idOf, type Place, placeOf, type Position } from "../../schema/Position.js"
import type { QueueRecord, Refusal } from "../../services/QueueFile.js"
import { Count, IsoTime, LetterId, MAX_SEQUENCE } from "./fields.js"
import { isAbsent, withFile } from "./files.js"
import { readLines, type RawLine } from "./lines.js"

/** A text about a letter. One that is damaged costs the text, and not the letter. */
const Text = <A, I>(text: Schema.Schema<A, I>, otherwise: NoInfer<A>) =>
  Schema.asSchema(text.annotations({ decodingFallback: () => Either.right(otherwise) }))
const OptionalText = Schema.optional(Text(Schema.UndefinedOr(Schema.String), undefined))

const CLASSES = ["malformed", "unknownKind", "invalid", "oversize", "rejected", "torn", "blank"] as const

/** Where the line of a letter stood is said twice, and bounds its number: each line before it has a byte or more. */
const isConsistent = ({ id, offset, segment, sequence }: Position & { readonly id: string }) =>
  id === idOf({ offset, segment }) &&
  sequence >= segment &&
  sequence <= segment + offset &&
  sequence <= MAX_SEQUENCE

/** A letter as it stands in the file; the content comes last, so that the rest can be read without it. */
const Letter = Schema.Struct({
  type: Schema.Literal("letter"),
  id: LetterId,
  segment: Count,
  offset: Count,
  sequence: Count,
  /** its line has no number of its own: `sequence` is that of the next one */
  surplus: Schema.optional(Schema.Literal(true)),
  length: Count,
  class: Text(Schema.Literal(...CLASSES), "malformed"),
  kind: OptionalText,
  code: OptionalText,
  reason: Text(Schema.String, "the reason is damaged"),
  at: Text(IsoTime, "unknown"),
  /** the line, if it is UTF-8; else `base64` */
  line: Schema.optional(Schema.String),
  base64: Schema.optional(Schema.String)
}).pipe(Schema.filter(isConsistent))
export type Letter = typeof Letter.Type

/** Which letter an entry is about. Once more as numbers, since a damaged id could be that of another letter. */
const ABOUT = { id: LetterId, segment: Schema.optional(Count), offset: Schema.optional(Count) }
interface About {
  readonly id: string
  readonly segment?: number | undefined
  readonly offset?: number | undefined
}
const isAboutOne = ({ id, offset, segment }: About) =>
  segment === undefined || offset === undefined ? segment === offset : id === idOf({ segment, offset })

/** What became of a letter. */
const Decision = Schema.Struct({
  type: Schema.Literal("retried", "discarded"),
  ...ABOUT,
  at: Text(IsoTime, "unknown"),
  by: Text(Schema.String, "unknown")
}).pipe(Schema.filter(isAboutOne))
export type Decision = Omit<typeof Decision.Type, "segment" | "offset">

/** The letter is none any more: its line was delivered after all. */
const Withdrawal = Schema.Struct({
  type: Schema.Literal("delivered"),
  ...ABOUT,
  at: Text(IsoTime, "unknown")
}).pipe(Schema.filter(isAboutOne))
type Withdrawal = Omit<typeof Withdrawal.Type, "segment" | "offset">

// what a later version adds is not ours to count
const FileEntry = Schema.Union(Letter, Decision, Withdrawal)
type FileEntry = typeof FileEntry.Type

const decodeEntry = Schema.decodeUnknownOption(FileEntry)

/** A letter and where its entry stands in the file, bytes. */
export interface Entry {
  readonly letter: Letter
  readonly at: number
  readonly length: number
}

/** The code of a letter that is no JSON any more: EBADMSG of POSIX. */
export const DAMAGED = "EBADMSG"

export interface DeadLetters {
  /**
   * Makes the refusals durable. After a crash, or a failed sync, a letter is written again: entries of one id are
   * one letter.
   */
  readonly keep: (
    refusals: ReadonlyArray<Refusal>,
    source: Effect.Effect<File, DiskError, Scope.Scope>
  ) => Effect.Effect<void, DiskError>
  /**
   * Takes back the letters of lines that were not refused this time but delivered: a crash, or a failing disk, had come
   * between the letter and the cursor, and the next try succeeded.
   */
  readonly withdraw: (
    records: Iterable<QueueRecord>,
    refusals: ReadonlyArray<Refusal>
  ) => Effect.Effect<void, DiskError>
  /** The selected letters that wait for a decision, without their content. */
  readonly open: (select: (letter: Letter) => boolean) => Effect.Effect<ReadonlyArray<Entry>, DiskError>
  /** A letter with its content; fails with {@link DAMAGED} if it is no JSON any more. */
  readonly read: (entry: Entry) => Effect.Effect<Letter, DiskError>
  readonly decide: (decision: Decision) => Effect.Effect<void, DiskError>
  /** Whether the file is there, if it should be. */
  readonly isWhole: Effect.Effect<boolean, DiskError>
  /**
   * After the file may have been removed, or replaced by an older one: writes the decisions anew that it lacks, and
   * forgets the letters that it lacks; how many of these waited for a decision.
   */
  readonly restore: Effect.Effect<number, DiskError>
  /** Of all letters, or of those whose lines stood in segments before the one that is given. */
  readonly counts: (before?: number) => {
    readonly letters: number
    readonly torn: number
    readonly retried: number
    readonly discarded: number
  }
  /** above the number of every letter whose line the disk does not know to have been numbered otherwise */
  readonly nextSequence: (isKnown: (place: Place) => boolean) => number
  /** how many entries cannot be read: damaged, or cut off by a crash, after which they were written again */
  readonly damaged: number
}

type Kind = "letter" | "torn" | "blank"
const kindOf = ({ class: cls }: Pick<Refusal, "class">): Kind =>
  cls === "torn" || cls === "blank" ? cls : "letter"

const SCAN = { maxRecords: 1024, maxBytes: 1 << 18, maxLineBytes: 1 << 16 }
/** a multiple of three, so that pieces of base64 can be joined */
const PIECE_BYTES = 3 << 18

/** Everything in the file, in order, without the content of the long ones. */
export const scan = (
  file: File,
  each: (entry: FileEntry, offset: number, length: number) => void,
  damaged: () => void = () => undefined
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const size = yield* file.size
    for (let at = 0; at < size;) {
      const { lines, next } = yield* readLines(file, at, size, SCAN)
      for (const line of lines) {
        const entry = parse(
          Buffer.from(line.bytes.buffer, line.bytes.byteOffset, line.bytes.byteLength),
          line.oversize
        )
        // a torn entry was never relied on: its letter was written again. One that lacks but the line's end will be
        // ended by the next entry, so it counts before that as well.
        if (entry !== undefined && (yield* isWhole(file, line))) each(entry, line.offset, line.length)
        else if (line.length > 0) damaged()
      }
      if (next === at) break
      at = next
    }
  })

/** Whether an entry that was parsed has its end: of a long one only the beginning was. */
const isWhole = (file: File, { length, offset, oversize }: RawLine) =>
  oversize
    ? Effect.map(file.readAt(offset + length - END.length, END.length), (end) => END.equals(end))
    : Effect.succeed(true)
const END = Buffer.from('"}')

const parse = (bytes: Buffer, cut: boolean): FileEntry | undefined => {
  let text = bytes.toString("utf8")
  if (cut) {
    // a quote inside a JSON string is escaped, so this can only be the key
    const content = /,"(?:line|base64)":"/.exec(text)
    if (content === null) return undefined
    text = text.slice(0, content.index) + "}"
  }
  return entryOf(text)
}

const parseJson = Option.liftThrowable((text: string): unknown => JSON.parse(text))

const entryOf = (text: string): FileEntry | undefined =>
  Option.getOrUndefined(Option.flatMap(parseJson(text), (entry) => decodeEntry(entry)))

/** Opens the dead letters of a directory; the file is made when the first one is kept. */
export const make = (
  disk: Disk["Type"],
  path: string,
  directory: string
): Effect.Effect<DeadLetters, DiskError> =>
  Effect.gen(function* () {
    /** those that may stand in the file */
    const kept = new Map<string, Kind>()
    /** those that are on disk for certain: others may be in the page cache only, by a process that died */
    const synced = new Set<string>()
    const decided = new Map<string, Decision["type"]>()
    /** decisions about letters that cannot be read: counted, and none about a later letter of that place */
    let orphans: Array<readonly [id: string, type: Decision["type"]]> = []
    /** whether one was found to be taken back: that, too, may be in the page cache only */
    let isWithdrawalUnsynced = false
    const next = new Map<string, number>()
    let damaged = 0
    let entrySynced = false

    const forget = (id: string) => {
      kept.delete(id)
      synced.delete(id)
      decided.delete(id)
    }

    const add = (id: string, kind: Kind) => {
      const decision = decided.get(id)
      if (decision !== undefined && !kept.has(id)) {
        orphans.push([id, decision])
        decided.delete(id)
      }
      kept.set(id, kind)
    }

    if ((yield* disk.info(path)) !== undefined) {
      yield* withFile(disk, path, (file) =>
        scan(
          file,
          (entry) => {
            if (entry.type === "letter") {
              add(entry.id, kindOf(entry))
              next.set(entry.id, entry.surplus ? entry.sequence : entry.sequence + 1)
            } else if (entry.type === "delivered") {
              forget(entry.id)
              isWithdrawalUnsynced = true
            } else decided.set(entry.id, entry.type)
          },
          () => damaged++
        )
      )
    }

    const appending = (use: (file: File) => Effect.Effect<void, DiskError>) =>
      Effect.scoped(
        Effect.gen(function* () {
          const file = yield* disk.open(path, "append")
          yield* use(file)
          // once in each process: the one that made the file may have died before it did this
          if (!entrySynced) yield* disk.syncDirectory(directory)
          entrySynced = true
        })
      )

    const keep: DeadLetters["keep"] = Effect.fnUntraced(function* (refusals, source) {
      const fresh = refusals.filter((refusal) => !synced.has(idOf(refusal.record)))
      if (fresh.length === 0) return
      const at = new Date(yield* Clock.currentTimeMillis).toISOString()
      yield* appending((file) =>
        Effect.gen(function* () {
          // whatever a crash or a full disk left unfinished ends here; blank lines mean nothing
          yield* file.write(NEWLINE)
          for (const refusal of fresh) {
            yield* writeLetter(file, refusal, at, source)
            add(idOf(refusal.record), kindOf(refusal))
          }
          // before the cursor moves: otherwise a power cut could take the only copy
          yield* file.sync
        })
      )
      for (const { record } of fresh) synced.add(idOf(record))
    })

    const withdraw: DeadLetters["withdraw"] = Effect.fnUntraced(function* (records, refusals) {
      if (isWithdrawalUnsynced) {
        // before the cursor moves: otherwise a power cut could bring back the letter of an event that is delivered
        yield* appending((file) => file.sync)
        isWithdrawalUnsynced = false
      }
      if (kept.size === 0) return
      // by their places: a record may have been read anew since it was refused
      const refused = new Set(refusals.map(({ record }) => idOf(record)))
      const ids = Array.from(records, idOf).filter((id) => kept.has(id) && !refused.has(id))
      if (ids.length === 0) return
      const at = new Date(yield* Clock.currentTimeMillis).toISOString()
      const entries = ids.map((id): Withdrawal => ({ type: "delivered", id, at }))
      yield* write(entries)
      ids.forEach(forget)
    })

    const write = (entries: ReadonlyArray<Decision | Withdrawal>) => {
      const lines = entries.map((entry) => `\n${JSON.stringify({ ...entry, ...placeOf(entry.id) })}\n`)
      return appending((file) => file.append(Buffer.from(lines.join(""))))
    }

    return {
      keep,
      withdraw,
      open: (select) =>
        Effect.suspend(() => {
          const entries = new Map<string, Entry>()
          if (kept.size === 0) return Effect.succeed([])
          return withFile(disk, path, (file) =>
            scan(file, (entry, at, length) => {
              const isOpen =
                entry.type === "letter" && kept.get(entry.id) === "letter" && !decided.has(entry.id)
              if (isOpen && select(entry)) entries.set(entry.id, { letter: entry, at, length })
            })
          ).pipe(
            Effect.catchIf(isAbsent, () => Effect.void),
            Effect.map(() => [...entries.values()])
          )
        }),
      read: ({ at, length, letter: { id } }) =>
        Effect.flatMap(
          withFile(disk, path, (file) => file.readAt(at, length)),
          (bytes) => {
            const letter = entryOf(Buffer.from(bytes).toString("utf8"))
            if (letter?.type === "letter" && letter.id === id) return Effect.succeed(letter)
            const cause = new Error("the letter is damaged")
            return new DiskError({ operation: "read", path, code: DAMAGED, cause })
          }
        ),
      decide: (decision) =>
        Effect.map(write([decision]), () => {
          decided.set(decision.id, decision.type)
        }),
      isWhole: Effect.suspend(() =>
        kept.size + decided.size + orphans.length === 0
          ? Effect.succeed(true)
          : Effect.map(disk.info(path), (info) => info !== undefined)
      ),
      restore: Effect.gen(function* () {
        entrySynced = false
        synced.clear()
        if (kept.size + decided.size + orphans.length === 0) return 0
        const found = yield* entriesOf(disk, path)
        if (found === undefined) {
          // a decision is told by its place: two about one place get two
          for (const [id, type] of orphans) decided.set(placeBehind(id, decided), type)
          orphans = []
        }
        const lost = [...kept].filter(([id]) => found?.letters.has(id) !== true)
        for (const [id, kind] of lost) if (kind === "blank") decided.set(id, "discarded")
        const undecided = [...decided].filter(([id]) => found?.decisions.has(id) !== true)
        const at = new Date(yield* Clock.currentTimeMillis).toISOString()
        const by = "unknown, since the file was removed"
        if (undecided.length > 0) {
          yield* write(undecided.map(([id, type]): Decision => ({ type, id, at, by })))
        }
        for (const [id] of lost) kept.delete(id)
        return lost.filter(([id, kind]) => kind === "letter" && !decided.has(id)).length
      }),
      counts: (before = Number.POSITIVE_INFINITY) => {
        const letters = [...kept].filter(([id]) => placeOf(id).segment < before)
        const torn = letters.filter(([, kind]) => kind === "torn").length
        const blank = [...kept.values()].filter((kind) => kind === "blank").length
        const decisions = [...decided.values(), ...orphans.map(([, type]) => type)]
        const retried = decisions.filter((type) => type === "retried").length
        return {
          letters: letters.length - torn,
          torn,
          retried,
          discarded: decisions.length - retried + blank
        }
      },
      nextSequence: (isKnown) => {
        let above = 0
        for (const [id, number] of next) if (!isKnown(placeOf(id))) above = Math.max(above, number)
        return above
      },
      damaged
    }
  })

/** The letters in a file and the decisions, by their ids; undefined if there is no file. */
const entriesOf = (disk: Disk["Type"], path: string) =>
  Effect.gen(function* () {
    if ((yield* disk.info(path)) === undefined) return undefined
    const letters = new Set<string>()
    const decisions = new Set<string>()
    const note = (entry: FileEntry) => {
      if (entry.type === "letter") letters.add(entry.id)
      else if (entry.type === "delivered") letters.delete(entry.id)
      else decisions.add(entry.id)
    }
    yield* withFile(disk, path, (file) => scan(file, note))
    return { letters, decisions }
  })

/** The id of the first place from this one on that is not in use. */
const placeBehind = (id: string, used: ReadonlyMap<string, unknown>): string => {
  if (!used.has(id)) return id
  const { offset, segment } = placeOf(id)
  return placeBehind(idOf({ segment, offset: offset + 1 }), used)
}

const NEWLINE = Buffer.from("\n")

const writeLetter = (
  file: File,
  { class: cls, code, kind, reason, record }: Refusal,
  at: string,
  source: Effect.Effect<File, DiskError, Scope.Scope>
): Effect.Effect<void, DiskError> => {
  const { bytes, length, offset, segment, sequence } = record
  const id = idOf(record)
  const head: Letter = {
    type: "letter",
    id,
    segment,
    offset,
    sequence,
    ...(record.surplus ? { surplus: true } : {}),
    length,
    class: cls,
    kind,
    code,
    reason,
    at
  }
  if (record.problem !== "oversize") {
    const content = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const line = content.toString("utf8")
    const whole = Buffer.from(line, "utf8").equals(content)
    const letter: Letter = whole ? { ...head, line } : { ...head, base64: content.toString("base64") }
    return file.write(Buffer.from(`${JSON.stringify(letter)}\n`))
  }
  return Effect.gen(function* () {
    const from = yield* source
    yield* file.write(Buffer.from(`${JSON.stringify(head).slice(0, -1)},"base64":"`))
    for (let done = 0; done < length;) {
      const piece = yield* from.readAt(offset + done, Math.min(PIECE_BYTES, length - done))
      if (piece.length === 0) break
      yield* file.write(Buffer.from(Buffer.from(piece).toString("base64")))
      done += piece.length
    }
    yield* file.write(Buffer.from('"}\n'))
  }).pipe(Effect.scoped)
}
