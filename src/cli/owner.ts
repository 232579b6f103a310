/** Whose queue it is: as root the command becomes its owner, so that what it writes belongs to the service. */
import { Effect, Option } from "effect"
import * as os from "node:os"
import { Disk } from "../services/Disk.js"
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
      // one that has no identity yet belongs to whoever has the directory, or will make it
      const identity = Effect.catchIf(
        disk.info(`${directory}/queue.json`),
        // nobody else may look into it
        ({ code }) => code === "EACCES",
        () => Effect.succeed(undefined)
      )
      const place = yield* disk.info(directory)
      const owner = (yield* identity) ?? place
      const { uid } = (yield* disk.user) ?? user
      if (owner === undefined || owner.uid === uid) continue
      if (uid !== 0) return yield* refuse(directory, owner.uid)
      yield* Effect.try({
        try: () => switchTo(owner, place?.uid === 0 ? [place.gid] : []),
        catch: () => refuse(directory, owner.uid)
      })
    }
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
