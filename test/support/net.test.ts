import { once } from "node:events"
import * as net from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, expect, test, vi } from "vitest"
import type { Address } from "./net.js"
import { refusingPort, silentServer, tcpProxy } from "./net.js"

const soon = (check: () => void) => vi.waitFor(check, { timeout: 120_000 })

const cleanUp: Array<() => unknown> = []
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step()
})

const connect = (address: Address) => {
  const socket = net.connect(address.port, address.host)
  const received: Array<string> = []
  socket.setEncoding("utf8")
  socket.on("data", (text: string) => received.push(text))
  socket.on("error", () => undefined)
  cleanUp.push(() => socket.destroy())
  return { socket, received: () => received.join("") }
}

/** A server that echoes, and remembers everything. */
const echoServer = async () => {
  const heard: Array<string> = []
  const server = net.createServer((socket) => {
    socket.on("error", () => undefined)
    socket.on("data", (bytes) => {
      heard.push(bytes.toString())
      socket.write(bytes)
    })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  cleanUp.push(() => server.close())
  const { port } = server.address() as net.AddressInfo
  return { host: "127.0.0.1", port, heard: () => heard.join("") }
}

const proxied = async () => {
  const target = await echoServer()
  const proxy = await tcpProxy({ target })
  cleanUp.push(proxy.close)
  return { target, proxy }
}

test("refusingPort refuses connections", async () => {
  const { socket } = connect(await refusingPort())
  await expect(once(socket, "connect")).rejects.toMatchObject({ code: "ECONNREFUSED" })
})

test("silentServer accepts connections and says nothing", async () => {
  const server = await silentServer()
  const { socket, received } = connect(server)
  socket.write("anybody there?")
  await soon(() => expect(server.connections).toBe(1))
  await sleep(100)
  expect(received()).toBe("")
  const end = once(socket, "close")
  await server.close()
  await end
})

test("tcpProxy forwards", async () => {
  const { proxy } = await proxied()
  const { socket, received } = connect(proxy)
  socket.write("hello")
  await soon(() => expect(received()).toBe("hello"))
  expect(proxy.connections).toBe(1)
  socket.end()
  await soon(() => expect(proxy.connections).toBe(0))
})

test("tcpProxy holds everything back while paused, new connections included", async () => {
  const { proxy, target } = await proxied()
  const before = connect(proxy)
  await soon(() => expect(proxy.connections).toBe(1))
  proxy.pause()
  const during = connect(proxy)
  before.socket.write("a")
  during.socket.write("b")
  await sleep(100)
  expect(target.heard()).toBe("")
  proxy.resume()
  await soon(() => {
    expect(before.received()).toBe("a")
    expect(during.received()).toBe("b")
  })
})

test("tcpProxy drops replies, and forwards requests", async () => {
  const { proxy, target } = await proxied()
  const { socket, received } = connect(proxy)
  proxy.dropReplies()
  socket.write("commit")
  await soon(() => expect(target.heard()).toBe("commit"))
  await sleep(100)
  proxy.resume()
  socket.write(" again")
  await soon(() => expect(received()).toBe(" again"))
})

test("tcpProxy cuts the present connections, and accepts later ones", async () => {
  const { proxy } = await proxied()
  const first = connect(proxy)
  await soon(() => expect(proxy.connections).toBe(1))
  const end = once(first.socket, "close")
  proxy.cut()
  await end
  const second = connect(proxy)
  second.socket.write("x")
  await soon(() => expect(second.received()).toBe("x"))
})

test("tcpProxy acts once when a client sends a text, before the server answers", async () => {
  const { proxy, target } = await proxied()
  const { received, socket } = connect(proxy)
  proxy.whenAsked("commit", proxy.dropReplies)
  socket.write("insert")
  await soon(() => expect(received()).toBe("insert"))
  socket.write("commit")
  await soon(() => expect(target.heard()).toBe("insertcommit"))
  proxy.resume()
  socket.write("commit")
  await soon(() => expect(received()).toBe("insertcommit"))
})
