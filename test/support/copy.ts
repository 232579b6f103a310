/**
 * The package with an Effect of its own, as a bundler puts it into a program: see `compiled`.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { Uploader } from "../../src/services/Uploader.js"

export { openAuditLogger } from "../../src/AuditLogger.js"
export * as AuditLayer from "../../src/layers/AuditLayer.js"

/** A table in memory, as the layer of an uploader, and how many events are in it. */
export const makeDatabase = () => {
  let stored = 0
  const { uploader } = Effect.runSync(makeMemoryUploader())
  const counting: Uploader["Type"] = {
    ...uploader,
    upload: (batch) => {
      stored += batch.events.length
      return uploader.upload(batch)
    }
  }
  return { layer: Layer.succeed(Uploader, counting), stored: () => stored }
}
