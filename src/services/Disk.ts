/**
 * The only place that touches files. node:fs implements it (layers/NodeDisk.ts); a memory version serves the test
 * double, faults and simulated power loss, so that they run the real queue. FileSystem of @effect/platform has
 * neither O_DSYNC nor a lock nor free space, which is why this exists.
 *
 * @since 0.1.0
 */
import { Context, Data } from "effect"
import type { Effect, Scope, Stream } from "effect"

/**
 * A call to the disk failed. Internal: users see QueueWriteError, QueueAccessError or QueueOpenError.
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
  /** what it is and what to do, without a full stop; undefined for a code that does not tell */
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

/** What codes of the system mean that a path alone can be to blame for. */
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
  /** Adds the bytes at the end; when it returns they are on disk, whatever happens to the process or the power. */
  readonly append: (bytes: Uint8Array) => Effect.Effect<void, DiskError>
  /** Adds the bytes at the end, without waiting for the disk: `sync` must follow. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, DiskError>
  /** Overwrites in place; durable when it returns, like `append`. */
  readonly writeAt: (bytes: Uint8Array, offset: number) => Effect.Effect<void, DiskError>
  /** Overwrites in place, without waiting for the disk: `sync` must follow. Of a file opened as `patch`. */
  readonly overwrite: (bytes: Uint8Array, offset: number) => Effect.Effect<void, DiskError>
  /**
   * Up to `length` bytes from `offset`; fewer only at the end of the file. They may be the beginning of `into`, if it is
   * long enough.
   */
  readonly readAt: (offset: number, length: number, into?: Uint8Array) => Effect.Effect<Uint8Array, DiskError>
  /** bytes */
  readonly size: Effect.Effect<number, DiskError>
  /** Cuts the file off behind so many bytes. A power cut may undo that before the file is synced. */
  readonly truncate: (length: number) => Effect.Effect<void, DiskError>
  /** Makes everything written to the file durable. */
  readonly sync: Effect.Effect<void, DiskError>
}

/**
 * What is known of a file or directory.
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
  /** the user and the group that it belongs to; 0 where the system has none */
  readonly uid: number
  readonly gid: number
  /** how many names it has, if it is a file; 1 where the system does not say */
  readonly links: number
}

/**
 * Who this process is to the file system.
 *
 * @category models
 * @since 0.1.0
 */
export interface User {
  readonly uid: number
  /** all groups that it is in */
  readonly gids: ReadonlyArray<number>
}

/**
 * The code of a DiskError: something stands under the name of a file that is no regular file, or under that of a
 * directory that is none. The message of the cause says what it is.
 *
 * @category errors
 * @since 0.1.0
 */
export const WRONG_TYPE = "WRONG_TYPE"

/**
 * The code of a DiskError: the file belongs to somebody else, or has another name, which may. The message of the cause
 * says so.
 *
 * @category errors
 * @since 0.1.0
 */
export const NOT_OURS = "NOT_OURS"

/**
 * The code of a DiskError: the directory, or the lock's file, was removed, and somebody else has made it anew.
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
 * A file system that holds a directory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Volume {
  /** bytes that this process may still write */
  readonly freeBytes: number
  /** `tmpfs`, `overlay`, `nfs` ... where the system says so; otherwise `unknown` */
  readonly type: string
  /** whether it is shared over a network, where locks and fsync cannot be trusted */
  readonly network: boolean
}

/**
 * How a file is opened: `append` (an existing file is continued), `create` (it must not exist yet), `read`, `update`
 * (existing, read and overwritten in place), `patch` (the same, for many writes before one sync), or `sync` (existing,
 * made durable and not written to). New files are 0600 whatever the umask.
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
     * Opens a regular file, without waiting for anybody, and follows no link: what else stands under the name fails
     * with {@link WRONG_TYPE}. Of another user's file only reading is allowed ({@link NOT_OURS}), but to root. A file
     * that has another name as well is not written to.
     */
    readonly open: (path: string, mode: OpenMode) => Effect.Effect<File, DiskError, Scope.Scope>
    /** Creates one directory, 0700 whatever the umask; false if it is there already. A link to one is none. */
    readonly makeDirectory: (path: string) => Effect.Effect<boolean, DiskError>
    /** Makes a directory 0700. */
    readonly restrict: (path: string) => Effect.Effect<void, DiskError>
    /** The names in a directory; a link to one is none. */
    readonly list: (path: string) => Effect.Effect<ReadonlyArray<string>, DiskError>
    /** undefined if there is nothing of that name; a link is `other`, whatever it points at */
    readonly info: (path: string) => Effect.Effect<FileInfo | undefined, DiskError>
    /** Who this process is; undefined where files belong to nobody in that sense (Windows, memory). */
    readonly user: Effect.Effect<User | undefined>
    readonly rename: (from: string, to: string) => Effect.Effect<void, DiskError>
    readonly remove: (path: string) => Effect.Effect<void, DiskError>
    /** Makes the entries of a directory (creations, renamings, removals in it) durable. */
    readonly syncDirectory: (path: string) => Effect.Effect<void, DiskError>
    readonly volume: (path: string) => Effect.Effect<Volume, DiskError>
    /**
     * Takes a kernel lock on the file until the scope closes or the process dies; false if another owner has it.
     * The file is created if need be and then holds `content`; `content` is absent while nobody wrote it.
     */
    readonly lock: (path: string, content: string) => Effect.Effect<LockResult, DiskError, Scope.Scope>
    /** What the owner of a lock wrote into its file; undefined if nobody has it. Changes nothing. */
    readonly lockHolder: (path: string) => Effect.Effect<string | undefined, DiskError>
    /**
     * Emits once when it watches, and then when something may have changed in the directory. It fails where the system
     * cannot tell, and may miss changes made by another machine: whoever watches looks by itself from time to time.
     */
    readonly watch: (path: string) => Stream.Stream<void, DiskError>
    /** The absolute form of a path. */
    readonly resolve: (path: string) => string
    /** The absolute form without links, for what a user names. It must exist, or be a link to what does not. */
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
