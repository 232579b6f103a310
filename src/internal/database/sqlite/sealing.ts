/** Sealing: stores rows and their seal in one transaction of SQLite. */
import type { Connection } from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { Effect } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { Either } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { StoredEvent } from "../../../schema/Line.js"
import type { Manifest, Part, Sealing, Stored } from "../../../services/Sealing.js"
import type { Rejection, UploadBatch } from "../../../services/Uploader.js"
import { SALT_BYTES, saltAt } from "../../proof/row.js"
import { idsIn, PROOF_COLUMN, SEAL_TABLE } from "../../proof/seal.js"
import { missed, NOT_LAST } from "../../proof/sealer.js"
import { type Attempt, type makeDriftGuard, narrow } from "../narrow.js"
import { type Keepers, manifestOf, prove, storedOf } from "../proven.js"
import { EVENT_ID, EVENT_TIME, parameters, placeholders } from "../rows.js"
import { explain, isNull, toUploadError } from "./errors.js"
import { provable } from "./provable.js"
import { typesOf } from "./proofMigration.js"
import { quote } from "./connection.js"
import { insertSeal, presentIds } from "./seals.js"

/** A table as a connection found it. */
export interface Found {
  readonly keepers: Keepers
  readonly manifest: Manifest
}

export interface Target {
  readonly connection: Connection
  /** the tables that this connection has checked */
  readonly found: Map<AuditEvent.Any, Found>
  readonly nameOf: (definition: AuditEvent.Any) => string
  readonly guard: ReturnType<typeof makeDriftGuard>
  readonly file: string
}

/** SQLite's limit of parameters, since 3.32. */
const MAX_VARIABLES = 32_766

const unusable = (reason: string) => new UploadError({ class: "operator", code: "SQLITE_ERROR", reason })

const look = (
  { connection, found, nameOf }: Target,
  definition: AuditEvent.Any
): Effect.Effect<Found, SqlError | UploadError> =>
  Effect.gen(function* () {
    const known = found.get(definition)
    if (known !== undefined) return known
    const name = nameOf(definition)
    const types = yield* typesOf(connection, name)
    if (!types.has(PROOF_COLUMN) || (yield* typesOf(connection, SEAL_TABLE)).size === 0)
      return yield* unusable(
        `${name} or ${SEAL_TABLE} lacks what seals need: run \`effect-audit migrate --proof --sqlite FILE\``
      )
    const columns = provable(definition, name, types)
    if (Either.isLeft(columns)) return yield* unusable(columns.left)
    const looked: Found = {
      // SQLite's times are texts
      keepers: {
        eventTime: {
          plain: Number.POSITIVE_INFINITY,
          fit: (value) => value,
          textOf: (value) => (value === null ? null : String(value))
        },
        columns: columns.right
      },
      manifest: manifestOf(definition, name)
    }
    found.set(definition, looked)
    return looked
  })

const storeKind = (
  target: Target,
  { definition, events }: UploadBatch
): Effect.Effect<Stored, SqlError | UploadError> =>
  Effect.gen(function* () {
    const { connection, file, guard } = target
    const { keepers, manifest } = yield* look(target, definition)
    const proven = prove(definition, manifest, keepers, events)
    const names = [EVENT_ID, EVENT_TIME, ...definition.columns.map(({ name }) => name), PROOF_COLUMN]
    const twins = new Set<StoredEvent>()
    const fresh: Array<number> = []
    const step = Math.floor(MAX_VARIABLES / names.length)
    const taken = yield* presentIds(connection, manifest.table, idsIn(proven.entries))
    for (const [index, event] of proven.events.entries()) {
      if (taken.has(event.eventId)) twins.add(event)
      else fresh.push(index)
      taken.add(event.eventId)
    }
    const some = fresh.map((index) => proven.events[index]!)
    const salts = Buffer.concat(fresh.map((index) => saltAt(proven.salts, index)))
    const watch = guard.watch(manifest.table, some)
    const attempt: Attempt<UploadError> = (from, to) =>
      connection
        .executeRaw(
          `INSERT INTO ${quote(manifest.table)} (${names.map(quote).join(",")}) VALUES ${placeholders(to - from, names.length)}`,
          parameters(
            some.slice(from, to),
            true,
            undefined,
            salts.subarray(from * SALT_BYTES, to * SALT_BYTES)
          )
        )
        .pipe(
          Effect.asVoid,
          Effect.mapError(({ cause }) => explain(cause, file)),
          Effect.tapErrorTag("Refused", () => stillInTransaction(connection))
        )
    for (let from = 0; from < some.length; from += step) {
      yield* narrow(attempt, from, Math.min(some.length, from + step), watch.onRejected)
    }
    const rejected = watch
      .done()
      .rejected.map((rejection): Rejection => ({ ...rejection, index: fresh[rejection.index]! }))
    return storedOf(manifest, proven, rejected, twins)
  })

/** If a trigger rolled the whole transaction back (RAISE(ROLLBACK)), the next rows would be stored without a seal. */
const stillInTransaction = (connection: Connection): Effect.Effect<void, UploadError> =>
  Effect.matchEffect(connection.executeRaw("BEGIN", []), {
    onFailure: () => Effect.void,
    onSuccess: () =>
      unusable(
        "A trigger takes whole transactions back (RAISE(ROLLBACK)), so nothing can be sealed: make it RAISE(ABORT)"
      )
  })

/** Stores parts, and the seal of what became of them. */
export const upload = (
  target: Target,
  ...[first, next, seal]: Parameters<Sealing["upload"]>
): Effect.Effect<void, UploadError> =>
  Effect.gen(function* () {
    const { connection } = target
    yield* connection.executeRaw("BEGIN IMMEDIATE", [])
    yield* Effect.gen(function* () {
      const all: Array<Stored> = []
      for (let part: Part | undefined = first; part !== undefined;) {
        const stored: Array<Stored> = []
        for (const batch of part.batches) stored.push(yield* storeKind(target, batch))
        all.push(...stored)
        part = next(stored)
      }
      yield* Effect.catchIf(
        insertSeal(connection, seal(all)),
        // the head of the seal before
        ({ cause }) => isNull(cause),
        () => missed(NOT_LAST)
      )
      yield* connection.executeRaw("COMMIT", [])
    }).pipe(
      // a connection that is closed within a transaction keeps the file locked
      Effect.onError(() => Effect.ignore(connection.executeRaw("ROLLBACK", [])))
    )
  }).pipe(Effect.catchTag("SqlError", ({ cause }) => toUploadError(cause, target.file)))
