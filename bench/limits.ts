/**
 * The limits: bare loops, without rotation, checks, short writes, errors or recovery, which a real log needs.
 *
 * @module
 */
import * as fs from "node:fs"
import { StringDecoder } from "node:string_decoder"
import type { Connection } from "mysql2/promise"
import { createConnection } from "mysql2/promise"
import { escape } from "sql-escaper"
import { USE_COLUMNS } from "./event.js"
import type { Load, Sample } from "./measure.js"
import { withCallbacks, withPromises } from "./measure.js"

const { O_APPEND, O_CREAT, O_DSYNC, O_WRONLY } = fs.constants
const FLAGS = O_WRONLY | O_APPEND | O_CREAT | O_DSYNC

/** One durable write for each event, by an asynchronous file handle. */
export const writeEach = async (load: Load, file: string, line: Buffer): Promise<Sample> => {
  const handle = await fs.promises.open(file, FLAGS)
  const sample = await withPromises(load, () => handle.write(line))
  await handle.close()
  return sample
}

/** A group commit of plain callbacks: callers that come during a write share the next one. */
export const groupCommit = async (
  load: Load,
  file: string,
  line: () => Buffer,
  callers = withCallbacks
): Promise<Sample> => {
  const fd = fs.openSync(file, FLAGS)
  let lines: Array<Buffer> = []
  let waiting: Array<() => void> = []
  let busy = false

  const commit = () => {
    if (lines.length === 0) {
      busy = false
      return
    }
    const bytes = Buffer.concat(lines)
    const served = waiting
    lines = []
    waiting = []
    fs.write(fd, bytes, (error) => {
      if (error !== null) throw error
      for (const done of served) done()
      commit()
    })
  }

  const sample = await callers(load, (done) => {
    lines.push(line())
    waiting.push(done)
    if (busy) return
    busy = true
    queueMicrotask(commit)
  })
  fs.closeSync(fd)
  return sample
}

// -------------------------------------------------------------------------------------------------- delivery

const COLUMNS = ["event_id", "event_time", ...USE_COLUMNS] as const

/** Rows for each statement: 500, 1000 and 2000 were equally fast. */
const ROWS = 500

const insertSql = (rows: number) =>
  `INSERT INTO nano_banana_user_use_log (${COLUMNS.join(",")}) VALUES ` +
  Array<string>(rows)
    .fill(`(${COLUMNS.map(() => "?").join(",")})`)
    .join(",")

const literal = (value: Value) =>
  value === null
    ? "NULL"
    : Buffer.isBuffer(value)
      ? `x'${value.toString("hex")}'`
      : typeof value === "string"
        ? escape(value)
        : String(value)

/** The same statement as text, with its values. */
const insertText = (values: ReadonlyArray<Value>): string => {
  let rows = ""
  for (let at = 0; at < values.length; at += COLUMNS.length) {
    if (at > 0) rows += ","
    rows += `(${literal(values[at]!)}`
    for (let column = 1; column < COLUMNS.length; column++) rows += `,${literal(values[at + column]!)}`
    rows += ")"
  }
  return `INSERT INTO nano_banana_user_use_log (${COLUMNS.join(",")}) VALUES ${rows}`
}

function* linesOf(files: ReadonlyArray<string>): Generator<string> {
  const chunk = Buffer.alloc(256 * 1024)
  const decoder = new StringDecoder("utf8")
  for (const file of files) {
    const fd = fs.openSync(file, "r")
    let rest = ""
    for (let read; (read = fs.readSync(fd, chunk)) > 0;) {
      const lines = (rest + decoder.write(chunk.subarray(0, read))).split("\n")
      rest = lines.pop()!
      yield* lines
    }
    fs.closeSync(fd)
  }
}

export type Value = string | number | null | Buffer

export const valuesOf = (line: string): Array<Value> => {
  const event = JSON.parse(line) as Record<string, string | number | null>
  return [
    Buffer.from(String(event.event_id).replaceAll("-", ""), "hex"),
    String(event.ts).replace("T", " ").slice(0, 23),
    ...COLUMNS.slice(2).map((column) => event[column]!)
  ]
}

function* batchesOf(files: ReadonlyArray<string>): Generator<Array<Value>> {
  let values: Array<Value> = []
  for (const line of linesOf(files)) {
    values.push(...valuesOf(line))
    if (values.length === ROWS * COLUMNS.length) {
      yield values
      values = []
    }
  }
  if (values.length > 0) yield values
}

/**
 * mysql2 alone: INSERTs of a fixed size, prepared by default. The next one is read and parsed while the server works on
 * this one. `ready`: the rows lie in memory, so nothing is read or parsed while the clock runs.
 */
export const insertAll = async (
  url: string,
  files: ReadonlyArray<string>,
  options: {
    readonly connections: number
    readonly ready: boolean
    /** prepared by default; text that is made by hand is the fastest on MySQL */
    readonly form?: "prepared" | "text" | undefined
    /** hears how many rows a statement has stored */
    readonly onStored?: (rows: number) => void
  }
): Promise<number> => {
  const batches = options.ready ? [...batchesOf(files)][Symbol.iterator]() : batchesOf(files)
  const startedAt = performance.now()
  const worker = async () => {
    const connection: Connection = await createConnection(url)
    let underWay: Promise<unknown> | undefined
    for (let next = batches.next(); next.done !== true; next = batches.next()) {
      await underWay
      const rows = next.value.length / COLUMNS.length
      const stored: Promise<unknown> =
        options.form === "text"
          ? connection.query(insertText(next.value))
          : connection.execute(insertSql(rows), next.value)
      underWay = stored.then(() => options.onStored?.(rows))
    }
    await underWay
    connection.destroy()
  }
  await Promise.all(Array.from({ length: options.connections }, worker))
  return performance.now() - startedAt
}
