/**
 * A failover: the audit log over a cluster whose node in use dies, leaves, hangs or is cut off, again and again.
 * Meanwhile at least 100,000 events are recorded at a steady rate.
 *
 * @module
 */
import { assert } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import type { KeyPair } from "../support/seals.js"
import { prepare, startLoad } from "./load.js"
import { FAULTS, type Node } from "./node.js"

const EVENTS = 100_000
const EVENTS_PER_SECOND = 1250

/** Harms each node in use, and judges; `first` takes writes at the beginning. With a key, `prove` runs too. */
export const survives = (nodes: ReadonlyArray<Node>, first: Node, key?: KeyPair) =>
  Effect.gen(function* () {
    const options = yield* Effect.promise(() => prepare(first, nodes, key))
    const load = yield* startLoad(options, EVENTS_PER_SECOND, key)
    const sessionsOn = (node: Node) =>
      Effect.promise(() =>
        node.query(`SELECT 1 FROM information_schema.processlist WHERE user = '${options.username}'`)
      )
    const inUse = Effect.gen(function* () {
      const [node, ...others] = yield* Effect.filter(nodes, (node) =>
        Effect.map(sessionsOn(node), (sessions) => sessions.length > 0)
      )
      return node !== undefined && others.length === 0 ? node : yield* Effect.fail("none, or several")
    }).pipe(Effect.retry({ schedule: Schedule.spaced("200 millis"), times: 100 }))

    yield* Effect.sleep("8 seconds")
    for (const { inflict, mend, name } of FAULTS) {
      const node = yield* inUse
      yield* load.enter(`${node.name} ${name}`)
      yield* Effect.promise(() => inflict(node))
      yield* Effect.sleep("8 seconds")
      yield* Effect.promise(() => mend(node))
      for (const each of nodes) yield* Effect.promise(() => each.synced(nodes.length))
      yield* Effect.sleep("2 seconds")
    }
    yield* load.enter("after")
    yield* Effect.sleep("5 seconds")
    yield* load.finish(EVENTS, nodes)
    for (const { gap, name } of load.phases) assert.isBelow(gap, 60_000, name)
  })
