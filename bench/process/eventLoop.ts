/**
 * A process that watches the delay of its own event loop while it appends, delivers, or does nothing.
 *
 * @module
 */
import { monitorEventLoopDelay } from "node:perf_hooks"
import { setTimeout as sleep } from "node:timers/promises"
import * as limits from "../limits.js"
import { Load } from "../measure.js"
import * as ours from "../ours.js"

export default async (input: {
  readonly work: "nothing" | "append" | "deliver"
  readonly directory: string
  /** null: the database is down */
  readonly url: string | null
  readonly millis: number
  /** the segments, if the bare loop delivers them */
  readonly bare: ReadonlyArray<string> | null
}): Promise<number> => {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  if (input.bare !== null) {
    delay.enable()
    await limits.insertAll(input.url!, input.bare, { connections: 1, ready: false })
    delay.disable()
    return delay.percentile(99.9) / 1e6
  }
  // delivery starts when the log opens, so this sees its first, cold batch
  const log = await ours.open(input.directory, ours.uploader(input.url ?? undefined))
  if (input.work === "append") await log.run(ours.append(new Load(256, 500)))
  delay.enable()
  if (input.work === "append") await log.run(ours.append(new Load(256, input.millis)))
  else if (input.work === "deliver") await log.run(ours.deliver)
  else await sleep(input.millis)
  delay.disable()
  await log.close()
  return delay.percentile(99.9) / 1e6
}
