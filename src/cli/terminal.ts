/**
 * Where the command writes. Everything that reaches a screen goes through {@link render}: a plain text is escaped there,
 * so that no line, letter or server can move the cursor; only what {@link paint} made is in colour.
 */
import { Console, Effect, Logger } from "effect"
import { stripVTControlCharacters, styleText } from "node:util"
import { jsonOf, visible } from "./format.js"

type Stream = typeof process.stdout | typeof process.stderr
type Style = Parameters<typeof styleText>[0]

/** A text in a style. */
class Painted {
  constructor(
    readonly style: Style,
    readonly text: string
  ) {}
}

/** A piece of a line: a text of any origin, or one in a style. */
export type Part = string | Painted

/** One line of output. */
export type Line = Part | ReadonlyArray<Part>

/** https://no-color.org */
const hasColours = (stream: Stream) =>
  stream.isTTY && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb"

export const isTerminal = (stream: Stream): boolean => stream.isTTY

/** A text in a style, where it will be seen. */
export const paint = (style: Style, text: string): Painted => new Painted(style, text)

const partsOf = (line: Line): ReadonlyArray<Part> =>
  typeof line === "string" || line instanceof Painted ? [line] : line

/** The only way to a screen. */
const render = (stream: Stream, line: Line): string =>
  partsOf(line)
    .map((part) => {
      if (typeof part === "string") return visible(part)
      const text = visible(part.text)
      return hasColours(stream) ? styleText(part.style, text, { validateStream: false }) : text
    })
    .join("")

/** Results, a line each, to stdout. */
export const print = (lines: Iterable<Line>): Effect.Effect<void> =>
  Effect.forEach(lines, (line) => Console.log(render(process.stdout, line)), { discard: true })

/** What is no result goes to stderr, so that the output can be piped. */
export const say = (...lines: ReadonlyArray<Line>): Effect.Effect<void> =>
  Effect.forEach(lines, (line) => Console.error(render(process.stderr, line)), { discard: true })

/** One value in one line; escaped as JSON does it, so that a program reads the same value. */
export const printJson = (value: unknown): Effect.Effect<void> => Console.log(jsonOf(value))

/** Without the colours of @effect/cli where nobody sees them. */
export const withPlainConsole = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Console.consoleWith((console) => {
    const plain = (stream: Stream, args: ReadonlyArray<unknown>) =>
      hasColours(stream)
        ? args
        : args.map((arg) => (typeof arg === "string" ? stripVTControlCharacters(arg) : arg))
    return Effect.withConsole(effect, {
      ...console,
      log: (...args) => console.log(...plain(process.stdout, args)),
      error: (...args) => console.error(...plain(process.stderr, args))
    })
  })

/** The log, on stderr: at Debug it repeats a database's words, which repeat rows. */
export const logger = Logger.replace(
  Logger.defaultLogger,
  Logger.withConsoleError(Logger.map(Logger.logfmtLogger, visible))
)

/** Draws lines in place of those that it drew before. */
export const makeCanvas = (stream: Stream) => {
  let height = 0
  return {
    draw: (lines: ReadonlyArray<Line>): Effect.Effect<void> =>
      Effect.sync(() => {
        const columns = stream.columns > 0 ? stream.columns : 80
        const fitting = lines.map((line) => clip(render(stream, line), columns))
        stream.write(`${height > 0 ? `\x1b[${height}A` : ""}\r\x1b[J${fitting.join("\n")}\n`)
        height = fitting.length
      })
  }
}

/** A line that is longer than the terminal is wide would take two, and the next drawing would miss one. */
const clip = (line: string, columns: number): string => {
  if (stripVTControlCharacters(line).length < columns) return line
  return `${stripVTControlCharacters(line).slice(0, columns - 2)}…`
}

const BAR = 30

/** How much of something is done, from 0 to 1. */
export const bar = (share: number): ReadonlyArray<Part> => {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * BAR)
  return [paint("green", "█".repeat(filled)), "░".repeat(BAR - filled)]
}
