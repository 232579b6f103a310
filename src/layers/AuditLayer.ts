/**
 * The audit log as a layer: the queue on disk, the worker, and the log over both. Provide it once, at the edge of the
 * program.
 *
 * @since 0.1.0
 */
import { Config, Context, DateTime, Duration, Effect, Layer, Option, Stream } from "effect"
import type { ConfigError } from "effect"
import { makeTally } from "../internal/metrics.js"
import { sealingKey } from "../internal/proof/keys.js"
import { Either, strangeRuntime } from "../schema/Effect3.js"
import { checkRules } from "../schema/Rules.js"
import { make as makeShutdown } from "../internal/shutdown.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { QueueOpenError, type QueueLocked } from "../schema/Errors.js"
import { LoginLog } from "../schema/LoginLog.js"
import type * as Redact from "../schema/Redact.js"
import { UseLog } from "../schema/UseLog.js"
import { AuditLog } from "../services/AuditLog.js"
import type { Disk } from "../services/Disk.js"
import { Uploader } from "../services/Uploader.js"
import * as AuditLogLayer from "./AuditLogLive.js"
import * as Instances from "./Instances.js"
import * as Metrics from "./Metrics.js"
import * as NodeDisk from "./NodeDisk.js"
import * as QueueFileLayer from "./QueueFileLive.js"
import * as SchedulerLayer from "./SchedulerLive.js"
import * as StatusFile from "./StatusFile.js"

export type { AppendFailure, OnAppendFailure } from "./AuditLogLive.js"

/**
 * The options that can come from the environment: see {@link config}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings
  extends
    Omit<QueueFileLayer.Options, "isCommand" | "reserveBytes" | "shutdown">,
    Omit<SchedulerLayer.Options, "events" | "shutdown" | "timeZone"> {
  /**
   * adopts the queue file of the Python class at the start; stop the old program first. `timeZone` is that of its
   * lines, for example `Asia/Shanghai`; by default that of this machine.
   */
  readonly adopt?: { readonly path: string; readonly timeZone?: string | undefined } | undefined
  /**
   * how many processes of this program may run at once (PM2, cluster); by default one process owns the directory. Each
   * takes a sub-directory. If one ends, then the others deliver what it has left.
   */
  readonly instances?: number | undefined
  /** how long the whole shutdown may take; 5 seconds by default */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
}

/**
 * The options of an audit log. All except the directory have defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<E extends ReadonlyArray<AuditEvent.Any> = readonly []> extends Settings {
  /** your own kinds of events, besides `UseLog` and `LoginLog` */
  readonly events?: E | undefined
  /** redactions, by kind and field: functions of `Redact`, or your own */
  readonly redact?: Redact.Redactions<Kinds<NoInfer<E>>> | undefined
  /** limits of texts, by kind and field; longer texts are cut and marked: see `Redact.Limits` */
  readonly limits?: Redact.Limits<Kinds<NoInfer<E>>> | undefined
  /** what `logUse` and `logLogin` do when an event cannot be recorded; `log` by default */
  readonly onAppendFailure?: AuditLogLayer.OnAppendFailure | undefined
}

/**
 * The kinds of events of a layer with your own kinds `E`.
 *
 * @category models
 * @since 0.1.0
 */
export type Kinds<E extends ReadonlyArray<AuditEvent.Any>> = typeof UseLog | typeof LoginLog | E[number]

/**
 * The services that a layer with the kinds `E` provides.
 *
 * @category models
 * @since 0.1.0
 */
export type Provided<E extends ReadonlyArray<AuditEvent.Any>> = AuditLog | AuditEvent.KindOf<Kinds<E>>

