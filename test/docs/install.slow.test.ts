/**
 * The first hour: a program follows getting started line by line in an empty folder, with the packed tarball.
 * Then it bundles the program as docs/deploying.md says. With Effect 4 the import says what to do.
 * `npm run test:install` follows each document that installs, with each package manager and on older Effects.
 */
import * as fs from "node:fs"
import { isBuiltin } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest"
import type { TestDatabase } from "../support/database.js"
import { freshDatabase } from "../support/database.js"
import { pack, run, shell, unreachableIn } from "../support/packed.js"
import { root } from "../support/program.js"

const isLong = process.env.AUDIT_LONG === "1"
/** A test that only `npm run test:install` runs. */
const testAtLength = test.runIf(isLong)

const work = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "audit-install-")))
let tarball: string
/** Where packages come from, for package managers that ignore npm's configuration. */
let registry: Record<string, string>

const reaching = async (command: Promise<{ readonly code: number; readonly output: string }>) => {
  const ended = await command
  const why = ended.code === 0 ? undefined : unreachableIn(ended.output)
  if (why !== undefined)
    throw new Error(
      `This test installs packages, and the registry cannot be reached: ${why}\n${ended.output}`
    )
  return ended
}

beforeAll(async () => {
  tarball = await pack()
  const setting = async (name: string) => (await run("npm", ["config", "get", name], work)).trim()
  const url = await setting("registry")
  const authority = await setting("cafile")
  registry = {
    npm_config_registry: url,
    // uses npm's cache without asking the registry again
    npm_config_prefer_offline: "true",
    npm_config_audit: "false",
    npm_config_fund: "false",
    YARN_REGISTRY: url,
    YARN_NPM_REGISTRY_SERVER: url,
    ...(url.startsWith("http:") ? { YARN_UNSAFE_HTTP_WHITELIST: new URL(url).hostname } : {}),
    ...(authority === "null" ? {} : { YARN_HTTPS_CA_FILE_PATH: authority })
  }
}, 240_000)

afterAll(() => fs.rmSync(work, { recursive: true, force: true }))

// ---------------------------------------------------------------------------------------- what the documents say

const read = (document: string) => fs.readFileSync(path.join(root, document), "utf8")

type Step =
  { readonly command: string } | { readonly file: string; readonly code: string; readonly command?: never }

/** The commands (indented lines) and the files (blocks with `file=`) of a document, in order. */
const stepsOf = (document: string): ReadonlyArray<Step> =>
  Array.from(
    read(document).matchAll(/^ {4}(\S[^\n]*)$|^```\w+ file=(\S+)\n(.*?)^```$|^```.*?^```$/gms),
    ([, command, file, code]): ReadonlyArray<Step> =>
      command !== undefined ? [{ command }] : file !== undefined ? [{ file, code: code! }] : []
  ).flat()

const commandsOf = (document: string) => stepsOf(document).flatMap(({ command }) => command ?? [])

/** The row of the table that translates npm's commands for another package manager. */
const wordsOf = (manager: string) => {
  const row = new RegExp(`^\\| ${manager}[^|]*\\| \`([^\`]+)\` *\\| \`([^\`]+)\` *\\|$`, "m")
  const [, install, execute] = row.exec(read("docs/getting-started.md"))!
  return { install: install!, execute: execute! }
}

const FIRST = "docs/getting-started.md"
const FOLLOWED = [FIRST, "docs/testing.md", "docs/deploying.md", "README.md"]

/**
 * The oldest sets of packages that install together: those of the peer ranges, and those with both drivers.
 * The registry lacks drivers that belong to the first set.
 */
const OLDEST_CORE =
  " effect@3.17.14 @effect/platform@0.90.10 @effect/platform-node@0.96.1 @effect/sql@0.44.2 @effect/experimental@0.54.6" +
  " @effect/cluster@0.48 @effect/rpc@0.69 @effect/workflow@0.9"
