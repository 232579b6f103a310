/** `effect-audit dead`: the lines that cannot be delivered, and what becomes of them. */
import { Array as Arr, Chunk, Duration, Effect, Fiber, Option, Schedule, Stream } from "effect"
import * as v8 from "node:v8"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import { summaryOf } from "../internal/database/summary.js"
import { LETTERS, lettersIn } from "../internal/queue/directory.js"
import { withFile } from "../internal/queue/files.js"
import type { Letter } from "../internal/queue/letter.js"
import { LetterSet } from "../internal/queue/letterSet.js"
import { placeAfter } from "../internal/queue/letterPages.js"
import { type EntryLine, scan } from "../internal/queue/letterLines.js"
import * as requests from "../internal/queue/requests.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Disk } from "../services/Disk.js"
import { nodeOf } from "./call.js"
import { Args, Command, Options } from "./effectCli.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { fieldsOf } from "./events.js"
import { cellOf, counted, formatBytes, formatCount, formatTable, isCount, visible } from "./format.js"
import { isCode, isKind, isMasked, mark, maskEvent, maskValue, REVEAL } from "./mask.js"
import { momentOf } from "./moment.js"
import { operator } from "./owner.js"
import type { Queue } from "./settings.js"
import { directory, json, queuesOf, reveal, settingsOf } from "./settings.js"
import { bar, columnsOf, isTerminal, makeCanvas, paint, print, printJson, say } from "./terminal.js"

// ---------------------------------------------------------------------------------------------------- which

const ids = Args.text({ name: "id" }).pipe(
  Args.withDescription(
    'The ids of the letters, as "dead list" shows them; with several instances instance-2/5:0'
  ),
  Args.repeated
)
const all = Options.boolean("all").pipe(Options.withDescription("All letters that wait for a decision"))
const ofClass = Options.text("class").pipe(
  Options.withDescription("Those of a class only, for example unknownKind or rejected"),
  Options.optional
)

const before = Options.text("before").pipe(
  Options.withDescription('Those that were refused before a date, 2026-01-31, or so long ago, "30 days"'),
  Options.optional
)

/** A letter that waits for a decision, and its name. */
export interface OpenLetter {
  readonly queue: Queue
  readonly name: string
  readonly entry: deadLetterFile.Entry
}

const fileOf = ({ directory }: Queue) => lettersIn(directory)
const lettersOf = (queue: Queue) => Effect.flatMap(Disk, (disk) => deadLetterFile.make(disk, queue.directory))

const nameOf = ({ name }: Queue, id: string) => (name === undefined ? id : `${name}/${id}`)

/** letters read at once */
const PAGE = 1000

/** The letters that wait for a decision, in order. `torn` adds torn ends; `from` is a place in the first file. */
export const openLetters = (
  queues: ReadonlyArray<Queue>,
  options: Partial<Pick<deadLetterFile.Selection, "contentBytes" | "from" | "select" | "torn">> = {}
) =>
  Stream.flatMap(Stream.fromIterable(queues), (queue) =>
    Stream.unwrap(
      Effect.map(lettersOf(queue), ({ page }) =>
        Stream.paginateChunkEffect(queue === queues[0] ? (options.from ?? 0) : 0, (from) =>
          Effect.map(page({ select: () => true, ...options, from, limit: PAGE }), ({ entries, next }) => [
            Chunk.map(Chunk.unsafeFromArray([...entries]), (entry): OpenLetter => ({
              queue,
              name: nameOf(queue, entry.letter.id),
              entry
            })),
            Option.fromNullable(next)
          ])
        )
      )
    )
  )

/** The letters after the named one, which may be decided by now. None if there never was such a letter. */
export const lettersAfter = (
  queues: ReadonlyArray<Queue>,
  name: string,
  options: Parameters<typeof openLetters>[1] = {}
) =>
  Effect.gen(function* () {
    const first = queues.findIndex((queue) => name.startsWith(nameOf(queue, "")))
    const queue = queues[first]
    if (queue === undefined) return Option.none()
    const place = yield* placeAfter(yield* Disk, fileOf(queue), name.slice(nameOf(queue, "").length))
    return Option.map(Option.fromNullable(place), (from) =>
      openLetters(queues.slice(first), { ...options, from })
    )
  })

