/**
 * The batch: what an uploader is given, and what it answers.
 *
 * @since 0.1.0
 */
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { StoredEvent } from "../schema/Line.js"

/**
 * Events of one kind, in the order of the queue; never empty.
 *
 * @category models
 * @since 0.1.0
 */
export interface UploadBatch {
  readonly definition: AuditEvent.Any
  readonly events: ReadonlyArray<StoredEvent>
}

/**
 * An event that the database will never accept. It becomes a dead letter; the rest of its batch is delivered.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rejection {
  /** the index in `UploadBatch.events` */
  readonly index: number
  /** the database's error code, for example `1406` */
  readonly code: string
  /** the database's message: it may echo the row, so it belongs in the dead letter, and never in a log */
  readonly reason: string
}

/**
 * The result of an upload: every event of the batch is either committed to its table, or among `rejected`.
 *
 * @category models
 * @since 0.1.0
 */
export interface UploadResult {
  readonly rejected: ReadonlyArray<Rejection>
}
