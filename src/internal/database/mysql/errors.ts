/**
 * What a failure of MySQL or MariaDB means for the events of a statement. One table; nothing else in the package
 * knows a code.
 *
 * By `errno`, never by mysql2's `code`, which names MariaDB's 4025 (CHECK) `ER_INNODB_AUTOEXTEND_SIZE_OUT_OF_RANGE`.
 * The codes of MySQL, MariaDB, TiDB and ProxySQL share the table, since none of them means two things to an INSERT.
 */
import { Redacted } from "effect"
import { UploadError } from "../../../schema/Errors.js"
import { PROTOCOL_ERROR } from "./driver.js"

/**
 * - `transient`: passes by itself; keep the events, connect again, to the next host if there is one
 * - `busy`: passes by itself, and this connection is as good as any other
 * - `operator`: stays until somebody mends it; blame no event
 * - `record`: the database will never take one of the statement's events
 * - `tooMany`: the statement must be smaller; blame no event
 * - `delivered`: an event with such an id is in the table already
 */
export type FailureClass = "transient" | "busy" | "operator" | "record" | "tooMany" | "delivered"

/** A failure, understood. */
export interface Failure {
  readonly class: FailureClass
  /** what the status shows: the errno as text, or a connection's code */
  readonly code: string
  /** what is wrong and what to do next, in our words; of use where no event is to blame */
  readonly reason: string
  /** the database's words: they may echo the row */
  readonly text: string
  readonly cause: unknown
}

/** What a statement was about: names for the reasons, and what tells our unique key from others. */
export interface Subject {
  /** the server as it was configured, for example `db1:3306` */
  readonly host: string
  readonly username: string
  readonly database: string
  readonly table?: string
  /** the names of the table's unique keys over `event_id` alone */
  readonly eventKeys?: ReadonlyArray<string>
}

/** Understands what mysql2 or Node threw. */
export const classify = (cause: unknown, subject: Subject): Failure => {
  const { code: name, errno, message: text } = asDriverError(cause)
  const failure = (code: string, cls: FailureClass, reason: string): Failure => ({
    class: cls,
    code,
    reason,
    text,
    cause
  })

  // the errno of the operating system is negative, and Node gives its name as the code
  if (errno === undefined || errno <= 0) {
    // fatal without a code: a connection that was closed while it was idle
    const code = name ?? "CONNECTION_LOST"
    if (code === "HANDSHAKE_SSL_ERROR" && isDisconnection(errno, text)) {
      return failure("ECONNRESET", "transient", unreachable(subject))
    }
    if (isGarbled(cause, name)) return failure(PROTOCOL_ERROR, "transient", garbled(subject))
    const operator = OPERATOR[code]
    return operator === undefined
      ? failure(code, "transient", unreachable(subject))
      : failure(code, "operator", operator(subject))
  }

  const code = String(errno)
  if (errno === DUPLICATE_ENTRY) {
    return isEventKey(text, subject)
      ? failure(code, "delivered", "")
      : failure(code, "operator", otherUniqueKey(subject))
  }
  const operator = OPERATOR[code]
  if (operator !== undefined) return failure(code, "operator", operator(subject))
  const cls = CLASSES.get(errno) ?? "transient"
  return failure(code, cls, unavailable(subject))
}

/** The failure as callers of an Uploader see it. */
export const toUploadError = (failure: Failure): UploadError =>
  new UploadError({
    class: failure.class === "operator" ? "operator" : "transient",
    code: failure.code,
    reason: failure.reason,
    cause: Redacted.make(essence(failure.cause))
  })

/**
 * Whether a 1062 is about one of our keys. The message ends in the key's name, in MySQL 8 with the table before it;
 * the values of the row stand earlier, so they cannot imitate it. Needs `lc_messages='en_US'`. The case of a table's name
 * is the server's to choose (`lower_case_table_names`), that of a key's name means nothing (MySQL manual, "Identifier
 * Case Sensitivity").
 */
export const isEventKey = (message: string, { eventKeys, table }: Subject): boolean => {
  const text = message.toLowerCase()
  const endsIn = (name: string) => text.endsWith(` for key '${name.toLowerCase()}'`)
  return eventKeys?.some((key) => endsIn(key) || endsIn(`${table ?? ""}.${key}`)) === true
}

/** The packet was larger than the server, or something before it, takes. */
export const PACKET_TOO_LARGE = 1153

