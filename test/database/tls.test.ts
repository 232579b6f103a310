/**
 * TLS and passwords: a request for TLS is never ignored, and no impostor learns the password. The tests use real
 * servers, and one that lies.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Logger, LogLevel, Redacted } from "effect"
import * as fc from "fast-check"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import * as tls from "node:tls"
import type { Finding } from "../../src/cli/findings.js"
import { examine } from "../../src/cli/mysqlDoctor.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { type Identity, packetOf } from "../support/badPeers.js"
import { type Certificates, makeCertificates } from "../support/certificates.js"
import { effectAudit } from "../support/cli.js"
import type { TestDatabase } from "../support/database.js"
import { uses } from "../support/events.js"
import {
  account,
  connectionOptions,
  failureOf,
  mysqlDatabase,
  PASSWORD,
  uploaderOf
} from "../support/mysql.js"
import type { Flavour, MysqlServer } from "../support/mysqlServer.js"
import { findServer, startServer } from "../support/mysqlServer.js"
import { freePort } from "../support/net.js"
import { temporaryDirectory } from "../support/queue.js"
import { onEachFlavour } from "../support/servers.js"

/** An address of this machine that is not its loopback. */
const away = Object.values(os.networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find(({ family, internal }) => !internal && family === "IPv4")?.address

const here = "127.0.0.1"

let certificates: Certificates
const servers = new Map<Flavour, MysqlServer>()
const read = (file: string) => fs.readFileSync(file, "utf8")

beforeAll(async () => {
  certificates = await makeCertificates("db.test", [here, "::1"])
  const flavours: ReadonlyArray<Flavour> = ["mariadb", "mysql"]
  await Promise.all(
    flavours.filter(findServer).map(async (flavour) => {
      const args = [
        "--bind-address=0.0.0.0",
        `--ssl-ca=${certificates.authority}`,
        `--ssl-cert=${certificates.certificate}`,
        `--ssl-key=${certificates.key}`
      ]
      servers.set(flavour, await startServer({ flavour, args }))
    })
  )
}, 180_000)

afterAll(async () => {
  await Promise.all([...servers.values()].map((server) => server.stop()))
  fs.rmSync(certificates.directory, { recursive: true })
})

const migrated = (flavour: Flavour) =>
  Effect.tap(mysqlDatabase(servers.get(flavour)!.rootUrl), (database) =>
    MysqlUploader.migrate(connectionOptions(database))
  )

/** The same as a URL. */
const urlOf = (
  { database, host, port, username }: MysqlUploader.Options,
  parameters: string
): Redacted.Redacted =>
  Redacted.make(
    `mysql://${String(username)}:${encodeURIComponent(PASSWORD)}@${String(host)}:${String(port)}/${String(database)}?${parameters}`
  )

/** Delivers two events over a separate connection. */
const deliver = (options: MysqlUploader.Options) =>
  Effect.scoped(
    Effect.flatMap(uploaderOf(options), ({ upload }) => upload({ definition: UseLog, events: uses(2) }))
  )

const delivers = (options: MysqlUploader.Options) =>
  Effect.map(deliver(options), (result) => assert.deepStrictEqual(result, { rejected: [] }))

const refuses = (options: MysqlUploader.Options, code: string, reason: RegExp = /./) =>
  Effect.map(failureOf(deliver(options)), (error) => {
    assert.deepStrictEqual([error.class, error.code], ["operator", code], error.message)
    assert.match(error.reason, reason)
  })

const findingsOf = (options: MysqlUploader.Options) =>
  Effect.gen(function* () {
    const findings: Array<Finding> = []
    yield* examine(options, [UseLog], { maxLineBytes: 1024 }, (finding) =>
      Effect.sync(() => findings.push(finding))
    )
    return (subject: string) => {
      const found = findings.find((finding) => finding.subject === subject)
      return found === undefined ? "" : `${found.level}: ${found.text}`
    }
  })

// ----------------------------------------------------------------------------------------------------- an impostor

/** The script of an impostor between a program and its server. */
interface ImpostorOptions {
  readonly host: string
  /** Offers TLS with this identity. */
  readonly identity?: Identity
  readonly plugin?: string
  /** The messages after the login, each sent when the client has said something. */
  readonly messages?: ReadonlyArray<Buffer>
}

const SCRAMBLE = Buffer.from("0123456789abcdefghij")
const ownKey = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 })
const ownPublicKey = String(ownKey.publicKey.export({ type: "spki", format: "pem" }))

