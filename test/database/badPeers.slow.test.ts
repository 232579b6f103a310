/**
 * Faulty peers: whatever a server, a proxy or the network sends, an upload stores the event or fails as an UploadError.
 * Nothing is thrown outside our Effects, and nothing stays open.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Redacted, Schedule } from "effect"
import * as fc from "fast-check"
import * as fs from "node:fs"
import type * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Mutation, Script } from "../support/badPeers.js"
import { errorPacket, mutatingProxy, packetOf, scriptedServer } from "../support/badPeers.js"
import type { Certificates } from "../support/certificates.js"
import { makeCertificates } from "../support/certificates.js"
import type { TestDatabase } from "../support/database.js"
import { use } from "../support/events.js"
import { connectionOptions, failureOf, migratedDatabase, uploaderOf } from "../support/mysql.js"
import type { MysqlServer } from "../support/mysqlServer.js"
import { startServer } from "../support/mysqlServer.js"
import type { Listener } from "../support/net.js"
import { collectUncaught } from "../support/uncaught.js"

const long = process.env.AUDIT_LONG === "1"
/** The number of conversations of each of the four kinds. */
const runs = long ? 3000 : 150
const seed = Number(
  process.env.AUDIT_SEED ?? (process.env.AUDIT_LONG === "1" ? Date.now() % 1_000_000_000 : 20_261_129)
)

let server: MysqlServer
let database: TestDatabase
let certificates: Certificates

beforeAll(async () => {
  certificates = await makeCertificates("db.test")
  server = await startServer({
    args: [
      `--ssl-ca=${certificates.authority}`,
      `--ssl-cert=${certificates.certificate}`,
      `--ssl-key=${certificates.key}`,
      "--max-connections=500",
      "--max-connect-errors=1000000000"
    ]
  })
  database = await migratedDatabase(server.rootUrl)
})

afterAll(async () => {
  await database.drop()
  await server.stop()
  fs.rmSync(certificates.directory, { recursive: true })
})

const uncaught = collectUncaught()

/** Short time-outs, so that the tests do not wait long. */
const HASTY = { connectTimeout: "1 second", statementTimeout: "700 millis" } as const

const optionsAt = ({ host, port }: { host: string; port: number }): MysqlUploader.Options => ({
  ...connectionOptions(database),
  ...HASTY,
  host,
  port
})

interface Conversation {
  readonly exit: Exit.Exit<{ readonly rejected: ReadonlyArray<unknown> }, UploadError>
  readonly event: StoredEvent
}

const untilClosed = (listener: Listener) =>
  Effect.repeat(
    Effect.sync(() => listener.connections === 0),
    { schedule: Schedule.spaced("5 millis"), until: (closed) => closed, times: 24_000 }
  )

/** Uploads one event to a peer, and checks that no resource of it remains. */
const converse = (
  listen: () => Promise<Listener>,
  options: (address: Listener) => MysqlUploader.Options,
  name: () => string
): Effect.Effect<Conversation> =>
  Effect.gen(function* () {
    const listener = yield* Effect.acquireRelease(Effect.promise(listen), (listener) =>
      Effect.promise(listener.close)
    )
    const event = use({ prompt: "一只红狐狸" })
    const before = uncaught.length
    const exit = yield* Effect.scoped(
      Effect.flatMap(uploaderOf(options(listener)), ({ upload }) =>
        Effect.exit(upload({ definition: UseLog, events: [event] }))
      )
    ).pipe(
      Effect.timeoutFail({
        duration: "3 minutes",
        onTimeout: () => new Error(`it hung: ${name()}`)
      }),
      Effect.orDie
    )
    yield* untilClosed(listener)
    assert.strictEqual(listener.connections, 0, name())
    assert.deepStrictEqual(uncaught.slice(before), [], name())
    if (Exit.isFailure(exit)) {
      const error = Cause.squash(exit.cause)
      if (!(error instanceof UploadError)) throw new Error(`${name()}: ${Cause.pretty(exit.cause)}`)
    }
    return { exit, event }
  }).pipe(Effect.scoped)

