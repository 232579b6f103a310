/** `effect-audit tail` and `show`: show events that wait in the queue. */
import { Effect, Option, Stream } from "effect"
import * as deadLetterFile from "../internal/queue/deadLetters.js"
import { eventIdOfLine } from "../internal/python/oldLines.js"
import { idOf } from "../schema/Position.js"
import { queueIdOf } from "../internal/queue/directory.js"
import { type LineLimit, ownerOf, snapshot, waitingLines } from "../internal/queue/inspect.js"
import { Disk } from "../services/Disk.js"
import { Args, Command, Options } from "./effectCli.js"
import { usageError } from "./exit.js"
import { cellOf, jsonOf, visible, widthOf } from "./format.js"
import { isId, isMasked, maskEvent, REVEAL, type Masked } from "./mask.js"
import type { Queue } from "./settings.js"
import { directory, json, queuesOf, reveal, settingsOf } from "./settings.js"
import { type Line, paint, print, printJson, say } from "./terminal.js"

const count = Options.integer("number").pipe(
  Options.withAlias("n"),
  Options.withDefault(10),
  Options.withDescription("How many events, the newest ones")
)

/** An event that waits, masked. */
interface Shown extends Masked {
  readonly queue: string | undefined
  readonly eventId: string | undefined
  /** segment and offset of its line */
  readonly position: string
  readonly sequence: number
}

export const tail = Command.make("tail", { directory, json, reveal, count }, (options) =>
  Effect.gen(function* () {
    const limits = yield* settingsOf(options.directory)
    const masks = { any: false }
    for (const queue of yield* queuesOf(options.directory)) {
      const newest = Stream.takeRight(waitingIn(queue, options.reveal, limits), Math.max(0, options.count))
      yield* Stream.runForEach(newest, (event) => {
        masks.any ||= isMasked(event)
        return options.json ? printJson(event) : print([inOneLine(event)])
      })
    }
    if (masks.any) yield* say(REVEAL)
  })
).pipe(Command.withDescription("The newest events that wait in the queue"))

const id = Args.text({ name: "id" }).pipe(
  Args.withDescription("The id of an event, or where its line stands: segment:offset")
)

export const show = Command.make("show", { directory, json, reveal, id }, (options) =>
  Effect.gen(function* () {
    const limits = yield* settingsOf(options.directory)
    for (const queue of yield* queuesOf(options.directory)) {
      const isMeant = ({ eventId, position }: Shown) =>
        eventId === options.id.toLowerCase() || position === options.id
      const found = yield* Stream.runHead(Stream.filter(waitingIn(queue, options.reveal, limits), isMeant))
      if (Option.isSome(found)) {
        yield* options.json ? printJson(found.value) : print(inFull(found.value))
        if (isMasked(found.value)) yield* say(REVEAL)
        return
      }
      if (yield* isDead(queue, options.id)) {
        return yield* usageError(`${options.id} is a dead letter: see "effect-audit dead show".`)
      }
    }
    return yield* usageError(`No event ${options.id} waits: it is delivered, or was never recorded.`)
  })
).pipe(Command.withDescription("One event that waits in the queue"))

const waitingIn = ({ directory, name }: Queue, isRevealed: boolean, { maxLineBytes }: Required<LineLimit>) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const disk = yield* Disk
      const queueId = yield* queueIdOf(disk, directory)
      const found = yield* snapshot(disk, directory, yield* ownerOf(disk, directory))
      return Stream.map(waitingLines(disk, found, { maxLineBytes }), (line): Shown => {
        const masked = maskEvent(line.bytes, { reveal: isRevealed, oversize: line.oversize })
        const { event } = masked
        const derived = Option.map(queueId, (_) => eventIdOfLine(_, line))
        return {
          queue: name,
          eventId: eventIdOf(event, Option.getOrUndefined(derived)),
          position: idOf(line),
          sequence: line.sequence,
          ...masked
        }
      })
    })
  )

/** An old line has no id, so one is derived. An invalid id is shown, or masked, with the event. */
const eventIdOf = (event: Masked["event"], derived: string | undefined): string | undefined => {
  if (event === undefined) return undefined
  const own = event.event_id
  if (own === undefined) return derived
  return isId(own) ? own.toLowerCase() : undefined
}

const isDead = ({ directory }: Queue, id: string) =>
  Effect.gen(function* () {
    const letters = yield* deadLetterFile.make(yield* Disk, directory)
    return (yield* letters.open((letter) => letter.id === id)).length > 0
  })

const inOneLine = ({ event, eventId, position, queue, text }: Shown): Line => {
  const where = queue === undefined ? "" : `${queue} `
  if (event === undefined) return `${where}${position}  ${text ?? ""}`
  const { event_id, kind, ts, ...rest } = event
  const fields = isId(event_id) ? rest : { event_id, ...rest }
  return [
    where,
    paint("dim", cellOf(ts)),
    "  ",
    paint("cyan", cellOf(kind)),
    `  ${eventId ?? position}  ${jsonOf(fields)}`
  ]
}

const inFull = ({ event, eventId, position, queue, sequence, text }: Shown): ReadonlyArray<Line> => [
  [
    paint("bold", eventId ?? position),
    `${queue === undefined ? "" : ` in ${queue}`}, number ${sequence}, at ${position}`
  ],
  ...(event === undefined ? [text ?? ""] : fieldsOf(event))
]

/** The fields of an event, a line for each. */
export const fieldsOf = (event: Readonly<Record<string, unknown>>): ReadonlyArray<Line> => {
  const entries = Object.entries(event).map(([key, value]) => [visible(key), value] as const)
  const width = entries.reduce((widest, [key]) => Math.max(widest, widthOf(key)), 0)
  return entries.map(([key, value]): Line => {
    const padding = " ".repeat(width - widthOf(key))
    return ["  ", paint("dim", key), `${padding}  ${typeof value === "string" ? value : jsonOf(value)}`]
  })
}
