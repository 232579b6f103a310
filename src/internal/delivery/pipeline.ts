/**
 * The pipeline: passes things through three stages, make, work and finish, that run at the same time.
 *
 * Hot path: long-lived fibers and plain variables (bench/README.md#streams). Their generators stand outside of `run`,
 * so that each pass finds them compiled (bench/README.md#compiled-code).
 */
import { Effect, Exit, Fiber } from "effect"

interface Stages<A, B, E> {
  readonly make: Effect.Effect<A | undefined, E>
  /** `takeNext` takes the thing that follows, if it was made and the condition holds: then the work is that of both. */
  readonly work: (thing: A, takeNext: TakeNext<A>) => Effect.Effect<B, E>
  readonly finish: (result: B) => Effect.Effect<void, E>
  readonly concurrency: number
  /** receives a function that ends the pipeline at once with an error, even if the work never ends */
  readonly onStart?: (giveUp: (error: E) => void) => void
}

/** With more than one worker, others may take what stands between. */
export type TakeNext<A> = (condition: (thing: A) => boolean) => A | undefined

interface Waiter {
  readonly condition: () => boolean
  readonly wake: () => void
}

/** The state that the three stages share. */
class Pipeline<A, B, E> {
  started = 0
  finished = 0
  ended = false
  /** nothing more will be started: the earlier things are finished, then the pipeline fails */
  failed = false
  /** the thing that was made, but not started yet */
  next: Exit.Exit<A, E> | undefined
  /** the error for which nobody waits for the work any longer */
  givenUp: Exit.Exit<never, E> | undefined
  /** whether the fiber of makers and workers has ended */
  over = false
  /** by number, modulo its length: one for each worker, and one that is being finished or waits for that */
  private readonly results: Array<Exit.Exit<B, E> | undefined>
  private waiting: Array<Waiter> = []

  constructor(readonly stages: Stages<A, B, E>) {
    this.results = Array<Exit.Exit<B, E> | undefined>(stages.concurrency + 1).fill(undefined)
  }

  /** Wakes only the waiters whose condition holds: a check is cheaper than a wake-up. */
  change(): void {
    const waiters = this.waiting
    this.waiting = []
    for (const waiter of waiters) {
      if (waiter.condition()) waiter.wake()
      else this.waiting.push(waiter)
    }
  }

  /** Waits until the condition has held. If several wait for it, then another may be faster: check it again. */
  until(condition: () => boolean): Effect.Effect<void> {
    return Effect.async((resume) => {
      // check and wait in one step: a fiber may yield between two steps
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

  /** the result of the thing to finish next; undefined until its work is done */
  get nextResult(): Exit.Exit<B, E> | undefined {
    return this.results[this.finished % this.results.length]
  }

  readonly takeNext: TakeNext<A> = (condition) => {
    const { next } = this
    if (next === undefined || Exit.isFailure(next) || !condition(next.value)) return undefined
    this.next = undefined
    this.change()
    return next.value
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
      ? yield* Effect.exit(pipeline.stages.work(thing.value, pipeline.takeNext))
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

/** Interrupts the makers and workers, and waits for their end, unless the pipeline was given up. */
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
 * Makes things until there are none, works on them, and finishes them in the order of making; returns how many works
 * there were. If a stage fails, then the things that were made before are still worked on and finished.
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
      // all failures reach the finisher, in the order of the things
      Effect.flatMap((fiber) => Effect.ensuring(finishAll(pipeline), stop(pipeline, fiber))),
      Effect.map(() => pipeline.finished)
    )
  })
