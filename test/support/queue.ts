/**
 * Queues for tests: opened on any disk, filled with lines of known ids, and emptied again.
 *
 * @module
 */
import { Effect, Exit, Scope } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { gunzipSync } from "node:zlib"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import * as QueueFileLayer from "../../src/layers/QueueFileLive.js"
import { Disk } from "../../src/services/Disk.js"
import type { Position } from "../../src/schema/Position.js"
import type { Batch, QueueFile, QueueRecord, Refusal } from "../../src/services/QueueFile.js"

/** The service of a queue. */
export type Queue = QueueFile["Type"]

/** The queue of a directory, until the scope closes. By default it writes no reserve. */
export const openQueue = (disk: Disk["Type"], options: Partial<QueueFileLayer.Options> = {}) =>
  QueueFileLayer.make({ directory: "/audit", minFreeBytes: 0, reserveBytes: 0, ...options }).pipe(
    Effect.provideService(Disk, disk)
  )

/** The disk of this machine. */
export const nodeDisk: Effect.Effect<Disk["Type"]> = Effect.provide(Disk, NodeDisk.layer)

/** A directory, which the scope removes. */
export const temporaryDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "audit-queue-"))),
  // retries, since a killed process may still write into it
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 10 }))
)

/** Opens a queue, uses it and closes it, as a process does between its start and its end. */
export const withQueue = <A, E>(
  disk: Disk["Type"],
  options: Partial<QueueFileLayer.Options>,
  use: (queue: Queue) => Effect.Effect<A, E>
) => Effect.scoped(Effect.flatMap(openQueue(disk, options), use))

/** A queue that the test closes. */
export const openClosable = (disk: Disk["Type"], options: Partial<QueueFileLayer.Options> = {}) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const queue = yield* Effect.onError(Scope.extend(openQueue(disk, options), scope), (cause) =>
      Scope.close(scope, Exit.failCause(cause))
    )
    return { queue, close: Scope.close(scope, Exit.void) }
  })

/** A line with an id, and `padding` more bytes. */
export const lineOf = (id: string, padding = 0): string =>
  `{"event_id":"${id}"${padding > 0 ? `,"pad":"${"x".repeat(padding)}"` : ""}}\n`

/** The id of a line from `lineOf`; undefined for any other line. */
export const idOf = ({ bytes, problem }: Pick<QueueRecord, "bytes" | "problem">): string | undefined => {
  if (problem !== undefined) return undefined
  try {
    const line = JSON.parse(Buffer.from(bytes).toString("utf8")) as { readonly event_id?: string } | null
    return line?.event_id
  } catch {
    return undefined
  }
}

/** Appends a line with the id. */
export const append = (queue: Queue, id: string, padding = 0) => queue.append(lineOf(id, padding), id)

/** Appends lines with the ids, one after the other. */
export const appendAll = (queue: Queue, ids: ReadonlyArray<string>, padding = 0) =>
  Effect.forEach(ids, (id) => append(queue, id, padding))

/** `count` ids that begin with `prefix`. */
export const idsOf = (prefix: string, count: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`)

const LIMITS = { maxRecords: 100, maxBytes: 1 << 20 }

/** All records from the cursor on, in order; the cursor does not move. */
export const readAll = (queue: Queue) =>
  Effect.gen(function* () {
    const records: Array<QueueRecord> = []
    let from: Position | undefined
    for (;;) {
      const batch: Batch = yield* queue.take({ from, ...LIMITS })
      if (batch.records.length === 0) return records
      records.push(...batch.records)
      from = batch.end
    }
  })

/** The ids that wait, in order. */
export const waitingIds = (queue: Queue) =>
  Effect.map(readAll(queue), (records) => records.map(idOf).filter((id) => id !== undefined))

/** The worker's answer to a record; undefined if it is delivered. */
export const refusalOf = (record: QueueRecord): Refusal | undefined => {
  if (record.problem !== undefined) return { record, class: record.problem, reason: record.problem }
  return idOf(record) === undefined ? { record, class: "malformed", reason: "malformed" } : undefined
}

/** Delivers one batch to `database`, as the worker does. Returns the number of its records. */
export const deliver = (
  queue: Queue,
  database: Set<string>,
  options: { readonly maxRecords?: number; readonly isRejected?: (id: string) => boolean } = {}
) =>
  Effect.gen(function* () {
    const batch = yield* queue.take({ ...LIMITS, maxRecords: options.maxRecords ?? LIMITS.maxRecords })
    const refusals: Array<Refusal> = []
    for (const record of batch.records) {
      const id = idOf(record)
      const refusal = refusalOf(record)
      if (refusal !== undefined) refusals.push(refusal)
      else if (options.isRejected?.(id!) === true)
        refusals.push({ record, class: "rejected", code: "1", reason: "" })
      else database.add(id!)
    }
    yield* queue.commit(batch, refusals)
    return batch.records.length
  })

/** Delivers until nothing waits. */
export const deliverAll = (queue: Queue, database: Set<string>, options?: Parameters<typeof deliver>[2]) =>
  Effect.repeat(deliver(queue, database, options), { until: (count) => count === 0 })

/** The books, and whether they balance. */
export const books = (queue: Queue) =>
  Effect.map(queue.status, (status) => {
    const { accepted, dead, delivered, discarded, missing, retried, torn, waiting } = status
    const sum = delivered + waiting + dead + retried + discarded + torn
    return { ...status, balanced: accepted === sum + missing }
  })

/** A letter in the dead-letter file. */
export interface LetterInFile {
  readonly id: string
  readonly class: string
  readonly reason: string
  readonly bytes: Buffer
}

/** The letters in a dead-letter file, in order, without those that were delivered after all. */
export const lettersIn = (text: string): ReadonlyArray<LetterInFile> => {
  let letters: ReadonlyArray<LetterInFile> = []
  for (const line of text.split("\n").slice(0, -1)) {
    try {
      const letter = JSON.parse(line) as LetterInFile & {
        type: string
        line?: string
        base64?: string
        encoding?: string
      }
      if (letter.type === "delivered") letters = letters.filter(({ id }) => id !== letter.id)
      if (letter.type !== "letter") continue
      const kept =
        letter.line === undefined ? Buffer.from(letter.base64!, "base64") : Buffer.from(letter.line, "utf8")
      const bytes = letter.encoding === "gzip" ? gunzipSync(kept) : kept
      letters = [...letters, { id: letter.id, class: letter.class, reason: letter.reason, bytes }]
    } catch {
      // a torn entry, whose letter was written again
    }
  }
  return letters
}

/** The text of a file on a disk; empty if there is none. */
export const textOf = (disk: Disk["Type"], file: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      if ((yield* disk.info(file)) === undefined) return ""
      const handle = yield* disk.open(file, "read")
      return Buffer.from(yield* handle.readAt(0, yield* handle.size)).toString("utf8")
    })
  )

/** The letters of the queue in a directory. */
export const letters = (disk: Disk["Type"], directory = "/audit") =>
  Effect.map(textOf(disk, `${directory}/dead-letter.ndjson`), lettersIn)

/** The names of the segments in a directory, in order. */
export const segmentNames = (disk: Disk["Type"], directory = "/audit") =>
  Effect.map(disk.list(directory), (names) => names.filter((name) => /^\d{20}\.ndjson$/.test(name)).sort())
