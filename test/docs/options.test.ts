/** docs/options.md: it names every option, variable and flag, and no others. */
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { describe, expect, test } from "vitest"
import { root } from "../support/program.js"

const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")

const page = read("docs/options.md")
const section = (heading: string) => {
  const [text] = page.split(/^## /m).filter((text) => text.startsWith(`${heading}\n`))
  return text!
}
const named = (text: string, pattern: RegExp) =>
  new Set(Array.from(text.matchAll(pattern), ([, name]) => name!))
const sorted = (names: Iterable<string>) => [...new Set(names)].sort()

const sources = (directory: string) =>
  fs
    .readdirSync(path.join(root, directory), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => read(path.join(directory, file)))

const MODULES = {
  AuditLayer: "src/layers/AuditLayer.ts",
  MysqlUploader: "src/layers/MysqlUploader.ts",
  SqliteUploader: "src/layers/SqliteUploader.ts",
  MysqlTrail: "src/layers/MysqlTrail.ts",
  SqliteTrail: "src/layers/SqliteTrail.ts"
}

const program = (() => {
  const { config } = ts.readConfigFile(path.join(root, "tsconfig.json"), (file) => ts.sys.readFile(file)) as {
    config: unknown
  }
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  return ts.createProgram(
    Object.values(MODULES).map((module) => path.join(root, module)),
    options
  )
})()

/** The names of the properties of a module's Options, inherited ones included. */
const optionsOf = (module: string): ReadonlyArray<string> => {
  const checker = program.getTypeChecker()
  const file = checker.getSymbolAtLocation(program.getSourceFile(path.join(root, module))!)!
  const symbol = checker.getExportsOfModule(file).find(({ name }) => name === "Options")!
  return checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol)).map(({ name }) => name)
}

describe("the document lists every option of a layer", () => {
  test.each(Object.entries(MODULES))("%s", (heading, module) => {
    const rows = section(heading)
      .split("\n")
      .filter((line) => line.startsWith("| `"))
    const first = rows.map((row) => row.split("|")[1]!).join()
    expect(sorted(named(first, /`(\w+)`/g))).toEqual(sorted(optionsOf(module)))
  })
})

test("the document lists every environment variable", () => {
  const ofLayer = Array.from(
    read("src/layers/AuditLayer.ts").matchAll(/Config\.(?!nested)\w+\("([A-Z_]+)"\)/g),
    ([, name]) => `AUDIT_${name!}`
  )
  const ofCommand = sources("src/cli").flatMap((source) =>
    Array.from(source.matchAll(/"(AUDIT_[A-Z_]*[A-Z])"/g), ([, name]) => name!)
  )
  expect(ofLayer.length).toBeGreaterThan(10)
  expect(sorted(named(page, /`(AUDIT_[A-Z_]+)`/g))).toEqual(sorted([...ofLayer, ...ofCommand]))
})

test("the document lists every flag", () => {
  const flags = sources("src/cli").flatMap((source) =>
    Array.from(
      source.matchAll(/Options\.(?!with|optional|repeated|map)\w+\(\s*"([a-z-]+)"/g),
      ([, name]) => name!
    )
  )
  expect(flags.length).toBeGreaterThan(15)
  expect(sorted(named(section("The command"), /`--([a-z-]+)`/g))).toEqual(sorted(flags))
})
