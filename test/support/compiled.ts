/**
 * Programs of this repository, compiled once in a run for plain node. They start in a third of a second. With tsx they
 * take more than one second, and the tests start hundreds.
 *
 * @module
 */
import { buildSync } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { inject } from "vitest"

const root = fileURLToPath(new URL("../../", import.meta.url))

/** The compiled program (a path from the root), in a directory that it shares with its chunks only. */
export const compiled = (file: string): string => {
  const programs = path.join(inject("sharedDirectory"), "programs")
  const home = path.join(programs, file.replaceAll(/\W/g, "-"))
  const program = path.join(home, `${path.basename(file, ".ts")}.mjs`)
  if (fs.existsSync(program)) return program
  // Test files run in parallel: the first one renames its directory into place, whole.
  const mine = `${home}.${process.pid}`
  buildSync({
    entryPoints: [path.join(root, file)],
    tsconfig: path.join(root, "tsconfig.json"),
    outdir: mine,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    splitting: true,
    platform: "node",
    format: "esm",
    target: "node20",
    // native, or imported late
    external: ["fs-native-extensions", "mysql2", "@libsql/client", "undici", "ws"],
    // for CommonJS modules in the bundle
    banner: {
      js: `import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);`
    },
    logLevel: "error"
  })
  // the command serves the page from its own directory
  fs.cpSync(path.join(root, "src/cli/page"), path.join(mine, "page"), { recursive: true })
  try {
    fs.renameSync(mine, home)
  } catch (error) {
    if (!fs.existsSync(program)) throw error
    fs.rmSync(mine, { recursive: true })
  }
  return program
}
