/** `effect-audit dead`: the lines that cannot be delivered, and what becomes of them. */
import { Args, Command, Options } from "@effect/cli"
import { Duration, Effect, Option, Schedule } from "effect"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import * as requests from "../internal/queue/requests.js"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Disk } from "../services/Disk.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { fieldsOf } from "./events.js"
import { counted, formatBytes, formatTable, visible } from "./format.js"
import { maskEvent } from "./mask.js"
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
    const absent = choice.ids.find((id) => !letters.some(({ name }) => name === id))
    if (absent !== undefined) {
      return yield* usageError(
        `No dead letter ${visible(absent)} waits for a decision: see "effect-audit dead list".`
      )
    }
    return letters.filter(
      ({ entry, name }) =>
        (choice.ids.length === 0 || choice.ids.includes(name)) &&
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
    if (letters.length === 0) return yield* print("No dead letters.")
    const rows = letters.map(({ entry: { letter }, name }) => [
      name,
      letter.at,
      letter.kind ?? "-",
      letter.code === undefined ? letter.class : `${letter.class} ${letter.code}`,
      formatBytes(letter.length),
      letter.class === "rejected" ? ADVICE.rejected : letter.reason
    ])
    const [head, ...lines] = formatTable(
      [["ID", "REFUSED", "KIND", "CLASS", "SIZE", "REASON"], ...rows].map((row) => row.map(visible))
    )
    yield* print(paint("bold", head!), ...lines)
  })
).pipe(Command.withDescription("The dead letters that wait for a decision"))

/** The words of a database may echo the row, so that they are shown with the letter only. */
const ADVICE = { rejected: 'refused by the database: see "effect-audit dead show"' }

export const withoutContent = ({ base64: _b, line: _l, reason, ...letter }: deadLetterFile.Letter) => ({
  ...letter,
  ...(letter.class === "rejected" ? {} : { reason })
})

const id = Args.text({ name: "id" })

const show = Command.make("show", { directory, json, reveal, id }, (options) =>
  Effect.gen(function* () {
    const [found] = yield* choose({ ...options, ids: [options.id], all: false, ofClass: Option.none() })
    const letter = yield* readLetter(found!)
    const { event, text } = maskEvent(contentOf(letter), options)
    const reason =
      letter.class === "rejected" && !options.reveal ? "[the database's words, masked]" : letter.reason
    const shown = { ...withoutContent(letter), id: found!.name, reason }
    if (options.json) return yield* printJson({ ...shown, event: event ?? text })
    yield* print(...fieldsOf(shown), "", ...(event === undefined ? [visible(text ?? "")] : fieldsOf(event)))
  })
).pipe(Command.withDescription("One dead letter: why it was refused, and what it says"))

export const contentOf = ({ base64, line }: deadLetterFile.Letter): Buffer =>
  line === undefined ? Buffer.from(base64 ?? "", "base64") : Buffer.from(line)

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
      const asked = yield* ask(queue, settings, { action, letters, by: operator() })
      yield* awaitOwner(asked, queue, patience.value)
    }
    const open = yield* openLetters(yield* queuesOf(options.directory))
    const stay = chosen.filter((letter) => open.some(({ name }) => name === letter.name))
    const done = chosen.length - stay.length
    const word = action === "retry" ? "appended again" : "discarded"
    if (options.json) yield* printJson({ [action]: done, stay: stay.map(({ name }) => name) })
    else yield* print(`${counted(done, "dead letter")} ${word}.`)
    if (stay.length > 0) {
      const names = stay.map(({ name }) => name).join(", ")
      return yield* new Ended({
        code: ExitCode.needsOperator,
        message: `Only lines that are JSON objects of a fitting size can be appended again: ${names} stay.`
      })
    }
  })

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
