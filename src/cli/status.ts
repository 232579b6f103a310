/** `effect-audit status`: the state of a queue in one look. */
import { Clock, Duration, Effect, Option, Schedule } from "effect"
import type { Inspection } from "../internal/queue/inspect.js"
import { inspect } from "../internal/queue/inspect.js"
import type { Balance } from "../services/QueueFile.js"
import { Disk } from "../services/Disk.js"
import { Command, Options } from "./effectCli.js"
import { endWith, type ExitCode, usageError, worst } from "./exit.js"
import { counted, formatBytes, formatCount, formatSpan } from "./format.js"
import { directory, json, queuesOf, settingsOf } from "./settings.js"
import { fit, isTerminal, type Line, makeCanvas, paint, type Part, print, printJson } from "./terminal.js"
import type { Limits, State, Verdict } from "./verdict.js"
import { describeSeal, judge, statusOf } from "./verdict.js"

const watch = Options.boolean("watch").pipe(
  Options.withAlias("w"),
  Options.withDescription("Look again every second, until interrupted")
)

const lag = Options.text("lag").pipe(
  Options.withDefault("5 minutes"),
  Options.withDescription("How old the oldest event may be before the exit code is 1")
)

export const status = Command.make("status", { directory, json, lag, watch }, (options) =>
  Effect.gen(function* () {
    const maxAge = Duration.decodeUnknown(options.lag)
    if (Option.isNone(maxAge))
      return yield* usageError(`--lag ${options.lag} is no duration: say "5 minutes".`)
    const look = survey(options.directory, Duration.toMillis(maxAge.value))
    if (!options.watch) {
      const found = yield* look
      yield* options.json ? printJson(found) : print(describe(found))
      if (found.code !== 0) return yield* endWith(found.code)
      return
    }
    const canvas = makeCanvas(process.stdout)
    yield* Effect.repeat(
      Effect.flatMap(look, (found) => {
        if (options.json) return printJson(found)
        return isTerminal(process.stdout) ? canvas.draw(describe(found)) : print([...describe(found), ""])
      }),
      Schedule.spaced("1 second")
    )
  })
).pipe(
  Command.withDescription(
    "What waits, how delivery is going and what is to be done. Exit code: 0 fine, 1 lagging, 2 needs an operator, " +
      "3 integrity."
  )
)

export interface Surveyed extends Inspection, Verdict {
  readonly name: string | undefined
}

export interface Survey {
  readonly code: ExitCode
  readonly at: number
  readonly queues: ReadonlyArray<Surveyed>
}

export const survey = (given: Option.Option<string>, lagMillis: number) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { maxLineBytes, minFreeBytes } = yield* settingsOf(given)
    const limits: Limits = { lag: lagMillis, minFreeBytes }
    const at = yield* Clock.currentTimeMillis
    const queues = yield* Effect.forEach(yield* queuesOf(given), ({ directory, name }) =>
      Effect.map(inspect(disk, directory, { maxLineBytes }), (found): Surveyed => ({
        name,
        ...found,
        ...judge(found, at, limits)
      }))
    )
    return { code: worst(queues.map(({ code }) => code)), at, queues } satisfies Survey
  })

const LIGHTS: Readonly<Record<State, "green" | "yellow" | "red">> = {
  idle: "green",
  delivering: "green",
  waiting: "yellow",
  offline: "yellow",
  needsOperator: "red",
  integrity: "red"
}

const describe = ({ at, queues }: Survey): ReadonlyArray<Line> => {
  const blocks = queues.map((queue) => describeQueue(queue, at))
  return queues.length === 1
    ? blocks[0]!
    : [...blocks.flatMap((block) => [...block, ""]), describeSum(queues)]
}

const describeQueue = (queue: Surveyed, now: number): ReadonlyArray<Line> => {
  const light = paint(queue.code === 1 ? "yellow" : LIGHTS[queue.state], "●")
  const [first, ...others] = queue.sentences
  return [
    ...fit([light, " ", paint("bold", first!)], 2),
    ...others.flatMap((sentence) => fit(`  ${sentence}`, 2)),
    ...facts(queue, now).flatMap(([name, ...parts]) =>
      fit(["  ", paint("dim", name.padEnd(10)), ...parts], 12)
    )
  ]
}

const facts = (queue: Surveyed, now: number): ReadonlyArray<readonly [string, ...ReadonlyArray<Part>]> => {
  const { delivery, oldest, owner, volume, waiting, waitingBytes } = queue
  const age = oldest === undefined ? "" : `, the oldest ${formatSpan(now - oldest)} old`
  const last = delivery?.lastDelivery
  const rate = statusOf(queue)?.rate ?? 0
  return [
    ["queue", queue.directory],
    ["owner", owner === undefined ? "none" : `process ${owner.pid ?? "unknown"}`],
    ["waiting", `${counted(waiting, "event")}, ${formatBytes(waitingBytes)}${age}`],
    [
      "delivered",
      `${formatCount(queue.delivered)}${last == null ? "" : `, the last ${formatSpan(now - last)} ago`}` +
        (rate > 0 && waiting > 0 ? `, ${formatCount(rate)} a second` : "")
    ],
    ["books", ...describeBalance(queue)],
    ...(queue.seal === undefined ? [] : [["sealed", describeSeal(queue.seal)] as const]),
    ["disk", `${formatBytes(volume.freeBytes)} free (${volume.type})`]
  ]
}

const describeBalance = (balance: Balance): ReadonlyArray<Part> => {
  const { accepted, dead, delivered, discarded, missing, retried, torn, waiting } = balance
  const terms = Object.entries({ delivered, waiting, dead, retried, discarded, torn }).filter(
    ([name, count]) => count !== 0 || name === "delivered" || name === "waiting"
  )
  const sum = terms.map(([name, count]) => `${formatCount(count)} ${name}`).join(" + ")
  const missed = missing === 0 ? "0 missing" : paint("red", `${formatCount(missing)} missing`)
  return [`${formatCount(accepted)} accepted = ${sum}; `, missed]
}

const describeSum = (queues: ReadonlyArray<Surveyed>): string => {
  const sum = (key: "waiting" | "delivered" | "dead" | "missing") =>
    formatCount(queues.reduce((total, queue) => total + queue[key], 0))
  return `${counted(queues.length, "queue")}: ${sum("waiting")} waiting, ${sum("delivered")} delivered, ${sum("dead")} dead, ${sum("missing")} missing`
}
