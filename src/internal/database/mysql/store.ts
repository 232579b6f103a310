/**
 * A batch on its way into its table: by as few statements as it fits into, and by more of them where the server refuses
 * some of its events.
 *
 * The generator that runs for each batch stands outside of what an uploader makes for itself: see internal/delivery/pipeline.ts.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Schema } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import type { UploadError } from "../../../schema/Errors.js"
import type { StoredEvent } from "../../../schema/Line.js"
import type { Rejection, UploadBatch, UploadResult } from "../../../services/Uploader.js"
import type { Session } from "./connection.js"
import {
  classify,
  DUPLICATE_ENTRY,
  endsConnection,
  isBroken,
  isEventKey,
  isTextRefused,
  isTimeout,
  PACKET_TOO_LARGE,
  toUploadError
} from "./errors.js"
import type { makeSessions } from "./sessions.js"
import type { Table } from "./table.js"
import { bytesOf } from "./table.js"
import type { Attempt } from "../narrow.js"
import { makeDriftGuard, narrow, Refused } from "../narrow.js"
import { parameters, widthOf } from "../rows.js"

type WithSession = Effect.Effect.Success<ReturnType<typeof makeSessions>>

interface Target {
  readonly deduplicates: boolean
  readonly nameOf: (definition: AuditEvent.Any) => string
  readonly withSession: WithSession
  /** Runs with a session, and with the table of a kind as it was found by that session. */
  readonly withTable: <A, E>(
    definition: AuditEvent.Any,
    use: (table: Table, session: Session) => Effect.Effect<A, E>
  ) => Effect.Effect<A, E | UploadError>
  /** as they were looked at last: a good guess of what a statement may hold, before there is a session for it */
  readonly tables: ReadonlyMap<AuditEvent.Any, Table>
}

/** Where batches are stored, and what earlier ones have taught. */
interface Store extends Target {
  readonly guard: ReturnType<typeof makeDriftGuard>
  readonly pace: ReturnType<typeof makePace>
  /** without a key: the ids of what was stored before its batch failed, so that the next try leaves it out */
  readonly storedInPart: Set<string>
}

