/**
 * The points at which a process is killed. Each is a call to the disk, with its operation and file, or a statement to
 * the database, and how far the call is.
 *
 * @module
 */

/** How far the call is. `half`: half of its bytes are written. `written`: all of them, but not fsynced. */
export type Phase = "before" | "half" | "written" | "after"

/** The kinds of files in a queue's directory and of the old file, and of statements that store a batch. */
export type Target =
  | "segment"
  | "cursor"
  | "letters"
  | "heads"
  | "request"
  | "copy"
  | "record"
  | "old"
  | "aside"
  | "directory"
  | "rows"
  | "seal"
  | "commit"
  | "other"

export interface Point {
  readonly name: string
  /** the call, as `hit` in disk.ts and drivers.ts names it */
  readonly call: `${string} ${Target} ${Phase}`
  /** the kill comes at a random one of this many first calls */
  readonly among: number
}

const each = (
  step: string,
  call: `${string} ${Target}`,
  among: number,
  phases: ReadonlyArray<Phase>
): ReadonlyArray<Point> =>
  phases.map((phase) => ({ name: `${step}: ${WORDS[phase]}`, call: `${call} ${phase}`, among }))

const WORDS: Record<Phase, string> = {
  before: "before",
  half: "half written",
  written: "written, not fsynced",
  after: "done"
}

const around: ReadonlyArray<Phase> = ["before", "after"]

/** The calls to the disk that can be pending when a process dies. */
export const points: ReadonlyArray<Point> = [
  ...each("append", "append segment", 20, ["before", "half", "written", "after"]),
  ...each("seal a segment", "close segment", 5, around),
  ...each("create a segment", "create segment", 5, around),
  ...each("sync the directory", "syncDirectory directory", 8, around),
  ...each("write a cursor slot", "writeAt cursor", 10, ["before", "half", "written", "after"]),
  ...each("remove a segment", "remove segment", 5, around),
  ...each("write a dead letter", "write letters", 6, ["before", "half", "after"]),
  ...each("fsync the dead letters", "sync letters", 3, around),
  ...each("carry out a request, the line", "append segment", 4, ["after"]),
  ...each("carry out a request, the decision", "append letters", 4, ["before", "half", "written", "after"]),
  ...each("carry out a request, the blanks", "overwrite letters", 4, ["before", "half", "written", "after"]),
  ...each("carry out a request, the heads", "sync heads", 2, around),
  ...each("carry out a request, the heads' place", "rename letters", 2, around),
  ...each("carry out a request, its removal", "remove request", 2, around),
  ...each("adopt, fsync", "sync old", 1, around),
  ...each("adopt, rename", "rename segment", 1, around),
  ...each("adopt by copy, content", "write copy", 1, ["before", "half", "after"]),
  ...each("adopt by copy, fsync", "sync copy", 1, around),
  ...each("adopt by copy, record", "append record", 1, ["before", "half", "written", "after"]),
  ...each("adopt by copy, record's place", "rename record", 1, around),
  ...each("adopt by copy, old file aside", "rename aside", 1, around),
  ...each("adopt by copy, copy's place", "rename segment", 1, around),
  ...each("adopt by copy, record's removal", "remove record", 1, around)
]

/** The same for the database, if rows and their seal are one transaction. */
export const databasePoints: ReadonlyArray<Point> = [
  ...each("store rows", "send rows", 6, around),
  ...each("store a seal", "send seal", 6, around),
  ...each("commit", "send commit", 6, around)
]
