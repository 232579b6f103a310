/**
 * The servers that the settings name, and whom they trust. Where TLS is asked for, in whatever spelling, it is either
 * used or refused by an error: nothing is sent in the clear because of a misspelt word.
 */
import { Array as Arr, Duration, Effect, Redacted } from "effect"
import * as crypto from "node:crypto"
import * as tls from "node:tls"
import { Either } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { Purpose, Subject } from "./errors.js"
import { isSlipOf, lettersOf, nearest } from "../../spelling.js"

/** How a server is reached; the options that the layer and `migrate` share. */
export interface ConnectionSettings {
  /**
   * `mysql://user:password@host:port/database?ssl=true`; goes before the single options. Its parameters are `ssl=true`,
   * `ssl=false` and `serverPublicKey`.
   */
  readonly url?: Redacted.Redacted | undefined
  readonly host?: string | undefined
  /** several servers, `host` or `host:port`, tried in turn */
  readonly hosts?: ReadonlyArray<string> | undefined
  readonly port?: number | undefined
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted | undefined
  readonly database?: string | undefined
  /** TLS: `true`, or whom to trust; off by default */
  readonly ssl?: boolean | SslSettings | undefined
  /**
   * Without TLS, MySQL may ask for the password under an RSA key of its own. The key (PEM) that it must be, or `"trust"`
   * to take whatever key is shown. Needed away from loopback, unless there is TLS; MariaDB never asks.
   */
  readonly serverPublicKey?: string | undefined
  /** default 5 seconds, for each host */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** default 10 seconds */
  readonly statementTimeout?: Duration.DurationInput | undefined
}

/** Whom TLS trusts. Authority and name of the server are verified unless said otherwise. */
export interface SslSettings {
  /** the authority that signed the server's certificate, PEM; those that Node knows by default */
  readonly ca?: string | undefined
  /** our own certificate and key, PEM, where the account demands one */
  readonly cert?: string | undefined
  readonly key?: string | undefined
  /** the name or IP address in the server's certificate, where it is not the host */
  readonly servername?: string | undefined
  /** false encrypts without knowing for whom */
  readonly rejectUnauthorized?: boolean | undefined
}

const SSL_SETTINGS: ReadonlySet<string> = new Set([
  "ca",
  "cert",
  "key",
  "servername",
  "rejectUnauthorized"
] satisfies ReadonlyArray<keyof SslSettings>)

/** One server with everything that is needed to connect to it. */
export interface Endpoint extends Subject {
  readonly address: { readonly host: string; readonly port: number }
  readonly password: Redacted.Redacted
  readonly ssl: SslSettings | undefined
  readonly connectTimeout: Duration.Duration
  readonly statementTimeout: Duration.Duration
}

/** The servers of the settings, in their order; never empty. */
export const endpointsOf = (
  settings: ConnectionSettings,
  purpose: Purpose = "deliver"
): Effect.Effect<Arr.NonEmptyReadonlyArray<Endpoint>, UploadError> =>
  Effect.gen(function* () {
    const url = settings.url === undefined ? undefined : yield* parseUrl(settings.url)
    const misspeltKey = Object.entries(settings).find(
      ([name, value]) => value !== undefined && isMisspeltKey(name)
    )
    if (misspeltKey !== undefined) {
      return yield* misconfigured(
        `\`${shown(misspeltKey[0])}\` is no option: the server's key is the option \`${KEY_PARAMETER}\``
      )
    }
    const { database, hosts, password, port, serverPublicKey, username } = { ...settings, ...url }
    const ssl = yield* sslOf(settings, url?.ssl)
    if (database === undefined || database === "")
      return yield* misconfigured("Name a database, by the option `database` or in `url`")
    if (serverPublicKey !== undefined && serverPublicKey !== TRUST && !isPublicKey(serverPublicKey)) {
      return yield* misconfigured('`serverPublicKey` is neither an RSA public key (PEM) nor "trust"')
    }
    const names =
      hosts !== undefined && Arr.isNonEmptyReadonlyArray(hosts) ? hosts : Arr.of(settings.host ?? "localhost")
    const misplaced = [database, username ?? "", ...names].find(asksForTls)
    if (misplaced !== undefined) {
      return yield* misconfigured(
        `\`${shown(misplaced)}\` asks for TLS where no parameter is read: write \`?ssl=true\` behind the database of \`url\`, ` +
          `or set the option \`ssl\``
      )
    }
    return Arr.map(names, (text): Endpoint => {
      const address = addressOf(text, port ?? 3306)
      return {
        address,
        host: `${address.host}:${address.port}`,
        username: username ?? "",
        password: password ?? Redacted.make(""),
        database,
        purpose,
        ssl,
        serverPublicKey,
        connectTimeout: Duration.decode(settings.connectTimeout ?? "5 seconds"),
        statementTimeout: Duration.decode(settings.statementTimeout ?? "10 seconds")
      }
    })
  })

/** The value of `serverPublicKey` that takes any key. */
export const TRUST = "trust"

