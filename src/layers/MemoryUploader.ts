/** The uploader to tables in memory, with the contract of the others: stores each event once; a failure stores none. */
import { Effect } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { UploadError } from "../schema/Errors.js"
import type { StoredEvent } from "../schema/Line.js"
import type { Rejection, Uploader } from "../services/Uploader.js"

/** An uploader, and its controls for tests. */
export interface MemoryUploader {
  readonly uploader: Uploader["Type"]
  /** The events of a kind, in the order of storing. */
  readonly stored: (definition: AuditEvent.Any) => Effect.Effect<ReadonlyArray<StoredEvent>>
  /** Makes every upload fail with this error. */
  readonly outage: (error: UploadError) => Effect.Effect<void>
  readonly recover: Effect.Effect<void>
  /** Refuses events for which the function returns a reason. */
  readonly reject: (
    reason: (event: StoredEvent) => Omit<Rejection, "index"> | undefined
  ) => Effect.Effect<void>
  readonly attempts: Effect.Effect<number>
}

export const makeMemoryUploader = (): Effect.Effect<MemoryUploader> =>
  Effect.sync(() => {
    const tables = new Map<string, Array<StoredEvent>>()
    const ids = new Map<string, Set<string>>()
    let outage: UploadError | undefined
    let refuse: Parameters<MemoryUploader["reject"]>[0] = () => undefined
    let attempts = 0

    return {
      uploader: {
        concurrency: 1,
        upload: ({ definition, events }) =>
          Effect.suspend(() => {
            attempts++
            if (outage !== undefined) return outage
            const table = getOrMake(tables, definition.kind, (): Array<StoredEvent> => [])
            const known = getOrMake(ids, definition.kind, () => new Set<string>())
            const rejected: Array<Rejection> = []
            events.forEach((event, index) => {
              const refused = refuse(event)
              if (refused !== undefined) {
                rejected.push({ index, ...refused })
              } else if (!known.has(event.eventId)) {
                known.add(event.eventId)
                table.push(event)
              }
            })
            return Effect.succeed({ rejected })
          })
      },
      stored: (definition) => Effect.sync(() => [...(tables.get(definition.kind) ?? [])]),
      outage: (error) =>
        Effect.sync(() => {
          outage = error
        }),
      recover: Effect.sync(() => {
        outage = undefined
      }),
      reject: (reason) =>
        Effect.sync(() => {
          refuse = reason
        }),
      attempts: Effect.sync(() => attempts)
    }
  })

const getOrMake = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  const known = map.get(key)
  if (known !== undefined) return known
  const made = make()
  map.set(key, made)
  return made
}
