/** The settings of a call, from flags and environment: the queue, the database, the kinds of events. */
import * as FileSystem from "@effect/platform/FileSystem"
import { Config, Effect, Either, HashMap, Option, Redacted } from "effect"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { mentionsTls, TRUST } from "../internal/database/mysql/endpoints.js"
import { nearest } from "../internal/spelling.js"
import { sealingKey } from "../internal/proof/keys.js"
import { MIN_FREE_BYTES } from "../internal/queue/directory.js"
import { isAbsent } from "../internal/queue/files.js"
import { queuesIn } from "../internal/queue/inspect.js"
import { MAX_LINE_BYTES } from "../internal/queue/lines.js"
import * as AuditLayer from "../layers/AuditLayer.js"
import type * as MysqlUploader from "../layers/MysqlUploader.js"
import { Activity } from "../schema/Activity.js"
import * as AuditEvent from "../schema/AuditEvent.js"
import { LoginLog } from "../schema/LoginLog.js"
import { UseLog } from "../schema/UseLog.js"
import { Disk } from "../services/Disk.js"
import { Options, Prompt } from "./effectCli.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { visible } from "./format.js"
import { becomeOwner, refuse } from "./owner.js"
import { say } from "./terminal.js"

// ------------------------------------------------------------------------------------------------- the queue

export const directory = Options.directory("directory").pipe(
  Options.withAlias("d"),
  Options.withDescription(
    "The directory of the queue, or that of several `instances`. Or AUDIT_DIRECTORY; ./audit by default"
  ),
  Options.optional
)

export const json = Options.boolean("json").pipe(
  Options.withDescription("Print JSON, for other programs to read")
)

export const reveal = Options.boolean("reveal").pipe(
  Options.withDescription("Show prompts, which are masked otherwise")
)

/** A queue, and its name within the directory: `instance-2`, or none if it is the directory itself. */
export interface Queue {
  readonly directory: string
  readonly name: string | undefined
}

/** The settings of the environment, which should be the program's, for the given directory. */
export const settingsOf = (given: Option.Option<string>) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const settings = yield* AuditLayer.config
    const named = disk.resolve(Option.getOrElse(given, () => settings.directory))
    return {
      ...settings,
      directory: yield* Effect.catchIf(disk.realPath(named), isAbsent, () => Effect.succeed(named)),
      minFreeBytes: settings.minFreeBytes ?? MIN_FREE_BYTES,
      maxLineBytes: settings.maxLineBytes ?? MAX_LINE_BYTES
    }
  })

/** What is wrong with the keys of the environment; undefined if nothing is. */
export const wrongKeyOf = ({
  key,
  previousKey = key
}: NonNullable<AuditLayer.Settings["proof"]>): string | undefined => {
  for (const [name, given] of Object.entries({ KEY: key, PREVIOUS_KEY: previousKey })) {
    const parsed = sealingKey(given)
    if (Either.isLeft(parsed)) return `AUDIT_PROOF_${name}: ${parsed.left}`
  }
  return undefined
}

/** The queues of the given directory, as their owner: see {@link becomeOwner}. */
export const queuesOf = (given: Option.Option<string>) =>
  Effect.tap(findQueues(given), (queues) => becomeOwner(queues.map((queue) => queue.directory)))

/** The queues of the given directory: one, or one for each instance. */
export const findQueues = (given: Option.Option<string>) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { directory } = yield* settingsOf(given)
    const info = yield* disk.info(directory)
    if (info?.type !== "directory") return yield* noQueue(directory)
    return yield* Effect.gen(function* () {
      const queues = (yield* queuesIn(disk, directory)).map((queue): Queue => ({
        directory: queue,
        name: queue === directory ? undefined : path.basename(queue)
      }))
      for (const queue of queues) {
        if ((yield* disk.info(`${queue.directory}/queue.json`)) === undefined) {
          return yield* noQueue(queue.directory)
        }
      }
      return queues
    }).pipe(
      Effect.catchIf(
        (error) => error._tag === "DiskError" && error.code === "EACCES",
        () => refuse(directory, info.uid)
      )
    )
  })

