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
 * A line as it stands on disk.
 *
 * @category models
 * @since 0.1.0
 */
export interface QueueRecord extends Position {
  /** bytes, the line's end not included */
  readonly length: number
  /** the line without its end; only its beginning if `problem` is `oversize` */
  readonly bytes: Uint8Array
  /** the same as text; undefined if it is not UTF-8 */
  readonly text: string | undefined
  /**
   * `torn`: the end of a segment, without a line's end, that was never acknowledged, unless it is blank; `oversize`:
   * longer than `maxLineBytes`.
   */
  readonly problem: "torn" | "oversize" | undefined
  /** a line beyond what the numbers promise: of an append that failed with outcome `unknown`, and turned up */
  readonly surplus: boolean
}

/**
 * What of an array can be had without all of its items being there at once.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sequence<A> extends Iterable<A> {
  readonly length: number
  /** as that of an array: counted from the end if the index is negative */
  at(index: number): A | undefined
}

/**
 * Consecutive lines of one segment; no records when everything was taken.
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
   * Lets go of what its lines say, where it is kept until its commit, which then may have no refusals: their bytes and
   * texts cannot be had afterwards.
   */
  readonly release: () => void
}

/**
 * Why a line is kept as a dead letter instead of being delivered. One that is `blank` holds no event: it counts as
 * discarded.
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
 * A line that was refused, as the dead-letter file tells of it, without its content.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeadLetter extends Position {
  /** segment and offset of the line */
  readonly id: string
  /** bytes */
  readonly length: number
  readonly class: RefusalClass
  /** the `kind` of its event, if the line says one */
  readonly kind?: string | undefined
  readonly code?: string | undefined
  readonly reason: string
  /** when it was refused, ISO 8601 */
  readonly at: string
}

/**
 * The books: accepted = delivered + waiting + dead + retried + discarded + torn, and missing = 0. Counts since the
 * queue was created.
 *
 * @category models
 * @since 0.1.0
 */
export interface Balance {
  /** lines on disk, ever */
  readonly accepted: number
  /** committed by the database */
  readonly delivered: number
  /** still on disk */
  readonly waiting: number
  /** dead letters that wait for a decision */
  readonly dead: number
  /** dead letters that were appended again */
  readonly retried: number
  /** dead letters that an operator gave up, and blank lines */
  readonly discarded: number
  /** ends of segments that no caller was ever told of */
  readonly torn: number
  /** lines that the numbers promise and the disk lacks: anything but 0 is a loss */
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
  /** the last seal of what was delivered, with the option `proof` */
  readonly seal?: LastSeal | undefined
}

/**
 * What another process asks for about delivered rows, with the option `proof`: that a seal says that they may be erased,
 * or removed.
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
    /** random, written once; identifies the queue in ids derived from its lines */
    readonly queueId: string
    /**
     * Appends a line (ended by `\n`) and returns its sequence number once it is fsynced. Interrupted, the line is
     * whole or absent, never torn.
     */
    readonly append: (
      line: string,
      eventId: string
    ) => Effect.Effect<number, QueueWriteError | QueueFull | QueueClosed>
    /** Waits for the appends under way, those of interrupted callers included. */
    readonly awaitAppends: Effect.Effect<void>
    /** Reads the lines from `from` (the cursor by default) on, at most to the last durable byte. */
    readonly take: (options: {
      readonly from?: Position | undefined
      readonly maxRecords: number
      readonly maxBytes: number
    }) => Effect.Effect<Batch, QueueAccessError>
    /**
     * Settles a batch: writes its refusals to the dead letters, then moves the cursor behind it, then removes the
     * segments before. All other records of the batch count as delivered. Batches are committed in order.
     */
    readonly commit: (
      batch: Omit<Batch, "release">,
      refusals: ReadonlyArray<Refusal>,
      /** the last seal of what was delivered, with the option `proof` */
      seal?: LastSeal
    ) => Effect.Effect<void, QueueAccessError>
    /** The last seal that the cursor knows of. */
    readonly seal: Effect.Effect<LastSeal | undefined>
    /**
     * Appends dead letters again, under the same event ids, and records the decision; those that are no JSON objects
     * or too long stay. Returns how many were appended.
     */
    readonly retry: (
      select: (letter: DeadLetter) => boolean,
      by: string
    ) => Effect.Effect<number, QueueAccessError>
    /** Emits at once, and when another process may have asked for something; fails where the system cannot tell. */
    readonly requests: Stream.Stream<void, QueueAccessError>
    /** Carries out what other processes have asked for. */
    readonly carryOutRequests: Effect.Effect<void, QueueAccessError>
    /**
     * Names what is called for each request about delivered rows, whenever requests are carried out: it has a seal say so,
     * and answers whether one has. Without it such requests stay.
     */
    readonly onPermission: (permit: (id: string, permission: Permission) => boolean) => Effect.Effect<void>
    /**
     * Removes what is delivered, the newest segment included if nothing waits, and no append is under way or was answered
     * in this turn of the event loop. True if everything was removed; otherwise it is worth another try.
     */
    readonly compact: Effect.Effect<boolean, QueueAccessError>
    /**
     * Runs what else writes to the directory: not before this queue is known to own it, and not after its close; no other
     * owner comes before it has ended.
     */
    readonly writing: (write: Effect.Effect<void, DiskError>) => Effect.Effect<void, QueueAccessError>
    /** From memory, but for the age of the oldest line. */
    readonly status: Effect.Effect<QueueStatus, QueueAccessError>
    /** Where the cursor stands, and where the next line will: nothing waits when the sequences agree. */
    readonly progress: Effect.Effect<{ readonly settled: number; readonly next: number }>
    /** Where the cursor stands. */
    readonly position: Effect.Effect<Place>
    /** Calls the function after each group commit, until the scope closes. It must be fast and not throw. */
    readonly onAppend: (listener: () => void) => Effect.Effect<void, never, Scope.Scope>
  }
>() {}
