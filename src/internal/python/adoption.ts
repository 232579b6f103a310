/**
 * Taking over the queue file of the Python class: it becomes a segment.
 *
 * On the queue's own file system a rename does it. From another one the content is copied beside the segments; then
 * a record, durable before the old file is touched, makes any later start finish what a crash has interrupted. Ids
 * are derived from the segment's number and bytes, and nothing is delivered before both are durable.
 */
import { Effect, Schema } from "effect"
import * as path from "node:path"
import type { Disk, DiskError } from "../../services/Disk.js"
import { isAbsent, readText, replace } from "../queue/files.js"
import { countLines } from "../queue/lines.js"
import type { Segments } from "../queue/segments.js"

/** A copy is whole: once the old file is put aside, it becomes a segment. */
const Adoption = Schema.parseJson(Schema.Struct({ source: Schema.String, aside: Schema.String }))

const COPY_BYTES = 1 << 20

/** Adopts the file, if there is one, as the segment `next`; how many lines were taken in. */
export const adopt = (
  disk: Disk["Type"],
  directory: string,
  segments: Segments,
  file: string | undefined,
  next: number
): Effect.Effect<number, DiskError> => {
  const record = `${directory}/adoption.json`
  const copied = `${directory}/adoption.copy`

  /** Counts the lines of the segment that was put there. */
  const takeIn = (number: number, source: string) =>
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

  /** The copy becomes a segment, if a copy was being adopted. */
  const finish = (number: number) =>
    Effect.gen(function* () {
      const adoption = yield* readRecord(disk, record)
      if (adoption === undefined) return 0
      const { aside, source } = adoption
      if ((yield* disk.info(aside)) === undefined && (yield* disk.info(source)) !== undefined) {
        // the old file still stands in its place, and may even have grown: it is copied anew
        yield* disk.remove(record)
        return 0
      }
      yield* syncParent(disk, source)
      const isNew = (yield* disk.info(copied)) !== undefined
      if (isNew) yield* disk.rename(copied, segments.pathOf(number))
      yield* disk.syncDirectory(directory)
      const lines = isNew ? yield* takeIn(number, source) : 0
      // not synced: if it comes back, it is found to be done
      yield* disk.remove(record)
      return lines
    })

  const move = (source: string, number: number) =>
    Effect.gen(function* () {
      yield* disk.rename(source, segments.pathOf(number))
      yield* disk.syncDirectory(directory)
      yield* syncParent(disk, source)
      return yield* takeIn(number, source)
    })

  const copy = (source: string, number: number) =>
    Effect.gen(function* () {
      yield* copyFile(disk, source, copied)
      const aside = `${source}.${number}.adopted`
      // this syncs the entry of the copy, too
      yield* replace(disk, directory, record, Schema.encodeSync(Adoption)({ source, aside }))
      yield* disk.rename(source, aside)
      return yield* finish(number)
    })

  return Effect.gen(function* () {
    const finished = yield* finish(next)
    if (file === undefined) return finished
    // the user may name a link: what it leads to is adopted
    const named = disk.resolve(file)
    const source = yield* Effect.catchIf(disk.realPath(named), isAbsent, () => Effect.succeed(named))
    // a process that was killed may have moved it and not made that durable: it would come back, and be doubled
    yield* disk.syncDirectory(directory)
    yield* syncParent(disk, source)
    const info = yield* disk.info(source)
    if (info?.type !== "file" || info.size === 0) return finished

    // the old program may have been killed between its write and its fsync
    yield* Effect.scoped(Effect.flatMap(disk.open(source, "append"), (handle) => handle.sync))
    const number = next + finished
    const lines = yield* Effect.catchIf(
      move(source, number),
      (error) => error.code === "EXDEV",
      () => copy(source, number)
    )
    return finished + lines
  })
}

const readRecord = (disk: Disk["Type"], record: string) =>
  Effect.gen(function* () {
    if ((yield* disk.info(record)) === undefined) return undefined
    // written whole or not at all, so that what cannot be read is none of ours
    return yield* Effect.orElseSucceed(
      Schema.decode(Adoption)(yield* readText(disk, record)),
      () => undefined
    )
  })

/** The directory of the old file; it may be gone with it. */
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