const switchTo = (plugin: string) =>
  Buffer.concat([Buffer.from([0xfe]), Buffer.from(`${plugin}\0`), SCRAMBLE, Buffer.from([0])])
const moreData = (data: string | Buffer) => Buffer.concat([Buffer.from([1]), Buffer.from(data)])

const CLIENT_SSL = 0x0800

/** The length of a request for TLS; a login is longer. */
const TLS_REQUEST_BYTES = 32

/** The greeting of MySQL 8 (MySQL Source Code Documentation, "Protocol::HandshakeV10"). */
const greeting = (plugin: string, offersTls: boolean) => {
  const flags = 0xffff_f7ff + (offersTls ? CLIENT_SSL : 0)
  // without multi-factor authentication, deprecated EOF, optional metadata and later flags
  const upper = (flags >>> 16) & 0x00ff
  return Buffer.concat([
    Buffer.from("\x0a8.0.30\0"),
    Buffer.from([1, 0, 0, 0]),
    SCRAMBLE.subarray(0, 8),
    Buffer.from([0, flags & 0xff, (flags >> 8) & 0xff, 45, 2, 0, upper, 0, 21]),
    Buffer.alloc(10),
    SCRAMBLE.subarray(8),
    Buffer.from(`\0${plugin}\0`)
  ])
}

/** Listens, and collects everything that could be a password. */
const impostor = ({ host, identity, messages = [], plugin = "caching_sha2_password" }: ImpostorOptions) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const heard: Array<Buffer> = []
      const sockets = new Set<net.Socket>()
      const server = net.createServer((socket) => {
        sockets.add(socket)
        socket.on("error", () => undefined)
        const left = [...messages]
        const talk = (stream: net.Socket | tls.TLSSocket) => {
          stream.on("error", () => undefined)
          stream.on("data", (chunk: Buffer) => {
            heard.push(chunk)
            const next = left.shift()
            if (next === undefined) stream.end()
            else stream.write(packetOf(next, (chunk[3]! + 1) & 0xff))
          })
        }
        socket.write(packetOf(greeting(plugin, identity !== undefined), 0))
        if (identity === undefined) return talk(socket)
        socket.once("data", (request: Buffer) => {
          // the client's TLS may follow in the same chunk
          if (request.readUIntLE(0, 3) !== TLS_REQUEST_BYTES) return heard.push(request)
          socket.pause()
          socket.unshift(request.subarray(4 + TLS_REQUEST_BYTES))
          return talk(new tls.TLSSocket(socket, { isServer: true, ...identity }))
        })
      })
      const port = await freePort()
      await new Promise<void>((resolve) => server.listen(port, host, resolve))
      return { heard, port, server, sockets }
    }),
    ({ server, sockets }) =>
      Effect.promise(() => {
        for (const socket of sockets) socket.destroy()
        return new Promise<void>((resolve) => server.close(() => resolve()))
      })
  )

/** Whether the impostor has the password: in clear, or encrypted with his key and masked by his scramble. */
const hasLearnt = (heard: ReadonlyArray<Buffer>) =>
  heard.some((chunk) => {
    if (chunk.includes(PASSWORD)) return true
    for (let at = 0; at + 256 <= chunk.length; at++) {
      try {
        const masked = crypto.privateDecrypt(
          { key: ownKey.privateKey, oaepHash: "sha1", padding: crypto.constants.RSA_PKCS1_OAEP_PADDING },
          chunk.subarray(at, at + 256)
        )
        const text = Buffer.from(masked.map((byte, index) => byte ^ SCRAMBLE[index % SCRAMBLE.length]!))
        if (text.includes(PASSWORD)) return true
      } catch {
        // not for this key
      }
    }
    return false
  })

