/**
 * The status file, `status.json`: how delivery is going, for other processes.
 *
 * It is advisory: the books are in the cursor and the segments, so it is neither fsynced nor needed.
 */
import type { Option } from "effect"
import { Effect, Schema } from "effect"
import { UploadFailureClass } from "../../schema/Errors.js"
import type { Disk, DiskError } from "../../services/Disk.js"
import { Count, Millis, Pid } from "./fields.js"
import { readText } from "./files.js"

export const StatusFile = Schema.Struct({
  format: Schema.Literal(1),
  /** the owner's process id */
  pid: Pid,
  at: Millis,
  state: Schema.Literal("idle", "delivering", "offline", "needsOperator", "closed"),
  failure: Schema.NullOr(
    Schema.Struct({ class: UploadFailureClass, code: Schema.String, reason: Schema.String })
  ),
  /** consecutive failures */
  failures: Count,
  nextTry: Schema.NullOr(Millis),
  lastDelivery: Schema.NullOr(Millis),
  /** events per second since the previous status */
  rate: Schema.NonNegative.pipe(Schema.finite())
})
export type StatusFile = typeof StatusFile.Type

const Text = Schema.parseJson(StatusFile)

const pathOf = (directory: string) => `${directory}/status.json`

/** The last status that an owner wrote, if there is one. */
export const read = (disk: Disk["Type"], directory: string): Effect.Effect<Option.Option<StatusFile>> =>
  Effect.option(Effect.flatMap(readText(disk, pathOf(directory)), Schema.decode(Text)))

/** Replaces the status: a reader sees the old or the new one, never a part. */
export const write = (
  disk: Disk["Type"],
  directory: string,
  status: StatusFile
): Effect.Effect<void, DiskError> =>
  Effect.gen(function* () {
    const temporary = `${pathOf(directory)}.new`
    yield* Effect.ignore(disk.remove(temporary))
    yield* Effect.scoped(
      Effect.flatMap(disk.open(temporary, "create"), (file) =>
        file.write(Buffer.from(`${Schema.encodeSync(Text)(status)}\n`))
      )
    )
    yield* disk.rename(temporary, pathOf(directory))
  })
