/**
 * The three answers to an event that cannot be recorded.
 *
 *     AUDIT_MIN_FREE_BYTES=1e15 npx tsx examples/on-append-failure.ts log     # or die, or call
 *
 * The number stands for a full disk: it demands more free bytes than there are.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"
import { AuditLayer, logUse, Redact } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"

/** In place of a pager, a second log or a counter. */
const call: AuditLayer.OnAppendFailure = ({ error, input, kind }) =>
  Console.log(`PAGER: ${kind} ${error.eventId} was not recorded (${error._tag}): ${JSON.stringify(input)}`)

const answers: Readonly<Record<string, AuditLayer.OnAppendFailure | undefined>> = {
  // an error in the program's log, with the event's id and the cause but not its content; the program goes on
  log: "log",
  // the fiber dies: for programs that must not go on unaudited
  die: "die",
  // your own function; it sees the event after redaction
  call
}

const AuditLive = AuditLayer.layerConfig(AuditLayer.config, {
  onAppendFailure: answers[process.argv[2] ?? "log"],
  redact: { use_log: { prompt: Redact.omit } }
}).pipe(Layer.provide(SqliteUploader.layer({ filename: "./audit.db" })))

const program = Effect.gen(function* () {
  yield* logUse({ userName: "li", prompt: "a red fox", status: "success" })
  yield* Console.log("the program goes on")
})

program.pipe(Effect.provide(AuditLive), NodeRuntime.runMain)
