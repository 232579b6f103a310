/**
 * The disk of this machine, with node:fs.
 *
 * @since 0.1.0
 */
import { Effect, Exit, Layer, Scope, Stream } from "effect"
import type * as Native from "fs-native-extensions"
import * as fs from "node:fs"
import * as path from "node:path"
import { linkedTwice, shellWord } from "../internal/queue/files.js"
import { ExecutionStrategy } from "../schema/Effect3.js"
import {
  Disk,
  DiskError,
  type File,
  type FileInfo,
  NO_LOCKS,
  NOT_OURS,
  type OpenMode,
  type User,
  type Volume,
  WRONG_TYPE
} from "../services/Disk.js"

const { constants } = fs

/**
 * With O_DSYNC a write returns when the data, and the size to read them, are on disk (open(2)). That takes one trip
 * through libuv's thread pool instead of two. Only Linux is known to honour it. Elsewhere fsync follows, which on macOS
 * is F_FULLFSYNC (libuv), so that it does not end in the drive's cache.
 */
const DSYNC = process.platform === "linux" ? constants.O_DSYNC : 0

/**
 * Follows no link, does not wait for the other end of a FIFO, and takes no controlling terminal. O_NONBLOCK has no
 * effect on regular files (open(2)). Windows has none of these flags, and lets only administrators make links.
 */
const SAFELY = (["O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY"] as const).reduce(
  (flags, name) => flags | ((constants[name] as number | undefined) ?? 0),
  0
)

const FLAGS: Record<OpenMode | "lock", number> = {
  append: constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | DSYNC | SAFELY,
  create: constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_EXCL | DSYNC | SAFELY,
  lock: constants.O_RDWR | constants.O_CREAT | SAFELY,
  read: constants.O_RDONLY | SAFELY,
  update: constants.O_RDWR | DSYNC | SAFELY,
  patch: constants.O_RDWR | SAFELY,
  // Windows syncs only files that are open for writing
  sync: (process.platform === "win32" ? constants.O_RDWR : constants.O_RDONLY) | SAFELY
}

const DIRECTORY_MODE = 0o700
const FILE_MODE = 0o600

type Callback<A> = (error: NodeJS.ErrnoException | null, value: A) => void

/** A call of node:fs as an Effect. If the caller is interrupted, then the call still goes on in the kernel. */
const call = <A = void>(
  operation: string,
  target: string,
  run: (callback: Callback<A>) => void
): Effect.Effect<A, DiskError> =>
  Effect.async((resume) => {
    run((error, value) =>
      resume(error ? Effect.fail(diskError(operation, target, error)) : Effect.succeed(value))
    )
  })

const diskError = (operation: string, target: string, cause: unknown) => {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code
  return new DiskError({ operation, path: target, code: code ?? "UNKNOWN", cause })
}

/** Writes all bytes: one write(2) may write fewer. */
const writeAll = (fd: number, bytes: Uint8Array, position: number | null, callback: Callback<void>): void => {
  fs.write(fd, bytes, 0, bytes.length, position, (error, written) => {
    if (error !== null) callback(error)
    else if (written === bytes.length) callback(null)
    else if (written === 0) callback(Object.assign(new Error("nothing was written"), { code: "ENOSPC" }))
    else writeAll(fd, bytes.subarray(written), position === null ? null : position + written, callback)
  })
}

const writeDurably = (
  fd: number,
  bytes: Uint8Array,
  position: number | null,
  callback: Callback<void>
): void =>
  writeAll(fd, bytes, position, (error) => {
    if (error !== null) return callback(error)
    if (DSYNC === 0) return fs.fsync(fd, (error) => callback(error ?? stillLinked(fd)))
    callback(stillLinked(fd))
  })

/**
 * Fails if somebody has removed the file, since it would accept writes and lose them. Checked only after the disk has
 * answered: on a file system that hangs, the check would block the program.
 */
