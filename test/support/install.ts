/**
 * The command in a separate directory, with the packages that it loads.
 *
 * @module
 */
import { build } from "esbuild"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { root } from "./program.js"

const EXTERNAL = ["fs-native-extensions", "mysql2"]

/** Installs the command. Returns a function that runs it with arguments and variables. */
export const installCommand = async (directory: string) => {
  const copied = new Set<string>()
  const copyPackage = (name: string) => {
    const source = path.join(root, "node_modules", name)
    if (copied.has(name) || !fs.existsSync(source)) return
    copied.add(name)
    fs.cpSync(source, path.join(directory, "node_modules", name), { recursive: true })
    const { dependencies = {} } = JSON.parse(fs.readFileSync(path.join(source, "package.json"), "utf8")) as {
      dependencies?: Readonly<Record<string, string>>
    }
    Object.keys(dependencies).forEach(copyPackage)
  }
  EXTERNAL.forEach(copyPackage)
  fs.copyFileSync(path.join(root, "package.json"), path.join(directory, "package.json"))
  await build({
    entryPoints: [path.join(root, "src/cli/main.ts")],
    outdir: path.join(directory, "dist", "cli"),
    outExtension: { ".js": ".mjs" },
    bundle: true,
    splitting: true,
    platform: "node",
    format: "esm",
    target: "node20",
    external: EXTERNAL,
    // for CommonJS modules in the bundle
    banner: {
      js: `import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);`
    }
  })
  return (args: ReadonlyArray<string>, env: Readonly<Record<string, string>>) => {
    const inherited = Object.entries(process.env).filter(([name]) => !/^(AUDIT_|NODE_OPTIONS$)/.test(name))
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      [path.join(directory, "dist", "cli", "main.mjs"), ...args],
      { cwd: directory, env: { ...Object.fromEntries(inherited), ...env }, encoding: "utf8" }
    )
    return { code: status, stderr, stdout }
  }
}
