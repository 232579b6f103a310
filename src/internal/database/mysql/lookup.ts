/**
 * The lookup of servers' names, during which the process can end. `dns.lookup` holds a thread until the name service
 * answers, or 10 to 26 seconds. The process cannot exit before. Only `dns.lookup` knows hosts files, search domains and
 * VPNs, so it gives the addresses. But it is called only when an answer will come:
 *
 * - a name of the hosts file, or `localhost`: no name service is asked;
 * - any other name: c-ares, which can be cancelled, first asks what `dns.lookup` would ask. Any reply will do. So does
 *   a port on which nobody listens: the name may be one of LDAP or NIS;
 * - during a shutdown, a name that was found before is not looked up again.
 */
import { type Cause, Effect } from "effect"
import { FiberRef } from "../../../schema/Effect3.js"
import * as dns from "node:dns"
import * as fs from "node:fs/promises"
import * as net from "node:net"
import * as path from "node:path"
import { isShuttingDown } from "../../shutdown.js"

/** How long a name service may take to reply, in milliseconds: for each of its servers, and in all. */
const SERVER_TIMEOUT = 800
const TIMEOUT = 2000

type Addresses = ReadonlyArray<dns.LookupAddress>

/** the last answer for each name */
const lastGood = new Map<string, Addresses>()

/** addresses that took a connection and stay silent: others come first */
const silent = new Set<string>()

export const noteSilence = (address: string | undefined, isSilent: boolean): void => {
  if (address === undefined) return
  if (isSilent) silent.add(address)
  else silent.delete(address)
}

/** Whether a name has another address to try. If this one is known to be silent, the others came before it. */
export const hasOther = (hostname: string, address: string | undefined): boolean =>
  address !== undefined &&
  !silent.has(address) &&
  lastGood.get(hostname)?.some((each) => each.address !== address && !silent.has(each.address)) === true

/** The addresses of a name that are known to be silent. */
export const silentOf = (hostname: string): ReadonlyArray<string> =>
  (lastGood.get(hostname) ?? []).map(({ address }) => address).filter((address) => silent.has(address))

/** The error of `dns.lookup`, with its codes. */
const notFound = (hostname: string, code: string): NodeJS.ErrnoException =>
  Object.assign(
    new Error(
      code === "EAI_AGAIN"
        ? `no name service replies (getaddrinfo ${code} ${hostname})`
        : `getaddrinfo ${code} ${hostname}`
    ),
    { code, syscall: "getaddrinfo", hostname }
  )

const windows = process.platform === "win32"
const HOSTS = windows
  ? path.join(process.env.SystemRoot ?? "C:\\Windows", "System32", "drivers", "etc", "hosts")
  : "/etc/hosts"

