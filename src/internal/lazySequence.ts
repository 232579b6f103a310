/** Lazy sequences: make each item on demand. */
import type { Sequence } from "../services/QueueFile.js"

/**
 * Hot path: one object lives as long as an upload, and its items are garbage at once
 * (bench/README.md#waiting-for-the-cursor).
 */
export class LazySequence<A> implements Sequence<A> {
  constructor(
    readonly length: number,
    private readonly make: (index: number) => A
  ) {}

  at(index: number): A | undefined {
    const place = index < 0 ? index + this.length : index
    return place >= 0 && place < this.length ? this.make(place) : undefined
  }

  *[Symbol.iterator](): Iterator<A> {
    for (let index = 0; index < this.length; index++) yield this.make(index)
  }
}

/** One sequence after the other. */
export class Concatenation<A> implements Sequence<A> {
  readonly length: number

  constructor(private readonly sequences: ReadonlyArray<Sequence<A>>) {
    this.length = sequences.reduce((total, { length }) => total + length, 0)
  }

  at(index: number): A | undefined {
    let place = index < 0 ? index + this.length : index
    if (place < 0) return undefined
    for (const sequence of this.sequences) {
      if (place < sequence.length) return sequence.at(place)
      place -= sequence.length
    }
    return undefined
  }

  *[Symbol.iterator](): Iterator<A> {
    for (const sequence of this.sequences) yield* sequence
  }
}
