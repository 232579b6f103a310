/** `effect-audit serve`: one page on this machine, for those who like to look rather than read. */
import { Effect } from "effect"
import { Command, Options } from "./effectCli.js"
import { directory, findQueues, queuesOf } from "./settings.js"

const port = Options.integer("port").pipe(
  Options.withDefault(0),
  Options.withDescription("The port on this machine; a free one by default")
)

export const serve = Command.make("serve", { directory, port }, (options) =>
  Effect.gen(function* () {
    yield* findQueues(options.directory)
    // late, since all other commands start without a server
    const { runServer } = yield* Effect.promise(() => import("./server.js"))
    yield* queuesOf(options.directory)
    return yield* runServer(options.directory, options.port)
  })
).pipe(
  Command.withDescription(
    "A page on this machine that shows the queue, live; its address holds the token that opens it"
  )
)
