/**
 * Delivers events to a database. It knows SQL and nothing of files.
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
 * An event that the database will never take: it goes to the dead letters, all others of its batch are delivered.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rejection {
  /** the index in `UploadBatch.events` */
  readonly index: number
  /** the database's error code, for example `1406` */
  readonly code: string
  /** the database's own words: they may echo the row, so they belong in the dead letter and not in a log */
  readonly reason: string
}

/**
 * Every event of the batch is either in its table, committed, or among `rejected`.
 *
 * @category models
 * @since 0.1.0
 */
export interface UploadResult {
  readonly rejected: ReadonlyArray<Rejection>
}

/**
 * The service that delivers a batch. `upload` is bounded in time by itself, gives up at once when interrupted,
 * and may be repeated with the same events: each is stored once (or at least once, where the table has no unique
 * key and the layer was told so; then it waits for the answer to the statement under way before it gives up, since
 * nobody could tell afterwards what was stored). It connects lazily: building the layer never touches the network. It
 * is called while the database still works on the batch before, so what needs no database is better done before its
 * effect runs.
 *
 * @category services
 * @since 0.1.0
 */
export class Uploader extends Context.Tag("effect-audit/Uploader")<
  Uploader,
  {
    readonly upload: (batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>
    /** how many batches may be under way at once; above 1 the order of rows is given up */
    readonly concurrency: number
    /** true: what is sent again is stored again, so the cursor follows every batch, for a crash to repeat little */
    readonly atLeastOnce?: boolean | undefined
    /** what the option `proof` needs; an uploader of your own leaves it out */
    readonly sealing?: Sealing | undefined
  }
>() {}
