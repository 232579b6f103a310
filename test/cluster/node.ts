/**
 * A node: one server of any cluster, and the faults that a test inflicts on it.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Connection, ConnectionOptions, RowDataPacket } from "mysql2/promise"
import { createConnection } from "mysql2/promise"
import type { MysqlServer } from "../support/mysqlServer.js"

/** One server of the cluster. */
export interface Node {
  readonly name: string
  readonly server: MysqlServer
  /** Runs statements on this node as root, over a separate connection; returns the rows of the last one. */
  readonly query: <Row>(...statements: ReadonlyArray<string>) => Promise<Array<Row>>
  /** Waits until it is in a cluster of `size` nodes; brings it back if it does not return by itself. */
  readonly synced: (size: number) => Promise<void>
  /** Cuts it off from the others, not from clients; undefined if we may not. */
  readonly isolate: (() => Promise<void>) | undefined
  readonly rejoin: () => Promise<void>
}

/** A fault of a node, with its repair. */
export interface Fault {
  readonly name: string
  readonly inflict: (node: Node) => Promise<void>
  readonly mend: (node: Node) => Promise<void>
}

/** The faults that every cluster suffers. */
export const FAULTS: ReadonlyArray<Fault> = [
  {
    name: "killed (SIGKILL)",
    inflict: ({ server }) => server.kill9(),
    mend: ({ server }) => server.restart()
  },
  {
    name: "shut down and started again",
    inflict: ({ server }) => server.restart(),
    mend: async () => undefined
  },
  {
    name: "hangs (SIGSTOP)",
    inflict: async ({ server }) => server.sigstop(),
    mend: async ({ server }) => server.sigcont()
  },
  {
    name: "cut off from the others",
    inflict: async ({ isolate, name }) => {
      if (isolate === undefined) console.log(`${name} is not cut off: that takes root on Linux`)
      else await isolate()
    },
    mend: ({ rejoin }) => rejoin()
  }
]

/** Runs statements as root, over a separate connection. */
export const queryOn =
  (options: ConnectionOptions): Node["query"] =>
  async <Row>(...statements: ReadonlyArray<string>): Promise<Array<Row>> => {
    const connection: Connection = await createConnection({ ...options, connectTimeout: 2000 })
    try {
      let last: Array<RowDataPacket> = []
      for (const sql of statements) [last] = await connection.query<Array<RowDataPacket>>(sql)
      return last as Array<Row>
    } finally {
      connection.destroy()
    }
  }

/** Asks until the condition holds; an error counts as not yet. */
export const until = async (what: string, holds: () => Promise<boolean>, seconds = 90): Promise<void> => {
  let failure: unknown
  for (const deadline = Date.now() + seconds * 1000; ;) {
    const held = await holds().catch((error: unknown) => {
      failure = error
      return false
    })
    if (held) return
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`, { cause: failure })
    await sleep(100)
  }
}

/** Kills all nodes. Nobody needs their data, and an orderly end would wait for a quorum. */
export const stopAll = async (nodes: ReadonlyArray<Node>): Promise<void> => {
  for (const { server } of nodes) await server.kill9()
  for (const { server } of nodes) await server.stop()
}
