/**
 * The disk in memory: the test double for users, and the simulator of faults, dead processes and power cuts.
 *
 * It keeps the durable state apart from the page cache, for the content of files and for the entries of directories. A
 * power cut decides for each unsynced change whether it arrived, so later writes may survive earlier ones.
 */
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import { posix } from "node:path"
import {
  type Disk,
  DiskError,
  type File,
  type FileInfo,
  type LockResult,
  type OpenMode,
  WRONG_TYPE
} from "../services/Disk.js"

/** One call to the system. `append` and `writeAt` make two, of which the second has the step `sync`. */
export interface Call {
  readonly operation: Exclude<keyof Disk["Type"] | keyof File, "path" | "size" | "resolve" | "user">
  readonly step: "data" | "sync"
  readonly path: string
  /** for `syncDirectory`: the names whose entries are not synced, in the order of their changes */
  readonly unsynced: ReadonlyArray<string>
  /** for `sync`: how the file was opened */
  readonly mode: OpenMode | undefined
}

/**
 * A fault of a call:
 *
 * - `fail`: it does nothing and fails; after a failed sync the system forgets the unsynced data, as Linux does
 * - `short`: a write stores only so many bytes, then fails
 * - `skip`: it does nothing and succeeds
 * - `wait`: it waits for the Effect; then it works, or fails with the code
 */
export type Fault =
  | { readonly type: "fail"; readonly code: string }
  | { readonly type: "short"; readonly bytes: number; readonly code: string }
  | { readonly type: "skip" }
  | { readonly type: "wait"; readonly until: Effect.Effect<void>; readonly code?: string | undefined }

export interface MemoryDisk {
  /** The disk of a process that starts now. After `kill` or `cutPower` all its calls fail. */
  readonly startProcess: () => Disk["Type"]
  /** Kills the process: its locks and handles are gone, but the page cache stays. */
  readonly kill: () => void
  /** Cuts the power. `choose` returns an integer from 0 to below its argument; 0 means that the change is lost. */
  readonly cutPower: (choose: (bound: number) => number) => void
  /** Sets the function that chooses the fault of each call. */
  readonly inject: (fault: (call: Call) => Fault | undefined) => void
  /** how many bytes fit on the disk; unlimited by default */
  capacity: number
}

/** Bytes that grow in place. */
class Content {
  private buffer = Buffer.alloc(0)
  length = 0

  static of(other: Content): Content {
    const copy = new Content()
    copy.write(0, other.read(0, other.length))
    return copy
  }
  read(offset: number, length: number): Uint8Array {
    return Buffer.from(this.buffer.subarray(offset, Math.min(offset + length, this.length)))
  }
  /** Bytes between the end and `offset` become zero. */
  write(offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length
    if (end > this.buffer.length) {
      const grown = Buffer.alloc(Math.max(end, 2 * this.buffer.length))
      this.buffer.copy(grown)
      this.buffer = grown
    }
    this.buffer.set(bytes, offset)
    this.length = Math.max(this.length, end)
  }
  truncate(length: number): void {
    this.buffer.fill(0, length, this.length)
    this.length = Math.min(this.length, length)
  }
}

interface Write {
  readonly offset: number
  readonly bytes: Uint8Array
}

interface Truncation {
  readonly length: number
}

class FileNode {
  readonly type = "file"
  /** the content that programs see */
  cache = new Content()
  /** the content on the disk */
  durable = new Content()
  /** changes that the next sync makes durable */
  unsynced: Array<Write | Truncation> = []
  /** writes of a failed sync: no later sync makes them durable, but they may have arrived */
  forgotten: Array<Write> = []
  linked = true
  locked = false

