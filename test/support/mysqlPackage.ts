/**
 * Oracle's MySQL and its Router from Debian's packages, unpacked into the user's cache. That needs no root, installs
 * nothing and changes nothing in the system.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"

const run = promisify(execFile)

// the only suite with the package
const SUITE = "sid"
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

/** A command that starts a program: its loader, and the first arguments. */
export interface Command {
  readonly server: string
  readonly args: ReadonlyArray<string>
}

/** `$XDG_CACHE_HOME/effect-audit`, or the same in `~/.cache`. */
export const cacheDirectory = (): string => {
  const given = process.env.XDG_CACHE_HOME
  const cache = given === undefined || given === "" ? path.join(os.homedir(), ".cache") : given
  return path.join(cache, "effect-audit")
}

/** A program in a package. */
interface Program {
  /** Its package in Debian. */
  readonly package: string
  /** The name of its directory in the cache. */
  readonly name: string
  /** The file, below /usr. */
  readonly file: string
  /** The directory of its own libraries, below /usr/lib. */
  readonly libraries: string
  /** Its first arguments, given the unpacked /usr. */
  readonly args: (usr: string) => ReadonlyArray<string>
}

const MYSQL: Program = {
  package: "mysql-server-core",
  name: "mysql-server",
  file: "sbin/mysqld",
  libraries: "mysql/private",
  args: (usr) => {
    const share = path.join(usr, "share", "mysql")
    return [
      "--no-defaults",
      `--basedir=${usr}`,
      `--lc-messages-dir=${share}`,
      `--character-sets-dir=${path.join(share, "charsets")}`,
      `--plugin-dir=${path.join(usr, "lib", "mysql", "plugin")}`
    ]
  }
}

const ROUTER: Program = {
  package: "mysql-router",
  name: "mysql-router",
  file: "bin/mysqlrouter",
  libraries: "mysql-router",
  args: () => []
}

/** The server that {@link unpackMysql} left in the cache. */
export const unpackedMysql = (): Command | undefined => unpacked(MYSQL)

const unpacked = (program: Program): Command | undefined =>
  commandIn(path.join(cacheDirectory(), program.name), program)

/** The command with the program's own loader, since it needs a newer libc than Debian stable has. */
const commandIn = (root: string, { args, file, libraries: own }: Program): Command | undefined => {
  const usr = path.join(root, "usr")
  const server = path.join(usr, file)
  const find = (pattern: RegExp, ...directories: ReadonlyArray<string>) =>
    directories
      .filter((directory) => fs.existsSync(directory))
      .flatMap((directory) => fs.readdirSync(directory).map((name) => path.join(directory, name)))
      .find((file) => pattern.test(path.basename(file)))
  const loader = find(/^ld-linux.*\.so\.\d+$/, path.join(usr, "lib64"), path.join(usr, "lib"))
  const libraries = find(/-linux-gnu$/, path.join(usr, "lib"))
  if (!fs.existsSync(server) || loader === undefined || libraries === undefined) return undefined
  const paths = [libraries, path.join(usr, "lib", own)]
  return { server: loader, args: ["--library-path", paths.join(":"), server, ...args(usr)] }
}

/**
 * Downloads the packages (60 MB) with a separate apt state, unpacks them (270 MB), and returns the command.
 * All or nothing: an interrupted download leaves no server, and two runs at once are harmless.
 */
export const unpackMysql = (): Promise<Command> => unpack(MYSQL)

/** MySQL Router (25 MB, 100 MB unpacked), from the cache, or downloaded now. */
export const unpackRouter = async (): Promise<Command> => unpacked(ROUTER) ?? (await unpack(ROUTER))

const unpack = async (program: Program): Promise<Command> => {
  const parent = cacheDirectory()
  fs.mkdirSync(parent, { recursive: true })
  removeLeftovers(parent, program.name)
  const work = fs.mkdtempSync(path.join(parent, `${program.name}.`))
  try {
    const root = path.join(work, "root")
    fs.mkdirSync(root)
    for (const file of await download(program.package, path.join(work, "apt")))
      await run("dpkg", ["-x", file, root])
    const command = commandIn(root, program)
    if (command === undefined) throw new Error(`${program.package} has another layout`)
    // fails here if the kernel or processor cannot run it
    await run(command.server, [...command.args, "--version"])
    try {
      fs.renameSync(root, path.join(parent, program.name))
    } catch (error) {
      // another run may have been faster
      if (unpacked(program) === undefined) throw error
    }
    return unpacked(program)!
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Removes what killed runs left more than an hour ago. */
const removeLeftovers = (parent: string, of: string): void => {
  for (const name of fs.readdirSync(parent).filter((name) => name.startsWith(`${of}.`))) {
    const directory = path.join(parent, name)
    const age = Date.now() - (fs.statSync(directory, { throwIfNoEntry: false })?.mtimeMs ?? Infinity)
    if (age > 3_600_000) fs.rmSync(directory, { recursive: true, force: true })
  }
}

/** Downloads the package and its dependencies from the first of the system's mirrors that has them. */
const download = async (name: string, home: string): Promise<ReadonlyArray<string>> => {
  if (!fs.existsSync(KEYRING)) throw new Error("this is no Debian")
  let failure: unknown
  for (const [index, mirror] of (await mirrors()).entries()) {
    try {
      return await downloadFrom(name, mirror, path.join(home, String(index)))
    } catch (error) {
      failure ??= error
    }
  }
  throw failure
}

/** The addresses that the system's own apt uses. */
const mirrors = async (): Promise<ReadonlyArray<string>> => {
  const format = ["--format", "$(REPO_URI)", "Created-By: Packages"]
  const { stdout } = await run("apt-get", ["indextargets", ...format])
  return [...new Set(stdout.split("\n").filter((line) => line !== ""))]
}

const downloadFrom = async (
  wanted: string,
  mirror: string,
  state: string
): Promise<ReadonlyArray<string>> => {
  const at = (name: string) => path.join(state, name)
  for (const name of ["lists", "archives"]) fs.mkdirSync(path.join(at(name), "partial"), { recursive: true })
  fs.writeFileSync(at("sources.list"), `deb [signed-by=${KEYRING}] ${mirror} ${SUITE} main\n`)
  // as if nothing were installed
  fs.writeFileSync(at("status"), "")
  const settings = {
    "Dir::Etc::sourcelist": at("sources.list"),
    "Dir::Etc::sourceparts": "-",
    "Dir::State::status": at("status"),
    "Dir::State::Lists": at("lists"),
    "Dir::Cache": at("cache"),
    "Dir::Cache::archives": at("archives"),
    // apt's own user cannot read root's cache
    "APT::Sandbox::User": "root",
    "APT::Install-Recommends": "false"
  }
  const options = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`])
  const apt = (...args: ReadonlyArray<string>) => run("apt-get", ["-q", "-y", ...options, ...args])
  await apt("update")
  await apt("install", "--download-only", wanted)
  return fs
    .readdirSync(at("archives"))
    .filter((name) => name.endsWith(".deb"))
    .map((name) => path.join(at("archives"), name))
}