/**
 * The audit log in a directory on this machine's disk. It starts even if the database is away. At the end of its scope
 * it delivers once more, within `shutdownTimeout`, and leaves the rest for the next start.
 *
 * If another process, or another layer of this one, owns the directory, then it fails with `QueueLocked`. If the
 * directory cannot be used, then it fails with `QueueOpenError`.
 *
 * @example
 * import { Effect, Layer, Redacted } from "effect"
 * import { AuditLayer, logLogin } from "effect-audit"
 * import { MysqlUploader } from "effect-audit/mysql"
 *
 * const AuditLive = AuditLayer.layer({ directory: "./audit" }).pipe(
 *   Layer.provide(MysqlUploader.layer({ url: Redacted.make("mysql://app@db/app") }))
 * )
 *
 * const program = logLogin({ userName: "li", localIp: "10.0.0.5" }).pipe(Effect.provide(AuditLive))
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <const E extends ReadonlyArray<AuditEvent.Any> = readonly []>(
  options: Options<E>
): Layer.Layer<Provided<E>, QueueOpenError | QueueLocked, Uploader> =>
  Layer.provide(layerDisk(options), NodeDisk.layer)

/**
 * Like {@link layer}, on any disk: for tests, and for layers of your own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDisk = <const E extends ReadonlyArray<AuditEvent.Any> = readonly []>(
  options: Options<E>
): Layer.Layer<Provided<E>, QueueOpenError | QueueLocked, Uploader | Disk> =>
  Layer.unwrapEffect(
    Effect.gen(function* () {
      const events = [UseLog, LoginLog, ...(options.events ?? [])]
      yield* checkRuntime(options)
      yield* check(options, events)
      if (options.proof !== undefined) yield* checkProof(options, options.proof, yield* Uploader)
      const shutdown = yield* makeShutdown(options.shutdownTimeout ?? "5 seconds")
      const scheduler = { ...options, events, timeZone: options.adopt?.timeZone }
      const tally = makeTally(events)
      const log = Layer.mergeAll(
        AuditLogLayer.layer({ ...options, events, tally }),
        Metrics.layer({ tally, pollInterval: options.pollInterval })
      ).pipe(Layer.provide(StatusFile.layer(SchedulerLayer.make({ ...scheduler, shutdown }), shutdown)))
      if (options.instances === undefined) {
        return Layer.provide(log, QueueFileLayer.layer({ ...options, shutdown }))
      }
      const instances = { ...options, instances: options.instances, scheduler, shutdown }
      return Layer.merge(log, Instances.layerTakeOver(instances)).pipe(
        Layer.provide(Instances.layerQueue(instances))
      )
    })
  ) as unknown as Layer.Layer<Provided<E>, QueueOpenError | QueueLocked, Uploader | Disk>

const checkRuntime = ({ directory }: Settings): Effect.Effect<void, QueueOpenError> =>
  Effect.withFiberRuntime((fiber) => {
    const reason = strangeRuntime(fiber)
    return reason === undefined ? Effect.void : new QueueOpenError({ directory, reason })
  })

const check = (
  options: Settings & Pick<AuditLogLayer.Options, "redact" | "limits">,
  events: ReadonlyArray<AuditEvent.Any>
): Effect.Effect<void, QueueOpenError> => {
  const refuse = (reason: string) => new QueueOpenError({ directory: options.directory, reason })
  const kinds = events.map((event) => event.kind)
  const twice = kinds.find((kind, index) => kinds.indexOf(kind) !== index)
  if (twice !== undefined)
    return refuse(`two classes of events are of kind "${twice}". Give one another name.`)
  const timeZone = options.adopt?.timeZone
  if (timeZone !== undefined && Option.isNone(DateTime.zoneMakeNamed(timeZone))) {
    return refuse(`timeZone "${timeZone}" is unknown. Use an IANA name, for example Asia/Shanghai.`)
  }
  if (options.instances !== undefined && !(Number.isInteger(options.instances) && options.instances > 0)) {
    return refuse(`instances is ${options.instances}. Give a whole number above 0.`)
  }
  for (const name of ["segmentBytes", "maxLineBytes", "batchRecords", "batchBytes"] as const) {
    const given = options[name]
    if (given !== undefined && !(Number.isSafeInteger(given) && given > 0)) {
      return refuse(`${name} is ${given}. Give a whole number above 0.`)
    }
  }
  const { uploadTimeout } = options
  const timeout = uploadTimeout === undefined ? undefined : Duration.decodeUnknown(uploadTimeout)
  if (timeout !== undefined && !Option.exists(timeout, (duration) => Duration.toMillis(duration) > 0)) {
    return refuse(`uploadTimeout is no duration above 0. Give one, for example "10 minutes".`)
  }
  const wrongRule = checkRules(events, { redact: options.redact, limits: options.limits })
  if (wrongRule !== undefined) return refuse(wrongRule)
  return Effect.void
}

/** Refuses an invalid key, and an uploader without seals, before anything is sealed. */
const checkProof = (
  { directory }: Settings,
  { key, previousKey = key }: NonNullable<Settings["proof"]>,
  { sealing }: Uploader["Type"]
): Effect.Effect<void, QueueOpenError> => {
  const refuse = (reason: string) => new QueueOpenError({ directory, reason })
  for (const given of [key, previousKey]) {
    const parsed = sealingKey(given)
    if (Either.isLeft(parsed)) return refuse(`proof: ${parsed.left}`)
  }
  return sealing === undefined
    ? refuse(
        `proof needs an uploader that seals: MysqlUploader with deduplication "key", or SqliteUploader. Use one, or leave proof out.`
      )
    : Effect.void
}

