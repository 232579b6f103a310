/**
 * A batch on its way into its table: by as few statements as it fits into, and by more of them where the server refuses
 * some of its events.
 *
 * The generator that runs for each batch stands outside of what an uploader makes for itself: see internal/delivery/pipeline.ts.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { Effect, Function, Schema } from "effect"
import type * as AuditEvent from "../../../schema/AuditEvent.js"
import { UploadError } from "../../../schema/Errors.js"
import type { StoredEvent } from "../../../schema/Line.js"
import type { Rejection, UploadBatch, UploadResult } from "../../../services/Uploader.js"
import { SALT_BYTES } from "../../proof/row.js"
import { Doubted, ill, makeDoubts, type Trial } from "../doubt.js"
import { makeDriftGuard, narrow, Refused } from "../narrow.js"
import { isSameForms, parameters, widthOf } from "../rows.js"
import { columnIn, SIGNALLED } from "../summary.js"
import type { Session } from "./connection.js"
import {
  classify,
  DUPLICATE_ENTRY,
  endsConnection,
  type Failure,
  isBroken,
  isEventKey,
  isFull,
  isOfPreparing,
  isOfTrigger,
  isRefusedByGroup,
  isServers,
  isTextRefused,
  isTimeout,
  namesKey,
  PACKET_TOO_LARGE,
  toUploadError
} from "./errors.js"
import { rowsAsText, rowWithParameters } from "./literals.js"
import { type Presence, presenceOf } from "./presence.js"
import type { makeSessions, Use } from "./sessions.js"
import type { Table } from "./table.js"
import { bytesOf } from "./table.js"

type WithSession = Effect.Effect.Success<ReturnType<typeof makeSessions>>

interface Target {
  readonly deduplicates: boolean
  readonly nameOf: (definition: AuditEvent.Any) => string
  readonly withSession: WithSession
  /** Runs with a session, and with the table of a kind as it was found by that session. */
  readonly withTable: <A, E>(
    definition: AuditEvent.Any,
    use: (table: Table, session: Session) => Effect.Effect<A, E>,
    how?: Use
  ) => Effect.Effect<A, E | UploadError>
  /** as they were looked at last: a good guess of what a statement may hold, before there is a session for it */
  readonly tables: ReadonlyMap<AuditEvent.Any, Table>
}

/** Where batches are stored, and what earlier ones have taught. */
interface Store extends Target {
  readonly guard: ReturnType<typeof makeDriftGuard>
  readonly doubts: ReturnType<typeof makeDoubts>
  readonly pace: ReturnType<typeof makePace>
  /** without a key: the ids of what was stored before its batch failed, so that the next try leaves it out */
  readonly storedInPart: Set<string>
}

/** Makes what stores a batch: it succeeds once each event is stored or rejected, and may be repeated until then. */
export const makeStore = (
  target: Target
): ((batch: UploadBatch) => Effect.Effect<UploadResult, UploadError>) => {
  const store: Store = {
    ...target,
    guard: makeDriftGuard(),
    doubts: makeDoubts(),
    pace: makePace(),
    storedInPart: new Set()
  }
  return (batch) => {
    // at once: the database still works on the batch before
    const table = store.tables.get(batch.definition)
    if (table === undefined) return send(store, batch, { rows: undefined, table, fitting: 0 })
    const rows = new Rows(batch.definition, batch.events, store.deduplicates)
    const fitting = table.fitting(batch.events, 0)
    rows.prepare(table, fitting)
    return send(store, batch, { rows, table, fitting })
  }
}

/**
 * Makes what stores a batch within a transaction of the caller's, which commits it or takes it back. An event that is
 * there already is another's, and told of: what a transaction of ours stored before is never sent again.
 */
