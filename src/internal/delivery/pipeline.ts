/**
 * One thing after the other through three stages that work at the same time.
 *
 * Hot path: fibers that live as long as the whole, and plain variables. By way of `Stream.buffer` or a `Queue` a batch
 * took half as much time again (bench/README.md#streams).
 *
 * What the fibers run stands outside of `run`, so that each pass finds its code compiled
 * (bench/README.md#compiled-code).
 */
import { Effect, Exit, Fiber } from "effect"

interface Stages<A, B, E> {
  readonly make: Effect.Effect<A | undefined, E>
  readonly work: (thing: A) => Effect.Effect<B, E>
  readonly finish: (result: B) => Effect.Effect<void, E>
  /** how many are worked on at once */
  readonly concurrency: number
  /** is handed what ends the whole at once, with an error, even if the work never does */
  readonly onStart?: (giveUp: (error: E) => void) => void
}

interface Waiter {
  readonly condition: () => boolean
  readonly wake: () => void
}

/** What the three stages know of each other. */
class Pipeline<A, B, E> {
  started = 0
  finished = 0
  /** no more will be made */
  ended = false
  /** no more will be started: those before it are finished, then it is the failure of all */
  failed = false
  /** the one that was made and not started yet */
  next: Exit.Exit<A, E> | undefined
  /** nobody waits any longer for what is worked on */
  givenUp: Exit.Exit<never, E> | undefined
  /** the fiber that makes and works has ended */
  over = false
  /** by number, modulo as many as there can be: those worked on, and one more that is finished or waits for it */
  private readonly results: Array<Exit.Exit<B, E> | undefined>
  private waiting: Array<Waiter> = []

  constructor(readonly stages: Stages<A, B, E>) {
    this.results = Array<Exit.Exit<B, E> | undefined>(stages.concurrency + 1).fill(undefined)
  }

  /** Wakes only those whose condition holds: a look is cheaper than a wake-up. */
  change(): void {
    const waiters = this.waiting
    this.waiting = []
    for (const waiter of waiters) {
      if (waiter.condition()) waiter.wake()
      else this.waiting.push(waiter)
    }
  }

  /** Waits until the condition has held. Where several wait for it another may be faster: look again. */
  until(condition: () => boolean): Effect.Effect<void> {
    return Effect.async((resume) => {
      // in one step with the look: a fiber may yield to others between any two
      if (condition()) resume(Effect.void)
      else this.waiting.push({ condition, wake: () => resume(Effect.void) })
    })
  }

  /** Whether a worker can start the next thing, or stop. */
  get canGoOn(): boolean {
    if (this.failed) return true
    return this.next === undefined ? this.ended : this.started - this.finished < this.results.length
  }

  get isComplete(): boolean {
    return this.ended && this.next === undefined && this.started === this.finished
  }

  /** of the thing that is finished next, once it was worked on */
  get nextResult(): Exit.Exit<B, E> | undefined {
    return this.results[this.finished % this.results.length]
  }

  setResult(number: number, result: Exit.Exit<B, E> | undefined): void {
    this.results[number % this.results.length] = result
  }
}

const makeAll = Effect.fnUntraced(function* <A, B, E>(pipeline: Pipeline<A, B, E>) {
  while (!pipeline.ended) {
    yield* pipeline.until(() => pipeline.next === undefined)
    const exit = yield* Effect.exit(pipeline.stages.make)
    if (Exit.isFailure(exit)) pipeline.next = Exit.failCause(exit.cause)
    else if (exit.value !== undefined) pipeline.next = Exit.succeed(exit.value)
    pipeline.ended = pipeline.next === undefined || Exit.isFailure(pipeline.next)
    pipeline.change()
  }
})

/** One of the workers. */
const workOn = Effect.fnUntraced(function* <A, B, E>(pipeline: Pipeline<A, B, E>) {
  for (;;) {
    yield* pipeline.until(() => pipeline.canGoOn)
    // another worker may have been faster
    if (!pipeline.canGoOn) continue
    const thing = pipeline.next
    if (pipeline.failed || thing === undefined) return
    const number = pipeline.started++
    pipeline.next = undefined
    pipeline.change()
    const result = Exit.isSuccess(thing)
      ? yield* Effect.exit(pipeline.stages.work(thing.value))
      : Exit.failCause(thing.cause)
    pipeline.failed ||= Exit.isFailure(result)
    pipeline.setResult(number, result)
    pipeline.change()
  }
})

const finishAll = Effect.fnUntraced(function* <A, B, E>(pipeline: Pipeline<A, B, E>) {
  for (;;) {
    yield* pipeline.until(
      () => pipeline.nextResult !== undefined || pipeline.isComplete || pipeline.givenUp !== undefined
    )
    const result = pipeline.nextResult
    if (result === undefined) return yield* pipeline.givenUp ?? Exit.void
    yield* pipeline.stages.finish(yield* result)
    pipeline.setResult(pipeline.finished++, undefined)
    pipeline.change()
  }
})

/** Stops those that make and work; waits until they have, unless the whole is given up. */
const stop = <A, B, E>(pipeline: Pipeline<A, B, E>, fiber: Fiber.RuntimeFiber<void>) =>
  Effect.fiberIdWith((id) => {
    fiber.addObserver(() => {
      pipeline.over = true
      pipeline.change()
    })
    return Effect.zipRight(
      Fiber.interruptAsFork(fiber, id),
      pipeline.until(() => pipeline.over || pipeline.givenUp !== undefined)
    )
  })

/**
 * Makes things until there are none, works on them, and finishes them in the order in which they were made; how many
 * there were. While one is worked on, the next one is made and the one before is finished. What was made before a
 * failure is worked on and finished first.
 */
export const run = <A, B, E>(stages: Stages<A, B, E>): Effect.Effect<number, E> =>
  Effect.suspend(() => {
    const pipeline = new Pipeline(stages)
    stages.onStart?.((error) => {
      pipeline.givenUp = Exit.fail(error)
      pipeline.change()
    })
    const workers = Array.from({ length: stages.concurrency }, () => workOn(pipeline))
    return Effect.fork(
      Effect.all([makeAll(pipeline), ...workers], { concurrency: "unbounded", discard: true })
    ).pipe(
      // all failures arrive at the finisher, in their turn
      Effect.flatMap((fiber) => Effect.ensuring(finishAll(pipeline), stop(pipeline, fiber))),
      Effect.map(() => pipeline.finished)
    )
  })