const credentials = (host: string, port: number) => ({
  host,
  port,
  username: "audit",
  password: Redacted.make(PASSWORD),
  database: "app"
})

// ------------------------------------------------------------------------------------------------------- spellings

/** Names of other drivers and tools, and misspellings of them. */
const name = fc
  .oneof(
    fc
      .tuple(
        fc.constantFrom("", "use", "require", "my", "force_", "x"),
        fc.constantFrom("ssl", "tls"),
        fc.constantFrom("", "mode", "accept", "-mode", "cert", "version", "ca", "1")
      )
      .map((parts) => parts.join("")),
    fc.constantFrom(
      ...[
        "encrypt",
        "useEncryption",
        "secure",
        "require_secure_transport",
        "rejectUnauthorized",
        "ca",
        "cafile"
      ],
      ...["cert", "certificateAuthority", "verifyServerCertificate", "verify_identity", "verifyCA", "https"],
      ...["trustServerCertificate", "trustStore", "trustCertificateKeyStoreUrl", "enabledCipherSuites"],
      ...["verify", "verifyPeer", "verify_full", "trust", "rootCA", "ca-bundle", "caPem", "ca_dir"]
    )
  )
  .chain((word) =>
    fc.tuple(
      fc.array(fc.boolean(), { minLength: word.length, maxLength: word.length }),
      fc.array(fc.constantFrom("", "", "", "-", "_", ".", " "), {
        minLength: word.length,
        maxLength: word.length
      }),
      fc.constant(word)
    )
  )
  .map(([upper, separators, word]) =>
    Array.from(
      word,
      (letter, index) => (upper[index]! ? letter.toUpperCase() : letter) + separators[index]!
    ).join("")
  )

const value = fc.oneof(
  fc.constantFrom(
    "true",
    "REQUIRED",
    "VERIFY_IDENTITY",
    "1",
    "on",
    "strict",
    "",
    "false",
    '{"rejectUnauthorized":true}'
  ),
  fc.string({ maxLength: 8 })
)