export const DUPLICATE_ENTRY = 1062

/**
 * Whether the connection broke in the middle of the statement. A packet that is too large shows like that as well: the
 * server says 1153 and hangs up while we are still sending, which mostly takes its words along.
 */
export const isBroken = ({ code }: { readonly code: string }): boolean => BROKEN.includes(code)

/** Whether the connection is gone with the failure, though an event may be to blame. */
export const endsConnection = (failure: { readonly code: string }): boolean =>
  Number(failure.code) === PACKET_TOO_LARGE || isBroken(failure)

/** Whether the statement took too long: for us, for MariaDB, for MySQL. */
export const isTimeout = ({ code }: { readonly code: string }): boolean =>
  ["ETIMEDOUT", "1969", "3024"].includes(code)

/** Whether it was a lock that made us wait: another server would not help. */
export const isBusy = ({ code }: { readonly code: string }): boolean => CLASSES.get(Number(code)) === "busy"

/** Whether a text was refused, possibly for the character set of its column. */
export const isTextRefused = ({ code }: { readonly code: string }): boolean => ["1366", "1977"].includes(code)

// ------------------------------------------------------------------------------------------------- the table

type Reason = (subject: Subject) => string

const tableOf = ({ table }: Subject) => (table === undefined ? "the table" : `the table ${table}`)

const unreachable: Reason = ({ host }) => `The database at ${host} cannot be reached; it is tried again`

const garbled: Reason = ({ host }) =>
  `What answers at ${host} does not speak MySQL's protocol: check host and port, and what stands between; it is tried again`

const unavailable: Reason = ({ host }) => `The database at ${host} cannot take events now; it is tried again`

const otherUniqueKey: Reason = (subject) =>
  `A unique key of ${tableOf(subject)} other than that of event_id refuses an event: drop the key, since different ` +
  `events may agree in its columns`

const credentials: Reason = ({ host, username }) =>
  `${host} refuses the account ${username}: check its password, the machines it may come from, and whether it ` +
  `must use TLS`

const locked: Reason = ({ host, username }) =>
  `${host} has locked the account ${username} or let its password expire: unlock it or give it a new password`

const insertRight: Reason = (subject) =>
  `The account ${subject.username} may not insert into ${tableOf(subject)} of ${subject.database}: GRANT INSERT to it`

/** The schema is not what the program needs. */
export const migrate: Reason = (subject) =>
  `${tableOf(subject)} of ${subject.database} is missing or lacks a column: run \`effect-audit migrate\``

const noPartition: Reason = (subject) => `No partition of ${tableOf(subject)} takes the events: add one`

const certificate: Reason = ({ host }) =>
  `The TLS certificate of ${host} is not trusted: check \`ssl.ca\`, the names in the certificate, and its dates`

/** Class B, with what the operator is to do. */
export const OPERATOR: Readonly<Record<string, Reason>> = {
  1044: ({ database, username }) => `The account ${username} may not use ${database}: GRANT INSERT on it`,
  1045: credentials,
  1049: ({ database, host }) => `${host} has no database ${database}: create it, or correct the name`,
  1054: migrate,
  1064: ({ host }) => `${host} does not understand an INSERT: is it MySQL or MariaDB?`,
  1129: ({ host }) => `${host} blocks this machine after failed connections: FLUSH HOSTS there`,
  1130: ({ host, username }) =>
    `${host} takes no connection from this machine: create ${username} for its address`,
  1142: insertRight,
  1143: insertRight,
  1146: migrate,
  1227: ({ host, username }) => `${host} denies a privilege to ${username}: it needs INSERT and nothing else`,
  1364: (subject) =>
    `A column of ${tableOf(subject)} is NOT NULL, without a DEFAULT and unknown to us: give it one`,
  1467: (subject) => `The AUTO_INCREMENT column of ${tableOf(subject)} has no numbers left: widen it`,
  1526: noPartition,
  1698: credentials,
  1820: locked,
  1862: locked,
  1874: ({ host }) => `InnoDB of ${host} is in read-only mode: restore it to normal operation`,
  3118: locked, // MySQL
  3159: ({ host }) => `${host} takes connections by TLS only: set \`ssl\``,
  4151: locked, // MariaDB
  8059: (subject) => `The AUTO_RANDOM column of ${tableOf(subject)} has no numbers left: widen it`, // TiDB
  HANDSHAKE_NO_SSL_SUPPORT: ({ host }) => `${host} does not offer TLS: enable it there, or leave \`ssl\` out`,
  HANDSHAKE_SSL_ERROR: certificate,
  AUTH_SWITCH_PLUGIN_ERROR: ({ host, username }) =>
    `${host} asks for a way of authentication that the driver refuses: choose another one for ${username}`
}

