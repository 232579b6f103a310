/** What `effect-audit` says without a command. */
import { formatTable } from "./format.js"
import { columnsOf, fit, type Line, paint } from "./terminal.js"

const COMMANDS = [
  ["status", "what waits, how delivery is going, what is to be done; --watch goes on"],
  ["tail, show ID", "events as they stand in the queue, prompts masked unless --reveal"],
  ["events", "events that were delivered: found by time, user and field, exported, counted"],
  ["flush", "deliver what waits, when no program owns the queue"],
  ["dead list, show, retry, export, discard", "the lines that cannot be delivered, and what becomes of them"],
  ["doctor", "everything that delivery needs, checked line by line"],
  ["migrate", "make the tables, or fit existing ones; --print shows the SQL"],
  ["adopt FILE", "take over the queue file of the Python class"],
  ["verify", "read and check every file of the queue; nothing is changed"],
  ["prove --key FILE", "whether every sealed row of a database is as it was delivered"],
  ["erase, purge", "what the law has erased or removed: a seal permits it, then the SQL is printed"],
  ["serve", "a page on this machine that shows the queue, live"]
]

export const overview = (version: string, columns = columnsOf(process.stdout)): ReadonlyArray<Line> => [
  `effect-audit ${version}`,
  "",
  ...formatTable(
    COMMANDS.map(([name, text]) => [`  ${name!}`, text!]),
    columns
  ).flatMap(([first, ...others], index) => {
    const name = `  ${COMMANDS[index]![0]!}`
    const line = first!.startsWith(name) ? [paint("bold", name), first!.slice(name.length)] : first!
    return [line, ...others]
  }),
  "",
  ...[
    "The queue is that of --directory (-d), AUDIT_DIRECTORY or ./audit. Most print JSON by --json, errors included.",
    "Flags and variables of a command: effect-audit COMMAND --help. Completions: --completions bash|zsh|fish. " +
      "Log: --log-level info.",
    "Exit code: 0 fine, 1 lagging, 2 needs an operator, 3 integrity, 64 wrong usage, 70 a defect."
  ].flatMap((line) => fit(line, 2, columns))
]
