/**
 * The failures of MySQL and MariaDB: what each means for the events of a statement. docs/operations.md shows the same
 * table, and a test compares the two.
 *
 * By `errno`, never by mysql2's `code`, which names MariaDB's 4025 (CHECK) `ER_INNODB_AUTOEXTEND_SIZE_OUT_OF_RANGE`.
 * MySQL, MariaDB, TiDB and ProxySQL share the table, since no code means two things to an INSERT.
 */
import { Redacted } from "effect"
import { UploadError } from "../../../schema/Errors.js"
import { SEAL_TABLE } from "../../proof/seal.js"
import { PROTOCOL_ERROR } from "./driver.js"
import { migrateCommand } from "../rows.js"

/**
 * - `transient`: passes by itself; keep the events, connect again, to the next host if there is one
 * - `busy`: passes by itself, and this connection is as good as any other
 * - `operator`: stays until somebody mends it; blame no event
 * - `record`: the database will never take one of the statement's events
 * - `doubtful`: an event may be to blame, or something behind its table; only evidence tells (doubt.ts)
 * - `unknown`: nobody knows the code; mostly passes by itself, and is doubtful if it comes again
 * - `tooMany`: the statement must be smaller; blame no event
 * - `delivered`: an event with such an id is in the table already, or in one that a trigger fills
 */
export type FailureClass =
  "transient" | "busy" | "operator" | "record" | "doubtful" | "unknown" | "tooMany" | "delivered"

export interface Failure {
  readonly class: FailureClass
  /** what the status shows: the errno as text, or a connection's code */
  readonly code: string
  /** what is wrong and what to do next, in our words; said if no event is to blame */
  readonly reason: string
  /** the database's message, which may repeat the row */
  readonly text: string
  readonly cause: unknown
}

/** What statements are for. The reasons differ by it. */
export type Purpose = "deliver" | "read" | "prove" | "migrate"

/** What a statement was about: names for the reasons, and what tells our unique key from others. */
export interface Subject {
  /** the server as it was configured, for example `db1:3306` */
  readonly host: string
  readonly username: string
  readonly database: string
  /** what the statements are for; `deliver` by default */
  readonly purpose?: Purpose
  /** the key under which the password goes to the server, if the settings name one */
  readonly serverPublicKey?: string | undefined
  /** the table of a statement that writes events, which was checked before; undefined while connecting */
  readonly table?: string
  /** the names of the table's unique keys over `event_id` alone */
  readonly eventKeys?: ReadonlyArray<string>
  /** the columns that are written */
  readonly columns?: ReadonlyArray<string>
  /** the table's AUTO_INCREMENT column, unless the kind writes it */
  readonly counter?: string | undefined
}

/** Classifies what mysql2 or Node threw. */
export const classify = (cause: unknown, subject: Subject): Failure => {
  const { code: name, errno, message: text, sqlState } = asDriverError(cause)
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
      return failure("ECONNRESET", "transient", unreachable(subject, text))
    }
    if (isGarbled(cause, name)) return failure(PROTOCOL_ERROR, "transient", garbled(subject, text))
    const operator = CONNECTING[code]
    return operator === undefined
      ? failure(code, "transient", unreachable(subject, text))
      : failure(code, "operator", operator(subject, text))
  }

  const code = String(errno)
  // a trigger's SIGNAL may have any number and text
  if (isSignal(cause)) return failure(code, "record", unavailable(subject, text))
  if (errno === DUPLICATE_ENTRY) {
    return isEventKey(text, subject)
      ? failure(code, "delivered", behindTrigger(subject, text))
      : failure(code, "operator", otherUniqueKey(subject, text))
  }
  const known = CODES.get(errno)
  const cls = known?.class ?? classOfState(sqlState)
  const reason = known?.reason ?? (cls === "operator" ? unknownOperator : unavailable)
  return failure(code, cls, reason(subject, text))
}

/** Whether a trigger raised it to refuse a row: SQLSTATE class 45 (MySQL manual, "SIGNAL Statement"). */
const isSignal = (cause: unknown): boolean => asDriverError(cause).sqlState?.startsWith("45") === true

