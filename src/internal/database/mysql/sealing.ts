/**
 * Rows and their seal in one transaction: parts are stored one after the other, what the server refuses is narrowed down
 * inside it, then the seal is written, then all of it is committed.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { Either } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { Manifest, Part, Seal, Sealing, Stored } from "../../../services/Sealing.js"
import type { UploadBatch, UploadResult } from "../../../services/Uploader.js"
import { SEAL_TABLE } from "../../proof/seal.js"
import { missed, NOT_LAST } from "../../proof/sealer.js"
import { type Keepers, manifestOf, prove, type Proven, storedOf, withProof } from "../proven.js"
import type { Session } from "./connection.js"
import { classify, DUPLICATE_ENTRY, errnoOf, isBroken, toUploadError } from "./errors.js"
import { provable } from "./provable.js"
import { insertSeal, selectHeads, selectSeals } from "./seals.js"
import { makeStoreWithin, type Prepared } from "./store.js"
import { columnsOf, describe, type Table, unusable } from "./table.js"
import { migrateCommand } from "../rows.js"

type Target = Parameters<typeof makeStoreWithin>[0]

/** A table as a session found it. */
interface Found {
  readonly table: Table
  readonly keepers: Keepers
  readonly manifest: Manifest
}

/** What of a batch is made before it is its turn. */
interface Ahead {
  readonly found: Found
  readonly proven: Proven
  readonly prepared: Prepared
}

/** What all batches of an uploader share. */
class Tables {
  /** a session is given up whenever something is wrong, and the next one looks again */
  private readonly found = new WeakMap<Session, Map<AuditEvent.Any, Found>>()
  /** as they were looked at last: mostly by the session that the next batch has, too */
  private readonly latest = new Map<AuditEvent.Any, Found>()
  readonly store: ReturnType<typeof makeStoreWithin>

  constructor(readonly target: Target) {
    this.store = makeStoreWithin(target)
  }

  /**
   * No statement is committed by itself: where the server takes a transaction back, for a deadlock, the next statement
   * would stand alone otherwise, and its rows without a seal.
   */
  begin(session: Session): Effect.Effect<unknown, SqlError> {
    if (this.found.has(session)) return Effect.void
    return Effect.tap(session.query("SET SESSION autocommit = 0"), () =>
      Effect.sync(() => this.found.set(session, new Map()))
    )
  }

  known(session: Session, definition: AuditEvent.Any): Found | undefined {
    return this.found.get(session)?.get(definition)
  }

  look(session: Session, definition: AuditEvent.Any): Effect.Effect<Found, UploadError | SqlError> {
    return Effect.gen(this, function* () {
      const name = this.target.nameOf(definition)
      const table = yield* describe(session, withProof(definition), name, true)
      if (!table.transactional)
        return yield* unusable(
          "ENGINE",
          `${name} has an engine without transactions, which a seal needs: run ` + migrateCommand("--proof")
        )
      const keepers = provable(definition, name, yield* columnsOf(session, name))
      if (Either.isLeft(keepers)) return yield* unusable("COLUMN_TYPE", keepers.left)
      const looked: Found = { table, keepers: keepers.right, manifest: manifestOf(definition, name) }
      this.found.get(session)!.set(definition, looked)
      this.latest.set(definition, looked)
      return looked
    })
  }

  ahead(batch: UploadBatch): Ahead | undefined {
    const known = this.latest.get(batch.definition)
    return known === undefined ? undefined : this.prepare(batch, known)
  }

  prepare({ definition, events: given }: UploadBatch, found: Found): Ahead {
    const { keepers, manifest, table } = found
    const proven = prove(definition, manifest, keepers, given, this.store.refusalOf)
    const { events, salts } = proven
    const prepared = this.store.prepare(table, { definition: withProof(definition), events }, salts)
    return { found, proven, prepared }
  }
}

/** Events that were made ready. Nothing refers to them once they are stored (bench/README.md#functions-on-properties). */
class Ready implements Part {
  private aheads: ReadonlyArray<Ahead | undefined>

  constructor(
    tables: Tables,
    public batches: ReadonlyArray<UploadBatch>
  ) {
    this.aheads = batches.map((batch) => tables.ahead(batch))
  }

  /** What was made ahead, which is sent once. */
  takeAhead(): ReadonlyArray<Ahead | undefined> {
    const { aheads } = this
    this.aheads = []
    return aheads
  }

  release(): void {
    this.batches = []
  }
}

/** A transaction on its way. */
class Sending {
  /** whether a seal was made, which may have been committed however this ends */
  isSealed = false
  /** whether a part has followed the first one, which is gone: the transaction cannot begin again */
  hasFollowed = false

  constructor(
    public part: Ready,
    private readonly follow: (stored: ReadonlyArray<Stored>) => Ready | undefined,
    private readonly makeSeal: (stored: ReadonlyArray<Stored>) => Seal
  ) {}