const stillLinked = (fd: number): NodeJS.ErrnoException | null => {
  try {
    if (fs.fstatSync(fd).nlink > 0) return null
    return Object.assign(new Error("the file was removed while it was open"), { code: "ENOENT" })
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
}

/**
 * An open descriptor. `close` waits for no call: if one is still in the kernel, then the last of them closes the
 * descriptor. Otherwise the kernel would give its number to another file meanwhile.
 */
class Descriptor {
  private pending = 0
  private closing = false
  constructor(
    readonly path: string,
    readonly fd: number
  ) {}

  call<A = void>(operation: string, run: (callback: Callback<A>) => void): Effect.Effect<A, DiskError> {
    return call<A>(operation, this.path, (callback) => {
      if (this.closing)
        return callback(Object.assign(new Error("the file is closed"), { code: "EBADF" }), undefined as A)
      this.pending++
      run((error, value) => {
        // with a callback, since without one an error would end the program
        if (--this.pending === 0 && this.closing) fs.close(this.fd, () => undefined)
        callback(error, value)
      })
    })
  }

  readonly close = Effect.async<void>((resume) => {
    this.closing = true
    if (this.pending === 0) fs.close(this.fd, () => resume(Effect.void))
    else resume(Effect.void)
  })
}

const openDescriptor = (target: string, flags: number) =>
  Effect.acquireRelease(
    Effect.map(
      call<number>("open", target, (callback) => fs.open(target, flags, FILE_MODE, callback)),
      (fd) => new Descriptor(target, fd)
    ),
    (descriptor) => descriptor.close
  )

/** Opens a regular file, and changes nothing before it is certain that this process may use the file. */
const openFile = (target: string, mode: OpenMode | "lock") =>
  openDescriptor(target, FLAGS[mode]).pipe(
    Effect.tap((descriptor) =>
      descriptor
        .call<fs.Stats>("open", (callback) => fs.fstat(descriptor.fd, callback))
        .pipe(
          Effect.flatMap((stats) => {
            if (!stats.isFile()) return wrongType(target, stats)
            if (mode === "read" || mode === "sync") return Effect.void
            return Effect.zipRight(refuseForeign(target, stats), refuseMoved(target, stats))
          })
        )
    ),
    // opening a link (ELOOP), a socket or a FIFO (ENXIO), or a directory (EISDIR) fails
    Effect.catchIf(
      ({ code }) => code !== WRONG_TYPE && code !== NOT_OURS && code !== "ENOENT",
      (error) =>
        Effect.flatMap(Effect.option(lstat("open", target)), (found) =>
          found._tag === "Some" && !found.value.isFile() ? wrongType(target, found.value) : Effect.fail(error)
        )
    )
  )

const lstat = (operation: string, target: string) =>
  namingLoop(
    target,
    call<fs.Stats>(operation, target, (callback) => fs.lstat(target, callback))
  )

/** Makes an error about circular links name the part of the path that has them. */
const namingLoop = <A>(target: string, effect: Effect.Effect<A, DiskError>): Effect.Effect<A, DiskError> =>
  Effect.catchIf(
    effect,
    ({ code }) => code === "ELOOP",
    (error) => {
      const parts = path.resolve(target).split(path.sep)
      const beginnings = parts.map((_, index) => parts.slice(0, index + 1).join(path.sep) || path.sep)
      const isLoop = (beginning: string) =>
        call<fs.Stats>("stat", beginning, (callback) => fs.stat(beginning, callback)).pipe(
          Effect.match({ onFailure: ({ code }) => code === "ELOOP", onSuccess: () => false })
        )
      return Effect.flatMap(Effect.findFirst(beginnings, isLoop), (found) =>
        diskError(error.operation, found._tag === "Some" ? found.value : target, error.cause)
      )
    }
  )

const wrongType = (target: string, stats: fs.Stats) =>
  diskError(
    "open",
    target,
    Object.assign(
      new Error(
        `it is ${describe(stats)}, and nothing that the queue has made: see who put it there, and move it away`
      ),
      { code: WRONG_TYPE }
    )
  )

const describe = (stats: fs.Stats): string => {
  if (stats.isSymbolicLink()) return "a symbolic link"
  if (stats.isDirectory()) return "a directory"
  if (stats.isFIFO()) return "a FIFO"
  if (stats.isSocket()) return "a socket"
  return stats.isFile() ? "a file" : "a device"
}

const userOn = (platform: NodeJS.Platform): User | undefined =>
  // on Windows, Node invents owners and modes
  platform === "win32" || process.geteuid === undefined
    ? undefined
    : { uid: process.geteuid(), gids: [process.getegid!(), ...process.getgroups!()] }

/**
 * Refuses another user's file, except to root, and a file with a second hard link. A user with rights to this directory
 * may have linked a file here that only we may change.
 */
const refuseForeign = (target: string, { nlink, uid }: fs.Stats): Effect.Effect<void, DiskError> => {
  const refusal = (reason: string) =>
    diskError("open", target, Object.assign(new Error(reason), { code: NOT_OURS }))
  const user = process.geteuid?.()
  if (user !== undefined && user !== 0 && user !== uid) {
    return refusal(
      `it belongs to uid ${uid}, and this process runs as uid ${user}: run chown ${user} ${shellWord(target)}`
    )
  }
  return nlink > 1 ? refusal(linkedTwice(target)) : Effect.void
}

/**
 * Refuses a file that no longer has the name by which it was opened. Another user may have removed a second link
 * between the opening and the check: then a foreign file would look like ours.
 */
const refuseMoved = (target: string, { dev, ino }: fs.Stats): Effect.Effect<void, DiskError> =>
  Effect.flatMap(lstat("open", target), (found) =>
    found.dev === dev && found.ino === ino
      ? refuseForeign(target, found)
      : diskError(
          "open",
          target,
          Object.assign(new Error("another file has its name now"), { code: "ENOENT" })
        )
  )

const makeFile = (descriptor: Descriptor): File => {
  const { fd } = descriptor
  return {
    path: descriptor.path,
    append: (bytes) => descriptor.call("append", (callback) => writeDurably(fd, bytes, null, callback)),
    write: (bytes) => descriptor.call("write", (callback) => writeAll(fd, bytes, null, callback)),
    writeAt: (bytes, offset) =>
      descriptor.call("writeAt", (callback) => writeDurably(fd, bytes, offset, callback)),
    overwrite: (bytes, offset) =>
      descriptor.call("overwrite", (callback) => writeAll(fd, bytes, offset, callback)),
    readAt: (offset, length, into) =>
      // Hot path: the buffer is made inside (bench/README.md#functions-on-properties).
      descriptor.call("read", (callback) => {
        const buffer =
          into !== undefined && into.length >= length
            ? Buffer.from(into.buffer, into.byteOffset, length)
            : Buffer.allocUnsafeSlow(length)
        const readFrom = (filled: number): void =>
          fs.read(fd, buffer, filled, length - filled, offset + filled, (error, count) => {
            if (error !== null) callback(error, buffer)
            else if (count === 0 || filled + count === length)
              callback(null, buffer.subarray(0, filled + count))
            else readFrom(filled + count)
          })
        readFrom(0)
      }),
    size: Effect.map(
      descriptor.call<fs.Stats>("stat", (callback) => fs.fstat(fd, callback)),
      (stats) => stats.size
    ),
    truncate: (length) =>
      descriptor.call("truncate", (callback) => fs.ftruncate(fd, length, callback as fs.NoParamCallback)),
    sync: descriptor.call("sync", (callback) => fs.fsync(fd, callback as fs.NoParamCallback))
  }
}

// the numbers of Linux file systems (statfs(2))
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  0xef53: "ext4",
  0x58465342: "xfs",
  0x9123683e: "btrfs",
  0x2fc12fc1: "zfs",
  0x01021994: "tmpfs",
  0x858458f6: "ramfs",
  0x794c7630: "overlay",
  0x65735546: "fuse",
  0x6969: "nfs",
  0xff534d42: "cifs",
  0xfe534d42: "smb2",
  0x517b: "smb",
  0x01021997: "9p",
  0x00c36400: "ceph",
  0x0bd00bd0: "lustre",
  0x5346414f: "afs",
  0x7461636f: "ocfs2",
  0x01161970: "gfs2",
  0x47504653: "gpfs"
}
const NETWORK = new Set([
  "nfs",
  "cifs",
  "smb2",
  "smb",
  "9p",
  "ceph",
  "lustre",
  "afs",
  "ocfs2",
  "gfs2",
  "gpfs"
])