  get text(): string {
    return Buffer.from(this.cache.read(0, this.cache.length)).toString("utf8")
  }
  write(offset: number, bytes: Uint8Array): void {
    this.cache.write(offset, bytes)
    this.unsynced.push({ offset, bytes: Uint8Array.from(bytes) })
  }
  truncate(length: number): void {
    this.cache.truncate(length)
    this.unsynced.push({ length })
  }
  sync(): void {
    for (const change of this.unsynced) {
      if ("length" in change) {
        this.durable.truncate(change.length)
        this.forgotten = this.forgotten.map(({ bytes, offset }) => ({
          offset,
          bytes: bytes.subarray(0, Math.max(0, change.length - offset))
        }))
        continue
      }
      const { bytes, offset } = change
      this.durable.write(offset, bytes)
      // overwritten bytes cannot arrive any more
      this.forgotten = this.forgotten.filter(
        (old) => old.offset + old.bytes.length <= offset || offset + bytes.length <= old.offset
      )
    }
    this.unsynced = []
  }
  forget(): void {
    // the file system's journal keeps lengths, which are not data
    this.forgotten.push(...this.unsynced.filter((change) => "bytes" in change))
    this.unsynced = this.unsynced.filter((change) => "length" in change)
  }
  cutPower(choose: (bound: number) => number): void {
    for (const change of [...this.forgotten, ...this.unsynced]) {
      if ("length" in change) {
        if (choose(2) === 1) this.durable.truncate(change.length)
        continue
      }
      const { bytes, offset } = change
      const fate = choose(4)
      if (fate === 0) continue
      const arrived = fate === 1 ? bytes.length : choose(bytes.length + 1)
      this.durable.write(offset, bytes.subarray(0, arrived))
      // the new length may reach the disk before the data
      const hole = fate === 3 ? Math.max(0, offset + bytes.length - this.durable.length) : 0
      this.durable.write(this.durable.length, new Uint8Array(hole))
    }
    this.forgotten = []
    this.unsynced = []
    this.cache = Content.of(this.durable)
    this.locked = false
    this.linked = true
  }
}

class DirectoryNode {
  readonly type = "directory"
  readonly watchers = new Set<() => void>()
  entries = new Map<string, Node>()
  durable = new Map<string, Node>()
}

type Node = FileNode | DirectoryNode

/** Changes of entries that happen together, or not at all. */
type Change = ReadonlyArray<{
  readonly directory: DirectoryNode
  readonly name: string
  readonly node: Node | undefined
}>

const applyTo = (entries: "entries" | "durable", change: Change) => {
  for (const { directory, name, node } of change) {
    if (node === undefined) directory[entries].delete(name)
    else directory[entries].set(name, node)
  }
}

/** Lets others run, as a real disk does: `Effect.yieldNow` does nothing under a scheduler that runs tasks at once. */
const turnMicrotasks = Effect.async<void>((resume) => queueMicrotask(() => resume(Effect.void)))

/** A system error, before it becomes a DiskError. */
class SystemError extends Error {
  constructor(readonly code: string) {
    super(code)
  }
}

/** All files and directories, and the unsynced changes of entries. */
class Tree {
  capacity = Number.POSITIVE_INFINITY
  private readonly root = new DirectoryNode()
  private changes: Array<Change> = []

  find(path: string): Node | undefined {
    return path
      .split("/")
      .filter((name) => name !== "")
      .reduce<Node | undefined>(
        (node, name) => (node?.type === "directory" ? node.entries.get(name) : undefined),
        this.root
      )
  }

  directoryAt(path: string): DirectoryNode {
    const node = this.find(path)
    if (node === undefined) throw new SystemError("ENOENT")
    if (node.type === "file") throw new SystemError("ENOTDIR")
    return node
  }

  fileAt(path: string): FileNode {
    const node = this.find(path)
    if (node === undefined) throw new SystemError("ENOENT")
    if (node.type === "directory") throw new SystemError("EISDIR")
    return node
  }

  openFile(path: string, mode: OpenMode): FileNode {
    if (this.find(path) === undefined && (mode === "append" || mode === "create")) {
      const node = new FileNode()
      this.change([path, node])
      return node
    }
    if (mode === "create") throw new SystemError("EEXIST")
    return this.fileAt(path)
  }

  get files(): ReadonlyArray<FileNode> {
    return filesIn(this.root)
  }

  get freeBytes(): number {
    return this.capacity - this.files.reduce((sum, { cache }) => sum + cache.length, 0)
  }

  /** Sets the nodes of names, or removes names, all at once. */
  change(...entries: ReadonlyArray<readonly [path: string, node: Node | undefined]>): void {
    const change = entries.map(([path, node]) => {
      const directory = this.directoryAt(posix.dirname(path))
      const name = posix.basename(path)
      const before = directory.entries.get(name)
      if (before?.type === "file") before.linked = false
      return { directory, name, node }
    })
    applyTo("entries", change)
    this.changes.push(change)
    for (const { directory } of change) for (const watcher of directory.watchers) watcher()
  }

  /** The names in a directory whose entries are not synced, in the order of their changes. */
  unsyncedIn(path: string): ReadonlyArray<string> {
    const directory = this.find(path)
    return this.changes
      .flat()
      .filter((entry) => entry.directory === directory)
      .map(({ name }) => name)
  }

