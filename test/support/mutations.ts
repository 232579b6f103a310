/**
 * The syncs that the promise needs, by their names in test/README.md. Tests leave out their calls, and have to fail.
 * that a test notices.
 *
 * @module
 */
import type { Call } from "../../src/layers/MemoryDisk.js"

const isLetters = (path: string) => path.endsWith("/dead-letter.ndjson")
const isSegment = (path: string) => /\d{20}\.ndjson$/.test(path)
/** The sync right after a change of such an entry. A sync after a later change includes it too, and stays. */
const syncsEntry = (is: (name: string) => boolean) => (call: Call) =>
  call.operation === "syncDirectory" && is(call.unsynced.at(-1) ?? "")

/** The calls of each sync. */
export const mutations: Readonly<Record<string, (call: Call) => boolean>> = {
  append: ({ operation, path, step }) => operation === "append" && step === "sync" && isSegment(path),
  segmentEntry: syncsEntry(isSegment),
  parents: ({ operation, path }) => operation === "syncDirectory" && path === "/",
  tail: ({ mode, operation, path }) => operation === "sync" && mode === "sync" && isSegment(path),
  deadLetter: ({ mode, operation, path }) => operation === "sync" && mode === "append" && isLetters(path),
  deadLetterEntry: syncsEntry((name) => name === "dead-letter.ndjson"),
  decision: ({ operation, path, step }) => operation === "append" && step === "sync" && isLetters(path),
  erasedLetter: ({ mode, operation, path }) => operation === "sync" && mode === "patch" && isLetters(path),
  erasedLine: ({ mode, operation, path }) => operation === "sync" && mode === "patch" && isSegment(path),
  heads: ({ operation, path }) => operation === "sync" && path.endsWith("/dead-letter.ndjson.new"),
  headsEntry: ({ operation, unsynced }) =>
    operation === "syncDirectory" &&
    unsynced.slice(-2).join() === "dead-letter.ndjson.new,dead-letter.ndjson",
  cursor: ({ operation, step }) => operation === "writeAt" && step === "sync",
  replacedEntry: syncsEntry((name) => name === "cursor" || name === "queue.json"),
  identity: ({ operation, path, step }) =>
    operation === "append" && step === "sync" && path.endsWith("/queue.json.new")
}

/** Random histories need it once in thousands, so it has a named one. */
export const sealedEnd = ({ mode, operation, path }: Call): boolean =>
  operation === "sync" && mode === "read" && isSegment(path)

/** The sync of what a killed process decided, or took back. */
export const foundDecision = ({ mode, operation, path }: Call): boolean =>
  operation === "sync" && mode === "append" && isLetters(path)

/** The sync of the first segment's removal, which follows that of its creation. */
export const removal = (): ((call: Call) => boolean) => {
  let isMade = false
  return ({ operation, unsynced }) => {
    const isOfFirst = operation === "syncDirectory" && unsynced.some((name) => /^0{20}\.ndjson$/.test(name))
    const isRemoval = isOfFirst && isMade
    isMade ||= isOfFirst
    return isRemoval
  }
}
