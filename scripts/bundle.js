/**
 * Bundles @effect/cli, its printers and their parsers into dist/cli/effectCli.js, with their licenses beside it.
 * Effect and its platform stay outside: there must be one copy of each.
 */
import { build } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.join(import.meta.dirname, "..")

const { metafile } = await build({
  absWorkingDir: root,
  // not dist: what is bundled already would be bundled again
  entryPoints: ["src/cli/effectCli.ts"],
  outfile: "dist/cli/effectCli.js",
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  external: ["effect", "@effect/platform"],
  preserveSymlinks: true,
  metafile: true,
  // for the modules of CommonJS within
  banner: {
    js: `import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);`
  }
})
fs.rmSync(path.join(root, "dist/cli/effectCli.js.map"), { force: true })

const packages = new Set(
  Object.keys(metafile.inputs).flatMap((file) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? [])
)
const licenses = [...packages].sort().map((name) => {
  const directory = path.join(root, "node_modules", name)
  const { license, version } = JSON.parse(fs.readFileSync(path.join(directory, "package.json"), "utf8"))
  const file = fs.readdirSync(directory).find((each) => /^licen[cs]e/i.test(each))
  if (file === undefined) throw new Error(`${name} has no license file`)
  return `${name} ${version} (${license})\n\n${fs.readFileSync(path.join(directory, file), "utf8").trim()}\n`
})
fs.writeFileSync(path.join(root, "dist/cli/effectCli.licenses.txt"), licenses.join(`\n${"-".repeat(80)}\n\n`))
