/**
 * A backlog on disk, made once by the package itself, and copies of it.
 *
 * @module
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { valuesOf } from "./limits.js"
import * as ours from "./ours.js"

export interface Backlog {
  readonly events: number
  readonly directory: string
  /** its segments, in order */
  readonly segments: ReadonlyArray<string>
  /** A queue with the same backlog; the copies share the segments, which nobody ever writes to. */
  readonly copy: () => string
}

/** Appends so many events while the database is down. */
export const backlog = async (root: string, events: number): Promise<Backlog> => {
  const directory = path.join(root, `backlog-${events}`)
  if (!fs.existsSync(directory)) {
    const log = await ours.open(directory)
    await log.run(ours.fill(events))
    await log.close()
  }
  const names = fs.readdirSync(directory)
  const isSegment = (name: string) => /^\d+\.ndjson$/.test(name)
  return {
    events,
    directory,
    segments: names
      .filter(isSegment)
      .sort()
      .map((name) => path.join(directory, name)),
    copy: () => {
      const copy = fs.mkdtempSync(path.join(root, "queue-"))
      for (const name of names.filter((name) => fs.statSync(path.join(directory, name)).isFile())) {
        const [from, to] = [path.join(directory, name), path.join(copy, name)]
        if (isSegment(name)) fs.linkSync(from, to)
        else fs.copyFileSync(from, to)
      }
      return copy
    }
  }
}

/** The events as the reference keeps them: one file, without our two keys. */
export const asReferenceFile = ({ segments }: Backlog, file: string): void => {
  const text = segments.map((segment) => fs.readFileSync(segment, "utf8")).join("")
  fs.writeFileSync(file, text.replace(/"event_id":"[^"]*",/g, ""))
}

/** The events as LOAD DATA takes them: tab-separated, the id in hexadecimal. */
export const asTabSeparated = ({ segments }: Backlog, file: string): void => {
  const lines = segments.flatMap((segment) => fs.readFileSync(segment, "utf8").trimEnd().split("\n"))
  const text = lines.map((line) =>
    valuesOf(line)
      .map((value) =>
        value === null ? "\\N" : Buffer.isBuffer(value) ? value.toString("hex") : String(value)
      )
      .join("\t")
  )
  fs.writeFileSync(file, text.join("\n") + "\n")
}
