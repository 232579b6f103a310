/**
 * The queue on disk: segments, cursor and dead letters in one directory.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect, Scope, Stream } from "effect"
import type { QueueAccessError, QueueClosed, QueueFull, QueueWriteError } from "../schema/Errors.js"
import type { Place, Position } from "../schema/Position.js"
import type { DiskError } from "./Disk.js"
import type { LastSeal } from "./Sealing.js"

/**
 * A line on disk.
 *
 * @category models
 * @since 0.1.0
 */
export interface QueueRecord extends Position {
  /** bytes, without the newline */
  readonly length: number
  /** the line without its newline; only its beginning if `problem` is `oversize` */
  readonly bytes: Uint8Array
  /** `bytes` as text; undefined if they are not UTF-8 */
  readonly text: string | undefined
  /**
   * - `torn`: the unacknowledged end of a segment, which lacks more than its newline
   * - `oversize`: longer than `maxLineBytes`
   */
  readonly problem: "torn" | "oversize" | undefined
  /** whether the line has no number: its append failed with outcome `unknown`, but it reached the disk */
  readonly surplus: boolean
}

/**
 * A part of the array's interface that does not need all items in memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sequence<A> extends Iterable<A> {
  readonly length: number
  /** like that of an array: a negative index counts from the end */
  at(index: number): A | undefined
}

/**
 * Consecutive lines of one segment; no records if everything was taken.
 *
 * @category models
 * @since 0.1.0
 */
export interface Batch {
  readonly records: Sequence<QueueRecord>
  /** where the line before the batch ended */
  readonly start: Position
  /** where the next batch starts */
  readonly end: Position
  /**
   * Frees the bytes and texts of its lines, which cannot be read afterwards. So a commit after it must have no
   * refusals.
   */
  readonly release: () => void
}

/**
 * Why a line is a dead letter. A `blank` line holds no event, so it counts as discarded.
 *
 * @category models
 * @since 0.1.0
 */
export type RefusalClass =
  "malformed" | "unknownKind" | "invalid" | "oversize" | "rejected" | "torn" | "blank"

/**
 * A line that will not be delivered.
 *
 * @category models
 * @since 0.1.0
 */
export interface Refusal {
  readonly record: QueueRecord
  readonly class: RefusalClass
  /** the kind of the event, if it is known */
  readonly kind?: string | undefined
  /** the database's error code, if it was the database that refused */
  readonly code?: string | undefined
  readonly reason: string
}

/**
 * A dead letter without its content.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeadLetter extends Position {
  /** the segment and the offset of the line */
  readonly id: string
  /** of the line, bytes */
  readonly length: number
  readonly class: RefusalClass
  /** the kind of its event, if the line names one */
  readonly kind?: string | undefined
  readonly code?: string | undefined
  readonly reason: string
  /** when it was refused, ISO 8601 */
  readonly at: string
}

/**
 * The books, counted since the queue was created.
 *
 * If nothing is lost, then accepted = delivered + waiting + dead + retried + discarded + torn, and missing = 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface Balance {
  /** all lines that ever were on disk */
  readonly accepted: number
  /** committed by the database */
  readonly delivered: number
  /** still on disk */
  readonly waiting: number
  /** dead letters that wait for a decision */
  readonly dead: number
  /** dead letters that were appended again */
  readonly retried: number
  /** dead letters that an operator discarded, and blank lines */
  readonly discarded: number
  /** unfinished ends of segments, which no caller was promised */
  readonly torn: number
  /** lines that have a number but are not on disk: anything but 0 is a loss */
  readonly missing: number
}

/**
 * The books of a queue, and how much of it waits.
 *
 * @category models
 * @since 0.1.0
 */
export interface QueueStatus extends Balance {
  /** bytes on disk that wait for delivery */
  readonly waitingBytes: number
  /** the time of the oldest line that waits, milliseconds since 1970 UTC */
  readonly oldest: number | undefined
  /** the sequence number of the next line */
  readonly nextSequence: number
  /** the last seal of what was delivered; only with the option `proof` */
  readonly seal?: LastSeal | undefined
}

