/**
 * The uploader: delivers events to a database. It knows SQL, and no files.
 *
 * @since 0.1.0
 */
import { Context } from "effect"
import type { Effect } from "effect"
import type { UploadError } from "../schema/Errors.js"
import type { Sealing } from "./Sealing.js"
import type { UploadBatch, UploadResult } from "./UploadBatch.js"

export type { Rejection, UploadBatch, UploadResult } from "./UploadBatch.js"

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