/** as many links as Linux follows (path_resolution(7)) */
const MAX_LINKS = 40

/** Follows also a link whose target does not exist: the target may come back. */
const realPath = (target: string, links = 0): Effect.Effect<string, DiskError> =>
  Effect.catchIf(
    follow(target),
    ({ code }) => code === "ENOENT" && links < MAX_LINKS,
    (error) =>
      Effect.gen(function* () {
        const directory = yield* follow(path.dirname(target))
        const link = yield* Effect.option(readLink(target))
        if (link._tag === "Some") return yield* realPath(path.resolve(directory, link.value), links + 1)
        return links === 0 ? yield* error : path.join(directory, path.basename(target))
      })
  )

const follow = (target: string) =>
  namingLoop(
    target,
    call<string>("realpath", target, (callback) => fs.realpath(target, callback))
  )

const readLink = (target: string) =>
  call<string>("readlink", target, (callback) => fs.readlink(target, callback))

const mustBeDirectory = (target: string) =>
  Effect.flatMap(lstat("open", target), (stats) =>
    stats.isDirectory() ? Effect.void : wrongType(target, stats)
  )

/** loaded once: a process that has dropped root's rights may not be able to read it again */
let addon: Promise<typeof Native> | undefined

/**
 * The kernel's locks, which Node does not offer, by a native addon. The first lock loads it, so programs that only
 * import this package, or bring their own disk, do not need it.
 */