/**
 * A request of another process about delivered rows, with the option `proof`. A seal must record that they may be
 * erased or removed.
 *
 * @category models
 * @since 0.1.0
 */
export type Permission =
  | { readonly action: "erase"; readonly kind: string; readonly events: ReadonlyArray<string> }
  | { readonly action: "purge"; readonly chain: string; readonly before: number }

/**
 * The service that owns a directory. Every method is safe to call from many fibers.
 *
 * @category services
 * @since 0.1.0
 */
export class QueueFile extends Context.Tag("effect-audit/QueueFile")<
  QueueFile,
  {
    /** absolute */
    readonly directory: string
    /** random, and written once: ids that are derived from lines depend on it */
    readonly queueId: string
    /**
     * Appends a line, which ends in `\n`, and returns its sequence number once it is fsynced. If it is interrupted,
     * then the line is whole or absent, never torn.
     */
    readonly append: (
      line: string,
      eventId: string
    ) => Effect.Effect<number, QueueWriteError | QueueFull | QueueClosed>
    /** Waits for the appends under way, including those of interrupted callers. */
    readonly awaitAppends: Effect.Effect<void>
    /** Reads lines from `from` on, by default from the cursor, at most to the last durable byte. */
    readonly take: (options: {
      readonly from?: Position | undefined
      readonly maxRecords: number
      readonly maxBytes: number
    }) => Effect.Effect<Batch, QueueAccessError>
    /**
     * Settles a batch: writes its refusals to the dead letters, then moves the cursor to its end, then removes
     * delivered segments. All other records of the batch count as delivered. Batches must be committed in order. One
     * without records only stores its seal.
     */
    readonly commit: (
      batch: Omit<Batch, "release">,
      refusals: ReadonlyArray<Refusal>,
      /** the last seal of what was delivered, with the option `proof` */
      seal?: LastSeal
    ) => Effect.Effect<void, QueueAccessError>
    /** The last seal that the cursor keeps. */
    readonly seal: Effect.Effect<LastSeal | undefined>
    /**
     * Appends dead letters again, under the same event ids, and records the decision. Letters that are no JSON objects,
     * or too long, stay. Returns how many were appended.
     */
    readonly retry: (
      select: (letter: DeadLetter) => boolean,
      by: string
    ) => Effect.Effect<number, QueueAccessError>
    /** Emits at once, and whenever there may be a new request; fails if the system cannot watch. */
    readonly requests: Stream.Stream<void, QueueAccessError>
    /** Carries out the requests of other processes. */
    readonly carryOutRequests: Effect.Effect<void, QueueAccessError>
    /**
     * Sets the function that handles requests about delivered rows: it has a seal record the permission, and returns
     * whether one has. Without it such requests stay.
     */
    readonly onPermission: (permit: (id: string, permission: Permission) => boolean) => Effect.Effect<void>
    /**
     * Removes delivered segments. The newest one stays if lines wait, or an append is under way, or was answered in
     * this turn of the event loop. Returns true if everything was removed; if not, then try again later.
     */
    readonly compact: Effect.Effect<boolean, QueueAccessError>
    /**
     * Runs another write to the directory, once this queue is known to own it, and never after the close. The lock is
     * kept until the write has ended.
     */
    readonly writing: (write: Effect.Effect<void, DiskError>) => Effect.Effect<void, QueueAccessError>
    /** The status; only the age of the oldest line is read from the disk. */
    readonly status: Effect.Effect<QueueStatus, QueueAccessError>
    /** The sequence numbers of the cursor and of the next line; if they are equal, then nothing waits. */
    readonly progress: Effect.Effect<{ readonly settled: number; readonly next: number }>
    /** The place of the cursor. */
    readonly position: Effect.Effect<Place>
    /** Calls the function after each group commit, until the scope closes. It must be fast and not throw. */
    readonly onAppend: (listener: () => void) => Effect.Effect<void, never, Scope.Scope>
  }
>() {}
