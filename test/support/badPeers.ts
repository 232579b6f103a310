/**
 * Faulty peers: a proxy that changes a real server's packets, and a server that follows a script.
 *
 * @module
 */
import * as net from "node:net"
import type { Duplex } from "node:stream"
import * as tls from "node:tls"
import type { Address, Listener } from "./net.js"
import { listenerOf } from "./net.js"

/** A change of one packet of a server, or of one chunk if packets cannot be seen. */
export interface Mutation {
  /** Its number, counted from 0; the greeting is the first. */
  readonly packet: number
  readonly change:
    | "flip"
    | "truncate"
    | "insert"
    | "duplicate"
    | "duplicateLater"
    | "swap"
    | "drop"
    | "zeros"
    | "garbage"
    | "sequence"
    | "length"
    | "refuse"
    | "drip"
    | "end"
    | "reset"
    | "endWithin"
  /** Its place in the packet, as a share of the length from 0 to 1. */
  readonly at: number
  readonly bytes: Buffer
}

/** A TLS identity, PEM. */
export interface Identity {
  readonly key: string
  readonly cert: string
}

/** Options of a {@link mutatingProxy}. */
export interface MutatingProxyOptions {
  readonly target: Address
  readonly mutation: Mutation
  /** The proxy's identity: it decrypts the client's TLS, and changes packets inside. The server must offer TLS. */
  readonly tls?: Identity
  /** Changes chunks as they come from the network, TLS or not. */
  readonly blind?: boolean
}

/** An error packet before the greeting: it has no SQLSTATE. */
export const errorPacket = (errno: number, text: string, sequence = 0): Buffer => {
  const body = Buffer.concat([Buffer.from([0xff, errno & 0xff, errno >> 8]), Buffer.from(text)])
  return packetOf(body, sequence)
}

/** A packet: header and body. */
export const packetOf = (body: Buffer, sequence: number): Buffer =>
  Buffer.concat([
    Buffer.from([body.length & 0xff, (body.length >> 8) & 0xff, body.length >> 16, sequence]),
    body
  ])

/** Forwards to a real server, and changes one packet of its answers. */
export const mutatingProxy = (options: MutatingProxyOptions): Promise<Listener> => {
  const sockets = new Set<net.Socket>()
  const hold = (socket: net.Socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
  }
  const server = net.createServer((client) => {
    const upstream = net.connect(options.target.port, options.target.host)
    // holds the clients only, since the server's side ends a moment later
    hold(client)
    client.on("close", () => upstream.destroy())
    upstream.on("close", () => client.end())
    for (const socket of [client, upstream]) socket.on("error", () => undefined)
    client.setNoDelay(true)
    if (options.tls === undefined) connect(client, upstream, client, options)
    else connectTls(client, upstream, options, options.tls)
  })
  return listenerOf(server, sockets)
}

const connect = (client: Duplex, upstream: Duplex, raw: net.Socket, options: MutatingProxyOptions) => {
  client.on("data", (request: Buffer) => upstream.write(request))
  upstream.on("data", mutator(client, raw, options))
}

/** Forwards the greeting and the request for TLS; then each side has separate TLS. */
const connectTls = (
  client: net.Socket,
  upstream: net.Socket,
  options: MutatingProxyOptions,
  identity: Identity
) => {
  const change = mutator(client, client, options)
  upstream.on("data", change)
  client.once("data", (request: Buffer) => {
    // 32 bytes and a header: a request for TLS, not a login
    if (request.length !== 36) return void client.destroy()
    upstream.write(request)
    upstream.off("data", change)
    const inner = new tls.TLSSocket(client, { isServer: true, ...identity })
    const outer = tls.connect({ socket: upstream, rejectUnauthorized: false })
    for (const socket of [inner, outer]) socket.on("error", () => client.destroy())
    inner.on("data", (request: Buffer) => outer.write(request))
    const { mutation } = options
    outer.on(
      "data",
      mutator(inner, client, { ...options, mutation: { ...mutation, packet: mutation.packet - 1 } })
    )
  })
}

