/**
 * `npm run bench`: installs the peers if they are missing, and builds the package and the bench. Then it runs the bench
 * against the build by plain node, as a user's program would run.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import process from "node:process"

const bench = import.meta.dirname
const root = path.dirname(bench)

const run = async (command, ...args) => {
  const child = spawn(command, args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" })
  const [code] = await once(child, "exit")
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code ?? "a signal"}`)
}

if (!fs.existsSync(path.join(bench, "node_modules", "better-sqlite3")))
  await run("npm", "ci", "--prefix", "bench")

// a link: with a dependency on "file:.." npm would install into the root
const link = path.join(bench, "node_modules", "effect-audit")
if (!fs.existsSync(link)) fs.symlinkSync(root, link, "junction")

// without types, which `npm run types` checks, and which would take most of this time
const compile = (project) => run("npx", "tsc", "-p", project, "--noCheck")

await Promise.all(["tsconfig.build.json", "bench/tsconfig.build.json"].map(compile))
await run(process.execPath, "scripts/bundle.js")
await run(process.execPath, "bench/dist/bench/main.js", ...process.argv.slice(2))
await run("npx", "prettier", "--log-level", "warn", "--write", "bench/README.md", "bench/results.json")
