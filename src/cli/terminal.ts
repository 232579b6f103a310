/**
 * The output of the command. Everything that reaches a screen is escaped by {@link render}: no line, letter or server
 * can move the cursor. Only {@link paint} makes colours.
 */
import { Console, Effect, Logger } from "effect"
import { stripVTControlCharacters, styleText } from "node:util"
import { jsonOf, visible, widthOf } from "./format.js"

type Stream = typeof process.stdout | typeof process.stderr
type Style = Parameters<typeof styleText>[0]

class Painted {
  constructor(
    readonly style: Style,
    readonly text: string
  ) {}
}

/** A piece of a line: a text of any origin, or one in a style. */
export type Part = string | Painted

export type Line = Part | ReadonlyArray<Part>

/** https://no-color.org */
const hasColours = (stream: Stream) =>
  stream.isTTY && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb"

export const isTerminal = (stream: Stream): boolean => stream.isTTY

/** The width of a terminal. Other output has none: its lines stay whole, for grep. */
export const columnsOf = (stream: Stream): number | undefined =>
  stream.isTTY && stream.columns > 0 ? stream.columns : undefined

/** Whether a program reads the output. */
export const isJson = process.argv.includes("--json")

/** A text in a style, for streams that show colours. */
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

/** Cuts a line between words so that it fits the terminal, and indents all lines but the first. */
export const fit = (line: Line, indent: number, columns = columnsOf(process.stdout)): ReadonlyArray<Line> => {
  if (columns === undefined) return [line]
  const lines: Array<Array<Part>> = [[]]
  let width = 0
  for (const part of partsOf(line)) {
    const text = visible(typeof part === "string" ? part : part.text)
    for (const word of text.split(/(?<=\s)(?=\S)/)) {
      if (width > indent && width + widthOf(word.trimEnd()) > columns) {
        // trims the blank at the cut
        const cut = lines.at(-1)!
        const last = cut.at(-1)
        if (typeof last === "string") cut[cut.length - 1] = last.trimEnd()
        lines.push([" ".repeat(indent)])
        width = indent
      }
      lines.at(-1)!.push(typeof part === "string" ? word : paint(part.style, word))
      width += widthOf(word)
    }
  }
  return lines
}

/** Results, a line each, to stdout. */
export const print = (lines: Iterable<Line>): Effect.Effect<void> =>
  Effect.forEach(lines, (line) => Console.log(render(process.stdout, line)), { discard: true })

// not by the Console, which is silent under --json
const toStderr = (text: string) => Effect.sync(() => void process.stderr.write(`${text}\n`))

/** Notes go to stderr, so that results can be piped. */
export const say = (...lines: ReadonlyArray<Line>): Effect.Effect<void> =>
  isJson
    ? toStderr(jsonOf({ note: lines.map(textOf).join("\n") }))
    : Effect.forEach(
        lines.flatMap((line) => fit(line, 2, columnsOf(process.stderr))),
        (line) => toStderr(render(process.stderr, line)),
        { discard: true }
      )

/** Why the command fails, on stderr; under --json an object of one line. */
export const sayError = (exitCode: number, text: string): Effect.Effect<void> =>
  isJson ? toStderr(jsonOf({ error: text, exitCode })) : say(...text.split("\n"))

/** Writes text to stdout, and waits until it is taken, to keep no export in memory. A terminal gets it escaped. */
export const write = (text: string | Uint8Array): Effect.Effect<void> =>
  process.stdout.isTTY
    ? print((typeof text === "string" ? text : Buffer.from(text).toString()).split(/\r?\n/).slice(0, -1))
    : Effect.async<void>((resume) => {
        process.stdout.write(text, () => resume(Effect.void))
      })

const textOf = (line: Line): string =>
  partsOf(line)
    .map((part) => (typeof part === "string" ? part : part.text))
    .join("")

/** One value on one line, escaped as JSON, so that a program reads the same value. */
export const printJson = (value: unknown): Effect.Effect<void> => Console.log(jsonOf(value))

/** A message of @effect/cli without an unknown argument, which may be a password. */
export const withoutArgument = (text: string): string =>
  text.replace(/(unknown argument): '(?!--[a-z-]+').*'/s, "$1, which may be a password: it is not repeated")

/** Strips @effect/cli's colours where nobody sees them, and under --json its errors, which {@link sayError} prints. */
export const withPlainConsole = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Console.consoleWith((console) => {
    const plain = (stream: Stream, args: ReadonlyArray<unknown>) =>
      hasColours(stream)
        ? args
        : args.map((arg) => (typeof arg === "string" ? stripVTControlCharacters(arg) : arg))
    return Effect.withConsole(effect, {
      ...console,
      log: (...args) => console.log(...plain(process.stdout, args)),
      error: (...args) =>
        isJson
          ? Effect.void
          : console.error(
              ...plain(process.stderr, args).map((arg) =>
                typeof arg === "string" ? withoutArgument(arg) : arg
              )
            )
    })
  })

/** The log, on stderr. At Debug it repeats messages of a database, which may repeat rows. */
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

/** A line wider than the terminal would take two rows, and the next drawing would clear one too few. */
const clip = (line: string, columns: number): string => {
  if (stripVTControlCharacters(line).length < columns) return line
  return `${stripVTControlCharacters(line).slice(0, columns - 2)}…`
}

const BAR = 30

/** A bar for a share that is done, from 0 to 1. */
export const bar = (share: number): ReadonlyArray<Part> => {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * BAR)
  return [paint("green", "█".repeat(filled)), "░".repeat(BAR - filled)]
}
