/**
 * Taking over the queue file of the Python class: it becomes a segment. A record, durable before the first step, makes
 * a crash in between harmless: the next start finishes with the same segment number, and so with the same event ids.
 */
import { Effect, Schema } from "effect"
import * as path from "node:path"
import type { Disk, DiskError } from "../services/Disk.js"
import { readText, replace } from "./directory.js"
import { countLines } from "./lines.js"
import type { Segments } from "./segments.js"

const Adoption = Schema.parseJson(Schema.Struct({ source: Schema.String, segment: Schema.NonNegativeInt }))

const COPY_BYTES = 1 << 20

/** Adopts the file, if there is one, as the segment `next`; how many lines it has. */
export const adopt = (
  disk: Disk["Type"],
  directory: string,
  segments: Segments,
  file: string,
  next: number
): Effect.Effect<number, DiskError> =>
  Effect.gen(function* () {
    const source = disk.resolve(file)
    const record = `${directory}/adoption.json`
    const begun = yield* readRecord(disk, record)

    if (begun !== undefined && begun.segment < next) {
      // its lines are here already: only the end of the work is missing
      yield* putAside(disk, begun.source)
      yield* forget(disk, directory, record)
    }
    const info = yield* disk.info(source)
    if (info?.type !== "file" || info.size === 0) return 0

    yield* replace(disk, directory, record, Schema.encodeSync(Adoption)({ source, segment: next }))
    const target = segments.pathOf(next)
    const home = yield* disk.info(directory)
    if (home?.device === info.device) {
      // the old program may have been killed between its write and its fsync
      yield* Effect.scoped(Effect.flatMap(disk.open(source, "append"), (handle) => handle.sync))
      yield* disk.rename(source, target)
      yield* disk.syncDirectory(directory)
      yield* disk.syncDirectory(path.dirname(source))
    } else {
      yield* copy(disk, source, info.size, `${target}.new`)
      yield* disk.rename(`${target}.new`, target)
      yield* disk.syncDirectory(directory)
      yield* putAside(disk, source)
    }
    const lines = yield* Effect.scoped(
      Effect.flatMap(disk.open(target, "read"), (handle) => countLines(handle, info.size))
    )
    segments.add(next, info.size)
    yield* forget(disk, directory, record)
    yield* Effect.logInfo(`audit queue: adopted ${lines} lines of ${source}`)
    return lines
  })

const readRecord = (disk: Disk["Type"], record: string) =>
  Effect.gen(function* () {
    if ((yield* disk.info(record)) === undefined) return undefined
    // written whole or not at all, so that what cannot be read is none of ours
    return yield* Effect.orElseSucceed(
      Schema.decode(Adoption)(yield* readText(disk, record)),
      () => undefined
    )
  })

/** The old file keeps its content under another name, where nobody adopts it again. */
const putAside = (disk: Disk["Type"], source: string) =>
  Effect.gen(function* () {
    if ((yield* disk.info(source)) === undefined) return
    yield* disk.rename(source, `${source}.adopted`)
    yield* disk.syncDirectory(path.dirname(source))
  })

/** Durably: a record that came back after a power cut would keep a later file from being adopted. */
const forget = (disk: Disk["Type"], directory: string, record: string) =>
  Effect.zipRight(disk.remove(record), disk.syncDirectory(directory))

const copy = (disk: Disk["Type"], from: string, size: number, to: string) =>
  Effect.gen(function* () {
    yield* Effect.ignore(disk.remove(to))
    const source = yield* disk.open(from, "read")
    const target = yield* disk.open(to, "create")
    for (let at = 0; at < size; at += COPY_BYTES) {
      yield* target.write(yield* source.readAt(at, Math.min(COPY_BYTES, size - at)))
    }
    yield* target.sync
  }).pipe(Effect.scoped)