/** The SQLSTATEs of a server's own errors whose summary names a column or a constraint; MariaDB's last. */
const OWN_STATES: Readonly<Record<number, ReadonlyArray<string> | undefined>> = {
  1048: ["23000"],
  1216: ["23000"],
  1264: ["22003"],
  1265: ["01000"],
  1292: ["22007"],
  1366: ["HY000", "22007"],
  1406: ["22001"],
  1411: ["HY000"],
  1452: ["23000"],
  1977: ["HY000"],
  3819: ["HY000"],
  3988: ["HY000"],
  4025: ["23000"]
}

/** Whether a trigger wrote the message: its SQLSTATE is not the server's for that number. */
export const isOfTrigger = (cause: unknown): boolean => {
  const { errno, sqlState } = asDriverError(cause)
  const own = errno === undefined ? undefined : OWN_STATES[errno]
  return isSignal(cause) || (own !== undefined && sqlState !== undefined && !own.includes(sqlState))
}

/** The class of a code that the table below lacks, by the class of its SQLSTATE (ISO 9075-2, 24.1). */
const classOfState = (sqlState: string | undefined): FailureClass => {
  switch (sqlState?.slice(0, 2)) {
    case "22": // data exception
    case "23": // integrity constraint violation
    case "44": // WITH CHECK OPTION violation
      return "doubtful"
    case "28": // invalid authorization
    case "42": // syntax error or access rule violation
      return "operator"
    case "08": // connection exception
      return "transient"
    case "40": // transaction rollback
      return "busy"
    default:
      return "unknown"
  }
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
 * Whether a 1062 is about one of our keys. The message ends in the key's name, in MySQL with the table before it. The
 * values of the row stand earlier, so they cannot imitate it. Needs `lc_messages='en_US'`. Case does not count: in a
 * table's name the server decides (`lower_case_table_names`). In a key's it means nothing (MySQL manual, "Identifier
 * Case Sensitivity"). A trigger's table may have a key of the same name.
 */
export const isEventKey = (message: string, subject: Subject): boolean =>
  namesKey(message, subject, subject.eventKeys ?? [])

/** Whether a 1062 is about one of these keys of the table. */
export const namesKey = (message: string, { table }: Subject, keys: ReadonlyArray<string>): boolean => {
  const text = message.toLowerCase()
  const endsIn = (name: string) => text.endsWith(` for key '${name.toLowerCase()}'`)
  return keys.some((key) => endsIn(key) || endsIn(`${table ?? ""}.${key}`))
}

/** The packet was larger than the server, or a proxy before it, takes. */
export const PACKET_TOO_LARGE = 1153

export const DUPLICATE_ENTRY = 1062

/** No prepared statements are left on the server (`max_prepared_stmt_count`). */
const NOT_PREPARED = 1461

/** A text does not fit the character set that MySQL chose for its column when it prepared the statement. */
const NOT_CONVERTIBLE = 3988

/**
 * Whether the statement may succeed as text. MySQL gives parameters their character sets when it prepares the
 * statement, and keeps them after an ALTER TABLE.
 */
export const isOfPreparing = ({ code }: { readonly code: string }): boolean =>
  [NOT_PREPARED, NOT_CONVERTIBLE].includes(Number(code))

/**
 * Whether the connection broke in the middle of the statement. Too large a packet mostly looks the same. The server
 * says 1153 and hangs up while we still send, so its answer is lost.
 */
export const isBroken = ({ code }: { readonly code: string }): boolean => BROKEN.includes(code)

/** Whether the connection is gone with the failure, though an event may be to blame. */
export const endsConnection = (failure: { readonly code: string }): boolean =>
  Number(failure.code) === PACKET_TOO_LARGE || isBroken(failure)

/** Whether the statement took too long, by our clock, MariaDB's or MySQL's. */
export const isTimeout = ({ code }: { readonly code: string }): boolean =>
  ["ETIMEDOUT", "1969", "3024"].includes(code)

/** Whether MySQL's Group Replication refused the transaction. If it does so again, the size is to blame. */
export const isRefusedByGroup = ({ code }: { readonly code: string }): boolean => code === "3100"

/** Whether the server, or a proxy, has answered: the connection works, and a trigger may have chosen the number. */
export const isServers = ({ cause }: Failure): boolean => errnoOf(cause) > 0

/** Whether the server says that a disk or a table is full. Small rows may find room where a large one does not. */
export const isFull = ({ code, text }: Failure): boolean =>
  ["1021", "1114"].includes(code) && /\bfull\b/i.test(text)

/** The codes of a server that takes no writes: by its `read_only`, its transactions', or its start's. */
export const READ_ONLY: ReadonlyArray<number> = [1290, 1792, 1836]

/** Whether another server may take what this one did not. */
export const helpsElsewhere = (error: UploadError): boolean =>
  error.class === "transient" || READ_ONLY.includes(Number(error.code))

/** Whether it was a lock that made us wait: another server would not help. */
export const isBusy = ({ code }: { readonly code: string }): boolean =>
  CODES.get(Number(code))?.class === "busy"

/** Whether a text was refused, possibly for the character set of its column. */
export const isTextRefused = ({ code }: { readonly code: string }): boolean =>
  [1366, 1977, NOT_CONVERTIBLE].includes(Number(code))

const BROKEN = ["ECONNRESET", "EPIPE", "PROTOCOL_CONNECTION_LOST", "CONNECTION_LOST", "2006", "2013"]

// ----------------------------------------------------------------------------------------------- the reasons

/** Says what is wrong and what to do. Of the database's text it uses only the name of an object. */
type Reason = (subject: Subject, text: string) => string

const tableOf = ({ table }: Subject) => (table === undefined ? "the table" : `the table ${table}`)

/** What comes after a failure that passes by itself: delivery goes on, all else has ended. */
const again = ({ purpose = "deliver" }: Subject): string =>
  purpose === "deliver" ? "it is tried again" : `${purpose} again once that is over`

/** Whether nothing is written. */
const reads = ({ purpose }: Subject): boolean => purpose === "read" || purpose === "prove"

const unreachable: Reason = (subject) =>
  `The database at ${subject.host} cannot be reached; ${again(subject)}`

const garbled: Reason = (subject) =>
  `What answers at ${subject.host} does not speak MySQL's protocol: check host and port, and what stands between; ` +
  again(subject)

const unavailable: Reason = (subject) =>
  `The database at ${subject.host} cannot ${reads(subject) ? "be read" : "take events"} now; ${again(subject)}`

const unknownOperator: Reason = (subject) =>
  `${subject.host} refuses to ${reads(subject) ? "read" : "insert into"} ${tableOf(subject)}: look the code up in its manual`

const otherUniqueKey: Reason = (subject, text) =>
  subject.counter !== undefined && /[.']PRIMARY'$/.test(text)
    ? widenCounter(subject, text)
    : `A unique key of ${tableOf(subject)} other than that of event_id, or one of a table that a trigger fills, refuses ` +
      `an event: drop the key, since different events may agree in its columns`

const behindTrigger: Reason = (subject) =>
  `A table that a trigger of ${tableOf(subject)} fills holds an event already: drop its unique key over event_id, or ` +
  `have the trigger pass over what is there`

const widenCounter: Reason = (subject) =>
  `The AUTO_INCREMENT column ${subject.counter ?? "id"} of ${tableOf(subject)} has no numbers left: widen ` +
  `${subject.counter ?? "id"}, for example to BIGINT UNSIGNED`

const credentials: Reason = (subject) =>
  subject.table === undefined
    ? `${subject.host} refuses the account ${subject.username}: check its password, the machines it may come from, ` +
      `${subject.serverPublicKey === undefined ? "" : "`serverPublicKey`, "}and whether it must use TLS`
    : // the account itself has connected
      `The definer of a view or trigger behind ${tableOf(subject)} may not work there, or is gone: create that account, ` +
      `or the object anew`

const locked: Reason = ({ host, username }) =>
  `${host} has locked the account ${username} or let its password expire: unlock it or give it a new password`

const insertRight: Reason = (subject, text) => {
  const [, command, named] =
    /^(\w+) command denied to user .* for table '?(?:`?[^`]*`?\.)?`?([^`']*)`?'?$/.exec(text) ?? []
  if (command !== undefined && isSame(SEAL_TABLE, named)) {
    return `The account ${subject.username} lacks the right ${command} on ${SEAL_TABLE}: GRANT SELECT, INSERT to it`
  }
  if (
    command === "TRIGGER" ||
    (command !== undefined && named !== undefined && !isSame(named, subject.table))
  ) {
    return (
      `The definer of a view or trigger behind ${tableOf(subject)} lacks the right ${command} on ` +
      `${named ?? "its table"}: GRANT it to the definer, or create the object anew`
    )
  }
  const [what, right] = reads(subject) ? ["read", "SELECT"] : ["insert into", "INSERT"]
  return `The account ${subject.username} may not ${what} ${tableOf(subject)} of ${subject.database}: GRANT ${right} to it`
}

const isSame = (a: string, b: string | undefined) => b !== undefined && a.toLowerCase() === b.toLowerCase()

/** The schema is not what the program needs. */
export const migrate: Reason = (subject) =>
  `${tableOf(subject)} of ${subject.database} is missing or lacks a column: run ${migrateCommand()}`

/** Our table was checked before. So unless it is ours, the missing table is one that a trigger or a view uses. */
const missing: Reason = (subject, text) => {
  const [, named] = /^Table '(?:[^']*\.)?([^'.]+)' doesn't exist/.exec(text) ?? []
  return subject.table === undefined || (named !== undefined && isSame(named, subject.table))
    ? migrate(subject, text)
    : brokenObject(subject, text)
}

/** The same for a column. */
const missingColumn: Reason = (subject, text) => {
  const [, named = ""] = /^Unknown column '([^']+)'/.exec(text) ?? []
  const { columns, table } = subject
  if (table === undefined || columns === undefined) return migrate(subject, text)
  return columns.some((column) => isSame(column, named))
    ? `${tableOf(subject)}, or a table that its triggers fill, lacks the column ${named}: run ` +
        `${migrateCommand()}, or mend the trigger`
    : brokenObject(subject, text)
}

/** Names the object if the server does. These texts hold names of the schema and nothing of a row. */
const brokenObject: Reason = (subject, text) => {
  const [object] =
    /^Table '[^']+' doesn't exist|(?:FUNCTION|PROCEDURE) \S+ does not exist|View '[^']+'|definer \('[^']*'@'[^']*'\)|(?:Unknown )?[Cc]olumn '[^']+'|table '[^']+'/.exec(
      text
    ) ?? []
  return (
    `Something behind ${tableOf(subject)}, a trigger, a view or what they call, is broken` +
    `${object === undefined ? "" : ` (${object})`}: mend it, or drop it`
  )
}

const noPartition: Reason = (subject) => `No partition of ${tableOf(subject)} takes the events: add one`

const certificate: Reason = ({ host }) =>
  `The TLS certificate of ${host} is not trusted: check \`ssl.ca\`, the names and IP addresses in the certificate, and its dates`

const generated: Reason = (subject) =>
  `A column of ${tableOf(subject)} that an event has a value for is GENERATED: make it an ordinary one`

const noDefault: Reason = (subject, text) => {
  const [, column] = /^Field '([^']+)' doesn't have a default value/.exec(text) ?? []
  return (
    `A column ${column === undefined ? "" : `(${column}) `}of ${tableOf(subject)}, or of a table that its triggers fill, is NOT NULL, ` +
    `without a DEFAULT and unknown to us: give it one`
  )
}

