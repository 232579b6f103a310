/**
 * A database server for tests, MariaDB's or Oracle's: a private data directory, a private port on 127.0.0.1, root
 * without a password, and controls for faults. It ends with the process that started it.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process"
import { execFile, spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import { Socket } from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { promisify } from "node:util"
import { createConnection } from "mysql2/promise"
import { cacheDirectory, unpackedMysql } from "./mysqlPackage.js"
import { freePort } from "./net.js"

const run = promisify(execFile)

/** The maker of a server: MariaDB, or Oracle's MySQL. */
export type Flavour = "mariadb" | "mysql"

/** The programs of an installed server. */
export interface ServerPrograms {
  readonly flavour: Flavour
  /** The server, or the loader that starts it. */
  readonly server: string
  /** The first arguments, since `--no-defaults` must come first. */
  readonly args: ReadonlyArray<string>
  /** `mariadb-install-db`; absent for Oracle's mysqld, which initializes itself. */
  readonly installer: string | undefined
  /** Whether only the owner may enter its directory, so that the server runs as the owner. */
  readonly isPrivate: boolean
}

/**
 * Finds a server in the PATH and the usual places, and Oracle's also in the cache of the tests.
 * Without a flavour it prefers MariaDB.
 */
export const findServer = (flavour?: Flavour): ServerPrograms | undefined => {
  if (flavour === undefined) return findServer("mariadb") ?? findServer("mysql")
  const directories = [
    ...(process.env.PATH ?? "").split(path.delimiter),
    ...["/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin", "/usr/local/mysql/bin"],
    ...["/opt/homebrew", "/usr/local"].flatMap((prefix) =>
      ["mariadb", "mysql"].map((formula) => `${prefix}/opt/${formula}/bin`)
    ),
    "/opt/homebrew/bin"
  ]
  const find = (...names: ReadonlyArray<string>) =>
    names
      .flatMap((name) => [...new Set(directories)].map((directory) => path.join(directory, name)))
      .filter((file) => fs.existsSync(file))

  if (flavour === "mariadb") {
    const [server] = find("mariadbd")
    const [installer] = find("mariadb-install-db", "mysql_install_db")
    return server === undefined || installer === undefined
      ? undefined
      : { flavour, server, args: NO_DEFAULTS, installer, isPrivate: false }
  }
  const installed = find("mysqld").find(isOracles)
  if (installed !== undefined) {
    return { flavour, server: installed, args: NO_DEFAULTS, installer: undefined, isPrivate: false }
  }
  const unpacked = unpackedMysql()
  return unpacked === undefined ? undefined : { flavour, ...unpacked, installer: undefined, isPrivate: true }
}

const NO_DEFAULTS = ["--no-defaults"]

/** Asks for the version, since MariaDB has a `mysqld` too. */
const isOracles = (file: string): boolean => {
  const { status, stdout } = spawnSync(file, [...NO_DEFAULTS, "--version"], { encoding: "utf8" })
  return status === 0 && !stdout.includes("MariaDB")
}

/** Options of {@link startServer}. */
export interface ServerOptions {
  /** Default: MariaDB if it is installed, else Oracle's MySQL. */
  readonly flavour?: Flavour
  /** More arguments of the server; the last one wins. */
  readonly args?: ReadonlyArray<string>
  /** Arguments of the first start only. */
  readonly firstArgs?: ReadonlyArray<string>
  /** More environment variables; `TZ` is the server's time zone, without tables of time zones. */
  readonly env?: Readonly<Record<string, string>>
  /** Its address: 127.0.0.1, or one in its network namespace, for which root gets an account. */
  readonly host?: string
  /** Its port; by default a free one. */
  readonly port?: number
  /** A command that starts it, such as `ip netns exec NAME`. */
  readonly under?: ReadonlyArray<string>
  /** The data directory, which the caller removes. The default one is removed by `stop`. */
  readonly dataDirectory?: string
}

/** A running server and its controls. */
export interface MysqlServer {
  readonly host: string
  readonly port: number
  readonly socket: string
  /** `mysql://root@host:port` */
  readonly rootUrl: string
  readonly dataDirectory: string
  /** The process id; undefined while the server is down. */
  readonly pid: number | undefined
  /** Ends the server and removes temporary files. If its data stay, the shutdown is orderly. */
  readonly stop: () => Promise<void>
  /** Kills the server with SIGKILL. The data stay for `restart`. */
  readonly kill9: () => Promise<void>
  /** Freezes the server before it returns: connections stay established and silent. */
  readonly sigstop: () => void
  readonly sigcont: () => void
  /** Starts the server again with its data on the same port, if necessary after an orderly shutdown. */
  readonly restart: () => Promise<void>
}

