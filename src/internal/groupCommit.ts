/**
 * Group commit: all who append while one write is under way share the next one. They wait on their own completion
 * and not on the semaphore that guards the file, since otherwise each would be written, and fsynced, alone.
 */
import { Clock, Effect, Exit, type Scope } from "effect"
import * as watchdog from "./watchdog.js"

/** One caller's entry. */
export interface Entry<P, A, E> {
  readonly payload: P
  readonly done: (result: Effect.Effect<A, E>) => void
}

/**
 * A class, and groups are emptied when they are answered, because of V8: object and array literals that outlive a few
 * scavenges are from then on allocated in the old generation (allocation-site pretenuring). Entries live for as long
 * as a write takes; as literals they would hold all that belongs to an append, its line included, until the next full
 * collection. Appends by many callers took more than twice the time then (bench/README.md).
 */
class Pending<P, A, E> implements Entry<P, A, E> {
  constructor(
    readonly payload: P,
    readonly done: (result: Effect.Effect<A, E>) => void
  ) {}
}

export interface GroupCommit<P, A, E> {
  /** Waits until the entry is written. A caller that is interrupted leaves it to be written whole. */
  readonly add: (payload: P) => Effect.Effect<A, E>
  /** Waits until all entries that were added before are answered. */
  readonly awaitAnswers: Effect.Effect<void>
  /** From now on entries are refused; waits for those before. */
  readonly close: Effect.Effect<void>
}

/**
 * Writes entries in groups, in order, until the scope closes.
 *
 * `write` answers every entry of its group by `done`. If it takes longer than `timeoutMillis`, `expired` answers them
 * instead, and the next group no longer waits for it: it goes on in the background.
 */
export const make = <P, A, E>(options: {
  readonly write: (group: ReadonlyArray<Entry<P, A, E>>, now: number) => Effect.Effect<void>
  /** held by each group until it is answered */
  readonly guard: Effect.Semaphore
  readonly expired: (group: ReadonlyArray<Entry<P, A, E>>) => Effect.Effect<void>
  /** answers an entry that comes after `close`, or is still waiting when the scope closes */
  readonly refusal: (payload: P) => E
  readonly timeoutMillis: number
  readonly sizeOf: (payload: P) => number
  /** a group ends when it reaches this size */
  readonly maxGroupSize: number
}): Effect.Effect<GroupCommit<P, A, E>, never, Scope.Scope> =>
  Effect.gen(function* () {
    interface UnderWay extends watchdog.UnderWay {
      readonly group: ReadonlyArray<Entry<P, A, E>>
    }
    let waiting: Array<Entry<P, A, E>> = []
    let current: UnderWay | undefined
    let closed = false
    let added = 0
    let answered = 0
    let awaiting: Array<{ readonly target: number; readonly resume: () => void }> = []
    let wakeWriter: (() => void) | undefined

    const takeGroup = (): Array<Entry<P, A, E>> => {
      let size = 0
      let count = 0
      while (count < waiting.length && (count === 0 || size < options.maxGroupSize)) {
        size += options.sizeOf(waiting[count++]!.payload)
      }
      const group = count === waiting.length ? waiting : waiting.slice(0, count)
      waiting = count === waiting.length ? [] : waiting.slice(count)
      return group
    }

    const nextCaller = Effect.async<void>((resume) => {
      if (waiting.length > 0 || closed) return resume(Effect.void)
      wakeWriter = () => {
        wakeWriter = undefined
        resume(Effect.void)
      }
    })

    /** Writes the next group; whether its writer goes on. */
    const writeNext = nextCaller.pipe(
      Effect.zipRight(options.guard.take(1)),
      Effect.zipRight(Clock.currentTimeMillis),
      Effect.flatMap((startedAt) => {
        // taken only now, so that all who are ready join it
        const group = takeGroup()
        if (group.length === 0) return Effect.as(options.guard.release(1), !closed)
        const mine = { group, startedAt }
        current = mine
        watch()
        return Effect.flatMap(Effect.exit(options.write(group, startedAt)), (exit) => {
          // given up meanwhile: another writer has the guard
          if (current !== mine) return Effect.succeed(false)
          if (Exit.isFailure(exit)) return Effect.as(giveUp(mine), true)
          const finished = finish(group.length)
          // see Pending
          group.length = 0
          return Effect.as(finished, true)
        })
      })
    )

    const finish = (count: number) =>
      Effect.suspend(() => {
        current = undefined
        answered += count
        if (awaiting.length > 0) {
          for (const { resume, target } of awaiting) if (target <= answered) resume()
          awaiting = awaiting.filter(({ target }) => target > answered)
        }
        return options.guard.release(1)
      })

    const giveUp = (underWay: UnderWay) =>
      Effect.suspend(() => {
        current = undefined
        return Effect.zipRight(options.expired(underWay.group), finish(underWay.group.length))
      })

    // no fiber for each group: the set in which the runtime keeps its fibers would hold all of them for too long
    const writer = Effect.suspend(() => {
      let goesOn = true
      return Effect.whileLoop({
        while: () => goesOn,
        body: () => writeNext,
        step: (more) => {
          goesOn = more
        }
      })
    })

    const watch = yield* watchdog.make({
      current: () => current,
      timeoutMillis: options.timeoutMillis,
      expire: (underWay) => Effect.zipRight(giveUp(underWay), Effect.forkDaemon(writer))
    })

    const awaitAnswers = Effect.async<void>((resume) => {
      if (answered === added) resume(Effect.void)
      else awaiting.push({ target: added, resume: () => resume(Effect.void) })
    })

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        for (const entry of waiting) entry.done(Effect.fail(options.refusal(entry.payload)))
        waiting = []
        wakeWriter?.()
        // the disk never answered, and nobody is left to wait for it
        return current === undefined ? Effect.void : giveUp(current)
      })
    )
    // it ends when the scope is closed and its write, which nothing may interrupt, has ended
    yield* Effect.forkDaemon(writer)

    return {
      add: (payload) =>
        Effect.async<A, E>((resume) => {
          if (closed) return resume(Effect.fail(options.refusal(payload)))
          added++
          waiting.push(new Pending(payload, resume))
          wakeWriter?.()
        }),
      awaitAnswers,
      close: Effect.suspend(() => {
        closed = true
        return awaitAnswers
      })
    }
  })
