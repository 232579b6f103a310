/**
 * Bundles what the command needs into dist/cli, with the licenses of all that is bundled:
 *
 * - effectCli.js: @effect/cli, its printers and their parsers; platformNode.js and platformServer.js: what the command
 *   uses of @effect/platform-node. Effect and its platform stay outside, so that there is one copy of each beside
 *   drivers and classes of --events.
 * - alone.js: the whole command with the parts of Effect that it uses, for calls that need neither.
 * - page: what `serve` shows.
 */
import { build } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.join(import.meta.dirname, "..")
const dist = path.join(root, "dist/cli")

for (const name of fs.readdirSync(dist))
  if (/^(alone\b.*|(?:effectCli|platformNode|platformServer)\.js)(\.map)?$/.test(name))
    fs.rmSync(path.join(dist, name))

const bundle = (options) =>
  build({
    absWorkingDir: root,
    outdir: "dist/cli",
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    preserveSymlinks: true,
    logLevel: "error",
    metafile: true,
    // for the CommonJS modules within
    banner: {
      js: `import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);`
    },
    ...options
  })

const bundles = await Promise.all([
  bundle({
    // not from dist, where they may be bundled already
    entryPoints: ["src/cli/effectCli.ts", "src/cli/platformNode.ts", "src/cli/platformServer.ts"],
    minify: true,
    // errors and tags use the names of classes
    keepNames: true,
    external: ["effect", "@effect/platform"]
  }),
  bundle({
    entryPoints: { alone: "src/cli/command.ts" },
    chunkNames: "alone-[hash]",
    splitting: true,
    minify: true,
    keepNames: true,
    // native, or drivers, which only calls beside the program's Effect load
    external: ["fs-native-extensions", "@effect/sql-mysql2", "@effect/sql-libsql"]
  })
])

fs.rmSync(path.join(dist, "page"), { recursive: true, force: true })
for (const name of ["page.html", "page.css", "page.js", "events.js"])
  fs.cpSync(path.join(root, "src/cli/page", name), path.join(dist, "page", name))

const packages = new Set(
  bundles
    .flatMap(({ metafile }) => Object.values(metafile.outputs))
    .flatMap(({ inputs }) => Object.entries(inputs))
    .flatMap(([file, { bytesInOutput }]) =>
      bytesInOutput > 0 ? (/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? []) : []
    )
)
const licenses = [...packages].sort().map((name) => {
  const directory = path.join(root, "node_modules", name)
  const { license, version } = JSON.parse(fs.readFileSync(path.join(directory, "package.json"), "utf8"))
  const file = fs.readdirSync(directory).find((each) => /^licen[cs]e/i.test(each))
  if (file === undefined) throw new Error(`${name} has no license file`)
  return `${name} ${version} (${license})\n\n${fs.readFileSync(path.join(directory, file), "utf8").trim()}\n`
})
fs.writeFileSync(path.join(dist, "licenses.txt"), licenses.join(`\n${"-".repeat(80)}\n\n`))