const noGroup: Reason = (subject) =>
  `${subject.host} may not write into ${tableOf(subject)} within its replication group: it needs InnoDB and a primary ` +
  `key, and one primary`

// ------------------------------------------------------------------------------------------------- the table

/** A code's class, and its reason if that is more than "it is tried again". */
interface Known {
  readonly class: FailureClass
  readonly reason?: Reason
}

const all = (cls: FailureClass, ...codes: ReadonlyArray<number>): ReadonlyArray<readonly [number, Known]> =>
  codes.map((code) => [code, { class: cls }])

const operator = (reason: Reason, ...codes: ReadonlyArray<number>): ReadonlyArray<readonly [number, Known]> =>
  codes.map((code) => [code, { class: "operator", reason }])

export const CODES: ReadonlyMap<number, Known> = new Map([
  ...operator(
    (subject) =>
      `The account ${subject.username} may not use ${subject.database}: GRANT ${reads(subject) ? "SELECT" : "INSERT"} on it, ` +
      `or SET DEFAULT ROLE if a role of the account has the right`,
    1044
  ),
  ...operator(credentials, 1045, 1698),
  ...operator(
    ({ database, host }) => `${host} has no database ${database}: create it, or correct the name`,
    1049
  ),
  ...operator(missingColumn, 1054),
  ...operator(({ host }) => `${host} does not understand a statement: is it MySQL or MariaDB?`, 1064),
  ...operator(({ host }) => `${host} blocks this machine after failed connections: FLUSH HOSTS there`, 1129),
  ...operator(
    ({ host, username }) =>
      `${host} takes no connection from this machine: create ${username} for its address`,
    1130
  ),
  ...operator(insertRight, 1142, 1143),
  ...operator(missing, 1146),
  ...operator(
    (subject) =>
      `${subject.host} denies a privilege to ${subject.username}: it needs ${reads(subject) ? "SELECT" : "INSERT"} and nothing else`,
    1227
  ),
  // a function is gone; a view is broken, or not to be written to; a definer is gone; a trigger writes to its own table
  ...operator(brokenObject, 1305, 1348, 1356, 1442, 1449, 1471),
  ...operator(generated, 1906, 3105), // MariaDB 1906, MySQL 3105
  ...operator(noDefault, 1364),
  ...operator(widenCounter, 167, 1467), // MariaDB 167
  ...operator(noPartition, 1526),
  ...operator(
    ({ host, username }) =>
      `${host} lacks the way of authentication of ${username}: ALTER USER ... IDENTIFIED WITH one that it has`,
    1524
  ),
  ...operator(
    (subject) =>
      `A trigger of ${tableOf(subject)} writes to a table without transactions, which the server's enforce_gtid_consistency forbids: make that table InnoDB`,
    1785
  ),
  ...operator((subject) => `The tablespace of ${tableOf(subject)} is discarded: import it`, 1814),
  ...operator(locked, 1820, 1862, 3118, 3955, 4151), // MySQL 3118 and 3955, MariaDB 4151
  ...operator(({ host }) => `InnoDB of ${host} is in read-only mode: restore it to normal operation`, 1874),
  ...operator(noGroup, 3098),
  ...operator(({ host }) => `${host} takes connections by TLS only: set \`ssl\``, 3159),
  ...operator(
    (subject) => `The schema of ${tableOf(subject)} is READ ONLY: ALTER SCHEMA ... READ ONLY = 0`,
    3989
  ),
  ...operator(
    (subject) => `The AUTO_RANDOM column of ${tableOf(subject)} has no numbers left: widen it`,
    8059
  ), // TiDB

  ...all("busy", 1205, 1213, 1614),

  ...all("transient", 1015, 1037, 1040, 1041, 1135, 1203, 1226, NOT_PREPARED, 1637), // capacity
  ...all("transient", 1036, 1047, 1053, 1290, 1792, 1836, 1927, 3032, 3100, 3101, 4031), // failover, shutdown
  ...all("transient", 1317, 1969, 3024), // killed, or out of time: MariaDB 1969, MySQL 3024
  ...all("transient", 1152, 1158, 1159, 1160, 1161, 1180, 2006, 2013), // network; 2006 and 2013 are a proxy's words
  ...all("transient", 1021, 1114), // disk or table full
  ...all("transient", 8002, 8005, 8022, 8027, 8028, 8120, 8229, 9005, 9007, 9008), // TiDB
  ...all("transient", 9001, 9002, 9003, 9004), // ProxySQL, and TiDB

  // types, NULL, lengths
  ...all(
    "record",
    1048,
    1118,
    1264,
    1265,
    1292,
    1300,
    1301,
    1365,
    1366,
    1406,
    1411,
    1441,
    1525,
    1690,
    1713,
    1958,
    1977,
    3673,
    3854,
    NOT_CONVERTIBLE,
    6527
  ),
  ...all("record", 3140, 3141, 3144, 3150, 3151, 3155, 3156, 3157, 3158, 3966, 3967), // JSON
  ...all("record", 4035, 4036, 4037, 4038, 4039, 4040), // JSON, MariaDB
  ...all("record", 1416, 3033, 3037, 3055, 3516, 3548, 3616, 3617, 3643, 3731, 3732, 6136), // geometry, its SRID, vectors
  ...all("record", 3070, 3071, 3072, 3073, 4048, 4049, 4050, 4076), // GeoJSON
  ...all("record", 3751, 3752, 3903, 3904, 3905, 3906, 3907, 3908), // functional index
  ...all("record", 1216, 1369, 1452, 3819, 4025), // foreign key, view, CHECK
  ...all("record", 1643, 1644), // SIGNAL
  ...all("record", PACKET_TOO_LARGE, 8025), // 8025: TiDB's limit of an entry

  // errors of a trigger, a CHECK or a generated column, for these values or for any
  ...all("doubtful", 1139, 1172, 1242, 1329, 1339, 3057, 3143, 3149, 3154, 3165, 4041, 4042, 4043, 4163),
  ...all(
    "doubtful",
    3685,
    3686,
    3688,
    3689,
    3690,
    3691,
    3692,
    3693,
    3694,
    3695,
    3696,
    3697,
    3698,
    3699,
    3700
  ), // patterns
  // the general error of Vitess, and of functions of MySQL
  ...all("unknown", 1105),

  ...all("tooMany", 1197, 1390, 4082, 8004, 9500) // binary log's cache, placeholders, memory; TiDB's limits
])

