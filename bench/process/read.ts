/**
 * A process that reads a table by the trail; or, as a control, by a stream of bare mysql2.
 *
 * @module
 */
import { Effect, Redacted, Stream } from "effect"
import { Trail, UseLog } from "effect-audit"
import { MysqlTrail } from "effect-audit/mysql"
import { createConnection } from "mysql2"
import { once } from "node:events"
import { now } from "../measure.js"

export interface Reading {
  /** connecting left out */
  readonly millis: number
  /** of this process's processor, milliseconds */
  readonly cpuMillis: number
  readonly rows: number
  readonly peakMiB: number
}

/** What is read: the newest hundred, the events of an hour, or all. */
export type What = "first page" | "range" | "all events"

export default (input: {
  readonly url: string
  readonly what: What
  readonly bare: boolean
  /** the hour, milliseconds since 1970 */
  readonly from: number
}): Promise<Reading> => (input.bare ? readBare(input) : readByTrail(input))

const HOUR = 3_600_000

const readByTrail = ({
  from,
  url,
  what
}: {
  readonly url: string
  readonly what: What
  readonly from: number
}) =>
  Effect.gen(function* () {
    const trail = yield* Trail
    yield* Stream.runDrain(trail.find(UseLog, { limit: 1 }))
    const result = start()
    const query =
      what === "first page"
        ? ({ order: "descending", limit: 100 } as const)
        : what === "range"
          ? { from, to: from + HOUR }
          : {}
    let rows = 0
    yield* Stream.runForEachChunk(trail.find(UseLog, query), (chunk) =>
      Effect.sync(() => {
        for (const found of chunk) if (found._tag === "Event") rows++
      })
    )
    return result(rows)
  }).pipe(Effect.provide(MysqlTrail.layer({ url: Redacted.make(url) })), Effect.runPromise)

const COLUMNS =
  "event_id, event_time, user_name, device_name, prompt, result_path, status, error_message, model, duration_ms, finish_reason"

/** What is found: an event with its id and time. */
class FoundByHand {
  readonly eventId: string
  readonly time: Date
  readonly event: unknown

  constructor(row: { readonly event_id: Buffer; readonly event_time: Date }) {
    const { event_id, event_time, ...event } = row
    const hex = event_id.toString("hex")
    this.eventId = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
    this.time = event_time
    this.event = event
  }
}

const readBare = async ({
  from,
  url,
  what
}: {
  readonly url: string
  readonly what: What
  readonly from: number
}) => {
  const connection = createConnection({ uri: url, timezone: "Z" })
  await once(connection, "connect")
  const result = start()
  const sql = `SELECT ${COLUMNS} FROM nano_banana_user_use_log`
  const order = "ORDER BY event_time, event_id"
  const date = (millis: number) => `'${new Date(millis).toISOString().slice(0, 19).replace("T", " ")}'`
  const stream = connection
    .query(
      what === "first page"
        ? `${sql} ORDER BY event_time DESC, event_id DESC LIMIT 100`
        : what === "range"
          ? `${sql} WHERE event_time >= ${date(from)} AND event_time < ${date(from + HOUR)} ${order}`
          : `${sql} ${order}`
    )
    .stream()
  let rows = 0
  for await (const row of stream) {
    const found = new FoundByHand(row as { readonly event_id: Buffer; readonly event_time: Date })
    if (found.eventId.length === 36) rows++
  }
  const found = result(rows)
  connection.destroy()
  return found
}

const start = () => {
  const startedAt = now()
  const usage = process.cpuUsage()
  return (rows: number): Reading => {
    const millis = now() - startedAt
    const { system, user } = process.cpuUsage(usage)
    return {
      millis,
      cpuMillis: (system + user) / 1000,
      rows,
      peakMiB: process.resourceUsage().maxRSS / 1024
    }
  }
}