/** Starts a server and waits until it answers: MariaDB takes 0.5 s, MySQL 1 s, and the first start longer. */
export const startServer = async (options: ServerOptions = {}): Promise<MysqlServer> => {
  const programs = findServer(options.flavour)
  if (programs === undefined)
    throw new Error(`no server is installed: ${options.flavour ?? "mariadb or mysql"}`)

  // always holds socket, log and pid file; a caller's data are elsewhere
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "audit-mysql-"))
  const watchdog = startWatchdog(home)
  const dataDirectory = options.dataDirectory ?? path.join(home, "data")
  const file = { socket: path.join(home, "socket"), log: path.join(home, "log"), pid: path.join(home, "pid") }
  const tmp = path.join(home, "tmp")
  fs.mkdirSync(tmp)
  fs.mkdirSync(dataDirectory, { recursive: true })
  const account = await serverAccount(programs, [home, dataDirectory])
  const host = options.host ?? "127.0.0.1"
  const port = options.port ?? (await freePort())
  const rootUrl = `mysql://root@${host}:${port}`

  const serverArguments = [
    ...account,
    `--datadir=${dataDirectory}`,
    `--tmpdir=${tmp}`,
    `--socket=${file.socket}`,
    `--pid-file=${path.join(home, "server.pid")}`,
    `--bind-address=${host}`,
    `--port=${port}`,
    "--character-set-server=utf8mb4",
    "--innodb-buffer-pool-size=64M",
    "--performance-schema=OFF",
    ...ARGUMENTS[programs.flavour],
    ...(options.args ?? [])
  ]

  let child: ChildProcess | undefined

  const start = async (more: ReadonlyArray<string> = []) => {
    const log = fs.openSync(file.log, "a")
    // Its own session: the terminal's interrupt goes to the tests, which then stop the server.
    const command = [...(options.under ?? []), programs.server]
    const started = spawn(command[0]!, [...command.slice(1), ...programs.args, ...serverArguments, ...more], {
      stdio: ["ignore", log, log],
      detached: true,
      env: { ...process.env, ...options.env }
    })
    fs.closeSync(log)
    child = started
    started.unref()
    started.once("exit", () => {
      if (child !== started) return
      child = undefined
      fs.rmSync(file.pid, { force: true })
    })
    await once(started, "spawn")
    fs.writeFileSync(file.pid, String(started.pid))
    await untilItAnswers(file.socket, () => child === started).catch((cause: unknown) => {
      const log = fs.readFileSync(file.log, "utf8").slice(-4000)
      throw new Error(`the server did not start: ${log}`, { cause })
    })
  }

  const end = async (signal: "SIGTERM" | "SIGKILL") => {
    const running = child
    if (running === undefined) return
    running.ref()
    const exit = once(running, "exit")
    running.kill(signal)
    running.kill("SIGCONT")
    const inTime = await Promise.race([exit.then(() => true), sleep(20_000, false, { ref: false })])
    if (!inTime) {
      running.kill("SIGKILL")
      await exit
    }
  }

  const stop = async () => {
    // temporary data need no orderly shutdown, which takes MySQL two seconds
    await end(options.dataDirectory === undefined ? "SIGKILL" : "SIGTERM")
    await watchdog.dismiss()
  }

  try {
    if (fs.readdirSync(dataDirectory).length === 0) await initialize(programs, dataDirectory, account, tmp)
    await start(options.firstArgs)
  } catch (error) {
    await end("SIGKILL")
    await watchdog.dismiss()
    throw error
  }

  return {
    host,
    port,
    socket: file.socket,
    rootUrl,
    dataDirectory,
    get pid() {
      return child?.pid
    },
    stop,
    kill9: () => end("SIGKILL"),
    sigstop: () => {
      child?.kill("SIGSTOP")
      if (child?.pid !== undefined) untilAllThreadsStop(child.pid)
    },
    sigcont: () => {
      child?.kill("SIGCONT")
    },
    restart: async () => {
      await end("SIGTERM")
      await start()
    }
  }
}

const ARGUMENTS: Record<Flavour, ReadonlyArray<string>> = {
  mariadb: ["--innodb-log-file-size=48M"],
  mysql: [
    "--innodb-redo-log-capacity=48M",
    "--mysqlx=OFF",
    // MariaDB's default too: with a binary log each commit costs a second sync
    "--skip-log-bin",
    // the default directory comes from a system package
    "--secure-file-priv=NULL"
  ]
}