const OLDEST_WITH_DRIVERS =
  " effect@3.19.8 @effect/platform@0.93.5 @effect/platform-node@0.101 @effect/sql@0.48.5 @effect/experimental@0.57.8" +
  " @effect/cluster@0.53 @effect/rpc@0.72 @effect/workflow@0.13 @effect/sql-mysql2@0.49.1 @effect/sql-libsql@0.38.0"
const OLDEST_SETS = [OLDEST_CORE, OLDEST_WITH_DRIVERS]

const INSTALLS = /\b(?:(?:npm|pnpm) (?:install|i|add)|yarn add) (?:-\S+ )*[\w@]/

test("this file follows every document that has an install command", () => {
  const documents = [".", "docs", "examples", "bench", "test"].flatMap((directory) =>
    fs
      .readdirSync(path.join(root, directory))
      .filter((name) => name.endsWith(".md"))
      .map((name) => path.join(directory, name))
  )
  const installing = documents.filter((document) => INSTALLS.test(read(document)))
  expect(installing.sort()).toEqual([...FOLLOWED].sort())
  // the install command is in a line that is run, not only in the prose
  for (const document of FOLLOWED)
    expect(
      read(document)
        .split("\n")
        .filter((line) => INSTALLS.test(line) && !line.startsWith("|"))
    ).toEqual(commandsOf(document).flatMap((line) => (INSTALLS.test(line) ? [`    ${line}`] : [])))
})

test("all documents install the same version of a package, within the peer range", () => {
  const { peerDependencies } = JSON.parse(read("package.json")) as {
    peerDependencies: Record<string, string>
  }
  const named = FOLLOWED.flatMap(commandsOf)
    .filter((line) => INSTALLS.test(line))
    .flatMap((line) =>
      Array.from(line.matchAll(/ (@?[\w/-]+)@(\S+)/g), ([, name, version]) => [name!, version!])
    )
  const versions = new Map<string, Set<string>>()
  for (const [name, version] of named)
    versions.set(name!, (versions.get(name!) ?? new Set<string>()).add(version!))
  for (const [name, all] of versions) expect([name, [...all]]).toEqual([name, [[...all][0]]])
  for (const [name, range] of Object.entries(peerDependencies)) {
    const [version] = versions.get(name) ?? []
    expect([name, version]).toEqual([name, expect.stringMatching(/^\d+(\.\d+)?$/)])
    expect([name, isWithin(`${version!}.999`, range)]).toEqual([name, true])
    // the oldest version of each range is tested
    const oldest = /\d+\.\d+\.\d+/.exec(range)![0]
    expect([name, OLDEST_SETS.some((set) => set.includes(` ${name}@${oldest}`))]).toEqual([name, true])
  }
})

/** Whether a version is within `^1.2.3` or `>=0.1.2 <1`. */
const isWithin = (version: string, range: string): boolean => {
  const parts = (text: string) => text.split(".").map(Number)
  const isAtLeast = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): boolean => {
    const first = b.findIndex((part, index) => part !== (a[index] ?? 0))
    return first === -1 || (a[first] ?? 0) > b[first]!
  }
  const [oldest, end] = [/\d+\.\d+\.\d+/.exec(range)![0], / <(\d+)$/.exec(range)?.[1]]
  const next = end ?? String(Number(oldest.split(".")[0]) + 1)
  return isAtLeast(parts(version), parts(oldest)) && !isAtLeast(parts(version), parts(next))
}

// ---------------------------------------------------------------------------------------- followed

interface Manager {
  readonly name: string
  /** Its row in the table of the document, unless it is npm. */
  readonly row?: string
  /** The package that provides it. */
  readonly tool?: string
  readonly env?: Record<string, string>
  /** The command that names missing peers, if adding only counts them. */
  readonly explains?: string
  /** How it reports peers that are missing or do not fit. */
  readonly complains: RegExp
}

const npm: Manager = { name: "npm", complains: /peer/i }

