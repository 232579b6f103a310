/** The dead-letter file: adds entries at its end, whole or not at all. */
import { Clock, Effect, type Scope } from "effect"
import * as zlib from "node:zlib"
import type { Disk, DiskError, File } from "../../services/Disk.js"
import type { QueueRecord, Refusal } from "../../services/QueueFile.js"
import { encodeContent, encodeHead, encodeOutcome, type Outcome } from "./letter.js"

/** Runs a write to the queue's disk; if there is no room, then frees some and tries again. */
export type WithRoom = <A>(write: Effect.Effect<A, DiskError>) => Effect.Effect<A, DiskError>

export interface LetterFile {
  readonly disk: Disk["Type"]
  readonly directory: string
  readonly path: string
  /** Writes outcomes of letters durably. */
  readonly end: (outcomes: Iterable<Outcome>) => Effect.Effect<void, DiskError>
  /**
   * Writes letters durably; lines that are compressed are read from `source`. If it fails and may have left a part of
   * them, then it calls `left`.
   */
  readonly keep: (
    refusals: ReadonlyArray<Refusal>,
    source: Effect.Effect<File, DiskError, Scope.Scope>,
    left: () => void
  ) => Effect.Effect<void, DiskError>
  /** Makes the content of the file durable. */
  readonly sync: Effect.Effect<void, DiskError>
  /** Makes the file's name durable. */
  readonly syncName: Effect.Effect<void, DiskError>
  /** Called when the file was removed or replaced: its name must be synced again. */
  readonly renamed: () => void
}

const NEWLINE = Buffer.from("\n")
/** a line is compressed in pieces, so that memory does not grow with it, bytes */
const PIECE_BYTES = 1 << 20
/** letters are written in pieces of about this many bytes */
const WRITE_BYTES = 1 << 20

/** The time in the form of entries. */
export const now: Effect.Effect<string> = Effect.map(Clock.currentTimeMillis, (millis) =>
  new Date(millis).toISOString()
)

export const make = (disk: Disk["Type"], directory: string, path: string, withRoom: WithRoom): LetterFile => {
  let isNameSynced = false
  const syncName = Effect.suspend(() =>
    // once in each process: the process that made the file may have died before this sync
    isNameSynced ? Effect.void : Effect.map(disk.syncDirectory(directory), () => void (isNameSynced = true))
  )

  /**
   * If the write fails, then its part is cut off, so that it takes no room. If that fails, too, then it calls `left`.
   */
  const add = (write: (file: File) => Effect.Effect<void, DiskError>, left: () => void = () => undefined) =>
    Effect.gen(function* () {
      const file = yield* disk.open(path, "append")
      const size = yield* file.size
      const cutOff = Effect.flatMap(file.size, (now) =>
        now === size ? Effect.void : Effect.zipRight(file.truncate(size), file.sync)
      )
      yield* Effect.onError(Effect.zipRight(write(file), syncName), () =>
        Effect.ignore(Effect.tapError(cutOff, () => Effect.sync(left)))
      )
    }).pipe(Effect.scoped, withRoom)

  return {
    disk,
    directory,
    path,
    end: (outcomes) =>
      Effect.suspend(() => {
        let lines = "\n"
        for (const outcome of outcomes) lines += `${encodeOutcome(outcome)}\n`
        const bytes = Buffer.from(lines)
        return add((file) => file.append(bytes))
      }),
    keep: (refusals, source, left) =>
      add(
        (file) =>
          Effect.gen(function* () {
            // ends what a crash or a full disk left unfinished; empty lines mean nothing
            yield* file.write(NEWLINE)
            yield* writeLetters(file, refusals, yield* now, source)
            // before the cursor moves: otherwise a power cut could take the only copy
            yield* file.sync
          }),
        left
      ),
    sync: add((file) => file.sync),
    syncName,
    renamed: () => {
      isNameSynced = false
    }
  }
}

const writeLetters = (
  file: File,
  refusals: ReadonlyArray<Refusal>,
  at: string,
  source: Effect.Effect<File, DiskError, Scope.Scope>
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    let pieces: Array<Buffer> = []
    let bytes = 0
    const flush = Effect.suspend(() => {
      const joined = Buffer.concat(pieces)
      pieces = []
      bytes = 0
      return joined.length === 0 ? Effect.void : file.write(joined)
    })
    for (const refusal of refusals) {
      const content = encodeContent(refusal.record)
      if (content === undefined) {
        yield* flush
        yield* writeCompressed(file, encodeHead(refusal, at, "gzip"), refusal.record, source)
        continue
      }
      const entry = Buffer.from(`${encodeHead(refusal, at)}${content}\n`)
      pieces.push(entry)
      bytes += entry.length
      if (bytes >= WRITE_BYTES) yield* flush
    }
    yield* flush
  })

const writeCompressed = (
  file: File,
  head: string,
  { length, offset }: QueueRecord,
  source: Effect.Effect<File, DiskError, Scope.Scope>
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const from = yield* source
    yield* file.write(Buffer.from(`${head},"base64":"`))
    let rest: Uint8Array = new Uint8Array()
    for (let done = 0; done < length;) {
      const piece = yield* from.readAt(offset + done, Math.min(PIECE_BYTES, length - done))
      if (piece.length === 0) break
      const bytes = Buffer.concat([rest, yield* compress(piece)])
      // base64 takes three bytes at a time
      const whole = bytes.length - (bytes.length % 3)
      yield* file.write(Buffer.from(bytes.toString("base64", 0, whole)))
      rest = bytes.subarray(whole)
      done += piece.length
    }
    yield* file.write(Buffer.from(`${Buffer.from(rest).toString("base64")}"}\n`))
  }).pipe(Effect.scoped)

const compress = (bytes: Uint8Array) =>
  Effect.async<Buffer>((resume) => {
    zlib.gzip(bytes, { level: zlib.constants.Z_BEST_SPEED }, (error, compressed) =>
      resume(error === null ? Effect.succeed(compressed) : Effect.die(error))
    )
  })