const all = <A>(
  arbitrary: fc.Arbitrary<A>,
  run: (value: A, name: () => string) => Effect.Effect<Conversation>
) =>
  Effect.forEach(
    fc.sample(arbitrary, { numRuns: runs, seed }),
    (value, index) => run(value, () => `AUDIT_SEED=${seed}, conversation ${index}: ${show(value)}`),
    { concurrency: 12 }
  )

const show = (value: unknown) =>
  JSON.stringify(value, (_, value: unknown) =>
    typeof value === "object" && value !== null && "type" in value && value.type === "Buffer"
      ? Buffer.from((value as unknown as { data: Array<number> }).data)
          .toString("hex")
          .slice(0, 400)
      : value
  )

const bytes = (minLength: number, maxLength: number) =>
  fc.uint8Array({ minLength, maxLength }).map((array) => Buffer.from(array))

const mutations = (packets: number): fc.Arbitrary<Mutation> =>
  fc.record({
    packet: fc.oneof(fc.constantFrom(0, 1, 2), fc.nat(packets)),
    change: fc.constantFrom(
      "flip",
      "flip",
      "truncate",
      "insert",
      "duplicate",
      "duplicateLater",
      "swap",
      "drop",
      "zeros",
      "garbage",
      "sequence",
      "length",
      "refuse",
      "drip",
      "end",
      "reset",
      "endWithin"
    ),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    bytes: bytes(1, 200)
  })

/** Asserts that events of successful uploads are stored, uploads all again undisturbed, and expects each once. */
const settle = (conversations: ReadonlyArray<Conversation>) =>
  Effect.gen(function* () {
    const stored = async () => {
      const rows = await database.query<{ id: string }>(
        `SELECT LOWER(HEX(event_id)) AS id FROM ${UseLog.table}`
      )
      return rows.map(({ id }) => id)
    }
    const idOf = ({ event }: Conversation) => event.eventId.replaceAll("-", "")
    const before = new Set(yield* Effect.promise(stored))
    for (const conversation of conversations) {
      const { exit } = conversation
      if (Exit.isSuccess(exit) && exit.value.rejected.length === 0) {
        assert.isTrue(before.has(idOf(conversation)), "it succeeded, and is not stored")
      }
    }
    const { upload } = yield* uploaderOf(connectionOptions(database))
    const events = conversations.map(({ event }) => event)
    assert.deepStrictEqual(yield* upload({ definition: UseLog, events }), { rejected: [] })
    const after = yield* Effect.promise(stored)
    const ours = new Set(conversations.map(idOf))
    const found = after.filter((id) => ours.has(id))
    assert.strictEqual(found.length, conversations.length)
    assert.strictEqual(new Set(found).size, conversations.length)
  }).pipe(Effect.scoped)

/** Open sockets and timers of this process. Those of a test's peers end with the peers. */
const resources = () =>
  process
    .getActiveResourcesInfo()
    .filter((name) => /^(TCPSocketWrap|TLSWrap|Timeout|GetAddrInfoReqWrap)$/.test(name))
    .sort()

const leavingNothing = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    // Opens the test's own connections first.
    yield* Effect.promise(() => Promise.all([database.query("SELECT 1"), database.query("SELECT 1")]))
    const before = resources()
    yield* effect
    yield* Effect.sleep(Duration.seconds(1))
    const after = resources()
    assert.isAtMost(after.length, before.length, `left: ${after.join(", ")}; before: ${before.join(", ")}`)
  })

