/**
 * Peers that misbehave on purpose: a port that refuses, a server that never speaks, a proxy that can be
 * paused, cut and made to swallow replies. Everything listens on 127.0.0.1.
 *
 * @module
 */
import { randomInt } from "node:crypto"
import { once } from "node:events"
import * as net from "node:net"

/** Where something listens. */
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
 * A port that nobody listens on. It lies below the range from which the kernel takes the ports of outgoing
 * connections: no client can come to occupy it while a server restarts, nor connect to itself.
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

/** A listener that a test has started. */
export interface Listener extends Address {
  /** How many clients are connected now. */
  readonly connections: number
  /** Destroys every connection and stops listening. */
  readonly close: () => Promise<void>
}

/** Lets a server listen on a free port; closing it destroys what `connections` holds. */
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
  /** How many clients have ever connected. */
  readonly accepted: number
  /** Nothing passes any more, in either direction: not even the end of a connection. */
  readonly pause: () => void
  /** What the client says still arrives; what the server answers is lost. */
  readonly dropReplies: () => void
  /** Ends `pause` and `dropReplies`. What was swallowed meanwhile stays lost. */
  readonly resume: () => void
  /** Destroys all present connections; new ones are welcome. */
  readonly cut: () => void
  /** Acts once, as soon as a client has said the text, which the server is just about to hear. */
  readonly whenAsked: (text: string, act: () => void) => void
}

type Flow = "open" | "paused" | "noReplies"

/** What a {@link lyingProxy} is told. */
export interface LyingProxyOptions {
  readonly target: Address
  /** the server's `max_allowed_packet` */
  readonly truth: number
  /** what it says instead, of as many digits */
  readonly lie: number
  /**
   * Whether the server's refusal reaches the client. A server that hangs up while it is still being sent something
   * takes its last words back (the kernel's RST): then it must get no more than the head of a packet it refuses.
   */
  readonly audible: boolean
}

/** A proxy of a MySQL server, which takes larger packets than the server. */
export const lyingProxy = async ({ audible, lie, target, truth }: LyingProxyOptions): Promise<Listener> => {
  const links = new Set<Link>()
  const server = net.createServer((client) => {
    const upstream = net.connect(target.port, target.host)
    const link = new Link(client, upstream)
    links.add(link)
    // a client waits for an answer before it sends on: its packets start with a chunk, and end with one
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

/** A proxy of a MySQL server that hangs up on packets of more than `limit` bytes, of which the server hears nothing. */
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
    // a client waits for an answer before it sends on: its packets start with a chunk, and end with one
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
  /** where it listens: a free port, unless a test has taken one before */
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
    // before the pipe, so that it hears everything first
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