/** A login that needs TLS, or a key that is trusted. */
export const SERVER_PUBLIC_KEY = "SERVER_PUBLIC_KEY"

/** Failures to connect that stay, by the driver's codes. */
export const CONNECTING: Readonly<Record<string, Reason>> = {
  HANDSHAKE_NO_SSL_SUPPORT: ({ host }) => `${host} does not offer TLS: enable it there, or leave \`ssl\` out`,
  HANDSHAKE_SSL_ERROR: certificate,
  [SERVER_PUBLIC_KEY]: ({ host, username }) =>
    `${host} asks for the password of ${username} under a key that nobody vouches for: set \`ssl\`, or set ` +
    `\`serverPublicKey\` to the server's key (PEM) or to "trust"`,
  AUTH_SWITCH_PLUGIN_ERROR: ({ host, username }) =>
    `${host} asks for a way of authentication that the driver refuses: choose another one for ${username}`
}

interface DriverError {
  readonly errno: number | undefined
  readonly code: string | undefined
  readonly message: string
  readonly sqlState: string | undefined
}

/** The server's number of an error; 0 for any other error. */
export const errnoOf = (cause: unknown): number => Math.max(0, asDriverError(cause).errno ?? 0)

const asDriverError = (cause: unknown): DriverError => {
  if (typeof cause !== "object" || cause === null)
    return { errno: undefined, code: undefined, message: String(cause), sqlState: undefined }
  const { code, errno, message, sqlMessage, sqlState } = cause as Record<string, unknown>
  return {
    errno: typeof errno === "number" ? errno : undefined,
    code: typeof code === "string" ? code : undefined,
    message: typeof sqlMessage === "string" ? sqlMessage : typeof message === "string" ? message : "",
    sqlState: typeof sqlState === "string" ? sqlState : undefined
  }
}

