/**
 * Adoption: the queue file of the Python class becomes a segment.
 *
 * On the queue's file system it is renamed. A file on another one, or with a second hard link, is copied beside the
 * segments. A record is durable before the old file is touched. If a crash comes in between, then the next start
 * finishes the adoption. Ids are derived from the segment's number and bytes, and both are durable before delivery.
 */
import { Effect, Option, Schema } from "effect"
import * as path from "node:path"
import type { Disk, DiskError } from "../../services/Disk.js"
import { MAX_SEQUENCE } from "../queue/fields.js"
import { isPartOfQueue } from "../queue/directory.js"
import { hasNoRoom, isAbsent, readRecord, replace } from "../queue/files.js"
import { countLines } from "../queue/lines.js"
import type { Segments } from "../queue/segments.js"

/** The record of a whole copy: once the old file is put aside, the copy becomes a segment. */
const Adoption = Schema.Struct({ source: Schema.String, aside: Schema.String }).pipe(
  // the record says the path twice: a damaged one could be that of another file
  Schema.filter(({ aside, source }) => path.isAbsolute(source) && asideOf(source, numberIn(aside)) === aside)
)
const AdoptionFile = Schema.parseJson(Adoption)

/** The name of the old file once its copy is whole. */
const asideOf = (source: string, number: number | string) => `${source}.${number}.adopted`
const numberIn = (aside: string) => /\.(\d{1,16})\.adopted$/.exec(aside)?.[1] ?? ""

const COPY_BYTES = 1 << 20

interface Target {
  readonly disk: Disk["Type"]
  readonly directory: string
  readonly segments: Segments
  readonly record: string
  readonly copied: string
}

/** Adds the new segment, and counts its lines. */
const takeIn = ({ disk, segments }: Target, number: number, source: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const handle = yield* disk.open(segments.pathOf(number), "read")
      const size = yield* handle.size
      const lines = yield* countLines(handle, 0, size)
      segments.add(number, size)
      yield* Effect.logInfo(`audit queue: adopted ${lines} lines of ${source}`)
      return lines
    })
  )

/** Removes the copy and the record, while the old file is still in its place. */
const discardCopy = ({ copied, disk, record }: Target) =>
  Effect.forEach(
    [`${record}.new`, record, copied],
    (name) => Effect.catchIf(disk.remove(name), isAbsent, () => Effect.void),
    { discard: true }
  )

/** If there is a whole copy, then makes it a segment; returns how many lines it has. */
const finish = (target: Target, number: number, old: string | undefined) =>
  Effect.gen(function* () {
    const { copied, directory, disk, record, segments } = target
    if ((yield* disk.info(record)) === undefined) {
      yield* discardCopy(target)
      return 0
    }
    const said = yield* adoptionIn(disk, record)
    // records are written whole: an unreadable one was damaged later, and may have named another file
    const names = said ?? (old === undefined ? undefined : { source: old, aside: asideOf(old, number) })
    const isCopied = (yield* disk.info(copied)) !== undefined
    if (isCopied && names !== undefined && (yield* isBeginning(disk, copied, names.source))) {
      // the old file is still in its place, and may even have grown: copy it again
      yield* discardCopy(target)
      return 0
    }
    const isKnown = said ?? (names === undefined ? undefined : yield* disk.info(names.aside))
    if (isCopied && isKnown === undefined) {
      yield* Effect.logWarning(
        `audit queue: ${record} is damaged, so that ${copied} is not delivered: start once with adopt and the ` +
          `file that it is a copy of, or move both away`
      )
      return 0
    }
    if (names !== undefined) yield* syncParent(disk, names.source)
    if (isCopied) yield* disk.rename(copied, segments.pathOf(number))
    yield* disk.syncDirectory(directory)
    const lines = isCopied ? yield* takeIn(target, number, names?.source ?? copied) : 0
    // not synced: if a power cut brings it back, then the next start finds nothing to do
    yield* disk.remove(record)
    return lines
  })

/** Renames the file to a segment. Returns how many lines it has; undefined if it is on another file system. */
const move = (target: Target, source: string, number: number) =>
  Effect.gen(function* () {
    const { directory, disk, segments } = target
    const isNear = yield* Effect.as(disk.rename(source, segments.pathOf(number)), true).pipe(
      Effect.catchIf(
        (error) => error.code === "EXDEV",
        () => Effect.succeed(false)
      )
    )
    if (!isNear) return undefined
    yield* disk.syncDirectory(directory)
    yield* syncParent(disk, source)
    return yield* takeIn(target, number, source)
  })

