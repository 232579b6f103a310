/**
 * A database server of the tests' own, MariaDB's or Oracle's: a private data directory, a private port on
 * 127.0.0.1, root without a password, and the controls that fault tests need. It never outlives the process
 * that started it.
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

/** Whose server it is: MariaDB's, or Oracle's MySQL. */
export type Flavour = "mariadb" | "mysql"

/** The programs of an installed server. */
export interface ServerPrograms {
  readonly flavour: Flavour
  /** The server, or the loader that it is started by. */
  readonly server: string
  /** What stands before all other arguments: `--no-defaults` has to. */
  readonly args: ReadonlyArray<string>
  /** `mariadb-install-db`; absent for Oracle's mysqld, which initializes itself. */
  readonly installer: string | undefined
  /** A directory that only its owner may enter, so that the server runs as the owner. */
  readonly isPrivate: boolean
}

/**
 * Finds a server in the PATH and in the usual places, and Oracle's also in the cache of the tests.
 * Without a flavour MariaDB goes first.
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

/** MariaDB comes with a `mysqld` too. */
const isOracles = (file: string): boolean => {
  const { status, stdout } = spawnSync(file, [...NO_DEFAULTS, "--version"], { encoding: "utf8" })
  return status === 0 && !stdout.includes("MariaDB")
}

/** Options of {@link startServer}. */
export interface ServerOptions {
  /** Default: MariaDB's where it is installed, else Oracle's. */
  readonly flavour?: Flavour
  /** Further arguments of the server; the last one wins. */
  readonly args?: ReadonlyArray<string>
  /** Those of the first start only. */
  readonly firstArgs?: ReadonlyArray<string>
  /** Further variables of its environment: `TZ` is its time zone, without tables of time zones. */
  readonly env?: Readonly<Record<string, string>>
  /** Where it listens: 127.0.0.1, or an address of the namespace that it runs in, where root's account is to be made. */
  readonly host?: string
  /** Its port there; without it a free one. */
  readonly port?: number
  /** What it is started by, before its own command: `ip netns exec NAME`. */
  readonly under?: ReadonlyArray<string>
  /** Where the data live. The caller's to remove; without it they are gone after `stop`. */
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
  /** The process id of the present run, undefined while the server is down. */
  readonly pid: number | undefined
  /** Ends the server for good, in order if its data stay, and removes what is temporary. */
  readonly stop: () => Promise<void>
  /** SIGKILL. The data stay for `restart`. */
  readonly kill9: () => Promise<void>
  /** Freezes the server before it returns: connections stay established, and silent. */
  readonly sigstop: () => void
  readonly sigcont: () => void
  /** Starts the server again with its data, on the same port; one that runs is shut down first. */
  readonly restart: () => Promise<void>
}

/** Starts a server of its own and waits until it answers (MariaDB half a second, MySQL one; the first one longer). */
export const startServer = async (options: ServerOptions = {}): Promise<MysqlServer> => {
  const programs = findServer(options.flavour)
  if (programs === undefined)
    throw new Error(`no server is installed: ${options.flavour ?? "mariadb or mysql"}`)

  // The data of a caller lie elsewhere; socket, log and pid file are always temporary.
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
    // Its own session: an interrupt from the terminal is for the tests, which then stop the server.
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
    // data that are removed need no order, which takes MySQL two seconds
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
    // MariaDB's default, too; each commit would cost a second sync
    "--skip-log-bin",
    // the default names a directory that a package of the system makes
    "--secure-file-priv=NULL"
  ]
}

/** Servers refuse to run as root without being told an account: `mysql` where it exists, else root after all. */
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
 * Where initialized data are kept in the cache of the user, by version and arguments, for the next server to start with.
 * Initializing takes MySQL five seconds, copying a fifth of one.
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

/** Whole or not at all, and without what each server is to make for itself: its identity, and its keys. */
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
    // another run was faster
    if (!fs.existsSync(template)) throw error
  }
}

/** Asked over the socket: away from loopback nobody knows root. */
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

/** One thread hears of a SIGSTOP first, and the others go on until it has told them: they may still answer. */
const untilAllThreadsStop = (pid: number): void => {
  const tasks = `/proc/${pid}/task`
  // where there is no /proc, nothing tells
  if (!fs.existsSync(tasks)) return
  const deadline = Date.now() + 10_000
  while (!fs.readdirSync(tasks).every((task) => isStopped(path.join(tasks, task, "stat")))) {
    if (Date.now() > deadline) throw new Error(`SIGSTOP did not stop the process ${pid} within 10 s`)
  }
}

/** By the state, which follows the name in parentheses: proc_pid_stat(5). A thread that is gone is stopped, too. */
const isStopped = (stat: string): boolean => {
  try {
    return /\) T [^)]*$/.test(fs.readFileSync(stat, "utf8"))
  } catch {
    return true
  }
}

/**
 * A shell that waits for our end of its pipe to close, which the kernel does however we die, and then kills
 * the server whose pid stands in `home` and removes the directory.
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
    /** Lets it clean up, and waits for that. */
    dismiss: async () => {
      shell.ref()
      pipe.end()
      await gone
    }
  }
}