  /** Goes on to the next part; returns whether there is one. */
  next(stored: ReadonlyArray<Stored>): boolean {
    const following = this.follow(stored)
    if (following === undefined) return false
    this.hasFollowed = true
    this.part.release()
    this.part = following
    return true
  }

  seal(stored: ReadonlyArray<Stored>): Seal {
    this.isSealed = true
    return this.makeSeal(stored)
  }
}

// the generators that run for each batch stand outside of what an uploader makes for itself: see internal/delivery/pipeline.ts

const storeKind = Effect.fnUntraced(function* (
  tables: Tables,
  session: Session,
  batch: UploadBatch,
  ahead: Ahead | undefined
) {
  const found = tables.known(session, batch.definition) ?? (yield* tables.look(session, batch.definition))
  const { prepared, proven } = ahead?.found === found ? ahead : tables.prepare(batch, found)
  const { rejected } =
    proven.events.length === 0 ? NONE_REJECTED : yield* tables.store.send(session, prepared)
  return storedOf(found.manifest, proven, rejected, prepared.twins)
})

const storePart = Effect.fnUntraced(function* (tables: Tables, session: Session, part: Ready) {
  const { batches } = part
  const aheads = part.takeAhead()
  const stored: Array<Stored> = []
  for (let index = 0; index < batches.length; index++)
    stored.push(yield* storeKind(tables, session, batches[index]!, aheads[index]))
  return stored
})

const transact = Effect.fnUntraced(function* (tables: Tables, session: Session, sending: Sending) {
  const { batches } = sending.part
  yield* tables.begin(session)
  // what was looked at is no part of the transaction, which would not see what others have stored since
  if (batches.some(({ definition }) => tables.known(session, definition) === undefined)) {
    for (const { definition } of batches) yield* tables.look(session, definition)
    yield* session.query("COMMIT")
  }
  const all: Array<Stored> = []
  for (let goesOn = true; goesOn;) {
    const stored = yield* storePart(tables, session, sending.part)
    all.push(...stored)
    goesOn = sending.next(stored)
  }
  yield* insertSeal(session, sending.seal(all))
  yield* session.query("COMMIT")
})

/** A connection that broke before there was a seal has left nothing behind. */
const send = (tables: Tables, sending: Sending, times: number): Effect.Effect<void, UploadError> => {
  const { store, target } = tables
  const rows = store.rows()
  const sent = target.withSession((session) => explaining(transact(tables, session, sending), session), {
    // a server that takes no writes has committed nothing
    mayRepeat: () => !sending.hasFollowed
  })
  return Effect.catchAll(sent, (error) => {
    if (!isBroken(error) || sending.isSealed || sending.hasFollowed || times === 0) return error
    return Effect.flatMap(store.explainBreak(sending.part.batches, rows), (isExplained) =>
      isExplained ? send(tables, sending, times - 1) : error
    )
  })
}

/** A batch is begun anew so often, while each time more is known of what its connection breaks under. */
const MOST_BREAKS = 8

export const makeSealing = (target: Target): Sealing => {
  const tables = new Tables(target)
  const reading = <A>(use: (session: Session) => Effect.Effect<A, SqlError>) =>
    target.withSession((session) =>
      explaining(
        Effect.zipRight(tables.begin(session), Effect.zipLeft(use(session), session.query("COMMIT"))),
        session
      )
    )
  const readyOf = (part: Part): Ready => (part instanceof Ready ? part : new Ready(tables, part.batches))
  return {
    read: (chain, from) =>
      reading((session) =>
        selectSeals(session, "AND `number` >= ? ORDER BY `number` LIMIT 20", [
          Buffer.from(chain, "hex"),
          from
        ])
      ),
    heads: reading(selectHeads),
    prepare: (batches) => new Ready(tables, batches),
    upload: (first, next, seal) =>
      Effect.suspend(() => {
        const follow = (stored: ReadonlyArray<Stored>) => {
          const part = next(stored)
          return part === undefined ? undefined : readyOf(part)
        }
        const sending = new Sending(readyOf(first), follow, seal)
        return Effect.map(send(tables, sending, MOST_BREAKS), () => {
          tables.store.settle()
          sending.part.release()
        })
      })
  }
}

/** ER_BAD_NULL_ERROR */
const NO_NULL = 1048

const NONE_REJECTED: UploadResult = { rejected: [] }

const explaining = <A>(
  effect: Effect.Effect<A, SqlError | UploadError>,
  session: Session
): Effect.Effect<A, UploadError> =>
  Effect.catchAll(effect, (error) => (error._tag === "SqlError" ? explained(error.cause, session) : error))

const explained = (cause: unknown, { endpoint }: Session): UploadError => {
  const errno = errnoOf(cause)
  // the head of the seal before; what refuses rows was explained where they were stored
  if (errno === NO_NULL) return missed(NOT_LAST)
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
