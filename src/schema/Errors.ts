/**
 * The typed errors of effect-audit. Each message says what happened and what to do next. None contains an event's
 * content: prompts and rows are personal data.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import { visible } from "./Visible.js"

/**
 * Whether an event is on disk although its append failed: `absent`, certainly not; `unknown`, perhaps. In both cases
 * repeat it with the same `eventId`: it cannot be doubled.
 *
 * @category models
 * @since 0.1.0
 */
export const Outcome = Schema.Literal("absent", "unknown")

/**
 * @category models
 * @since 0.1.0
 */
export type Outcome = typeof Outcome.Type

/**
 * The event does not fit its kind. Nothing was written.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidEvent extends Schema.TaggedError<InvalidEvent>("effect-audit/InvalidEvent")(
  "InvalidEvent",
  {
    eventId: Schema.String,
    outcome: Schema.Literal("absent"),
    /** the kind of the event, for example `use_log` */
    kind: Schema.String,
    /** what is wrong, by field: the name and the expectation, never the value */
    issues: Schema.Array(Schema.Struct({ field: Schema.String, expected: Schema.String }))
  }
) {
  override get message(): string {
    const issues = this.issues.map((issue) => `${issue.field}: expected ${issue.expected}`).join("; ")
    return `The event of kind "${this.kind}" was not recorded (${issues}). Mend the call; nothing was written.`
  }
}

/** Our own codes, whose causes say what to do. */
const OURS: ReadonlyArray<string> = ["LOCK_LOST", "WRONG_TYPE", "NOT_OURS", "NO_LOCKS"]

/** What to do about the disk, as the beginning of a sentence. */
const mendOf = ({ cause, code }: { readonly cause: unknown; readonly code: string }): string => {
  const advice = OURS.includes(code) && cause instanceof Error ? cause.message : "mend the disk"
  return advice.charAt(0).toUpperCase() + advice.slice(1)
}

/**
 * The disk refused the event, or did not answer in time. Appends succeed again as soon as the disk does.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueWriteError extends Schema.TaggedError<QueueWriteError>("effect-audit/QueueWriteError")(
  "QueueWriteError",
  {
    eventId: Schema.String,
    outcome: Outcome,
    /** the file that could not be written, absolute */
    path: Schema.String,
    /**
     * - `ENOSPC`, `EIO` ...: the error code of the operating system
     * - `ETIMEDOUT`: our own time limit
     * - `LOCK_LOST`: the directory was removed or replaced, and holds another queue now
     * - `WRONG_TYPE`, `NOT_OURS`: the file is no regular file, or belongs to another user
     */
    code: Schema.String,
    cause: Schema.Defect
  }
) {
  override get message(): string {
    return (
      `Event ${this.eventId} could not be written to ${visible(this.path)} (${this.code}); it is ` +
      `${this.outcome === "absent" ? "not on disk" : "possibly on disk"}. ${visible(mendOf(this))}, then repeat it with ` +
      `{ eventId: "${this.eventId}" }: it cannot be doubled.`
    )
  }
}

/**
 * The queue has reached `maxQueueBytes`, or the disk `minFreeBytes`. Nothing was written.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueFull extends Schema.TaggedError<QueueFull>("effect-audit/QueueFull")("QueueFull", {
  eventId: Schema.String,
  outcome: Schema.Literal("absent"),
  limit: Schema.Literal("maxQueueBytes", "minFreeBytes"),
  /** the limit, in bytes */
  limitBytes: Schema.Number,
  /** what was found, in bytes: the queue's size, or the free space */
  actualBytes: Schema.Number,
  /** the queue's directory, absolute */
  directory: Schema.String
}) {
  override get message(): string {
    const state =
      this.limit === "maxQueueBytes"
        ? `the queue holds ${this.actualBytes} bytes, ${this.limit} is ${this.limitBytes}`
        : `the disk has ${this.actualBytes} bytes free, ${this.limit} is ${this.limitBytes}`
    return (
      `Event ${this.eventId} was not recorded: ${state} (${visible(this.directory)}). Free the disk, raise the limit, ` +
      `or bring the database back so that the queue empties; nothing was written.`
    )
  }
}

/**
 * The queue was closed before the event was written. Nothing was written.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueClosed extends Schema.TaggedError<QueueClosed>("effect-audit/QueueClosed")("QueueClosed", {
  eventId: Schema.String,
  outcome: Schema.Literal("absent")
}) {
  override get message(): string {
    return (
      `Event ${this.eventId} was not recorded: the audit log is closed. Record before the scope of AuditLayer ` +
      `ends: provide the layer once, at the edge of the program.`
    )
  }
}

/**
 * Every error of recording an event.
 *
 * @category errors
 * @since 0.1.0
 */
export type AppendError = InvalidEvent | QueueWriteError | QueueFull | QueueClosed

/**
 * The queue's directory cannot be used.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueOpenError extends Schema.TaggedError<QueueOpenError>("effect-audit/QueueOpenError")(
  "QueueOpenError",
  {
    /** the queue's directory, absolute */
    directory: Schema.String,
    /** what is wrong and what to do next */
    reason: Schema.String,
    cause: Schema.optional(Schema.Defect)
  }
) {
  override get message(): string {
    return visible(`The audit queue in ${this.directory} cannot be opened: ${this.reason}`)
  }
}