const copy = (target: Target, source: string, number: number) =>
  Effect.gen(function* () {
    const { copied, directory, disk, record } = target
    const aside = asideOf(source, number)
    const isWhole = yield* copyFile(disk, source, copied).pipe(
      // `replace` syncs the directory, and so the name of the copy, too
      Effect.zipRight(replace(disk, directory, record, Schema.encodeSync(AdoptionFile)({ source, aside }))),
      Effect.as(true),
      Effect.catchIf(hasNoRoom, ({ code }) =>
        Effect.gen(function* () {
          yield* discardCopy(target)
          yield* Effect.logWarning(
            `audit queue: ${source} was not adopted, since there is no room for a copy of it in ${directory} ` +
              `(${code}); it is as it was. Free the disk; the next start tries again.`
          )
          return false
        })
      )
    )
    if (!isWhole) return 0
    yield* disk.rename(source, aside)
    return yield* finish(target, number, source)
  })

/** Adopts the file, if there is one, as segment `next`; returns how many lines it has. */
export const adopt = (
  disk: Disk["Type"],
  directory: string,
  segments: Segments,
  file: string | undefined,
  next: number
): Effect.Effect<number, DiskError> => {
  const target = {
    disk,
    directory,
    segments,
    record: `${directory}/adoption.json`,
    copied: `${directory}/adoption.copy`
  }
  return Effect.gen(function* () {
    // if the user names a symbolic link, then its target is adopted
    const named = file === undefined ? undefined : disk.resolve(file)
    const meant =
      named === undefined
        ? undefined
        : yield* Effect.catchIf(disk.realPath(named), isAbsent, () => Effect.succeed(named))
    // adopting a queue's file would count its lines twice, and forget decisions about dead letters
    const isOurs = meant !== undefined && (yield* isPartOfQueue(disk, meant))
    if (isOurs && (yield* disk.info(meant)) !== undefined) {
      yield* Effect.logWarning(
        `audit queue: ${meant} is a part of a queue, so it is not adopted: name the old program's file`
      )
    }
    const source = isOurs ? undefined : meant
    const finished = yield* finish(target, next, source)
    // a damaged record and its copy stay until an operator has looked
    if (source === undefined || (yield* disk.info(target.record)) !== undefined) return finished
    // a process that was killed may not have synced its rename: a power cut would bring the file back, and double it
    yield* disk.syncDirectory(directory)
    yield* syncParent(disk, source)
    const info = yield* disk.info(source)
    const number = next + finished
    if (info?.type !== "file" || info.size === 0 || number > MAX_SEQUENCE) return finished

    // a second hard link would change with the queue
    const isOnlyOne = info.links === 1
    // the old program may have been killed between its write and its fsync
    yield* Effect.scoped(
      Effect.flatMap(disk.open(source, isOnlyOne ? "append" : "sync"), (handle) => handle.sync)
    )
    const lines = isOnlyOne ? yield* move(target, source, number) : undefined
    return finished + (lines ?? (yield* copy(target, source, number)))
  })
}

/** The content of the record; undefined if it is damaged. */
const adoptionIn = (disk: Disk["Type"], record: string) =>
  Effect.map(readRecord(disk, record), (text) =>
    Option.getOrUndefined(Schema.decodeOption(AdoptionFile)(text))
  )

/** Whether the copy is a beginning of the file. */
const isBeginning = (disk: Disk["Type"], copy: string, file: string): Effect.Effect<boolean, DiskError> =>
  Effect.gen(function* () {
    if ((yield* disk.info(file))?.type !== "file") return false
    const [ours, other] = yield* Effect.all([disk.open(copy, "read"), disk.open(file, "read")])
    const size = yield* ours.size
    if ((yield* other.size) < size) return false
    for (let at = 0; at < size; at += COPY_BYTES) {
      const length = Math.min(COPY_BYTES, size - at)
      if (Buffer.compare(yield* ours.readAt(at, length), yield* other.readAt(at, length)) !== 0) return false
    }
    return true
  }).pipe(Effect.scoped)

/** Syncs the directory of the old file, if it still exists. */
const syncParent = (disk: Disk["Type"], source: string) =>
  Effect.catchIf(disk.syncDirectory(path.dirname(source)), isAbsent, () => Effect.void)

const copyFile = (disk: Disk["Type"], from: string, to: string) =>
  Effect.gen(function* () {
    yield* Effect.ignore(disk.remove(to))
    const source = yield* disk.open(from, "read")
    const target = yield* disk.open(to, "create")
    const size = yield* source.size
    for (let at = 0; at < size; at += COPY_BYTES) {
      yield* target.write(yield* source.readAt(at, Math.min(COPY_BYTES, size - at)))
    }
    yield* target.sync
  }).pipe(Effect.scoped)
