/**
 * The disk: the only service that touches files.
 *
 * layers/NodeDisk.ts implements it with node:fs. layers/MemoryDisk.ts serves the test double, faults and simulated
 * power loss, so that they run the real queue. FileSystem of @effect/platform has no O_DSYNC, no locks and no free
 * space.
 *
 * @since 0.1.0
 */
import { Context, Data } from "effect"
import type { Effect, Scope, Stream } from "effect"

/**
 * A disk call failed. Internal: programs see QueueWriteError, QueueAccessError or QueueOpenError.
 *
 * @category errors
 * @since 0.1.0
 */
export class DiskError extends Data.TaggedError("DiskError")<{
  readonly operation: string
  /** absolute */
  readonly path: string
  /** the error code of the operating system, for example `ENOSPC` */
  readonly code: string
  readonly cause: unknown
}> {
  /** what is wrong and what to do, without a full stop; undefined if the code does not tell */
  get advice(): string | undefined {
    if ([LOCK_LOST, NO_LOCKS, NOT_OURS, WRONG_TYPE].includes(this.code) && this.cause instanceof Error) {
      return `${this.path}: ${this.cause.message}`
    }
    const advice = ADVICE[this.code]
    return advice === undefined ? undefined : `${this.path}: ${advice} (${this.operation}: ${this.code})`
  }

  override get message(): string {
    return this.advice ?? `${this.operation} ${this.path}: ${this.code}`
  }
}

const FULL = "the disk is full, or what this user may take of it: free it"
const FORBIDDEN = "this user may not use it: see whose it is, and whose the directories above it are"

/** Advice for codes of the system that a path, and not a call, is to blame for. */
const ADVICE: Readonly<Record<string, string | undefined>> = {
  EACCES: FORBIDDEN,
  EDQUOT: FULL,
  ELOOP: "its links lead in a circle: see who made them, and remove one",
  EMFILE: "this process has too many files open: raise its limit (ulimit -n)",
  ENAMETOOLONG: "the path is too long: give a shorter one",
  ENFILE: "the system has too many files open: raise its limit",
  ENOSPC: FULL,
  ENOTDIR: "a part of the path is no directory: give another path",
  EPERM: `${FORBIDDEN}, and whether it was made immutable (lsattr)`,
  EROFS: "the file system is mounted for reading only: mount it for writing, or give another path"
}

/**
 * An open file.
 *
 * @category models
 * @since 0.1.0
 */
export interface File {
  readonly path: string
  /** Adds the bytes at the end; durable when it returns, whatever happens to the process or the power. */
  readonly append: (bytes: Uint8Array) => Effect.Effect<void, DiskError>
  /** Adds the bytes at the end, without waiting for the disk: `sync` must follow. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, DiskError>
  /** Overwrites in place; durable when it returns, like `append`. */
  readonly writeAt: (bytes: Uint8Array, offset: number) => Effect.Effect<void, DiskError>
  /** Overwrites in place, without waiting for the disk: `sync` must follow. Only for a file opened as `patch`. */
  readonly overwrite: (bytes: Uint8Array, offset: number) => Effect.Effect<void, DiskError>
  /**
   * Reads `length` bytes from `offset`, or fewer at the end of the file. If `into` is long enough, then the result may
   * be its beginning.
   */
  readonly readAt: (offset: number, length: number, into?: Uint8Array) => Effect.Effect<Uint8Array, DiskError>
  /** bytes */
  readonly size: Effect.Effect<number, DiskError>
  /** Cuts the file to so many bytes. A power cut may undo that until the file is synced. */
  readonly truncate: (length: number) => Effect.Effect<void, DiskError>
  /** Makes everything written to the file durable. */
  readonly sync: Effect.Effect<void, DiskError>
}

/**
 * The facts about a file or directory.
 *
 * @category models
 * @since 0.1.0
 */
export interface FileInfo {
  readonly type: "file" | "directory" | "other"
  /** bytes */
  readonly size: number
  /** permission bits, for example 0o700 */
  readonly mode: number
  /** its user and group; 0 where the system has none */
  readonly uid: number
  readonly gid: number
  /** how many hard links a file has; 1 where the system does not say */
  readonly links: number
}

/**
 * The user of this process.
 *
 * @category models
 * @since 0.1.0
 */
export interface User {
  readonly uid: number
  /** all groups of the user */
  readonly gids: ReadonlyArray<number>
}

/**
 * The code of a DiskError: the path should be a regular file, or a directory, but is something else. The message of the
 * cause says what it is.
 *
 * @category errors
 * @since 0.1.0
 */