describe(`a conversation with a faulty peer (AUDIT_SEED=${seed})`, () => {
  it.scopedLive(`${runs} with one changed packet`, () =>
    leavingNothing(
      Effect.flatMap(
        all(mutations(70), (mutation, name) =>
          converse(() => mutatingProxy({ target: server, mutation }), optionsAt, name)
        ),
        settle
      )
    )
  )

  const trusting = (): Partial<MysqlUploader.Options> => ({
    ssl: { ca: fs.readFileSync(certificates.authority, "utf8"), servername: "db.test" }
  })

  it.scopedLive(`${runs} with one changed packet inside TLS`, () =>
    leavingNothing(
      Effect.suspend(() => {
        const identity = {
          key: fs.readFileSync(certificates.key, "utf8"),
          cert: fs.readFileSync(certificates.certificate, "utf8")
        }
        return Effect.flatMap(
          all(mutations(70), (mutation, name) =>
            converse(
              () => mutatingProxy({ target: server, mutation, tls: identity }),
              (address) => ({ ...optionsAt(address), ...trusting() }),
              name
            )
          ),
          settle
        )
      })
    )
  )

  it.scopedLive(`${runs} with a disturbed TLS layer`, () =>
    leavingNothing(
      Effect.flatMap(
        all(mutations(12), (mutation, name) =>
          converse(
            () => mutatingProxy({ target: server, mutation, blind: true }),
            (address) => ({ ...optionsAt(address), ...trusting() }),
            name
          )
        ),
        settle
      )
    )
  )

  it.scopedLive(`${runs} with a server that sends anything`, () =>
    leavingNothing(
      Effect.gen(function* () {
        const greeting = yield* Effect.promise(() => greetingOf(server))
        const conversations = yield* all(scripts(greeting), (script, name) =>
          Effect.gen(function* () {
            let heard = (): Buffer => Buffer.alloc(0)
            const conversation = yield* converse(
              async () => {
                const peer = await scriptedServer(script)
                heard = peer.heard
                return peer
              },
              optionsAt,
              name
            )
            assert.isTrue(Exit.isFailure(conversation.exit), name())
            assert.notInclude(heard().toString("latin1"), "root:", name())
            return conversation
          })
        )
        yield* settle(conversations)
      })
    )
  )
})

/** The first packet of the real server. */
const greetingOf = async ({ host, port }: MysqlServer): Promise<Buffer> => {
  const { connect } = await import("node:net")
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port })
    socket.once("error", reject)
    socket.once("data", (chunk) => {
      socket.destroy()
      resolve(chunk)
    })
  })
}