  syncDirectory(path: string): void {
    const directory = this.directoryAt(path)
    const isHere = (change: Change) => change.some((entry) => entry.directory === directory)
    for (const change of this.changes.filter(isHere)) applyTo("durable", change)
    this.changes = this.changes.filter((change) => !isHere(change))
  }

  cutPower(choose: (bound: number) => number): void {
    for (const change of this.changes) if (choose(2) === 1) applyTo("durable", change)
    this.changes = []
    const restore = (node: Node): void => {
      if (node.type === "file") return node.cutPower(choose)
      node.entries = new Map(node.durable)
      for (const entry of node.entries.values()) restore(entry)
    }
    restore(this.root)
  }
}

const filesIn = (directory: DirectoryNode): ReadonlyArray<FileNode> =>
  [...directory.entries.values()].flatMap((node) => (node.type === "file" ? [node] : filesIn(node)))

/** How a call behaves under faults. */
interface Odd<A> {
  readonly step?: Call["step"]
  readonly unsynced?: ReadonlyArray<string>
  readonly mode?: OpenMode
  readonly skip?: () => A
  readonly short?: (bytes: number) => void
  readonly failed?: () => void
}

/** A process: while it lives, its calls work at once, unless there is a fault. */
class Process {
  constructor(
    readonly tree: Tree,
    readonly isAlive: () => boolean,
    private readonly faultOf: (call: Call) => Fault | undefined
  ) {}

  call<A>(
    operation: Call["operation"],
    path: string,
    run: () => A,
    odd: Odd<A> = {}
  ): Effect.Effect<A, DiskError> {
    const failure = (cause: unknown) => {
      const code = cause instanceof SystemError ? cause.code : "UNKNOWN"
      return new DiskError({ operation, path, code, cause })
    }
    const attempt = Effect.suspend(() =>
      this.isAlive() ? Effect.try({ try: run, catch: failure }) : failure(new SystemError("ESRCH"))
    )
    return Effect.suspend(() => {
      const { mode, step = "data", unsynced = [] } = odd
      const fail = (code: string) =>
        Effect.suspend(() => {
          odd.failed?.()
          return failure(new SystemError(code))
        })
      const fault = this.isAlive() ? this.faultOf({ operation, step, path, unsynced, mode }) : undefined
      switch (fault?.type) {
        case undefined:
          return attempt
        case "wait":
          return Effect.flatMap(fault.until, () =>
            fault.code === undefined || !this.isAlive() ? attempt : fail(fault.code)
          )
        case "skip":
          return odd.skip === undefined ? attempt : Effect.sync(odd.skip)
        case "short":
          odd.short?.(fault.bytes)
          return failure(new SystemError(fault.code))
        case "fail":
          return fail(fault.code)
      }
    }).pipe((effect) => Effect.zipRight(turnMicrotasks, effect))
  }
}

const nothing = () => undefined

const makeFile = (process: Process, path: string, node: FileNode, mode: OpenMode): File => {
  const put = (operation: "append" | "write" | "writeAt" | "overwrite", bytes: Uint8Array, at?: number) => {
    const offset = () => at ?? node.cache.length
    const partly = (count: number) => node.write(offset(), bytes.subarray(0, count))
    const run = () => {
      const growth = Math.max(0, offset() + bytes.length - node.cache.length)
      const free = growth === 0 ? growth : process.tree.freeBytes
      if (free >= growth) return partly(bytes.length)
      partly(Math.max(0, free))
      throw new SystemError("ENOSPC")
    }
    return process.call<void>(operation, path, run, { short: partly, skip: nothing })
  }
  const sync = (operation: "append" | "writeAt" | "sync") =>
    process.call<void>(operation, path, () => node.sync(), {
      step: "sync",
      mode,
      skip: nothing,
      failed: () => node.forget()
    })
  const stillLinked = Effect.suspend(() =>
    node.linked
      ? Effect.void
      : new DiskError({ operation: "append", path, code: "ENOENT", cause: new SystemError("ENOENT") })
  )
  return {
    path,
    append: (bytes) => Effect.all([put("append", bytes), sync("append"), stillLinked], { discard: true }),
    write: (bytes) => put("write", bytes),
    writeAt: (bytes, offset) =>
      Effect.all([put("writeAt", bytes, offset), sync("writeAt"), stillLinked], { discard: true }),
    overwrite: (bytes, offset) => put("overwrite", bytes, offset),
    readAt: (offset, length) => process.call("readAt", path, () => node.cache.read(offset, length)),
    size: Effect.sync(() => node.cache.length),
    truncate: (length) => process.call("truncate", path, () => node.truncate(length)),
    sync: sync("sync")
  }
}

