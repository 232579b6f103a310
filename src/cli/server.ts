/** The server of `effect-audit serve`: the page, and behind a token the queue, its letters and the events. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { Context, Data, Duration, Effect, Either, Layer, Option, Schema, Stream } from "effect"
import { randomBytes } from "node:crypto"
import { createServer } from "node:http"
import { Disk } from "../services/Disk.js"
import { Authorization, authorization } from "./authorization.js"
import {
  ask,
  contentOf,
  EXPORT_BYTES,
  findLetter,
  findLetters,
  leftOut,
  openLetters,
  readLetter,
  revealed,
  withoutContent
} from "./dead.js"
import { csvOf, type EventSource, Filters, kindsOf, One, oneOf, Page, pageOf } from "./eventPages.js"
import { usageError } from "./exit.js"
import { jsonOf } from "./format.js"
import { maskEvent } from "./mask.js"
import { pageAfter, makeMonitor, type View } from "./monitor.js"
import { operator } from "./owner.js"
import { page, POLICY } from "./page.js"
import * as NodeHttpServer from "./platformServer.js"
import type { Reading, Recorder } from "./readings.js"
import { queuesOf, settingsOf } from "./settings.js"
import { print } from "./terminal.js"

/** Serves the page until interrupted. */
export const runServer = (given: Option.Option<string>, port: number, source: EventSource) =>
  Effect.scoped(
    Effect.gen(function* () {
      const token = randomBytes(24).toString("base64url")
      const disk = yield* Disk
      const listener = makeServer()
      const server = HttpApiBuilder.serve(unstored).pipe(
        Layer.provide(HttpApiBuilder.api(Api)),
        Layer.provide([handlers(given, source.record), eventHandlers(source)]),
        Layer.provide(authorization(token)),
        Layer.provide(pageLayer),
        Layer.provideMerge(NodeHttpServer.layer(() => listener, { host: "127.0.0.1", port })),
        Layer.provide(Layer.succeed(Disk, disk))
      )
      const built = yield* Effect.mapError(Layer.build(server), ({ cause }) => cannotListen(port, cause))
      // otherwise the shutdown would wait for open pages
      yield* Effect.addFinalizer(() => Effect.sync(() => listener.closeAllConnections()))
      // Any web page may ask for an upgrade (WebSocket), and nobody handles the errors of the upgraded socket. Without
      // listeners the upgrade is a request like others.
      listener.removeAllListeners("upgrade")
      const { address } = Context.get(built, HttpServer.HttpServer)
      // browsers send nothing behind the hash to a server, so the token stands in no log
      if (address._tag === "TcpAddress") yield* print([`http://127.0.0.1:${address.port}/#${token}`])
      return yield* Effect.never
    })
  )

/** The state goes out each second. If a connection takes nothing for this long, its reader hangs. */
const STALLED = "1 minute"

/** A server that cuts off a connection on which nothing moves for this long. */
export const makeServer = (stalled: Duration.DurationInput = STALLED) => {
  const server = createServer()
  server.timeout = Duration.toMillis(stalled)
  return server
}

const cannotListen = (port: number, cause: unknown) => {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : "UNKNOWN"
  const reason =
    code === "EADDRINUSE"
      ? `Port ${port} is in use by another program: give another one by --port, or leave it out for a free one.`
      : `The server cannot listen on port ${port} (${code}): give another one by --port, or leave it out.`
  return usageError(reason)
}

/** Keeps answers out of caches: most hold content of events. */
const unstored = HttpMiddleware.make((app) =>
  // not behind the app: by then the response has been sent
  HttpApp.withPreResponseHandler(app, (_, response) =>
    Effect.succeed(
      HttpServerResponse.setHeaders(response, {
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff"
      })
    )
  )
)

/** Server-sent events. A slow reader gets the newest state only, so nothing piles up. */
export const eventsOf = <E, R>(changes: Stream.Stream<View, E, R>): Stream.Stream<string, E, R> =>
  changes.pipe(
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.map((view) => `data: ${jsonOf(view)}\n\n`)
  )

// ----------------------------------------------------------------------------------------------------------- api

/** A refused request: the status, and why. */
class Refusal extends Data.TaggedError("Refusal")<{ readonly status: number; readonly message: string }> {}

const notFound = () =>
  new Refusal({ status: 404, message: "It is gone: no such dead letter waits for a decision." })