const native = (target: string): Effect.Effect<typeof Native, DiskError> => {
  const noLocks = (text: string, cause?: unknown) =>
    new DiskError({ operation: "lock", path: target, code: NO_LOCKS, cause: new Error(text, { cause }) })
  if (process.versions.deno !== undefined) return Effect.fail(noLocks(NOT_ON_DENO))
  return Effect.tryPromise({
    try: () => (addon ??= import("fs-native-extensions")),
    catch: (cause) =>
      noLocks(
        `fs-native-extensions, which takes the kernel's locks, cannot be loaded on ${process.platform}-${process.arch}. ` +
          `On Alpine use an image with glibc (node:22-slim); if you bundle, leave fs-native-extensions out of the bundle; ` +
          `otherwise install it again`,
        cause
      )
  })
}

/** Loading it would end the process: Deno lacks functions of libuv to which the addon is linked. */
const NOT_ON_DENO =
  "Deno cannot load fs-native-extensions, which takes the kernel's locks: run this program by Node"

/**
 * Loads the addon for locks, for a process that will drop the right to read it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const loadLocks: Effect.Effect<void> = Effect.ignore(native("the lock"))

/** Whether a refused lock has no owner: an owner's lock is exclusive, while those who only look share theirs. */
const isOnlyLookedAt = ({ tryLock, unlock }: typeof Native, fd: number): boolean => {
  if (!tryLock(fd, { shared: true })) return false
  unlock(fd)
  return true
}

