/**
 * Faulty peers on 127.0.0.1: a port that refuses, a server that never speaks, and a proxy that can pause, cut, and
 * drop replies.
 *
 * @module
 */
import { randomInt } from "node:crypto"
import { once } from "node:events"
import * as net from "node:net"

/** An address with a port. */
export interface Address {
  readonly host: string
  readonly port: number
}

const host = "127.0.0.1"

const listen = async (server: net.Server, port: number): Promise<void> => {
  server.listen(port, host)
  await once(server, "listening")
}

const closed = (server: net.Server): Promise<void> =>
  new Promise((resolve) => {
    server.close(() => resolve())
  })

/**
 * A port without a listener. It is below the range from which the kernel takes ports for outgoing connections.
 * So no client can occupy it while a server restarts, or connect to itself.
 */
export const freePort = async (): Promise<number> => {
  for (;;) {
    const port = randomInt(15_000, 32_000)
    const probe = net.createServer()
    try {
      await listen(probe, port)
    } catch {
      continue
    }
    await closed(probe)
    return port
  }
}

/** An address that refuses connections (ECONNREFUSED). */
export const refusingPort = async (): Promise<Address> => ({ host, port: await freePort() })

/** A listener that a test started. */
export interface Listener extends Address {
  /** The number of connected clients. */
  readonly connections: number
  /** Destroys every connection and stops listening. */
  readonly close: () => Promise<void>
}

/** Makes a server listen on a free port. Closing it destroys what `connections` holds. */
export const listenerOf = async (
  server: net.Server,
  connections: ReadonlySet<{ readonly destroy: () => unknown }>
): Promise<Listener> => {
  const port = await freePort()
  await listen(server, port)
  return {
    host,
    port,
    get connections() {
      return connections.size
    },
    close: () => {
      for (const connection of connections) connection.destroy()
      return closed(server)
    }
  }
}

/** Accepts connections and never says anything. */
export const silentServer = async (): Promise<Listener> => {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => undefined)
    socket.resume()
  })
  return listenerOf(server, sockets)
}

/** A TCP proxy whose network can fail. */
export interface TcpProxy extends Listener {
  /** The number of clients that have ever connected. */
  readonly accepted: number
  /** Holds back everything in both directions, including the end of a connection. */
  readonly pause: () => void
  /** Forwards the client's messages, and drops the server's answers. */
  readonly dropReplies: () => void
  /** Ends `pause` and `dropReplies`. Dropped answers stay lost. */
  readonly resume: () => void
  /** Destroys all present connections, and accepts new ones. */
  readonly cut: () => void
  /** Acts once, when a client has sent the text and before the server gets it. */
  readonly whenAsked: (text: string, act: () => void) => void
}

type Flow = "open" | "paused" | "noReplies"

/** Options of a {@link lyingProxy}. */
export interface LyingProxyOptions {
  readonly target: Address
  /** The server's real `max_allowed_packet`. */
  readonly truth: number
  /** The value that it reports instead, with the same number of digits. */
  readonly lie: number
  /**
   * Whether the server's refusal reaches the client. If a server hangs up while it still gets data, then the kernel's
   * RST discards its last answer. To be audible, it must get no more than the head of a packet that it refuses.
   */
  readonly audible: boolean
}

/** A proxy of a MySQL server that reports a larger packet limit than the server has. */
export const lyingProxy = async ({ audible, lie, target, truth }: LyingProxyOptions): Promise<Listener> => {
  const links = new Set<Link>()
  const server = net.createServer((client) => {
    const upstream = net.connect(target.port, target.host)
    const link = new Link(client, upstream)
    links.add(link)
    // A client waits for an answer before it sends more, so its packets begin and end with a chunk.
    let rest = 0
    let isTooLarge = false
    client.on("data", (request) => {
      const isHead = rest === 0
      let end = rest
      while (end < request.length) {
        const length = request.readUIntLE(end, 3)
        isTooLarge = length > truth
        end += 4 + length
      }
      rest = end - request.length
      if (isHead || !isTooLarge || !audible) upstream.write(request)
    })
    upstream.on("data", (reply) => {
      if (isTooLarge && !audible) return
      const at = reply.indexOf(String(truth))
      if (at >= 0) reply.write(String(lie), at)
      client.write(reply)
    })
    upstream.on("close", () => (audible ? client.end() : client.destroy()))
    client.on("close", () => {
      upstream.destroy()
      links.delete(link)
    })
    for (const socket of [client, upstream]) socket.on("error", () => undefined)
  })
  return listenerOf(server, links)
}

