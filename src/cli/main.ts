#!/usr/bin/env node
/**
 * The command `effect-audit`. A call that needs nothing from the program runs `alone.js`, which bundles Effect and
 * starts twice as fast. Drivers and classes of --events need the Effect that they were made with.
 */
import { existsSync } from "node:fs"

const args = process.argv.slice(2)
const isHelp = args.length === 0 || args.some((arg) => ["--help", "-h", "--version"].includes(arg))

const isNamed = (...flags: ReadonlyArray<string>) =>
  args.some((arg) => flags.some((flag) => arg === flag || arg.startsWith(`${flag}=`)))
const isSet = (...variables: ReadonlyArray<string>) =>
  variables.some((variable) => process.env[variable] !== undefined)

const namesDatabase =
  isNamed("--url", "--database", "--sqlite") ||
  isSet("AUDIT_MYSQL_URL", "AUDIT_MYSQL_DATABASE", "AUDIT_SQLITE_FILE")
// a value may follow, as in `--print false`
const printsOnly = args.some((arg, index) => arg === "--print" && !/^[^-]/.test(args[index + 1] ?? ""))
const needsDriver =
  args.includes("flush") ||
  args.includes("events") ||
  args.includes("prove") ||
  ((args.includes("doctor") || args.includes("serve")) && namesDatabase) ||
  (args.includes("migrate") && !printsOnly)
const sharesEffect = !isHelp && (needsDriver || isNamed("--events") || isSet("AUDIT_EVENTS"))

// only the build makes it
const alone = new URL("./alone.js", import.meta.url)

if (!sharesEffect && existsSync(alone)) await import(alone.href)
else {
  // If Effect is not version 3, only this module can be loaded. It says so.
  try {
    await import("../schema/Effect3.js")
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exit(70)
  }
  await import("./command.js")
}
