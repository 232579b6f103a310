/** The owner of a queue: as root, the command becomes that user, so that its files belong to the service. */
import { Effect, Option } from "effect"
import * as os from "node:os"
import * as path from "node:path"
import { loadLocks } from "../layers/NodeDisk.js"
import { Disk, type DiskError, type FileInfo } from "../services/Disk.js"
import { Ended, ExitCode } from "./exit.js"

const userName = Option.liftThrowable(() => os.userInfo().username)

// read at the start: later the command may run as the owner
const asker =
  process.env.SUDO_USER ?? Option.getOrElse(userName(), () => `uid ${process.geteuid?.() ?? "unknown"}`)

/** Who decides, for the record: the user who called sudo, or the current one. */
export const operator = (): string => `${asker}@${os.hostname()}`

/** Becomes the owner of these queues. Call it before touching them, and after reading what only root may read. */
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
 * The same for a queue that the command may be the first to use. Without an identity, the queue belongs to the owner of
 * its directory, or of the nearest one above. `source` is the file that it adopts.
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

/** The nearest directory that exists: a missing one would be made in it. */
const nearestOf = (directory: string): Effect.Effect<FileInfo, DiskError, Disk> =>
  Effect.flatMap(Disk, (disk) =>
    Effect.flatMap(disk.info(directory), (info) =>
      info === undefined ? nearestOf(path.dirname(directory)) : Effect.succeed(info)
    )
  )

/** The file that tells who owns the queue; undefined if it does not exist, or this user may not see it. */
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

/** Node has it, and its types do not */
const { initgroups } = process as unknown as { readonly initgroups: (user: number, group: number) => void }

/** If root owns the directory, the service uses it by a group that the platform gives to processes, not to users. */
const switchTo = (
  { gid, uid }: { readonly uid: number; readonly gid: number },
  groups: ReadonlyArray<number>
) => {
  // The group first, so that `getgroups` does not list root's. The user last: it takes the right to the rest.
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

/** Refuses before anything is touched: the service could not read our files, or we could not read its files. */
export const refuse = (directory: string, uid: number) =>
  new Ended({
    code: ExitCode.needsOperator,
    message: `The queue in ${directory} belongs to uid ${uid}. Run the command as that user: sudo -u '#${uid}' effect-audit ...`
  })

/** Advice on a path that belongs to another user, or is in a private directory of one; undefined otherwise. */
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

/** Refuses before anything is touched: the first user of a queue becomes its owner. */
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