/** The named letter, if it waits for a decision. */
export const findLetter = (queues: ReadonlyArray<Queue>, name: string) =>
  Stream.runHead(
    Stream.filter(
      openLetters(queues, { torn: true, select: ({ id }) => name.endsWith(id) }),
      (it) => it.name === name
    )
  )

/** The named letters that wait for a decision, found in one pass over the files. */
export const findLetters = (queues: ReadonlyArray<Queue>, names: ReadonlySet<string>) => {
  const ids = new Set(Array.from(names, (name) => name.slice(name.lastIndexOf("/") + 1)))
  return openLetters(queues, { torn: true, select: ({ id }) => ids.has(id) }).pipe(
    Stream.filter(({ name }) => names.has(name)),
    Stream.runCollect,
    Effect.map(Chunk.toReadonlyArray)
  )
}

export const readLetter = ({ entry, queue }: OpenLetter) =>
  Effect.flatMap(lettersOf(queue), (letters) => letters.read(entry))

interface Choice {
  readonly directory: Option.Option<string>
  readonly ids: ReadonlyArray<string>
  readonly all: boolean
  readonly ofClass: Option.Option<string>
  readonly before?: Option.Option<string>
}

/** The ids of the chosen letters, by queue. Fails if nothing was chosen, so that an oversight never means all. */
const choose = (choice: Choice, torn: boolean) =>
  Effect.gen(function* () {
    const time = yield* momentOf("before", choice.before ?? Option.none())
    if (choice.ids.length === 0 && !choice.all && Option.isNone(choice.ofClass) && time === undefined) {
      return yield* usageError(
        `Say which letters: their ids, --class${choice.before === undefined ? "" : ", --before"} or --all.`
      )
    }
    const names = new Set(choice.ids)
    const absent = new Set(names)
    const chosen = new Map<Queue, LetterSet>()
    for (const queue of yield* queuesOf(choice.directory)) {
      const letters = yield* lettersOf(queue)
      const early = time === undefined ? undefined : yield* idsBefore(letters, time, torn)
      const ids = new LetterSet()
      for (const { class: cls, id } of letters.waiting(torn)) {
        const name = nameOf(queue, id)
        absent.delete(name)
        if (names.size > 0 && !names.has(name)) continue
        if (Option.isSome(choice.ofClass) && choice.ofClass.value !== cls) continue
        if (early?.has(id) !== false) ids.add(id)
      }
      if (ids.size > 0) chosen.set(queue, ids)
    }
    const [first] = absent
    if (first !== undefined) {
      return yield* usageError(`No dead letter ${first} waits for a decision: see "effect-audit dead list".`)
    }
    return chosen
  })

/** The ids of the letters that were refused before a time. A letter with a damaged time is none of them. */
const idsBefore = (letters: deadLetterFile.DeadLetters, time: number, torn: boolean) =>
  Effect.gen(function* () {
    const ids = new LetterSet()
    const select = ({ at }: Letter) => Date.parse(at) < time
    for (let from: number | undefined = 0; from !== undefined;) {
      const page: deadLetterFile.Page = yield* letters.page({ select, torn, from, limit: PAGE })
      for (const { letter } of page.entries) ids.add(letter.id)
      from = page.next
    }
    return ids
  })

const sizeOf = (chosen: ReadonlyMap<Queue, LetterSet>) =>
  [...chosen.values()].reduce((sum, ids) => sum + ids.size, 0)

// ------------------------------------------------------------------------------------------------------ look

const limit = Options.integer("limit").pipe(
  Options.filterMap(Option.liftPredicate(isCount), "--limit is how many are shown: 1 or more"),
  Options.withDescription("How many are shown; 100 on a terminal, otherwise all of them"),
  Options.optional
)
const after = Options.text("after").pipe(
  Options.withDescription("Go on after the letter of this id, the last one of the page before"),
  Options.optional
)

