/**
 * Sealing: what an uploader adds so that deliveries can be proved, namely its seals, and one transaction for rows and
 * seal. Uploaders without seals ignore it.
 *
 * @since 0.1.0
 */
import type { Effect } from "effect"
import type { UploadError } from "../schema/Errors.js"
import type { Rejection, UploadBatch } from "./UploadBatch.js"

/**
 * A seal in its table: it covers the rows of one transaction, and continues a chain.
 *
 * @category models
 * @since 0.1.0
 */
export interface Seal {
  /** 16 random bytes */
  readonly chain: Uint8Array
  readonly number: number
  /** `YYYY-MM-DD HH:MM:SS.ffffff`, UTC; never earlier than that of the previous seal */
  readonly at: string
  /** the place in the queue up to which rows were delivered, `segment:offset` */
  readonly until: string
  /** the head of the previous seal */
  readonly prev: Uint8Array
  readonly entries: Uint8Array
  readonly notices: Uint8Array
  /** the hash of the fields above */
  readonly head: Uint8Array
  /** 8 bytes, of the key that signed the head */
  readonly keyId: Uint8Array
  readonly sig: Uint8Array
}

/**
 * A seal's chain, number and head, in hexadecimal.
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
  /** 1 for ever, once a chain was not as this queue had left it, so that a new chain began */
  readonly forked?: 1 | undefined
  /** 1 if events were delivered without a seal since this one */
  readonly bare?: 1 | undefined
}

/**
 * How a seal describes the rows of a kind. Only these columns are hashed; others may come and go.
 *
 * @category models
 * @since 0.1.0
 */
export interface Manifest {
  readonly kind: string
  readonly table: string
  /** in the order of hashing */
  readonly columns: ReadonlyArray<string>
  /** the columns whose content may be erased */
  readonly erasable: ReadonlyArray<string>
}

/**
 * The result of storing the events of a kind, for the seal that is written with them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stored {
  readonly manifest: Manifest
  /** for each stored event: its id, 16 bytes; room for the manifest's number in the seal, 8; and its leaf, 32 */
  readonly rows: Uint8Array
  /** the ids of events that were already in the table */
  readonly twins: ReadonlyArray<string>
  readonly rejected: ReadonlyArray<Rejection>
}

/**
 * Events of several kinds that were made ready for a transaction. An uploader keeps more in it than this.
 *
 * @category models
 * @since 0.1.0
 */
export interface Part {
  readonly batches: ReadonlyArray<UploadBatch>
}

/**
 * The seals of an uploader's database.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sealing {
  /** Some seals of a chain from a number on, in order; empty after the last one. */
  readonly read: (chain: string, from: number) => Effect.Effect<ReadonlyArray<Seal>, UploadError>
  /** The newest seals of at most 100 chains. */
  readonly heads: Effect.Effect<ReadonlyArray<Head>, UploadError>
  /** Makes ready what can be before it is its turn: it is called while the database works on the part before. */
  readonly prepare: (batches: ReadonlyArray<UploadBatch>) => Part
  /**
   * Stores parts, and the seal that is made from all results, in one transaction: all of it, or nothing. `next` receives
   * the results of each part, one for each kind, and returns the part to follow it. Without one the transaction ends. The
   * uploader may begin again with the first part until another one has followed.
   */
  readonly upload: (
    first: Part,
    next: (stored: ReadonlyArray<Stored>) => Part | undefined,
    seal: (stored: ReadonlyArray<Stored>) => Seal
  ) => Effect.Effect<void, UploadError>
}
