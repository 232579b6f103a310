import { expect, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Concatenation, LazySequence } from "../../src/internal/lazySequence.js"
import type { Sequence } from "../../src/services/QueueFile.js"

const lazy = <A>(items: ReadonlyArray<A>) => new LazySequence(items.length, (index) => items[index]!)

const same = <A>(sequence: Sequence<A>, items: ReadonlyArray<A>) => {
  expect(sequence.length).toBe(items.length)
  // iteration can be repeated
  for (let time = 0; time < 2; time++) expect([...sequence]).toEqual(items)
  for (let index = -items.length - 2; index <= items.length + 1; index++) {
    expect(sequence.at(index)).toBe(items.at(index))
  }
}

it("a lazy sequence, and a concatenation, equals an array", () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.integer(), { maxLength: 5 }), { maxLength: 5 }), (parts) => {
      for (const part of parts) same(lazy(part), part)
      same(new Concatenation(parts.map(lazy)), parts.flat())
    })
  )
})
