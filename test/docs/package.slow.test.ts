/**
 * The package as users get it: packed once, checked by publint and arethetypeswrong, and installed into an empty
 * project. Programs compile against it and run there. With AUDIT_LONG=1 they run on the other lines of Node too.
 */
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core"
import type { Problem } from "@arethetypeswrong/core"
import { build } from "esbuild"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { publint } from "publint"
import { formatMessage } from "publint/utils"
import ts from "typescript"
import type { TestContext } from "vitest"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { pack, run, unreachableIn } from "../support/packed.js"
import { root } from "../support/program.js"

/** Each download has 50 MB. */
const otherLines = process.env.AUDIT_LONG === "1" ? ["20", "22", "24"] : ([] as Array<string>)

interface Manifest {
  readonly exports: Readonly<Record<string, unknown>>
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
}

const manifest = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as Manifest

const work = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "audit-package-")))
const project = path.join(work, "project")
let tarball: Buffer

// ---------------------------------------------------------------------------------------- the project

const NPM_INSTALL = [
  "install",
  "--prefer-offline",
  "--ignore-scripts",
  "--no-audit",
  "--no-fund",
  "--loglevel=error"
]

const install = (directory: string, dependencies: Record<string, string>) => {
  fs.mkdirSync(directory)
  fs.writeFileSync(
    path.join(directory, "package.json"),
    JSON.stringify({ private: true, type: "module", dependencies })
  )
  return run("npm", NPM_INSTALL, directory)
}

/** Why there is no project: the registry cannot be reached. */
let unreachable: string | undefined

const peers = [...Object.keys(manifest.peerDependencies), "@types/node"]

/** Installs the peers in the versions that the other tests use. */
const installPeers = () =>
  install(project, Object.fromEntries(peers.map((name) => [name, manifest.devDependencies[name]!])))

const ifReachable = async (installation: Promise<unknown>) => {
  try {
    await installation
  } catch (error) {
    const why = unreachableIn(String(error))
    if (why === undefined) throw error
    unreachable = `the registry cannot be reached: ${why}`
  }
}

beforeAll(async () => {
  // side by side: one computes, the other waits for the network
  const [file] = await Promise.all([pack(), ifReachable(installPeers())])
  tarball = fs.readFileSync(file)
  if (unreachable === undefined) await ifReachable(run("npm", [...NPM_INSTALL, file], project))
}, 240_000)

afterAll(() => fs.rmSync(work, { recursive: true, force: true }))

const needsProject = (context: TestContext) => {
  context.skip(unreachable !== undefined, unreachable)
}

// ---------------------------------------------------------------------------------------- judges

test("publint finds nothing", async () => {
  const { messages, pkg } = await publint({ pack: { tarball: new Uint8Array(tarball).buffer }, strict: true })
  expect(messages.map((message) => formatMessage(message, pkg, { color: false }))).toEqual([])
})

test("arethetypeswrong finds nothing, for a package of ES modules", async () => {
  const analysis = await checkPackage(createPackageFromTarballData(tarball))
  if (!analysis.types) throw new Error("the package has no types")
  expect(Object.keys(analysis.entrypoints).sort()).toEqual(subPaths("./package.json"))
  // as with `attw --profile esm-only`
  const isOurs = (problem: Problem) =>
    !("resolutionKind" in problem && ["node10", "node16-cjs"].includes(problem.resolutionKind))
  expect(analysis.problems.filter(isOurs)).toEqual([])
})

/** The sub-paths that can be imported. */
const subPaths = (...more: ReadonlyArray<string>): Array<string> =>
  [...new Set([...Object.keys(manifest.exports).filter((name) => !name.includes("*")), ...more])].sort()

test("the package holds only what users need", async (context) => {
  needsProject(context)
  const packed = fs
    .readdirSync(path.join(project, "node_modules/effect-audit"), { recursive: true, encoding: "utf8" })
    .filter((name) => /^(test|bench)\/|\.tsbuildinfo$|\.tgz$/.test(name))
  expect(packed).toEqual([])
})

// ---------------------------------------------------------------------------------------- compiled and run

const PROGRAM = fs.readFileSync(path.join(root, "test/fixtures/consumer.ts"), "utf8")

