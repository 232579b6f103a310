/**
 * A network on this machine whose servers can be cut off from each other, and not from us. Each server has a network
 * namespace with an address, on a bridge. Needs root on Linux.
 *
 * @module
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"

/** The place of one server. */
export interface Site {
  readonly host: string
  /** The command that runs the server there. */
  readonly under: ReadonlyArray<string>
  /** Drops or passes all traffic to and from the other sites. */
  readonly cutOff: (isCutOff: boolean) => void
}

/** The sites of a run. */
export interface Network {
  readonly sites: ReadonlyArray<Site>
  /** In CIDR notation. */
  readonly range: string
  readonly remove: () => void
}

/** Makes a network of `size` sites; undefined if we may not. */
export const makeNetwork = (size: number): Network | undefined => {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return undefined
  removeLeftovers()
  const bridge = `${PREFIX}${process.pid}`
  const names = Array.from({ length: size }, (_, index) => `${bridge}-${index + 1}`)
  // 198.18.0.0/15 is reserved for tests of networks (RFC 2544)
  const net = `198.${18 + ((process.pid >> 8) & 1)}.${process.pid & 255}`
  const address = (index: number) => `${net}.${index + 1}`
  const remove = () => {
    for (const name of names) spawnSync("ip", ["netns", "del", name])
    spawnSync("ip", ["link", "del", bridge])
  }
  try {
    ip("link", "add", bridge, "type", "bridge")
    ip("address", "add", `${net}.254/24`, "dev", bridge)
    ip("link", "set", bridge, "up")
    for (const [index, name] of names.entries()) {
      const inside = (...args: ReadonlyArray<string>) => ip("-n", name, ...args)
      ip("netns", "add", name)
      ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
      ip("link", "set", name, "master", bridge, "up")
      inside("address", "add", `${address(index)}/24`, "dev", "eth0")
      inside("link", "set", "eth0", "up")
      inside("link", "set", "lo", "up")
    }
  } catch {
    remove()
    return undefined
  }
  const sites = names.map((name, index): Site => {
    const others = names.flatMap((other, at) => (at === index ? [] : [{ name: other, host: address(at) }]))
    return {
      host: address(index),
      under: ["ip", "netns", "exec", name],
      cutOff: (isCutOff) => {
        const change = isCutOff ? "add" : "del"
        for (const other of others) {
          ip("-n", name, "route", change, "blackhole", `${other.host}/32`)
          ip("-n", other.name, "route", change, "blackhole", `${address(index)}/32`)
        }
      }
    }
  })
  return { sites, range: `${net}.0/24`, remove }
}

const PREFIX = "audit"

const ip = (...args: ReadonlyArray<string>): string =>
  execFileSync("ip", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })

/** Removes the bridges and namespaces of killed runs, which are named after their processes. */
const removeLeftovers = (): void => {
  const isLeft = (name: string) => {
    const pid = new RegExp(`^${PREFIX}(\\d+)(-\\d+)?$`).exec(name)?.[1]
    return pid !== undefined && !fs.existsSync(`/proc/${pid}`)
  }
  for (const line of ip("netns", "list").split("\n")) {
    const name = line.split(" ")[0]!
    if (isLeft(name)) spawnSync("ip", ["netns", "del", name])
  }
  for (const name of fs.readdirSync("/sys/class/net").filter(isLeft)) spawnSync("ip", ["link", "del", name])
}