/** Takes the server's chunks, and sends the changed ones to the client. */
const mutator = (client: Duplex, raw: net.Socket, { blind = false, mutation }: MutatingProxyOptions) => {
  let pending = Buffer.alloc(0)
  let count = 0
  let held: Buffer | undefined
  const say = (bytes: Buffer) => {
    if (!client.destroyed && client.writable) client.write(bytes)
  }
  const pass = (packet: Buffer) => {
    if (count++ === mutation.packet) {
      const changed = changePacket(packet, mutation, { client, raw, say })
      if (mutation.change === "swap") held = packet
      else if (changed !== undefined) say(changed)
      if (mutation.change === "duplicateLater") setTimeout(() => say(packet), mutation.at * 20).unref()
      return
    }
    say(packet)
    if (held !== undefined) {
      say(held)
      held = undefined
    }
  }
  return (chunk: Buffer) => {
    if (blind) return pass(chunk)
    pending = Buffer.concat([pending, chunk])
    while (pending.length >= 4 && pending.length >= 4 + pending.readUIntLE(0, 3)) {
      const length = 4 + pending.readUIntLE(0, 3)
      pass(pending.subarray(0, length))
      pending = pending.subarray(length)
    }
  }
}

interface Ways {
  readonly client: Duplex
  readonly raw: net.Socket
  readonly say: (bytes: Buffer) => void
}

const changePacket = (
  packet: Buffer,
  { at, bytes, change }: Mutation,
  { client, raw, say }: Ways
): Buffer | undefined => {
  const offset = Math.floor(at * packet.length)
  const copy = Buffer.from(packet)
  const before = packet.subarray(0, offset)
  switch (change) {
    case "flip":
      copy[Math.min(offset, packet.length - 1)]! ^= (bytes[0] ?? 0) | 1
      return copy
    case "truncate":
      return before
    case "insert":
      return Buffer.concat([before, bytes, packet.subarray(offset)])
    case "duplicate":
      return Buffer.concat([packet, packet])
    case "duplicateLater":
      return packet
    case "swap":
    case "drop":
      return undefined
    case "zeros":
      return Buffer.alloc(packet.length + bytes.length)
    case "garbage":
      return bytes
    case "sequence":
      copy[3]! += 1 + (bytes[0] ?? 0)
      return copy
    case "length":
      copy.writeUIntLE(0xffffff - (bytes[0] ?? 0), 0, 3)
      return copy
    case "refuse":
      return errorPacket(1040, "Too many connections", packet[3])
    case "drip":
      for (const [index, byte] of packet.entries()) setTimeout(() => say(Buffer.of(byte)), index).unref()
      return undefined
    case "end":
      client.end()
      return undefined
    case "reset":
      raw.resetAndDestroy()
      return undefined
    case "endWithin":
      say(before)
      client.end()
      return undefined
  }
}

/** A script of a {@link scriptedServer}: one step at a connection, and one after each message of the client. */
export interface Script {
  readonly steps: ReadonlyArray<Buffer>
  /** Sends all steps at once, without waiting for the client. */
  readonly atOnce: boolean
  /** What it does after the last step. */
  readonly then: "end" | "reset" | "stay"
}

/** Follows its script, whatever the client says; `heard` collects that. */
export const scriptedServer = async (
  script: Script
): Promise<Listener & { readonly heard: () => Buffer }> => {
  const sockets = new Set<net.Socket>()
  const heard: Array<Buffer> = []
  const server = net.createServer((socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => undefined)
    let step = 0
    const next = (): void => {
      const bytes = script.steps[step++]
      if (bytes !== undefined) socket.write(bytes)
      if (step < script.steps.length) {
        if (script.atOnce) next()
        return
      }
      if (script.then === "end") socket.end()
      if (script.then === "reset") socket.resetAndDestroy()
    }
    socket.on("data", (chunk) => {
      heard.push(chunk)
      if (step < script.steps.length) next()
    })
    next()
  })
  return Object.assign(await listenerOf(server, sockets), { heard: () => Buffer.concat(heard) })
}
