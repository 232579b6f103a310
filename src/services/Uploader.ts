/**
 * The uploader: delivers events to a database. It knows SQL, and no files.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { UploadError } from "../schema/Errors.js"
import type { StoredEvent } from "../schema/Line.js"
import type { Sealing } from "./Sealing.js"

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

/**
 * The service that delivers a batch.
 *
 * `upload` keeps its own time limit, and ends at once when it is interrupted. It may be repeated: each event is stored
 * once. If the table has no unique key and the layer allows that, then each is stored at least once. Such an upload
 * waits for the statement under way before it ends, since nobody could tell afterwards what was stored.
 *
 * It connects lazily: building the layer never touches the network. `upload` is called while the database still works
 * on the previous batch, so do other work before the effect runs.
 *
 * @category services
 * @since 0.1.0
 */
export class Uploader extends Context.Tag("effect-audit/Uploader")<
  Uploader,
  {
    readonly upload: (batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>
    /** how many batches may be under way at once; above 1, rows have no order */
    readonly concurrency: number
    /** true if a repeated event is stored again: then the cursor follows every batch, so that a crash repeats little */
    readonly atLeastOnce?: boolean | undefined
    /** for the option `proof`; an uploader of your own leaves it out */
    readonly sealing?: Sealing | undefined
  }
>() {}