const others: ReadonlyArray<Manager> = [
  { name: "pnpm 12", row: "pnpm", tool: "pnpm@12", complains: /peer/i },
  { name: "pnpm 10", row: "pnpm", tool: "pnpm@10", complains: /peer/i },
  { name: "yarn 1", row: "yarn 1", tool: "yarn@1", complains: /(unmet|incorrect) peer/i },
  {
    name: "yarn 4",
    row: "yarn 4",
    tool: "@yarnpkg/cli-dist@4",
    env: { YARN_NODE_LINKER: "node-modules" },
    explains: "yarn explain peer-requirements",
    complains: /YN00(02|60)|✘/
  },
  {
    name: "yarn 4 with Plug'n'Play",
    row: "yarn 4",
    tool: "@yarnpkg/cli-dist@4",
    env: { YARN_NODE_LINKER: "pnp" },
    explains: "yarn explain peer-requirements",
    complains: /YN00(02|60)|✘/
  }
]

/** An empty folder, and functions that run the documents' commands there. */
const workplace = async ({ complains, env = {}, explains, name, row, tool }: Manager) => {
  const folder = fs.mkdtempSync(path.join(work, "project-"))
  onTestFinished(() => fs.rmSync(folder, { recursive: true, force: true }))
  const variables: Record<string, string> = {
    ...registry,
    YARN_CACHE_FOLDER: path.join(work, "yarn-cache", name),
    YARN_ENABLE_TELEMETRY: "0",
    NO_COLOR: "1",
    ...env
  }
  if (tool !== undefined) {
    const tools = path.join(work, "tools", tool.replaceAll("/", "+"))
    fs.mkdirSync(tools, { recursive: true })
    fs.writeFileSync(path.join(tools, "package.json"), "{}")
    const { code, output } = await reaching(shell(`npm install ${tool}`, tools, registry))
    expect(output, output).toSatisfy(() => code === 0)
    variables.PATH = `${path.join(tools, "node_modules/.bin")}${path.delimiter}${process.env.PATH!}`
  }
  const words = row === undefined ? undefined : wordsOf(row)

  const follow = async (line: string): Promise<string> => {
    const exported = /^export (\w+)=/.exec(line)
    if (exported !== null) {
      expect(Object.keys(variables)).toContain(exported[1])
      return ""
    }
    const translated =
      words === undefined
        ? line
        : line.replace(/^npm install(?= )/, words.install).replace(/^npx(?= )/, words.execute)
    const command = INSTALLS.test(line)
      ? translated.replace(/ effect-audit(?= )/, ` effect-audit@file:${tarball}`)
      : translated
    const { code, output } = await reaching(shell(command, folder, variables))
    expect(code, `${command}\n${output}`).toBe(0)
    if (INSTALLS.test(line)) {
      const explained = explains === undefined ? "" : (await shell(explains, folder, variables)).output
      // @types/node is a peer of mysql2, and @effect/sql-mysql2 does not pass it on
      const lines = `${output}\n${explained}`.split("\n").filter((each) => !each.includes("@types/node"))
      expect(lines.filter((each) => complains.test(each))).toEqual([])
    }
    return output
  }

  return {
    folder,
    /** Writes a file without running it; runs a command and returns its output. */
    step: async (step: Step, rename: (file: string) => string = (file) => file): Promise<string> => {
      if (step.command !== undefined) return follow(step.command)
      const file = path.join(folder, rename(step.file))
      fs.mkdirSync(path.dirname(file), { recursive: true })
      fs.writeFileSync(file, step.code)
      return ""
    },
    follow,
    /** Runs a line that may fail. */
    run: (line: string) => shell(line, folder, variables),
    set: (name: string, value: string) => void (variables[name] = value)
  }
}

