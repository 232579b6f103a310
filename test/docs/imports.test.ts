/** What modules import: no module imports itself by way of others, and a program that only writes loads no reading code. */
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { expect, test } from "vitest"
import { root } from "../support/program.js"

/** The files that a file imports; only at start: without types and dynamic imports. */
const importsOf = (file: string, onlyAtStart: boolean): ReadonlyArray<string> =>
  ts
    .createSourceFile(file, fs.readFileSync(file, "utf8"), ts.ScriptTarget.Latest)
    .statements.flatMap((statement) => {
      const isImport =
        ts.isImportDeclaration(statement) &&
        !(onlyAtStart && statement.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword)
      const isExport = ts.isExportDeclaration(statement) && !(onlyAtStart && statement.isTypeOnly)
      const from = isImport || isExport ? statement.moduleSpecifier : undefined
      return from !== undefined && ts.isStringLiteral(from) && from.text.startsWith(".")
        ? [path.resolve(path.dirname(file), from.text.replace(/\.js$/, ".ts"))]
        : []
    })

const nameOf = (file: string) => path.relative(path.join(root, "src"), file)

const loadedBy = (entry: string): ReadonlyArray<string> => {
  const seen = new Set<string>()
  const visit = (file: string) => {
    if (seen.has(file)) return
    seen.add(file)
    importsOf(file, true).forEach(visit)
  }
  visit(path.join(root, entry))
  return [...seen].map(nameOf)
}

test.each(["src/index.ts", "src/mysql.ts", "src/sqlite.ts"])(
  "%s loads no module that reads the database",
  (entry) => {
    const loaded = loadedBy(entry)
    expect(loaded.length).toBeGreaterThan(10)
    const reading = /walk|[rR]eading|conditions|columnsRead|TrailLive|whereabouts|schema\/Row/
    expect(loaded.filter((file) => reading.test(file))).toEqual([])
  }
)

test("no module imports itself by way of others, types included", () => {
  const directory = path.join(root, "src")
  const files = fs
    .readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => path.join(directory, name))
  expect(files.length).toBeGreaterThan(100)
  const done = new Set<string>()
  const circles: Array<string> = []
  const visit = (file: string, way: ReadonlyArray<string>) => {
    if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file].map(nameOf).join(" -> "))
    if (done.has(file) || way.includes(file) || !file.endsWith(".ts")) return
    for (const next of importsOf(file, false)) visit(next, [...way, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  expect(circles).toEqual([])
})
