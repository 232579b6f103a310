/** `effect-audit dead`: the lines that cannot be delivered, and what becomes of them. */
import { Chunk, Duration, Effect, Option, Schedule } from "effect"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import * as requests from "../internal/queue/requests.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Disk } from "../services/Disk.js"
import { Args, Command, Options } from "./effectCli.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { fieldsOf } from "./events.js"
import { cellOf, counted, formatBytes, formatCount, formatTable, visible } from "./format.js"
import { mark, maskEvent } from "./mask.js"
import { operator } from "./owner.js"
import type { Queue } from "./settings.js"
import { directory, json, queuesOf, reveal, settingsOf } from "./settings.js"
import { isTerminal, paint, print, printJson, say } from "./terminal.js"

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

/** A letter that waits for a decision, and how it is called. */
export interface OpenLetter {
  readonly queue: Queue
  readonly name: string
  readonly entry: deadLetterFile.Entry
}

const lettersOf = ({ directory }: Queue) =>
  Effect.flatMap(Disk, (disk) => deadLetterFile.make(disk, `${directory}/dead-letter.ndjson`, directory))

/** The letters of the queues that wait for a decision, in order. */
export const openLetters = (queues: ReadonlyArray<Queue>) =>
  Effect.map(
    Effect.forEach(queues, (queue) =>
      Effect.gen(function* () {
        const letters = yield* lettersOf(queue)
        const prefix = queue.name === undefined ? "" : `${queue.name}/`
        return (yield* letters.open(() => true)).map((entry): OpenLetter => ({
          queue,
          name: `${prefix}${entry.letter.id}`,
          entry
        }))
      })
    ),
    (found) => found.flat()
  )

export const readLetter = ({ entry, queue }: OpenLetter) =>
  Effect.flatMap(lettersOf(queue), (letters) => letters.read(entry))

interface Choice {
  readonly directory: Option.Option<string>
  readonly ids: ReadonlyArray<string>
  readonly all: boolean
  readonly ofClass: Option.Option<string>
}

/** The letters that are meant; never all of them by an oversight. */
const choose = (choice: Choice) =>
  Effect.gen(function* () {
    if (choice.ids.length === 0 && !choice.all && Option.isNone(choice.ofClass)) {
      return yield* usageError("Say which letters: their ids, --class or --all.")
    }
    const letters = yield* openLetters(yield* queuesOf(choice.directory))
    const names = new Set(letters.map(({ name }) => name))
    const ids = new Set(choice.ids)
    const absent = choice.ids.find((id) => !names.has(id))
    if (absent !== undefined) {
      return yield* usageError(`No dead letter ${absent} waits for a decision: see "effect-audit dead list".`)
    }
    return letters.filter(
      ({ entry, name }) =>
        (ids.size === 0 || ids.has(name)) &&
        Option.match(choice.ofClass, { onNone: () => true, onSome: (cls) => entry.letter.class === cls })
    )
  })

// ------------------------------------------------------------------------------------------------------ look

const list = Command.make("list", { directory, json }, (options) =>
  Effect.gen(function* () {
    const letters = yield* openLetters(yield* queuesOf(options.directory))
    if (options.json) {
      return yield* Effect.forEach(
        letters,
        ({ entry, name }) => printJson({ ...withoutContent(entry.letter), id: name }),
        {
          discard: true
        }
      )
    }
    if (letters.length === 0) return yield* print(["No dead letters."])
    const rows = letters.map(({ entry: { letter }, name }) => {
      const { at, class: cls, code, kind, length, reason = ADVICE } = withoutContent(letter)
      return [
        name,
        cellOf(at),
        cellOf(kind),
        code === undefined ? cellOf(cls) : `${cellOf(cls)} ${cellOf(code)}`,
        typeof length === "number" ? formatBytes(length) : cellOf(length),
        cellOf(reason)
      ]
    })
    const [head, ...lines] = formatTable(
      [["ID", "REFUSED", "KIND", "CLASS", "SIZE", "REASON"], ...rows].map((row) => row.map(visible))
    )
    yield* print([paint("bold", head!)])
    yield* print(lines)
  })
).pipe(Command.withDescription("The dead letters that wait for a decision"))

