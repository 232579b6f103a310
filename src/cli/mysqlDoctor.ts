/** The checks of `doctor` on MySQL and MariaDB, step by step: the first that fails says where to look. */
import { SqlError } from "@effect/sql/SqlError"
import { Clock, Effect, Either, Schema } from "effect"
import type * as dns from "node:dns"
import * as net from "node:net"
import type { Session } from "../internal/database/mysql/connection.js"
import { open } from "../internal/database/mysql/connection.js"
import { protocolError } from "../internal/database/mysql/driver.js"
import type { Endpoint } from "../internal/database/mysql/endpoints.js"
import { endpointsOf, TRUST, unknownParameters } from "../internal/database/mysql/endpoints.js"
import { isLoopback } from "../internal/database/mysql/logins.js"
import { addressesOf, silentOf } from "../internal/database/mysql/lookup.js"
import { classify } from "../internal/database/mysql/errors.js"
import {
  columnsOf,
  engineNote,
  engineOf,
  isOverEventId,
  isTellable,
  misfit,
  misnamed,
  misnamedColumn,
  unfit,
  uniqueKeysOf
} from "../internal/database/mysql/table.js"
import { provable } from "../internal/database/mysql/provable.js"
import { misfitSeals, SEAL_COLUMNS } from "../internal/database/mysql/seals.js"
import { EVENT_ID, EVENT_TIME, tableName } from "../internal/database/rows.js"
import { PROOF_COLUMN, SEAL_TABLE } from "../internal/proof/seal.js"
import type * as MysqlUploader from "../layers/MysqlUploader.js"
import { Activity } from "../schema/Activity.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import type { Finding } from "./findings.js"
import { failure, ok, warning } from "./findings.js"
import { formatBytes } from "./format.js"

interface Settings {
  readonly maxLineBytes: number
  /** the keys, if what is delivered is to be sealed */
  readonly proof?: unknown
}

type Report = (finding: Finding) => Effect.Effect<void>

/** Examines each server, as far as it can be reached. */
export const examine = (
  options: MysqlUploader.Options,
  kinds: ReadonlyArray<AuditEvent.Any>,
  settings: Settings,
  report: Report
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const endpoints = yield* Effect.either(endpointsOf(options))
    if (Either.isLeft(endpoints)) return yield* report(failure("database", endpoints.left.reason))
    const unknown = yield* unknownParameters(options)
    if (unknown.length > 0) {
      yield* report(warning("url", `these parameters mean nothing here: ${unknown.join(", ")}`))
    }
    for (const endpoint of endpoints.right) {
      if (!(yield* reach(endpoint, report))) continue
      const result = yield* Effect.either(
        Effect.scoped(examineServer(endpoint, options, kinds, settings, report))
      )
      if (Either.isRight(result)) continue
      const { code, reason } = classify(result.left.cause, endpoint)
      yield* report(failure("login", `${reason} (${code})`))
    }
  })

/** Checks name and port apart: the driver would not say which of them failed. */
const reach = ({ address, host }: Endpoint, report: Report) =>
  Effect.gen(function* () {
    const found = yield* Effect.either(addressesOf(address.host).pipe(Effect.timeout("5 seconds")))
    if (Either.isLeft(found)) {
      yield* report(
        failure("name", `${address.host} is not known here: correct it, or mend the name service`)
      )
      return false
    }
    const addresses = found.right.map((each) => each.address).join(", ")
    yield* report(ok("name", `${address.host} is ${addresses}`))
    const connected = yield* Effect.either(connect(address, found.right))
    yield* report(
      Either.isRight(connected)
        ? ok("connect", host)
        : failure(
            "connect",
            `${host} does not answer (${connected.left}): is it running, and does a firewall let us through?`
          )
    )
    return Either.isRight(connected)
  })