describe("TLS and connection settings", () => {
  it.scopedLive("a URL parameter, however it is spelt, never leads to an unencrypted connection", () =>
    Effect.gen(function* () {
      const { heard, port } = yield* impostor({ host: here })
      const property = fc.asyncProperty(
        name,
        value,
        fc.constantFrom("?", "?charset=utf8&", "?charset=utf8;", "?a=b?", "#", "&", ";"),
        fc.boolean(),
        async (name, value, before, isEncoded) => {
          fc.pre(!(name === "ssl" && value === "false" && before.startsWith("?")))
          const said = isEncoded
            ? Array.from(Buffer.from(name), (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("")
            : encodeURIComponent(name)
          const url = `mysql://audit:${encodeURIComponent(PASSWORD)}@${here}:${port}/app${before}${said}=${encodeURIComponent(value)}`
          const error = await Effect.runPromise(
            failureOf(deliver({ url: Redacted.make(url) })).pipe(Logger.withMinimumLogLevel(LogLevel.None))
          )
          assert.strictEqual(error.class, "operator")
          assert.oneOf(error.code, ["CONFIG", "HANDSHAKE_NO_SSL_SUPPORT"])
          if (error.code === "CONFIG") assert.match(error.reason, /ssl=true|`ssl`/)
          assert.deepStrictEqual(heard, [])
        }
      )
      yield* Effect.promise(() => fc.assert(property, { numRuns: 500 }))
    })
  )

  it.scopedLive("an option, however it is spelt, never leads to an unencrypted connection", () =>
    Effect.gen(function* () {
      const { heard, port } = yield* impostor({ host: here })
      const options = fc.oneof(
        fc.tuple(name, fc.constantFrom<unknown>(true, "REQUIRED", {}, 1)).filter(([name]) => name !== "ssl"),
        fc.tuple(
          fc.constant("ssl"),
          fc.constantFrom<unknown>(
            "true",
            "REQUIRED",
            "",
            null,
            1,
            0,
            true,
            {},
            { verify: true },
            { CA: "x" }
          )
        )
      )
      const property = fc.asyncProperty(options, async ([name, value]) => {
        const error = await Effect.runPromise(
          failureOf(deliver({ ...credentials(here, port), [name]: value }))
        )
        assert.strictEqual(error.class, "operator")
        assert.oneOf(error.code, ["CONFIG", "HANDSHAKE_NO_SSL_SUPPORT"])
        assert.deepStrictEqual(heard, [])
      })
      yield* Effect.promise(() => fc.assert(property, { numRuns: 200 }))
    })
  )

  it.scopedLive("a wish for TLS in a place that is not read is refused", () =>
    Effect.gen(function* () {
      const { heard, port } = yield* impostor({ host: here })
      for (const path of [
        ...["app%3Fssl=true", "app%3fssl%3dtrue", "app%26ssl=true", "app%23useTLS=1", "app/sslmode=require"],
        ...[
          "app,ssl=true",
          "app?options=ssl%3Dtrue",
          "app?charset=utf8,ssl=true",
          "app?charset=utf8%26sslMode=x"
        ],
        // the value asks for TLS, or the name is misspelt
        ...["protocol=tls", "transport=SSL", "minVersion=TLSv1.2", "tsl=true", "sl=true", "ssI=1"].map(
          (parameter) => `app?${parameter}`
        )
      ]) {
        const url = Redacted.make(`mysql://audit:${encodeURIComponent(PASSWORD)}@${here}:${port}/${path}`)
        yield* refuses({ url }, "CONFIG", /ssl=true/)
      }
      const settings = credentials(here, port)
      yield* refuses({ ...settings, database: "app?ssl=true" }, "CONFIG", /`app\?ssl=true` asks for TLS/)
      yield* refuses({ ...settings, hosts: [`${here};ssl=true`] }, "CONFIG", /asks for TLS/)
      for (const nested of [{ poolConfig: { ssl: {} } }, { tsl: true }, { config: { sslMode: "x" } }]) {
        yield* refuses({ ...settings, ...nested }, "CONFIG", /`ssl` is the one for TLS/)
      }
      yield* refuses({ ...settings, ssl: { cert: "x", key: "y" } }, "CONFIG", /PEM/)
      assert.deepStrictEqual(heard, [])
    })
  )

  it.scopedLive("URL and options that contradict each other are refused, not guessed", () =>
    Effect.gen(function* () {
      const { heard, port } = yield* impostor({ host: here })
      const url = (parameters: string) => Redacted.make(`mysql://audit:x@${here}:${port}/app${parameters}`)
      yield* refuses({ url: url("?ssl=false"), ssl: true }, "CONFIG", /ssl=false/)
      yield* refuses({ url: url("?ssl=false"), ssl: { ca: "x" } }, "CONFIG", /ssl=false/)
      yield* refuses({ url: url("?ssl=false&ssl=true") }, "CONFIG")
      yield* refuses({ url: url("?sslMode=VERIFY_IDENTITY") }, "CONFIG", /`sslMode`.*`\?ssl=true`/)
      yield* refuses({ url: url("?ssl=true"), ssl: false }, "HANDSHAKE_NO_SSL_SUPPORT")
      yield* refuses({ url: url("?serverPublicKey=x") }, "CONFIG", /RSA public key/)
      yield* refuses({ ...credentials(here, port), serverPublicKey: "" }, "CONFIG", /RSA public key/)
      assert.deepStrictEqual(heard, [])
    })
  )

  it.scopedLive("the command refuses unknown variables and flags about TLS", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const url = `mysql://audit@${here}:1/app`
      const ofVariable = yield* effectAudit(directory, ["migrate", "--url", url], { AUDIT_MYSQL_TLS: "true" })
      assert.strictEqual(ofVariable.code, 64)
      assert.match(ofVariable.stderr, /AUDIT_MYSQL_TLS means nothing here: .*AUDIT_MYSQL_SSL=true/)
      for (const name of ["AUDIT_MYSQL_CA", "AUDIT_MYSQL_ENCRYPT", "AUDIT_MYSQL_REJECT_UNAUTHORIZED"]) {
        const { code, stderr } = yield* effectAudit(directory, ["migrate", "--url", url], { [name]: "true" })
        assert.deepStrictEqual([code, stderr.includes(`${name} means nothing here`)], [64, true], stderr)
      }
      for (const name of ["AUDIT_MYSQL_SSL_CA", "AUDIT_MYSQL_SERVER_PUBLIC_KEY"]) {
        const { code, stderr } = yield* effectAudit(directory, ["migrate", "--url", url], { [name]: "" })
        assert.deepStrictEqual([code, stderr.includes(`${name} is empty`)], [64, true], stderr)
      }
      const ofUser = yield* effectAudit(directory, ["migrate", "--url", url], { AUDIT_MYSQL_USER: "s3cret" })
      assert.match(
        ofUser.stderr,
        /warning: AUDIT_MYSQL_USER means nothing here: did you mean AUDIT_MYSQL_USERNAME\?/
      )
      assert.notInclude(ofUser.stderr, "s3cret")
      const ofFlag = yield* effectAudit(directory, ["migrate", "--url", url, "--ssl-mode", "REQUIRED"])
      assert.notStrictEqual(ofFlag.code, 0)
      const ofUrl = yield* effectAudit(directory, ["migrate", "--url", `${url}?useSSL=true`])
      assert.match(ofUrl.stderr, /`useSSL`.*`\?ssl=true`.*--ssl-ca/)
    })
  )

  it.scopedLive("a misspelt name of the server's key is refused, as a parameter and as an option", () =>
    Effect.gen(function* () {
      const { heard, port } = yield* impostor({ host: here })
      const spellings = [
        ...["serverPublickey", "server_public_key", "server-public-key", "serverPublicKy", "sreverPublicKey"],
        ...[
          "serverPubKey",
          "publicKey",
          "serverRSAPublicKeyFile",
          "allowPublicKeyRetrieval",
          "SERVERPUBLICKEY"
        ]
      ]
      for (const name of spellings) {
        const url = Redacted.make(`mysql://audit:x@${here}:${port}/app?${name}=trust`)
        yield* refuses({ url }, "CONFIG", /the parameter `serverPublicKey`/)
        yield* refuses(
          { ...credentials(here, port), [name]: "trust" },
          "CONFIG",
          /no option.*`serverPublicKey`/
        )
      }
      assert.deepStrictEqual(heard, [])
    })
  )

  it.scopedLive("an unknown option is reported once, with the name that was meant", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String(message)))
      const { port } = yield* impostor({ host: here })
      const meant = {
        user: "username",
        db: undefined,
        deduplicaton: "deduplication",
        Conections: "connections",
        conectTimeout: "connectTimeout",
        table: "tables",
        pass: "password",
        charset: undefined
      }
      yield* Effect.gen(function* () {
        const options = { ...credentials(here, port), serverPublicKey: undefined, unset: undefined }
        const odd = Object.fromEntries(Object.keys(meant).map((name) => [name, "s3cret"]))
        const { upload } = yield* uploaderOf({ ...options, ...odd })
        for (let attempt = 0; attempt < 2; attempt++) {
          yield* failureOf(upload({ definition: UseLog, events: uses(1) }))
        }
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
      assert.deepStrictEqual(
        lines.map((line) => [/^`(\w+)`/.exec(line)?.[1], /did you mean `(\w+)`/.exec(line)?.[1]]),
        Object.entries(meant)
      )
      assert.notInclude(lines.join(), "s3cret")
    })
  )

  it.scopedLive("an unknown parameter is reported once, without its value", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String(message)))
      const { port } = yield* impostor({ host: here })
      yield* Effect.gen(function* () {
        const url = `mysql://audit:x@${here}:${port}/app?charset=s3cret&pool=s3cret&charset=s3cret&ssl=false&%1b[2J=s3cret`
        const { upload } = yield* uploaderOf({ url: Redacted.make(url) })
        for (let attempt = 0; attempt < 3; attempt++) {
          yield* failureOf(upload({ definition: UseLog, events: uses(1) }))
        }
        assert.lengthOf(lines, 1)
        assert.include(lines[0], "charset, pool, ?[2J.")
        assert.notInclude(lines[0], "s3cret")
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )
})

