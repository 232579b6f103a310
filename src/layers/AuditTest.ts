/**
 * The audit log for tests of programs: the real queue and worker, on a disk and a database in memory. Two builds of the
 * layer share nothing. It works under TestClock.
 *
 * @example
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { Audit, logUse, UseLog } from "effect-audit"
 * import { AuditTest } from "effect-audit/testing"
 *
 * it.effect("records the use", () =>
 *   Effect.gen(function* () {
 *     yield* logUse({ userName: "li", prompt: "a red fox", status: "success" })
 *     yield* Audit.flush
 *     const [use] = yield* AuditTest.delivered(UseLog)
 *     assert.strictEqual(use?.prompt, "a red fox")
 *   }).pipe(Effect.provide(AuditTest.layer))
 * )
 *
 * @since 0.1.0
 */
import { Context, Effect, Layer, Schema } from "effect"
import * as MemoryDisk from "./MemoryDisk.js"
import { makeMemoryUploader } from "./MemoryUploader.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { UploadError } from "../schema/Errors.js"
import type { StoredEvent } from "../schema/Line.js"
import { Disk } from "../services/Disk.js"
import { Uploader, type Rejection } from "../services/Uploader.js"
import * as AuditLayer from "./AuditLayer.js"

/**
 * The options of the audit log in memory.
 *
 * @category models
 * @since 0.1.0
 */
export type Options<E extends ReadonlyArray<AuditEvent.Any> = readonly []> = Omit<
  AuditLayer.Options<E>,
  "adopt" | "directory" | "instances" | "lockWait" | "unsafeFileSystem"
>

/**
 * A class of events, as `AuditEvent.Class` makes it.
 *
 * @category models
 * @since 0.1.0
 */
export type EventClass<A> = AuditEvent.Any & Schema.Schema.AnyNoContext & { readonly Type: A }

/**
 * The controls of the disk and the database in memory. Use the functions of this module instead of this service.
 *
 * @category services
 * @since 0.1.0
 */
export class AuditTest extends Context.Tag("effect-audit/AuditTest")<
  AuditTest,
  {
    readonly delivered: <A>(event: EventClass<A>) => Effect.Effect<ReadonlyArray<A>>
    readonly outage: (error: UploadError) => Effect.Effect<void>
    readonly recover: Effect.Effect<void>
    readonly reject: <A>(event: EventClass<A>, isRejected: (event: A) => boolean) => Effect.Effect<void>
    readonly attempts: Effect.Effect<number>
    readonly disk: (state: DiskState) => Effect.Effect<void>
  }
>() {}

type DiskState = "works" | "full" | { readonly failing: string }

/**
 * The events of a class in the database, in the order of storing.
 *
 * @category verbs
 * @since 0.1.0
 */
export const delivered = <A>(event: EventClass<A>): Effect.Effect<ReadonlyArray<A>, never, AuditTest> =>
  Effect.flatMap(AuditTest, (test) => test.delivered(event))

/**
 * Makes the database unreachable, until {@link recover}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const outage: Effect.Effect<void, never, AuditTest> = Effect.suspend(() =>
  outageWith(
    new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "the database cannot be reached" })
  )
)

/**
 * Makes each delivery fail with this error, until {@link recover}.
 *
 * @category verbs
 * @since 0.1.0
 */
export const outageWith = (error: UploadError): Effect.Effect<void, never, AuditTest> =>
  Effect.flatMap(AuditTest, (test) => test.outage(error))

/**
 * Makes the database work again. The worker's next try, or `Audit.flush`, delivers the waiting events.
 *
 * @category verbs
 * @since 0.1.0
 */
export const recover: Effect.Effect<void, never, AuditTest> = Effect.flatMap(
  AuditTest,
  (test) => test.recover
)

/**
 * Makes the database refuse the events of this class for which the function returns true: they become dead letters.
 *
 * @category verbs
 * @since 0.1.0
 */
export const reject = <A>(
  event: EventClass<A>,
  isRejected: (event: A) => boolean
): Effect.Effect<void, never, AuditTest> =>
  Effect.flatMap(AuditTest, (test) => test.reject(event, isRejected))

