/** `effect-audit verify`: reads every file of a queue and checks it against the others; changes nothing. */
import { Effect, Either, Exit, Option, Stream } from "effect"
import { balanceOf } from "../internal/queue/ledger.js"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import { isAbsent } from "../internal/queue/files.js"
import type { LineLimit, Owner, Snapshot } from "../internal/queue/inspect.js"
import { LETTERS, queueIdOf } from "../internal/queue/directory.js"
import { cursorSlots, linesFrom, ownerOf, snapshot } from "../internal/queue/inspect.js"
import { makeReader } from "../internal/readEvent.js"
import * as requests from "../internal/queue/requests.js"
import type { Segment } from "../internal/queue/segments.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { compile, makeDecoder } from "../schema/Line.js"
import { Disk } from "../services/Disk.js"
import { Command } from "./effectCli.js"
import { endWith, ExitCode } from "./exit.js"
import type { Finding } from "./findings.js"
import { describeFinding, failure, ok, warning } from "./findings.js"
import { counted, formatCount } from "./format.js"
import { kindOf } from "./mask.js"
import type { Queue } from "./settings.js"
import { directory, events, json, kindsOf, queuesOf, settingsOf } from "./settings.js"
import { print, printJson } from "./terminal.js"
import { imbalance } from "./verdict.js"

export const verify = Command.make("verify", { directory, json, events }, (options) =>
  Effect.gen(function* () {
    const kinds = yield* kindsOf(options.events)
    const limits = yield* settingsOf(options.directory)
    let failed = false
    for (const queue of yield* queuesOf(options.directory)) {
      for (const finding of yield* examine(queue, kinds, limits)) {
        failed ||= finding.level === "failure"
        const named =
          queue.name === undefined ? finding : { ...finding, subject: `${queue.name} ${finding.subject}` }
        yield* options.json ? printJson(named) : print(describeFinding(named))
      }
    }
    if (failed) return yield* endWith(ExitCode.integrity)
  })
).pipe(
  Command.withDescription(
    "Read and check every segment, the cursor, the dead letters and the requests; nothing is changed. Exit code 3 if " +
      "something is missing or damaged."
  )
)

const examine = (
  { directory }: Queue,
  kinds: ReadonlyArray<AuditEvent.Any>,
  { maxLineBytes }: Required<LineLimit>
) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const owner = yield* ownerOf(disk, directory)
    const found = yield* snapshot(disk, directory, owner)
    return [
      yield* identity(directory),
      ...(yield* cursor(directory, found, owner)),
      ...(yield* segments(directory, found, owner, kinds, maxLineBytes)),
      ...(yield* deadLetters(directory, found)),
      ...(yield* openRequests(directory)),
      books(found)
    ]
  })

const identity = (directory: string) =>
  Effect.map(
    Effect.flatMap(Disk, (disk) => queueIdOf(disk, directory)),
    (queueId) =>
      Option.match(queueId, {
        onNone: () => failure("queue.json", "damaged: move it away to give the queue a new identity"),
        onSome: (id) => ok("queue.json", id)
      })
  )

const cursor = (directory: string, { cursor, repair }: Snapshot, owner: Owner | undefined) =>
  Effect.gen(function* () {
    const slots = yield* cursorSlots(yield* Disk, directory)
    const state = `${slots.join(" and ")}; segment ${cursor.segment}, byte ${cursor.offset}, number ${cursor.sequence}`
    const findings: Array<Finding> = [
      slots.includes("whole")
        ? slots.includes("damaged") && owner === undefined
          ? warning("cursor", `${state}: the whole slot serves, and the next write mends the other`)
          : ok("cursor", state)
        : failure("cursor", `${state}: the next start delivers again what is on disk`)
    ]
    // an owner has repaired the cursor, and moves it while we read
    if (repair !== undefined && slots.includes("whole") && owner === undefined) {
      findings.push(failure("cursor", `${repair}: the next start delivers again what is on disk`))
    }
    return findings
  })

/** kinds, or letters, named in a line */
const NAMED = 10

interface Tally {
  lines: number
  damaged: number
  firstDamage: string
  /** kinds whose class nobody named; of many, some */
  unknown: Set<string>
  unterminated: boolean
}

const segments = (
  directory: string,
  found: Snapshot,
  owner: Owner | undefined,
  kinds: ReadonlyArray<AuditEvent.Any>,
  maxLineBytes: number
) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const queueId = Option.getOrElse(yield* queueIdOf(disk, directory), () => "")
    const decode = makeDecoder(new Map(kinds.map((kind) => [kind.kind, compile(kind)])))
    const readEvent = makeReader(decode, queueId)
    const findings: Array<Finding> = []
    for (const [index, segment] of found.segments.entries()) {
      const tally: Tally = { lines: 0, damaged: 0, firstDamage: "", unknown: new Set(), unterminated: false }
      const isCurrent = segment.first === found.cursor.segment
      const start = isCurrent ? found.cursor.offset : 0
      const read = yield* Stream.runForEach(linesFrom(disk, segment, start, { maxLineBytes }), (line) =>
        Effect.sync(() => {
          tally.lines++
          const { bytes, offset, text } = line
          const problem = line.oversize ? ("oversize" as const) : undefined
          const event = readEvent({ bytes, text, offset, problem, segment: segment.first })
          const isBlank = Either.isLeft(event) && event.left.class === "blank"
          tally.unterminated ||= !line.terminated && !isBlank
          if (Either.isRight(event)) return
          const { class: cls, kind, reason } = event.left
          if (cls === "blank") return
          if (cls === "unknownKind") {
            if (tally.unknown.size <= NAMED) tally.unknown.add(kindOf(kind))
          } else if (tally.damaged++ === 0) tally.firstDamage = `byte ${line.offset}: ${reason}`
        })
      ).pipe(
        Effect.as(true),
        Effect.catchIf(isAbsent, () => Effect.succeed(false))
      )
      if (!read) continue
      const sequence = isCurrent && start > 0 ? found.cursor.sequence : segment.first
      const isLive = owner !== undefined && index === found.segments.length - 1
      findings.push(
        ...judge(segment, tally, (found.segments[index + 1]?.first ?? sequence) - sequence, isLive)
      )
    }
    return findings
  })

