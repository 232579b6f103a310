/**
 * Rows and their seal in one transaction: what the server refuses is narrowed down inside it, then the seal is written,
 * then all of it is committed.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { Either } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { StoredEvent } from "../../../schema/Line.js"
import type { Manifest, Sealing, Stored } from "../../../services/Sealing.js"
import type { Rejection, UploadBatch } from "../../../services/Uploader.js"
import { SEAL_TABLE } from "../../proof/seal.js"
import { type Keepers, manifestOf, prove, storedOf, withProof } from "../proven.js"
import type { Session } from "./connection.js"
import { classify, DUPLICATE_ENTRY, errnoOf, toUploadError } from "./errors.js"
import { provable } from "./provable.js"
import { insertSeal, selectHeads, selectSeals } from "./seals.js"
import { makeStoreWithin } from "./store.js"
import { columnsOf, describe, type Table, unusable } from "./table.js"

interface Target {
  readonly nameOf: (definition: AuditEvent.Any) => string
  readonly withSession: <A>(
    use: (session: Session) => Effect.Effect<A, UploadError>
  ) => Effect.Effect<A, UploadError>
}

/** A table as a session found it. */
interface Found {
  readonly table: Table
  readonly keepers: Keepers
  readonly manifest: Manifest
}

export const makeSealing = ({ nameOf, withSession }: Target): Sealing => {
  const store = makeStoreWithin(nameOf)
  /** a session is given up whenever something is wrong, and the next one looks again */
  const found = new WeakMap<Session, Map<AuditEvent.Any, Found>>()

  const look = (session: Session, definition: AuditEvent.Any): Effect.Effect<Found, UploadError | SqlError> =>
    Effect.gen(function* () {
      const known = found.get(session)?.get(definition)
      if (known !== undefined) return known
      const name = nameOf(definition)
      const table = yield* describe(session, withProof(definition), name, true)
      if (!table.transactional)
        return yield* unusable(
          "ENGINE",
          `${name} has an engine without transactions, which a seal needs: run \`effect-audit migrate --proof\``
        )
      const keepers = provable(definition, name, yield* columnsOf(session, name))
      if (Either.isLeft(keepers)) return yield* unusable("COLUMN_TYPE", keepers.left)
      const looked: Found = { table, keepers: keepers.right, manifest: manifestOf(definition, name) }
      found.get(session)!.set(definition, looked)
      return looked
    })

  /**
   * No statement is committed by itself: where the server takes a transaction back, for a deadlock, the next statement
   * would stand alone otherwise, and its rows without a seal.
   */
  const begin = (session: Session): Effect.Effect<unknown, SqlError> => {
    if (found.has(session)) return Effect.void
    return Effect.tap(session.query("SET SESSION autocommit = 0"), () =>
      Effect.sync(() => found.set(session, new Map()))
    )
  }

  const storeKind = (session: Session, batch: UploadBatch) =>
    Effect.gen(function* () {
      const { keepers, manifest, table } = yield* look(session, batch.definition)
      const proven = prove(batch.definition, manifest, keepers, batch.events)
      const twins = new Set<StoredEvent>()
      const rejected: ReadonlyArray<Rejection> =
        proven.events.length === 0
          ? []
          : (yield* store(
              session,
              table,
              { definition: withProof(batch.definition), events: proven.events },
              twins
            )).rejected
      return storedOf(manifest, proven, rejected, twins)
    })

  const inTransaction = <A>(use: (session: Session) => Effect.Effect<A, UploadError | SqlError>) =>
    withSession((session) =>
      Effect.zipRight(begin(session), use(session)).pipe(
        Effect.zipLeft(session.query("COMMIT")),
        Effect.catchTag("SqlError", ({ cause }) => explained(cause, session))
      )
    )

  return {
    read: (chain, from) =>
      inTransaction((session) =>
        selectSeals(session, "AND `number` >= ? ORDER BY `number` LIMIT 20", [
          Buffer.from(chain, "hex"),
          from
        ])
      ),
    heads: inTransaction(selectHeads),
    upload: (batches, seal) =>
      inTransaction((session) =>
        Effect.gen(function* () {
          // what was looked at is no part of the transaction, which would not see what others have stored since
          if (batches.some(({ definition }) => found.get(session)?.has(definition) !== true)) {
            for (const { definition } of batches) yield* look(session, definition)
            yield* session.query("COMMIT")
          }
          const stored: Array<Stored> = []
          for (const batch of batches) stored.push(yield* storeKind(session, batch))
          yield* insertSeal(session, seal(stored))
          return stored.map(({ rejected }) => ({ rejected }))
        })
      )
  }
}

const explained = (cause: unknown, { endpoint }: Session): UploadError => {
  const errno = errnoOf(cause)
  if (errno === 1146)
    return new UploadError({
      class: "operator",
      code: "1146",
      reason: `${endpoint.database} has no table ${SEAL_TABLE} that ${endpoint.username} may use: run \`effect-audit migrate --proof\` or GRANT SELECT, INSERT`
    })
  return errno === DUPLICATE_ENTRY
    ? new UploadError({
        class: "transient",
        code: "SEAL_TAKEN",
        reason: "A seal of this number is there already; it is looked at, and delivery goes on"
      })
    : toUploadError(classify(cause, endpoint))
}
