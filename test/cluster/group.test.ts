/** Delivery while a group of MySQL loses its primary. */
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

it.scopedLive("a group of MySQL gets all events once, and no append waits for a server", () => survivesHere())

it.scopedLive("prove finds nothing on any member of a group after a failover", () => survivesHere(newKey()))