const judge = (
  { bytes, first, path }: Segment,
  { damaged, firstDamage, lines, unknown, unterminated }: Tally,
  promised: number,
  isLive: boolean
): ReadonlyArray<Finding> => {
  const subject = path.slice(path.lastIndexOf("/") + 1)
  const findings: Array<Finding> = []
  if (lines < promised) {
    findings.push(
      failure(
        subject,
        `${counted(promised - lines, "line")} after number ${first} ${promised - lines === 1 ? "is" : "are"} missing: restore the file from a copy`
      )
    )
  }
  if (damaged > 0) {
    findings.push(
      warning(
        subject,
        `${counted(damaged, "line")} cannot be read (${firstDamage}); delivery moves them to the dead letters`
      )
    )
  }
  if (unknown.size > 0) {
    const names = [...unknown].slice(0, NAMED)
    if (unknown.size > NAMED) names.push("and more")
    findings.push(
      warning(subject, `kinds that were not checked: ${names.join(", ")}; name their module by --events`)
    )
  }
  if (unterminated && !isLive) {
    findings.push(
      warning(subject, "its last line has no end: a write that a crash cut off; delivery counts it as torn")
    )
  }
  return findings.length > 0
    ? findings
    : [ok(subject, `${counted(lines, "line")} wait${lines === 1 ? "s" : ""} (${bytes} bytes)`)]
}

/** The ids of open letters that cannot be read any more. */
const unreadableIn = (letters: deadLetterFile.DeadLetters) =>
  Effect.gen(function* () {
    const open = yield* letters.open(() => true)
    const unreadable = yield* Effect.filter(open, (entry) =>
      Effect.map(Effect.exit(letters.read(entry)), Exit.isFailure)
    )
    return new Set(unreadable.map(({ letter }) => letter.id))
  })

const LOOKS = 3

const deadLetters = (directory: string, { cursor }: Snapshot) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const subject = LETTERS
    let letters = yield* deadLetterFile.make(disk, directory)
    const unreadable = yield* unreadableIn(letters)
    // an owner may have decided them meanwhile, or replaced the file
    for (let looks = 1; unreadable.size > 0 && looks < LOOKS; looks++) {
      letters = yield* deadLetterFile.make(disk, directory)
      const again = yield* unreadableIn(letters)
      for (const id of unreadable) if (!again.has(id)) unreadable.delete(id)
    }
    const counts = letters.counts()
    const findings: Array<Finding> = []
    if (unreadable.size > 0) {
      const ids = [...unreadable].slice(0, NAMED)
      if (unreadable.size > NAMED) ids.push(`and ${formatCount(unreadable.size - NAMED)} more`)
      findings.push(failure(subject, `${ids.join(", ")} cannot be read`))
    }
    if (letters.damaged > 0) {
      const lines = counted(letters.damaged, "line")
      findings.push(
        warning(subject, `${lines} cannot be read: cut off by a crash, and written again, or damaged`)
      )
    }
    if (counts.retried + counts.discarded > cursor.refused) {
      const decisions = counted(counts.retried + counts.discarded, "decision")
      findings.push(
        failure(
          subject,
          `${decisions}, but the cursor has counted ${cursor.refused} letters: one of both is damaged`
        )
      )
    }
    if (counts.letters < cursor.refused || counts.torn < cursor.torn) {
      findings.push(
        failure(
          subject,
          `${counts.letters} letters and ${counts.torn} torn ends, but the cursor has counted ${cursor.refused} and ` +
            `${cursor.torn}: restore the file from a copy`
        )
      )
    }
    return findings.length > 0
      ? findings
      : [
          ok(
            subject,
            `${counted(counts.letters, "letter")}, ${counts.retried} retried, ${counts.discarded} discarded`
          )
        ]
  })

const openRequests = (directory: string) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { broken, hasMore, open } = yield* requests.look(disk, directory)
    const findings: Array<Finding> = []
    if (open.length > 0) {
      const text = `${hasMore ? "more than " : ""}${counted(open.length, "request")} ${open.length === 1 && !hasMore ? "waits" : "wait"} for an owner, or for "effect-audit dead retry"`
      findings.push(warning("requests", text))
    }
    const [first] = broken
    if (first !== undefined) {
      const text =
        `${counted(broken.length, "file")} cannot be read as a request, and never carried out: ` +
        `remove ${first.file} (${first.reason})`
      findings.push(warning("requests", text))
    }
    return findings.length > 0 ? findings : [ok("requests", "none")]
  })

const books = (found: Snapshot): Finding => {
  const balance = balanceOf(found)
  const wrong = imbalance(balance)
  return wrong === undefined
    ? ok(
        "books",
        `${balance.accepted} accepted, ${balance.delivered} delivered, ${balance.waiting} wait, 0 missing`
      )
    : failure("books", wrong)
}
