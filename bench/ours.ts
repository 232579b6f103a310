/**
 * effect-audit through its public API, as a program uses it.
 *
 * @module
 */
import { Effect, Layer, Logger, LogLevel, ManagedRuntime, Redacted } from "effect"
import { Audit, AuditLayer, type AuditLog, logUse, type Uploader } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { useLog } from "./event.js"
import type { Load, Sample } from "./measure.js"
import { inFibers } from "./measure.js"

/** Nobody listens on this port: the database is down. */
const NOBODY = "mysql://root@127.0.0.1:1/audit"

/** The uploader that a program would use; without a URL its database is down. */
export const uploader = (url = NOBODY, connections = 1): Layer.Layer<Uploader> =>
  MysqlUploader.layer({ url: Redacted.make(url), connections })

export interface Ours {
  readonly run: <A, E>(effect: Effect.Effect<A, E, AuditLog>) => Promise<A>
  readonly close: () => Promise<void>
}

/** Opens an audit log in the directory; a private key seals what it delivers. */
export const open = async (directory: string, target = uploader(), key?: string): Promise<Ours> => {
  const proof = key === undefined ? undefined : { key: Redacted.make(key) }
  const runtime = ManagedRuntime.make(
    AuditLayer.layer({ directory, proof }).pipe(
      Layer.provide(target),
      Layer.provide(Logger.minimumLogLevel(LogLevel.None))
    )
  )
  await runtime.runtime()
  return { run: (effect) => runtime.runPromise(effect), close: () => runtime.dispose() }
}

/** Callers that append without pause. */
export const append = (load: Load): Effect.Effect<Sample, never, AuditLog> =>
  inFibers(load, () => logUse(useLog()))

const CONCURRENTLY = { concurrency: "unbounded", discard: true } as const

/** Appends so many events, as fast as possible. */
export const fill = (events: number): Effect.Effect<void, never, AuditLog> =>
  Effect.replicateEffect(Effect.replicateEffect(logUse(useLog()), 1000, CONCURRENTLY), events / 1000, {
    discard: true
  })

/** Waits until what was appended before is delivered, or refused. */
export const flush: Effect.Effect<void, never, AuditLog> = Effect.asVoid(Effect.orDie(Audit.flush))

/** Delivers what was appended before. Fails if an event is dead or missing. */
export const deliver: Effect.Effect<void, never, AuditLog> = Effect.gen(function* () {
  yield* flush
  const { dead, missing } = yield* Effect.orDie(Audit.status)
  if (dead + missing > 0) yield* Effect.dieMessage("not everything was delivered")
})