const TERMINAL_LETTERS = 100
const COLUMNS = ["ID", "REFUSED", "KIND", "CLASS", "SIZE", "REASON"]

const rowOf = ({ entry: { letter }, name }: OpenLetter) => {
  const { at, class: cls, code, kind, length, reason } = withoutContent(letter)
  return [
    name,
    cellOf(at),
    cellOf(kind),
    code === undefined ? cellOf(cls) : `${cellOf(cls)} ${cellOf(code)}`,
    typeof length === "number" ? formatBytes(length) : cellOf(length),
    code === undefined ? cellOf(reason) : `${cellOf(code)}: ${cellOf(reason)}`
  ]
}

const list = Command.make("list", { directory, json, limit, after, ofClass }, (options) =>
  Effect.gen(function* () {
    const queues = yield* queuesOf(options.directory)
    const ofClass = Option.getOrUndefined(options.ofClass)
    const selection = {
      torn: ofClass === "torn",
      select: (letter: Letter) => ofClass === undefined || letter.class === ofClass
    }
    const letters = yield* Option.match(options.after, {
      onNone: () => Effect.succeed(openLetters(queues, selection)),
      onSome: (name) =>
        Effect.flatMap(
          lettersAfter(queues, name, selection),
          Option.match({
            onNone: () => usageError(`There is no dead letter ${name}: see "effect-audit dead list".`),
            onSome: Effect.succeed
          })
        )
    })
    if (options.json) {
      return yield* Stream.runForEach(letters, ({ entry, name }) =>
        printJson({ ...withoutContent(entry.letter), id: name })
      )
    }
    const most = Option.getOrElse(options.limit, () =>
      isTerminal(process.stdout) ? TERMINAL_LETTERS : Number.MAX_SAFE_INTEGER - 1
    )
    const seen = { count: 0, last: "", hasMore: false, hasAdvice: false }
    yield* Stream.runForEach(Stream.grouped(Stream.take(letters, most + 1), PAGE), (found) => {
      const shown = Chunk.toReadonlyArray(found).slice(0, most - seen.count)
      const rows = shown.map(rowOf).map((row) => row.map(visible))
      const [head, ...lines] = formatTable([COLUMNS, ...rows], columnsOf(process.stdout))
      const isFirst = seen.count === 0
      seen.count += shown.length
      seen.last = shown.at(-1)?.name ?? seen.last
      seen.hasMore = found.length > shown.length
      seen.hasAdvice ||= shown.some(({ entry }) => !isOurReason(entry.letter))
      const heading = isFirst ? head!.map((line) => paint("bold", line)) : []
      return print([...heading, ...lines.flat()])
    })
    if (seen.count === 0) return yield* print(["No dead letters."])
    if (seen.hasMore) yield* say(`There are more: repeat it with --after ${seen.last}.`)
    if (seen.hasAdvice) {
      yield* say(
        'The words of a database may repeat an event: "effect-audit dead show ID --reveal" has them.'
      )
    }
  })
).pipe(Command.withDescription("The dead letters that wait for a decision"))

const ADVICE = "refused by the database"

const OUR_REASONS: ReadonlySet<unknown> = new Set([
  "unknownKind",
  "malformed",
  "invalid",
  "oversize",
  "torn",
  "blank"
])

/** Whether the reason is ours: a database's message may repeat the row. */
const isOurReason = (letter: Letter) => OUR_REASONS.has(letter.class)

/** Why it was refused, without any content of the event. */
const reasonOf = (letter: Letter): string =>
  isOurReason(letter) ? letter.reason : (summaryOf(letter.code ?? "", letter.reason) ?? ADVICE)

/** The fields that identify a letter. A list of names, since any other field may hold content. */
const HEAD = "type id segment offset sequence surplus length class kind code at".split(" ")

/** the most of a text in a letter's head; ours are shorter */
const CHARACTERS = 1000