export const WRONG_TYPE = "WRONG_TYPE"

/**
 * The code of a DiskError: the file belongs to another user, or has a second hard link. The message of the cause says
 * which.
 *
 * @category errors
 * @since 0.1.0
 */
export const NOT_OURS = "NOT_OURS"

/**
 * The code of a DiskError: the directory, or the file of the lock, was removed, and another process has made it again.
 *
 * @category errors
 * @since 0.1.0
 */
export const LOCK_LOST = "LOCK_LOST"

/**
 * The code of a DiskError: this machine has no kernel locks that this package can take. The message of the cause says
 * what to do.
 *
 * @category errors
 * @since 0.1.0
 */
export const NO_LOCKS = "NO_LOCKS"

/**
 * The file system of a directory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Volume {
  /** bytes that this process may still write */
  readonly freeBytes: number
  /** for example `tmpfs`, `overlay`, `nfs`; `unknown` if the system does not say */
  readonly type: string
  /** whether it is shared over a network, where locks and fsync cannot be trusted */
  readonly network: boolean
}

/**
 * How a file is opened. New files are 0600 whatever the umask.
 *
 * - `append`: writes at the end, and creates the file if need be
 * - `create`: the file must not exist yet
 * - `read`: only reads
 * - `update`: reads and overwrites an existing file in place
 * - `patch`: like `update`, for many writes before one sync
 * - `sync`: makes an existing file durable, and writes nothing
 *
 * @category models
 * @since 0.1.0
 */
export type OpenMode = "append" | "create" | "read" | "update" | "patch" | "sync"

/**
 * The disk.
 *
 * @category services
 * @since 0.1.0
 */
export class Disk extends Context.Tag("effect-audit/Disk")<
  Disk,
  {
    /**
     * Opens a regular file, never blocks and follows no link: anything else fails with {@link WRONG_TYPE}. Two kinds of
     * files can only be read ({@link NOT_OURS}): another user's, except by root, and any with a second hard link.
     */
    readonly open: (path: string, mode: OpenMode) => Effect.Effect<File, DiskError, Scope.Scope>
    /** Creates one directory, 0700 whatever the umask; false if it exists. A link to a directory is an error. */
    readonly makeDirectory: (path: string) => Effect.Effect<boolean, DiskError>
    /** Makes a directory 0700. */
    readonly restrict: (path: string) => Effect.Effect<void, DiskError>
    /** The names in a directory; a link to a directory is an error. */
    readonly list: (path: string) => Effect.Effect<ReadonlyArray<string>, DiskError>
    /** The facts about a path; undefined if nothing is there. A link is `other`, whatever its target is. */
    readonly info: (path: string) => Effect.Effect<FileInfo | undefined, DiskError>
    /** The user of this process; undefined where files have no owner (Windows, memory). */
    readonly user: Effect.Effect<User | undefined>
    readonly rename: (from: string, to: string) => Effect.Effect<void, DiskError>
    readonly remove: (path: string) => Effect.Effect<void, DiskError>
    /** Makes creations, renamings and removals in a directory durable. */
    readonly syncDirectory: (path: string) => Effect.Effect<void, DiskError>
    readonly volume: (path: string) => Effect.Effect<Volume, DiskError>
    /**
     * Takes a kernel lock on the file until the scope closes or the process dies, and writes `content` into it. The
     * file is created if need be. If another owner has the lock, then it returns that owner's content.
     */
    readonly lock: (path: string, content: string) => Effect.Effect<LockResult, DiskError, Scope.Scope>
    /** The content that the owner of a lock wrote; undefined if nobody has the lock. Changes nothing. */
    readonly lockHolder: (path: string) => Effect.Effect<string | undefined, DiskError>
    /**
     * Emits once when it begins, and then whenever the directory may have changed. It fails if the system cannot watch.
     * It may miss changes by another machine, so its user must also look from time to time.
     */
    readonly watch: (path: string) => Stream.Stream<void, DiskError>
    /** The absolute form of a path. */
    readonly resolve: (path: string) => string
    /** The absolute form without links. The path must exist, or be a link to a path that need not. */
    readonly realPath: (path: string) => Effect.Effect<string, DiskError>
  }
>() {}

/**
 * @category models
 * @since 0.1.0
 */
export type LockResult =
  | {
      readonly acquired: true
      /** Whether the file still has its name: if it was removed, another process may hold a new one. */
      readonly isInPlace: Effect.Effect<boolean, DiskError>
    }
  | { readonly acquired: false; readonly content: string }