/** The letters of a request. At least one: the answer to none would say nothing. */
const Letters = Schema.parseJson(Schema.Struct({ ids: Schema.NonEmptyArray(Schema.String) }))

/** the most of a request's body, which is held in memory; enough for 20,000 ids */
const MAX_BODY_BYTES = 1024 * 1024

/** The letters of a request. Errors do not repeat the body: printing a deeply nested value overflows the stack. */
const lettersAsked = (request: HttpServerRequest.HttpServerRequest) =>
  Effect.gen(function* () {
    // Node enforces Content-Length; a body without one may be endless
    const length = Number(request.headers["content-length"])
    if (!(length <= MAX_BODY_BYTES)) {
      return yield* new Refusal({
        status: 413,
        message: `The body has more than ${MAX_BODY_BYTES} bytes, or no Content-Length: ask for fewer letters at a time.`
      })
    }
    return yield* Schema.decodeUnknown(Letters)(yield* request.text)
  }).pipe(
    Effect.catchTag("ParseError", "RequestError", () =>
      Effect.fail(
        new Refusal({
          status: 400,
          message: 'The body is no request: send JSON like {"ids":["0:0"]}, with ids of /api/letters.'
        })
      )
    )
  )

class QueueApi extends HttpApiGroup.make("queue")
  .add(
    HttpApiEndpoint.get("changes", "/api/changes").addSuccess(
      HttpApiSchema.Text({ contentType: "text/event-stream" })
    )
  )
  .add(
    HttpApiEndpoint.get("letters", "/api/letters")
      .setUrlParams(Schema.Struct({ after: Schema.String }))
      .addSuccess(Schema.Unknown)
  )
  .add(
    HttpApiEndpoint.get("letter", "/api/letter")
      .setUrlParams(Schema.Struct({ id: Schema.String, reveal: Schema.optional(Schema.Literal("yes")) }))
      .addSuccess(Schema.Unknown)
  )
  .add(HttpApiEndpoint.post("retry", "/api/retry").addSuccess(Schema.Unknown))
  .add(
    HttpApiEndpoint.get("exported", "/api/export").addSuccess(
      HttpApiSchema.Text({ contentType: "application/x-ndjson" })
    )
  )
  .middleware(Authorization) {}

class EventsApi extends HttpApiGroup.make("events")
  .add(HttpApiEndpoint.get("kinds", "/api/kinds").addSuccess(Schema.Unknown))
  .add(HttpApiEndpoint.get("page", "/api/events").setUrlParams(Page).addSuccess(Schema.Unknown))
  .add(HttpApiEndpoint.get("one", "/api/event").setUrlParams(One).addSuccess(Schema.Unknown))
  .add(
    HttpApiEndpoint.get("csv", "/api/events.csv")
      .setUrlParams(Filters)
      .addSuccess(HttpApiSchema.Text({ contentType: "text/csv" }))
  )
  .middleware(Authorization) {}

class Api extends HttpApi.make("effect-audit").add(QueueApi).add(EventsApi) {}

