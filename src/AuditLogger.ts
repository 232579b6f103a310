/**
 * The audit logger: the same log on promises, for programs without Effect. Only this module of the library runs
 * Effects.
 *
 * @since 0.1.0
 */
import { Cause, Effect, Exit, Layer, ManagedRuntime, Runtime } from "effect"
import { GlobalValue } from "./schema/Effect3.js"
import type { Duration } from "effect"
import * as path from "node:path"
import { contained } from "./internal/contained.js"
import { realPathOf } from "./internal/queue/directory.js"
import * as AuditLayer from "./layers/AuditLayer.js"
import * as NodeDisk from "./layers/NodeDisk.js"
import * as AuditEvent from "./schema/AuditEvent.js"
import { FlushError } from "./schema/Errors.js"
import { LoginLog, type LoginLogInput } from "./schema/LoginLog.js"
import { UseLog, type UseLogInput } from "./schema/UseLog.js"
import { AuditLog, type AuditStatus, type Receipt, type RecordOptions } from "./services/AuditLog.js"
import type { Uploader } from "./services/Uploader.js"

/**
 * The options of an audit logger: those of `AuditLayer.layer`, and the uploader.
 *
 * @category models
 * @since 0.1.0
 */
export interface AuditLoggerOptions<E extends ReadonlyArray<AuditEvent.Any> = readonly []> extends Omit<
  AuditLayer.Options<E>,
  "onAppendFailure"
> {
  /** for example `MysqlUploader.layer({ ... })` */
  readonly uploader: Layer.Layer<Uploader, unknown>
  /**
   * what `logUse` and `logLogin` do if an event cannot be recorded: `log` the error (the default), `die` (reject), or
   * wait for your function. If the function throws, then they reject.
   */
  readonly onAppendFailure?:
    "log" | "die" | ((failure: AuditLayer.AppendFailure) => void | Promise<void>) | undefined
  /**
   * signals that close the log; none by default. If the program has no handler for the signal, then the process gets it
   * again afterwards.
   */
  readonly closeOnSignals?: ReadonlyArray<NodeJS.Signals> | undefined
}

/**
 * An open audit log. Its promises reject with the errors of this package, which `error._tag` tells apart.
 *
 * @category models
 * @since 0.1.0
 */
export interface AuditLogger<K extends string = "use_log" | "login_log"> extends AsyncDisposable {
  /** Resolves when the event is on disk, fsynced; a failure goes to `onAppendFailure`. */
  readonly logUse: (input: UseLogInput) => Promise<void>
  /** Resolves when the event is on disk, fsynced; a failure goes to `onAppendFailure`. */
  readonly logLogin: (input: LoginLogInput) => Promise<void>
  /** Like `logUse`, for an event of any kind that the log carries. */
  readonly log: (event: AuditEvent.Instance<K>) => Promise<void>
  /** Like `logUse`, but rejects if the event cannot be recorded. */
  readonly recordUse: (input: UseLogInput, options?: RecordOptions) => Promise<Receipt>
  /** Like `logLogin`, but rejects if the event cannot be recorded. */
  readonly recordLogin: (input: LoginLogInput, options?: RecordOptions) => Promise<Receipt>
  /** Like `log`, but rejects if the event cannot be recorded. */
  readonly record: (event: AuditEvent.Instance<K>, options?: RecordOptions) => Promise<Receipt>
  /** Resolves when all earlier events are delivered or dead letters; rejects after one failed attempt. */
  readonly flush: () => Promise<void>
  readonly status: () => Promise<AuditStatus>
  /**
   * Releases this handle. With the last handle of the directory, the log delivers once more and closes, within its
   * `shutdownTimeout`. Never rejects. If `timeout` passes first, then it resolves, and closing goes on in the
   * background. Events that still wait are on disk, for the next start.
   */
  readonly shutdown: (timeout?: Duration.DurationInput) => Promise<void>
}

/**
 * Opens the audit log of a directory. If this process opens the same directory again, then it gets another handle of
 * the same log, with the first options. The log closes with its last handle.
 *
 * An event is on disk when its promise resolves: if the process exits without `shutdown`, or is killed, then it loses
 * none. An open log keeps the process alive, like an open connection.
 *
 * @example
 * import { Redacted } from "effect"
 * import { openAuditLogger } from "effect-audit"
 * import { MysqlUploader } from "effect-audit/mysql"
 *
 * await using audit = await openAuditLogger({
 *   directory: "./audit",
 *   uploader: MysqlUploader.layer({ url: Redacted.make("mysql://app@db/app") })
 * })
 * await audit.logUse({ userName: "li", prompt: "a red fox", status: "success", durationMs: 1840 })
 *
 * @category constructors
 * @since 0.1.0
 */
export const openAuditLogger = async <const E extends ReadonlyArray<AuditEvent.Any> = readonly []>(
  options: AuditLoggerOptions<E>
): Promise<AuditLogger<AuditLayer.Kinds<E>["kind"]>> => {
  const directory = await nameOf(path.resolve(options.directory))
  // a closing log still holds the lock
  while (logs.get(directory)?.closing !== undefined) await logs.get(directory)?.closing
  const log = logs.get(directory) ?? new Log(directory, layerOf(options), options.closeOnSignals ?? [])
  return log.handle()
}