/** Connects to any of the addresses, as delivery does. */
const connect = (
  { host, port }: Endpoint["address"],
  addresses: ReadonlyArray<dns.LookupAddress>
): Effect.Effect<void, string> =>
  Effect.async<void, string>((resume) => {
    const lookup: net.LookupFunction = (_, { all }, answer) => {
      const [first] = addresses
      if (all === true || first === undefined) answer(null, [...addresses])
      else answer(null, first.address, first.family)
    }
    const socket = net.connect({ host, port, lookup })
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.void)
    })
    socket.once("error", (error: NodeJS.ErrnoException) => resume(Effect.fail(error.code ?? error.message)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeoutFail({ duration: "5 seconds", onTimeout: () => "ETIMEDOUT" }))

const examineServer = (
  endpoint: Endpoint,
  options: MysqlUploader.Options,
  kinds: ReadonlyArray<AuditEvent.Any>,
  settings: Settings,
  report: Report
) =>
  Effect.gen(function* () {
    const session = yield* open(endpoint)
    const { address, database, username } = endpoint
    for (const silent of silentOf(address.host)) {
      yield* report(
        warning(
          "connect",
          `${silent}, an address of ${address.host}, takes connections and stays silent: mend it`
        )
      )
    }
    yield* report(ok("login", `${username} to ${database}`))
    for (const finding of yield* examineSettings(session, settings)) yield* report(finding)
    const isDeduplicated = options.deduplication !== "none"
    const isSealed = settings.proof !== undefined
    for (const kind of kinds) {
      const name = tableName(kind, options.tables)
      for (const finding of yield* examineTable(session, { kind, name, isDeduplicated, isSealed })) {
        yield* report(finding)
      }
    }
    if (isSealed) for (const finding of yield* examineSeals(session)) yield* report(finding)
  })

const ServerSettings = Schema.Struct({
  version: Schema.String,
  mode: Schema.String,
  packet: Schema.Number,
  // a DECIMAL, which the driver gives as text
  now: Schema.Union(Schema.Number, Schema.NumberFromString)
})

const examineSettings = (
  session: Session,
  { maxLineBytes }: Settings
): Effect.Effect<ReadonlyArray<Finding>, SqlError> =>
  Effect.gen(function* () {
    const [tls] = yield* session.select(
      Schema.Struct({ Value: Schema.String }),
      "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
    )
    const before = yield* Clock.currentTimeMillis
    const [server] = yield* session.select(
      ServerSettings,
      "SELECT VERSION() AS version, @@global.sql_mode AS mode, @@max_allowed_packet AS packet, " +
        "UNIX_TIMESTAMP(NOW(3)) * 1000 AS now"
    )
    const after = yield* Clock.currentTimeMillis
    if (server === undefined) {
      const cause = protocolError("no row where there must be one")
      return yield* new SqlError({ message: cause.message, cause })
    }
    const { mode, now, packet, version } = server
    // the server read its clock between our two readings
    const skew = now - (before + after) / 2
    const isSkewed = Math.abs(skew) > SKEW + (after - before) / 2
    const cipher = tls?.Value ?? ""
    // escaped, a line takes up to twice its length
    const needed = 2 * maxLineBytes
    return [
      ok("server", version),
      tlsOf(session, cipher),
      ok("sql_mode", `${mode === "" ? "empty" : mode}; our sessions are strict whatever it is`),
      packet < needed
        ? warning(
            "packet",
            `max_allowed_packet is ${formatBytes(packet)}: events that are longer become dead letters; ${formatBytes(needed)} are enough for all (twice maxLineBytes)`
          )
        : ok("packet", formatBytes(packet)),
      isSkewed
        ? warning(
            "clock",
            `the server's differs from ours by ${Math.round(skew / 1000)} s: synchronise both by NTP`
          )
        : ok("clock", "agrees with ours")
    ]
  })

const tlsOf = ({ endpoint, remoteAddress }: Session, cipher: string): Finding => {
  if (cipher !== "") {
    return endpoint.ssl?.rejectUnauthorized === false
      ? warning("TLS", `${cipher}, but nobody verifies whose it is: set ssl.ca instead of rejectUnauthorized`)
      : ok("TLS", cipher)
  }
  if (isLoopback(remoteAddress())) return ok("TLS", "none, on the way within this machine")
  return warning(
    "TLS",
    endpoint.serverPublicKey === TRUST
      ? "none: events cross the network in the clear, and the password goes to whoever shows a key; set ssl"
      : "none: events cross the network in the clear; set ssl"
  )
}

/** milliseconds */
const SKEW = 2000

/** The command that makes the table of a kind, or gives it what it lacks. */
const migrateOf = ({ isSealed, kind: { kind } }: Target): string =>
  [
    "effect-audit migrate",
    ...(isSealed ? ["--proof"] : []),
    ...(kind === UseLog.kind || kind === LoginLog.kind
      ? []
      : [kind === Activity.kind ? "--activity" : "--events MODULE"])
  ].join(" ")

/** A table that events are delivered to. */
interface Target {
  readonly kind: AuditEvent.Any
  readonly name: string
  readonly isDeduplicated: boolean
  readonly isSealed: boolean
}

const examineTable = (session: Session, target: Target) =>
  Effect.gen(function* () {
    const { isDeduplicated, isSealed, kind, name } = target
    const { database, username } = session.endpoint
    const wrongName = misnamed(name) ?? misnamedColumn(kind)
    if (wrongName !== undefined) return [failure(kind.kind, wrongName)]
    const columns = yield* columnsOf(session, name)
    if (columns.size === 0) {
      return [
        failure(
          name,
          `${username} sees no such table in ${database}: run "${migrateOf(target)}", or GRANT INSERT on it`
        )
      ]
    }
    const ours = isDeduplicated ? [EVENT_ID, EVENT_TIME] : []
    const wanted = [
      ...ours,
      ...(isSealed ? [PROOF_COLUMN] : []),
      ...kind.columns.map((column) => column.name)
    ]
    const missing = wanted.filter((column) => !columns.has(column.toLowerCase()))
    const narrow = kind.columns.filter((column) => {
      const charset = columns.get(column.name.toLowerCase())?.charset
      return typeof charset === "string" && !/^utf8mb4$|^utf(16|32)/.test(charset)
    })
    const refused = yield* columnsWithout(session, "insert", name, wanted)
    const sealed = isSealed && missing.length === 0 ? provable(kind, name, columns) : undefined
    const uniqueKeys = isDeduplicated ? yield* uniqueKeysOf(session, name) : []
    const keys = uniqueKeys.filter(isOverEventId).map((key) => key.name)
    const { engine, transactional } = yield* engineOf(session, name)
    const isHidden = keys.length > 0 && !isTellable(kind, uniqueKeys, columns, transactional)
    const wrongColumns = isDeduplicated ? misfit(name, columns) : undefined
    const wrongEngine = unfit(name, engine, isDeduplicated)
    const note = engineNote(name, engine)
    return [
      ...(wrongEngine === undefined ? [] : [failure(name, wrongEngine)]),
      ...(note === undefined ? [] : [warning(name, note)]),
      ...(isSealed && !transactional
        ? [
            failure(
              name,
              `has an engine without transactions, which a seal needs: run "${migrateOf(target)}"`
            )
          ]
        : []),
      ...(sealed !== undefined && Either.isLeft(sealed) ? [failure(name, sealed.left)] : []),
      ...(wrongColumns === undefined ? [] : [failure(name, wrongColumns)]),
      ...(isDeduplicated && columns.get(EVENT_TIME)?.nullable === "NO"
        ? [warning(name, `${EVENT_TIME} is NOT NULL: adopted lines without a time become dead letters`)]
        : []),
      missing.length === 0
        ? ok(name, "all columns are there")
        : failure(name, `has no column ${missing.join(", ")}: run "${migrateOf(target)}"`),
      refused.length === 0
        ? ok(name, `${username} may insert`)
        : failure(
            name,
            `${username} may not insert into ${refused.join(", ")}: GRANT INSERT ON ${database}.${name}`
          ),
      narrow.length === 0
        ? ok(name, "its texts hold every character")
        : warning(
            name,
            `${narrow.map((column) => column.name).join(", ")} cannot hold every character: ALTER TABLE ${name} CONVERT TO CHARACTER SET utf8mb4`
          ),
      !isDeduplicated
        ? warning(name, 'deduplication is "none": an event may be stored twice after a failure')
        : keys.length === 0
          ? failure(
              name,
              `has no unique key over ${EVENT_ID}: run "${migrateOf(target)}", or set deduplication to "none"`
            )
          : ok(name, `unique key ${keys.join(", ")}`),
      ...(isHidden
        ? [
            warning(
              name,
              `has a unique key of its own, by which an event that is sent again becomes a dead letter: GRANT SELECT (${EVENT_ID}) ON ${database}.${name} to ${username}`
            )
          ]
        : [])
    ]
  })

/** The table of seals, which the account has to read, too. */
const examineSeals = (session: Session) =>
  Effect.gen(function* () {
    const { database, username } = session.endpoint
    const present = yield* columnsOf(session, SEAL_TABLE)
    if (present.size === 0)
      return [
        failure(
          SEAL_TABLE,
          `${username} sees no such table in ${database}: run "effect-audit migrate --proof", or GRANT SELECT, INSERT on it`
        )
      ]
    const wrong = misfitSeals(present)
    if (wrong.length > 0)
      return [failure(SEAL_TABLE, `is a table of another kind (${wrong.join(", ")}): rename it, and migrate`)]
    const names = SEAL_COLUMNS.map(([name]) => name)
    const refused = [
      ...(yield* columnsWithout(session, "select", SEAL_TABLE, names)),
      ...(yield* columnsWithout(session, "insert", SEAL_TABLE, names))
    ]
    return [
      refused.length === 0
        ? ok(SEAL_TABLE, `${username} may read and insert`)
        : failure(
            SEAL_TABLE,
            `${username} may not both read and insert: GRANT SELECT, INSERT ON ${database}.${SEAL_TABLE}`
          )
    ]
  })

/** The columns for which the account lacks a right, by all its roles and grants. */
const columnsWithout = (
  session: Session,
  right: "insert" | "select",
  table: string,
  columns: ReadonlyArray<string>
) =>
  Effect.map(
    session.select(
      Schema.Struct({ name: Schema.String, rights: Schema.String }),
      "SELECT column_name AS name, privileges AS rights FROM information_schema.columns " +
        "WHERE table_schema = DATABASE() AND table_name = ?",
      [table]
    ),
    (rows) => {
      const rights = new Map(rows.map(({ name, rights }) => [name.toLowerCase(), rights.split(",")]))
      return columns.filter((column) => rights.get(column.toLowerCase())?.includes(right) === false)
    }
  )