const handlers = (given: Option.Option<string>, record: Recorder) =>
  HttpApiBuilder.group(Api, "queue", (group) =>
    Effect.gen(function* () {
      const monitor = yield* makeMonitor(given, LAG)
      const disk = yield* Disk
      const withDisk = Effect.provideService(Disk, disk)
      const find = (id: string) =>
        Effect.flatMap(
          Effect.flatMap(queuesOf(given), (queues) => findLetter(queues, id)),
          Option.match({ onNone: notFound, onSome: (found) => Effect.succeed(found) })
        )
      /** Answers a failure with its message, for the page to show. */
      const inWords = <E extends { readonly message: string }>(
        effect: Effect.Effect<HttpServerResponse.HttpServerResponse, E, Disk>
      ) =>
        Effect.catchAll(withDisk(effect), (error) => {
          const status = error instanceof Refusal ? error.status : 409
          return Effect.succeed(answerOf({ message: error.message }, status))
        })

      return group
        .handleRaw("changes", () =>
          Effect.succeed(
            HttpServerResponse.stream(Stream.encodeText(eventsOf(monitor.changes)), {
              contentType: "text/event-stream"
            })
          )
        )
        .handleRaw("letters", ({ urlParams }) =>
          inWords(
            Effect.flatMap(queuesOf(given), (queues) =>
              Effect.map(pageAfter(queues, urlParams.after), (page) => answerOf(page))
            )
          )
        )
        .handleRaw("letter", ({ urlParams }) =>
          inWords(
            Effect.gen(function* () {
              const found = yield* find(urlParams.id)
              const letter = yield* readLetter(found)
              const reveal = urlParams.reveal === "yes"
              const recorded = reveal
                ? yield* Effect.either(record(lettersRead("audit.get", found.name)))
                : Either.void
              if (Either.isLeft(recorded)) return answerOf({ problem: recorded.left.message })
              const { event, text } = maskEvent(contentOf(letter), { reveal })
              return answerOf({
                ...withoutContent(letter),
                id: found.name,
                ...(reveal ? { ...revealed(letter), reason: letter.reason } : {}),
                event: leftOut(letter) ?? event ?? text
              })
            })
          )
        )
        .handleRaw("retry", ({ request }) =>
          inWords(
            Effect.gen(function* () {
              const names = new Set((yield* lettersAsked(request)).ids)
              const chosen = yield* Effect.flatMap(queuesOf(given), (queues) => findLetters(queues, names))
              if (chosen.length < names.size) return yield* notFound()
              const settings = yield* settingsOf(given)
              const messages = new Set<string>()
              for (const queue of new Set(chosen.map((letter) => letter.queue))) {
                const ids = chosen
                  .filter((letter) => letter.queue === queue)
                  .map(({ entry }) => entry.letter.id)
                const { owner } = yield* ask(queue, settings, [
                  { action: "retry", letters: ids, by: operator() }
                ])
                messages.add(
                  owner === undefined
                    ? "Appended again; delivered at the next start, or by effect-audit flush."
                    : `Asked process ${owner.pid ?? "unknown"}, which appends it again.`
                )
              }
              return answerOf({ message: [...messages].join(" ") })
            })
          )
        )
        .handleRaw("exported", () =>
          withDisk(Effect.zipRight(record(lettersRead("audit.export", "all")), queuesOf(given))).pipe(
            Effect.map((queues) =>
              HttpServerResponse.stream(
                openLetters(queues, { contentBytes: EXPORT_BYTES }).pipe(
                  Stream.map(({ entry, name }) => `${jsonOf({ ...entry.letter, id: name })}\n`),
                  Stream.encodeText,
                  Stream.provideService(Disk, disk)
                ),
                { contentType: "application/x-ndjson" }
              )
            ),
            Effect.catchAll((error) => HttpServerResponse.text(error.message, { status: 409 }))
          )
        )
    })
  )

/** Letters hold events, so reading their content is recorded. */
const lettersRead = (action: Reading["action"], target: string): Reading => ({
  action,
  targets: [target],
  targetType: "letter",
  asked: { reveal: true }
})

const eventHandlers = (source: EventSource) =>
  HttpApiBuilder.group(Api, "events", (group) =>
    Effect.gen(function* () {
      const disk = yield* Disk
      /** Answers a failure with its message, for the page to show. */
      const answered = <A>(effect: Effect.Effect<A, Error, Disk>) =>
        effect.pipe(
          Effect.catchAll((error) => Effect.succeed({ problem: error.message })),
          Effect.map((answer) => answerOf(answer)),
          Effect.provideService(Disk, disk)
        )
      return group
        .handleRaw("kinds", () => Effect.succeed(answerOf(kindsOf(source))))
        .handleRaw("page", ({ urlParams }) => answered(pageOf(source, urlParams)))
        .handleRaw("one", ({ urlParams }) => answered(oneOf(source, urlParams)))
        .handleRaw("csv", ({ urlParams }) =>
          csvOf(source, urlParams).pipe(
            Effect.match({
              onFailure: (error) => HttpServerResponse.text(error.message, { status: 409 }),
              onSuccess: (lines) =>
                HttpServerResponse.stream(lines, {
                  contentType: "text/csv; charset=utf-8"
                })
            })
          )
        )
    })
  )

/** JSON as the commands print it: of bounded depth, control characters escaped. */
const answerOf = (value: unknown, status = 200) =>
  HttpServerResponse.text(jsonOf(value), { contentType: "application/json", status })

/** milliseconds: five minutes, the default of `status --lag` */
const LAG = 300_000

const pageLayer = HttpApiBuilder.Router.use((router) =>
  router.get(
    "/",
    HttpServerResponse.text(page, {
      contentType: "text/html; charset=utf-8",
      headers: {
        "content-security-policy": POLICY
      }
    })
  )
)
