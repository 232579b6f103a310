/** Events go on being delivered while a group of MySQL loses its primary. */
import { afterAll, beforeAll, it } from "@effect/vitest"
import { Effect } from "effect"
import { survives } from "./failover.js"
import { type Group, startGroup } from "./group.js"

let group: Group | undefined
beforeAll(async () => {
  group = await startGroup()
})
afterAll(() => group?.stop())

it.scopedLive("a group of MySQL: all events arrive, each once, and an append waits for no server", () =>
  Effect.gen(function* () {
    yield* survives(group!.members, yield* Effect.promise(group!.primary))
  })
)
