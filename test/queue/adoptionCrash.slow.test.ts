/** A crash at each step of adoption: any next start delivers each event of the old file once. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, LogLevel } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as MemoryDisk from "../../src/layers/MemoryDisk.js"
import { type Disk, DiskError, WRONG_TYPE } from "../../src/services/Disk.js"
import { acrossFileSystems, deliver, LATER, LINES, normal } from "../support/adoption.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { nodeDisk, temporaryDirectory } from "../support/queue.js"
import { queueFile } from "../support/reference.js"

const OLD = "/old/audit_queue.ndjson"

/** Writes to the old file as the class does: appends, then fsyncs. Also syncs its directory. */
const writeOld = (disk: Disk["Type"], text: string, end: "synced" | "unsynced" = "synced") =>
  Effect.gen(function* () {
    yield* disk.makeDirectory("/old")
    const file = yield* disk.open(OLD, "append")
    yield* end === "synced" ? file.append(Buffer.from(text)) : file.write(Buffer.from(text))
    yield* disk.syncDirectory("/old")
    yield* disk.syncDirectory("/")
  }).pipe(Effect.scoped, Effect.orDie)

interface Variant {
  readonly end: "kill" | "power"
  /** how much unsynced data survives: 0 nothing, 1 everything, else a random part */
  readonly dice: number
  readonly isFar: boolean
  /** the start after the crash: with the option, without it, or after the old program has written again */
  readonly next: "same" | "withoutOption" | "oldProgram"
  /** the target of the link, if the option names a link */
  readonly link?: string | undefined
}

const LINK = "/program/link.ndjson"

/** The disk with a link to the old file. Nobody may take the link for the file. */
const withLink = (disk: Disk["Type"], to: string): Disk["Type"] => {
  const target = path.posix.resolve(path.posix.dirname(LINK), to)
  const isLink = (file: string) => file === LINK
  const touched = (file: string) =>
    new DiskError({ operation: "touch", path: file, code: WRONG_TYPE, cause: to })
  return {
    ...disk,
    realPath: (file) =>
      isLink(file) ? Effect.orElseSucceed(disk.realPath(target), () => target) : disk.realPath(file),
    info: (file) =>
      isLink(file)
        ? Effect.succeed({ type: "other", size: to.length, mode: 0o777, uid: 0, gid: 0, links: 1 })
        : disk.info(file),
    open: (file, mode) => (isLink(file) ? touched(file) : disk.open(file, mode)),
    rename: (from, to) => (isLink(from) || isLink(to) ? touched(from) : disk.rename(from, to)),
    remove: (file) => (isLink(file) ? touched(file) : disk.remove(file))
  }
}