/** A letter without its content, and without the database's message. */
export const withoutContent = (letter: Letter): Readonly<Record<string, unknown>> => {
  const fields = letter as unknown as Readonly<Record<string, unknown>>
  return Object.fromEntries(
    [...HEAD, "reason"].flatMap((name) => {
      const value = name === "reason" ? reasonOf(letter) : fields[name]
      if (value === undefined) return []
      if ((name === "kind" && !isKind(value)) || (name === "code" && !isCode(value))) {
        return [[name, maskValue(value)]]
      }
      if (typeof value === "object" && value !== null) return [[name, mark("structure")]]
      const isLong = typeof value === "string" && name !== "id" && value.length > CHARACTERS
      return [[name, isLong ? `${value.slice(0, CHARACTERS)}…` : value]]
    })
  )
}

/** The fields that `withoutContent` masks if they are damaged. */
export const revealed = ({ code, kind }: Letter): Readonly<Record<string, unknown>> => ({
  ...(kind === undefined ? {} : { kind }),
  ...(code === undefined ? {} : { code })
})

const id = Args.text({ name: "id" })

const show = Command.make("show", { directory, json, reveal, id }, (options) =>
  Effect.gen(function* () {
    const found = Option.getOrUndefined(yield* findLetter(yield* queuesOf(options.directory), options.id))
    if (found === undefined) {
      return yield* usageError(
        `No dead letter ${options.id} waits for a decision: see "effect-audit dead list".`
      )
    }
    const letter = yield* readLetter(found)
    const masked = maskEvent(contentOf(letter), options)
    const event = masked.event
    const text = leftOut(letter) ?? masked.text
    const isPlain = isOurReason(letter) || options.reveal
    const summary = summaryOf(letter.code ?? "", letter.reason)
    const maskedReason =
      summary === undefined ? mark("the database's words") : `${summary} ${mark("the database's words")}`
    const head = options.reveal ? revealed(letter) : {}
    const shown = {
      ...withoutContent(letter),
      ...head,
      id: found.name,
      reason: isPlain ? letter.reason : maskedReason
    }
    if (options.json) yield* printJson({ ...shown, event: event ?? text })
    else {
      yield* print(fieldsOf(shown))
      yield* print(["", ...(event === undefined ? [text ?? ""] : fieldsOf(event))])
    }
    if (isMasked([shown, event, text])) yield* say(REVEAL)
  })
).pipe(Command.withDescription("One dead letter: why it was refused, and what it says"))

/** bytes; the entry of a shorter line is read whole, so one without content is damaged */
const LARGE_BYTES = 1024 * 1024

/** The text in place of a content that is too large to be shown. */
export const leftOut = (letter: Letter): string | undefined =>
  letter.length > LARGE_BYTES && contentOf(letter).length === 0
    ? `[${formatBytes(letter.length)} are too large to be shown: they stand in ${LETTERS}]`
    : undefined

/** The line, byte for byte. Empty if the entry holds no text, or left out a line for its size. */
export const contentOf = ({ base64, encoding, line }: Letter): Buffer => {
  if (typeof line === "string") return Buffer.from(line)
  return typeof base64 === "string" && encoding === undefined
    ? Buffer.from(base64, "base64")
    : Buffer.alloc(0)
}

const exportAll = Command.make("export", { directory, reveal, all, ids, ofClass }, (options) =>
  Effect.gen(function* () {
    if (isTerminal(process.stdout) && !options.reveal) {
      return yield* usageError(
        "The letters are exported with their content: send them to a file, or say --reveal."
      )
    }
    const isAll = options.all || (options.ids.length === 0 && Option.isNone(options.ofClass))
    const chosen = yield* choose({ ...options, all: isAll }, true)
    for (const [queue, ids] of chosen) {
      const select = ({ id }: Letter) => ids.has(id)
      const letters = openLetters([queue], { torn: true, contentBytes: EXPORT_BYTES, select })
      yield* Stream.runForEach(letters, ({ entry, name }) => printJson({ ...entry.letter, id: name }))
    }
  })
).pipe(Command.withDescription("Dead letters with their content, as lines of JSON, to stdout"))

