/** A call of the command: its sub-command, with the common options in any place. */
import { Effect } from "effect"
import { distance } from "../internal/spelling.js"
import { CommandDescriptor, HelpDoc, Span, Usage } from "./effectCli.js"
import { usageError, type Ended } from "./exit.js"

/** A command with its sub-commands, which @effect/cli does not expose. */
export interface Node {
  readonly name: string
  readonly descriptor: CommandDescriptor.Command<unknown>
  readonly children: ReadonlyArray<Node>
}

export const nodeOf = (
  { descriptor }: { readonly descriptor: Node["descriptor"] },
  children: ReadonlyArray<Node> = []
): Node => {
  const [name = ""] = CommandDescriptor.getNames(descriptor)
  return { name, descriptor, children }
}

export interface Call {
  /** the words that name the sub-command: `["dead", "list"]` */
  readonly words: ReadonlyArray<string>
  /** the arguments, with those words first */
  readonly args: ReadonlyArray<string>
  readonly descriptor: Node["descriptor"]
}

/** Options that may stand before the sub-command. */
const WITH_VALUE = /^(--directory|-d)$/
const ALONE = /^(--json|--directory=.*|-d=.*)$/

/** Finds the sub-command. If there is none of that name, it suggests the nearest one. */
export const callOf = (root: Node, argv: ReadonlyArray<string>): Effect.Effect<Call, Ended> =>
  Effect.gen(function* () {
    const rest = [...argv]
    const front: Array<string> = []
    const words: Array<string> = []
    let node = root
    for (;;) {
      const [head] = rest
      if (head === undefined || node.children.length === 0) break
      if (WITH_VALUE.test(head) && rest.length > 1) front.push(...rest.splice(0, 2))
      else if (ALONE.test(head)) front.push(...rest.splice(0, 1))
      else if (head.startsWith("-")) break
      else {
        const child = node.children.find(({ name }) => name === head)
        if (child === undefined) {
          const names = node.children.map(({ name }) => name)
          return yield* misspelt(head, words, names)
        }
        words.push(...rest.splice(0, 1))
        node = child
      }
    }
    const wrong = wrongFlag(rest, flagsOf(CommandDescriptor.getUsage(node.descriptor)))
    if (wrong !== undefined) {
      const of = words.length === 0 ? "" : ` of "${words.join(" ")}"`
      return yield* usageError(`There is no flag ${wrong.flag}${of}: did you mean ${wrong.near}?`)
    }
    return { words, args: [...words, ...front, ...rest], descriptor: node.descriptor }
  })

/** The flags of every command. */
const BUILT_IN = ["--help", "--version", "--wizard", "--completions", "--log-level"]

const flagsOf = (usage: Usage.Usage): ReadonlyArray<string> => {
  switch (usage._tag) {
    case "Named":
      return usage.names.filter((name) => name.startsWith("--"))
    case "Optional":
    case "Repeated":
      return flagsOf(usage.usage)
    case "Alternation":
    case "Concat":
      return [...flagsOf(usage.left), ...flagsOf(usage.right)]
    default:
      return []
  }
}

/** The first unknown flag that resembles a known one. */
const wrongFlag = (args: ReadonlyArray<string>, own: ReadonlyArray<string>) => {
  const flags = [...own, ...BUILT_IN]
  const end = args.indexOf("--")
  for (const arg of end === -1 ? args : args.slice(0, end)) {
    const flag = arg.split("=", 1)[0]!.toLowerCase()
    if (!flag.startsWith("--") || flags.includes(flag)) continue
    const near = nearest(
      flag.slice(2),
      flags.map((name) => name.slice(2))
    )
    if (near !== undefined) return { flag, near: `--${near}` }
  }
  return undefined
}

const misspelt = (word: string, before: ReadonlyArray<string>, names: ReadonlyArray<string>) => {
  const near = nearest(word, names)
  // anything else may be a URL with a password, so it is not repeated
  const said = [...before, /^[\w-]{1,40}$/.test(word) ? word : "..."].join(" ")
  const advice =
    near === undefined
      ? `say one of ${[...names].sort().join(", ")}`
      : `did you mean "${[...before, near].join(" ")}"?`
  return usageError(`There is no command "${said}": ${advice}`)
}

/** The name nearest to a word, if one is near enough. */
export const nearest = (word: string, names: ReadonlyArray<string>): string | undefined => {
  const [first] = names
    .map((name) => ({
      name,
      steps: name.startsWith(word) && word !== "" ? 1 : distance(word, name, { swaps: true })
    }))
    .filter(({ name, steps }) => steps <= Math.max(1, Math.floor(name.length / 2)))
    .sort((a, b) => a.steps - b.steps)
  return first?.name
}

/** Whether --help or -h stands before any "--". */
export const isHelp = ({ args }: Call): boolean => {
  const end = args.indexOf("--")
  return (end === -1 ? args : args.slice(0, end)).some((each) => each === "--help" || each === "-h")
}

/** The help of a sub-command, with the whole call as its usage. */
export const helpOf = (
  { descriptor, words }: Call,
  config: Parameters<typeof CommandDescriptor.getHelp>[1]
): string => {
  const parents = ["effect-audit", ...words.slice(0, -1)].join(" ")
  const usage = Usage.enumerate(CommandDescriptor.getUsage(descriptor), config).map((span) =>
    HelpDoc.p(Span.concat(Span.text(`$ ${parents} `), span))
  )
  return HelpDoc.toAnsiText(
    HelpDoc.blocks([
      HelpDoc.h1("USAGE"),
      ...usage,
      CommandDescriptor.getHelp(descriptor, config),
      HelpDoc.p("Options with a variable, and all others: docs/options.md of the package.")
    ])
  ).trimEnd()
}