export const makeStoreWithin = ({ nameOf, withSession }: Pick<Target, "nameOf" | "withSession">) => {
  const pace = makePace()
  /** what broke a connection by its size, until its batch is stored */
  const tooLarge = new Set<string>()
  const learnt = {
    nameOf,
    guard: makeDriftGuard(),
    doubts: makeDoubts(),
    // where a connection breaks under a statement the transaction is gone, and the next one has smaller ones
    pace: {
      ...pace,
      failed: (rows: number, error: { readonly code: string }) =>
        pace.failed(rows, isBroken(error) ? { code: "ETIMEDOUT" } : error)
    }
  }
  const known = new WeakMap<Session, Map<Table, Store>>()
  const storeIn = (session: Session, definition: AuditEvent.Any, table: Table): Store => ({
    ...learnt,
    deduplicates: true,
    withSession: (use) => use(session),
    withTable: (_, use) => use(table, session),
    tables: new Map([[definition, table]]),
    storedInPart: new Set()
  })
  return {
    /** Makes what can be made of a batch before there is a transaction. */
    prepare: (table: Table, batch: UploadBatch, salts: Buffer): Prepared => {
      const twins = new Set<StoredEvent>()
      const rows = new Rows(batch.definition, batch.events, true, { twins, salts })
      const fitting = table.fitting(batch.events, 0)
      rows.prepare(table, fitting)
      return { batch, rows, table, twins, fitting }
    },
    /** Stores it in the transaction of this session; those that are there already are among `prepared.twins` then. */
    send: (session: Session, prepared: Prepared): Effect.Effect<UploadResult, UploadError> => {
      const { batch, table } = prepared
      const stores = known.get(session) ?? new Map<Table, Store>()
      known.set(session, stores)
      const store = stores.get(table) ?? storeIn(session, batch.definition, table)
      stores.set(table, store)
      return send(store, batch, prepared)
    },
    /** Of an event that is known to be larger than what stands before the server lets through; mostly there is none. */
    get refusalOf() {
      if (tooLarge.size === 0) return undefined
      return ({ eventId }: StoredEvent) => (tooLarge.has(eventId) ? TOO_LARGE : undefined)
    },
    /** A batch is stored. */
    settle: (): void => tooLarge.clear(),
    /**
     * Finds the events that a connection breaks under, once the transaction is gone; whether there are any, or statements
     * are smaller from now on.
     */
    explainBreak: (
      batches: ReadonlyArray<UploadBatch>,
      rows: number
    ): Effect.Effect<boolean, UploadError> => {
      const suspects = batches
        .flatMap(({ events }) => events)
        .filter((event) => isSuspect([event]) && !tooLarge.has(event.eventId))
        .sort((a, b) => bytesOf([b]) - bytesOf([a]))
      return Effect.gen(function* () {
        const before = tooLarge.size
        for (const event of suspects) {
          // a smaller one passes where a larger one does
          if (!(yield* breaks(withSession, bytesOf([event])))) break
          tooLarge.add(event.eventId)
        }
        return tooLarge.size > before || pace.rows() < rows
      })
    },
    rows: pace.rows
  }
}

/** A batch for a transaction of the caller's, to be sent once. */
export interface Prepared extends Ahead {
  readonly batch: UploadBatch
  readonly table: Table
  readonly twins: ReadonlySet<StoredEvent>
}

/** What of a batch is made before it is its turn. */
interface Ahead {
  readonly rows: Rows | undefined
  readonly table: Table | undefined
  /** how many of its events make one statement for this table */
  readonly fitting: number
}

/** What events have within a transaction of the caller's. */
interface Within {
  /** those that were there already */
  readonly twins: Set<StoredEvent>
  /** of each, behind one another, for the column behind those of the kind */
  readonly salts: Buffer
}

/** Events, and their rows in the form in which the server takes them fastest. */
class Rows {
  private params: ReturnType<typeof parameters> = []
  private text = ""
  /** those that they were made for; the table may be looked at again, and be another one */
  private forms: Table["forms"] = []

  constructor(
    private readonly definition: AuditEvent.Any,
    public events: ReadonlyArray<StoredEvent>,
    private readonly withIdentity: boolean,
    readonly within?: Within
  ) {}

  /** Makes the form that a statement of all of them has, if one has room for so many. */
  prepare(table: Table, fitting: number): void {
    if (table.isPrepared(this.events.length)) this.parameters(table)
    else if (fitting === this.events.length) this.asText(table)
  }

  parameters(table: Table): ReturnType<typeof parameters> {
    this.fit(table)
    if (this.params.length === 0)
      this.params = parameters(this.events, this.withIdentity, table.forms, this.within?.salts)
    return this.params
  }

  asText(table: Table): string {
    this.fit(table)
    if (this.text === "")
      this.text = rowsAsText(this.events, this.withIdentity, table.forms, this.within?.salts)
    return this.text
  }

  private fit({ forms }: Table): void {
    if (!isSameForms(this.forms, forms)) this.release()
    this.forms = forms
  }

