/** The register of dead letters: its columns equal a map of objects, at all positions. */
import { assert, it } from "@effect/vitest"
import { FastCheck } from "effect"
import { Register } from "../../src/internal/queue/register.js"
import { idOf } from "../../src/schema/Position.js"
import type { RefusalClass } from "../../src/services/QueueFile.js"

/** Near and distant numbers, and some that differ only above 32 bits. */
const number = FastCheck.oneof(
  FastCheck.nat(20),
  FastCheck.nat(20).map((n) => n * 2 ** 32),
  FastCheck.nat(20).map((n) => n * 700),
  FastCheck.maxSafeNat()
)
const place = FastCheck.record({ segment: number, offset: number })
const step = FastCheck.record({
  place,
  what: FastCheck.constantFrom("add", "retry", "discard", "forget"),
  class: FastCheck.constantFrom<RefusalClass>("rejected", "torn", "blank"),
  sequence: FastCheck.maxSafeNat()
})

it("equals a map, in the order of insertion", () =>
  FastCheck.assert(
    FastCheck.property(FastCheck.array(step, { maxLength: 400, size: "max" }), (steps) => {
      const register = new Register()
      const model = new Map<string, { sequence: number; class: RefusalClass; kept: boolean; fate?: string }>()
      for (const { class: cls, place, sequence, what } of steps) {
        const id = idOf(place)
        const known = model.get(id)
        if (what === "add" && known?.fate === undefined) {
          register.add(id, { sequence, surplus: undefined, class: cls })
          model.set(id, { sequence, class: cls, kept: true })
        } else if (known !== undefined && what === "forget") {
          register.forget(id)
          model.set(id, { sequence: known.sequence, class: known.class, kept: false })
        } else if (known?.kept === true && what !== "add") {
          register.end(id, what === "retry" ? "retried" : "discarded")
          model.set(id, { ...known, fate: what === "retry" ? "retried" : "discarded" })
        } else assert.strictEqual(register.get(id) === undefined, known === undefined)
      }
      assert.deepStrictEqual(
        [...register].map(({ id }) => id),
        [...model.keys()]
      )
      for (const [id, known] of model) {
        const it = register.get(id)!
        assert.deepStrictEqual(
          [it.id, it.head?.sequence, it.class, it.isKept, it.fate],
          [id, known.sequence, known.class, known.kept, known.fate]
        )
      }
      const all = [...model.values()]
      const count = (fits: (it: (typeof all)[number]) => boolean) => all.filter(fits).length
      assert.deepStrictEqual(register.counts(), {
        letters: count((it) => it.kept && it.class !== "torn"),
        torn: count((it) => it.kept && it.class === "torn"),
        retried: count(({ fate }) => fate === "retried"),
        discarded: count((it) => it.fate === "discarded") + count((it) => it.kept && it.class === "blank")
      })
      for (const { place } of steps) {
        const far = { segment: place.segment, offset: place.offset + 1 }
        if (!model.has(idOf(far))) assert.isUndefined(register.get(idOf(far)))
      }
    }),
    { numRuns: 100 }
  ))
