/** Delivery while a Galera cluster loses the node in use. */
import { afterAll, beforeAll, it } from "@effect/vitest"
import { newKey } from "../support/seals.js"
import { survives } from "./failover.js"
import { startCluster } from "./galera.js"
import { type Node, stopAll } from "./node.js"

let nodes: ReadonlyArray<Node> = []
beforeAll(async () => {
  nodes = await startCluster()
})
afterAll(() => stopAll(nodes))

it.scopedLive("a Galera cluster gets all events once, and no append waits for a server", () =>
  survives(nodes, nodes[0]!)
)

it.scopedLive("prove finds nothing on any node of a Galera cluster after a failover", () =>
  survives(nodes, nodes[0]!, newKey())
)