// --------------------------------------------------------------------------------------------------- the impostor

describe.skipIf(away === undefined)(
  "an impostor between program and server does not learn the password",
  () => {
    const other = String(
      crypto
        .generateKeyPairSync("rsa", { modulusLength: 2048 })
        .publicKey.export({ type: "spki", format: "pem" })
    )

    const scripts: Record<string, ReadonlyArray<Buffer>> = {
      caching_sha2_password: [switchTo("caching_sha2_password"), moreData("\x04"), moreData(ownPublicKey)],
      sha256_password: [switchTo("sha256_password"), moreData(ownPublicKey)],
      mysql_clear_password: [switchTo("mysql_clear_password")]
    }

    for (const [plugin, messages] of Object.entries(scripts)) {
      it.scopedLive(`by asking for ${plugin}`, () =>
        Effect.gen(function* () {
          const { heard, port } = yield* impostor({ host: away!, messages })
          const options = credentials(away!, port)
          const code = plugin === "mysql_clear_password" ? "AUTH_SWITCH_PLUGIN_ERROR" : "SERVER_PUBLIC_KEY"
          yield* refuses(
            options,
            code,
            code === "SERVER_PUBLIC_KEY" ? /`ssl`.*`serverPublicKey`.*"trust"/ : /./
          )
          yield* failureOf(deliver({ ...options, serverPublicKey: other }))
          yield* refuses({ ...options, ssl: true }, "HANDSHAKE_NO_SSL_SUPPORT")
          assert.isFalse(hasLearnt(heard))
          // A client that trusts any key tells it the password: the judge has to see that.
          yield* failureOf(deliver({ ...options, serverPublicKey: "trust" }))
          assert.strictEqual(hasLearnt(heard), plugin !== "mysql_clear_password")
        })
      )
    }

    it.scopedLive("by any messages in any order", () =>
      Effect.gen(function* () {
        const message = fc.oneof(
          fc
            .constantFrom(
              "caching_sha2_password",
              "sha256_password",
              "mysql_clear_password",
              "mysql_native_password",
              "dialog"
            )
            .map(switchTo),
          fc.constantFrom("\x04", "\x03", "\x02", "").map(moreData),
          fc.constant(moreData(ownPublicKey)),
          fc.uint8Array({ maxLength: 40 }).map((bytes) => moreData(Buffer.from(bytes)))
        )
        const property = fc.asyncProperty(
          fc.constantFrom(
            "caching_sha2_password",
            "sha256_password",
            "mysql_clear_password",
            "mysql_native_password"
          ),
          fc.array(message, { maxLength: 6 }),
          fc.constantFrom(undefined, other),
          (plugin, messages, serverPublicKey) =>
            Effect.gen(function* () {
              const { heard, port } = yield* impostor({ host: away!, plugin, messages })
              yield* failureOf(
                deliver({ ...credentials(away!, port), serverPublicKey, connectTimeout: "200 millis" })
              )
              assert.isFalse(hasLearnt(heard))
            }).pipe(Effect.scoped, Effect.runPromise)
        )
        yield* Effect.promise(() => fc.assert(property, { numRuns: 100 }))
      })
    )
  }
)

