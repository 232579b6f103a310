/**
 * What all measurements share: subjects, interleaved rounds, medians, and rows of the results.
 *
 * @module
 */
import { Effect } from "effect"

export interface Settings {
  readonly quick: boolean
  /** a new directory on the disk that is measured */
  readonly directory: string
  /** MariaDB; undefined if it is not installed */
  readonly database: Server | undefined
  /** Oracle's MySQL; undefined if there is none */
  readonly oracle: Server | undefined
  /** a python3 that can run the reference */
  readonly python: string | undefined
}

export interface Server {
  readonly host: string
  readonly port: number
  readonly socket: string
}

/** A row of results.json. */
export interface Row {
  readonly work: string
  readonly subject: string
  readonly callers: number | null
  readonly eventsPerSecond: number | null
  readonly p99Micros: number | null
  /** to the limit of the work; on a row with a goal, to what the goal names */
  readonly ratio: number | null
  readonly goal: string | null
  readonly met: boolean | null
  /** the lowest and the highest round, in the unit of the row's figure */
  readonly spread: readonly [number, number] | null
  /** the figure, if it is not a rate */
  readonly measured: string | null
}

/** A row; everything but the work and the subject may be left out. */
export const row = (row: Partial<Row> & Pick<Row, "work" | "subject">): Row => ({
  callers: null,
  eventsPerSecond: null,
  p99Micros: null,
  ratio: null,
  goal: null,
  met: null,
  spread: null,
  measured: null,
  ...row
})

/** What one round of one subject gives. */
export interface Sample {
  readonly eventsPerSecond: number
  readonly p99Micros?: number | undefined
  /** our processor's time for an event, in microseconds */
  readonly cpuMicros?: number | undefined
}

/** A contestant that does the work. */
export interface Subject<A = Sample> {
  readonly name: string
  readonly run: (round: number) => Promise<A>
}

/**
 * Lets the subjects do the work in turn, so that what happens to the machine happens to all of them. Each round starts
 * with another subject and goes on in other steps, so that none always follows the same one. After a peer that ran in a
 * separate process, while this one was idle, a subject is a tenth slower. The first round warms up and is not counted.
 * Subjects that start in a separate process have none: no code of theirs could be warm.
 */
export const interleaved = async <A>(
  subjects: ReadonlyArray<Subject<A>>,
  rounds: number,
  { warmUp } = { warmUp: true }
): Promise<ReadonlyMap<string, ReadonlyArray<A>>> => {
  const samples = new Map<string, Array<A>>(subjects.map(({ name }) => [name, []]))
  const count = subjects.length
  const steps = Array.from({ length: count }, (_, step) => step).filter((step) => gcd(step, count) === 1)
  for (let round = warmUp ? 0 : 1; round <= rounds; round++) {
    const step = steps[round % steps.length] ?? 1
    for (let i = 0; i < count; i++) {
      const { name, run } = subjects[(round + i * step) % count]!
      const sample = await run(round)
      if (round > 0) samples.get(name)!.push(sample)
    }
  }
  return samples
}

/** For subjects that each start in a separate process. */
export const COLD = { warmUp: false }

/** Only steps without a divisor in common with the number of subjects reach all of them. */
const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))

export const now = (): number => performance.now()

export const percentile = (values: ArrayLike<number>, fraction: number): number => {
  const sorted = Float64Array.from(values).sort()
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >>> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export const spread = (values: ReadonlyArray<number>): readonly [number, number] => [
  Math.min(...values),
  Math.max(...values)
]

/** The median over the rounds of the ratio within each round: what happened to one round happened to both. */
export const pairedRatio = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number =>
  median(a.map((value, round) => value / b[round]!))

/** Rows for the samples, with the ratio to the subject that is the limit. */
export const rowsOf = (
  work: string,
  callers: number | null,
  samples: ReadonlyMap<string, ReadonlyArray<Sample>>,
  limit: string
): ReadonlyArray<Row> => {
  const rates = (name: string) => samples.get(name)!.map(({ eventsPerSecond }) => eventsPerSecond)
  return [...samples].map(([subject, taken]) => {
    const p99 = taken.map(({ p99Micros }) => p99Micros).filter((value) => value !== undefined)
    return row({
      work,
      subject,
      callers,
      eventsPerSecond: Math.round(median(rates(subject))),
      p99Micros: p99.length === 0 ? null : Math.round(median(p99)),
      ratio: round(pairedRatio(rates(subject), rates(limit))),
      spread: spread(rates(subject).map(Math.round))
    })
  })
}

export const round = (value: number, digits = 2): number => Number(value.toFixed(digits))

// --------------------------------------------------------------------------------------------------- callers

/** Callers that append without pause until the time is up. Each event costs every subject one look at the clock. */
export class Load {
  private readonly latencies = new Float32Array(MAX_SAMPLES)
  private count = 0
  private readonly startedAt = now()
  private readonly endsAt: number

  constructor(
    readonly callers: number,
    millis: number
  ) {
    this.endsAt = this.startedAt + millis
  }

  /** One caller's clock: returns whether it goes on. */
  caller(): () => boolean {
    let startedAt = now()
    return () => {
      const at = now()
      if (this.count < MAX_SAMPLES) this.latencies[this.count] = at - startedAt
      this.count++
      startedAt = at
      return at < this.endsAt
    }
  }

  /** Call it when the last caller has returned. */
  sample(): Sample {
    const latencies = this.latencies.subarray(0, Math.min(this.count, MAX_SAMPLES))
    return {
      eventsPerSecond: (this.count / (now() - this.startedAt)) * 1000,
      p99Micros: percentile(latencies, 0.99) * 1000
    }
  }
}

const MAX_SAMPLES = 2_000_000

/** Callers of a function that calls back. */
export const withCallbacks = (load: Load, append: (done: () => void) => void): Promise<Sample> =>
  new Promise((resolve) => {
    let open = load.callers
    for (let i = 0; i < load.callers; i++) {
      const goesOn = load.caller()
      const again = () => {
        if (goesOn()) append(again)
        else if (--open === 0) resolve(load.sample())
      }
      append(again)
    }
  })

/** Callers of a function that returns a promise. */
export const withPromises = async (load: Load, append: () => Promise<unknown>): Promise<Sample> => {
  const call = async () => {
    const goesOn = load.caller()
    do await append()
    while (goesOn())
  }
  await Promise.all(Array.from({ length: load.callers }, call))
  return load.sample()
}

/** Callers of an Effect, each a fiber. */
export const inFibers = <R>(
  load: Load,
  append: () => Effect.Effect<void, never, R>
): Effect.Effect<Sample, never, R> => {
  const caller = Effect.suspend(() => {
    const clock = load.caller()
    let goesOn = true
    return Effect.whileLoop({
      while: () => goesOn,
      body: append,
      step: () => {
        goesOn = clock()
      }
    })
  })
  return Effect.map(
    Effect.replicateEffect(caller, load.callers, { concurrency: "unbounded", discard: true }),
    () => load.sample()
  )
}

/** Callers of a function that calls back, each a fiber. */
export const withFibers: typeof withCallbacks = (load, append) =>
  Effect.runPromise(inFibers(load, () => Effect.async<void>((resume) => append(() => resume(Effect.void)))))

/** All callers at once, by a function that blocks. */
export const withBlocking = (load: Load, appendAll: () => void): Sample => {
  const clocks = Array.from({ length: load.callers }, () => load.caller())
  let open = true
  while (open) {
    appendAll()
    for (const goesOn of clocks) open = goesOn()
  }
  return load.sample()
}