const noQueue = (directory: string) =>
  new Ended({
    code: ExitCode.needsOperator,
    message: `There is no queue in ${directory}: give its directory by --directory or AUDIT_DIRECTORY.`
  })

// ---------------------------------------------------------------------------------------------- kinds of events

export const events = Options.file("events").pipe(
  Options.withDescription(
    "A module that exports classes of events of your own, beside UseLog and LoginLog. Or AUDIT_EVENTS, by commas"
  ),
  Options.repeated
)

export const activity = Options.boolean("activity").pipe(
  Options.withDescription("Also the kind Activity, whose table is audit_activity. Or AUDIT_ACTIVITY=true"),
  Options.withFallbackConfig(Config.boolean("AUDIT_ACTIVITY")),
  Options.withDefault(false)
)

/** The kinds of this package, with `Activity` only if wanted, and those that the modules export. */
export const kindsOf = (files: ReadonlyArray<string>, isActivityWanted = true) =>
  Effect.gen(function* () {
    const more = yield* Config.withDefault(Config.array(Config.nonEmptyString(), "AUDIT_EVENTS"), [])
    const kinds: Array<AuditEvent.Any> = [UseLog, LoginLog, ...(isActivityWanted ? [Activity] : [])]
    for (const file of files.length > 0 ? files : more) {
      const exported = yield* Effect.tryPromise({
        try: () => import(pathToFileURL(path.resolve(file)).href) as Promise<Record<string, unknown>>,
        catch: (cause) => usageError(`${file} cannot be imported: ${importFailure(cause)}`)
      })
      const found = Object.values(exported).filter(isKind)
      if (found.length === 0) return yield* usageError(`${file} exports no class of events.`)
      kinds.push(...found)
    }
    // a module may export one of our kinds again, or replace it
    return [...new Map(kinds.map((kind) => [kind.kind, kind])).values()]
  })

/** Node reads TypeScript from 22.18 on, if the syntax is erasable and imports name files as they are. */
const importFailure = (cause: unknown): string => {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : ""
  const isTypeScript =
    code === "ERR_UNKNOWN_FILE_EXTENSION" ||
    code === "ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX" ||
    (code === "ERR_MODULE_NOT_FOUND" && String(cause).includes(".js"))
  const advice =
    "; if it is TypeScript that this Node does not read, install tsx and set NODE_OPTIONS='--import tsx'"
  return `${String(cause)}${isTypeScript ? advice : ""}`
}

const isKind = (value: unknown): value is AuditEvent.Any =>
  typeof value === "function" && (value.prototype as object | undefined) !== undefined
    ? AuditEvent.TypeId in (value.prototype as object)
    : false

// ------------------------------------------------------------------------------------------------- the database

const fromEnvironment =
  <A>(config: Config.Config<A>) =>
  (option: Options.Options<A>) =>
    option.pipe(Options.withFallbackConfig(config), Options.optional)

/** The file of the program's SqliteUploader. If it is given, no server is asked. */
export const sqlite = Options.text("sqlite").pipe(
  Options.withDescription(
    "The file of a queue that is delivered to SQLite, in place of a server. Or AUDIT_SQLITE_FILE"
  ),
  Options.withFallbackConfig(Config.nonEmptyString("AUDIT_SQLITE_FILE")),
  Options.optional
)

