/**
 * Programs of this repository, run as real child processes in a separate directory.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import type { Writable } from "node:stream"
import { fileURLToPath, pathToFileURL } from "node:url"
import { compiled } from "./compiled.js"

/** The root of this repository. */
export const root = fileURLToPath(new URL("../../", import.meta.url))

// vitest has no import.meta.resolve
const TSX = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href

/** How a program ended. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A running program. */
export interface Program {
  readonly stdin: Writable
  /** Its output so far. */
  readonly stdout: () => string
  /** Waits until the output has the text; rejects if the program ends without it. */
  readonly prints: (text: string | RegExp) => Promise<void>
  readonly kill: (signal: NodeJS.Signals) => void
  /** Waits until it has ended, and all its output is read. */
  readonly ended: Promise<Ended>
}

export interface ProgramOptions {
  /** Its working directory. */
  readonly cwd: string
  readonly args?: ReadonlyArray<string>
  /** Added to our own variables, without those named AUDIT_... */
  readonly env?: Readonly<Record<string, string>>
  /** Options of Node. */
  readonly execArgv?: ReadonlyArray<string>
  /** A command that runs it, such as `unshare -n`. */
  readonly under?: ReadonlyArray<string>
  /** Runs it with tsx instead of compiled, for a program that starts another one from source. */
  readonly tsx?: boolean
}

/** Starts a program of this repository, by its path from the root. */
export const start = (
  file: string,
  { args = [], cwd, env = {}, execArgv = [], tsx = false, under = [] }: ProgramOptions
): Program => {
  const [command, ...rest] = [...under, process.execPath]
  const child = spawn(
    command,
    [...rest, ...execArgv, ...(tsx ? ["--import", TSX, path.join(root, file)] : [compiled(file)]), ...args],
    {
      cwd,
      env: { ...cleanEnvironment(), TSX_TSCONFIG_PATH: path.join(root, "tsconfig.json"), ...env },
      stdio: ["pipe", "pipe", "pipe"]
    }
  )
  endWithUs(child)
  // a program may end without reading its input
  child.stdin.on("error", () => undefined)

  let stdout = ""
  let stderr = ""
  const listeners = new Set<() => void>()
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text
    for (const listener of listeners) listener()
  })
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  const ended = once(child, "close").then((args): Ended => ({
    code: args[0] as number | null,
    signal: args[1] as NodeJS.Signals | null,
    stdout,
    stderr
  }))

  return {
    stdin: child.stdin,
    stdout: () => stdout,
    prints: (text) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (typeof text === "string" ? !stdout.includes(text) : !text.test(stdout)) return
          listeners.delete(look)
          resolve()
        }
        listeners.add(look)
        look()
        void ended.then(() => {
          if (listeners.delete(look))
            reject(new Error(`${file} ended without printing ${text}:\n${stdout}\n${stderr}`))
        })
      }),
    kill: (signal) => void child.kill(signal),
    ended
  }
}

/** Runs a program to its end. */
export const run = (file: string, options: ProgramOptions): Promise<Ended> => {
  const program = start(file, options)
  program.stdin.end()
  return program.ended
}

/** An empty directory for one test. */
export const temporaryDirectory = (): { readonly path: string; readonly remove: () => void } => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "audit-test-"))
  return {
    path: directory,
    remove: () => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 10 })
  }
}

const cleanEnvironment = () =>
  Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(AUDIT_|NODE_OPTIONS$|VITEST|PORT$)/.test(name))
  )

const endWithUs = (child: ChildProcess) => {
  const kill = () => child.kill("SIGKILL")
  process.once("exit", kill)
  child.once("close", () => process.off("exit", kill))
}