/** Whether the path still leads to the open file. */
const isInPlace = (descriptor: Descriptor): Effect.Effect<boolean, DiskError> =>
  Effect.flatMap(
    descriptor.call<fs.BigIntStats>("stat", (callback) =>
      fs.fstat(descriptor.fd, { bigint: true }, callback)
    ),
    (ours) =>
      call<fs.BigIntStats>("stat", descriptor.path, (callback) =>
        fs.lstat(descriptor.path, { bigint: true }, callback)
      ).pipe(
        Effect.map(({ dev, ino }) => dev === ours.dev && ino === ours.ino),
        Effect.catchIf(
          ({ code }) => code === "ENOENT",
          () => Effect.succeed(false)
        )
      )
  )

/**
 * The identity of a directory, the same for every path to it: through links, mounts, or in another case. Undefined if
 * it does not exist.
 *
 * @category constructors
 * @since 0.1.0
 */
export const identityOf = (target: string): Effect.Effect<string | undefined> =>
  call<fs.BigIntStats>("stat", target, (callback) => fs.stat(target, { bigint: true }, callback)).pipe(
    Effect.map(({ dev, ino }) => `${dev}:${ino}`),
    Effect.orElseSucceed(() => undefined)
  )

/** one second in all, since a look takes microseconds */
const MAX_LOOKS = 100
const LOOK_PAUSE = "10 millis"

/** How much of a lock's file is read, bytes; an owner writes less. */
const OWNER_BYTES = 4096
const beginningOf = (fd: number): string => {
  const bytes = Buffer.alloc(OWNER_BYTES)
  return bytes.toString("utf8", 0, fs.readSync(fd, bytes, 0, OWNER_BYTES, 0))
}

/** Turns the refusal to remove or replace a directory (EISDIR, on macOS EPERM) into {@link WRONG_TYPE}. */
const refusingDirectory = (target: string, effect: Effect.Effect<void, DiskError>) =>
  Effect.catchIf(
    effect,
    ({ code }) => code === "EISDIR" || code === "EPERM",
    (error) =>
      Effect.flatMap(Effect.option(lstat("stat", target)), (found) =>
        found._tag === "Some" && found.value.isDirectory()
          ? wrongType(target, found.value)
          : Effect.fail(error)
      )
  )

const makeDirectory: Disk["Type"]["makeDirectory"] = (target) =>
  call("mkdir", target, (callback) => fs.mkdir(target, DIRECTORY_MODE, callback as fs.NoParamCallback)).pipe(
    // the umask may have removed bits that we need
    Effect.zipRight(
      call("chmod", target, (cb) => fs.chmod(target, DIRECTORY_MODE, cb as fs.NoParamCallback))
    ),
    Effect.as(true),
    Effect.catchIf(
      (error) => error.code === "EEXIST",
      () => Effect.as(mustBeDirectory(target), false)
    )
  )

const info: Disk["Type"]["info"] = (target) =>
  lstat("stat", target).pipe(
    Effect.map((stats): FileInfo => ({
      type: stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "other",
      size: stats.size,
      mode: stats.mode & 0o7777,
      uid: stats.uid,
      gid: stats.gid,
      links: stats.isFile() ? stats.nlink : 1
    })),
    Effect.catchIf(
      (error) => error.code === "ENOENT",
      () => Effect.succeed(undefined)
    )
  )

const lock: Disk["Type"]["lock"] = (target, content) =>
  Effect.gen(function* () {
    // in a scope of its own: a failed try must leave nothing open, since a waiting process tries often
    const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const descriptor = yield* Scope.extend(openFile(target, "lock"), scope)
    const { fd } = descriptor
    const locks = yield* native(target)
    const result = yield* Effect.gen(function* () {
      for (let looks = 0; !locks.tryLock(fd); looks++) {
        if (looks === MAX_LOOKS || !isOnlyLookedAt(locks, fd)) {
          return { acquired: false, content: beginningOf(fd) } as const
        }
        yield* Effect.sleep(LOOK_PAUSE)
      }
      fs.fchmodSync(fd, FILE_MODE)
      fs.ftruncateSync(fd)
      fs.writeSync(fd, content, 0)
      return { acquired: true, isInPlace: isInPlace(descriptor) } as const
    }).pipe(Effect.catchAllDefect((cause) => diskError("lock", target, cause)))
    if (!result.acquired) yield* Scope.close(scope, Exit.void)
    return result
  })