  /** The first of them, of which only the long texts are parameters. */
  withParameters(table: Table): ReturnType<typeof rowWithParameters> {
    return rowWithParameters(this.events[0]!, this.withIdentity, table.forms, this.within?.salts)
  }

  /** Those from an index to before another one; parameters that were made for all of them are used again. */
  part(from: number, to: number): Rows {
    if (from === 0 && to === this.events.length) return this
    const within =
      this.within === undefined
        ? undefined
        : { ...this.within, salts: this.within.salts.subarray(from * SALT_BYTES, to * SALT_BYTES) }
    const part = new Rows(this.definition, this.events.slice(from, to), this.withIdentity, within)
    const width = widthOf(this.definition, this.withIdentity)
    part.params = this.params.slice(from * width, to * width)
    part.forms = this.forms
    return part
  }

  /**
   * Hot path: what is in reach of functions of effect and the driver stays until the next full collection
   * (bench/README.md#functions-on-properties).
   */
  release(): void {
    this.params.length = 0
    this.text = ""
  }

  releaseAll(): void {
    this.release()
    this.events = []
  }
}

/** A batch under way: its rows, and how far it has come. */
interface Sending {
  readonly store: Store
  readonly definition: AuditEvent.Any
  readonly rows: Rows
  readonly onRejected: (rejection: Rejection) => Effect.Effect<void, UploadError>
  /** events before this index are stored or rejected */
  done: number
}

const send = Effect.fnUntraced(function* (store: Store, batch: UploadBatch, ahead: Ahead) {
  const { deduplicates, doubts, guard, pace, storedInPart, tables, withTable } = store
  const { definition } = batch
  const isLeft = ({ eventId }: StoredEvent) => !storedInPart.has(eventId)
  const events = storedInPart.size === 0 ? batch.events : batch.events.filter(isLeft)
  const storedBefore = batch.events.length - events.length
  const isMade = storedBefore === 0 && ahead.rows !== undefined
  const rows = isMade ? ahead.rows : new Rows(definition, events, deduplicates)
  const watch = guard.watch(store.nameOf(definition), events, storedBefore)
  const onRejected = (rejection: Rejection) => {
    sending.done = rejection.index + 1
    return watch.onRejected(rejection)
  }
  const sending: Sending = { store, definition, rows, onRejected, done: 0 }
  const attempt = (from: number, to: number) => storeRange(sending, from, to)
  const lookAgain = withTable(definition, Effect.succeed)

  while (sending.done < events.length) {
    const from = sending.done
    const table = tables.get(definition) ?? (yield* lookAgain)
    const isAhead = from === 0 && isMade && table === ahead.table
    const guess = isAhead ? ahead.fitting : table.fitting(events, from)
    // an event is not blamed for the limit of a server that may be another one by now
    const fitting = guess > 0 ? guess : (yield* lookAgain).fitting(events, from)
    const count = Math.min(fitting, pace.rows())
    if (count === 0) {
      yield* onRejected({ index: from, ...TOO_LARGE })
      continue
    }
    yield* narrow(attempt, from, from + count, onRejected).pipe(
      Effect.catchTag("Doubted", (doubted) => search(sending, doubted))
    )
  }
  if (storedInPart.size > 0) for (const { eventId } of batch.events) storedInPart.delete(eventId)
  doubts.settle(batch.events)
  // nothing of it stays in reach (Rows.release)
  rows.releaseAll()
  const { rejected } = watch.done()
  const result: UploadResult = {
    rejected: events === batch.events ? rejected : rejected.map(indexIn(batch.events, events))
  }
  return result
})

/** Stores a part by one statement; how many of its events are new. */
const storePart = (
  { rows, store: { deduplicates, pace, storedInPart } }: Sending,
  table: Table,
  session: Session,
  from: number,
  to: number
) => {
  const statement = rows.part(from, to)
  const inserted = Effect.matchEffect(insert(session, table, statement), {
    onFailure: (error) => {
      pace.failed(to - from, error)
      return Effect.fail(error)
    },
    onSuccess: (fresh) => {
      statement.release()
      pace.stored(to - from)
      if (!deduplicates) for (const { eventId } of rows.events.slice(from, to)) storedInPart.add(eventId)
      return Effect.succeed(fresh)
    }
  })
  // a shutdown waits for the answer, since nobody could tell afterwards what was stored
  return deduplicates ? inserted : Effect.uninterruptible(inserted)
}