/** A proxy of a MySQL server that hangs up on packets above `limit` bytes; the server does not see them. */
export const limitingProxy = async ({
  limit,
  target
}: {
  readonly target: Address
  readonly limit: number
}): Promise<Listener> => {
  const links = new Set<Link>()
  const server = net.createServer((client) => {
    const upstream = net.connect(target.port, target.host)
    const link = new Link(client, upstream)
    links.add(link)
    // A client waits for an answer before it sends more, so its packets begin and end with a chunk.
    let rest = 0
    client.on("data", (request) => {
      let end = rest
      while (end < request.length) {
        const length = request.readUIntLE(end, 3)
        if (length > limit) return link.destroy()
        end += 4 + length
      }
      rest = end - request.length
      upstream.write(request)
    })
    upstream.on("data", (reply) => client.write(reply))
    upstream.on("close", () => client.end())
    client.on("close", () => {
      upstream.destroy()
      links.delete(link)
    })
    for (const socket of [client, upstream]) socket.on("error", () => undefined)
  })
  return listenerOf(server, links)
}

/** Forwards connections to `target` until it is told otherwise. */
export const tcpProxy = async (options: {
  readonly target: Address
  /** The port to listen on; by default a free one. */
  readonly port?: number
}): Promise<TcpProxy> => {
  let flow: Flow = "open"
  const links = new Set<Link>()
  let accepted = 0
  const awaited = new Map<string, () => void>()

  const listenTo = (request: Buffer) => {
    for (const [text, act] of [...awaited].filter(([text]) => request.includes(text))) {
      awaited.delete(text)
      act()
    }
  }

  const server = net.createServer((client) => {
    const upstream = net.connect(options.target.port, options.target.host)
    const link = new Link(client, upstream)
    links.add(link)
    accepted++
    // before the pipe, so that it gets everything first
    client.on("data", listenTo)
    link.apply(flow)
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true)
      socket.on("error", () => undefined)
      socket.on("close", () => {
        link.apply(flow)
        if (client.destroyed && upstream.destroyed) links.delete(link)
      })
    }
  })

  const set = (next: Flow) => () => {
    flow = next
    for (const link of links) link.apply(flow)
  }
  const cut = () => {
    for (const link of links) link.destroy()
  }

  const port = options.port ?? (await freePort())
  await listen(server, port)
  return {
    host,
    port,
    get connections() {
      return Array.from(links).filter((link) => !link.client.destroyed).length
    },
    get accepted() {
      return accepted
    },
    pause: set("paused"),
    dropReplies: set("noReplies"),
    resume: set("open"),
    cut,
    whenAsked: (text, act) => void awaited.set(text, act),
    close: () => {
      cut()
      return closed(server)
    }
  }
}

class Link {
  constructor(
    readonly client: net.Socket,
    readonly upstream: net.Socket
  ) {}

  apply(flow: Flow): void {
    const { client, upstream } = this
    client.unpipe(upstream)
    upstream.unpipe(client)
    if (flow === "paused") {
      client.pause()
      upstream.pause()
      return
    }
    if (client.destroyed) upstream.destroy()
    else client.pipe(upstream)
    if (flow === "noReplies") upstream.resume()
    else if (upstream.destroyed) client.destroy()
    else upstream.pipe(client)
  }

  destroy(): void {
    this.client.destroy()
    this.upstream.destroy()
  }
}