const BROKEN = ["ECONNRESET", "EPIPE", "PROTOCOL_CONNECTION_LOST", "CONNECTION_LOST", "2006", "2013"]

/** All other classes. A code that is nowhere in the table counts as transient: nothing is ever dropped for it. */
export const CLASSES: ReadonlyMap<number, FailureClass> = new Map(
  Object.entries({
    busy: [1205, 1213, 1614],
    transient: [
      ...[1037, 1040, 1041, 1135, 1203, 1226, 1461, 1637], // capacity
      ...[1047, 1053, 1290, 1792, 1836, 1927, 3032, 3100, 3101, 4031], // failover, shutdown
      ...[1317, 1969, 3024], // killed, or out of time: MariaDB 1969, MySQL 3024
      ...[1105, 1152, 1158, 1159, 1160, 1161, 1180], // network; 1105 is Vitess's general error
      ...[2006, 2013], // what a proxy says when the server behind it has gone
      ...[1021, 1114], // disk or table full
      ...[8002, 8005, 8022, 8027, 8028, 8120, 8229, 9001, 9002, 9003, 9004, 9005, 9007, 9008] // TiDB, ProxySQL
    ],
    record: [
      ...[1048, 1264, 1265, 1292, 1300, 1366, 1406, 1452, 1690, 1713, 1977, 3140],
      ...[3819, 4025], // CHECK: MySQL 3819, MariaDB 4025
      ...[1118, 1644], // a row too large for its page; refused by a trigger (SIGNAL)
      ...[PACKET_TOO_LARGE, 8025] // 8025: TiDB's limit of an entry
    ],
    tooMany: [1390, 8004, 9500] // placeholders; TiDB's limits of a transaction
  } satisfies Partial<Record<FailureClass, ReadonlyArray<number>>>).flatMap(([cls, codes]) =>
    codes.map((code) => [code, cls as FailureClass] as const)
  )
)

interface DriverError {
  readonly errno: number | undefined
  readonly code: string | undefined
  readonly message: string
}

/** The server's number of an error; 0 if it is none of the server's. */
export const errnoOf = (cause: unknown): number => Math.max(0, asDriverError(cause).errno ?? 0)

const asDriverError = (cause: unknown): DriverError => {
  if (typeof cause !== "object" || cause === null)
    return { errno: undefined, code: undefined, message: String(cause) }
  const { code, errno, message, sqlMessage } = cause as Record<string, unknown>
  return {
    errno: typeof errno === "number" ? errno : undefined,
    code: typeof code === "string" ? code : undefined,
    message: typeof sqlMessage === "string" ? sqlMessage : typeof message === "string" ? message : ""
  }
}

/** The driver's errors hold the statement with all its rows, and for TLS the server's certificates in a circle. */
const essence = (cause: unknown): unknown => {
  if (!(cause instanceof Error)) return cause
  const { code, errno, sqlState } = cause as { code?: unknown; errno?: unknown; sqlState?: unknown }
  const error = new Error(cause.message)
  if (cause.stack !== undefined) error.stack = cause.stack
  return Object.assign(error, { code, errno, sqlState })
}

/**
 * Whether the answer made no sense to the driver: so it says, or Node does, which reads beyond the end of a packet then.
 * What Node says of TLS has a code beginning in ERR_SSL or ERR_TLS.
 */
const isGarbled = (cause: unknown, code: string | undefined) =>
  code === undefined
    ? cause instanceof RangeError ||
      cause instanceof TypeError ||
      (cause instanceof Error && cause.message.startsWith("Should not reach here"))
    : GARBLED.includes(code) || /^ERR_(?!SSL_|TLS_)/.test(code)

const GARBLED = [PROTOCOL_ERROR, "PROTOCOL_UNEXPECTED_PACKET", "HANDSHAKE_UNKNOWN_ERROR"]

/** mysql2 calls every end of a TLS handshake `HANDSHAKE_SSL_ERROR`, also that of a server which goes down. */
const isDisconnection = (errno: number | undefined, text: string) =>
  (errno !== undefined && errno < 0) || text.includes("disconnected before secure TLS connection")