/**
 * The settings from the environment (or any ConfigProvider):
 *
 * | name | setting |
 * |---|---|
 * | `AUDIT_DIRECTORY` | `directory`; `./audit` by default |
 * | `AUDIT_SEGMENT_BYTES`, `AUDIT_MAX_LINE_BYTES` | `segmentBytes`, `maxLineBytes` |
 * | `AUDIT_MIN_FREE_BYTES`, `AUDIT_MAX_QUEUE_BYTES` | `minFreeBytes`, `maxQueueBytes` |
 * | `AUDIT_APPEND_TIMEOUT`, `AUDIT_LOCK_WAIT`, `AUDIT_SHUTDOWN_TIMEOUT` | durations, for example `5 seconds` |
 * | `AUDIT_UNSAFE_FILE_SYSTEM` | `unsafeFileSystem` |
 * | `AUDIT_BATCH_RECORDS`, `AUDIT_BATCH_BYTES`, `AUDIT_POLL_INTERVAL` | `batchRecords`, `batchBytes`, `pollInterval` |
 * | `AUDIT_UPLOAD_TIMEOUT` | `uploadTimeout`, a duration |
 * | `AUDIT_ADOPT_PATH`, `AUDIT_ADOPT_TIME_ZONE` | `adopt` |
 * | `AUDIT_INSTANCES` | `instances` |
 * | `AUDIT_PROOF_KEY`, `AUDIT_PROOF_PREVIOUS_KEY` | `proof`, PEM |
 *
 * @category config
 * @since 0.1.0
 */
export const config: Config.Config<Settings> = Config.all({
  directory: Config.withDefault(Config.nonEmptyString("DIRECTORY"), "./audit"),
  segmentBytes: maybe(Config.integer("SEGMENT_BYTES")),
  maxLineBytes: maybe(Config.integer("MAX_LINE_BYTES")),
  minFreeBytes: maybe(Config.integer("MIN_FREE_BYTES")),
  maxQueueBytes: maybe(Config.integer("MAX_QUEUE_BYTES")),
  appendTimeout: maybe(Config.duration("APPEND_TIMEOUT")),
  lockWait: maybe(Config.duration("LOCK_WAIT")),
  unsafeFileSystem: maybe(Config.boolean("UNSAFE_FILE_SYSTEM")),
  batchRecords: maybe(Config.integer("BATCH_RECORDS")),
  batchBytes: maybe(Config.integer("BATCH_BYTES")),
  pollInterval: maybe(Config.duration("POLL_INTERVAL")),
  uploadTimeout: maybe(Config.duration("UPLOAD_TIMEOUT")),
  adopt: maybe(
    Config.all({
      path: Config.nonEmptyString("ADOPT_PATH"),
      timeZone: maybe(Config.nonEmptyString("ADOPT_TIME_ZONE"))
    })
  ),
  instances: maybe(Config.integer("INSTANCES")),
  proof: maybe(
    Config.all({
      key: Config.redacted("PROOF_KEY"),
      previousKey: maybe(Config.redacted("PROOF_PREVIOUS_KEY"))
    })
  ),
  shutdownTimeout: maybe(Config.duration("SHUTDOWN_TIMEOUT"))
}).pipe(Config.nested("AUDIT"))

function maybe<A>(value: Config.Config<A>): Config.Config<A | undefined> {
  return Config.map(Config.option(value), Option.getOrUndefined)
}

/**
 * Like {@link layer}, with its settings from a Config.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = <const E extends ReadonlyArray<AuditEvent.Any> = readonly []>(
  settings: Config.Config.Wrap<Settings>,
  options?: Omit<Options<E>, keyof Settings>
): Layer.Layer<Provided<E>, QueueOpenError | QueueLocked | ConfigError.ConfigError, Uploader> =>
  Layer.unwrapEffect(
    Effect.map(Config.unwrap(settings), (unwrapped) => layer<E>({ ...unwrapped, ...options }))
  )

/**
 * An audit log that records nothing: for programs with optional auditing, and for tests that do not check it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<Provided<readonly []>> = Layer.succeedContext(
  Context.make(AuditLog, {
    record: (_kind, _input, options) =>
      Effect.clockWith((clock) =>
        Effect.map(clock.currentTimeMillis, (time) => ({
          eventId: options?.eventId ?? NIL,
          time,
          sequence: 0
        }))
      ),
    log: () => Effect.void,
    flush: Effect.void,
    status: Effect.succeed(EMPTY()),
    changes: Stream.sync(EMPTY)
  }) as Context.Context<Provided<readonly []>>
)

// RFC 9562, section 5.9
const NIL = "00000000-0000-0000-0000-000000000000"

function EMPTY() {
  return {
    accepted: 0,
    delivered: 0,
    waiting: 0,
    dead: 0,
    retried: 0,
    discarded: 0,
    torn: 0,
    missing: 0,
    waitingBytes: 0,
    oldest: undefined,
    nextSequence: 0,
    state: "idle" as const,
    failure: undefined,
    failures: 0,
    nextTry: undefined,
    lastDelivery: undefined
  }
}
