#!/usr/bin/env node
/**
 * The command `effect-audit`. What needs nothing of the program's comes from `alone.js`, which holds the parts of Effect
 * that it uses and starts twice as fast. Drivers, and classes of --events, need the Effect that they were made with.
 */
import { existsSync } from "node:fs"

const args = process.argv.slice(2)
const isHelp = args.length === 0 || args.some((arg) => ["--help", "-h", "--version"].includes(arg))
const sharesEffect =
  !isHelp &&
  (process.env.AUDIT_EVENTS !== undefined ||
    args.some(
      (arg) => ["flush", "doctor", "migrate", "--events"].includes(arg) || arg.startsWith("--events=")
    ))

// the build makes it: the sources have none
const alone = new URL("./alone.js", import.meta.url)

if (!sharesEffect && existsSync(alone)) await import(alone.href)
else {
  // on another Effect than 3 nothing but the sentence about it can be loaded
  try {
    await import("../schema/Effect3.js")
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exit(70)
  }
  await import("./command.js")
}
