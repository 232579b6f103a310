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
  readonly rows: number
  readonly peakMiB: number
}

/** What is read: the newest hundred, the events of an hour, or all. */
export type What = "first page" | "range" | "export"

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
    const startedAt = now()
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
    return result(startedAt, rows)
  }).pipe(Effect.provide(MysqlTrail.layer({ url: Redacted.make(url) })), Effect.runPromise)

const COLUMNS =
  "event_id, event_time, user_name, device_name, prompt, result_path, status, error_message, model, duration_ms, finish_reason"

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
  const startedAt = now()
  const sql = `SELECT ${COLUMNS} FROM nano_banana_user_use_log`
  const date = (millis: number) => `'${new Date(millis).toISOString().slice(0, 19).replace("T", " ")}'`
  const stream = connection
    .query(
      what === "first page"
        ? `${sql} ORDER BY event_time DESC, event_id DESC LIMIT 100`
        : what === "range"
          ? `${sql} WHERE event_time >= ${date(from)} AND event_time < ${date(from + HOUR)}`
          : sql
    )
    .stream()
  let rows = 0
  for await (const row of stream) if (row !== undefined) rows++
  const found = result(startedAt, rows)
  connection.destroy()
  return found
}

const result = (startedAt: number, rows: number): Reading => ({
  millis: now() - startedAt,
  rows,
  peakMiB: process.resourceUsage().maxRSS / 1024
})