/** bytes read at once */
export const EXPORT_BYTES = 4 * 1024 * 1024

// ---------------------------------------------------------------------------------------------------- decide

const wait = Options.text("wait").pipe(
  Options.withDefault("90 seconds"),
  Options.withDescription("How long to wait for a program that owns the queue to carry it out")
)

export const patienceOf = (wait: string) =>
  Effect.mapError(Duration.decodeUnknown(wait), () =>
    usageError(`--wait ${wait} is no duration: say "90 seconds".`)
  )

const retry = Command.make("retry", { directory, json, ids, all, ofClass, wait }, (options) =>
  decide("retry", options)
).pipe(
  Command.withDescription(
    "Append dead letters again, under their ids: after a mended table, or a new version"
  )
)

const yes = Options.boolean("yes").pipe(Options.withDescription("Without it nothing is given up"))

const discard = Command.make(
  "discard",
  { directory, json, ids, all, ofClass, before, wait, yes },
  (options) =>
    Effect.gen(function* () {
      if (options.yes) return yield* decide("discard", options)
      const letters = sizeOf(yield* choose(options, true))
      return yield* usageError(
        `${counted(letters, "event")} would be given up for good: repeat it with --yes. Nothing was changed.`
      )
    })
).pipe(
  Command.withDescription(
    "Give dead letters up: they are never delivered, and erased; who did it and when stays"
  )
)

const decide = (
  action: requests.Decision["action"],
  options: Choice & { readonly json: boolean; readonly wait: string }
) =>
  Effect.gen(function* () {
    const patience = yield* patienceOf(options.wait)
    // Hot path: by V8's defaults, decided batches would pile up (bench/README.md#dead-letters)
    v8.setFlagsFromString("--heap-growing-percent=25 --semi-space-growth-factor=1")
    const chosen = yield* choose(options, action === "discard")
    const settings = yield* settingsOf(options.directory)
    let [done, unnamed] = [0, 0]
    const stay: Array<string> = []
    for (const [queue, ids] of chosen) {
      yield* withProgress(queue, ids.size, carryOut(queue, settings, action, ids, patience))
      const left = yield* waitingOf(queue, ids)
      for (const id of left) if (options.json || stay.length < NAMED) stay.push(nameOf(queue, id))
      done += ids.size - left.size
      unnamed += left.size
    }
    const word = action === "retry" ? "appended again" : "discarded"
    if (options.json) yield* printJson({ [action]: done, stay })
    else yield* print([`${counted(done, "dead letter")} ${word}.`])
    if (unnamed > 0) {
      const names = stay.slice(0, NAMED)
      if (unnamed > names.length) names.push(`${formatCount(unnamed - names.length)} more`)
      return yield* new Ended({
        code: ExitCode.needsOperator,
        message:
          action === "retry"
            ? `Only lines that are JSON objects of a fitting size can be appended again: ${names.join(", ")} stay.`
            : `Their lines are not settled yet, so that they may still be delivered: ${names.join(", ")} stay.`
      })
    }
  })

/** Which of these letters still wait for a decision, in one pass over the file. */
const waitingOf = (queue: Queue, ids: LetterSet) =>
  Effect.gen(function* () {
    const waiting = new LetterSet()
    const note = ({ entry }: EntryLine) => {
      if (entry === undefined || !ids.has(entry.id)) return
      if (entry.type === "letter") waiting.add(entry.id)
      else waiting.delete(entry.id)
    }
    yield* withFile(yield* Disk, fileOf(queue), (file) => scan(file, 0, note))
    return waiting
  })

/** letters named in a message */
const NAMED = 20

const carryOut = (
  queue: Queue,
  settings: QueueFileLayer.Options,
  action: requests.Decision["action"],
  ids: LetterSet,
  patience: Duration.Duration
) =>
  Effect.gen(function* () {
    // the owner does not read a request that is too large
    const parts =
      ids.size <= LETTERS_A_REQUEST ? [ids] : Arr.map(Arr.chunksOf(ids, LETTERS_A_REQUEST), LetterSet.of)
    const asked = yield* ask(
      queue,
      settings,
      parts.map((letters) => ({ action, letters, by: operator() }))
    )
    yield* awaitOwner(asked, queue, patience)
  })

