/**
 * A Disk in memory: the test double of users, and the simulator of faults, dead processes and power cuts.
 *
 * It keeps what reached the disk apart from what is in the page cache only, for the content of files as well as for
 * the entries of directories. A power cut decides for each unsynced thing by itself whether it arrived, so that
 * later writes may survive earlier ones.
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

/** One call to the system; `append` and `writeAt` make two, the second of them the `sync`. */
export interface Call {
  readonly operation: Exclude<keyof Disk["Type"] | keyof File, "path" | "size" | "resolve" | "user">
  readonly step: "data" | "sync"
  readonly path: string
  /** of `syncDirectory`: the names whose entries are not synced, in the order of their changes */
  readonly unsynced: ReadonlyArray<string>
  /** of `sync`: how the file was opened */
  readonly mode: OpenMode | undefined
}

/**
 * What goes wrong with a call:
 *
 * - `fail`: it does nothing; of a sync: the system forgets that the data are not on disk, as Linux does
 * - `short`: of a write, only so many bytes arrive before it fails
 * - `skip`: it claims success and does nothing
 * - `wait`: it is not answered before the Effect ends; then it works, or fails with the code
 */
export type Fault =
  | { readonly type: "fail"; readonly code: string }
  | { readonly type: "short"; readonly bytes: number; readonly code: string }
  | { readonly type: "skip" }
  | { readonly type: "wait"; readonly until: Effect.Effect<void>; readonly code?: string | undefined }

