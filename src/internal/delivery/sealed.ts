/**
 * Batches with a seal: a transaction stores all kinds of a batch, and the seal of what became of them.
 *
 * While more waits, batches follow one another in a transaction, since seal and commit cost as much for many events as
 * for one (bench/README.md#proof). If such a transaction fails, the next ones have one batch each for a while: only such
 * a transaction can begin again on another connection, and find out which of its events breaks one.
 */
import { Array as Arr, Effect } from "effect"
import { idOf } from "../../schema/Position.js"
import type { QueueFile, Refusal } from "../../services/QueueFile.js"
import type { Part, Seal, Stored } from "../../services/Sealing.js"
import { monotonicMillis } from "../monotonic.js"
import type { Sealer } from "../proof/sealer.js"
import { failureOf } from "./answer.js"
import {
  bytesIn,
  type Delivery,
  type Events,
  learn,
  type PassError,
  type Prepared,
  type Proof,
  type Settled,
  spanned,
  type UnderWay,
  withoutOutcomes
} from "./delivery.js"
import type { TakeNext } from "./pipeline.js"

/** A seal is for no more events than this, unless one batch has more: its entries, 56 bytes each, go in one packet. */
const MOST_RECORDS = 4000

/** After so many milliseconds nothing more joins a transaction: its rows are locked, and a failure repeats all of it. */
const GROWING_MILLIS = 100

/** A batch in a transaction. */
interface Member {
  readonly prepared: Prepared
  /** what is still to be sent of it */
  readonly open: ReadonlyArray<Events>
  readonly part: Part
  readonly refused: Array<Refusal>
  /** one for each of the open kinds, once they are stored */
  stored: ReadonlyArray<Stored>
}

/** A transaction under way: its batches, and the seal that they share. */
class Transaction {
  readonly members: [Member, ...ReadonlyArray<Member>]
  private readonly startedAt: number
  records: number
  private underWay: UnderWay | undefined
  private made: Seal | undefined

  constructor(
    private readonly delivery: Delivery,
    private readonly proof: Proof,
    first: Prepared,
    private readonly takeNext: TakeNext<Prepared>
  ) {
    this.startedAt = monotonicMillis(delivery.instruments.clock)
    this.members = [this.memberOf(first)]
    this.records = first.batch.records.length
  }

  get last(): Member {
    return this.members.at(-1)!
  }

  get rows(): number {
    let rows = 0
    for (const { open } of this.members) for (const { places } of open) rows += places.length
    return rows
  }

  private memberOf(prepared: Prepared): Member {
    const { proof } = this
    const refused = [...prepared.refusals]
    const open = withoutFates(this.delivery, prepared, proof.sealer, refused)
    const part =
      open === prepared.groups && prepared.part !== undefined ? prepared.part : proof.sealing.prepare(open)
    return { prepared, open, part, refused, stored: [] }
  }

  /** The time limit of an upload holds for each batch. */
  begin({ prepared: { batch } }: Member): void {
    this.end()
    this.underWay = this.delivery.begin(batch.records.length)
  }

  end(): void {
    if (this.underWay !== undefined) this.delivery.end(this.underWay)
    this.underWay = undefined
  }

  /** The results of a batch, and the one to follow it, if the transaction goes on. */
  next(stored: ReadonlyArray<Stored>): Part | undefined {
    const { last } = this
    last.stored = stored
    const prepared = this.mayGrow ? this.takeNext((following) => this.fits(following)) : undefined
    if (prepared === undefined) return undefined
    release(last)
    const member = this.memberOf(prepared)
    this.members.push(member)
    this.records += prepared.batch.records.length
    this.begin(member)
    return member.part
  }

  /** Only after what is ordinary: questions about events that were refused or there already are for one batch alone. */
  private get mayGrow(): boolean {
    const { delivery, last, proof, startedAt } = this
    return (
      delivery.mayShare &&
      !proof.sealer.hasFates &&
      last.refused.length === 0 &&
      last.stored.every(({ rejected, twins }) => rejected.length === 0 && twins.length === 0) &&
      monotonicMillis(delivery.instruments.clock) - startedAt < GROWING_MILLIS
    )
  }

  /** Tables are looked at before a transaction begins. So it takes no kinds but those of its first batch. */
  private fits({ batch, groups }: Prepared): boolean {
    const { delivery, members, records } = this
    const [{ open }] = members
    const bytes = members.reduce((sum, { prepared }) => sum + bytesIn(prepared.batch), bytesIn(batch))
    return (
      records + batch.records.length <= MOST_RECORDS &&
      bytes <= delivery.settings.maxBytes &&
      groups.every(({ definition }) => open.some((first) => first.definition === definition))
    )
  }

  seal(stored: ReadonlyArray<Stored>): Seal {
    const { delivery, last, members, proof } = this
    const dead = members.flatMap(({ open, prepared: { batch }, stored }) =>
      stored.flatMap(({ rejected }, at) =>
        rejected.map(({ code, index }) => {
          const { events, places } = open[at]!
          return { place: batch.records.at(places[index]!)!, eventId: events[index]!.eventId, code }
        })
      )
    )
    const until = idOf(last.prepared.batch.end)
    const now = delivery.instruments.clock.unsafeCurrentTimeMillis()
    return (this.made = proof.sealer.seal({ until, stored, dead }, now))
  }

  /** Nobody knows whether it was committed. */
  failed(): void {
    const { delivery, members, proof } = this
    this.end()
    proof.sealer.doubt()
    if (members.length > 1) delivery.sharingFailed(members.length)
  }

