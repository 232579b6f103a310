/**
 * `effect-audit erase` and `purge`: have a seal permit an erasure or a removal, then print the SQL for it. The program
 * that owns the queue makes the seal; the command only reads the database.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import { Effect, Option, Stream } from "effect"
import { erasing, purging, sealedRows, sealsBefore } from "../internal/proof/permitted.js"
import { sealNamed, type SealName, type Source } from "../internal/proof/verify.js"
import { lastSealOf, ownerOf } from "../internal/queue/inspect.js"
import * as requests from "../internal/queue/requests.js"
import { textOf } from "../schema/EventId.js"
import { sqlDateTime } from "../schema/Line.js"
import { Disk } from "../services/Disk.js"
import type { Permission } from "../services/QueueFile.js"
import { awaitOwner, patienceOf } from "./dead.js"
import { Args, Command, Options } from "./effectCli.js"
import { Ended, ExitCode, usageError } from "./exit.js"
import { counted } from "./format.js"
import { momentOf } from "./moment.js"
import { operator } from "./owner.js"
import { database, directory, queuesOf, sqlite } from "./settings.js"
import { sourceOf } from "./source.js"
import { print, say } from "./terminal.js"

const wait = Options.text("wait").pipe(
  Options.withDefault("90 seconds"),
  Options.withDescription("How long to wait for the seal")
)

const kind = Options.text("kind").pipe(Options.withDescription("The kind of the events, for example use_log"))

const file = Options.file("ids").pipe(
  Options.withDescription("A file with the ids of events, one a line"),
  Options.optional
)

const ids = Args.text({ name: "id" }).pipe(Args.withDescription("The ids of events"), Args.repeated)

export const erase = Command.make(
  "erase",
  { directory, kind, file, ids, wait, sqlite, ...database },
  (options) =>
    Effect.scoped(
      Effect.gen(function* () {
        const meant = yield* idsOf(options.ids, options.file)
        const source = yield* sourceOf(options)
        const found = yield* sealedRows(source, options.kind, (id) => meant.has(id))
        for (const { eventIds } of found) for (const id of eventIds) meant.delete(textOf(id))
        const [unknown] = meant
        if (unknown !== undefined)
          return yield* usageError(
            `No seal is about an event ${unknown} of kind ${options.kind}. Nothing was changed.`
          )
        const bare = found.find(({ manifest }) => manifest.erasable.length === 0)
        if (bare !== undefined)
          return yield* usageError(
            `The kind ${options.kind} names no fields that may be erased (erasable). Nothing was changed.`
          )
        const events = found.flatMap(({ eventIds }) => eventIds.map(textOf))
        yield* permit(options, [{ action: "erase", kind: options.kind, events }])
        let statements = 0
        for (const sealed of found)
          yield* Stream.runForEach(erasing(source, sealed), (line) => {
            statements++
            return print([line])
          })
        const next =
          statements === 0
            ? "They are erased already: there is nothing to run."
            : "Run the statements; prove finds nothing."
        yield* say(`A seal permits to erase ${counted(events.length, "event")}. ${next}`)
      })
    )
).pipe(
  Command.withDescription(
    "Have a seal permit that the erasable fields of events are erased, and print the SQL that erases them"
  )
)

const before = Options.text("before").pipe(
  Options.withDescription(
    'What was sealed before a date, 2026-01-31, before "400 days", or before a seal, CHAIN:NUMBER'
  )
)

export const purge = Command.make("purge", { directory, before, wait, sqlite, ...database }, (options) =>
  Effect.scoped(
    Effect.gen(function* () {
      const source = yield* sourceOf(options)
      const named = sealNamed(options.before)
      const meant =
        named === undefined
          ? yield* sealsBefore(source, sqlDateTime((yield* momentOf("before", Option.some(options.before)))!))
          : yield* beforeSeal(source, named)
      if (meant.length === 0) return yield* say("Nothing was sealed before that.")
      yield* permit(
        options,
        meant.map((each) => ({ action: "purge", ...each }))
      )
      for (const { before, chain } of meant)
        yield* Stream.runForEach(purging(source, chain, before), (line) => print([line]))
      yield* say("A seal permits to remove these rows. Run the statements; prove finds nothing. Seals stay.")
    })
  )
).pipe(
  Command.withDescription(
    "Have a seal permit that rows are removed that were sealed before a date, and print the SQL that removes them"
  )
)

/** A seal that is to come is refused: its rows would be permitted to go before anybody has seen them. */
const beforeSeal = <E>(source: Source<E>, { chain, number }: SealName) =>
  Effect.gen(function* () {
    if ((yield* source.seal(chain, number)) === undefined)
      return yield* usageError(
        `There is no seal ${chain}:${number}; prove prints the last one of each chain. Nothing was changed.`
      )
    return number === 0 ? [] : [{ chain, before: number }]
  })

/** of one request, since one seal must hold them all */
const MOST_EVENTS = 10_000

const idsOf = (named: ReadonlyArray<string>, file: Option.Option<string>) =>
  Effect.gen(function* () {
    const text = Option.isNone(file)
      ? ""
      : yield* Effect.flatMap(FileSystem.FileSystem, (files) => files.readFileString(file.value))
    const ids = new Set(
      [...named, ...text.split(/\s+/)].filter((id) => id !== "").map((id) => id.toLowerCase())
    )
    for (const id of ids)
      if (!UUID.test(id)) return yield* usageError(`${id} is no id of an event: events have UUIDs.`)
    if (ids.size === 0) return yield* usageError("Say which events: their ids, or --ids FILE.")
    if (ids.size > MOST_EVENTS)
      return yield* usageError(`At most ${MOST_EVENTS} events at once: ask for the others afterwards.`)
    return ids
  })

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** Has the owner of one queue seal the permissions: to a proof, any of several instances will do. */
const permit = (
  options: { readonly directory: Option.Option<string>; readonly wait: string },
  permissions: ReadonlyArray<Permission>
) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const patience = yield* patienceOf(options.wait)
    for (const queue of yield* queuesOf(options.directory)) {
      const owner = yield* ownerOf(disk, queue.directory)
      if (owner === undefined || (yield* lastSealOf(disk, queue.directory)) === undefined) continue
      const files = yield* Effect.forEach(permissions, (permission) =>
        requests.submit(disk, queue.directory, { ...permission, by: operator() })
      )
      return yield* awaitOwner({ files, owner }, queue, patience)
    }
    return yield* new Ended({
      code: ExitCode.needsOperator,
      message:
        "No program that seals owns the queue, so no seal can permit it: start the program and repeat the command. " +
        "Nothing was changed."
    })
  })
