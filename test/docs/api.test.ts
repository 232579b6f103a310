/** The public API: each export has a docstring, from which `npm run docs:api` makes the reference. */
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"
import { expect, test } from "vitest"

const root = fileURLToPath(new URL("../../", import.meta.url))
const entryPoints = ["index", "mysql", "sqlite", "testing"].map((name) => path.join(root, `src/${name}.ts`))

const program = ts.createProgram(entryPoints, {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  noEmit: true
})
const checker = program.getTypeChecker()

interface Export {
  /** Such as `MysqlUploader.layer`. */
  readonly name: string
  readonly symbol: ts.Symbol
}

const resolved = (symbol: ts.Symbol) =>
  symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol

const isModule = (symbol: ts.Symbol) => (symbol.flags & ts.SymbolFlags.ValueModule) !== 0

/** The exports of a module and of its namespaces. */
const exportsOf = (module: ts.Symbol, prefix = ""): Array<Export> =>
  checker.getExportsOfModule(module).flatMap((symbol) => {
    const name = prefix + symbol.name
    const target = resolved(symbol)
    return isModule(target) ? exportsOf(target, `${name}.`) : [{ name, symbol: target }]
  })

/** The tags of a symbol's docstrings without `@internal`; a class and its namespace may share one. */
const tagsOf = ({ symbol }: Export) =>
  new Map(
    symbol
      .getJsDocTags(checker)
      .map(({ name, text }) => [name, ts.displayPartsToString(text).trim()] as const)
  )

const modules = entryPoints.map((file) => checker.getSymbolAtLocation(program.getSourceFile(file)!)!)
const all = modules.flatMap((module) => exportsOf(module)).filter((each) => !tagsOf(each).has("internal"))

test("the package exports an API", () => {
  const names = all.map(({ name }) => name)
  expect(names).toEqual(
    expect.arrayContaining(["logUse", "Audit.record", "MysqlUploader.layer", "AuditEvent.Class"])
  )
})

test.each(["since", "category"])("every export has @%s", (tag) => {
  expect(all.filter((each) => !tagsOf(each).get(tag)).map(({ name }) => name)).toEqual([])
})

test("every export has a description", () => {
  const without = all.filter(({ symbol }) => symbol.getDocumentationComment(checker).length === 0)
  expect(without.map(({ name }) => name)).toEqual([])
})

test("every module has a docstring with @since", () => {
  const files = new Set(
    all.flatMap(({ symbol }) => symbol.declarations ?? []).map((declaration) => declaration.getSourceFile())
  )
  const without = [...files, ...entryPoints.map((file) => program.getSourceFile(file)!)]
    .filter(({ fileName }) => fileName.startsWith(path.join(root, "src/")))
    .filter(({ text }) => !/^\/\*\*(?:(?!\*\/)[^])*@since \d[^]*?\*\//.test(text))
  expect(without.map(({ fileName }) => path.relative(root, fileName))).toEqual([])
})