const OK = Buffer.from([0, 0, 0, 2, 0, 0, 0])
const EOF = Buffer.from([0xfe, 0, 0, 2, 0])
const scripts = (greeting: Buffer): fc.Arbitrary<Script> => {
  const sequence = fc.oneof({ weight: 5, arbitrary: fc.constantFrom(0, 1, 2) }, fc.nat(255))
  const withSequence = (body: fc.Arbitrary<Buffer>) =>
    fc.tuple(body, sequence).map(([body, n]) => packetOf(body, n))
  const errors = fc
    .tuple(
      fc.oneof(fc.constantFrom(1040, 1129, 1130, 1045, 1053, 4031), fc.nat(65_535)),
      fc.string(),
      sequence
    )
    .map(([errno, text, n]) => errorPacket(errno, text, n))
  const first = fc.oneof(
    { weight: 3, arbitrary: fc.constant(greeting) },
    { weight: 1, arbitrary: errors },
    { weight: 1, arbitrary: fc.nat(300).map((n) => Buffer.alloc(n + 1)) },
    { weight: 1, arbitrary: bytes(1, 300) },
    { weight: 1, arbitrary: withSequence(bytes(0, 100)) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom("HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n")
        .map((text) => Buffer.from(text))
    }
  )
  const later = fc.oneof(
    withSequence(fc.constant(OK)),
    withSequence(fc.constant(OK)),
    withSequence(fc.constant(EOF)),
    errors,
    // a result: one column, and one row or none
    bytes(0, 20).map((row) =>
      Buffer.concat([
        packetOf(Buffer.from([1]), 1),
        packetOf(COLUMN, 2),
        packetOf(EOF, 3),
        packetOf(row, 4),
        packetOf(EOF, 5)
      ])
    ),
    bytes(0, 60).map((column) =>
      Buffer.concat([packetOf(Buffer.from([1]), 1), packetOf(column, 2), packetOf(OK, 3)])
    ),
    // LOAD DATA LOCAL
    fc.constant(packetOf(Buffer.from("\xfb/etc/passwd", "latin1"), 1)),
    fc.constant(packetOf(Buffer.from("\xfbpackage.json", "latin1"), 2)),
    // a switch to another authentication method
    fc
      .tuple(
        fc.constantFrom(
          "mysql_native_password",
          "caching_sha2_password",
          "sha256_password",
          "mysql_clear_password",
          "toString",
          "dialog",
          ""
        ),
        bytes(0, 30)
      )
      .map(([plugin, data]) =>
        packetOf(Buffer.concat([Buffer.from([0xfe]), Buffer.from(`${plugin}\0`), data]), 2)
      ),
    withSequence(bytes(0, 30).map((data) => Buffer.concat([Buffer.from([1]), data]))),
    withSequence(bytes(0, 100)),
    bytes(1, 100),
    fc.constant(Buffer.from([0xff, 0xff, 0xff, 1, 0, 0])),
    fc.nat(200).map((n) => Buffer.alloc(n + 1)),
    // surplus packets
    fc.constant(Buffer.concat([packetOf(OK, 2), packetOf(OK, 2), packetOf(OK, 1)])),
    fc.constant(Buffer.concat([packetOf(OK, 2), errorPacket(4031, "#HY000idle", 0)])),
    fc.constant(Buffer.concat([packetOf(OK, 2), Buffer.from([1, 0, 0, 0, 0xff])]))
  )
  return fc.record({
    steps: fc
      .tuple(first, fc.boolean(), fc.array(later, { maxLength: 6 }))
      // half of them get past the login
      .map(([first, login, rest]) => [first, ...(login ? [packetOf(OK, 2)] : []), ...rest]),
    atOnce: fc.boolean(),
    then: fc.constantFrom("end", "reset", "stay")
  })
}

/** The definition of a column "1", a BIGINT. */
const COLUMN = Buffer.from([3, 100, 101, 102, 0, 0, 0, 1, 49, 0, 12, 63, 0, 1, 0, 0, 0, 8, 129, 0, 0, 0, 0])

describe("the first packet", () => {
  const cases: ReadonlyArray<readonly [name: string, first: Buffer, cls: string, code: string]> = [
    ["1040", errorPacket(1040, "Too many connections"), "transient", "1040"],
    ["1129", errorPacket(1129, "Host '10.0.0.5' is blocked"), "operator", "1129"],
    ["1130", errorPacket(1130, "Host '10.0.0.5' is not allowed to connect"), "operator", "1130"],
    ["1040 with an SQLSTATE", errorPacket(1040, "#08004Too many connections"), "transient", "1040"],
    ["zeros", Buffer.alloc(64), "transient", "PROTOCOL_ERROR"],
    ["a web server", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), "transient", "ETIMEDOUT"]
  ]
  for (const [name, first, cls, code] of cases) {
    it.scopedLive(`${name}: ${cls}`, () =>
      Effect.gen(function* () {
        const peer = yield* Effect.acquireRelease(
          Effect.promise(() => scriptedServer({ steps: [first], atOnce: true, then: "stay" })),
          (peer) => Effect.promise(peer.close)
        )
        const before = uncaught.length
        const { upload } = yield* uploaderOf({ ...optionsAt(peer), password: Redacted.make("") })
        const error = yield* failureOf(upload({ definition: UseLog, events: [use()] }))
        assert.deepStrictEqual([error.class, error.code], [cls, code], error.message)
        yield* untilClosed(peer)
        assert.deepStrictEqual(uncaught.slice(before), [])
      })
    )
  }
})