/** Crashes at the given call of adoption and delivery, starts again, crashes at the end, starts again. */
const crashAt = (
  step: number,
  { dice, end, isFar, link, next }: Variant,
  isLeftOut: (call: MemoryDisk.Call) => boolean = () => false
) =>
  Effect.gen(function* () {
    const memory = MemoryDisk.make()
    let seed = step * 7919 + dice
    const choose = (bound: number) =>
      dice < 2 ? Math.min(dice, bound - 1) : (seed = (seed * 48271) % 0x7fffffff) % bound
    /** the first rename of the old file crosses file systems; the next stays beside it */
    let isCrossing = true
    const far = (call: MemoryDisk.Call): MemoryDisk.Fault | undefined => {
      if (isLeftOut(call)) return { type: "skip" }
      const { operation, path } = call
      if (!isFar || operation !== "rename" || path !== OLD) return undefined
      isCrossing = !isCrossing
      return isCrossing ? undefined : { type: "fail", code: "EXDEV" }
    }
    const startProcess = () =>
      link === undefined ? memory.startProcess() : withLink(memory.startProcess(), link)
    let disk = startProcess()
    yield* writeOld(disk, queueFile)

    const database = slowDatabase()
    let alive = true
    const uploader = { ...database.uploader }
    uploader.upload = (batch) => (alive ? database.uploader.upload(batch) : Effect.never)
    const settings = {
      directory: "/audit",
      adopt: { path: link === undefined ? OLD : LINK },
      minFreeBytes: 0
    }

    let calls = 0
    const reached = yield* Deferred.make<void>()
    const buried = yield* Deferred.make<void>()
    memory.inject((call) => {
      if (calls++ < step) return far(call)
      alive = false
      Deferred.unsafeDone(reached, Exit.void)
      return { type: "wait", until: Deferred.await(buried) }
    })
    const life = yield* Effect.forkDaemon(deliver(settings, { uploader, disk }))
    yield* Effect.raceFirst(Fiber.await(life), Deferred.await(reached))
    const isReached = !alive
    alive = false
    const crash = () => {
      if (end === "kill") memory.kill()
      else memory.cutPower(choose)
      isCrossing = true
      memory.inject(far)
    }
    crash()
    yield* Deferred.succeed(buried, undefined)
    yield* Fiber.interrupt(life)

    const expected = LINES.map(normal)
    disk = startProcess()
    if (next === "oldProgram") {
      yield* writeOld(disk, LATER)
      expected.push(normal(LATER))
    }
    yield* deliver(next === "withoutOption" ? { directory: "/audit", minFreeBytes: 0 } : settings, {
      uploader: database.uploader,
      disk
    })
    crash()
    disk = startProcess()
    const { missing } = yield* deliver(settings, { uploader: database.uploader, disk })
    assert.strictEqual(missing, 0)
    const got = [...database.events.values()].map(({ line }) => JSON.stringify(line))
    assert.deepStrictEqual(
      got.sort(),
      expected.sort(),
      JSON.stringify({ step, end, dice, isFar, next, link })
    )
    return isReached
  })

