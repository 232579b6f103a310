/**
 * A process that delivers a backlog and appends nothing.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import { Uploader } from "effect-audit"
import { now } from "../measure.js"
import * as ours from "../ours.js"

export interface Delivery {
  readonly millis: number
  /** how long the first and the last tenth took, milliseconds */
  readonly firstTenth: number
  readonly lastTenth: number
  readonly peakMiB: number
}

export default async (input: {
  readonly directory: string
  readonly events: number
  readonly url: string
}): Promise<Delivery> => {
  const startedAt = now()
  let delivered = 0
  /** when so many tenths were delivered */
  const tenths: Array<number> = [startedAt]

  const counting = Layer.map(ours.uploader(input.url), (context) => {
    const uploader = context.unsafeMap.get(Uploader.key) as Uploader["Type"]
    return Uploader.context({
      ...uploader,
      upload: (batch) =>
        Effect.tap(uploader.upload(batch), () => {
          delivered += batch.events.length
          while (delivered >= (input.events / 10) * tenths.length) tenths.push(now())
        })
    })
  })

  const log = await ours.open(input.directory, counting)
  await log.run(ours.deliver)
  const millis = now() - startedAt
  await log.close()
  return {
    millis,
    firstTenth: tenths[1]! - tenths[0]!,
    lastTenth: tenths[10]! - tenths[9]!,
    peakMiB: process.resourceUsage().maxRSS / 1024
  }
}
