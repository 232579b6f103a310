/** `effect-audit events`: shows what was delivered, as the database has it. */
import { Chunk, Effect, Option, Stream } from "effect"
import { stopwatch } from "../internal/monotonic.js"
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { Query } from "../services/Trail.js"
import { Command, Options } from "./effectCli.js"
import { fieldsOf } from "./events.js"
import { usageError } from "./exit.js"
import { linesOf } from "./exported.js"
import { counted, formatCount, isCount } from "./format.js"
import { isId, isMasked, REVEAL } from "./mask.js"
import { momentOf } from "./moment.js"
import { audit, makeRecorder, type Reading, type Recorder } from "./readings.js"
import { userFieldOf, whereOf } from "./search.js"
import { database, directory, events as modules, json, kindsOf, settingsOf, sqlite } from "./settings.js"
import { asCsv, asJson, csvHead, masks, showing, tableOf, whereaboutsShown } from "./shown.js"
import { bar, columnsOf, isTerminal, makeCanvas, print, printJson, say, write } from "./terminal.js"
import { kindNamed, leftOut, noEvent, openTrail, type OpenTrail, readableOf } from "./trail.js"

const kind = Options.text("kind").pipe(
  Options.withDescription("The kind of events, or a table of one; all that are known by default"),
  Options.repeated
)
const user = Options.text("user").pipe(Options.withDescription("Those of this user"), Options.optional)
const since = Options.text("since").pipe(
  Options.withDescription('From a date on, 2026-01-31, or from so long ago, "2 hours"'),
  Options.optional
)
const until = Options.text("until").pipe(
  Options.withDescription("Before a date, or so long ago"),
  Options.optional
)
const where = Options.text("where").pipe(
  Options.withDescription(
    "A condition: field=value, field^=beginning, field>=value, field<value or field:null; several must all hold"
  ),
  Options.repeated
)
const csv = Options.boolean("csv").pipe(Options.withDescription("Print CSV, of one kind"))
const count = Options.boolean("count").pipe(
  Options.withDescription("Print how many there are, and no events")
)
const limit = Options.integer("limit").pipe(
  Options.filterMap(Option.liftPredicate(isCount), "--limit is how many are shown: 1 or more"),
  Options.withDescription("How many are shown, the newest; 100 on a terminal, otherwise all of them"),
  Options.optional
)
const id = Options.text("id").pipe(
  Options.withDescription("One event, wherever it is: delivered, waiting in the queue, or a dead letter"),
  Options.optional
)
const reveal = Options.boolean("reveal").pipe(
  Options.withDescription("Show the fields that their kind calls sensitive, which are masked otherwise")
)

const FLAGS = {
  directory,
  json,
  csv,
  count,
  limit,
  id,
  kind,
  user,
  since,
  until,
  where,
  reveal,
  audit,
  events: modules,
  sqlite,
  ...database
}

type Flags = {
  readonly [F in keyof typeof FLAGS]: (typeof FLAGS)[F] extends Options.Options<infer A> ? A : never
}

export const events = Command.make("events", FLAGS, (flags) =>
  Effect.gen(function* () {
    if (flags.csv && (flags.json || flags.count)) {
      return yield* usageError("--csv goes with neither --json nor --count.")
    }
    const record = yield* makeRecorder(flags.audit)
    const known = yield* kindsOf(flags.events)
    const { directory } = yield* settingsOf(flags.directory)
    const open = yield* openTrail(flags, known, directory)
    if (Option.isSome(flags.id)) return yield* showOne(flags, flags.id.value, open, known, record)

    const kinds = yield* chosenKinds(flags, known, open)
    const queries = yield* Effect.forEach(kinds, (kind) => queryOf(flags, kind))
    if (flags.count) return yield* printCounts(flags, open, kinds, queries)
    if (flags.csv && kinds.length > 1) {
      return yield* usageError(
        `Columns of several kinds make no CSV: say one by --kind, of ${kinds.map(({ kind }) => kind).join(", ")}.`
      )
    }
    const isExport = flags.csv || flags.json || !isTerminal(process.stdout)
    if (flags.reveal || isExport) yield* record(readingOf(flags, kinds, isExport))
    yield* isExport && Option.isNone(flags.limit)
      ? exportAll(flags, open, kinds, queries)
      : showNewest(flags, open, kinds, queries)
  }).pipe(Effect.scoped)
).pipe(
  Command.withDescription(
    "The events that were delivered, the newest first, as the database has them. An account that may SELECT is enough."
  )
)

const readingOf = (
  { limit, reveal, since, until, user, where }: Flags,
  kinds: ReadonlyArray<AuditEvent.Any>,
  isExport: boolean
): Reading => ({
  action: isExport ? "audit.export" : "audit.reveal",
  targets: kinds.map(({ kind }) => kind),
  asked: {
    reveal,
    where,
    ...Object.fromEntries(
      Object.entries<Option.Option<unknown>>({ limit, since, until, user }).flatMap(([name, given]) =>
        Option.isSome(given) ? [[name, given.value]] : []
      )
    )
  }
})

/** The kinds that are named, or all known ones that have a table. */
const chosenKinds = (flags: Flags, known: ReadonlyArray<AuditEvent.Any>, open: OpenTrail) =>
  Effect.gen(function* () {
    if (flags.kind.length > 0)
      return yield* Effect.forEach(flags.kind, (name) => kindNamed(name, known, open))
    const found = yield* readableOf(known, open)
    if (found.length === 0) return known.slice(0, 1)
    const without = leftOut(known, found, open)
    if (without !== undefined) yield* say(without)
    return found
  })

type AnyQuery = Query<AuditEvent.Any>

