/** What `effect-audit` says without a command. */
import { widthOf } from "./format.js"
import { type Line, paint } from "./terminal.js"

const COMMANDS = [
  ["status", "what waits, how delivery is going, what is to be done; --watch goes on"],
  ["tail, show ID", "events as they stand in the queue, prompts masked unless --reveal"],
  ["flush", "deliver what waits, when no program owns the queue"],
  ["dead list, show, retry, export, discard", "the lines that cannot be delivered, and what becomes of them"],
  ["doctor", "everything that delivery needs, checked line by line"],
  ["migrate", "make the tables, or fit existing ones; --print shows the SQL"],
  ["adopt FILE", "take over the queue file of the Python class"],
  ["verify", "read and check every file of the queue; nothing is changed"],
  ["serve", "a page on this machine that shows the queue, live"]
]

const WIDTH = 2 + Math.max(...COMMANDS.map(([name]) => widthOf(name!)))

export const overview = (version: string): ReadonlyArray<Line> => [
  `effect-audit ${version}`,
  "",
  ...COMMANDS.map(([name, text]): Line => [
    "  ",
    paint("bold", name!),
    " ".repeat(WIDTH - widthOf(name!)),
    text!
  ]),
  "",
  "The queue is that of --directory, AUDIT_DIRECTORY or ./audit. All print JSON by --json.",
  "Flags of a command: effect-audit COMMAND --help. Completions: --completions bash|zsh|fish. Log: --log-level info.",
  "Exit code: 0 fine, 1 lagging, 2 needs an operator, 3 integrity, 64 wrong usage."
]
