/**
 * A program that does nothing unaudited: the intent is on disk before it acts, and it refuses to act otherwise.
 *
 *     npx tsx examples/strict.ts "a red fox"
 *     AUDIT_MIN_FREE_BYTES=1e15 npx tsx examples/strict.ts "a red fox"     # a disk that is too full for it
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"
import { Audit, AuditLayer, type UseLogInput } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"

const generateImage = (prompt: string) => Effect.succeed(`out/${encodeURIComponent(prompt)}.png`)

/** Tries a failing disk once more. An event whose outcome is unknown keeps its id: it cannot be doubled. */
const recordForSure = (input: UseLogInput) =>
  Audit.recordUse(input).pipe(
    Effect.catchTag("QueueWriteError", ({ eventId }) =>
      Effect.delay(Audit.recordUse(input, { eventId }), "1 second")
    )
  )

const program = (prompt: string) =>
  Effect.gen(function* () {
    const { eventId } = yield* recordForSure({ prompt, status: "started" })
    yield* Console.log(`recorded as ${eventId}`)
    const resultPath = yield* generateImage(prompt)
    yield* recordForSure({ prompt, resultPath, status: "success" })
    yield* Console.log(`generated ${resultPath}`)
  }).pipe(
    Effect.catchTags({
      QueueFull: ({ limit }) => Console.log(`not generated: the audit log has no room (${limit})`),
      QueueWriteError: ({ code }) => Console.log(`not generated: the audit log's disk fails (${code})`)
    })
  )

const AuditLive = AuditLayer.layerConfig(AuditLayer.config).pipe(
  Layer.provide(SqliteUploader.layer({ filename: "./audit.db" }))
)

program(process.argv[2] ?? "a red fox").pipe(Effect.provide(AuditLive), NodeRuntime.runMain)
