/** Events go on being delivered while a Galera cluster loses the node in use. */
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

it.scopedLive("a Galera cluster: all events arrive, each once, and an append waits for no server", () =>
  survives(nodes, nodes[0]!)
)

it.scopedLive("the same with a proof: prove finds nothing, on each node", () =>
  survives(nodes, nodes[0]!, newKey())
)
