import { it } from "@effect/vitest"
import * as fc from "effect/FastCheck"
import { assert } from "vitest"
import { LetterSet } from "../../src/internal/queue/letterSet.js"

const id = fc.tuple(fc.nat(3), fc.nat(5)).map(([segment, offset]) => `${segment}:${offset}`)

it.prop("a set of letters equals a set of their ids", [fc.array(fc.tuple(fc.boolean(), id))], ([steps]) => {
  const [letters, ids] = [new LetterSet(), new Set<string>()]
  for (const [adds, each] of steps) {
    if (adds) {
      letters.add(each)
      ids.add(each)
    } else {
      letters.delete(each)
      ids.delete(each)
    }
    assert.strictEqual(letters.size, ids.size)
  }
  assert.sameMembers([...letters], [...ids])
  for (const [, each] of steps) assert.strictEqual(letters.has(each), ids.has(each))
})
