/**
 * The queue file of the Python class. The class writes it now if python3 and its source are available
 * (AUDIT_REFERENCE, or beside this repository). Otherwise it is the fixture, which the class wrote before.
 *
 * @module
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { root } from "./program.js"

const source = process.env.AUDIT_REFERENCE ?? path.join(root, "../shared/reference/audit_logger.py")

const written = (): string | undefined => {
  if (!fs.existsSync(source)) return undefined
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "audit-reference-"))
  try {
    const queue = path.join(directory, "queue.ndjson")
    const script = path.join(root, "test/fixtures/reference.py")
    const { status } = spawnSync("python3", ["-B", script, source, queue], { cwd: directory })
    return status === 0 ? fs.readFileSync(queue, "utf8") : undefined
  } finally {
    fs.rmSync(directory, { recursive: true })
  }
}

const live = written()

/** Whether the Python class itself has run. */
export const isLive = live !== undefined

/** Five events: two uses, two equal logins, and a login without fields. */
export const queueFile: string =
  live ?? fs.readFileSync(path.join(root, "test/fixtures/audit_queue.ndjson"), "utf8")
