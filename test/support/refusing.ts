/**
 * Databases that refuse the events that a test chooses.
 *
 * @module
 */
import { Effect } from "effect"
import type { StoredEvent } from "../../src/schema/Line.js"
import type { Part, Stored } from "../../src/services/Sealing.js"
import type { Uploader, UploadBatch } from "../../src/services/Uploader.js"

/** An uploader whose database refuses some events. `onRefused` gets them before a seal names them. */
export const refusing = (
  uploader: Uploader["Type"],
  isRefused: (event: StoredEvent) => boolean,
  onRefused: (event: StoredEvent) => void = () => undefined
): Uploader["Type"] => {
  const split = ({ definition, events }: UploadBatch) => {
    const rejected = events.flatMap((event, index) =>
      isRefused(event) ? [{ index, code: "1", reason: "as it asked" }] : []
    )
    return {
      rejected,
      accepted: { definition, events: events.filter((_, at) => !rejected.some(({ index }) => index === at)) },
      tell: () => {
        for (const { index } of rejected) onRefused(events[index]!)
      }
    }
  }
  const { sealing } = uploader
  return {
    ...uploader,
    upload: (batch) =>
      Effect.gen(function* () {
        const { accepted, rejected, tell } = split(batch)
        if (accepted.events.length > 0) yield* uploader.upload(accepted)
        tell()
        return { rejected }
      }),
    sealing: sealing && {
      ...sealing,
      upload: (first, next, seal) =>
        Effect.suspend(() => {
          const all: Array<Stored> = []
          let parts: ReadonlyArray<ReturnType<typeof split>> = []
          const without = ({ batches }: Part): Part => {
            parts = batches.map(split)
            return sealing.prepare(parts.map(({ accepted }) => accepted))
          }
          return sealing.upload(
            without(first),
            (stored) => {
              for (const { tell } of parts) tell()
              const answered = stored.map((each, at) => ({ ...each, rejected: parts[at]!.rejected }))
              all.push(...answered)
              const following = next(answered)
              return following && without(following)
            },
            () => seal(all)
          )
        })
    }
  }
}
