/**
 * What an uploader needs so that what it delivers can be proved: the way to its seals, and one transaction for rows and
 * seal. Uploaders that seal nothing know nothing of it.
 *
 * @since 0.1.0
 */
import type { Effect } from "effect"
import type { UploadError } from "../schema/Errors.js"
import type { Rejection, UploadBatch, UploadResult } from "./Uploader.js"

/**
 * A seal as it stands in its table: the rows of one transaction, in a chain.
 *
 * @category models
 * @since 0.1.0
 */
export interface Seal {
  /** 16 random bytes */
  readonly chain: Uint8Array
  readonly number: number
  /** `YYYY-MM-DD HH:MM:SS.ffffff`, UTC; never before that of the seal before */
  readonly at: string
  /** the place in the queue up to which it was delivered, `segment:offset` */
  readonly until: string
  /** the head of the seal before */
  readonly prev: Uint8Array
  readonly entries: Uint8Array
  readonly notices: Uint8Array
  /** the hash of all of it */
  readonly head: Uint8Array
  /** 8 bytes, of the key that signed the head */
  readonly keyId: Uint8Array
  readonly sig: Uint8Array
}

/**
 * A seal by its chain, its number and its head, in hexadecimal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Head {
  readonly chain: string
  readonly number: number
  readonly head: string
}

/**
 * The last seal of a queue, as its cursor keeps it.
 *
 * @category models
 * @since 0.1.0
 */
export interface LastSeal extends Head {
  /** 1 for ever, once a chain was not as it was left, so that another one began */
  readonly forked?: 1 | undefined
  /** 1 where events were delivered without a seal since */
  readonly bare?: 1 | undefined
}

/**
 * What the rows of a kind are, as a seal says it. Only these columns are hashed; others may come and go.
 *
 * @category models
 * @since 0.1.0
 */
export interface Manifest {
  readonly kind: string
  readonly table: string
  /** in the order in which they are hashed */
  readonly columns: ReadonlyArray<string>
  /** those of them whose content may be erased */
  readonly erasable: ReadonlyArray<string>
}

/**
 * What became of the events of a kind, for the seal that is written with them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stored {
  readonly manifest: Manifest
  /** of each that was stored its id, 16 bytes, 8 bytes for the number that a seal gives the manifest, and its leaf, 32 */
  readonly rows: Uint8Array
  /** the ids of those that were in the table already */
  readonly twins: ReadonlyArray<string>
  readonly rejected: ReadonlyArray<Rejection>
}

/**
 * The seals of an uploader's database.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sealing {
  /** Some of the seals of a chain from a number on, in order; none behind the last. */
  readonly read: (chain: string, from: number) => Effect.Effect<ReadonlyArray<Seal>, UploadError>
  /** The newest seals of at most a hundred chains. */
  readonly heads: Effect.Effect<ReadonlyArray<Head>, UploadError>
  /**
   * Stores events of several kinds and the seal that is made of what became of them: all of it, or nothing. As `upload`
   * of an uploader it is called while the database works on the batch before.
   */
  readonly upload: (
    batches: ReadonlyArray<UploadBatch>,
    seal: (stored: ReadonlyArray<Stored>) => Seal
  ) => Effect.Effect<ReadonlyArray<UploadResult>, UploadError>
}
