/**
 * The owner of a queue with dead letters: one that makes them, or one that records and delivers beside a command.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import { logUse, Uploader } from "effect-audit"
import * as fs from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { useLog } from "../event.js"
import { now } from "../measure.js"
import * as ours from "../ours.js"

/** Milliseconds between two events that are recorded. */
const PROBE_MILLIS = 50
const PROBE = "probe-"
/** events before the command starts: five seconds */
const QUIET_PROBES = 100

export interface Owner {
  /** milliseconds from the record of an event to the database: before the command, and beside it */
  readonly quiet: ReadonlyArray<number>
  readonly delays: ReadonlyArray<number>
  readonly peakMiB: number
}

type Input = {
  readonly directory: string
} & (
  | { readonly work: "refuse"; readonly events: number }
  | {
      readonly work: "own"
      /** undefined: a database that takes everything at once */
      readonly url: string | undefined
      /** made once the owner has run for a while */
      readonly started: string
      /** the owner ends once it is there */
      readonly stop: string
    }
)

export default async (input: Input): Promise<Owner> => {
  const quiet: Array<number> = []
  const delays: Array<number> = []
  if (input.work === "refuse") {
    const log = await ours.open(input.directory, refusing)
    await log.run(ours.fill(input.events))
    await log.run(ours.flush)
    await log.close()
  } else {
    const open = new Map<string, number>()
    const log = await ours.open(
      input.directory,
      watched(input.url, (name) => {
        const at = open.get(name)
        if (at === undefined || !open.delete(name)) return
        ;(Number(name.slice(PROBE.length)) < QUIET_PROBES ? quiet : delays).push(now() - at)
      })
    )
    for (let probe = 0; !fs.existsSync(input.stop); probe++) {
      const userName = `${PROBE}${probe}`
      open.set(userName, now())
      if (probe === QUIET_PROBES) fs.writeFileSync(input.started, "")
      await log.run(logUse({ ...useLog(), userName }))
      await sleep(PROBE_MILLIS)
    }
    await log.run(ours.flush)
    await log.close()
    if (open.size > 0) throw new Error(`${open.size} events were not delivered`)
  }
  return { quiet, delays, peakMiB: process.resourceUsage().maxRSS / 1024 }
}

const refusing = Layer.succeed(Uploader, {
  concurrency: 1,
  upload: ({ events }) =>
    Effect.succeed({
      rejected: events.map((_, index) => ({
        index,
        code: "1406",
        reason: "Data too long for column 'user_name' at row 1; user_name is VARCHAR(255)"
      }))
    })
})

const takingAll = Layer.succeed(Uploader, {
  concurrency: 1,
  upload: () => Effect.succeed({ rejected: [] })
})

/** Calls a function with the user of each probe that is stored. */
const watched = (url: string | undefined, stored: (userName: string) => void) =>
  Layer.map(url === undefined ? takingAll : ours.uploader(url), (context) => {
    const uploader = context.unsafeMap.get(Uploader.key) as Uploader["Type"]
    return Uploader.context({
      ...uploader,
      upload: (batch) =>
        Effect.tap(uploader.upload(batch), () => {
          for (const { line } of batch.events) {
            const name = line.user_name
            if (typeof name === "string" && name.startsWith(PROBE)) stored(name)
          }
        })
    })
  })
