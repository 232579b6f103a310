/**
 * The directory that the test files of a run share: compiled programs, and the packed package. It is below
 * node_modules, where the programs find their packages.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import type { TestProject } from "vitest/node"

declare module "vitest" {
  export interface ProvidedContext {
    /** Holds what is made once in a run. */
    sharedDirectory: string
  }
}

const root = fileURLToPath(new URL("../../", import.meta.url))
const parent = path.join(root, "node_modules", ".cache", "effect-audit")

export default function setup(project: TestProject): () => void {
  removeLeftovers()
  const home = path.join(parent, String(process.pid))
  const programs = path.join(home, "programs")
  fs.mkdirSync(programs, { recursive: true })
  // the command reads its version there
  fs.copyFileSync(path.join(root, "package.json"), path.join(home, "package.json"))
  project.provide("sharedDirectory", home)
  project.onTestsRerun(() => {
    for (const name of fs.readdirSync(programs)) fs.rmSync(path.join(programs, name), { recursive: true })
    fs.rmSync(path.join(home, "packed"), { recursive: true, force: true })
  })
  return () => fs.rmSync(home, { recursive: true, force: true })
}

/** Removes the directories of killed runs, which have the name of their process ids. */
const removeLeftovers = (): void => {
  if (!fs.existsSync(parent)) return
  for (const name of fs.readdirSync(parent)) {
    if (!isRunning(Number(name))) fs.rmSync(path.join(parent, name), { recursive: true, force: true })
  }
}

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"
  }
}