const ADVICE = 'refused by the database: see "effect-audit dead show"'

const OUR_REASONS: ReadonlySet<unknown> = new Set([
  "unknownKind",
  "malformed",
  "invalid",
  "oversize",
  "torn",
  "blank"
])

/** Whether the reason is in our words: those of a database may echo the row. */
const isOurReason = (letter: deadLetterFile.Letter) => OUR_REASONS.has(letter.class)

/** What says which letter it is. By name: what else stands in the entry may be content. */
const HEAD = "type id segment offset sequence surplus length class kind code at".split(" ")

/** of a text about a letter; ours are shorter */
const CHARACTERS = 1000

/** A letter without its content, and without the words of a database. */
export const withoutContent = (letter: deadLetterFile.Letter): Readonly<Record<string, unknown>> => {
  const fields = letter as unknown as Readonly<Record<string, unknown>>
  const names = isOurReason(letter) ? [...HEAD, "reason"] : HEAD
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = fields[name]
      if (value === undefined) return []
      if (typeof value === "object" && value !== null) return [[name, mark("structure")]]
      const isLong = typeof value === "string" && name !== "id" && value.length > CHARACTERS
      return [[name, isLong ? `${value.slice(0, CHARACTERS)}…` : value]]
    })
  )
}

const id = Args.text({ name: "id" })

const show = Command.make("show", { directory, json, reveal, id }, (options) =>
  Effect.gen(function* () {
    const [found] = yield* choose({ ...options, ids: [options.id], all: false, ofClass: Option.none() })
    const letter = yield* readLetter(found!)
    const { event, text } = maskEvent(contentOf(letter), options)
    const reason = isOurReason(letter) || options.reveal ? letter.reason : mark("the database's words")
    const shown = { ...withoutContent(letter), id: found!.name, reason }
    if (options.json) return yield* printJson({ ...shown, event: event ?? text })
    yield* print(fieldsOf(shown))
    yield* print(["", ...(event === undefined ? [text ?? ""] : fieldsOf(event))])
  })
).pipe(Command.withDescription("One dead letter: why it was refused, and what it says"))

/** The line, byte for byte; nothing if the entry holds none that is a text. */
export const contentOf = ({ base64, line }: deadLetterFile.Letter): Buffer => {
  if (typeof line === "string") return Buffer.from(line)
  return typeof base64 === "string" ? Buffer.from(base64, "base64") : Buffer.alloc(0)
}

const exportAll = Command.make("export", { directory, reveal, all, ids, ofClass }, (options) =>
  Effect.gen(function* () {
    if (isTerminal(process.stdout) && !options.reveal) {
      return yield* usageError(
        "The letters are exported with their content: send them to a file, or say --reveal."
      )
    }
    const isAll = options.all || (options.ids.length === 0 && Option.isNone(options.ofClass))
    for (const letter of yield* choose({ ...options, all: isAll })) {
      yield* printJson({ ...(yield* readLetter(letter)), id: letter.name })
    }
  })
).pipe(Command.withDescription("Dead letters with their content, as lines of JSON, to stdout"))

// ---------------------------------------------------------------------------------------------------- decide

const wait = Options.text("wait").pipe(
  Options.withDefault("90 seconds"),
  Options.withDescription("How long to wait for a program that owns the queue to carry it out")
)

const retry = Command.make("retry", { directory, json, ids, all, ofClass, wait }, (options) =>
  decide("retry", options)
).pipe(
  Command.withDescription(
    "Append dead letters again, under their ids: after a mended table, or a new version"
  )
)

const yes = Options.boolean("yes").pipe(Options.withDescription("Without it nothing is given up"))

const discard = Command.make("discard", { directory, json, ids, all, ofClass, wait, yes }, (options) =>
  Effect.gen(function* () {
    if (options.yes) return yield* decide("discard", options)
    const letters = yield* choose(options)
    return yield* usageError(
      `${counted(letters.length, "event")} would be given up for good: repeat it with --yes. Nothing was changed.`
    )
  })
).pipe(
  Command.withDescription(
    "Give dead letters up: they are never delivered, and stay in the file with who and when"
  )
)

