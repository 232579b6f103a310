#!/usr/bin/env node
/** The command `effect-audit`: on another Effect than 3 nothing but the sentence about it can be loaded. */
try {
  await import("../schema/Effect3.js")
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exit(70)
}
await import("./command.js")
