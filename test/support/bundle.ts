/**
 * Child programs as one file each: they start in a third of a second instead of one, which counts when they are
 * killed 50 times.
 *
 * @module
 */
import { build } from "esbuild"
import { createHash } from "node:crypto"
import * as path from "node:path"
import { root } from "./program.js"

/** Bundles a program (a path from the root) and returns the file; what is native stays outside. */
export const bundle = async (file: string): Promise<string> => {
  // of this process alone, since test files run side by side
  const name = createHash("sha256").update(`${file}:${process.pid}`).digest("hex").slice(0, 16)
  const outfile = path.join(root, "node_modules/.cache/effect-audit", `${name}.mjs`)
  await build({
    entryPoints: [path.join(root, file)],
    tsconfig: path.join(root, "tsconfig.json"),
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    sourcemap: "inline",
    external: ["fs-native-extensions", "mysql2", "@libsql/client", "undici", "ws"],
    logLevel: "warning"
  })
  return outfile
}
