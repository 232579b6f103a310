/** Whose queue it is: as root the command becomes its owner, so that what it writes belongs to the service. */
import { Effect, Option } from "effect"
import * as os from "node:os"
import * as path from "node:path"
import { loadLocks } from "../layers/NodeDisk.js"
import { Disk, type DiskError, type FileInfo } from "../services/Disk.js"
import { Ended, ExitCode } from "./exit.js"

const userName = Option.liftThrowable(() => os.userInfo().username)

// when the command starts: later it may run as the owner
const asker =
  process.env.SUDO_USER ?? Option.getOrElse(userName(), () => `uid ${process.geteuid?.() ?? "unknown"}`)

/** Who decides, for the record: who has called sudo, or else the user. */
export const operator = (): string => `${asker}@${os.hostname()}`

/**
 * Becomes the owner of the queues in these directories, before anything of theirs is touched. Everything that only
 * root may read is to be read before.
 */
export const becomeOwner = (queues: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const user = yield* disk.user
    if (user === undefined) return
    for (const directory of queues) {
      const identity = yield* identityOf(directory)
      const place = yield* disk.info(directory)
      const owner = identity ?? place
      if (owner !== undefined) yield* become(directory, owner, place)
    }
  })

/**
 * The same for a queue that the command may be the first to use. One that has no identity yet belongs to whoever has
 * the directory, or alone may make it; `source` is what it will take in.
 */
export const becomeFirstOwner = (directory: string, source: FileInfo) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const user = yield* disk.user
    if (user === undefined) return
    const identity = yield* identityOf(directory)
    if (identity !== undefined) return yield* becomeOwner([directory])
    const place = yield* disk.info(directory)
    const nearest = place ?? (yield* nearestOf(path.dirname(directory)))
    if (user.uid === 0 && nearest.uid === 0) {
      const isOpen = (nearest.mode & MAY_WRITE.others) !== 0
      if (isOpen || (place === undefined && source.uid !== 0)) return yield* refuseFirst(directory, nearest)
    }
    yield* become(directory, nearest, place)
  })

const MAY_WRITE = { group: 0o020, others: 0o022 }

/** The directory in which one that is missing would be made. */
const nearestOf = (directory: string): Effect.Effect<FileInfo, DiskError, Disk> =>
  Effect.flatMap(Disk, (disk) =>
    Effect.flatMap(disk.info(directory), (info) =>
      info === undefined ? nearestOf(path.dirname(directory)) : Effect.succeed(info)
    )
  )

/** What tells whose queue it is; undefined if it has no identity, or nobody else may look into the directory. */
const identityOf = (directory: string) =>
  Effect.flatMap(Disk, (disk) =>
    Effect.catchIf(
      disk.info(`${directory}/queue.json`),
      ({ code }) => code === "EACCES",
      () => Effect.succeed(undefined)
    )
  )

const become = (directory: string, owner: FileInfo, place: FileInfo | undefined) =>
  Effect.suspend(() => {
    const uid = process.geteuid!()
    if (owner.uid === uid) return Effect.void
    if (uid !== 0) return refuse(directory, owner.uid)
    const become = Effect.try({
      try: () => switchTo(owner, place?.uid === 0 ? [place.gid] : []),
      catch: () => refuse(directory, owner.uid)
    })
    return Effect.zipRight(loadLocks, become)
  })

/** of Node, and absent from its types */
const { initgroups } = process as unknown as { readonly initgroups: (user: number, group: number) => void }

/** A directory of root's is the service's by its group, which a platform gives to processes and not to users. */
const switchTo = (
  { gid, uid }: { readonly uid: number; readonly gid: number },
  groups: ReadonlyArray<number>
) => {
  // first the group: `getgroups` shows it among the others, and root's is not to stay there; last what takes the right to the rest
  process.setgid!(gid)
  try {
    initgroups(uid, gid)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_UNKNOWN_CREDENTIAL") throw error
    // a container's uid mostly has no name, and so no other groups
    process.setgroups!([gid])
  }
  process.setgroups!([...process.getgroups!(), ...groups])
  process.setuid!(uid)
}

/** Nothing was touched: the files would belong to somebody whom the service cannot read, or could not be read. */
export const refuse = (directory: string, uid: number) =>
  new Ended({
    code: ExitCode.needsOperator,
    message: `The queue in ${directory} belongs to uid ${uid}. Run the command as that user: sudo -u '#${uid}' effect-audit ...`
  })

/**
 * What to do about a path that this user may not look at, or use: whoever has it, or the private directory above it, may.
 * undefined if that is this user.
 */
export const adviceOnAccess = (target: string): Effect.Effect<string | undefined, never, Disk> =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const found = yield* Effect.option(disk.info(target))
    if (found._tag === "None" || found.value === undefined) {
      const parent = path.dirname(target)
      return parent === target ? undefined : yield* adviceOnAccess(parent)
    }
    const { uid } = found.value
    if (uid === process.geteuid?.()) return undefined
    return `${target} belongs to uid ${uid}, and this user may not use it. Run the command as that user: sudo -u '#${uid}' effect-audit ...`
  })

/** Nothing was touched: whoever comes first makes the queue his. */
const refuseFirst = (directory: string, { gid, mode }: FileInfo) => {
  const group = (mode & MAY_WRITE.group) === 0 ? "" : ` -g '#${gid}'`
  return new Ended({
    code: ExitCode.needsOperator,
    message:
      `No program has used the queue in ${directory} yet, so nobody can tell whose it is, and files of root's would ` +
      `lock its program out. Start that program once and repeat the command, or run it as the program's user, who ` +
      `must have the directory: sudo -u USER${group} effect-audit ...`
  })
}
