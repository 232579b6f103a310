/** `effect-audit prove`: checks that every sealed row of a database is as it was delivered; changes nothing. */
import * as FileSystem from "@effect/platform/FileSystem"
import { type Clock, Effect, Either, Option } from "effect"
import * as v8 from "node:v8"
import { monotonicMillis } from "../internal/monotonic.js"
import { verifyingKey } from "../internal/proof/keys.js"
import type { Head } from "../internal/proof/notices.js"
import {
  anchorsIn,
  type Finding,
  type Progress,
  type Proved,
  sealNamed,
  type Summary,
  verify
} from "../internal/proof/verify.js"
import { Command, Options } from "./effectCli.js"
import { endWith, ExitCode, usageError } from "./exit.js"
import { describeFinding, failure, ok, warning } from "./findings.js"
import { counted, formatCount } from "./format.js"
import { database, json, sqlite, tablesOf } from "./settings.js"
import { sourceOf } from "./source.js"
import { isTerminal, makeCanvas, print, printJson } from "./terminal.js"

const key = Options.file("key").pipe(
  Options.withDescription(
    "The public key of the seals, PEM; the private one is not needed, and refused. Again for each key that was not " +
      "named by the one before"
  ),
  Options.atLeast(1)
)

const anchors = Options.file("anchors").pipe(
  Options.withDescription(
    "A file with heads that were written down elsewhere, such as the log of the program"
  ),
  Options.optional
)

const since = Options.text("since").pipe(
  Options.withDescription(
    "CHAIN:NUMBER, a seal that an earlier proof came to: rows before it are not read again"
  ),
  Options.optional
)

const exclusive = Options.boolean("exclusive").pipe(
  Options.withDescription("A row without a proof is a finding: nobody else writes to the tables")
)

/** By V8's default, garbage would pile up: a million rows took 270 MB, and take 156 (bench/README.md#proof). */
const collectEarly = Effect.sync(() => v8.setFlagsFromString("--heap-growing-percent=50"))

export const prove = Command.make(
  "prove",
  { key, anchors, since, exclusive, json, sqlite, ...database },
  (options) =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* collectEarly
        const keys = yield* Effect.forEach(options.key, keyIn)
        const heads = Option.isSome(options.anchors) ? yield* anchorsOf(options.anchors.value) : undefined
        const from = Option.isSome(options.since) ? yield* sealOf(options.since.value) : undefined
        const tables = yield* tablesOf(options.tables)
        const source = yield* sourceOf(options)
        const summary = yield* verify(source, {
          keys,
          anchors: heads ?? [],
          since: from,
          isExclusive: options.exclusive,
          tables,
          report: (finding) =>
            options.json
              ? printJson({ level: "failure", ...finding })
              : print(describeFinding(asFailure(finding))),
          progress:
            options.json || !isTerminal(process.stderr)
              ? () => Effect.void
              : makeProgress(yield* Effect.clock)
        })
        yield* options.json ? printJson({ level: "summary", ...summary }) : print(describe(summary, heads))
        if (summary.findings > 0) return yield* endWith(ExitCode.integrity)
      })
    )
).pipe(
  Command.withDescription(
    "Prove that no row was changed, removed or added since it was delivered with a seal; nothing is changed. Needs the " +
      "database and the public key alone. Exit code 3 if something is wrong."
  )
)

const keyIn = (file: string) =>
  Effect.gen(function* () {
    const found = verifyingKey(yield* (yield* FileSystem.FileSystem).readFileString(file))
    return Either.isLeft(found) ? yield* usageError(`${file}: ${found.left}`) : found.right
  })

/** The heads in a file. A file without any cannot be the one that was meant. */
const anchorsOf = (file: string) =>
  Effect.gen(function* () {
    const text = yield* (yield* FileSystem.FileSystem).readFileString(file)
    const heads = anchorsIn(text)
    if (heads.length === 0)
      return yield* usageError(`${file} holds no head: its lines have to say chain=… number=… head=…`)
    return heads
  })

const sealOf = (text: string) => {
  const named = sealNamed(text)
  return named === undefined
    ? usageError(`${text} names no seal: write CHAIN:NUMBER, as an earlier proof printed it.`)
    : Effect.succeed(named)
}

const asFailure = ({ eventId, kind, subject, text }: Finding) =>
  failure(eventId === undefined ? subject : `${subject} ${eventId}`, `${kind}: ${text}`)

const describe = (
  { bare, chains, findings, rows, seals, unsealed }: Summary,
  anchors: ReadonlyArray<Head> | undefined
) => {
  const looked = `${counted(rows, "row")} and ${counted(seals, "seal")} looked at`
  const others = bare === 0 ? "" : `, ${counted(bare, "row")} without a proof`
  return [
    findings === 0
      ? ok("rows", `${looked}, all as they were sealed${others}`)
      : failure("rows", `${looked}, ${counted(findings, "finding")}${others}`),
    ...(unsealed === 0
      ? []
      : [
          warning(
            "unsealed",
            `events were delivered without a seal ${counted(unsealed, "time")}, as seals tell`
          )
        ]),
    ...chains.flatMap((chain) => [
      // a finding may be anywhere in the chain
      (findings === 0 ? ok : warning)("chain", upTo(chain, findings === 0 ? "proved" : "looked at")),
      ...(anchors === undefined ? [] : anchored(chain, anchors))
    ])
  ].flatMap(describeFinding)
}

const upTo = ({ at, chain, head, number }: Proved, verb: string): string =>
  `${verb} up to seal ${chain}:${number} of ${at}, head ${head}`

const anchored = ({ anchored, chain, number }: Proved, anchors: ReadonlyArray<Head>) => {
  if (anchored !== undefined)
    return [
      ok(
        "anchor",
        `anchored up to seal ${chain}:${anchored}, ${counted(number - anchored, "seal")} before its last`
      )
    ]
  // a finding has told of it
  if (anchors.some((head) => head.chain === chain)) return []
  return [
    warning("anchor", `no head of chain ${chain} was written down elsewhere, so its end could be missing`)
  ]
}

/** milliseconds */
const REDRAW = 200

const makeProgress = (clock: Clock.Clock) => {
  const canvas = makeCanvas(process.stderr)
  let drawn = Number.NEGATIVE_INFINITY
  return ({ rows, seals }: Progress) =>
    Effect.suspend(() => {
      const now = monotonicMillis(clock)
      if (now - drawn < REDRAW) return Effect.void
      drawn = now
      return canvas.draw([`${formatCount(seals)} seals, ${formatCount(rows)} rows`])
    })
}