/**
 * How many deliveries to the database were tried.
 *
 * @category verbs
 * @since 0.1.0
 */
export const attempts: Effect.Effect<number, never, AuditTest> = Effect.flatMap(
  AuditTest,
  (test) => test.attempts
)

/**
 * Makes the disk full, until {@link diskWorks}: recording fails with `QueueFull`.
 *
 * @category verbs
 * @since 0.1.0
 */
export const diskFull: Effect.Effect<void, never, AuditTest> = Effect.flatMap(AuditTest, (test) =>
  test.disk("full")
)

/**
 * Makes writes to the disk fail with a code such as `EIO`, until {@link diskWorks}: recording fails with
 * `QueueWriteError`.
 *
 * @category verbs
 * @since 0.1.0
 */
export const diskFails = (code: string): Effect.Effect<void, never, AuditTest> =>
  Effect.flatMap(AuditTest, (test) => test.disk({ failing: code }))

/**
 * Makes the disk work again, with room.
 *
 * @category verbs
 * @since 0.1.0
 */
export const diskWorks: Effect.Effect<void, never, AuditTest> = Effect.flatMap(AuditTest, (test) =>
  test.disk("works")
)

/**
 * The audit log in memory, with your own kinds of events or other options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = <const E extends ReadonlyArray<AuditEvent.Any> = readonly []>(
  options: Options<E>
): Layer.Layer<AuditLayer.Provided<E> | AuditTest> =>
  Layer.unwrapEffect(
    Effect.gen(function* () {
      const disk = MemoryDisk.make()
      const database = yield* makeMemoryUploader()
      const test: AuditTest["Type"] = {
        delivered: (event) => Effect.map(database.stored(event), (stored) => stored.map(decoder(event))),
        outage: database.outage,
        recover: database.recover,
        reject: (event, isRejected) => database.reject(rejection(event, isRejected)),
        attempts: database.attempts,
        disk: (state) => Effect.sync(() => setState(disk, state))
      }
      return AuditLayer.layerDisk<E>({ ...options, directory: "/audit" }).pipe(
        Layer.provide(Layer.succeed(Disk, disk.startProcess())),
        Layer.provide(Layer.succeed(Uploader, database.uploader)),
        Layer.merge(Layer.succeed(AuditTest, test))
      )
    })
  ).pipe(Layer.orDie)

/**
 * The audit log in memory, with the kinds `UseLog` and `LoginLog`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AuditLayer.Provided<readonly []> | AuditTest> = layerWith({})

/** Decodes the line, and not the row: a row no longer tells all types apart. */
const decoder = <A>(event: EventClass<A>): ((stored: StoredEvent) => A) => {
  const decode = Schema.decodeUnknownSync(event) as (input: unknown) => A
  return ({ line }) => {
    const wellFormed = JSON.parse(JSON.stringify(line), (_, value: unknown) =>
      typeof value === "string" ? value.toWellFormed() : value
    ) as Readonly<Record<string, unknown>>
    const given = event.columns.filter(({ key }) => Object.hasOwn(wellFormed, key))
    return decode(Object.fromEntries(given.map(({ field, key }) => [field, wellFormed[key]])))
  }
}

const rejection = <A>(event: EventClass<A>, isRejected: (event: A) => boolean) => {
  const decode = decoder(event)
  return (stored: StoredEvent): Omit<Rejection, "index"> | undefined =>
    stored.definition.kind === event.kind && isRejected(decode(stored))
      ? { code: "TEST", reason: "AuditTest.reject refuses it" }
      : undefined
}

const setState = (disk: MemoryDisk.MemoryDisk, state: DiskState): void => {
  disk.capacity = state === "full" ? 0 : Number.POSITIVE_INFINITY
  disk.inject(({ operation, step }) =>
    typeof state === "object" && WRITES.has(operation) && step === "data"
      ? { type: "fail", code: state.failing }
      : undefined
  )
}

const WRITES: ReadonlySet<MemoryDisk.Call["operation"]> = new Set(["append", "write", "writeAt"])