/** The key of a directory's log, the same for every path to it: through links, mounts, or in another case. */
const nameOf = async (given: string): Promise<string> => {
  const disk = NodeDisk.make()
  // if the path cannot be read, then opening the log reports it
  const real = await Effect.runPromise(Effect.orElseSucceed(realPathOf(disk, given), () => given))
  if (logs.has(real)) return real
  const identity = await Effect.runPromise(NodeDisk.identityOf(real))
  if (identity === undefined) return real
  for (const other of logs.keys()) {
    if ((await Effect.runPromise(NodeDisk.identityOf(other))) === identity) return other
  }
  return real
}

const layerOf = <const E extends ReadonlyArray<AuditEvent.Any>>({
  closeOnSignals: _,
  onAppendFailure,
  uploader,
  ...options
}: AuditLoggerOptions<E>): Layer.Layer<AuditLog, unknown> =>
  AuditLayer.layer<E>({
    ...options,
    onAppendFailure:
      typeof onAppendFailure === "function"
        ? (failure) => Effect.promise(async () => onAppendFailure(failure))
        : onAppendFailure
  }).pipe(Layer.provide(uploader))

/**
 * What copies of this module in one process share of a log: only functions. Each copy may have another Effect, whose
 * effects do not run on this runtime.
 */
interface Shared {
  readonly closing: Promise<void> | undefined
  readonly handle: () => Promise<AuditLogger<string>>
}

/** The open logs by directory, shared by all copies of this module: bundlers and hot reloads make several. */
const logs = GlobalValue.globalValue(
  Symbol.for("effect-audit/AuditLogger/logs/1"),
  () => new Map<string, Shared>()
)

interface Opened {
  readonly audit: AuditLog["Type"]
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Promise<A>
}

/** The log of a directory, shared by its handles. */
class Log implements Shared {
  readonly opened: Promise<Opened>
  private handles = 0
  closing: Promise<void> | undefined
  readonly #close: () => Promise<void>

  constructor(
    readonly directory: string,
    layer: Layer.Layer<AuditLog, unknown>,
    signals: ReadonlyArray<NodeJS.Signals>
  ) {
    const runtime = ManagedRuntime.make(layer)
    const onSignal = (signal: NodeJS.Signals) => {
      void this.close().then(() => {
        if (process.listenerCount(signal) === 0) process.kill(process.pid, signal)
      })
    }
    // the runtime outlives the log, so that later records fail with `QueueClosed`
    this.opened = unwrapped(
      runtime.runPromiseExit(contained(Effect.all([AuditLog, Effect.runtime<AuditLog>()])))
    ).then(([audit, rt]) => ({ audit, run: (effect) => unwrapped(Runtime.runPromiseExit(rt, effect)) }))
    this.#close = async () => {
      for (const signal of signals) process.off(signal, onSignal)
      await runtime.dispose().catch(() => undefined)
      logs.delete(directory)
    }
    for (const signal of signals) process.once(signal, onSignal)
    logs.set(directory, this)
  }

  close(): Promise<void> {
    return (this.closing ??= this.#close())
  }

  async handle(): Promise<AuditLogger<string>> {
    this.handles++
    try {
      return handleOf(this, await this.opened)
    } catch (error) {
      await this.release()
      throw error
    }
  }

  async release(): Promise<void> {
    if (--this.handles === 0) await this.close()
  }
}

const handleOf = (log: Log, { audit, run }: Opened): AuditLogger<string> => {
  let released: Promise<void> | undefined
  const release = () => (released ??= log.release())
  return {
    logUse: (input) => run(audit.log(UseLog.kind, input)),
    logLogin: (input) => run(audit.log(LoginLog.kind, input)),
    log: (event) => run(audit.log(AuditEvent.kindOf(event), event)),
    recordUse: (input, options) => run(audit.record(UseLog.kind, input, options)),
    recordLogin: (input, options) => run(audit.record(LoginLog.kind, input, options)),
    record: (event, options) => run(audit.record(AuditEvent.kindOf(event), event, options)),
    flush: () => run(Effect.suspend(() => (log.closing === undefined ? audit.flush : tooLate(audit)))),
    status: () => run(audit.status),
    shutdown: async (timeout) => {
      const closed = Effect.promise(release)
      await run(timeout === undefined ? closed : Effect.timeoutOption(closed, timeout))
    },
    [Symbol.asyncDispose]: release
  }
}

const tooLate = (audit: AuditLog["Type"]): Effect.Effect<void, FlushError> =>
  Effect.matchEffect(audit.status, {
    onSuccess: ({ waiting }) => new FlushError({ waiting, cause: new Error("the audit log is closed") }),
    onFailure: (cause) => new FlushError({ waiting: 0, cause })
  })

/** Rejects with the error itself, not with Effect's wrapper of it. */
const unwrapped = async <A, E>(exit: Promise<Exit.Exit<A, E>>): Promise<A> =>
  Exit.getOrElse(await exit, (cause) => {
    throw Cause.squash(cause)
  })