/** An error without the driver's additions: the statement with all its rows, and for TLS a cycle of certificates. */
const essence = (cause: unknown): unknown => {
  if (!(cause instanceof Error)) return cause
  const { code, errno, sqlState } = cause as { code?: unknown; errno?: unknown; sqlState?: unknown }
  const error = new Error(cause.message)
  if (cause.stack !== undefined) error.stack = cause.stack
  return Object.assign(error, { code, errno, sqlState })
}

/**
 * Whether the driver could not understand the answer. It says so, or Node does, when it reads beyond the end of a
 * packet. Node's codes about TLS begin with ERR_SSL or ERR_TLS.
 */
const isGarbled = (cause: unknown, code: string | undefined) =>
  code === undefined
    ? cause instanceof RangeError ||
      cause instanceof TypeError ||
      (cause instanceof Error && cause.message.startsWith("Should not reach here"))
    : GARBLED.includes(code) || /^ERR_(?!SSL_|TLS_)/.test(code)

const GARBLED = [PROTOCOL_ERROR, "PROTOCOL_UNEXPECTED_PACKET", "HANDSHAKE_UNKNOWN_ERROR"]

/** mysql2 calls every end of a TLS handshake `HANDSHAKE_SSL_ERROR`, also when a server goes down. */
const isDisconnection = (errno: number | undefined, text: string) =>
  (errno !== undefined && errno < 0) || text.includes("disconnected before secure TLS connection")