const lockHolder: Disk["Type"]["lockHolder"] = (target) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { fd } = yield* openFile(target, "read")
      const locks = yield* native(target)
      return yield* Effect.try({
        // the only way to ask the kernel is to take the lock: shared, and for microseconds
        try: () => (isOnlyLookedAt(locks, fd) ? undefined : beginningOf(fd)),
        catch: (cause) => diskError("lock", target, cause)
      })
    })
  ).pipe(
    Effect.catchIf(
      (error) => error.code === "ENOENT",
      () => Effect.succeed(undefined)
    )
  )

const watch: Disk["Type"]["watch"] = (target) =>
  Stream.asyncPush<void, DiskError>(
    (emit) =>
      Effect.acquireRelease(
        Effect.try({
          // not persistent: it must not keep the process alive
          try: () => fs.watch(target, { persistent: false }, () => emit.single()),
          catch: (cause) => diskError("watch", target, cause)
        }),
        (watcher) => Effect.sync(() => watcher.close())
      ).pipe(
        Effect.tap((watcher) => {
          watcher.on("error", (cause) => emit.fail(diskError("watch", target, cause)))
          emit.single()
        })
      ),
    // changes that nobody has taken yet count as one
    { bufferSize: 1, strategy: "sliding" }
  )

/**
 * The disk of this machine; by default for the platform of this process.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (platform: NodeJS.Platform = process.platform): Disk["Type"] => ({
  resolve: path.resolve,

  realPath,

  user: Effect.sync(() => userOn(platform)),

  open: (target, mode) =>
    Effect.gen(function* () {
      const descriptor = yield* openFile(target, mode)
      if (mode === "create" || mode === "append") {
        // whatever the umask is, and whoever made the file
        yield* descriptor.call("chmod", (callback) =>
          fs.fchmod(descriptor.fd, FILE_MODE, callback as fs.NoParamCallback)
        )
      }
      return makeFile(descriptor)
    }),

  makeDirectory,

  restrict: (target) =>
    call("chmod", target, (callback) => fs.chmod(target, DIRECTORY_MODE, callback as fs.NoParamCallback)),

  list: (target) =>
    Effect.zipRight(
      mustBeDirectory(target),
      call<Array<string>>("list", target, (callback) => fs.readdir(target, callback))
    ),

  info,

  rename: (from, to) =>
    refusingDirectory(
      to,
      call("rename", from, (callback) => fs.rename(from, to, callback as fs.NoParamCallback))
    ),

  remove: (target) =>
    refusingDirectory(
      target,
      call("remove", target, (callback) => fs.unlink(target, callback as fs.NoParamCallback))
    ),

  syncDirectory: (target) =>
    // Windows cannot open a directory; its file systems keep such changes in order by a journal
    platform === "win32"
      ? Effect.void
      : Effect.scoped(
          Effect.flatMap(
            openDescriptor(target, constants.O_RDONLY),
            (descriptor) => makeFile(descriptor).sync
          )
        ),

  volume: (target) =>
    Effect.map(
      call<fs.StatsFs>("statfs", target, (callback) => fs.statfs(target, callback)),
      (stats): Volume => {
        const type = (process.platform === "linux" ? FILE_SYSTEMS[stats.type] : undefined) ?? "unknown"
        return { freeBytes: stats.bavail * stats.bsize, type, network: NETWORK.has(type) }
      }
    ),

  lock,

  lockHolder,

  watch
})

/**
 * The disk of this machine.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Disk> = Layer.sync(Disk, () => make())
