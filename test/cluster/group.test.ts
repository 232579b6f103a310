/** Events go on being delivered while a group of MySQL loses its primary. */
import { afterAll, beforeAll, it } from "@effect/vitest"
import { Effect } from "effect"
import { type KeyPair, newKey } from "../support/seals.js"
import { survives } from "./failover.js"
import { type Group, startGroup } from "./group.js"

let group: Group | undefined
beforeAll(async () => {
  group = await startGroup()
})
afterAll(() => group?.stop())

const survivesHere = (key?: KeyPair) =>
  Effect.gen(function* () {
    yield* survives(group!.members, yield* Effect.promise(group!.primary), key)
  })

it.scopedLive("a group of MySQL: all events arrive, each once, and an append waits for no server", () =>
  survivesHere()
)

it.scopedLive("the same with a proof: prove finds nothing, on each member", () => survivesHere(newKey()))
