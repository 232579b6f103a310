/**
 * Group commit: all who append while one write is under way share the next one. They wait on their own completion
 * and not on the semaphore that guards the file, since otherwise each would be written, and fsynced, alone.
 */
import { Clock, Effect, Exit, type Scope } from "effect"

/** One caller's entry. */
export interface Entry<P, A, E> {
  readonly payload: P
  readonly done: (result: Effect.Effect<A, E>) => void
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
  readonly write: (group: ReadonlyArray<Entry<P, A, E>>) => Effect.Effect<void>
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
    let waiting: Array<Entry<P, A, E>> = []
    let closed = false
    let wakeWriter: (() => void) | undefined
    let wakeWatchdog: (() => void) | undefined
    let added = 0
    let answered = 0
    let awaiting: Array<{ readonly target: number; readonly resume: () => void }> = []
    interface UnderWay {
      readonly group: ReadonlyArray<Entry<P, A, E>>
      readonly startedAt: number
      readonly expire: () => void
    }
    let current: UnderWay | undefined

    const takeGroup = (): ReadonlyArray<Entry<P, A, E>> => {
      let size = 0
      let count = 0
      while (count < waiting.length && (count === 0 || size < options.maxGroupSize)) {
        size += options.sizeOf(waiting[count++]!.payload)
      }
      const group = count === waiting.length ? waiting : waiting.slice(0, count)
      waiting = count === waiting.length ? [] : waiting.slice(count)
      return group
    }

    // resumed by the first who waits; the group is taken when the fiber runs, so that all who are ready now join it
    const nextGroup = Effect.async<void>((resume) => {
      if (waiting.length > 0) return resume(Effect.void)
      wakeWriter = () => {
        wakeWriter = undefined
        resume(Effect.void)
      }
    }).pipe(Effect.map(takeGroup))

    const writeGroup = (group: ReadonlyArray<Entry<P, A, E>>) =>
      Effect.gen(function* () {
        const startedAt = yield* Clock.currentTimeMillis
        const write = yield* Effect.forkDaemon(options.write(group))
        const finished = yield* Effect.async<boolean>((resume) => {
          current = { group, startedAt, expire: () => resume(Effect.succeed(false)) }
          wakeWatchdog?.()
          write.addObserver((exit) => resume(Effect.succeed(Exit.isSuccess(exit))))
        })
        current = undefined
        if (!finished) yield* options.expired(group)
      })

    const answeredGroup = (group: ReadonlyArray<Entry<P, A, E>>) => {
      answered += group.length
      if (awaiting.length === 0) return
      for (const { resume, target } of awaiting) if (target <= answered) resume()
      awaiting = awaiting.filter(({ target }) => target > answered)
    }
    const awaitAnswers = Effect.async<void>((resume) => {
      if (answered === added) resume(Effect.void)
      else awaiting.push({ target: added, resume: () => resume(Effect.void) })
    })

    const writer = nextGroup.pipe(
      Effect.flatMap((group) =>
        Effect.map(options.guard.withPermits(1)(writeGroup(group)), () => answeredGroup(group))
      ),
      Effect.forever
    )

    // one timer for as long as something is under way, instead of one for each group
    const watchdog = Effect.gen(function* () {
      const watched = current
      if (watched === undefined) {
        return yield* Effect.async<void>((resume) => {
          wakeWatchdog = () => {
            wakeWatchdog = undefined
            resume(Effect.void)
          }
        })
      }
      yield* Effect.sleep(watched.startedAt + options.timeoutMillis - (yield* Clock.currentTimeMillis))
      if (current === watched) watched.expire()
    }).pipe(Effect.forever)

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        for (const entry of waiting) entry.done(Effect.fail(options.refusal(entry.payload)))
        waiting = []
        // the disk never answered, and nobody is left to wait for it
        return current === undefined ? Effect.void : options.expired(current.group)
      })
    )
    yield* Effect.forkScoped(writer)
    yield* Effect.forkScoped(watchdog)

    return {
      add: (payload) =>
        Effect.async<A, E>((resume) => {
          if (closed) return resume(Effect.fail(options.refusal(payload)))
          added++
          waiting.push({ payload, done: resume })
          wakeWriter?.()
        }),
      awaitAnswers,
      close: Effect.suspend(() => {
        closed = true
        return awaitAnswers
      })
    }
  })
