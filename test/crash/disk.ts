/**
 * The real disk, which kills the process at one of the points in points.ts.
 *
 * @module
 */
import { Effect, Layer } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import { Disk, DiskError, type File } from "../../src/services/Disk.js"
import type { Phase, Target } from "./points.js"

const targetOf = (file: string): Target => {
  const name = path.basename(file)
  if (/^\d{20}\.ndjson$/.test(name)) return "segment"
  if (/^cursor/.test(name)) return "cursor"
  if (name === "dead-letter.ndjson") return "letters"
  if (name === "dead-letter.ndjson.new") return "heads"
  if (path.basename(path.dirname(file)) === "requests") return "request"
  if (name === "adoption.copy") return "copy"
  if (name.startsWith("adoption.json")) return "record"
  if (name.endsWith(".adopted")) return "aside"
  if (name === "old.ndjson") return "old"
  return "other"
}

/** Kills this process when `isNow` is true. `far`: the old file is on another file system. */
export const layer = (options: { readonly isNow: (call: string) => boolean; readonly far: boolean }) => {
  const { isNow } = options
  const die = (): never => {
    process.kill(process.pid, "SIGKILL")
    for (;;);
  }

  const hit = (operation: string, target: Target, phase: Phase) =>
    Effect.sync(() => {
      if (isNow(`${operation} ${target} ${phase}`)) die()
    })

  const around = <A, E, R>(operation: string, target: Target, effect: Effect.Effect<A, E, R>) =>
    hit(operation, target, "before").pipe(
      Effect.zipRight(effect),
      Effect.tap(() => hit(operation, target, "after"))
    )

  /** A write, which may stop in the middle, or between the write and its fsync. */
  const writing = (
    operation: string,
    file: string,
    bytes: Uint8Array,
    at: number | undefined,
    effect: Effect.Effect<void, DiskError>
  ) => {
    const target = targetOf(file)
    const part = (phase: Phase, count: number) =>
      Effect.sync(() => {
        if (!isNow(`${operation} ${target} ${phase}`)) return
        // no O_DSYNC here: the bytes are only in the page cache
        const plain = fs.openSync(file, at === undefined ? "a" : "r+")
        fs.writeSync(plain, bytes, 0, count, at ?? null)
        die()
      })
    return part("half", bytes.length >> 1).pipe(
      Effect.zipRight(part("written", bytes.length)),
      Effect.zipRight(around(operation, target, effect))
    )
  }

  const wrapFile = (file: File): File => ({
    ...file,
    append: (bytes) => writing("append", file.path, bytes, undefined, file.append(bytes)),
    write: (bytes) => writing("write", file.path, bytes, undefined, file.write(bytes)),
    writeAt: (bytes, offset) => writing("writeAt", file.path, bytes, offset, file.writeAt(bytes, offset)),
    overwrite: (bytes, offset) =>
      writing("overwrite", file.path, bytes, offset, file.overwrite(bytes, offset)),
    sync: around("sync", targetOf(file.path), file.sync)
  })

  const wrap = (disk: Disk["Type"]): Disk["Type"] => ({
    ...disk,
    open: (file, mode) =>
      Effect.gen(function* () {
        const target = targetOf(file)
        const isWriting = mode === "create" || mode === "append"
        // finalizers run in reverse order
        if (isWriting) yield* Effect.addFinalizer(() => hit("close", target, "after"))
        const opened = wrapFile(yield* around(mode, target, disk.open(file, mode)))
        if (isWriting) yield* Effect.addFinalizer(() => hit("close", target, "before"))
        return opened
      }),
    rename: (from, to) => {
      if (options.far && targetOf(from) === "old" && targetOf(to) === "segment") {
        return new DiskError({ operation: "rename", path: from, code: "EXDEV", cause: new Error("EXDEV") })
      }
      return around("rename", targetOf(to), disk.rename(from, to))
    },
    remove: (file) => around("remove", targetOf(file), disk.remove(file)),
    syncDirectory: (directory) => around("syncDirectory", "directory", disk.syncDirectory(directory))
  })

  return Layer.effect(Disk, Effect.map(Disk, wrap)).pipe(Layer.provide(NodeDisk.layer))
}
