/**
 * The package with a second copy of Effect, as in a program that a bundler made; `compiled` makes it.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import { makeMemoryUploader } from "../../src/layers/MemoryUploader.js"
import { Uploader } from "../../src/services/Uploader.js"

export { openAuditLogger } from "../../src/AuditLogger.js"
export * as AuditLayer from "../../src/layers/AuditLayer.js"

/** A table in memory: the layer of its uploader, and the number of its events. */
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
