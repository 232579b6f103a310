/**
 * `npm run bench`: installs the peers if they are missing, builds the package, compiles the bench against the build,
 * and runs it by plain node, as a user's program would run.
 */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import process from "node:process"

const bench = import.meta.dirname
const root = path.dirname(bench)

const run = (command, ...args) =>
  execFileSync(command, args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" })

if (!fs.existsSync(path.join(bench, "node_modules", "better-sqlite3"))) run("npm", "ci", "--prefix", "bench")

// the bench is a program that uses the package; a dependency on "file:.." would make npm install into the root
const link = path.join(bench, "node_modules", "effect-audit")
if (!fs.existsSync(link)) fs.symlinkSync(root, link, "junction")

run("npm", "run", "--silent", "build")
run("npx", "tsc", "-p", "bench/tsconfig.build.json")
run(process.execPath, "bench/dist/bench/main.js", ...process.argv.slice(2))
run("npx", "prettier", "--log-level", "warn", "--write", "bench/README.md", "bench/results.json")
