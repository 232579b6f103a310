/** `effect-audit serve`: a page on this machine that shows the queue, live. */
import { Effect, Option } from "effect"
import { Command, Options } from "./effectCli.js"
import { audit, makeRecorder } from "./readings.js"
import { database, directory, events, findQueues, kindsOf, queuesOf, settingsOf, sqlite } from "./settings.js"

const port = Options.integer("port").pipe(
  Options.withDefault(0),
  Options.withDescription("The port on this machine; a free one by default")
)

// --port is the page's: the port of a database stands in its URL, or behind its host
const { port: _, ...databaseFlags } = database

export const serve = Command.make(
  "serve",
  { directory, port, audit, events, sqlite, ...databaseFlags },
  (options) =>
    Effect.gen(function* () {
      yield* findQueues(options.directory)
      const record = yield* makeRecorder(options.audit)
      const kinds = yield* kindsOf(options.events)
      const settings = yield* settingsOf(options.directory)
      // before queuesOf: the owner of the queue may not be able to read what is installed
      const isNamed = [options.url, options.database, options.sqlite].some((option) => option._tag === "Some")
      const { openTrail } = yield* Effect.promise(() => import("./trail.js"))
      const flags = { ...options, port: Option.none<number>() }
      const open = isNamed ? yield* openTrail(flags, kinds, settings.directory) : undefined
      // imported late, so that other commands start without a server
      const { runServer } = yield* Effect.promise(() => import("./server.js"))
      yield* queuesOf(options.directory)
      return yield* runServer(options.directory, options.port, { open, kinds, record })
    }).pipe(Effect.scoped)
).pipe(
  Command.withDescription(
    "A page on this machine that shows the queue, live, and the events in the database if one is named; its address " +
      "holds the token that opens it"
  )
)