/** The lines of a system file, without comments; none if it cannot be read. */
const readLines = async (file: string): Promise<ReadonlyArray<ReadonlyArray<string>>> => {
  const text = await fs.readFile(file, "utf8").catch(() => "")
  return text.split("\n").map((line) =>
    line
      .replace(/[#;].*/, "")
      .trim()
      .split(/\s+/)
  )
}

const isInHosts = async (hostname: string): Promise<boolean> => {
  const name = hostname.toLowerCase()
  for (const [address = "", ...names] of await readLines(HOSTS)) {
    if (net.isIP(address) !== 0 && names.some((known) => known.toLowerCase() === name)) return true
  }
  return false
}

/** The name that `dns.lookup` asks for first (resolv.conf(5)): the last search list counts, and the last `ndots`. */
const firstQuestion = async (hostname: string): Promise<string> => {
  if (windows || hostname.endsWith(".")) return hostname
  let domain: string | undefined
  let dots = 1
  for (const [key, ...values] of await readLines("/etc/resolv.conf")) {
    if (key === "search" || key === "domain") domain = values[0]
    const option = key === "options" ? values.find((value) => value.startsWith("ndots:")) : undefined
    if (option !== undefined) dots = Number(option.slice("ndots:".length))
  }
  const isQualified = hostname.split(".").length > dots
  return isQualified || domain === undefined || domain === "." ? hostname : `${hostname}.${domain}`
}

/** Codes that are no answer; all others are. */
const SILENCE = new Set(["ETIMEOUT", "ECANCELLED"])

/** Whether a name service replies at all, to both questions of `dns.lookup`. */
const replies = async (hostname: string, signal: AbortSignal): Promise<boolean> => {
  const question = await firstQuestion(hostname)
  if (signal.aborted) return false
  const resolver = new dns.promises.Resolver({ timeout: SERVER_TIMEOUT, tries: 2 })
  const cancel = () => resolver.cancel()
  const timer = setTimeout(cancel, TIMEOUT)
  signal.addEventListener("abort", cancel)
  const start = performance.now()
  // a late refusal means that another server was silent before
  const isAnswer = (code: string) =>
    code === "ECONNREFUSED" ? performance.now() - start < SERVER_TIMEOUT : !SILENCE.has(code)
  const isReplied = (answer: Promise<unknown>) =>
    answer.then(
      () => true,
      (error: unknown) => isAnswer((error as NodeJS.ErrnoException).code ?? "")
    )
  try {
    const replied = await Promise.all([
      isReplied(resolver.resolve4(question)),
      isReplied(resolver.resolve6(question))
    ])
    return replied.every((isReply) => isReply)
  } finally {
    clearTimeout(timer)
    signal.removeEventListener("abort", cancel)
  }
}

/** all, in the order of the system */
const ask = (hostname: string): Promise<Addresses> => dns.promises.lookup(hostname, { all: true })

const LOOPBACK: Addresses = [
  { address: "127.0.0.1", family: 4 },
  { address: "::1", family: 6 }
]

const resolve = async (hostname: string, isClosing: boolean, signal: AbortSignal): Promise<Addresses> => {
  const known = lastGood.get(hostname)
  if (isClosing && known !== undefined) return known
  const isLocal = await isInHosts(hostname)
  // a name service is not asked for it (RFC 6761, section 6.3)
  if (!isLocal && hostname.toLowerCase() === "localhost") return LOOPBACK
  if (!isLocal && !(await replies(hostname, signal))) throw notFound(hostname, "EAI_AGAIN")
  // given up meanwhile, or a shutdown has begun
  if (signal.aborted) throw notFound(hostname, "ECANCELED")
  const addresses = await ask(hostname)
  lastGood.set(hostname, addresses)
  return addresses
}

/** The addresses of a host; interrupting it leaves nothing behind that could hold the process. */
export const addressesOf = (hostname: string): Effect.Effect<Addresses, Cause.UnknownException> =>
  Effect.flatMap(FiberRef.get(isShuttingDown), (isClosing) =>
    net.isIP(hostname) === 0
      ? Effect.tryPromise((signal) => resolve(hostname, isClosing, signal))
      : Effect.succeed([{ address: hostname, family: net.isIP(hostname) }])
  )

/** Makes sockets, whose names are looked up as above, and no longer than the socket lives. */
export const connector: Effect.Effect<(options: net.TcpNetConnectOpts) => net.Socket> = Effect.map(
  FiberRef.get(isShuttingDown),
  (isClosing) => (options) => {
    const controller = new AbortController()
    const lookup: net.LookupFunction = (hostname, { all }, answer) => {
      resolve(hostname, isClosing, controller.signal).then(
        (found) => {
          const addresses = found.toSorted(
            (a, b) => Number(silent.has(a.address)) - Number(silent.has(b.address))
          )
          const [first] = addresses
          if (all === true || first === undefined) answer(null, [...addresses])
          else answer(null, first.address, first.family)
        },
        (error: unknown) => answer(error as NodeJS.ErrnoException, [])
      )
    }
    const socket = net.connect({ ...options, lookup })
    socket.once("close", () => controller.abort())
    return socket
  }
)