/** The flags that name a database; each has a variable as well. */
export const database = {
  url: Options.redacted("url").pipe(
    Options.withDescription(
      "mysql://user@host:port/database; leave the password to --ask-password. Or AUDIT_MYSQL_URL"
    ),
    fromEnvironment(Config.redacted("AUDIT_MYSQL_URL"))
  ),
  host: Options.text("host").pipe(
    Options.withDescription(
      "Host, or host:port; several, separated by commas, are tried in turn. Or AUDIT_MYSQL_HOST"
    ),
    fromEnvironment(Config.nonEmptyString("AUDIT_MYSQL_HOST"))
  ),
  port: Options.integer("port").pipe(
    Options.withDescription("3306 by default. Or AUDIT_MYSQL_PORT"),
    fromEnvironment(Config.integer("AUDIT_MYSQL_PORT"))
  ),
  username: Options.text("username").pipe(
    Options.withAlias("u"),
    Options.withDescription("The account. Or AUDIT_MYSQL_USERNAME"),
    fromEnvironment(Config.nonEmptyString("AUDIT_MYSQL_USERNAME"))
  ),
  database: Options.text("database").pipe(
    Options.withDescription("Its name on the server. Or AUDIT_MYSQL_DATABASE"),
    fromEnvironment(Config.nonEmptyString("AUDIT_MYSQL_DATABASE"))
  ),
  ssl: Options.boolean("ssl").pipe(
    Options.withDescription(
      "Connect by TLS, and verify the server's name and authority. Or AUDIT_MYSQL_SSL=true"
    )
  ),
  sslCa: Options.file("ssl-ca").pipe(
    Options.withDescription("The authority that signed the server's certificate, PEM. Or AUDIT_MYSQL_SSL_CA"),
    fromEnvironment(Config.nonEmptyString("AUDIT_MYSQL_SSL_CA"))
  ),
  serverPublicKey: Options.text("server-public-key").pipe(
    Options.withDescription(
      "Without TLS: the file of the key that MySQL gets the password under, PEM; or trust, for any key. " +
        "Or AUDIT_MYSQL_SERVER_PUBLIC_KEY"
    ),
    fromEnvironment(Config.nonEmptyString("AUDIT_MYSQL_SERVER_PUBLIC_KEY"))
  ),
  tables: Options.keyValueMap("table").pipe(
    Options.withDescription("The table of a kind, as use_log=app_use_log. Or AUDIT_MYSQL_TABLES, by commas"),
    Options.optional
  ),
  deduplication: Options.choice("deduplication", ["key", "none"]).pipe(
    Options.withDescription(
      "Whether the tables have a unique key over event_id. Or AUDIT_MYSQL_DEDUPLICATION"
    ),
    fromEnvironment(Config.literal("key", "none")("AUDIT_MYSQL_DEDUPLICATION"))
  ),
  askPassword: Options.boolean("ask-password").pipe(
    Options.withAlias("p"),
    Options.withDescription("Ask for the password. Or AUDIT_MYSQL_PASSWORD")
  )
}

type Flags<T> = { readonly [K in keyof T]: T[K] extends Options.Options<infer A> ? A : never }

export type DatabaseFlags = Flags<typeof database>

export const databaseOf = (flags: DatabaseFlags) =>
  Effect.gen(function* () {
    if (Option.isNone(flags.url) && Option.isNone(flags.database)) {
      return yield* usageError(
        "Name the database: --url or AUDIT_MYSQL_URL, or --host, --username and --database, or AUDIT_MYSQL_HOST, " +
          "AUDIT_MYSQL_USERNAME and AUDIT_MYSQL_DATABASE. Where events go to SQLite, name its file: --sqlite FILE."
      )
    }
    if (Option.isSome(flags.url)) yield* warnOfPassword(flags.url.value)
    const fileSystem = yield* FileSystem.FileSystem
    const password = flags.askPassword
      ? Option.some(yield* askForPassword)
      : yield* Config.option(Config.redacted("AUDIT_MYSQL_PASSWORD"))
    const ca = Option.isSome(flags.sslCa)
      ? { ca: yield* fileSystem.readFileString(flags.sslCa.value) }
      : undefined
    yield* refuseVariables
    const serverPublicKey = Option.getOrUndefined(flags.serverPublicKey)
    const ssl = flags.ssl || (yield* Config.withDefault(Config.boolean("AUDIT_MYSQL_SSL"), false))
    const options: MysqlUploader.Options = {
      url: Option.getOrUndefined(Option.map(flags.url, (url) => withPassword(url, password))),
      hosts: Option.getOrUndefined(Option.map(flags.host, (hosts) => hosts.split(",").map((_) => _.trim()))),
      port: Option.getOrUndefined(flags.port),
      username: Option.getOrUndefined(flags.username),
      password: Option.getOrUndefined(password),
      database: Option.getOrUndefined(flags.database),
      ssl: ca ?? (ssl ? true : undefined),
      serverPublicKey:
        serverPublicKey === undefined || serverPublicKey === TRUST
          ? serverPublicKey
          : yield* fileSystem.readFileString(serverPublicKey),
      deduplication: Option.getOrUndefined(flags.deduplication),
      tables: yield* tablesOf(flags.tables)
    }
    return options
  })