describe("a crash during adoption", () => {
  const variants: Array<Variant> = []
  for (const isFar of [false, true]) {
    for (const next of ["same", "withoutOption", "oldProgram"] as const) {
      variants.push({ end: "kill", dice: 0, isFar, next })
      for (const dice of [0, 1, 2, 3]) variants.push({ end: "power", dice, isFar, next })
      for (const link of ["../old/audit_queue.ndjson", OLD]) {
        variants.push({ end: "power", dice: 0, isFar, next, link })
      }
    }
  }
  // in ordinary runs each variant takes every twelfth step; together they take all
  const stride = process.env.AUDIT_LONG === "1" ? 1 : 12
  it.live.each(variants.map((variant, index) => ({ ...variant, first: index % stride })))(
    `$end at every step (each ${stride}th from $first): other file system $isFar, dice $dice, next start $next, link $link`,
    ({ first, ...variant }) =>
      Effect.gen(function* () {
        let step = first
        while (yield* crashAt(step, variant)) step += stride
        assert.isAbove(step, 30)
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  /** How many lines are missing if the old program is killed before its fsync, and the power fails after adoption. */
  const missingAfter = (isLeftOut: (call: MemoryDisk.Call) => boolean) =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const settings = { directory: "/audit", adopt: { path: OLD }, minFreeBytes: 0 }
      yield* writeOld(memory.startProcess(), queueFile, "unsynced")
      memory.kill()
      memory.inject((call) => (isLeftOut(call) ? { type: "skip" } : undefined))
      const { use } = yield* openAudit(settings, { disk: memory.startProcess() })
      // its number follows those of the adopted lines
      yield* use("later")
      memory.cutPower(() => 0)
      const { missing } = yield* deliver(settings, { ...slowDatabase(), disk: memory.startProcess() })
      return missing
    }).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None))

  /** How often each line is stored. A kill follows the first start's rename, and a power cut the second start. */
  const storedAfterRename = (isLeftOut: (call: MemoryDisk.Call) => boolean) =>
    Effect.gen(function* () {
      const memory = MemoryDisk.make()
      const settings = { directory: "/audit", adopt: { path: OLD }, minFreeBytes: 0 }
      const database = slowDatabase()
      const start = () => deliver(settings, { ...database, disk: memory.startProcess() })
      yield* writeOld(memory.startProcess(), queueFile)
      memory.inject(({ operation, unsynced }) =>
        operation === "syncDirectory" && moves(unsynced) ? { type: "fail", code: "EIO" } : undefined
      )
      yield* Effect.flip(start())
      memory.kill()
      memory.inject((call) => (isLeftOut(call) ? { type: "skip" } : undefined))
      yield* start()
      memory.cutPower(() => 0)
      memory.inject(() => undefined)
      yield* start()
      return database.events.size / LINES.length
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))

  const isSync = (step: MemoryDisk.Call["step"], path: string, file: string) =>
    step === "sync" && path.startsWith(file)
  const moves = (names: ReadonlyArray<string>) =>
    names.some((name) => name.startsWith("audit_queue.ndjson") || /^\d{20}\.ndjson$/.test(name))
  const syncs: ReadonlyArray<{
    readonly sync: string
    readonly isFar: boolean
    readonly isIt: (call: MemoryDisk.Call) => boolean
  }> = [
    {
      sync: "of the copy's content",
      isFar: true,
      isIt: ({ path, step }) => isSync(step, path, "/audit/adoption.copy")
    },
    {
      sync: "of the entries, after the renames",
      isFar: false,
      isIt: ({ operation, unsynced }) => operation === "syncDirectory" && moves(unsynced)
    }
  ]
  it.live("adopts lines that the old program had not synced", () =>
    Effect.map(
      missingAfter(() => false),
      (missing) => assert.strictEqual(missing, 0)
    )
  )
  it.live("proves that the sync of the old file is needed", () =>
    Effect.map(
      missingAfter(({ operation, path }) => operation === "sync" && path === OLD),
      (missing) => assert.strictEqual(missing, LINES.length)
    )
  )
  it.live("syncs a rename that a killed process made", () =>
    Effect.map(
      storedAfterRename(() => false),
      (times) => assert.strictEqual(times, 1)
    )
  )
  it.live("proves that the sync of the entries before the search for the file is needed", () =>
    Effect.map(
      storedAfterRename(({ operation, unsynced }) => operation === "syncDirectory" && moves(unsynced)),
      (times) => assert.strictEqual(times, 2)
    )
  )
  it.live("loses no line if a power cut takes the record's content and the old file is named again", () =>
    Effect.gen(function* () {
      const variant = { end: "power", dice: 0, isFar: true, next: "same" } as const
      const isIt = ({ path, step }: MemoryDisk.Call) => isSync(step, path, "/audit/adoption.json")
      let step = 30
      while (yield* crashAt(step, variant, isIt)) step++
      assert.isAbove(step, 60)
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )
  it.live.each(syncs)("proves that the sync $sync is needed", ({ isFar, isIt }) =>
    Effect.gen(function* () {
      const variant = { end: "power", dice: 0, isFar, next: "same" } as const
      for (let step = 30; ; step++) {
        const exit = yield* Effect.exit(crashAt(step, variant, isIt))
        if (Exit.isFailure(exit)) return
        assert.isTrue(exit.value, "no crash at any step has done harm")
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )

  it.scopedLive("adopts a file of another file system once, if two instances start together", () =>
    Effect.gen(function* () {
      const real = yield* nodeDisk
      const disk: Disk["Type"] = { ...real, rename: acrossFileSystems(real) }
      for (let round = 0; round < 5; round++) {
        const directory = yield* temporaryDirectory
        const old = path.join(directory, "audit_queue.ndjson")
        fs.writeFileSync(old, queueFile)
        const { events, uploader } = slowDatabase()
        const settings = { directory: `${directory}/audit`, instances: 2, adopt: { path: old } }
        const start = Effect.scoped(
          Effect.gen(function* () {
            const audit = yield* openAudit(settings, { uploader, disk })
            yield* audit.flush
            yield* Effect.sleep("50 millis")
          })
        )
        // the supervisor restarts an instance that failed to start
        yield* Effect.all([Effect.exit(start), Effect.exit(start)], { concurrency: 2 })
        yield* Effect.all([start, start], { concurrency: 2 })
        assert.strictEqual(events.size, 5, "each line once")
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
  )
})
