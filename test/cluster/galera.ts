/**
 * A MariaDB Galera cluster of three nodes on this machine's loopback.
 *
 * @module
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import type { MysqlServer } from "../support/mysqlServer.js"
import { findServer, startServer } from "../support/mysqlServer.js"
import { freePort } from "../support/net.js"
import { type Node, queryOn, stopAll, until } from "./node.js"

/** Starts three nodes, one after the other (10 to 20 seconds). */
export const startCluster = async (): Promise<ReadonlyArray<Node>> => {
  const provider = galera()
  const ports = await Promise.all(Array.from({ length: 9 }, freePort))
  const group = ports.slice(0, 3)
  const nodes: Array<Node> = []
  try {
    for (const [index, port] of group.entries()) {
      const [transfer, receive] = [ports[3 + index]!, ports[6 + index]!]
      const node = nodeOf(
        `n${index + 1}`,
        await startServer({
          flavour: "mariadb",
          args: [
            "--binlog-format=ROW",
            "--default-storage-engine=InnoDB",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            `--wsrep-provider=${provider}`,
            "--wsrep-cluster-name=audit",
            `--wsrep-cluster-address=gcomm://${group.map((port) => `127.0.0.1:${port}`).join(",")}`,
            `--wsrep-node-name=n${index + 1}`,
            `--wsrep-node-address=127.0.0.1:${port}`,
            "--wsrep-sst-method=rsync",
            `--wsrep-sst-receive-address=127.0.0.1:${receive}`,
            `--wsrep-provider-options=${[
              `gmcast.listen_addr=tcp://127.0.0.1:${port}`,
              `ist.recv_addr=127.0.0.1:${transfer}`,
              `ist.recv_bind=127.0.0.1:${transfer}`,
              "gcache.size=32M",
              "evs.suspect_timeout=PT3S",
              "evs.inactive_timeout=PT6S",
              "evs.install_timeout=PT6S",
              "pc.announce_timeout=PT3S"
            ].join(";")}`
          ],
          firstArgs: index === 0 ? ["--wsrep-new-cluster"] : []
        })
      )
      nodes.push(node)
      await node.synced(nodes.length)
    }
    return nodes
  } catch (error) {
    await stopAll(nodes)
    throw error
  }
}

const nodeOf = (name: string, server: MysqlServer): Node => {
  const query = queryOn({ uri: server.rootUrl })
  const isSynced = async (size: number) => {
    const rows = await query<{ Variable_name: string; Value: string }>("SHOW STATUS LIKE 'wsrep_%'")
    const status = new Map(rows.map((row) => [row.Variable_name, row.Value]))
    return (
      status.get("wsrep_local_state_comment") === "Synced" &&
      status.get("wsrep_cluster_status") === "Primary" &&
      status.get("wsrep_cluster_size") === String(size)
    )
  }
  const setIsolated = (isolated: 0 | 1) => async () => {
    await query(`SET GLOBAL wsrep_provider_options = 'gmcast.isolate=${isolated}'`)
  }
  return {
    name,
    server,
    query,
    synced: (size) => until(`${name} has joined the cluster`, () => isSynced(size)),
    isolate: setIsolated(1),
    rejoin: setIsolated(0)
  }
}

const PACKAGES = ["mariadb-server", "galera-4", "rsync"]

/** The path of the library; installs Debian's packages if we may. */
const galera = (): string => {
  const find = () =>
    ["/usr/lib/galera", "/usr/lib64/galera-4", "/usr/lib64/galera"]
      .map((directory) => `${directory}/libgalera_smm.so`)
      .find((file) => fs.existsSync(file))
  const isComplete = () =>
    findServer("mariadb") !== undefined && spawnSync("rsync", ["--version"]).error === undefined
  const found = find()
  if (found !== undefined && isComplete()) return found

  const whatToDo = `The cluster needs MariaDB with Galera, and rsync: apt-get install ${PACKAGES.join(" ")}.`
  if (process.getuid?.() !== 0 || !fs.existsSync("/usr/bin/apt-get")) throw new Error(whatToDo)
  console.log(`Installing ${PACKAGES.join(", ")}.`)
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
  for (const args of [["update"], ["install", "--no-install-recommends", ...PACKAGES]]) {
    spawnSync("apt-get", ["-q", "-y", ...args], { stdio: ["ignore", "ignore", "inherit"], env })
  }
  const installed = find()
  if (installed === undefined || !isComplete()) throw new Error(whatToDo)
  return installed
}
