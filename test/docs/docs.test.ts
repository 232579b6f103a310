/** The documentation: its code compiles, its copies equal their files, and its links have targets. */
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"
import { describe, expect, test } from "vitest"
import * as mysql from "../../src/internal/database/mysql/errors.js"
import * as sqlite from "../../src/internal/database/sqlite/errors.js"

const root = fileURLToPath(new URL("../../", import.meta.url))

const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")

const filesIn = (directory: string, extension: string): Array<string> =>
  fs.existsSync(path.join(root, directory))
    ? fs
        .readdirSync(path.join(root, directory), { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(extension))
        .map((name) => path.join(directory, name))
    : []

const documents = [
  ...fs.readdirSync(root).filter((name) => name.endsWith(".md")),
  ...filesIn("docs", ".md").filter((name) => !name.startsWith(path.join("docs", "api")))
]

interface Snippet {
  /** Its place, such as `docs/guide.md:12`. */
  readonly place: string
  readonly code: string
  /** The file of which it is a copy. */
  readonly file: string | undefined
}

const lineOf = (text: string, index: number) => text.slice(0, index).split("\n").length

/** The blocks of a document: ```ts, or ```ts file=examples/a.ts for a copy of that file. */
const blocksOf = (document: string): Array<Snippet> =>
  Array.from(read(document).matchAll(/^```ts(?: file=(\S+))?\n(.*?)^```$/gms), (match) => ({
    place: `${document}:${lineOf(match.input, match.index)}`,
    code: match[2]!,
    file: match[1]
  }))

/** The examples of a module's docstrings. */
const examplesOf = (module: string): Array<Snippet> =>
  Array.from(read(module).matchAll(/^ \* @example\n((?: \*(?! @\w).*\n)*)/gm), (match) => ({
    place: `${module}:${lineOf(match.input, match.index)}`,
    code: match[1]!.replace(/^ \* ?/gm, "").replace(/^```.*\n/gm, ""),
    file: undefined
  }))

/** Compiles each snippet as a separate module, with this repository's settings. */
const compile = (snippets: ReadonlyArray<Snippet>): Array<string> => {
  const { config } = ts.readConfigFile(path.join(root, "tsconfig.json"), (file) => ts.sys.readFile(file)) as {
    config: unknown
  }
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const virtual = new Map(
    snippets.map((snippet, index) => [path.join(root, `snippet-${index}.ts`), snippet] as const)
  )
  const host = ts.createCompilerHost(options)
  const { fileExists, getSourceFile, readFile } = host
  host.fileExists = (file) => virtual.has(file) || fileExists.call(host, file)
  host.readFile = (file) => virtual.get(file)?.code ?? readFile.call(host, file)
  host.getSourceFile = (file, languageVersion, ...rest) => {
    const snippet = virtual.get(file)
    return snippet === undefined
      ? getSourceFile.call(host, file, languageVersion, ...rest)
      : ts.createSourceFile(file, `${snippet.code}\nexport {}\n`, languageVersion)
  }
  const program = ts.createProgram([...virtual.keys()], options, host)
  return Array.from(virtual).flatMap(([name, { place }]) => {
    const file = program.getSourceFile(name)
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map(
      ({ messageText, start }) =>
        `${place} (line ${lineOf(file?.text ?? "", start ?? 0)} of it): ${ts.flattenDiagnosticMessageText(messageText, "\n")}`
    )
  })
}

const blocks = documents.flatMap(blocksOf)
const examples = filesIn("src", ".ts").flatMap(examplesOf)

test("documents and docstrings have examples", () => {
  expect(blocks.length).toBeGreaterThan(0)
  expect(examples.length).toBeGreaterThan(5)
})

test("every example compiles", () => {
  const own = [...examples, ...blocks.filter(({ file }) => file === undefined)]
  expect(compile(own)).toEqual([])
})

describe("copies of files", () => {
  test.each(blocks.filter(({ file }) => file !== undefined))("$place equals $file", ({ code, file }) => {
    expect(code).toBe(read(file!))
  })
})

const linksOf = (document: string) =>
  Array.from(read(document).matchAll(/\]\((?!https?:|mailto:)([^)\s]*)\)/g), ([, link]) => link!)

test("relative links have a target", () => {
  const broken = documents.flatMap((document) =>
    linksOf(document)
      .filter((link) => {
        const [file, anchor] = link.split("#")
        const target = file === "" ? document : path.join(path.dirname(document), file!)
        if (!fs.existsSync(path.join(root, target))) return true
        return anchor !== undefined && !anchorsOf(target).includes(anchor)
      })
      .map((link) => `${document}: ${link}`)
  )
  expect(broken).toEqual([])
})

test("links of packed documents lead to packed files", () => {
  const { files } = JSON.parse(read("package.json")) as { readonly files: ReadonlyArray<string> }
  const isPacked = (file: string) => ["README.md", "LICENSE", ...files].includes(file.split(path.sep)[0]!)
  const broken = documents.filter(isPacked).flatMap((document) =>
    linksOf(document)
      .map((link) => link.split("#")[0]!)
      .filter((file) => file !== "" && !isPacked(path.join(path.dirname(document), file)))
      .map((file) => `${document}: ${file}`)
  )
  expect(broken).toEqual([])
})

/** The anchors that GitHub makes from a document's headings. */
const anchorsOf = (document: string): Array<string> =>
  Array.from(read(document).matchAll(/^#+ (.*)$/gm), ([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\- _]/gu, "")
      .replaceAll(" ", "-")
  )

describe("docs/operations.md names every code of a database in the section on what to do", () => {
  const mysqlCodes = (...classes: ReadonlyArray<mysql.FailureClass>) =>
    Array.from(mysql.CODES).flatMap(([code, known]) => (classes.includes(known.class) ? [String(code)] : []))

  const sections: Record<string, ReadonlyArray<string>> = {
    "Nobody has to do anything": mysqlCodes("transient", "busy", "tooMany", "unknown"),
    "Somebody has to do something": [
      ...mysqlCodes("operator"),
      ...Object.keys(mysql.CONNECTING),
      ...Object.values(sqlite.OPERATOR)
    ],
    "Dead letters": [...mysqlCodes("record", "doubtful"), ...Object.values(sqlite.RECORD)]
  }
  test.each(Object.entries(sections))("%s", (heading, codes) => {
    const section = read("docs/operations.md")
      .split(/^## /m)
      .find((text) => text.startsWith(`${heading}\n`))
    const named = new Set(section?.match(/\w+/g))
    expect(codes.length).toBeGreaterThan(5)
    expect(codes.filter((code) => !named.has(code))).toEqual([])
  })
})