/** Makes what stores a batch: it succeeds once each event is stored or rejected, and may be repeated until then. */
export const makeStore = (
  target: Target
): ((batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>) => {
  const store: Store = { ...target, guard: makeDriftGuard(), pace: makePace(), storedInPart: new Set() }
  return (batch) => {
    // at once: the database still works on the batch before
    const table = store.tables.get(batch.definition)
    const ahead: Ahead = {
      params: parameters(batch.events, store.deduplicates),
      table,
      fitting: table?.fitting(batch.events, 0) ?? 0
    }
    return send(store, batch, ahead)
  }
}

type Params = ReturnType<typeof parameters>

/** What of a batch is made before it is its turn. */
interface Ahead {
  /** emptied once they are stored */
  readonly params: Params
  readonly table: Table | undefined
  /** how many of its events make one statement for this table */
  readonly fitting: number
}

/** Events, and the parameters of their rows. */
interface Rows {
  readonly events: ReadonlyArray<StoredEvent>
  readonly params: Params
}

const send = Effect.fnUntraced(function* (store: Store, batch: UploadBatch, ahead: Ahead) {
  const { deduplicates, guard, pace, storedInPart, tables, withTable } = store
  const { definition } = batch
  const isLeft = ({ eventId }: StoredEvent) => !storedInPart.has(eventId)
  const events = storedInPart.size === 0 ? batch.events : batch.events.filter(isLeft)
  const storedBefore = batch.events.length - events.length
  const isMade = storedBefore === 0 && ahead.params.length > 0
  const params = isMade ? ahead.params : parameters(events, deduplicates)
  const width = widthOf(definition, deduplicates)
  let rows: Rows = { events, params }
  const part = (from: number, to: number): Rows => ({
    events: rows.events.slice(from, to),
    params: to - from === rows.events.length ? rows.params : rows.params.slice(from * width, to * width)
  })
  const watch = guard.watch(store.nameOf(definition), events, storedBefore)
  const attempt: Attempt = (from, to) => {
    const stored = withTable(definition, (table, session) => {
      const statement = part(from, to)
      const inserted = Effect.matchEffect(insert(session, table, statement), {
        onFailure: (error) => {
          pace.failed(to - from, error)
          return Effect.fail(error)
        },
        onSuccess: () => {
          // what is in reach of effect's and the driver's functions stays until the next full collection (bench/README.md)
          statement.params.length = 0
          pace.stored(to - from)
          if (!deduplicates) for (let i = from; i < to; i++) storedInPart.add(rows.events[i]!.eventId)
          return Effect.void
        }
      })
      // a shutdown waits for the answer, since nobody could tell afterwards what was stored
      return deduplicates ? inserted : Effect.uninterruptible(inserted)
    })
    if (to - from > 1) return stored
    return Effect.catchTag(stored, "Refused", (refused) =>
      isBroken(refused) ? explainBreak(store, refused, bytesOf(rows.events.slice(from, to))) : refused
    )
  }

  const lookAgain = withTable(definition, Effect.succeed)
  for (let from = 0; from < events.length;) {
    const table = tables.get(definition) ?? (yield* lookAgain)
    const isAhead = from === 0 && isMade && table === ahead.table
    const guess = isAhead ? ahead.fitting : table.fitting(events, from)
    // an event is not blamed for the limit of a server that may be another one by now
    const fitting = guess > 0 ? guess : (yield* lookAgain).fitting(events, from)
    const count = Math.min(fitting, pace.rows())
    if (count === 0) {
      yield* watch.onRejected({
        index: from,
        ...TOO_LARGE
      })
    } else {
      yield* narrow(attempt, from, from + count, watch.onRejected)
    }
    from += Math.max(1, count)
  }
  if (storedInPart.size > 0) for (const { eventId } of batch.events) storedInPart.delete(eventId)
  // as above: what the Effects of this batch close over, and what a refused statement was given
  rows = { events: [], params: [] }
  params.length = 0
  const { rejected } = watch.done()
  const result: UploadResult = {
    rejected: events === batch.events ? rejected : rejected.map(indexIn(batch.events, events))
  }
  return result
})

/** Where a rejected event of those that were left stands among all; not in `send`, which would close over both. */
const indexIn =
  (all: ReadonlyArray<StoredEvent>, left: ReadonlyArray<StoredEvent>) => (rejection: Rejection) => ({
    ...rejection,
    index: all.indexOf(left[rejection.index]!)
  })

/**
 * Whether it was for its size that the connection broke under a statement: a proxy may know another limit than
 * the server behind it. Asked with as many bytes of nothing, and thrice, so that no event is blamed for chance.
 */
const explainBreak = (
  { withSession }: Store,
  refused: Refused,
  bytes: number
): Effect.Effect<never, Refused | UploadError> =>
  withSession((session) =>
    Effect.mapError(session.query("SELECT LENGTH(?)", ["x".repeat(bytes)]), ({ cause }) => {
      const failure = classify(cause, session.endpoint)
      return endsConnection(failure)
        ? new Refused({ code: failure.code, reason: failure.text })
        : toUploadError(failure)
    })
  ).pipe(
    Effect.retry({ while: ({ _tag }) => _tag === "Refused", times: 2 }),
    Effect.catchTag("Refused", () => new Refused(TOO_LARGE)),
    Effect.zipRight(refused)
  )

/**
 * How many rows a statement may have. One that took too long is made smaller, or a slow link would be offered the same
 * statement for ever; after many that were in time they grow again.
 */
const makePace = () => {
  let most = Number.POSITIVE_INFINITY
  let inTime = 0
  return {
    rows: () => most,
    failed: (rows: number, error: { readonly code: string }) => {
      inTime = 0
      if (isTimeout(error)) most = Math.max(1, Math.floor(rows / 2))
    },
    stored: (rows: number) => {
      if (rows < most || ++inTime < GROW_AFTER) return
      inTime = 0
      most *= 2
    }
  }
}

/** statements of the present size, one after the other */
const GROW_AFTER = 20

/** Stores the events by one statement, all or none; those that are stored already count as stored. */
const insert = (session: Session, table: Table, rows: Rows): Effect.Effect<void, Refused | UploadError> => {
  const { events, params } = rows
  const { prepared, sql } = table.insert(events.length)
  const only = events.length === 1 ? events[0] : undefined
  const statement: Effect.Effect<unknown, SqlError> = prepared
    ? session.execute(sql, params)
    : session.query(sql, params)
  const explain = ({ cause }: SqlError): Effect.Effect<void, Refused | UploadError> => {
    const failure = classify(cause, table.subject)
    switch (failure.class) {
      case "delivered":
        if (only !== undefined) return Effect.void
        // what INSERT IGNORE stores could not be taken back there: one by one, then
        if (!table.transactional) return new Refused({ code: failure.code, reason: failure.text })
        return insertMissing(session, table, rows)
      case "record":
        return (
          (only !== undefined && isTextRefused(failure) ? table.unfit(only) : undefined) ??
          new Refused({ code: failure.code, reason: failure.text })
        )
      case "tooMany":
        return new Refused({ code: failure.code, reason: failure.text, blameless: toUploadError(failure) })
      default: {
        const error = toUploadError(failure)
        return isBroken(failure) && bytesOf(events) > SUSPECT_BYTES
          ? new Refused({ code: failure.code, reason: failure.text, blameless: error })
          : error
      }
    }
  }
  return Effect.matchEffect(statement, { onFailure: explain, onSuccess: () => Effect.void })
}

/** A packet that no server refuses unless it was told to: a connection that breaks under less breaks for another reason. */
const SUSPECT_BYTES = 512 * 1024

const TOO_LARGE = {
  code: String(PACKET_TOO_LARGE),
  reason: "larger than max_allowed_packet of the server, or of something before it"
}

const Warning = Schema.Struct({ Code: Schema.Number, Message: Schema.String })

/**
 * Stores those of the events that are not in the table yet. INSERT IGNORE would hide truncated texts and clamped
 * numbers as well, so it is committed only if it left out duplicates of our key and did nothing else.
 *
 * By statements on the session: a COMMIT that fails inside `withTransaction` of @effect/sql is a defect.
 */
const insertMissing = (
  session: Session,
  table: Table,
  { events, params }: Rows
): Effect.Effect<void, Refused | UploadError> =>
  Effect.gen(function* () {
    yield* session.query("START TRANSACTION")
    const { warningStatus } = yield* session.execute(table.insertIgnore(events.length), params)
    const warnings = yield* session.select(Warning, "SHOW WARNINGS")
    const harmless =
      warnings.length === warningStatus &&
      warnings.every((_) => _.Code === DUPLICATE_ENTRY && isEventKey(_.Message, table.subject))
    yield* session.query(harmless ? "COMMIT" : "ROLLBACK")
    if (!harmless) {
      return yield* new Refused({ code: String(DUPLICATE_ENTRY), reason: "not all of them are duplicates" })
    }
  }).pipe(Effect.catchTag("SqlError", ({ cause }) => toUploadError(classify(cause, table.subject))))
