/**
 * Chromium without a window; Debian's package, which is installed if we may.
 *
 * @module
 */
import type { Scope } from "effect"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import type { Browser } from "playwright-core"
import { chromium } from "playwright-core"

const EXECUTABLE = "/usr/bin/chromium"

/** Whether there is a browser, if necessary after an attempt to install one. */
export const hasBrowser = (): boolean => {
  if (fs.existsSync(EXECUTABLE)) return true
  if (process.getuid?.() !== 0 || !fs.existsSync("/usr/bin/apt-get")) return false
  const apt = (...args: ReadonlyArray<string>) =>
    spawnSync("apt-get", ["-q", "-y", ...args], {
      stdio: "ignore",
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
    }).status === 0
  const install = ["install", "--no-install-recommends", "chromium"]
  return (apt(...install) || (apt("update") && apt(...install))) && fs.existsSync(EXECUTABLE)
}

/** A browser, which the scope closes. */
export const browser: Effect.Effect<Browser, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => chromium.launch({ executablePath: EXECUTABLE, args: ["--no-sandbox"] })),
  (open) => Effect.promise(() => open.close())
)