const lock = (
  process: Process,
  path: string,
  content: string
): Effect.Effect<LockResult, DiskError, Scope.Scope> =>
  Effect.gen(function* () {
    const { tree } = process
    const node = yield* process.call("lock", path, () => tree.openFile(path, "append"))
    if (node.locked) return { acquired: false, content: node.text }
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        node.locked = true
      }),
      () =>
        Effect.sync(() => {
          if (process.isAlive()) node.locked = false
        })
    )
    node.cache = new Content()
    node.write(0, Buffer.from(content))
    return { acquired: true, isInPlace: Effect.sync(() => tree.find(path) === node) }
  })

const infoOf = (node: Node): FileInfo => {
  const isFile = node.type === "file"
  return {
    type: node.type,
    size: isFile ? node.cache.length : 0,
    mode: isFile ? 0o600 : 0o700,
    uid: 0,
    gid: 0,
    links: 1
  }
}

const diskOf = (process: Process): Disk["Type"] => {
  const { tree } = process
  return {
    resolve: (path) => posix.resolve("/", path),
    realPath: (path) =>
      process.call("realPath", path, () => {
        if (tree.find(path) === undefined) throw new SystemError("ENOENT")
        return path
      }),
    user: Effect.succeed(undefined),
    restrict: (path) => process.call("restrict", path, () => void tree.directoryAt(path)),
    open: (path, mode) =>
      Effect.map(
        process.call("open", path, () => tree.openFile(path, mode)),
        (node) => makeFile(process, path, node, mode)
      ),
    makeDirectory: (path) =>
      process.call("makeDirectory", path, () => {
        const found = tree.find(path)
        if (found?.type === "file") throw new SystemError(WRONG_TYPE)
        if (found !== undefined) return false
        tree.change([path, new DirectoryNode()])
        return true
      }),
    list: (path) => process.call("list", path, () => [...tree.directoryAt(path).entries.keys()]),
    info: (path) =>
      process.call("info", path, () => {
        const node = tree.find(path)
        return node === undefined ? undefined : infoOf(node)
      }),
    rename: (from, to) =>
      process.call("rename", from, () => {
        const node = tree.fileAt(from)
        tree.change([from, undefined], [to, node])
        node.linked = true
      }),
    remove: (path) =>
      process.call("remove", path, () => {
        tree.fileAt(path)
        tree.change([path, undefined])
      }),
    syncDirectory: (path) =>
      Effect.suspend(() =>
        process.call<void>("syncDirectory", path, () => tree.syncDirectory(path), {
          step: "sync",
          unsynced: tree.unsyncedIn(path),
          skip: nothing
        })
      ),
    watch: (path) =>
      Stream.asyncPush<void, DiskError>(
        (emit) => {
          const watcher = () => void emit.single()
          return Effect.acquireRelease(
            process.call("watch", path, () => {
              const { watchers } = tree.directoryAt(path)
              watchers.add(watcher)
              watcher()
              return watchers
            }),
            (watchers) => Effect.sync(() => watchers.delete(watcher))
          )
        },
        { bufferSize: 1, strategy: "sliding" }
      ),
    volume: (path) =>
      process.call("volume", path, () => ({
        freeBytes: Math.max(0, tree.freeBytes),
        type: "memory",
        network: false
      })),
    lock: (path, content) => lock(process, path, content),
    lockHolder: (path) =>
      process.call("lock", path, () => {
        const node = tree.find(path)
        return node?.type === "file" && node.locked ? node.text : undefined
      })
  }
}

export const make = (): MemoryDisk => {
  const tree = new Tree()
  let lives = 0
  let faultOf: (call: Call) => Fault | undefined = () => undefined
  return {
    startProcess: () => {
      const life = lives
      return diskOf(
        new Process(
          tree,
          () => life === lives,
          (call) => faultOf(call)
        )
      )
    },
    kill: () => {
      lives++
      for (const file of tree.files) file.locked = false
    },
    cutPower: (choose) => {
      lives++
      tree.cutPower(choose)
    },
    inject: (fault) => {
      faultOf = fault
    },
    get capacity() {
      return tree.capacity
    },
    set capacity(bytes) {
      tree.capacity = bytes
    }
  }
}
