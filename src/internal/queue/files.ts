/** Files: helpers for reading, replacing and naming them. */
import { Effect, Exit, Scope } from "effect"
import { visible } from "../../schema/Visible.js"
import { type Disk, DiskError, type File, type OpenMode } from "../../services/Disk.js"

type DiskShape = Disk["Type"]

export const isAbsent = (error: DiskError): boolean => error.code === "ENOENT"

/** Whether the disk, or this user's quota, is full. */
export const hasNoRoom = ({ code }: DiskError): boolean => code === "ENOSPC" || code === "EDQUOT"

/** A path, quoted as a word of a bash command in a message; control characters are escaped. */
export const shellWord = (path: string): string => {
  if (/^[\w@%+=:,./-]+$/.test(path)) return path
  if (visible(path) === path) return `'${path.replaceAll("'", `'\\''`)}'`
  const characters = Array.from(path.replaceAll(/[\\']/g, "\\$&"), (character) =>
    visible(character) === character
      ? character
      : `\\U${character.codePointAt(0)!.toString(16).padStart(8, "0")}`
  )
  return `$'${characters.join("")}'`
}

/** What to do about a file with a second hard link. */
export const linkedTwice = (file: string): string => {
  const [name, copy] = [shellWord(file), shellWord(`${file}.copy`)]
  return (
    `it has another name as well, a hard link, whose content would change with it: see who made it, and put a copy in ` +
    `its place (cp -p ${name} ${copy} && mv ${copy} ${name})`
  )
}

/** Opens a file for reading while `use` runs. */
export const withFile = <A>(
  disk: DiskShape,
  path: string,
  use: (file: File) => Effect.Effect<A, DiskError>
): Effect.Effect<A, DiskError> => Effect.scoped(Effect.flatMap(disk.open(path, "read"), use))

/** An open file; its holder closes it. */
export interface Handle {
  readonly file: File
  readonly close: Effect.Effect<void>
}

/** Opens a file that outlives the caller. Uninterruptible, since nobody else would close the file. */
export const openHandle = (disk: DiskShape, path: string, mode: OpenMode): Effect.Effect<Handle, DiskError> =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const file = yield* disk.open(path, mode).pipe(
      Scope.extend(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
    return { file, close: Scope.close(scope, Exit.void) }
  }).pipe(Effect.uninterruptible)

/** The default limit for files that are read whole: those of a queue are smaller. V8 strings end at 512 MiB. */
const MAX_TEXT_BYTES = 64 * 1024 * 1024

/** The code for a file that is too large to be read whole: POSIX EFBIG. */
export const TOO_LARGE = "EFBIG"

export const readText = (
  disk: DiskShape,
  path: string,
  maxBytes = MAX_TEXT_BYTES
): Effect.Effect<string, DiskError> =>
  withFile(disk, path, (file) =>
    Effect.gen(function* () {
      const size = yield* file.size
      if (size > maxBytes) {
        const cause = new Error(`it has ${size} bytes, more than ${maxBytes}`)
        return yield* new DiskError({ operation: "read", path, code: TOO_LARGE, cause })
      }
      return Buffer.from(yield* file.readAt(0, size)).toString("utf8")
    })
  )

/** The text of a record; empty, and so damaged, if the file is too large. */
export const readRecord = (disk: DiskShape, path: string): Effect.Effect<string, DiskError> =>
  Effect.catchIf(
    readText(disk, path),
    ({ code }) => code === TOO_LARGE,
    () => Effect.succeed("")
  )

/** Writes a small file durably, whole or not at all. */
export const replace = (
  disk: DiskShape,
  directory: string,
  path: string,
  text: string
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const temporary = `${path}.new`
    yield* Effect.ignore(disk.remove(temporary))
    yield* Effect.scoped(
      Effect.flatMap(disk.open(temporary, "create"), (file) => file.append(Buffer.from(text)))
    )
    yield* disk.rename(temporary, path)
    yield* disk.syncDirectory(directory)
  })

const NEWLINE = 0x0a

/** Whether a line starts at the offset; the end of the file counts, too. */
export const isLineStart = (
  disk: DiskShape,
  { bytes, path }: { readonly bytes: number; readonly path: string },
  offset: number
): Effect.Effect<boolean, DiskError> =>
  offset === 0 || offset >= bytes
    ? Effect.succeed(true)
    : withFile(disk, path, (file) => Effect.map(file.readAt(offset - 1, 1), ([byte]) => byte === NEWLINE))
