/** `effect-audit doctor`: checks everything that delivery needs, one line each. */
import { Effect, Option } from "effect"
import { EPHEMERAL } from "../internal/queue/directory.js"
import { lastSealOf, ownerOf, queuesIn } from "../internal/queue/inspect.js"
import * as requests from "../internal/queue/requests.js"
import { Disk } from "../services/Disk.js"
import { Command } from "./effectCli.js"
import { endWith, ExitCode } from "./exit.js"
import type { Finding } from "./findings.js"
import { describeFinding, failure, ok, warning } from "./findings.js"
import { counted, formatBytes } from "./format.js"
import { loadDoctor } from "./mysql.js"
import {
  activity,
  database,
  databaseOf,
  directory,
  events,
  json,
  kindsOf,
  settingsOf,
  sqlite,
  tablesOf,
  wrongKeyOf
} from "./settings.js"
import { loadSqliteDoctor } from "./sqlite.js"
import { describeSeal, FORKED } from "./verdict.js"
import { print, printJson } from "./terminal.js"

export const doctor = Command.make(
  "doctor",
  { directory, json, events, activity, sqlite, ...database },
  (options) =>
    Effect.gen(function* () {
      const settings = yield* settingsOf(options.directory)
      const levels = new Set<Finding["level"]>()
      const report = (finding: Finding) => {
        levels.add(finding.level)
        return options.json ? printJson(finding) : print(describeFinding(finding))
      }
      for (const finding of yield* checkDirectory(settings)) yield* report(finding)
      if (settings.proof !== undefined) {
        const wrong = wrongKeyOf(settings.proof)
        yield* report(
          wrong === undefined
            ? ok("key", "a private Ed25519 key seals what is delivered")
            : failure("key", wrong)
        )
      }
      if (Option.isSome(options.sqlite)) {
        const { examine } = yield* loadSqliteDoctor
        const kinds = yield* kindsOf(options.events, options.activity)
        yield* examine(
          { filename: options.sqlite.value, tables: yield* tablesOf(options.tables) },
          kinds,
          settings,
          report
        )
      } else if (Option.isNone(options.url) && Option.isNone(options.database)) {
        yield* report(
          warning("database", "not checked: name it by --url or AUDIT_MYSQL_URL, or by --sqlite FILE")
        )
      } else {
        const { examine } = yield* loadDoctor
        const kinds = yield* kindsOf(options.events, options.activity)
        yield* examine(yield* databaseOf(options), kinds, settings, report)
      }
      if (levels.has("failure")) return yield* endWith(ExitCode.needsOperator)
    })
).pipe(
  Command.withDescription(
    "Check directory, disk and lock, and of the database: name, connection, TLS, login, rights, tables, keys, clock; or of SQLite: file and tables"
  )
)

const checkDirectory = (settings: {
  readonly directory: string
  readonly minFreeBytes: number
  readonly unsafeFileSystem?: boolean | undefined
}) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { directory, minFreeBytes, unsafeFileSystem = false } = settings
    const info = yield* disk.info(directory)
    if (info === undefined)
      return [warning("directory", `${directory} does not exist yet: the first start makes it`)]
    if (info.type !== "directory")
      return [failure("directory", `${directory} is no directory: give another path`)]

    const mode = info.mode.toString(8)
    const volume = yield* disk.volume(directory)
    const owner = yield* ownerOf(disk, directory)
    return [
      (info.mode & 0o002) !== 0
        ? failure("directory", `everybody may write to ${directory} (${mode}): chmod 700`)
        : (info.mode & 0o077) !== 0
          ? warning(
              "directory",
              `others may read ${directory} (${mode}), which holds personal data: chmod 700`
            )
          : ok("directory", `${directory} (${mode})`),
      volume.network
        ? (unsafeFileSystem ? warning : failure)(
            "file system",
            `${volume.type} is shared over a network, where locks and fsync cannot be trusted: use a local disk`
          )
        : EPHEMERAL.has(volume.type)
          ? warning(
              "file system",
              `${volume.type} does not outlive the machine or container: use a volume on a disk`
            )
          : ok("file system", volume.type),
      volume.freeBytes < minFreeBytes
        ? failure("disk", `${formatBytes(volume.freeBytes)} free, less than minFreeBytes: free the disk`)
        : ok("disk", `${formatBytes(volume.freeBytes)} free`),
      owner === undefined
        ? ok("lock", "free: no program owns the queue")
        : ok("lock", `process ${owner.pid ?? "unknown"} owns the queue`),
      ...(yield* brokenRequests(directory)),
      ...(yield* seals(directory))
    ]
  })

/** How far the queues are sealed, if they are. */
const seals = (directory: string) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const found = yield* Effect.forEach(yield* queuesIn(disk, directory), (queue) => lastSealOf(disk, queue))
    return found.flatMap((seal) => {
      if (seal === undefined) return []
      const upTo = describeSeal(seal)
      return [
        seal.forked === 1
          ? failure("seals", `${FORKED}; run "effect-audit prove". They go ${upTo}`)
          : ok("seals", upTo)
      ]
    })
  })

const brokenRequests = (directory: string) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const found = yield* Effect.forEach(yield* queuesIn(disk, directory), (queue) =>
      requests.look(disk, queue)
    )
    const broken = found.flatMap((queue) => queue.broken)
    if (broken.length === 0) return []
    const [{ file, reason }] = broken as [requests.Broken]
    return [
      warning(
        "requests",
        `${counted(broken.length, "file")} will not be carried out (${file}: ${reason}): repeat the command that ` +
          `has left it, and remove it`
      )
    ]
  })