const isPublicKey = (pem: string) =>
  Either.try(() => crypto.createPublicKey(pem).asymmetricKeyType === "rsa").pipe(
    Either.getOrElse(() => false)
  )

/** The options come from JavaScript and from configurations as well, where no type has checked them. */
const sslOf = (
  settings: ConnectionSettings,
  ofUrl: boolean | undefined
): Effect.Effect<SslSettings | undefined, UploadError> => {
  const ssl: unknown = settings.ssl
  const others = Object.entries(settings).filter(
    ([name, value]) => name !== "ssl" && value !== undefined && (mentionsTls(name) || holdsTls(name, value))
  )
  if (others.length > 0) {
    return misconfigured(`\`${shown(others[0]![0])}\` is no option: \`ssl\` is the one for TLS, ${SSL_FORMS}`)
  }
  if (!isSsl(ssl)) return misconfigured(`\`ssl\` is not as it must be: ${SSL_FORMS}`)
  if (typeof ssl === "object" && Either.isLeft(Either.try(() => tls.createSecureContext({ ...ssl })))) {
    return misconfigured(
      "`ssl.ca`, `ssl.cert` and `ssl.key` have to be PEM, the key without a passphrase and that of the certificate"
    )
  }
  if (ofUrl === false && ssl !== undefined && ssl !== false) {
    return misconfigured("`url` says ssl=false, and the option `ssl` asks for TLS: leave one of them out")
  }
  if (typeof ssl === "object") return Effect.succeed(ssl)
  return Effect.succeed((ofUrl ?? ssl) === true ? {} : undefined)
}

/** What other libraries nest, as `poolConfig: { ssl }`; the keys of `tables` are kinds. */
const holdsTls = (name: string, value: unknown): boolean =>
  name !== "tables" && typeof value === "object" && value !== null && Object.keys(value).some(mentionsTls)

const SSL_FORMS =
  "`true`, `false`, or an object of `ca`, `cert`, `key`, `servername` and `rejectUnauthorized`"

const isSsl = (ssl: unknown): ssl is boolean | SslSettings | undefined =>
  ssl === undefined ||
  typeof ssl === "boolean" ||
  (typeof ssl === "object" && ssl !== null && Object.keys(ssl).every((name) => SSL_SETTINGS.has(name)))

/**
 * Whether a name is about TLS, however it is written: with the word in it or a slip of it (`tsl`), or a word of other
 * drivers for what TLS does (`encrypt`, `trustServerCertificate`, `rejectUnauthorized`).
 */
export const mentionsTls = (name: string): boolean =>
  isAboutTls(name) || isSlipOf(name, "ssl") || isSlipOf(name, "tls") || lettersOf(name) === "trust"

/** Whether a name says it, or a value, as that of `protocol=tls` does. */
const isAboutTls = (text: string): boolean =>
  ABOUT_TLS.test(
    text
      .normalize("NFKC")
      .toLowerCase()
      .replaceAll(/[^a-z]/g, "")
  )

/** characters; a longer value has the letters by chance */
const WORD = 20

const ABOUT_TLS =
  /ssl|tls|https|encrypt|secure|cert|cipher|truststore|keystore|unauthorized|^verify|^(?:root)?ca(?:path|file|bundle|pem|dir)?$/

/** Whether a text that is no parameter asks for TLS all the same, as the name of the database in `/app%3Fssl=true` does. */
const asksForTls = (text: string): boolean => /(?:ssl|tls)[^=]*=/.test(text.normalize("NFKC").toLowerCase())

interface Url {
  readonly hosts: ReadonlyArray<string>
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted
  readonly ssl?: boolean
  readonly serverPublicKey?: string
}

/** Ours, since @effect/sql-mysql2 ignores its pool's options, our sockets among them, where it gets a URL. */
const parseUrl = (text: Redacted.Redacted): Effect.Effect<Url, UploadError> =>
  Effect.flatMap(readUrl(text), ({ parameters, stray, url }) => {
    const misspelt = [...parameters, ...stray].find(
      ([name, value]) =>
        (mentionsTls(name) && !(name === "ssl" && /^(true|false)$/.test(value))) ||
        (name !== KEY_PARAMETER && (asksForTls(value) || (value.length <= WORD && isAboutTls(value))))
    )
    if (misspelt !== undefined) {
      return misconfigured(
        `\`url\` says \`${shown(misspelt[0])}\`: TLS is spelt \`?ssl=true\` there; an authority of your own is the ` +
          `option \`ssl: { ca }\`, in the command --ssl-ca`
      )
    }
    const misspeltKey = parameters.find(([name]) => isMisspeltKey(name))
    if (misspeltKey !== undefined) {
      return misconfigured(
        `\`url\` says \`${shown(misspeltKey[0])}\`: the server's key is the parameter \`${KEY_PARAMETER}\` there`
      )
    }
    const all = (of: string) => parameters.filter(([name]) => name === of).map(([, value]) => value)
    const ssl = new Set(all("ssl"))
    if (ssl.size > 1 || stray.length > 0) return misconfigured(FORM)
    const serverPublicKey = all(KEY_PARAMETER).at(-1)
    return Effect.succeed({
      ...url,
      ...(ssl.size === 0 ? {} : { ssl: ssl.has("true") }),
      ...(serverPublicKey === undefined ? {} : { serverPublicKey })
    })
  })