const decide = (
  action: requests.Request["action"],
  options: Choice & { readonly json: boolean; readonly wait: string }
) =>
  Effect.gen(function* () {
    const patience = Duration.decodeUnknown(options.wait)
    if (Option.isNone(patience))
      return yield* usageError(`--wait ${options.wait} is no duration: say "90 seconds".`)
    const chosen = yield* choose(options)
    const settings = yield* settingsOf(options.directory)
    for (const queue of new Set(chosen.map((letter) => letter.queue))) {
      const letters = chosen.filter((letter) => letter.queue === queue).map(({ entry }) => entry.letter.id)
      // a request that is too large is not read
      for (const some of Chunk.chunksOf(Chunk.unsafeFromArray(letters), LETTERS_A_REQUEST)) {
        const asked = yield* ask(queue, settings, {
          action,
          letters: Chunk.toReadonlyArray(some),
          by: operator()
        })
        yield* awaitOwner(asked, queue, patience.value)
      }
    }
    const open = new Set((yield* openLetters(yield* queuesOf(options.directory))).map(({ name }) => name))
    const stay = chosen.filter(({ name }) => open.has(name))
    const done = chosen.length - stay.length
    const word = action === "retry" ? "appended again" : "discarded"
    if (options.json) yield* printJson({ [action]: done, stay: stay.map(({ name }) => name) })
    else yield* print([`${counted(done, "dead letter")} ${word}.`])
    if (stay.length > 0) {
      const names = stay.slice(0, 20).map(({ name }) => name)
      if (stay.length > names.length) names.push(`${formatCount(stay.length - names.length)} more`)
      return yield* new Ended({
        code: ExitCode.needsOperator,
        message: `Only lines that are JSON objects of a fitting size can be appended again: ${names.join(", ")} stay.`
      })
    }
  })

const LETTERS_A_REQUEST = 50_000

/** A request that was left for the owner of the queue. */
export interface Asked {
  readonly file: string
  /** the owner, who carries it out; undefined if it is done already */
  readonly owner: { readonly pid: number | undefined } | undefined
}

/** Leaves the request, and carries it out if nobody owns the queue. */
export const ask = (queue: Queue, settings: QueueFileLayer.Options, request: Omit<requests.Request, "at">) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { directory } = queue
    const file = yield* requests.submit(disk, directory, request)
    const own = QueueFileLayer.make({
      ...settings,
      directory,
      adopt: undefined,
      lockWait: undefined,
      isCommand: true
    })
    const owner = yield* Effect.scoped(
      Effect.flatMap(own, ({ carryOutRequests }) => Effect.as(carryOutRequests, undefined))
    ).pipe(Effect.catchTag("QueueLocked", ({ pid }) => Effect.succeed({ pid })))
    return { file, owner } satisfies Asked
  })

/** Waits until the owner has done what was asked. */
const awaitOwner = ({ file, owner }: Asked, { directory }: Queue, patience: Duration.Duration) =>
  Effect.gen(function* () {
    if (owner === undefined) return
    const disk = yield* Disk
    yield* say(`Process ${owner.pid ?? "unknown"} owns ${directory} and was asked to do it; waiting.`)
    const done = yield* Effect.map(disk.info(file), (info) => info === undefined).pipe(
      Effect.repeat({ until: (gone) => gone, schedule: Schedule.spaced("100 millis") }),
      Effect.timeoutOption(patience)
    )
    if (Option.isNone(done)) {
      return yield* new Ended({
        code: ExitCode.lagging,
        message: `Not carried out after ${Duration.format(patience)}; the request stays, for its next pass: ${file}`
      })
    }
  })

export const dead = Command.make("dead").pipe(
  Command.withDescription("The lines that cannot be delivered, and what becomes of them"),
  Command.withSubcommands([list, show, retry, exportAll, discard])
)