/** Refuses an empty or misspelt variable about TLS, which would connect in the clear. Warns of other unknown ones. */
const refuseVariables = Effect.suspend(() => {
  const empty = ["AUDIT_MYSQL_SSL_CA", "AUDIT_MYSQL_SERVER_PUBLIC_KEY"].find(
    (name) => process.env[name] === ""
  )
  if (empty !== undefined) return usageError(`${empty} is empty: set it, or unset it.`)
  const misspelt = Object.keys(process.env).find(
    (name) =>
      /^AUDIT_MYSQL_/i.test(name) &&
      mentionsTls(name.slice("AUDIT_MYSQL_".length)) &&
      !["AUDIT_MYSQL_SSL", "AUDIT_MYSQL_SSL_CA"].includes(name)
  )
  if (misspelt !== undefined) {
    return usageError(
      `${misspelt} means nothing here: set AUDIT_MYSQL_SSL=true or AUDIT_MYSQL_SSL_CA for TLS.`
    )
  }
  const unknown = Object.keys(process.env).filter(
    (name) => name.startsWith("AUDIT_MYSQL_") && !VARIABLES.includes(name)
  )
  return Effect.forEach(
    unknown,
    (name) => {
      const meant = nearest(name, VARIABLES)
      return say(
        `warning: ${visible(name)} means nothing here${meant === undefined ? "" : `: did you mean ${meant}?`}`
      )
    },
    { discard: true }
  )
})

const VARIABLES = [
  ...["URL", "HOST", "PORT", "USERNAME", "PASSWORD", "DATABASE", "SSL", "SSL_CA", "SERVER_PUBLIC_KEY"],
  ...["TABLES", "DEDUPLICATION"]
].map((name) => `AUDIT_MYSQL_${name}`)

/** The tables of kinds that do not go where they say. */
export const tablesOf = (flag: Option.Option<HashMap.HashMap<string, string>>) =>
  Effect.gen(function* () {
    if (Option.isSome(flag)) return Object.fromEntries(HashMap.toEntries(flag.value))
    const names = Config.array(Config.nonEmptyString(), "AUDIT_MYSQL_TABLES")
    const pairs = yield* Config.withDefault(names, [])
    return Object.fromEntries(pairs.map((pair) => pair.split("=", 2) as [kind: string, table: string]))
  })

/** Anybody who lists the processes of this machine sees their arguments, and history files keep them. */
const warnOfPassword = (given: Redacted.Redacted) =>
  Effect.suspend(() => {
    const url = Redacted.value(given)
    const isFlag = process.argv.some((argument) => argument === url || argument === `--url=${url}`)
    // also finds a password that is not encoded, which a URL would cut short or lose
    if (!isFlag || !/:\/\/[^@]*:.+@/s.test(url)) return Effect.void
    return say(
      "warning: the command line shows the password of --url to everybody on this machine: use --ask-password, " +
        "AUDIT_MYSQL_PASSWORD or AUDIT_MYSQL_URL."
    )
  })

/** Puts the password into the URL, since the uploader takes a URL as it is. */
const withPassword = (url: Redacted.Redacted, password: Option.Option<Redacted.Redacted>) => {
  if (Option.isNone(password) || !URL.canParse(Redacted.value(url))) return url
  const whole = new URL(Redacted.value(url))
  whole.password = encodeURIComponent(Redacted.value(password.value))
  return Redacted.make(whole.href)
}

const askForPassword = Effect.suspend(() =>
  process.stdin.isTTY
    ? Effect.catchTag(
        Prompt.run(Prompt.hidden({ message: "Password of the database" })),
        "QuitException",
        () => usageError("No password was given.")
      )
    : usageError("There is no terminal to ask for the password: set AUDIT_MYSQL_PASSWORD.")
)