type Parameter = readonly [name: string, value: string]

const readUrl = (text: Redacted.Redacted) =>
  Effect.try({
    try: () => {
      const given = Redacted.value(text)
      const url = new URL(given)
      if (!/^(mysql|mariadb):$/.test(url.protocol) || url.hostname === "") throw new Error("refused")
      if (endsTooEarly(given)) throw new Error("refused")
      return {
        url: {
          hosts: [url.host],
          database: decodeURIComponent(url.pathname.slice(1).replace(/\/$/, "")),
          username: decodeURIComponent(url.username),
          password: Redacted.make(decodeURIComponent(url.password))
        },
        // some separate by semicolons, and a second question mark is a slip
        parameters: parametersOf(url.search.slice(1)),
        // what was meant as a parameter, and stands where none is read: `/app&ssl=true`, `#ssl=true`
        stray: [...parametersOf(url.pathname).slice(1), ...parametersOf(url.hash.slice(1))].filter(([name]) =>
          mentionsTls(name)
        )
      }
    },
    // without the cause, whose message would show the URL with its password
    catch: () => misconfigured(FORM)
  })

/**
 * Whether an `@` stands behind the host: then it ends the account, and a password that is not encoded was cut before it.
 * Of `mysql://app:12/ab@db/app` the rest would be a port and a database, which messages show.
 */
const endsTooEarly = (url: string): boolean => /^[^:]*:\/\/[^/?#]*[/?#].*@/s.test(url)

const FORM =
  "`url` is not of the form mysql://user:password@host:port/database?ssl=true. In a password write % as %25, / as %2F, " +
  "? as %3F, # as %23 and @ as %40, or give it apart from the URL: as `password`, to the command by AUDIT_MYSQL_PASSWORD"

const parametersOf = (text: string): ReadonlyArray<Parameter> =>
  text
    .split(/[?&;]/)
    .filter((part) => part !== "")
    .map((part) => {
      const [name = "", ...value] = part.split("=")
      return [decode(name), decode(value.join("="))]
    })

const decode = (text: string) => decodeURIComponent(text.replaceAll("+", " "))

const KEY_PARAMETER = "serverPublicKey" satisfies keyof ConnectionSettings

/** Whoever names a key expects that no other one is taken. So do other drivers (`serverRSAPublicKeyFile`). */
const isMisspeltKey = (name: string): boolean =>
  name !== KEY_PARAMETER && (lettersOf(name).includes("publickey") || isSlipOf(name, KEY_PARAMETER))

/** The names of the URL's parameters that mean nothing to us. */
export const unknownParameters = ({
  url
}: Pick<ConnectionSettings, "url">): Effect.Effect<ReadonlyArray<string>> =>
  url === undefined
    ? Effect.succeed([])
    : Effect.match(readUrl(url), {
        onFailure: () => [],
        onSuccess: ({ parameters }) => [
          ...new Set(
            parameters
              .map(([name]) => name)
              .filter((name) => name !== KEY_PARAMETER && !mentionsTls(name) && !isMisspeltKey(name))
              .map(shown)
          )
        ]
      })

/**
 * Says once which parameters and options mean nothing: whoever wrote them expects something of them. Their values may be
 * secret.
 */
export const warnOfSpellings = (
  settings: ConnectionSettings,
  options: ReadonlyArray<string>
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const parameters = yield* unknownParameters(settings)
    if (parameters.length > 0) {
      yield* Effect.logWarning(
        `The database's URL has parameters that mean nothing here: ${parameters.join(", ")}. Known are ssl and ${KEY_PARAMETER}.`
      )
    }
    for (const [name, value] of Object.entries(settings)) {
      // TLS and the key are refused, not warned of
      if (value === undefined || options.includes(name) || mentionsTls(name) || isMisspeltKey(name)) continue
      const meant = nearest(name, options)
      yield* Effect.logWarning(
        `\`${shown(name)}\` is no option of MysqlUploader and means nothing: ` +
          (meant === undefined ? `known are ${options.join(", ")}` : `did you mean \`${meant}\`?`)
      )
    }
  })

/** A name for a screen or a log: short, and without what a terminal would obey. */
const shown = (name: string): string => name.slice(0, 40).replaceAll(/[^\x21-\x7e]/g, "?")

const misconfigured = (reason: string) => new UploadError({ class: "operator", code: "CONFIG", reason })

/** `host`, `host:port`, `[ipv6]:port`, or a bare IPv6 address. */
const addressOf = (text: string, port: number) => {
  const match = /^(?:\[(.+)\]|([^:]+))(?::(\d+))?$/.exec(text)
  if (match === null) return { host: text, port }
  return { host: match[1] ?? match[2] ?? text, port: match[3] === undefined ? port : Number(match[3]) }
}