/** Shows on a terminal how many letters are decided. It reads the file, so it does not matter who decides them. */
const withProgress = <A, E, R>(queue: Queue, total: number, work: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    if (!isTerminal(process.stderr) || total < MANY) return yield* work
    const disk = yield* Disk
    const file = fileOf(queue)
    const canvas = makeCanvas(process.stderr)
    let at = (yield* disk.info(file))?.size ?? 0
    let done = 0
    const draw = () =>
      canvas.draw([[...bar(done / total), ` ${formatCount(done)} of ${counted(total, "dead letter")}`]])
    const look = Effect.scoped(
      Effect.gen(function* () {
        const handle = yield* disk.open(file, "read")
        // a smaller file has replaced it: everything is decided
        if ((yield* handle.size) < at) done = total
        else {
          at = yield* scan(handle, at, ({ entry }) => {
            if (entry !== undefined && entry.type !== "letter") done = Math.min(total, done + 1)
          })
        }
        yield* draw()
      })
    )
    const looking = yield* Effect.fork(Effect.forever(Effect.delay(Effect.ignore(look), "200 millis")))
    const result = yield* Effect.ensuring(work, Fiber.interrupt(looking))
    done = total
    yield* draw()
    return result
  })

/** fewer take less than a second */
const MANY = 1000

const LETTERS_A_REQUEST = 100_000

/** Requests that were left for the owner of the queue. */
export interface Asked {
  readonly files: ReadonlyArray<string>
  /** the owner, which will carry them out; undefined if they are done */
  readonly owner: { readonly pid: number | undefined } | undefined
}

/** Submits requests, and carries them out if nobody owns the queue. */
export const ask = (queue: Queue, settings: QueueFileLayer.Options, asked: ReadonlyArray<requests.Asked>) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { directory } = queue
    const files = yield* Effect.forEach(asked, (request) => requests.submit(disk, directory, request))
    const own = QueueFileLayer.make({
      ...settings,
      directory,
      adopt: undefined,
      lockWait: undefined,
      isCommand: true
    })
    const owner = yield* Effect.scoped(
      Effect.flatMap(own, ({ carryOutRequests }) => Effect.as(carryOutRequests, undefined))
    ).pipe(
      Effect.catchTag("QueueLocked", ({ pid }) => Effect.succeed({ pid })),
      // a command that failed or was interrupted leaves no request: nobody expects it to be carried out later
      Effect.onError(() =>
        Effect.forEach(files, (file) => Effect.ignore(disk.remove(file)), { discard: true })
      )
    )
    return { files, owner } satisfies Asked
  })

export const awaitOwner = ({ files, owner }: Asked, { directory }: Queue, patience: Duration.Duration) =>
  Effect.gen(function* () {
    if (owner === undefined) return
    const disk = yield* Disk
    yield* say(`Process ${owner.pid ?? "unknown"} owns ${directory} and was asked to do it; waiting.`)
    const left = Effect.filter(files, (file) => Effect.map(disk.info(file), (info) => info !== undefined))
    const done = yield* left.pipe(
      Effect.repeat({ until: (files) => files.length === 0, schedule: Schedule.spaced("100 millis") }),
      Effect.timeoutOption(patience)
    )
    if (Option.isNone(done)) {
      return yield* new Ended({
        code: ExitCode.lagging,
        message: `Not carried out after ${Duration.format(patience)}; the request stays, for its next pass: ${files[0]!}`
      })
    }
  })

const SUBCOMMANDS = [list, show, retry, exportAll, discard] as const

export const dead = Command.make("dead").pipe(
  Command.withDescription("The lines that cannot be delivered, and what becomes of them"),
  Command.withSubcommands([...SUBCOMMANDS])
)

export const deadNode = nodeOf(
  dead,
  SUBCOMMANDS.map((each) => nodeOf(each))
)