describe("a host that is an IP address", () => {
  it.scopedLive("is not localhost: a certificate for localhost gets neither user nor password", () =>
    Effect.gen(function* () {
      const local = yield* Effect.acquireRelease(
        Effect.promise(() => makeCertificates("localhost")),
        ({ directory }) => Effect.sync(() => fs.rmSync(directory, { recursive: true }))
      )
      const identity = { key: read(local.key), cert: read(local.certificate) }
      const { heard, port } = yield* impostor({ host: here, identity })
      const options = credentials(here, port)
      const ca = read(local.authority)
      yield* refuses({ ...options, ssl: { ca } }, "HANDSHAKE_SSL_ERROR", /IP addresses/)
      yield* refuses({ ...options, ssl: { ca, servername: "db.test" } }, "HANDSHAKE_SSL_ERROR")
      assert.deepStrictEqual(heard, [])
      // with the right name the impostor hears the user
      yield* failureOf(deliver({ ...options, ssl: { ca, servername: "localhost" } }))
      assert.isTrue(heard.some((chunk) => chunk.includes("audit")))
    })
  )
})

// ---------------------------------------------------------------------------------------------------- real servers

onEachFlavour("a real server", (flavour) => {
  let server: MysqlServer
  beforeAll(() => {
    server = servers.get(flavour)!
  })
  const isOracles = flavour === "mysql"
  const sql = (database: TestDatabase, text: string) => Effect.promise(() => database.query(text))

  it.scopedLive.skipIf(away === undefined)("needs its address in the certificate", () =>
    Effect.gen(function* () {
      const database = yield* migrated(flavour)
      const options = yield* account(database, "INSERT", "REQUIRE SSL")
      const ca = read(certificates.authority)
      yield* delivers({ ...options, host: here, ssl: { ca } })
      yield* delivers({ ...options, host: away!, ssl: { ca, servername: here } })
      yield* delivers({ ...options, host: away!, ssl: { ca, servername: "db.test" } })
      yield* delivers({ ...options, host: away!, ssl: { rejectUnauthorized: false } })
      yield* refuses({ ...options, host: away!, ssl: { ca } }, "HANDSHAKE_SSL_ERROR", /IP addresses/)
      yield* refuses({ ...options, host: here, ssl: { ca, servername: "192.0.2.77" } }, "HANDSHAKE_SSL_ERROR")
      yield* refuses({ ...options, host: here, ssl: true }, "HANDSHAKE_SSL_ERROR")
      const stranger = read(certificates.stranger)
      yield* refuses({ ...options, host: here, ssl: { ca: stranger } }, "HANDSHAKE_SSL_ERROR")
      // the account demands TLS
      yield* refuses({ ...options, host: here }, "1045", /whether it must use TLS/)
    })
  )

  it.scopedLive.skipIf(away === undefined)("doctor describes the connection", () =>
    Effect.gen(function* () {
      const database = yield* migrated(flavour)
      const options = yield* account(database, "INSERT")
      const ca = read(certificates.authority)
      const tlsOf = (more: Partial<MysqlUploader.Options>) =>
        Effect.map(findingsOf({ ...options, ...more }), (finding) => finding("TLS"))
      assert.match(yield* tlsOf({ host: here, ssl: { ca } }), /^ok: TLS_/)
      assert.match(
        yield* tlsOf({ host: away!, ssl: { rejectUnauthorized: false } }),
        /^warning: TLS_.*nobody verifies/
      )
      assert.match(yield* tlsOf({ host: here }), /^ok: none, on the way within this machine/)
      assert.match(
        yield* tlsOf({ host: away!, serverPublicKey: "trust" }),
        /^warning: none: .*whoever shows a key/
      )
      // The server knows the password from the login before, so it need not be sent.
      assert.match(yield* tlsOf({ host: away! }), /^warning: none: events cross the network in the clear/)
      const ofWrong = yield* findingsOf({ ...options, host: away!, ssl: { ca } })
      assert.match(ofWrong("login"), /^failure: .*certificate.*\(HANDSHAKE_SSL_ERROR\)/)
      const url = (parameters: string) => urlOf({ ...options, host: here }, parameters)
      assert.match(
        (yield* findingsOf({ url: url("ssl-mode=REQUIRED") }))("database"),
        /^failure: .*`ssl-mode`.*ssl=true/
      )
      const unknown = yield* findingsOf({ url: url("charset=utf8") })
      assert.strictEqual(unknown("url"), "warning: these parameters mean nothing here: charset")
      assert.match(unknown("login"), /^ok/)
    })
  )

  it.scopedLive.skipIf(away === undefined || isOracles)(
    "MariaDB never asks for the password in clear, so it needs no key",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(flavour)
        yield* delivers({ ...(yield* account(database, "INSERT")), host: away! })
      })
  )

  it.scopedLive.skipIf(away === undefined || !isOracles)(
    "caching_sha2_password: without TLS the password needs a trusted key",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(flavour)
        const options = { ...(yield* account(database, "INSERT")), host: away! }
        const key = read(path.join(server.dataDirectory, "public_key.pem"))
        const forget = sql(database, "FLUSH PRIVILEGES")
        const refused = Effect.zipRight(
          forget,
          refuses(options, "SERVER_PUBLIC_KEY", /`ssl`.*`serverPublicKey`.*"trust"/)
        )
        yield* refused
        assert.match(
          (yield* findingsOf(options))("login"),
          /^failure: .*`ssl`.*`serverPublicKey`.*\(SERVER_PUBLIC_KEY\)/
        )
        yield* refuses({ ...options, serverPublicKey: ownPublicKey }, "1045", /`serverPublicKey`/)
        yield* delivers({ ...options, serverPublicKey: key })
        // from now on the server has cached the password
        yield* delivers(options)
        yield* refused
        yield* delivers({ ...options, serverPublicKey: "trust" })
        yield* refused
        yield* delivers({ ...options, ssl: { ca: read(certificates.authority), servername: "db.test" } })
        yield* refused
        yield* delivers({ url: urlOf(options, `serverPublicKey=${encodeURIComponent(key)}`) })
        yield* refused
        const { stderr, stdout } = yield* effectAudit(
          yield* temporaryDirectory,
          [
            ...["doctor", "--host", `${String(away)}:${server.port}`, "--username", options.username!],
            ...["--database", database.config.database, "--server-public-key"],
            path.join(server.dataDirectory, "public_key.pem")
          ],
          { AUDIT_MYSQL_PASSWORD: PASSWORD }
        )
        assert.strictEqual(stderr, "")
        assert.match(stdout, /ok {7}login: /)
        // loopback needs no key
        yield* forget
        yield* delivers({ ...options, host: here })
        // a restart empties the server's cache
        yield* delivers(options)
        yield* Effect.promise(() => server.restart())
        yield* refuses(options, "SERVER_PUBLIC_KEY")
        yield* delivers({ ...options, host: "localhost" })
        yield* delivers(options)
        yield* Effect.promise(() => server.restart())
        yield* delivers({ ...options, serverPublicKey: key })
        yield* refuses({ ...options, password: Redacted.make("wrong") }, "SERVER_PUBLIC_KEY")
        yield* refuses({ ...options, password: Redacted.make("wrong"), host: here }, "1045", /password/)
      })
  )

  it.scopedLive.skipIf(away === undefined || !isOracles)(
    "sha256_password: without TLS each login needs a trusted key",
    () =>
      Effect.gen(function* () {
        const database = yield* migrated(flavour)
        const user = `sha256_${process.pid}`
        yield* sql(database, `CREATE USER '${user}'@'%' IDENTIFIED WITH sha256_password BY '${PASSWORD}'`)
        yield* Effect.addFinalizer(() => sql(database, `DROP USER '${user}'@'%'`))
        yield* sql(database, `GRANT INSERT ON \`${database.config.database}\`.* TO '${user}'@'%'`)
        const options = {
          ...connectionOptions(database),
          host: away!,
          username: user,
          password: Redacted.make(PASSWORD)
        }
        const key = read(path.join(server.dataDirectory, "public_key.pem"))
        for (let login = 0; login < 2; login++) {
          yield* refuses(options, "SERVER_PUBLIC_KEY")
          yield* delivers({ ...options, serverPublicKey: key })
          yield* delivers({ ...options, serverPublicKey: "trust" })
          yield* delivers({ ...options, host: here })
          yield* delivers({ ...options, ssl: { ca: read(certificates.authority), servername: "db.test" } })
        }
        yield* refuses({ ...options, serverPublicKey: ownPublicKey }, "1045", /`serverPublicKey`/)
      })
  )
})