/** Stores a part on a session of its own. */
const storeRange = (
  sending: Sending,
  from: number,
  to: number
): Effect.Effect<void, Refused | Doubted | UploadError> => {
  const { definition, rows, store } = sending
  const stored = Effect.map(
    store.withTable(definition, (table, session) => storePart(sending, table, session, from, to), {
      mayRepeat: Function.constTrue
    }),
    () => {
      sending.done = to
    }
  )
  if (to - from > 1) return stored
  return Effect.catchTag(stored, "Refused", (refused) =>
    isBroken(refused) ? explainBreak(store, refused, bytesOf(rows.events.slice(from, to))) : refused
  )
}

/** How many of the events from an index on make one statement. */
const fittingAt = ({ rows, store }: Sending, table: Table, from: number) =>
  Math.min(table.fitting(rows.events, from), store.pace.rows())

/** Whether the rest is to be searched; if not, fails. */
const beginSearch = (
  { definition, rows, store }: Sending,
  doubted: Doubted
): Effect.Effect<void, UploadError> => {
  if (!store.doubts.isDue(rows.events[0]!.eventId, doubted)) return doubted.error
  if (store.deduplicates) return Effect.void
  // a refused statement leaves rows behind there, and each trial would store them again
  return store.withTable(definition, (table) => (table.transactional ? Effect.void : ill(doubted)))
}

/** One statement of a search, whose evidence ends with its connection. */
const trialOn =
  (sending: Sending, table: Table, session: Session): Trial =>
  (from, to) =>
    fittingAt(sending, table, from) === 0
      ? Effect.fail(new Refused(TOO_LARGE))
      : Effect.mapError(storePart(sending, table, session, from, to), (error) =>
          error instanceof Refused && isBroken(error) && error.blameless !== undefined
            ? error.blameless
            : error
        )

/** Goes on with the rest by evidence (doubt.ts). */
const search = (sending: Sending, doubted: Doubted): Effect.Effect<void, UploadError> => {
  const { definition, onRejected, rows, store } = sending
  const from = sending.done
  const bytesAt = (index: number) => bytesOf(rows.events.slice(index, index + 1))
  let table: Table | undefined
  const searched = store.doubts.search({
    onOneConnection: (use) =>
      store.withTable(definition, (found, session) => {
        table = found
        return use(trialOn(sending, found, session))
      }),
    asLargeAs: (broken) => {
      const bytes = bytesAt(broken)
      return bytes > SUSPECT_BYTES
        ? rows.events.map((_, index) => index).filter((index) => index >= from && bytesAt(index) >= bytes)
        : []
    },
    settleApart: (index) =>
      Effect.matchEffect(storeRange(sending, index, index + 1), {
        onSuccess: () => Effect.succeed(undefined),
        onFailure: (error) =>
          error instanceof Refused && error.blameless === undefined
            ? Effect.succeed({ code: error.code, reason: error.reason })
            : Effect.fail(error instanceof Refused ? error.blameless! : error)
      }),
    from,
    to: rows.events.length,
    doubted,
    fitting: (from) => Math.max(1, countUnsuspected(rows.events, from, fittingAt(sending, table!, from))),
    idOf: (index) => rows.events[index]!.eventId,
    onRejected
  })
  return Effect.zipRight(
    beginSearch(sending, doubted),
    Effect.map(searched, () => {
      sending.done = rows.events.length
    })
  )
}

/** Where a rejected event of those that were left stands among all; not in `send`, which would close over both. */
const indexIn =
  (all: ReadonlyArray<StoredEvent>, left: ReadonlyArray<StoredEvent>) => (rejection: Rejection) => ({
    ...rejection,
    index: all.indexOf(left[rejection.index]!)
  })

/** Whether it was for its size that the connection broke under a statement. */
const explainBreak = (
  { withSession }: Store,
  refused: Refused,
  bytes: number
): Effect.Effect<never, Refused | UploadError> =>
  Effect.flatMap(breaks(withSession, bytes), (isTooLarge) => (isTooLarge ? new Refused(TOO_LARGE) : refused))

/**
 * Whether a connection breaks under so many bytes: a proxy may know another limit than the server behind it. Asked with
 * bytes of nothing, and thrice, so that no event is blamed for chance.
 */