  /** All of it is committed. */
  committed(): void {
    this.end()
    this.delivery.sealed(this.members.length)
    if (this.made !== undefined) this.proof.sealer.committed(this.made)
    for (const { open, prepared, refused, stored } of this.members)
      stored.forEach(({ rejected }, at) =>
        refused.push(...learn(this.delivery, prepared.batch, open[at]!, rejected))
      )
    release(this.last)
  }

  settled(seconds: ReadonlyArray<number>): Settled {
    const { members, proof } = this
    return {
      batches: Arr.map(members, ({ prepared }) => prepared.batch),
      refused: members.flatMap(({ refused }) => refused),
      seconds,
      seal: proof.sealer.headAt(this.last.prepared.batch.end)
    }
  }
}

/** Out of reach of functions that outlive them (bench/README.md#functions-on-properties). */
const release = ({ open }: Member): void => {
  for (const { events } of open) events.length = 0
}

/** Sends all kinds of a batch together, and their seal; batches that wait may follow in the same transaction. */
export const uploadSealed = Effect.fnUntraced(function* (
  delivery: Delivery,
  prepared: Prepared,
  proof: Proof,
  takeNext: TakeNext<Prepared>
) {
  const { clock } = delivery.instruments
  const { sealer, sealing } = proof
  yield* sealer.resume
  const transaction = new Transaction(delivery, proof, prepared, takeNext)
  const [first] = transaction.members
  if (first.open.length === 0) return transaction.settled([])
  const startedAt = clock.unsafeCurrentTimeNanos()
  transaction.begin(first)
  const kinds = first.open.map(({ definition }) => definition.kind).join(",")
  const sent = sealing.upload(
    first.part,
    (stored) => transaction.next(stored),
    (stored) => transaction.seal(stored)
  )
  yield* Effect.matchCauseEffect(
    spanned(delivery, sent, prepared.batch, kinds, () => transaction.rows),
    {
      onSuccess: () => {
        transaction.committed()
        return Effect.void
      },
      onFailure: (cause) => {
        transaction.failed()
        return delivery.failed(failureOf(cause))
      }
    }
  ).pipe(Effect.onInterrupt(() => Effect.sync(() => transaction.failed())))
  const seconds = Number(clock.unsafeCurrentTimeNanos() - startedAt) / 1e9
  const settled = transaction.settled([seconds])
  delivery.adapt(transaction.records, transaction.rows, seconds, transaction.members.length)
  return settled
})

/** What of the kinds is still to be sent; what is known of the rest goes among the refused. */
const withoutFates = (
  delivery: Delivery,
  { batch, groups }: Prepared,
  sealer: Sealer,
  refused: Array<Refusal>
): ReadonlyArray<Events> => {
  const recordAt = (place: number) => batch.records.at(place)!
  const rest = groups.map((group) => withoutOutcomes(delivery, group, batch, refused))
  // mostly: nobody looks at each record then
  if (!sealer.hasFates) return rest.every((open, at) => open === groups[at]) ? groups : rest.filter(isOpen)
  return rest
    .map((open) => {
      const { kind } = open.definition
      const fates = open.events.map(({ eventId }, index) =>
        sealer.fateOf(eventId, recordAt(open.places[index]!))
      )
      fates.forEach((fate, index) => {
        if (fate?.code === undefined) return
        const reason = "the database refused it, and the program ended before it wrote down why"
        const record = recordAt(open.places[index]!)
        refused.push({ record, class: "rejected", kind, code: fate.code, reason })
      })
      const isLeft = (_: unknown, index: number) => fates[index] === undefined
      return { ...open, places: open.places.filter(isLeft), events: open.events.filter(isLeft) }
    })
    .filter(isOpen)
}

const isOpen = ({ places }: Events): boolean => places.length > 0

/**
 * Makes a seal without rows, if one is to say something that no batch came for. The cursor keeps it like any other: the
 * next start asks for it, and the log names its head.
 */
export const sealAsked = (
  { instruments, settings: { queue } }: Delivery,
  { sealer, sealing }: Proof
): Effect.Effect<void, PassError> =>
  Effect.suspend(() => {
    let made: Seal | undefined
    // not if a seal has said it whose answer never came
    const send = Effect.when(
      Effect.suspend(() =>
        sealing.upload(
          sealing.prepare([]),
          () => undefined,
          () => (made = sealer.seal({}, instruments.clock.unsafeCurrentTimeMillis()))
        )
      ),
      () => sealer.isAsked
    )
    const sent = Effect.zipRight(sealer.resume, send).pipe(
      Effect.matchCauseEffect({
        onSuccess: () =>
          Effect.sync(() => {
            if (made !== undefined) sealer.committed(made)
          }),
        onFailure: (cause) => {
          sealer.doubt()
          return Effect.fail(failureOf(cause))
        }
      }),
      Effect.onInterrupt(() => Effect.sync(() => sealer.doubt()))
    )
    return Effect.zipRight(sealer.isAsked ? sent : Effect.void, keepHead(queue, sealer))
  })

/** Has the cursor keep the last seal, if it has an older one: also one that a failing disk kept out of it. */
const keepHead = (queue: QueueFile["Type"], sealer: Sealer) =>
  Effect.gen(function* () {
    const head = sealer.headAt(yield* queue.position)
    if (head === undefined || head.head === (yield* queue.seal)?.head) return
    const { start } = yield* queue.take({ maxRecords: 1, maxBytes: 1 })
    yield* queue.commit({ records: [], start, end: start }, [], head)
  })
