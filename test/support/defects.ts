/**
 * A program without Effect whose logger or uploader has the defect named by DEFECT. The uploader writes the stored ids
 * to `stored` in DIRECTORY/.., and the program prints the log's last status.
 */
import { Effect, Layer } from "effect"
import { openAuditLogger, Uploader, UploadError } from "effect-audit"
import * as fs from "node:fs"
import * as path from "node:path"

const directory = process.env.DIRECTORY!
const defect = process.env.DEFECT!

const print = console.log
let threw = false
console.log = () => {
  if (defect !== "logger" || threw) return
  threw = true
  throw new Error("a defect of the logger")
}

const failures: Record<string, () => Effect.Effect<never, UploadError>> = {
  logger: () => new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "the database is away" }),
  // slowly, so that the program ends before the first attempt, and the last attempt fails
  operator: () =>
    Effect.delay(
      new UploadError({ class: "operator", code: "1142", reason: "the INSERT right is missing" }),
      300
    ),
  throws: () => {
    throw new Error("a defect of the uploader")
  },
  interrupts: () => Effect.interrupt,
  // without a timer, which `Effect.never` has and which would keep the process alive
  hangs: () => Effect.uninterruptible(Effect.async(() => undefined))
}

let tries = 0
const audit = await openAuditLogger({
  directory,
  minFreeBytes: 0,
  uploadTimeout: 500,
  // A hung uploader uses up this time; the others end at once, however loaded the machine is.
  shutdownTimeout: defect === "hangs" ? 6000 : 60_000,
  uploader: Layer.succeed(Uploader, {
    concurrency: 1,
    upload: ({ events }) => {
      if (tries++ === 0 || defect === "operator") return failures[defect]!()
      return Effect.sync(() => {
        fs.appendFileSync(
          path.join(directory, "..", "stored"),
          events.map(({ eventId }) => `${eventId}\n`).join("")
        )
        return { rejected: [] }
      })
    }
  })
})
const { eventId } = await audit.recordUse({ prompt: "a red fox", status: "success" })
if (defect !== "operator") {
  while ((await audit.status()).failures === 0) await new Promise((resolve) => setTimeout(resolve, 10))
}
const { failure } = await audit.status()
if (defect !== "operator") await audit.flush()
const { delivered, state, waiting } = await audit.status()
await audit.shutdown()
print(JSON.stringify({ eventId, failure, state, delivered, waiting }))
