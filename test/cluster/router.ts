/**
 * MySQL Router with fixed destinations: it knows nothing of the group behind it.
 *
 * @module
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { unpackRouter } from "../support/mysqlPackage.js"
import { type Address, freePort } from "../support/net.js"
import { type Node, until } from "./node.js"

/** A running router. */
export interface Router extends Address {
  readonly stop: () => Promise<void>
}

/** Routes to the first destination that it can reach, or to each in turn. */
export type Strategy = "first-available" | "round-robin"

/** Starts a router. Its pipe ends with us, and the test's end kills it. */
export const startRouter = async (strategy: Strategy, members: ReadonlyArray<Node>): Promise<Router> => {
  const { args, server } = await unpackRouter()
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-router-"))
  const port = await freePort()
  const host = "127.0.0.1"
  const config = path.join(home, "router.conf")
  const usr = path.dirname(path.dirname(args.at(-1)!))
  fs.writeFileSync(
    config,
    [
      "[DEFAULT]",
      `plugin_folder=${path.join(usr, "lib", "mysqlrouter", "plugin")}`,
      "logging_folder=",
      ...["runtime", "data", "config"].map((folder) => `${folder}_folder=${home}`),
      "[routing:group]",
      `bind_address=${host}`,
      `bind_port=${port}`,
      `destinations=${members.map(({ server }) => `${server.host}:${server.port}`).join(",")}`,
      `routing_strategy=${strategy}`,
      "protocol=classic",
      ""
    ].join("\n")
  )
  const log = fs.openSync(path.join(home, "log"), "a")
  const child = spawn(server, [...args, "-c", config], { stdio: ["ignore", log, log] })
  fs.closeSync(log)
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const exit = once(child, "exit")
      child.kill("SIGKILL")
      await exit
    }
    fs.rmSync(home, { recursive: true, force: true })
  }
  try {
    await until("the router listens", () => listens(host, port), 20)
  } catch (cause) {
    const text = fs.readFileSync(path.join(home, "log"), "utf8")
    await stop()
    throw new Error(`the router did not start: ${text}`, { cause })
  }
  return { host, port, stop }
}

const listens = (host: string, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = net.connect(port, host)
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false))
    socket.once("connect", () => socket.destroy())
  })