/** The copies of Effect in a folder. */
const copiesOfEffect = (folder: string): ReadonlyArray<string> => {
  if (fs.existsSync(path.join(folder, ".pnp.cjs")))
    return fs.readFileSync(path.join(folder, "yarn.lock"), "utf8").match(/^"effect@npm:.*$/gm) ?? []
  const found = fs
    .readdirSync(path.join(folder, "node_modules"), { recursive: true, encoding: "utf8" })
    .filter((name) => /(^|node_modules\/)effect\/package\.json$/.test(name))
    .map((name) => fs.realpathSync(path.join(folder, "node_modules", name)))
  return [...new Set(found)]
}

const USE = "SELECT user_name, prompt, result_path, status, duration_ms FROM nano_banana_user_use_log"

const followTheFirst = async (
  manager: Manager,
  database: TestDatabase,
  rewrite: (command: string) => string = (command) => command
) => {
  const place = await workplace(manager)
  place.set("AUDIT_MYSQL_URL", database.url)
  const outputs: Array<readonly [string, string]> = []
  for (const each of stepsOf(FIRST)) {
    const step = each.command === undefined ? each : { command: rewrite(each.command) }
    const output = await place.step(step, path.basename)
    if (step.command !== undefined) outputs.push([step.command, output])
  }
  const said = (part: string) => outputs.find(([command]) => command.includes(part))?.[1]
  expect(said("effect-audit migrate")).toContain("Ready: nano_banana_user_use_log, nano_banana_user_log")
  expect(said("effect-audit status")).toMatch(/2 delivered/)
  expect(await database.query(USE)).toEqual([
    { user_name: "li", prompt: "a red fox", result_path: "out/1.png", status: "success", duration_ms: 1840 }
  ])
  expect(copiesOfEffect(place.folder)).toHaveLength(1)
  return place
}

const withDatabase = async () => {
  const database = await freshDatabase()
  onTestFinished(database.drop)
  return database
}

describe("the commands of getting started work", () => {
  test("npm", { timeout: 600_000 }, async () => {
    const { folder } = await followTheFirst(npm, await withDatabase())
    fs.mkdirSync(kept)
    for (const name of INSTALLATION) fs.renameSync(path.join(folder, name), path.join(kept, name))
  })

  testAtLength("npm, with the oldest packages that have drivers", { timeout: 600_000 }, async () => {
    await followTheFirst(npm, await withDatabase(), (line) => withVersions(line, OLDEST_WITH_DRIVERS))
  })

  testAtLength.for(others)("$name", { timeout: 600_000 }, async (manager) => {
    await followTheFirst(manager, await withDatabase())
  })
})

/** An install command with the versions of a set. */
const withVersions = (line: string, set: string): string =>
  INSTALLS.test(line)
    ? line.replaceAll(/ (@effect\/[\w-]+|effect)@\S+/g, (_, name: string) => {
        const version = new RegExp(` ${name}@(\\S+)`).exec(set)?.[1]
        return version === undefined ? "" : ` ${name}@${version}`
      })
    : line

const OWN_UPLOADER = `
  import { Effect, Layer } from "effect"
  import { Audit, AuditLayer, logUse, Uploader } from "effect-audit"
  const delivered: Array<string> = []
  const UploaderLive = Layer.succeed(Uploader, {
    concurrency: 1,
    upload: ({ events }) => Effect.sync(() => { for (const { eventId } of events) delivered.push(eventId); return { rejected: [] } })
  })
  const AuditLive = AuditLayer.layer({ directory: "./audit" }).pipe(Layer.provide(UploaderLive))
  const program = Effect.gen(function* () {
    yield* logUse({ userName: "li", prompt: "a red fox", status: "success" })
    yield* Audit.flush
    console.log(delivered.length, "delivered")
  })
  await Effect.runPromise(Effect.provide(program, AuditLive))
`

testAtLength(
  "the oldest packages of the peer ranges work with a custom uploader",
  { timeout: 600_000 },
  async () => {
    const place = await workplace(npm)
    for (const line of commandsOf(FIRST))
      if (line.startsWith("npm ") && !line.includes("sql-"))
        await place.follow(withVersions(line, OLDEST_CORE))
      else if (line.includes("@effect/platform@")) await place.follow(withVersions(line, OLDEST_CORE))
    fs.writeFileSync(path.join(place.folder, "own.ts"), OWN_UPLOADER)
    const check = commandsOf(FIRST).find((line) => line.startsWith("npx tsc"))!
    await place.follow(check.replace("getting-started.ts", "own.ts"))
    expect(await place.follow("npx tsx own.ts")).toContain("1 delivered")
    expect(await place.follow("npx effect-audit status --directory audit")).toContain("1 delivered")
  }
)

const RUNS_BY_ITSELF = `
  import { Effect, Layer, Redacted } from "effect"
  import { AuditLayer, logUse } from "effect-audit"
  import { MysqlUploader } from "effect-audit/mysql"
  const url = Redacted.make(process.env.AUDIT_MYSQL_URL!)
  const AuditLive = AuditLayer.layer({ directory: "./audit", drainTimeout: 0 }).pipe(
    Layer.provide(MysqlUploader.layer({ url }))
  )
  const program = logUse({ userName: "li", prompt: "a red fox", status: "success" })
  await Effect.runPromise(Effect.provide(program, AuditLive))
`

/** The limits of a program without @effect/platform-node: packages, and MB as `du -m` counts them. */
const MOST_PACKAGES = 40
const MOST_MEGABYTES = 80

/** The packages in a folder, and their size in bytes. */
const installedIn = (folder: string) => {
  const entries = fs.readdirSync(folder, { recursive: true, withFileTypes: true })
  const packages = entries.filter(
    ({ name, parentPath }) =>
      name === "package.json" && /node_modules[/\\](?:@[^/\\]+[/\\])?[^/\\]+$/.test(parentPath)
  )
  const bytes = entries
    .filter((entry) => entry.isFile())
    .map(({ name, parentPath }) => fs.statSync(path.join(parentPath, name)).blocks * 512)
  return { packages: packages.length, bytes: bytes.reduce((sum, each) => sum + each, 0) }
}

testAtLength.for([
  { name: "newest", versions: undefined },
  { name: "oldest that have drivers", versions: OLDEST_WITH_DRIVERS }
])(
  "all commands of a program without @effect/platform-node work, with the $name packages",
  { timeout: 600_000 },
  async ({ versions }) => {
    const place = await workplace(npm)
    place.set("AUDIT_MYSQL_URL", (await withDatabase()).url)
    for (const command of commandsOf(FIRST).filter((line) => /^npm (?!install -D|.*sql-libsql)/.test(line))) {
      const line = versions === undefined ? command : withVersions(command, versions)
      await place.follow(line.replaceAll(/ @effect\/(?:platform-node|cluster|rpc|workflow)@\S+/g, ""))
    }
    const found = installedIn(path.join(place.folder, "node_modules"))
    expect(fs.existsSync(path.join(place.folder, "node_modules/@effect/platform-node"))).toBe(false)
    expect(found.packages).toBeLessThanOrEqual(MOST_PACKAGES)
    expect(found.bytes / 2 ** 20).toBeLessThanOrEqual(MOST_MEGABYTES)
    await place.follow("npm install -D tsx@4")
    fs.writeFileSync(path.join(place.folder, "own.ts"), RUNS_BY_ITSELF)
    await place.follow("npx effect-audit migrate")
    await place.follow("npx tsx own.ts")
    await place.follow("npx effect-audit doctor --directory audit")
    await place.follow("npx effect-audit flush --directory audit")
    expect(await place.follow("npx effect-audit status --directory audit")).toContain("1 delivered")
    fs.writeFileSync(
      path.join(place.folder, "kinds.mjs"),
      `export { UseLog, LoginLog } from "effect-audit"\n`
    )
    // a command that shares the program's Effect can serve too
    place.set("AUDIT_EVENTS", "./kinds.mjs")
    const address = /^http:\/\/127\.0\.0\.1:\d+\/#/m
    let served = ""
    // It never ends by itself, and starts slowly on a loaded machine.
    for (const seconds of [10, 120]) {
      if (!address.test(served))
        served = (await place.run(`timeout ${seconds} npx effect-audit serve --directory audit --port 0`))
          .output
    }
    expect(served).toMatch(address)
  }
)

/** The packages that npm installed for getting started, for the documents that continue from there. */
const kept = path.join(work, "kept")
const INSTALLATION = ["package.json", "package-lock.json", "node_modules"]

/** A folder where getting started was followed up to its installation. */
const installed = async (tool?: string) => {
  const place = await workplace({ ...npm, ...(tool === undefined ? {} : { tool }) })
  if (fs.existsSync(kept)) fs.cpSync(kept, place.folder, { recursive: true, verbatimSymlinks: true })
  else for (const line of commandsOf(FIRST)) if (/^npm /.test(line)) await place.follow(line)
  return place
}

// test/studio.test.ts tests its code among our own tests
testAtLength("docs/testing.md, as it is written", { timeout: 600_000 }, async () => {
  const place = await installed()
  let output = ""
  for (const step of stepsOf("docs/testing.md")) output = await place.step(step)
  expect(output).toMatch(/Tests +3 passed/)
})

test("the bundle of docs/deploying.md works as written", { timeout: 600_000 }, async () => {
  const place = await installed()
  const database = await withDatabase()
  place.set("AUDIT_MYSQL_URL", database.url)
  for (const step of stepsOf(FIRST))
    if (step.command === undefined) await place.step(step, path.basename)
    else if (step.command.includes("migrate")) await place.follow(step.command)
  for (const line of commandsOf("docs/deploying.md"))
    // tsx has installed esbuild
    if (isLong || !INSTALLS.test(line)) await place.follow(line)
  expect(await database.query(USE)).toMatchObject([{ user_name: "li", prompt: "a red fox" }])
  // the bundle needs nothing but the two native packages
  const bundled = fs.readFileSync(path.join(place.folder, "bundled.mjs"), "utf8")
  const imported = Array.from(
    bundled.matchAll(/(?:from|import\(|require\() ?"([\w@/.:-]+)"/g),
    ([, name]) => name!
  )
  const outside = [...new Set(imported)].filter((name) => !name.startsWith("node:") && !isBuiltin(name))
  expect(outside.filter((name) => !["fs-native-extensions", "@libsql/client"].includes(name))).toEqual([])
})

// test/docs/examples.test.ts runs its program among our own tests
testAtLength("README.md, as it is written, in an empty folder", { timeout: 600_000 }, async () => {
  const place = await workplace(npm)
  let program = ""
  for (const step of stepsOf("README.md")) {
    if (step.command === undefined) program = step.code
    // the other commands need a clone of the repository
    if (step.command === undefined || INSTALLS.test(step.command)) await place.step(step)
  }
  const [, line] = /^ \* {5}(npx tsx \S+)$/m.exec(program)!
  // without a URL it delivers to SQLite
  await place.follow(line!)
  expect(await place.follow("npx effect-audit status")).toMatch(/2 delivered/)
  const database = await withDatabase()
  place.set("AUDIT_MYSQL_URL", database.url)
  await place.follow("npx effect-audit migrate")
  await place.follow(line!)
  expect(await place.follow("npx effect-audit status")).toMatch(/4 delivered/)
  expect(await database.query(USE)).toMatchObject([{ user_name: "li", prompt: "a red fox" }])
})

// ---------------------------------------------------------------------------------------- another runtime

/** Runs the program of getting started with another runtime; returns its outcome and the folder. */
const runBy = async (tool: string, line: string) => {
  const place = await installed(tool)
  const database = await withDatabase()
  place.set("AUDIT_MYSQL_URL", database.url)
  for (const step of stepsOf(FIRST))
    if (step.command === undefined) await place.step(step, path.basename)
    else if (step.command.includes("migrate")) await place.follow(step.command)
  return { place, database, ended: await place.run(line) }
}

describe.runIf(isLong)("docs/deploying.md on another runtime", () => {
  test("Bun delivers", { timeout: 600_000 }, async () => {
    const { database, ended, place } = await runBy("bun@1", "bun getting-started.ts")
    expect(ended.code, ended.output).toBe(0)
    expect(await database.query(USE)).toMatchObject([{ user_name: "li", prompt: "a red fox" }])
    expect(await place.follow("npx effect-audit status --directory audit")).toMatch(/2 delivered/)
  })

  test(
    "Deno refuses a queue on disk with a sentence, and runs tests in memory",
    { timeout: 600_000 },
    async () => {
      const { ended, place } = await runBy("deno@2", "deno run -A getting-started.ts")
      expect(ended.output).toContain("Deno cannot load fs-native-extensions, which takes the kernel's locks")
      expect(ended.code).toBe(1)
      const command = await place.run(
        "deno run -A node_modules/effect-audit/dist/cli/main.js status -d audit"
      )
      expect(command.output).not.toContain("symbol lookup")
      fs.writeFileSync(path.join(place.folder, "memory.ts"), IN_MEMORY)
      const { code, output } = await place.run("deno run -A memory.ts")
      expect(code, output).toBe(0)
      expect(output).toContain("1 delivered")
    }
  )
})

const IN_MEMORY = `
  import { Effect } from "effect"
  import { Audit, logUse, UseLog } from "effect-audit"
  import { AuditTest } from "effect-audit/testing"
  const program = Effect.gen(function* () {
    yield* logUse({ userName: "li", prompt: "a red fox", status: "success" })
    yield* Audit.flush
    console.log((yield* AuditTest.delivered(UseLog)).length, "delivered")
  })
  await Effect.runPromise(Effect.provide(program, AuditTest.layer))
`

// ---------------------------------------------------------------------------------------- another Effect

const DRIVERS = "@effect/sql-mysql2@0.53 @effect/sql-libsql@0.42"

const OLDER = [
  ["an Effect 3 below the peer range", "effect@3.16.0"],
  ["the oldest Effect that differs detectably from Effect 4", "effect@3.10.0"]
]

describe.each([
  ["Effect 4", `effect@4 @effect/platform@0.97 @effect/sql@0.52 @effect/experimental@0.61 ${DRIVERS}`],
  ...(isLong ? OLDER : [])
])("with %s", (_, packages) => {
  let folder: string
  let sentence: string

  beforeAll(async () => {
    folder = fs.mkdtempSync(path.join(work, "other-"))
    fs.writeFileSync(path.join(folder, "package.json"), JSON.stringify({ type: "module" }))
    // as yarn and pnpm do: they warn of peers that do not fit, and continue
    const line = `npm install --legacy-peer-deps --ignore-scripts effect-audit@file:${tarball} ${packages}`
    const { code, output } = await reaching(shell(line, folder, registry))
    expect(code, output).toBe(0)
    const { version } = JSON.parse(
      fs.readFileSync(path.join(folder, "node_modules/effect/package.json"), "utf8")
    ) as { version: string }
    const line3 = commandsOf(FIRST).find((each) => each.startsWith("npm install effect-audit "))!
    sentence = `effect-audit needs Effect 3, 3.17.14 or later, but found ${version}: ${line3.replace(/^npm /, "")}`
  }, 240_000)

  test.each(["effect-audit", "effect-audit/mysql", "effect-audit/sqlite", "effect-audit/testing"])(
    "importing %s says what was found and what to do",
    async (specifier) => {
      const code = `import(${JSON.stringify(specifier)}).catch((error) => console.log(error.message))`
      expect((await run(process.execPath, ["--eval", code], folder)).trim()).toBe(sentence)
    }
  )

  test("a program with several imports gets the same sentence", async () => {
    const names = ["effect-audit", "effect-audit/mysql", "effect-audit/sqlite"]
    const imports = ["effect", ...names].map((name, index) => `import * as m${index} from "${name}"\n`)
    fs.writeFileSync(path.join(folder, "program.js"), imports.join(""))
    const { code, output } = await shell(`"${process.execPath}" program.js`, folder)
    expect(code).toBe(1)
    expect(output).toContain(`Error: ${sentence}\n`)
  })

  test("the command prints the sentence and nothing else, if it needs Effect", async () => {
    expect(await shell("node_modules/.bin/effect-audit flush", folder)).toEqual({
      code: 70,
      output: `${sentence}\n`
    })
    const { code, output } = await shell("node_modules/.bin/effect-audit status", folder)
    expect(code, output).toBe(2)
    expect(output).toContain("There is no queue in")
  })
})