/** As root, a server needs an account to run as: `mysql` if it exists, else root. */
const serverAccount = async (
  { isPrivate }: ServerPrograms,
  directories: ReadonlyArray<string>
): Promise<ReadonlyArray<string>> => {
  if (process.getuid?.() !== 0) return []
  if (isPrivate) return ["--user=root"]
  try {
    await run("chown", ["-R", "mysql", ...directories])
    return ["--user=mysql"]
  } catch {
    return ["--user=root"]
  }
}

const initialize = async (
  { args, flavour, installer, server }: ServerPrograms,
  dataDirectory: string,
  account: ReadonlyArray<string>,
  tmp: string
): Promise<void> => {
  const template = await templateOf(server, args, account, ARGUMENTS[flavour])
  if (fs.existsSync(template)) return copyInto(template, dataDirectory)
  const common = [...account, `--datadir=${dataDirectory}`, `--tmpdir=${tmp}`]
  if (installer === undefined) {
    await run(server, [...args, ...common, ...ARGUMENTS[flavour], "--initialize-insecure"])
  } else {
    await run(installer, [...args, ...common, "--auth-root-authentication-method=normal", "--skip-test-db"])
  }
  await keepAs(template, dataDirectory)
}

/**
 * The directory of initialized data in the user's cache, by version and arguments, for later servers.
 * MySQL takes five seconds to initialize, and a fifth of a second to copy.
 */
const templateOf = async (
  server: string,
  args: ReadonlyArray<string>,
  ...more: ReadonlyArray<ReadonlyArray<string>>
): Promise<string> => {
  const { stdout } = await run(server, [...args, "--version"])
  const hash = createHash("sha256")
    .update(JSON.stringify([stdout, args, more]))
    .digest("hex")
  return path.join(cacheDirectory(), `data-${hash.slice(0, 16)}`)
}

const copyInto = async (template: string, dataDirectory: string): Promise<void> => {
  await run("cp", ["-pR", `${template}/.`, dataDirectory])
}

/** Keeps the data, all or nothing, without the identity and keys that each server makes for itself. */
const keepAs = async (template: string, dataDirectory: string): Promise<void> => {
  fs.mkdirSync(path.dirname(template), { recursive: true })
  const copy = fs.mkdtempSync(`${template}.`)
  try {
    await copyInto(dataDirectory, copy)
    for (const name of fs.readdirSync(copy))
      if (name === "auto.cnf" || name.endsWith(".pem")) fs.rmSync(path.join(copy, name))
    fs.renameSync(copy, template)
  } catch (error) {
    fs.rmSync(copy, { recursive: true, force: true })
    // another run may have been faster
    if (!fs.existsSync(template)) throw error
  }
}

/** Waits over the socket, since root has no account away from loopback. */
const untilItAnswers = async (socketPath: string, running: () => boolean): Promise<void> => {
  const deadline = Date.now() + 60_000
  for (;;) {
    try {
      const connection = await createConnection({ socketPath, user: "root", connectTimeout: 2000 })
      await connection.query("SELECT 1")
      connection.destroy()
      return
    } catch (error) {
      if (!running() || Date.now() > deadline) throw error
      await sleep(50)
    }
  }
}

/** Waits for all threads: after SIGSTOP those that have not stopped yet may still answer. */
const untilAllThreadsStop = (pid: number): void => {
  const tasks = `/proc/${pid}/task`
  // without /proc there is no way to tell
  if (!fs.existsSync(tasks)) return
  const deadline = Date.now() + 10_000
  while (!fs.readdirSync(tasks).every((task) => isStopped(path.join(tasks, task, "stat")))) {
    if (Date.now() > deadline) throw new Error(`SIGSTOP did not stop the process ${pid} within 10 s`)
  }
}

/** Reads the state after the name in parentheses: proc_pid_stat(5). A thread that is gone counts as stopped. */
const isStopped = (stat: string): boolean => {
  try {
    return /\) T [^)]*$/.test(fs.readFileSync(stat, "utf8"))
  } catch {
    return true
  }
}

/**
 * A shell that waits until its pipe from us closes, which the kernel does however we die. Then it kills the server
 * whose pid is in `home`, and removes the directory.
 */
const startWatchdog = (home: string) => {
  const script = `read -r _; [ -f "$1/pid" ] && kill -9 "$(cat "$1/pid")"; rm -rf "$1"`
  const shell = spawn("/bin/sh", ["-c", script, "audit-mysql-watchdog", home], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true
  })
  const gone = once(shell, "exit")
  shell.unref()
  const pipe = shell.stdin
  if (pipe instanceof Socket) pipe.unref()
  return {
    /** Lets it clean up, and waits for its end. */
    dismiss: async () => {
      shell.ref()
      pipe.end()
      await gone
    }
  }
}
