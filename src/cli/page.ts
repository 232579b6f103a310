/** The page of `serve`: the files in `page/` as one document. */
import { createHash } from "node:crypto"
import * as fs from "node:fs"

const read = (name: string) => fs.readFileSync(new URL(`./page/${name}`, import.meta.url), "utf8")

const SCRIPTS = ["page.js", "events.js"].map((name) => ({ name, text: read(name) }))

const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`

/** Only the scripts of the page run. Styles may be inline, since the scripts set some. */
export const POLICY = [
  "default-src 'none'",
  `script-src ${SCRIPTS.map(({ text }) => hash(text)).join(" ")}`,
  "style-src 'unsafe-inline'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'"
].join("; ")

const withScripts = (document: string): string =>
  SCRIPTS.reduce(
    (text, script) =>
      text.replace(`<script src="${script.name}"></script>`, () => `<script>${script.text}</script>`),
    document
  )

/** One document: the policy lets the page fetch nothing, not even its own files. */
export const page = withScripts(
  read("page.html").replace(
    '<link rel="stylesheet" href="page.css" />',
    () => `<style>${read("page.css")}</style>`
  )
)
