/**
 * The peers, each at its best at the same work: the call returns when the record is on disk.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { promisify } from "node:util"
import { useLog } from "./event.js"
import type { Load, Sample, Server } from "./measure.js"
import { withBlocking, withPromises } from "./measure.js"

const run = promisify(execFile)

/** Imports by a name that the compiler does not see: types are checked without the peers. */
const load = async <A>(name: string): Promise<A> => (await import(name)) as A

export interface Peer {
  readonly append: (load: Load) => Promise<Sample>
  readonly close: () => Promise<void>
}

/** lmdb: a put is durable when what was flushed after it is. */
export const lmdb = async (directory: string, line: () => Buffer): Promise<Peer> => {
  interface Database {
    readonly put: (key: number, value: Buffer) => Promise<boolean>
    readonly flushed: Promise<unknown>
    readonly close: () => Promise<void>
  }
  const { open } = await load<{ open: (options: object) => Database }>("lmdb")
  const database = open({ path: fs.mkdtempSync(path.join(directory, "lmdb-")), encoding: "binary" })
  let key = 0
  return {
    append: (load) =>
      withPromises(load, async () => {
        await database.put(key++, line())
        await database.flushed
      }),
    close: () => database.close()
  }
}

/** LevelDB with synchronous writes. */
export const classicLevel = async (directory: string, line: Buffer): Promise<Peer> => {
  interface Database {
    readonly open: () => Promise<void>
    readonly put: (key: string, value: Buffer, options: { readonly sync: boolean }) => Promise<void>
    readonly close: () => Promise<void>
  }
  const { ClassicLevel } = await load<{
    ClassicLevel: new (directory: string, options: object) => Database
  }>("classic-level")
  const database = new ClassicLevel(path.join(directory, "level"), { valueEncoding: "buffer" })
  await database.open()
  let key = 0
  return {
    append: (load) =>
      withPromises(load, () => database.put(String(key++).padStart(12, "0"), line, { sync: true })),
    close: () => database.close()
  }
}

/** SQLite, WAL, synchronous=FULL; all callers at once share a transaction, which blocks the event loop. */
export const sqlite = async (directory: string, line: Buffer): Promise<Peer> => {
  interface Database {
    readonly pragma: (text: string) => void
    readonly exec: (sql: string) => void
    readonly prepare: (sql: string) => { readonly run: (value: Buffer) => void }
    readonly transaction: <F>(body: F) => F
    readonly close: () => void
  }
  const { default: Sqlite } = await load<{ default: new (file: string) => Database }>("better-sqlite3")
  const database = new Sqlite(path.join(directory, "sqlite.db"))
  database.pragma("journal_mode = WAL")
  database.pragma("synchronous = FULL")
  database.exec("CREATE TABLE event (id INTEGER PRIMARY KEY, line BLOB NOT NULL)")
  const insert = database.prepare("INSERT INTO event (line) VALUES (?)")
  const insertAll = database.transaction((events: number) => {
    for (let i = 0; i < events; i++) insert.run(line)
  })
  return {
    append: async (load) => withBlocking(load, () => insertAll(load.callers)),
    close: async () => database.close()
  }
}

/** pino, synchronous, with an fsync after each record, which blocks the event loop. */
export const pino = async (directory: string): Promise<Peer> => {
  interface Destination {
    readonly fd: number
    readonly end: () => void
  }
  interface Pino {
    (destination: Destination): { readonly info: (event: object) => void }
    readonly destination: (options: { readonly dest: string; readonly sync: boolean }) => Destination
  }
  const { default: make } = await load<{ default: Pino }>("pino")
  const destination = make.destination({ dest: path.join(directory, "pino.log"), sync: true })
  const logger = make(destination)
  return {
    append: async (load) =>
      withBlocking(load, () => {
        for (let i = 0; i < load.callers; i++) {
          logger.info(useLog())
          fs.fsyncSync(destination.fd)
        }
      }),
    close: async () => destination.end()
  }
}

// ---------------------------------------------------------------------------------------------- the reference

/** The Python class that this package replaces. It is not ours, so it lies outside, where the tests look for it too. */
const REFERENCE = process.env.AUDIT_REFERENCE ?? path.join("..", "shared", "reference", "audit_logger.py")

/** Runs the class in a separate process. */
export const reference = async <A>(
  python: string,
  task:
    | {
        readonly task: "append"
        readonly directory: string
        readonly callers: number
        readonly seconds: number
      }
    | { readonly task: "deliver"; readonly file: string },
  database: { readonly host: string; readonly port: number; readonly database: string }
): Promise<A> => {
  const script = path.join("bench", "reference", "run.py")
  const { stdout } = await run(python, ["-B", script, REFERENCE, JSON.stringify({ ...task, database })])
  return JSON.parse(stdout) as A
}

/** A python3 with pymysql; undefined if there is none, or no class to run. */
export const findPython = async (): Promise<string | undefined> => {
  if (!fs.existsSync(REFERENCE)) return undefined
  for (const python of ["python3", "/usr/bin/python3"]) {
    const found = await run(python, ["-c", "import pymysql"]).then(
      () => true,
      () => false
    )
    if (found) return python
  }
  return undefined
}

/** LOAD DATA by the client of MariaDB, from lines that are tab-separated already, without JSON work. */
export const loadData = async (server: Server, database: string, file: string): Promise<number> => {
  const sql =
    `LOAD DATA LOCAL INFILE '${file}' INTO TABLE nano_banana_user_use_log CHARACTER SET utf8mb4 ` +
    "(@id, event_time, user_name, device_name, prompt, result_path, status, error_message, model, duration_ms, " +
    "finish_reason) SET event_id = UNHEX(@id)"
  const startedAt = performance.now()
  await run("mariadb", [
    "--no-defaults",
    `--socket=${server.socket}`,
    "--user=root",
    "--local-infile=1",
    `--execute=${sql}`,
    database
  ])
  return performance.now() - startedAt
}

/** Whether the client of MariaDB is installed. */
export const hasClient = (): Promise<boolean> =>
  run("mariadb", ["--version"]).then(
    () => true,
    () => false
  )
