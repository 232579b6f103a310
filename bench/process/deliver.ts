/**
 * A process that delivers a backlog and appends nothing; or, as a control, one that does so by a bare loop.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import { Uploader } from "effect-audit"
import * as limits from "../limits.js"
import { now } from "../measure.js"
import * as ours from "../ours.js"

export interface Delivery {
  readonly millis: number
  /** how long the first and the last tenth took, milliseconds */
  readonly firstTenth: number
  readonly lastTenth: number
  readonly peakMiB: number
}

/** Notes when each tenth of the events was delivered. */
const watch = (events: number) => {
  const startedAt = now()
  let delivered = 0
  const tenths: Array<number> = [startedAt]
  return {
    onDelivered: (count: number) => {
      delivered += count
      while (delivered >= (events / 10) * tenths.length) tenths.push(now())
    },
    result: (): Delivery => ({
      millis: tenths[10]! - startedAt,
      firstTenth: tenths[1]! - startedAt,
      lastTenth: tenths[10]! - tenths[9]!,
      peakMiB: process.resourceUsage().maxRSS / 1024
    })
  }
}

export default async (input: {
  readonly directory: string
  readonly events: number
  readonly url: string
  /** the segments, if the bare loop delivers them */
  readonly bare: ReadonlyArray<string> | null
}): Promise<Delivery> => {
  const { onDelivered, result } = watch(input.events)
  if (input.bare !== null) {
    await limits.insertAll(input.url, input.bare, { connections: 1, ready: false, onStored: onDelivered })
    return result()
  }
  const counting = Layer.map(ours.uploader(input.url), (context) => {
    const uploader = context.unsafeMap.get(Uploader.key) as Uploader["Type"]
    return Uploader.context({
      ...uploader,
      upload: (batch) =>
        Effect.tap(uploader.upload(batch), () => {
          onDelivered(batch.events.length)
        })
    })
  })
  const log = await ours.open(input.directory, counting)
  await log.run(ours.deliver)
  await log.close()
  return result()
}