const breaks = (withSession: WithSession, bytes: number): Effect.Effect<boolean, UploadError> =>
  withSession((session) =>
    Effect.mapError(session.query("SELECT LENGTH(?)", ["x".repeat(bytes)]), ({ cause }) => {
      const failure = classify(cause, session.endpoint)
      return endsConnection(failure)
        ? new Refused({ code: failure.code, reason: failure.text })
        : toUploadError(failure)
    })
  ).pipe(
    Effect.retry({ while: ({ _tag }) => _tag === "Refused", times: 2 }),
    Effect.as(false),
    Effect.catchTag("Refused", () => Effect.succeed(true))
  )

/**
 * How many rows a statement may have. One that took too long is made smaller, or a slow link would be offered the same
 * statement for ever; so is one that a group refuses twice, since it may be too large for it. After many that were in
 * time they grow again.
 */
const makePace = () => {
  let most = Number.POSITIVE_INFINITY
  let inTime = 0
  let refusedByGroup = 0
  return {
    rows: () => most,
    failed: (rows: number, error: { readonly code: string }) => {
      inTime = 0
      refusedByGroup = isRefusedByGroup(error) ? refusedByGroup + 1 : 0
      if (isTimeout(error) || refusedByGroup > 1) most = Math.max(1, Math.floor(rows / 2))
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

/**
 * Whether the rows go as parameters of a prepared statement: where that is faster, and where one event is so large that
 * escaped text, which may be twice as long, would not fit into the packet that its bytes fit into.
 */
const goesPrepared = (table: Table, { events }: Rows) => table.isPrepared(events.length) || isLarge(events)

const isLarge = (events: ReadonlyArray<StoredEvent>) => events.length === 1 && isSuspect(events)

const prepared = (session: Session, table: Table, rows: Rows) => {
  if (table.isPrepared(rows.events.length))
    return session.execute(table.prepared(rows.events.length), rows.parameters(table))
  const { long, row } = rows.withParameters(table)
  return session.execute(table.insert + row, long)
}

const asText = (session: Session, table: Table, rows: Rows) =>
  session.write(table.insert + rows.asText(table))

/**
 * Stores the events by one statement, all or none; those that are stored already count as stored. How many of them were
 * not there before.
 */
const insert = (
  session: Session,
  table: Table,
  rows: Rows,
  isPrepared = goesPrepared(table, rows)
): Effect.Effect<number, Refused | Doubted | UploadError> => {
  const statement: Effect.Effect<unknown, SqlError> = (isPrepared ? prepared : asText)(session, table, rows)
  return Effect.matchEffect(inZone(session, table, statement), {
    onSuccess: () => Effect.succeed(rows.events.length),
    onFailure: (error) => {
      const failure = classify(error.cause, table.subject)
      const count = rows.events.length
      if (isPrepared && isOfPreparing(failure)) {
        session.stopPreparing()
        return insert(session, table, rows, false)
      }
      if (failure.class !== "delivered") {
        if (!isOwnKey(table, failure)) return explain(table, rows, error)
        return rows.within === undefined
          ? insertHidden(session, table, rows, error)
          : setApart(session, table, rows, rows.within.twins, error)
      }
      if (rows.within !== undefined) return setApart(session, table, rows, rows.within.twins, error)
      // one by one where IGNORE cannot be taken back, and where the server shows too few warnings to know
      return count > 1 && (!table.transactional || session.maxWarnings < 2)
        ? new Refused({ code: failure.code, reason: failure.text })
        : insertMissing(session, table, rows)
    }
  })
}

/**
 * Of events one of which a key has refused in a transaction of the caller's: which it is, and whether it is there already.
 * Only asked for: a probe would end the transaction.
 */
const setApart = (
  session: Session,
  table: Table,
  rows: Rows,
  twins: Set<StoredEvent>,
  error: SqlError
): Effect.Effect<number, Refused | Doubted | UploadError> => {
  const failure = classify(error.cause, table.subject)
  const { code, text } = failure
  if (rows.events.length > 1) return new Refused({ code, reason: text })
  const isOwn = failure.class !== "delivered"
  const presence: Effect.Effect<Presence, SqlError> =
    table.countIds === undefined ? Effect.succeed("unknown") : presenceOf(session, table, rows.events)
  return presence.pipe(
    Effect.mapError(({ cause }) => toUploadError(classify(cause, table.subject))),
    Effect.flatMap((found) => {
      // what we have stored is never sent again: it is another event that has the key
      if (isOwn && found !== "present")
        return new Refused({ code, reason: found === "unknown" ? untold(table) : text })
      // a table that a trigger fills may have a key of the same name
      if (found === "absent") return explain(table, rows, error)
      twins.add(rows.events[0]!)
      return Effect.succeed(0)
    })
  )
}

const isOwnKey = ({ ownKeys, subject }: Table, { class: cls, code, text }: Failure) =>
  Number(code) === DUPLICATE_ENTRY &&
  cls === "operator" &&
  subject.eventKeys?.length !== 0 &&
  namesKey(
    text,
    subject,
    ownKeys.map(({ name }) => name)
  )

/** Of events one of which a key of the table's own has refused: it may be there already, which the server hides. */
const insertHidden = (
  session: Session,
  table: Table,
  rows: Rows,
  error: SqlError
): Effect.Effect<number, Refused | Doubted | UploadError> =>
  presenceOf(session, table, rows.events).pipe(
    Effect.mapError(({ cause }) => toUploadError(classify(cause, table.subject))),
    Effect.flatMap((presence) => {
      const failure = classify(error.cause, table.subject)
      const { code, text } = failure
      if (presence === "present") return Effect.succeed(0)
      if (presence === "elsewhere") return explain(table, rows, error)
      if (rows.events.length > 1) return new Refused({ code, reason: text })
      // better a dead letter, which can be retried, than a queue that waits for ever, or an event that is stored twice
      if (presence === "unknown") return new Refused({ code, reason: untold(table) })
      // a key's refusal is a warning under IGNORE, and that of a trigger which imitates it an error
      return session.maxWarnings < 2
        ? toUploadError(failure)
        : insertIgnore(session, table, rows, toUploadError(failure))
    })
  )

const untold = ({ subject: { table = "", username } }: Table) =>
  `a unique key of ${table} other than that of event_id refuses it, and nothing tells whether it is there already: ` +
  `GRANT SELECT (event_id) ON ${table} to ${username}, then retry it`

const inZone = <A>(session: Session, { timeZone }: Table, statement: Effect.Effect<A, SqlError>) =>
  session.timeZone() === timeZone ? statement : Effect.zipRight(session.setTimeZone(timeZone), statement)

/** Whom a failed statement is to be blamed on. */
const explain = (
  table: Table,
  { events }: Rows,
  { cause }: SqlError
): Effect.Effect<never, Refused | Doubted | UploadError> => {
  const failure = classify(cause, table.subject)
  const { code, text: reason } = failure
  switch (failure.class) {
    case "record": {
      const [only] = events
      if (only === undefined || events.length > 1) return new Refused({ code, reason })
      const advice = isTextRefused(failure) && !isOfTrigger(cause) ? table.advice(only) : undefined
      const note = isOfTrigger(cause) ? SIGNALLED : table.note(columnIn(reason))
      return new Refused({ code, reason: `${reason}${advice === undefined ? note : `; ${advice}`}` })
    }
    case "tooMany":
      return events.length > 1 ? new Refused({ code, reason }) : doubt(failure)
    default:
      return isBroken(failure) && isSuspect(events)
        ? new Refused({ code, reason, blameless: toUploadError(failure) })
        : doubt(failure)
  }
}

/** A failure that an event may be to blame for, if the server has said it: a trigger may choose whatever number it likes. */
const doubt = (failure: Failure): Doubted | UploadError => {
  const { class: cls, code, text } = failure
  // under IGNORE one of our keys is a warning
  const error = toUploadError(cls === "delivered" ? { ...failure, class: "operator" } : failure)
  if (!isServers(failure) || isFull(failure)) return error
  const isOperators = error.class === "operator"
  return new Doubted({
    code,
    reason: isOperators ? `${text}; ${error.reason}` : text,
    error,
    isLikely: cls === "doubtful" || isOperators,
    isKnown: cls !== "doubtful" && cls !== "unknown"
  })
}

/**
 * Escaping may double them, and a packet of 512 KiB no server refuses unless it was told to: a connection that breaks under
 * less breaks for another reason.
 */
const SUSPECT_BYTES = 256 * 1024

const isSuspect = (events: ReadonlyArray<StoredEvent>) => bytesOf(events) > SUSPECT_BYTES

/** How many events, of at most so many, a statement may have that nothing breaks under for its size. */
const countUnsuspected = (events: ReadonlyArray<StoredEvent>, from: number, most: number): number => {
  const empty = bytesOf([])
  let count = 0
  for (let bytes = empty; count < most; count++) {
    bytes += bytesOf(events.slice(from + count, from + count + 1)) - empty
    if (bytes > SUSPECT_BYTES) break
  }
  return count
}

const TOO_LARGE: Omit<Rejection, "index"> = {
  code: String(PACKET_TOO_LARGE),
  reason: "larger than max_allowed_packet of the server, or of something before it"
}

const Warning = Schema.Struct({ Code: Schema.Number, Message: Schema.String })

/**
 * Stores those of the events that are not in the table yet; how many they were. By INSERT IGNORE, which would hide
 * truncated texts and clamped numbers as well: so it is committed only if it left out duplicates of our key and did
 * nothing else. In slices, of each of which the server shows all warnings.
 *
 * A duplicate in a table that a trigger fills is an error under IGNORE, while one of ours is a warning: so an event that
 * is alone counts as delivered only after this.
 *
 * By statements on the session: a COMMIT that fails inside `withTransaction` of @effect/sql is a defect.
 */
const insertMissing = (
  session: Session,
  table: Table,
  rows: Rows
): Effect.Effect<number, Refused | Doubted | UploadError> =>
  Effect.gen(function* () {
    let fresh = 0
    const step = Math.max(1, session.maxWarnings)
    for (let from = 0; from < rows.events.length; from += step) {
      const slice = rows.part(from, Math.min(rows.events.length, from + step))
      fresh += yield* insertIgnore(session, table, slice, rows.events.length === 1 ? raced(table) : undefined)
    }
    return fresh
  })

/** One column, which MySQL and MariaDB name otherwise than TiDB. */
const WarningCount = Schema.Record({ key: Schema.String, value: Schema.Number })

/** `alone`: what is wrong if an event that was refused alone, as a duplicate, is neither there nor can be stored. */
const insertIgnore = (
  session: Session,
  table: Table,
  rows: Rows,
  alone: UploadError | undefined
): Effect.Effect<number, Refused | Doubted | UploadError> =>
  Effect.gen(function* () {
    yield* session.query("START TRANSACTION")
    const stored = yield* Effect.either(ignoring(session, table, rows))
    if (stored._tag === "Left") {
      const failure = classify(stored.left.cause, table.subject)
      const rolledBack = yield* Effect.isSuccess(session.query("ROLLBACK"))
      // a session with an open transaction is given up
      return yield* rolledBack || isBroken(failure) || isTimeout(failure)
        ? explain(table, rows, stored.left)
        : toUploadError(failure)
    }
    // how many there are, of which SHOW WARNINGS shows a part; a SELECT would forget them
    const [counted = {}] = yield* session.select(WarningCount, "SHOW COUNT(*) WARNINGS")
    const [count] = Object.values(counted)
    if (alone !== undefined && session.maxWarnings === 0) {
      // none is shown; it was a duplicate of our key a moment ago, and one of a trigger's would be an error
      yield* session.query(count === 0 ? "COMMIT" : "ROLLBACK")
      return count === 0 ? 1 : 0
    }
    const warnings = yield* session.select(Warning, "SHOW WARNINGS")
    const duplicates = warnings.filter(
      (_) => _.Code === DUPLICATE_ENTRY && isEventKey(_.Message, table.subject)
    )
    const isHarmless = warnings.length === count && warnings.length === duplicates.length
    yield* session.query(isHarmless ? "COMMIT" : "ROLLBACK")
    if (isHarmless) return rows.events.length - duplicates.length
    if (alone === undefined) {
      return yield* new Refused({ code: String(DUPLICATE_ENTRY), reason: "not all of them are duplicates" })
    }
    // alone, it was a duplicate a moment ago: whatever else the server says of it, it is there, or is tried again
    return duplicates.length > 0 ? 0 : yield* alone
  }).pipe(Effect.catchTag("SqlError", ({ cause }) => toUploadError(classify(cause, table.subject))))

/** The INSERT IGNORE of the rows, in the form of the INSERT that was refused. */
const ignoring = (session: Session, table: Table, rows: Rows): Effect.Effect<unknown, SqlError> => {
  if (!isLarge(rows.events)) return session.write(table.insertIgnore + rows.asText(table))
  const { long, row } = rows.withParameters(table)
  return session.execute(table.insertIgnore + row, long)
}

const raced = ({ subject }: Table) =>
  new UploadError({
    class: "transient",
    code: String(DUPLICATE_ENTRY),
    reason: `An event came and went in the table ${subject.table ?? ""} of ${subject.database}; it is tried again`
  })
