/**
 * A desktop-like program: its callbacks are not Effects, its network comes and goes, and quitting must not hang.
 *
 *     npx tsx examples/desktop.ts
 *
 * Each line that you type is a prompt; `quit` (or the end of the input, or Ctrl-C) is the quit event. The database
 * lives in ./server: while that directory is missing there is an outage, and the events wait in ./audit. Make it
 * (`mkdir server`), and they are delivered: soon, or by the next start.
 */
import { Console, Duration, Effect, Layer, ManagedRuntime } from "effect"
import { Audit, AuditLayer, logLogin, logUse } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { hostname, userInfo } from "node:os"
import { createInterface } from "node:readline"

const AuditLive = AuditLayer.layer({ directory: "./audit", shutdownTimeout: "2 seconds" }).pipe(
  Layer.provide(SqliteUploader.layer({ filename: "./server/audit.db" }))
)

// one runtime for the whole program, shared by its callbacks
const runtime = ManagedRuntime.make(AuditLive)
const user = { userName: userInfo().username, deviceName: hostname() }

const paint = (prompt: string) =>
  Effect.gen(function* () {
    const [duration] = yield* Effect.timed(Effect.sleep("20 millis"))
    yield* logUse({ ...user, prompt, status: "success", durationMs: Math.round(Duration.toMillis(duration)) })
    const { state, waiting } = yield* Audit.status
    yield* Console.log(`painted "${prompt}"; ${waiting} events wait on disk (${state})`)
  })

await runtime.runPromise(logLogin(user))

const window = createInterface({ input: process.stdin })
process.once("SIGINT", () => window.close())
for await (const line of window) {
  if (line === "quit") break
  await runtime.runPromise(paint(line))
}

// whatever the database does, this ends within shutdownTimeout
await runtime.dispose()
process.stdin.destroy()
