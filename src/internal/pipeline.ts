/**
 * One thing after the other through three stages that work at the same time.
 *
 * By fibers that live as long as the whole, and plain variables. What passes through `Stream.buffer`, through a
 * `Queue`, or through a fiber of its own stays within reach of objects that V8 has moved to its old generation, and
 * is moved there, too: a batch without its database took half as much time again (bench/README.md).
 */
import { Effect, Exit, Fiber } from "effect"

interface Waiter {
  readonly condition: () => boolean
  readonly wake: () => void
}

/**
 * Makes things until there are none, works on them, and finishes them in the order in which they were made; how many
 * there were. While one is worked on, the next one is made and the one before is finished. What was made before a
 * failure is worked on and finished first.
 */
export const run = <A, B, E>(stages: {
  readonly make: Effect.Effect<A | undefined, E>
  readonly work: (thing: A) => Effect.Effect<B, E>
  readonly finish: (result: B) => Effect.Effect<void, E>
  /** how many are worked on at once */
  readonly concurrency: number
}): Effect.Effect<number, E> =>
  Effect.suspend(() => {
    let waiting: Array<Waiter> = []
    /** Wakes only those for whom it is time: to wake one in vain costs more than to look. */
    const change = () => {
      const waiters = waiting
      waiting = []
      for (const waiter of waiters) {
        if (waiter.condition()) waiter.wake()
        else waiting.push(waiter)
      }
    }
    /** Waits until the condition has held. Where several wait for it another may be faster: look again. */
    const until = (condition: () => boolean): Effect.Effect<void> =>
      Effect.async((resume) => {
        // in one step with the look: a fiber may yield to others between any two
        if (condition()) resume(Effect.void)
        else waiting.push({ condition, wake: () => resume(Effect.void) })
      })

    let started = 0
    let finished = 0
    /** no more will be made */
    let ended = false
    /** no more will be started: those before it are finished, then it is the failure of all */
    let failed = false
    /** the one that was made and not started yet */
    let next: Exit.Exit<A, E> | undefined
    /** by number, modulo as many as there can be: those worked on, and one more that is finished or waits for it */
    const results = Array<Exit.Exit<B, E> | undefined>(stages.concurrency + 1).fill(undefined)
    const slot = (number: number) => number % results.length

    const maker = Effect.gen(function* () {
      while (!ended) {
        yield* until(() => next === undefined)
        const exit = yield* Effect.exit(stages.make)
        if (Exit.isFailure(exit)) next = Exit.failCause(exit.cause)
        else if (exit.value !== undefined) next = Exit.succeed(exit.value)
        ended = next === undefined || Exit.isFailure(next)
        change()
      }
    })

    const canGoOn = () => failed || (next === undefined ? ended : started - finished < results.length)
    const worker = Effect.gen(function* () {
      for (;;) {
        yield* until(canGoOn)
        // another worker may have been faster
        if (!canGoOn()) continue
        if (failed || next === undefined) return
        const thing = next
        const number = started++
        next = undefined
        change()
        const result = Exit.isSuccess(thing)
          ? yield* Effect.exit(stages.work(thing.value))
          : Exit.failCause(thing.cause)
        failed ||= Exit.isFailure(result)
        results[slot(number)] = result
        change()
      }
    })

    const isComplete = () => ended && next === undefined && started === finished
    const finisher = Effect.gen(function* () {
      for (;;) {
        yield* until(() => results[slot(finished)] !== undefined || isComplete())
        const result = results[slot(finished)]
        if (result === undefined) return
        yield* stages.finish(yield* result)
        results[slot(finished)] = undefined
        finished++
        change()
      }
    })

    const others = [maker, ...Array<typeof worker>(stages.concurrency).fill(worker)]
    return Effect.fork(Effect.all(others, { concurrency: "unbounded", discard: true })).pipe(
      // all failures arrive at the finisher, in their turn
      Effect.flatMap((fiber) => Effect.ensuring(finisher, Fiber.interrupt(fiber))),
      Effect.map(() => finished)
    )
  })
