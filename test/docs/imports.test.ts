/** What a program loads: a program that only writes loads no reading code. */
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { expect, test } from "vitest"
import { root } from "../support/program.js"

/** The files that a file imports directly or indirectly at start: without types and dynamic imports. */
const loadedBy = (entry: string): ReadonlyArray<string> => {
  const seen = new Set<string>()
  const visit = (file: string) => {
    if (seen.has(file)) return
    seen.add(file)
    const { statements } = ts.createSourceFile(file, fs.readFileSync(file, "utf8"), ts.ScriptTarget.Latest)
    for (const statement of statements) {
      const isImport =
        ts.isImportDeclaration(statement) &&
        statement.importClause?.phaseModifier !== ts.SyntaxKind.TypeKeyword
      const isExport = ts.isExportDeclaration(statement) && !statement.isTypeOnly
      const from = isImport || isExport ? statement.moduleSpecifier : undefined
      if (from === undefined || !ts.isStringLiteral(from) || !from.text.startsWith(".")) continue
      visit(path.resolve(path.dirname(file), from.text.replace(/\.js$/, ".ts")))
    }
  }
  visit(path.join(root, entry))
  return [...seen].map((file) => path.relative(path.join(root, "src"), file))
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
