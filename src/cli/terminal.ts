/** Where the command writes: colours and drawings on a terminal only. */
import { Console, Effect, Logger } from "effect"
import { stripVTControlCharacters, styleText } from "node:util"

type Stream = typeof process.stdout | typeof process.stderr
type Style = Parameters<typeof styleText>[0]

/** https://no-color.org */
const hasColours = (stream: Stream) =>
  stream.isTTY && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb"

export const isTerminal = (stream: Stream): boolean => stream.isTTY

/** A text in a style, where it will be seen. */
export const paint = (style: Style, text: string): string =>
  hasColours(process.stdout) ? styleText(style, text, { validateStream: false }) : text

export const print = (...lines: ReadonlyArray<string>): Effect.Effect<void> =>
  Effect.forEach(lines, (line) => Console.log(line), { discard: true })

/** What is no result goes to stderr, so that the output can be piped. */
export const say = (text: string): Effect.Effect<void> => Console.error(text)

export const printJson = (value: unknown): Effect.Effect<void> => Console.log(JSON.stringify(value))

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

/** The log, on stderr. */
export const logger = Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger))

/** Draws lines in place of those that it drew before. */
export const makeCanvas = (stream: Stream) => {
  let height = 0
  return {
    draw: (lines: ReadonlyArray<string>): Effect.Effect<void> =>
      Effect.sync(() => {
        const fitting = lines.map((line) => clip(line, stream.columns > 0 ? stream.columns : 80))
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
