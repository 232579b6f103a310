/**
 * The package as its users get it: a tarball, and commands that run in projects of their own.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { promisify } from "node:util"
import { inject } from "vitest"
import { root } from "./program.js"

const exec = promisify(execFile)

/** The environment of this run, without the variables of the tests. */
const environment = () =>
  Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(AUDIT_|NODE_OPTIONS$|VITEST)/.test(name))
  )

/** Runs a command. Returns its output, or fails with an error that contains it. */
export const run = async (
  file: string,
  args: ReadonlyArray<string>,
  cwd: string,
  env: Record<string, string> = {}
) => {
  const { stdout } = await exec(file, args, { cwd, env: { ...environment(), ...env } })
  return stdout
}

/** Runs a shell line, and returns all its output. */
export const shell = async (
  line: string,
  cwd: string,
  env: Record<string, string> = {}
): Promise<{ readonly code: number; readonly output: string }> => {
  try {
    const { stdout, stderr } = await exec("/bin/sh", ["-c", line], { cwd, env: { ...environment(), ...env } })
    return { code: 0, output: stdout + stderr }
  } catch (error) {
    const { code, stderr, stdout } = error as { code?: number; stderr?: string; stdout?: string }
    if (typeof code !== "number") throw error
    return { code, output: `${stdout ?? ""}${stderr ?? ""}` }
  }
}

/** The tarball. The first caller in a run packs it, and the others wait. */
export const pack = async (): Promise<string> => {
  const home = path.join(inject("sharedDirectory"), "packed")
  const [tarball, failure] = [path.join(home, "effect-audit.tgz"), path.join(home, "failure")]
  try {
    fs.mkdirSync(home)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
    while (!fs.existsSync(tarball)) {
      if (fs.existsSync(failure)) throw new Error(fs.readFileSync(failure, "utf8"))
      await sleep(200)
    }
    return tarball
  }
  const work = fs.mkdtempSync(path.join(os.tmpdir(), "audit-pack-"))
  try {
    const copy = await packCopy(work)
    fs.copyFileSync(copy, `${tarball}.part`)
    fs.renameSync(`${tarball}.part`, tarball)
    return tarball
  } catch (error) {
    fs.writeFileSync(failure, String(error))
    throw error
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Packs a copy of the working tree, since the repository's `dist` may be in use. Returns the tarball. */
const packCopy = async (work: string): Promise<string> => {
  const copy = path.join(work, "copy")
  fs.mkdirSync(copy)
  const { files } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
    files: Array<string>
  }
  const needed = [
    "package.json",
    "tsconfig.json",
    "tsconfig.build.json",
    "scripts",
    "README.md",
    "LICENSE",
    ...files
  ]
  for (const name of needed)
    if (name !== "dist" && fs.existsSync(path.join(root, name)))
      fs.cpSync(path.join(root, name), path.join(copy, name), { recursive: true })
  fs.symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"), "junction")
  await run("npm", ["pack", "--silent", "--pack-destination", work], copy)
  return path.join(
    work,
    fs.readdirSync(work).find((name) => name.endsWith(".tgz"))!
  )
}

/** Why npm could not reach the registry; undefined if it failed for another reason. */
export const unreachableIn = (text: string): string | undefined =>
  /E(NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|TIMEDOUT|NETUNREACH|HOSTUNREACH|NOTCACHED)/.exec(text)?.[0]