const queryOf = (flags: Flags, kind: AuditEvent.Any) =>
  Effect.gen(function* () {
    const conditions = yield* whereOf(kind, flags.where)
    const userField = userFieldOf(kind)
    if (Option.isSome(flags.user) && userField === undefined) {
      return yield* usageError(
        `Events ${kind.kind} name no user: say which field by --where, or another --kind.`
      )
    }
    const ofUser = Option.isSome(flags.user) ? { [userField!]: flags.user.value } : {}
    return {
      from: yield* momentOf("since", flags.since),
      to: yield* momentOf("until", flags.until),
      where: { ...conditions, ...ofUser } as never,
      order: "descending"
    } satisfies AnyQuery
  })

const printCounts = (
  flags: Flags,
  { trail }: OpenTrail,
  kinds: ReadonlyArray<AuditEvent.Any>,
  queries: ReadonlyArray<AnyQuery>
) =>
  Effect.gen(function* () {
    for (const [index, kind] of kinds.entries()) {
      const count = yield* trail.count(kind, queries[index])
      yield* flags.json
        ? printJson({ kind: kind.kind, count })
        : print([kinds.length === 1 ? String(count) : `${kind.kind}: ${formatCount(count)}`])
    }
  })

const TERMINAL_EVENTS = 100

/** The newest events of all kinds together. */
const showNewest = (
  flags: Flags,
  { trail }: OpenTrail,
  kinds: ReadonlyArray<AuditEvent.Any>,
  queries: ReadonlyArray<AnyQuery>
) =>
  Effect.gen(function* () {
    const limit = Option.getOrElse(flags.limit, () => TERMINAL_EVENTS)
    const found = yield* Effect.forEach(kinds, (kind, index) =>
      trail
        .find(kind, { ...queries[index], limit })
        .pipe(Stream.map(showing(kind, flags.reveal)), Stream.runCollect, Effect.map(Chunk.toReadonlyArray))
    )
    const newest = found
      .flat()
      .sort((a, b) => (a.time === b.time ? 0 : (a.time ?? "") < (b.time ?? "") ? 1 : -1))
      .slice(0, limit)
    if (flags.json) for (const event of newest) yield* printJson(asJson(event))
    else if (flags.csv) yield* write([csvHead(kinds[0]!), ...newest.map(asCsv)].join(""))
    else if (newest.length === 0) yield* print(["No such events."])
    else yield* print(tableOf(newest, kinds, columnsOf(process.stdout)))
    yield* sayMasked(newest.length > 0 && kinds.some((kind) => masks(kind, flags.reveal)))
  })

/** All events, kind by kind, streamed. */
const exportAll = (
  flags: Flags,
  open: OpenTrail,
  kinds: ReadonlyArray<AuditEvent.Any>,
  queries: ReadonlyArray<AnyQuery>
) =>
  Effect.gen(function* () {
    let unfit = 0
    const format = flags.csv ? "csv" : flags.json ? "json" : "text"
    for (const [index, kind] of kinds.entries()) {
      if (flags.csv) yield* write(csvHead(kind))
      const onProgress = yield* makeProgress(open.trail, kind, queries[index]!)
      const pages = linesOf(open, kind, { ...queries[index], onProgress }, flags.reveal, format)
      yield* Stream.runForEach(pages, (lines) => {
        unfit += lines.unfit
        return write(lines.bytes)
      })
    }
    if (unfit > 0)
      yield* say(`${counted(unfit, "row")} did not fit the kind: shown as the database has them.`)
    yield* sayMasked(kinds.some((kind) => masks(kind, flags.reveal)))
  })

const sayMasked = (isSo: boolean) => (isSo ? say(REVEAL) : Effect.void)

/** Shows how far an export has come, after its first second, if stderr alone is a terminal. */
const makeProgress = (trail: OpenTrail["trail"], kind: AuditEvent.Any, query: AnyQuery) =>
  Effect.gen(function* () {
    if (!isTerminal(process.stderr) || isTerminal(process.stdout)) return () => Effect.void
    const end = (order: "ascending" | "descending") =>
      Effect.map(
        Stream.runHead(trail.find(kind, { from: query.from, to: query.to, order, limit: 1 })),
        Option.match({ onNone: () => 0, onSome: ({ time }) => time.getTime() })
      )
    const [oldest, newest] = [yield* end("ascending"), yield* end("descending")]
    const elapsed = yield* stopwatch
    const canvas = makeCanvas(process.stderr)
    return ({ found, time }: { readonly found: number; readonly time: Date | null }) =>
      Effect.suspend(() => {
        if (elapsed() < 1000) return Effect.void
        const share = time === null ? 1 : (newest - time.getTime()) / Math.max(1, newest - oldest)
        return canvas.draw([[...bar(share), `  ${counted(found, "event")}`]])
      })
  })

// ---------------------------------------------------------------------------------------------- one event

const showOne = (
  flags: Flags,
  eventId: string,
  open: OpenTrail,
  known: ReadonlyArray<AuditEvent.Any>,
  record: Recorder
) =>
  Effect.gen(function* () {
    const isUuid: boolean = isId(eventId)
    if (!isUuid) return yield* usageError(`"${eventId}" is no id of an event: it is a UUID.`)
    yield* record({ action: "audit.get", targets: [eventId.toLowerCase()], asked: { reveal: flags.reveal } })
    const found = yield* open.trail.get(eventId)
    if (Option.isNone(found)) return yield* noEvent(eventId, known, open)
    const shown = whereaboutsShown(found.value, known, flags.reveal)
    yield* flags.json ? printJson(shown) : print([shown.where, ...fieldsOf(shown.event)])
    yield* sayMasked(isMasked(shown.event))
  })
