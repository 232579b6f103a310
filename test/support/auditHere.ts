/**
 * Audit logs in the process of the test.
 *
 * @module
 */
import { Context, Effect, ExecutionStrategy, Exit, Layer, Scope } from "effect"
import type { Duration } from "effect"
import * as AuditLayer from "../../src/layers/AuditLayer.js"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import { UploadError } from "../../src/schema/Errors.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { AuditLog } from "../../src/services/AuditLog.js"
import { Disk } from "../../src/services/Disk.js"
import { Uploader } from "../../src/services/Uploader.js"

/** A database that cannot be reached. */
export const away: Uploader["Type"] = {
  concurrency: 1,
  upload: () => new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "the database is away" })
}

/** A database with one table of unique ids, and a delay for each batch. */
export const slowDatabase = (delay: Duration.DurationInput = 0) => {
  const events = new Map<string, StoredEvent>()
  const uploader: Uploader["Type"] = {
    concurrency: 1,
    upload: (batch) =>
      Effect.delay(
        Effect.sync(() => {
          for (const event of batch.events) events.set(event.eventId, event)
          return { rejected: [] }
        }),
        delay
      )
  }
  return { events, uploader, prompts: () => [...events.values()].map(({ line }) => line.prompt as string) }
}

/** An audit log that closes with the scope, or earlier. */
export const openAudit = (
  settings: AuditLayer.Options,
  options: { readonly uploader?: Uploader["Type"]; readonly disk?: Disk["Type"] } = {}
) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const disk = options.disk === undefined ? NodeDisk.layer : Layer.succeed(Disk, options.disk)
    const layer = AuditLayer.layerDisk({ minFreeBytes: 0, ...settings }).pipe(
      Layer.provide(Layer.succeed(Uploader, options.uploader ?? away)),
      Layer.provide(disk)
    )
    const log = Context.get(yield* Layer.buildWithScope(layer, scope), AuditLog)
    return {
      use: (prompt: string) => log.record("use_log", { prompt, status: "success" }),
      log: (prompt: string) => log.log("use_log", { prompt, status: "success" }),
      flush: log.flush,
      status: log.status,
      close: Scope.close(scope, Exit.void)
    }
  })