export interface MemoryDisk {
  /** The disk as a process sees it that starts now. It answers to nothing any more after `kill` or `cutPower`. */
  readonly startProcess: () => Disk["Type"]
  /** The process dies: its locks and handles are gone, the page cache stays. */
  readonly kill: () => void
  /**
   * The power fails. `choose` returns an integer from 0 to below its argument; 0 means that nothing unsynced
   * arrived.
   */
  readonly cutPower: (choose: (bound: number) => number) => void
  /** Asked before each call; replaces the one before. */
  readonly inject: (fault: (call: Call) => Fault | undefined) => void
  /** how many bytes of files fit; without limit by default */
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
  /** What lies between the end and `offset` becomes zero. */
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
  /** as programs see it */
  cache = new Content()
  /** as it stands on the disk */
  durable = new Content()
  /** what the next sync brings there */
  unsynced: Array<Write | Truncation> = []
  /** of a failed sync: no later one cares for it, but it may have arrived */
  forgotten: Array<Write> = []
  linked = true
  locked = false

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
      // what was overwritten cannot arrive any more
      this.forgotten = this.forgotten.filter(
        (old) => old.offset + old.bytes.length <= offset || offset + bytes.length <= old.offset
      )
    }
    this.unsynced = []
  }
  forget(): void {
    // a length is not data: the journal of the file system keeps it
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
      // the new length may be on the disk before the data are
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

/** A change of entries that happens whole or not at all. */
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

/** Like a disk, whoever calls: `Effect.yieldNow` lets nobody in where a scheduler runs everything at once. */
const letOthersIn = Effect.async<void>((resume) => queueMicrotask(() => resume(Effect.void)))

/** The code of an error of the system, on its way to a DiskError. */
class SystemError extends Error {
  constructor(readonly code: string) {
    super(code)
  }
}

export const make = (): MemoryDisk => {
  const root = new DirectoryNode()
  let changes: Array<Change> = []
  let process = 0
  let faultOf: (call: Call) => Fault | undefined = () => undefined

  // ------------------------------------------------------------------------------------------------------- entries

  const find = (path: string): Node | undefined =>
    path
      .split("/")
      .filter((name) => name !== "")
      .reduce<Node | undefined>(
        (node, name) => (node?.type === "directory" ? node.entries.get(name) : undefined),
        root
      )

  const directoryAt = (path: string): DirectoryNode => {
    const node = find(path)
    if (node === undefined) throw new SystemError("ENOENT")
    if (node.type === "file") throw new SystemError("ENOTDIR")
    return node
  }

  const fileAt = (path: string): FileNode => {
    const node = find(path)
    if (node === undefined) throw new SystemError("ENOENT")
    if (node.type === "directory") throw new SystemError("EISDIR")
    return node
  }

  const entryOf = (path: string, node: Node | undefined): Change[number] => {
    const directory = directoryAt(posix.dirname(path))
    const name = posix.basename(path)
    const before = directory.entries.get(name)
    if (before?.type === "file") before.linked = false
    return { directory, name, node }
  }

  const change = (...entries: Change) => {
    applyTo("entries", entries)
    changes.push(entries)
    for (const { directory } of entries) for (const watcher of directory.watchers) watcher()
  }

  const openNode = (path: string, mode: Parameters<Disk["Type"]["open"]>[1]): FileNode => {
    if (find(path) === undefined && (mode === "append" || mode === "create")) {
      const node = new FileNode()
      change(entryOf(path, node))
      return node
    }
    if (mode === "create") throw new SystemError("EEXIST")
    return fileAt(path)
  }

  const filesIn = (directory: DirectoryNode): ReadonlyArray<FileNode> =>
    [...directory.entries.values()].flatMap((node) => (node.type === "file" ? [node] : filesIn(node)))

  const freeBytes = () => memory.capacity - filesIn(root).reduce((sum, { cache }) => sum + cache.length, 0)

  // ------------------------------------------------------------------------------------------------- one process

  const startProcess = (): Disk["Type"] => {
    const self = process

    /** One call: `run` happens at once or not at all, unless a fault says otherwise. */
    const call = <A>(
      operation: Call["operation"],
      path: string,
      run: () => A,
      odd: {
        readonly step?: Call["step"]
        readonly unsynced?: ReadonlyArray<string>
        readonly mode?: OpenMode
        readonly skip?: () => A
        readonly short?: (bytes: number) => void
        readonly failed?: () => void
      } = {}
    ): Effect.Effect<A, DiskError> => {
      const failure = (cause: unknown) => {
        const code = cause instanceof SystemError ? cause.code : "UNKNOWN"
        return new DiskError({ operation, path, code, cause })
      }
      const attempt = Effect.suspend(() =>
        self === process ? Effect.try({ try: run, catch: failure }) : failure(new SystemError("ESRCH"))
      )
      return Effect.suspend(() => {
        const { mode, step = "data", unsynced = [] } = odd
        const fail = (code: string) =>
          Effect.suspend(() => {
            odd.failed?.()
            return failure(new SystemError(code))
          })
        const fault = self === process ? faultOf({ operation, step, path, unsynced, mode }) : undefined
        switch (fault?.type) {
          case undefined:
            return attempt
          case "wait":
            return Effect.flatMap(fault.until, () =>
              fault.code === undefined || self !== process ? attempt : fail(fault.code)
            )
          case "skip":
            return odd.skip === undefined ? attempt : Effect.sync(odd.skip)
          case "short":
            odd.short?.(fault.bytes)
            return failure(new SystemError(fault.code))
          case "fail":
            return fail(fault.code)
        }
      }).pipe((effect) => Effect.zipRight(letOthersIn, effect))
    }

    const nothing = () => undefined

    const makeFile = (path: string, node: FileNode, mode: OpenMode): File => {
      const put = (
        operation: "append" | "write" | "writeAt" | "overwrite",
        bytes: Uint8Array,
        at?: number
      ) => {
        const offset = () => at ?? node.cache.length
        const partly = (count: number) => node.write(offset(), bytes.subarray(0, count))
        const run = () => {
          const growth = Math.max(0, offset() + bytes.length - node.cache.length)
          const free = growth === 0 ? growth : freeBytes()
          if (free >= growth) return partly(bytes.length)
          partly(Math.max(0, free))
          throw new SystemError("ENOSPC")
        }
        return call<void>(operation, path, run, { short: partly, skip: nothing })
      }
      const sync = (operation: "append" | "writeAt" | "sync") =>
        call<void>(operation, path, () => node.sync(), {
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
        readAt: (offset, length) => call("readAt", path, () => node.cache.read(offset, length)),
        size: Effect.sync(() => node.cache.length),
        truncate: (length) => call("truncate", path, () => node.truncate(length)),
        sync: sync("sync")
      }
    }

    const syncDirectory = (path: string) =>
      Effect.suspend(() => {
        const directory = find(path)
        const isHere = (entry: Change[number]) => entry.directory === directory
        const run = () => {
          directoryAt(path)
          for (const entries of changes.filter((entries) => entries.some(isHere))) applyTo("durable", entries)
          changes = changes.filter((entries) => !entries.some(isHere))
        }
        const unsynced = changes.flat().filter(isHere)
        return call<void>("syncDirectory", path, run, {
          step: "sync",
          unsynced: unsynced.map(({ name }) => name),
          skip: nothing
        })
      })

    const lock = (path: string, content: string): Effect.Effect<LockResult, DiskError, Scope.Scope> =>
      Effect.gen(function* () {
        const node = yield* call("lock", path, () => openNode(path, "append"))
        if (node.locked) {
          const owner = node.cache.read(0, node.cache.length)
          return { acquired: false, content: Buffer.from(owner).toString("utf8") }
        }
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            node.locked = true
          }),
          () =>
            Effect.sync(() => {
              if (self === process) node.locked = false
            })
        )
        node.cache = new Content()
        node.write(0, Buffer.from(content))
        const isInPlace = Effect.sync(() => find(path) === node)
        return { acquired: true, isInPlace }
      })

    return {
      resolve: (path) => posix.resolve("/", path),
      realPath: (path) =>
        call("realPath", path, () => {
          if (find(path) === undefined) throw new SystemError("ENOENT")
          return path
        }),
      user: Effect.succeed(undefined),
      restrict: (path) => call("restrict", path, () => void directoryAt(path)),
      open: (path, mode) =>
        Effect.map(
          call("open", path, () => openNode(path, mode)),
          (node) => makeFile(path, node, mode)
        ),
      makeDirectory: (path) =>
        call("makeDirectory", path, () => {
          const found = find(path)
          if (found?.type === "file") throw new SystemError(WRONG_TYPE)
          if (found !== undefined) return false
          change(entryOf(path, new DirectoryNode()))
          return true
        }),
      list: (path) => call("list", path, () => [...directoryAt(path).entries.keys()]),
      info: (path) =>
        call("info", path, (): FileInfo | undefined => {
          const node = find(path)
          if (node === undefined) return undefined
          const isFile = node.type === "file"
          return {
            type: node.type,
            size: isFile ? node.cache.length : 0,
            mode: isFile ? 0o600 : 0o700,
            uid: 0,
            gid: 0,
            links: 1
          }
        }),
      rename: (from, to) =>
        call("rename", from, () => {
          const node = fileAt(from)
          change(entryOf(from, undefined), entryOf(to, node))
          node.linked = true
        }),
      remove: (path) =>
        call("remove", path, () => {
          fileAt(path)
          change(entryOf(path, undefined))
        }),
      syncDirectory,
      watch: (path) =>
        Stream.asyncPush<void, DiskError>(
          (emit) => {
            const watcher = () => void emit.single()
            return Effect.acquireRelease(
              call("watch", path, () => {
                const { watchers } = directoryAt(path)
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
        call("volume", path, () => ({ freeBytes: Math.max(0, freeBytes()), type: "memory", network: false })),
      lock,
      lockHolder: (path) =>
        call("lock", path, () => {
          const node = find(path)
          if (node?.type !== "file" || !node.locked) return undefined
          return Buffer.from(node.cache.read(0, node.cache.length)).toString("utf8")
        })
    }
  }

  const kill = () => {
    process++
    for (const file of filesIn(root)) file.locked = false
  }

  const memory: MemoryDisk = {
    startProcess,
    kill,
    cutPower: (choose) => {
      process++
      for (const entries of changes) if (choose(2) === 1) applyTo("durable", entries)
      changes = []
      const restore = (node: Node): void => {
        if (node.type === "file") return node.cutPower(choose)
        node.entries = new Map(node.durable)
        for (const entry of node.entries.values()) restore(entry)
      }
      restore(root)
    },
    inject: (fault) => {
      faultOf = fault
    },
    capacity: Number.POSITIVE_INFINITY
  }
  return memory
}