/**
 * Another owner holds the queue's directory.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueLocked extends Schema.TaggedError<QueueLocked>("effect-audit/QueueLocked")("QueueLocked", {
  /** the queue's directory, absolute */
  directory: Schema.String,
  /** the owner's process id, by its lock file; absent if it could not be read */
  pid: Schema.optional(Schema.Number),
  /** whether the owner is this process */
  sameProcess: Schema.Boolean,
  /** whether the owner is the command `effect-audit`, which releases the queue when it is done */
  command: Schema.optional(Schema.Boolean),
  /** if the queue has several `instances`: how many; all of their sub-directories are in use */
  instances: Schema.optional(Schema.Number)
}) {
  override get message(): string {
    if (this.instances !== undefined) {
      return (
        `All ${this.instances} instances of the audit queue in ${visible(this.directory)} are in use. Raise instances to the ` +
        `number of processes that may run at once, one that is just being replaced included, or set a longer lockWait.`
      )
    }
    if (this.command === true && !this.sameProcess) {
      return (
        `The audit queue in ${visible(this.directory)} is in use by the command effect-audit (process ` +
        `${this.pid ?? "unknown"}). It leaves when it is done: start again then, or set a longer lockWait.`
      )
    }
    return this.sameProcess
      ? `The audit queue in ${visible(this.directory)} is already open in this process (pid ${this.pid ?? "unknown"}). Build the layer ` +
          `once, at the edge of the program, and share it: Layer memoisation is by reference.`
      : `The audit queue in ${visible(this.directory)} is in use by process ${this.pid ?? "unknown"}. Stop it, give this ` +
          `process a directory of its own, or set instances, or a longer lockWait.`
  }
}

/**
 * The books of the queue could not be read or written; appends are not concerned. The worker tries again.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueAccessError extends Schema.TaggedError<QueueAccessError>("effect-audit/QueueAccessError")(
  "QueueAccessError",
  {
    path: Schema.String,
    /** the error code of the operating system */
    code: Schema.String,
    cause: Schema.Defect
  }
) {
  override get message(): string {
    const rest = this.code === "LOCK_LOST" ? "" : "; delivery goes on by itself"
    // other users choose the names of files in requests/
    return `The audit queue could not use ${visible(this.path)} (${this.code}). ${visible(mendOf(this))}${rest}.`
  }
}

/**
 * The class of a failure. `transient` passes by itself: network, locks, failover, capacity. `operator` does not:
 * rights, a missing table, a wrong password.
 *
 * @category models
 * @since 0.1.0
 */
export const UploadFailureClass = Schema.Literal("transient", "operator")

/**
 * @category models
 * @since 0.1.0
 */
export type UploadFailureClass = typeof UploadFailureClass.Type

/**
 * A batch could not be delivered, wholly or in part. Nothing is lost: it stays in the queue.
 *
 * @category errors
 * @since 0.1.0
 */
export class UploadError extends Schema.TaggedError<UploadError>("effect-audit/UploadError")("UploadError", {
  class: UploadFailureClass,
  /** the database's or the driver's error code, for example `1142` or `ECONNREFUSED` */
  code: Schema.String,
  /** what is wrong and what to do next, without texts of the database, which echo rows */
  reason: Schema.String,
  /**
   * true if a larger batch would show whether an event or the database is to blame. Then the next one has up to eight
   * times as many events.
   */
  wantsMore: Schema.optional(Schema.Boolean),
  /** the original error, whose text may echo a row: redacted, so that only our log at Debug shows it */
  cause: Schema.optional(Schema.RedactedFromSelf(Schema.Unknown))
}) {
  override get message(): string {
    // the server chooses the names of its objects
    return visible(`${this.reason} (${this.code})`)
  }
}

/**
 * `Audit.flush` could not deliver everything that was appended before it. Nothing is lost.
 *
 * @category errors
 * @since 0.1.0
 */
export class FlushError extends Schema.TaggedError<FlushError>("effect-audit/FlushError")("FlushError", {
  /** how many events still wait */
  waiting: Schema.Number,
  cause: Schema.Defect
}) {
  override get message(): string {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `${this.waiting} audit events wait on disk and will be delivered later: ${reason}`
  }
}

/**
 * Delivered events could not be read. If the class is `transient`, then it passes by itself: search again, `after` the
 * last event.
 *
 * @category errors
 * @since 0.1.0
 */
export class TrailError extends Schema.TaggedError<TrailError>("effect-audit/TrailError")("TrailError", {
  class: UploadFailureClass,
  /** the database's or the driver's error code, for example `1142` or `ECONNREFUSED` */
  code: Schema.String,
  /** what is wrong and what to do next, without texts of the database, which echo rows */
  reason: Schema.String,
  /** the original error, whose text may echo a row */
  cause: Schema.optional(Schema.RedactedFromSelf(Schema.Unknown))
}) {
  override get message(): string {
    return visible(`${this.reason} (${this.code})`)
  }
}