const compile = (options: ts.CompilerOptions): Array<string> => {
  const program = ts.createProgram(
    [path.join(project, "program.ts")],
    {
      ...options,
      target: ts.ScriptTarget.ES2022,
      lib: ["lib.es2023.d.ts"],
      typeRoots: [path.join(project, "node_modules/@types")],
      types: ["node"],
      strict: true,
      exactOptionalPropertyTypes: true,
      verbatimModuleSyntax: true,
      noEmit: true
    },
    undefined
  )
  // checks our declarations, which skipLibCheck would skip, and no others
  const ours = program
    .getSourceFiles()
    .filter(
      ({ fileName }) => fileName.endsWith("/program.ts") || /node_modules\/effect-audit\//.test(fileName)
    )
  expect(ours.length).toBeGreaterThan(20)
  return [
    ...program.getOptionsDiagnostics(),
    ...ours.flatMap((file) => [
      ...program.getSyntacticDiagnostics(file),
      ...program.getSemanticDiagnostics(file)
    ])
  ].map(
    ({ file, messageText, start }) =>
      `${file?.fileName ?? "options"}:${start ?? 0}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`
  )
}

describe("in an empty project", () => {
  beforeAll(() => {
    if (unreachable !== undefined) return
    fs.writeFileSync(path.join(project, "program.ts"), PROGRAM)
    const { outputText } = ts.transpileModule(PROGRAM, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
    })
    fs.writeFileSync(path.join(project, "program.js"), outputText)
    fs.writeFileSync(path.join(project, "hooks.mjs"), HOOKS)
    fs.writeFileSync(path.join(project, "trace.mjs"), TRACE)
    fs.writeFileSync(path.join(project, "uploaders.mjs"), UPLOADERS)
  })

  test("the program imports every sub-path", () => {
    const imported = Array.from(PROGRAM.matchAll(/from "effect-audit(.*)"/g), ([, name]) => `.${name!}`)
    expect([...new Set([...imported, "./package.json"])].sort()).toEqual(subPaths())
  })

  test.for([
    ["node16", { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 }],
    ["bundler", { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }]
  ] as const)("the program compiles with moduleResolution %s", ([, options], context) => {
    needsProject(context)
    expect(compile(options)).toEqual([])
  })

  let lastDelivered: string | undefined
  /** A directory in which the program has recorded and delivered. */
  const delivered = async () => {
    if (lastDelivered !== undefined) return lastDelivered
    const cwd = fs.mkdtempSync(path.join(project, "run-"))
    await run(process.execPath, ["../program.js"], cwd)
    return (lastDelivered = cwd)
  }

  const works = async (node: string) => {
    const cwd = fs.mkdtempSync(path.join(project, "run-"))
    const output = await run(node, ["../program.js"], cwd)
    // the last line, after the program's logs
    expect(JSON.parse(output.trim().split("\n").at(-1)!)).toEqual({
      delivered: 3,
      prompts: ["a red fox"],
      masked: "***"
    })
    const bin = path.join(project, "node_modules/effect-audit/dist/cli/main.js")
    expect(await run(node, [bin, "verify"], cwd)).toContain("4 accepted, 4 delivered, 0 wait, 0 missing")
  }

  test(`the program works under this Node, ${process.version}`, async (context) => {
    needsProject(context)
    await works(process.execPath)
  })

  test.for(otherLines)("the program works under Node %s", { timeout: 240_000 }, async (line, context) => {
    needsProject(context)
    const directory = path.join(work, `node-${line}`)
    await install(directory, { node: `npm:node-${process.platform}-${process.arch}@${line}` })
    const node = path.join(directory, "node_modules/node/bin/node")
    expect(await run(node, ["--version"], directory)).toMatch(new RegExp(`^v${line}\\.`))
    await works(node)
  })

  // -------------------------------------------------------------------------------------- what is not loaded

  const DRIVERS = /\/(mysql2|libsql|@libsql\/[^/]+|@effect\/sql-[^/]+)\//
  const COMMAND = /\/(@effect\/(cli|printer[^/]*)|effect-audit\/dist\/cli)\//

  /** The files that these imports load, ES modules and CommonJS. */
  const loaded = async (...specifiers: ReadonlyArray<string>) => {
    const list = path.join(project, "loaded.txt")
    fs.rmSync(list, { force: true })
    await run(process.execPath, ["--import", "./hooks.mjs", "trace.mjs", ...specifiers], project, {
      LOADED: list
    })
    return [...new Set(fs.readFileSync(list, "utf8").split("\n"))]
  }

  test("the root and ./testing load neither a driver nor the command", async (context) => {
    needsProject(context)
    const files = await loaded("effect-audit", "effect-audit/testing")
    expect(files.filter((file) => file.includes("effect-audit/dist/")).length).toBeGreaterThan(10)
    expect(files.filter((file) => DRIVERS.test(file) || COMMAND.test(file))).toEqual([])
  })

  test("./mysql and ./sqlite load their driver when an uploader is made", async (context) => {
    needsProject(context)
    const files = await loaded("effect-audit/mysql", "effect-audit/sqlite")
    expect(files.filter((file) => DRIVERS.test(file) || COMMAND.test(file))).toEqual([])
    const made = await loaded("./uploaders.mjs")
    expect(made).toContainEqual(expect.stringMatching(/\/mysql2\//))
    expect(made).toContainEqual(expect.stringMatching(/\/libsql\//))
  })

  test.for([
    ["--help"],
    ["--version"],
    ["verify"],
    ["status"],
    ["tail"],
    ["dead", "list"],
    ["doctor"],
    ["migrate", "--print"],
    ["flush", "--help"]
  ])("the command loads no other package for: %s", async (args, context) => {
    needsProject(context)
    const list = path.join(project, "loaded-by-command.txt")
    fs.rmSync(list, { force: true })
    const bin = path.join(project, "node_modules/effect-audit/dist/cli/main.js")
    await run(process.execPath, ["--import", "../hooks.mjs", bin, ...args], await delivered(), {
      LOADED: list
    })
    const files = fs.readFileSync(list, "utf8").split("\n")
    const others =
      /\/node_modules\/(?!effect-audit\/|fs-native-extensions\/|require-addon\/|which-runtime\/|bare-)/
    expect(files).toContainEqual(expect.stringMatching(/effect-audit\/dist\/cli\/alone\.js$/))
    expect(files.filter((file) => others.test(file))).toEqual([])
  })

  test("the libraries that the command bundles are not installed", async (context) => {
    needsProject(context)
    const installed = fs.readdirSync(path.join(project, "node_modules/@effect"))
    expect(installed.filter((name) => /^(cli|printer|typeclass)/.test(name))).toEqual([])
    const licenses = path.join(project, "node_modules/effect-audit/dist/cli/licenses.txt")
    expect(fs.readFileSync(licenses, "utf8")).toMatch(/^@effect\/cli \S+ \(MIT\)/)
  })

  test("a bundle of a program holds only what the program uses", async (context) => {
    needsProject(context)
    const { metafile } = await build({
      stdin: {
        contents: 'import { AuditEvent } from "effect-audit"\nconsole.log(AuditEvent.optional)',
        resolveDir: project
      },
      absWorkingDir: project,
      bundle: true,
      platform: "node",
      format: "esm",
      metafile: true,
      write: false
    })
    const inputs = Object.values(metafile.outputs).flatMap((output) => Object.entries(output.inputs))
    const held = inputs.filter(([, { bytesInOutput }]) => bytesInOutput > 0).map(([file]) => `/${file}`)
    expect(held).toContainEqual(expect.stringMatching(/effect-audit\/dist\/schema\/AuditEvent\.js$/))
    // the check of Effect's version stays in, although nothing uses it
    expect(held).toContainEqual(expect.stringMatching(/effect-audit\/dist\/schema\/Effect3\.js$/))
    const others =
      /\/(@effect\/|undici|fs-native-extensions|effect-audit\/dist\/(layers|internal|services)\/)/
    expect(held.filter((file) => [DRIVERS, COMMAND, others].some((kind) => kind.test(file)))).toEqual([])
  })

  test("without the native addon all modules load, and opening a queue says what to do", async (context) => {
    needsProject(context)
    const addon = path.join(project, "node_modules/fs-native-extensions/prebuilds")
    fs.renameSync(addon, `${addon}.away`)
    try {
      const program = `
        await import("effect-audit/testing")
        await import("effect-audit/mysql")
        const { AuditLayer } = await import("effect-audit")
        const { SqliteUploader } = await import("effect-audit/sqlite")
        const { Effect, Layer } = await import("effect")
        const log = AuditLayer.layer({ directory: "./no-locks" }).pipe(
          Layer.provide(SqliteUploader.layer({ filename: "./no-locks.db" }))
        )
        const error = await Effect.runPromise(Effect.flip(Effect.scoped(Layer.build(log))))
        console.log(error._tag, error.message)`
      const said = await run(process.execPath, ["--input-type=module", "-e", program], project)
      expect(said).toMatch(/^QueueOpenError .*fs-native-extensions.* cannot be loaded.*glibc/)
    } finally {
      fs.renameSync(`${addon}.away`, addon)
    }
  })

  test("the program and the command work without @effect/platform-node", async (context) => {
    needsProject(context)
    const scope = path.join(project, "node_modules/@effect")
    for (const name of ["platform-node", "platform-node-shared", "cluster", "rpc", "workflow"])
      fs.rmSync(path.join(scope, name), { recursive: true, force: true })
    await works(process.execPath)
    const bin = path.join(project, "node_modules/effect-audit/dist/cli/main.js")
    const cwd = await delivered()
    const doctor = ["doctor", "--directory", "audit", "--sqlite", "audit.db"]
    expect(await run(process.execPath, [bin, ...doctor], cwd)).toContain("ok")
  })

  // last, since it removes the drivers
  test("without the drivers the root loads, and a sub-path names the missing driver", async (context) => {
    needsProject(context)
    const scope = path.join(project, "node_modules/@effect")
    const drivers = fs.readdirSync(scope).filter((name) => name.startsWith("sql-"))
    expect(drivers).toEqual(["sql-libsql", "sql-mysql2"])
    for (const name of [...drivers.map((driver) => `@effect/${driver}`), "mysql2", "libsql", "@libsql"])
      fs.rmSync(path.join(project, "node_modules", name), { recursive: true, force: true })

    const importing = (specifier: string) =>
      run(process.execPath, ["--input-type=module", "-e", `await import("${specifier}")`], project)
    await importing("effect-audit")
    await importing("effect-audit/testing")
    await importing("effect-audit/mysql")
    await importing("effect-audit/sqlite")
    await expect(run(process.execPath, ["uploaders.mjs", "mysql"], project)).rejects.toThrow(
      "The driver cannot be loaded: install @effect/sql-mysql2@0.53"
    )
    await expect(run(process.execPath, ["uploaders.mjs", "sqlite"], project)).rejects.toThrow(
      "The driver cannot be loaded: install @effect/sql-libsql@0.42"
    )
    const bin = path.join(project, "node_modules/effect-audit/dist/cli/main.js")
    expect(await run(process.execPath, [bin, "--version"], project)).toMatch(/^\d+\.\d+\.\d+/)
  })
})

/** Hooks that write each resolved ES module to a file. */
const HOOKS = `
import { register } from "node:module"
const hooks = \`
import { appendFileSync } from "node:fs"
export const resolve = async (specifier, context, next) => {
  const resolved = await next(specifier, context)
  appendFileSync(process.env.LOADED, resolved.url + "\\\\n")
  return resolved
}\`
register("data:text/javascript," + encodeURIComponent(hooks))
`

/** Makes both uploaders, or one of them. */
const UPLOADERS = `
import { Effect, Redacted } from "effect"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"
const only = process.argv[2]
const make = (uploader) => Effect.runPromise(Effect.scoped(uploader))
if (only !== "sqlite") await make(MysqlUploader.make({ url: Redacted.make("mysql://app@db/app") }))
if (only !== "mysql") await make(SqliteUploader.make({ filename: "./audit.db" }))
`

/** Imports its arguments, and writes the CommonJS modules that were loaded. */
const TRACE = `
import { appendFileSync } from "node:fs"
import { createRequire } from "node:module"
for (const specifier of process.argv.slice(2)) await import(specifier)
appendFileSync(process.env.LOADED, Object.keys(createRequire(import.meta.url).cache).join("\\n"))
`
