/**
 * A process that has delivered everything, and then does nothing.
 *
 * @module
 */
import { createHook } from "node:async_hooks"
import { setTimeout as sleep } from "node:timers/promises"
import * as ours from "../ours.js"

export interface Idle {
  /** milliseconds of CPU for each second */
  readonly cpu: number
  /** timers that fired */
  readonly timers: number
}

export default async (input: {
  /** null: no audit log at all, the control */
  readonly directory: string | null
  readonly url: string
  readonly millis: number
}): Promise<Idle> => {
  const log =
    input.directory === null ? undefined : await ours.open(input.directory, ours.uploader(input.url))
  await log?.run(ours.fill(1000))
  await log?.run(ours.deliver)
  // what is delivered leaves the disk after a second
  await sleep(3000)

  const before = process.cpuUsage()
  await sleep(input.millis)
  const { system, user } = process.cpuUsage(before)

  const timeouts = new Set<number>()
  let timers = 0
  const hook = createHook({
    init: (id, type) => {
      if (type === "Timeout") timeouts.add(id)
    },
    before: (id) => {
      if (timeouts.has(id)) timers++
    }
  })
  // the hook does not know timers that are armed already; a frequent one arms itself again
  hook.enable()
  await sleep(input.millis)
  hook.disable()

  await log?.close()
  // one is our sleep
  return { cpu: (system + user) / input.millis, timers: timers - 1 }
}
