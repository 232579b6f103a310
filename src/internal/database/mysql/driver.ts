/**
 * The guard of the driver: nothing that a server, a proxy or the network sends throws outside our Effects.
 *
 * mysql2 parses inside its socket's listeners and reports by `error` events, to which its pool listens once. So the
 * guard catches errors of listeners where the sockets emit. Each connection gets a listener that stays.
 */
import type { EventEmitter } from "node:events"
import type * as net from "node:net"
import * as tls from "node:tls"

/** What the driver's stream factory is given. */
export interface StreamOptions {
  readonly config: { readonly pool?: Pool }
}

/** A private part of mysql2's pool: the stream factory is called before any event names a connection. */
interface Pool {
  readonly _allConnections?: { readonly length: number; readonly get: (index: number) => Connection }
}

/** A packet of the driver. A row lies between offset and end. */
export interface Packet {
  readonly buffer: Buffer
  readonly offset: number
  readonly end: number
  readonly isEOF: () => boolean
}

/** A statement of the driver. It calls `row` for each packet, and goes on with what that returns. */
export interface Statement {
  row: (this: Statement, packet: Packet, connection: unknown) => unknown
}

/** The part of the driver's connection that runs a statement. */
export interface Querying {
  readonly query: (
    options: { readonly sql: string; readonly values: ReadonlyArray<never>; readonly rowsAsArray: true },
    done: (error: Error | null, rows: unknown) => void
  ) => Statement
}

/** The parts of mysql2's connection that are used and changed here. */
interface Connection extends EventEmitter, Querying {
  readonly stream: EventEmitter
  protocolError: (message: string, code?: unknown) => void
  startTLS: (onSecure: (error?: unknown) => void) => void
}

export interface Guard {
  /** Resets the count of bytes that the server sent. */
  readonly restart: () => void
  /** the driver's connection; undefined as long as it is not known */
  readonly connection: () => Querying | undefined
}

/**
 * Guards a socket before the driver listens to it. `onBroken` hears what makes the connection unusable, possibly more
 * than once. Then the socket is destroyed, unless the driver can still read the server's answer. `identity` is the name
 * or address that a certificate has to show before the password is sent.
 */
export const guard = (
  socket: net.Socket,
  { config }: StreamOptions,
  onBroken: (error: Error) => void,
  identity: string | undefined
): Guard => {
  let received = 0
  let found: Connection | undefined
  const fail = (cause: unknown) => {
    const error = cause instanceof Error ? cause : protocolError(String(cause))
    onBroken(error)
    // by the error, the driver fails whatever waits for an answer
    socket.destroy(error)
  }
  const confine = (emitter: EventEmitter) => {
    const emit = emitter.emit.bind(emitter)
    emitter.emit = (event: string | symbol, ...args: ReadonlyArray<unknown>) => {
      try {
        if (event === "data" && (received += (args[0] as Buffer).length) > MAX_ANSWER_BYTES) {
          throw protocolError(TOO_LARGE)
        }
        return emit(event, ...args)
      } catch (error) {
        fail(error)
        return true
      }
    }
  }

  confine(socket)
  socket.on("error", onBroken)
  // the pool lists the connection after its constructor has asked for the socket, and before the socket can emit
  process.nextTick(() => {
    const connections = config.pool?._allConnections
    for (let index = 0; index < (connections?.length ?? 0); index++) {
      const connection = connections!.get(index)
      if (connection.stream !== socket) continue
      found = connection
      confineDriver(connection, confine, fail, onBroken, identity)
    }
    // without the connection nobody would check the certificate
    if (found === undefined && identity !== undefined) fail(protocolError("the driver shows no connection"))
  })
  return { restart: () => void (received = 0), connection: () => found }
}

const confineDriver = (
  connection: Connection,
  confine: (emitter: EventEmitter) => void,
  fail: (cause: unknown) => void,
  onBroken: (error: Error) => void,
  identity: string | undefined
) => {
  connection.on("error", fail)
  // packets out of order; if they are a refusal, as of too large a packet, the driver still reports it
  connection.on("warn", (warning: Error) => onBroken(protocolError(warning.message)))
  // the driver would drop the statement silently; it passes on an error that is thrown
  connection.protocolError = (message, code) => {
    throw protocolError(message, code)
  }
  const startTLS = connection.startTLS.bind(connection)
  connection.startTLS = (onSecure) => {
    startTLS((error) => {
      onSecure(error ?? (identity === undefined ? undefined : misnamed(connection.stream, identity)))
    })
    // from now on the stream is the one inside of TLS
    confine(connection.stream)
  }
}

/** What is wrong with the name in the certificate. The driver's own check takes an address for "localhost". */
const misnamed = (stream: EventEmitter, identity: string): Error | undefined =>
  stream instanceof tls.TLSSocket
    ? tls.checkServerIdentity(identity, stream.getPeerCertificate())
    : protocolError("no TLS where there must be some")

/** The error for an answer that is not MySQL's protocol. A number is the server's own reason. */
export const protocolError = (message: string, code?: unknown): Error =>
  Object.assign(new Error(message), typeof code === "number" ? { errno: code } : { code: PROTOCOL_ERROR })

export const PROTOCOL_ERROR = "PROTOCOL_ERROR"

/** Bytes; the longest answer that we ask for is SHOW WARNINGS, 65,535 rows of about 550 bytes. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024

const TOO_LARGE = `more than ${MAX_ANSWER_BYTES} bytes for an answer`

/** Whether an answer was longer than we take. */
export const isTooLarge = (cause: unknown): boolean => cause instanceof Error && cause.message === TOO_LARGE
