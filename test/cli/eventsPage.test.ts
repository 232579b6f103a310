/** The page's view of the events in the database. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { Uploader } from "../../src/services/Uploader.js"
import { browser, hasBrowser } from "../support/browser.js"
import { fill, serve, useLine } from "../support/cli.js"
import { use } from "../support/events.js"
import { temporaryDirectory } from "../support/queue.js"

const isShown = hasBrowser()
const T0 = Date.UTC(2026, 0, 31, 8)
const HOSTILE = `<img src=x onerror="document.title='broken'">`
/** Characters that hide, turn or move the text after them. */
const UNSEEN = "\u202e\u009b\u200b\u2066"
const CODES = String.raw`\u202e\u009b\u200b\u2066`

/** A queue, a file with 250 events, and the page's server. */
const served = Effect.gen(function* () {
  const root = yield* temporaryDirectory
  const directory = path.join(root, "audit")
  const file = path.join(root, "audit.db")
  yield* fill(directory, [useLine({ prompt: "waits" })])
  const uploader = Context.get(yield* Layer.build(SqliteUploader.layer({ filename: file })), Uploader)
  const events = Array.from({ length: 250 }, (_, index) =>
    use(
      {
        userName: index % 2 === 0 ? "li" : `${HOSTILE}${UNSEEN}`,
        prompt: `PROMPT ${index}${UNSEEN}`,
        durationMs: index
      },
      { time: T0 + index }
    )
  )
  yield* uploader.upload({ definition: UseLog, events })
  const readings = path.join(root, "readings")
  return { events, readings, ...(yield* serve(directory, ["--sqlite", file, "--audit", readings])) }
})

describe("the events of the page", () => {
  it.scopedLive("require the token", () =>
    Effect.gen(function* () {
      const { origin, token } = yield* served
      for (const file of ["kinds", "events?kind=use_log", "event?id=x", "events.csv?kind=use_log"]) {
        const status = (given: string) =>
          Effect.promise(async () => {
            const answer = await fetch(`${origin}/api/${file}`, {
              headers: { authorization: `Bearer ${given}` }
            })
            await answer.text()
            return answer.status
          })
        assert.strictEqual(yield* status("wrong"), 401, file)
        assert.strictEqual(yield* status(token), 200, file)
      }
    })
  )

  it.scopedLive("explain what is missing if no database is named", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const { origin, token } = yield* serve(directory)
      const answer = yield* Effect.promise(() =>
        fetch(`${origin}/api/events?kind=use_log`, { headers: { authorization: `Bearer ${token}` } })
      )
      const { problem } = (yield* Effect.promise(() => answer.json())) as { problem: string }
      assert.include(problem, "--url")
      assert.include(problem, "SELECT")
    })
  )
})

describe("a page that records what is read", () => {
  const letters = Effect.gen(function* () {
    const root = yield* temporaryDirectory
    const readings = path.join(root, "readings")
    const directory = path.join(root, "audit")
    yield* fill(directory, [useLine({ prompt: "PROMPT" })], [{ class: "rejected", reason: "Data too long" }])
    const { origin, token } = yield* serve(directory, ["--audit", readings])
    const ask = (file: string) =>
      Effect.promise(async () => {
        const answer = await fetch(`${origin}/api/${file}`, {
          headers: { authorization: `Bearer ${token}` }
        })
        return answer.text()
      })
    return { ask, readings }
  })

  it.scopedLive("records each letter whose content it shows or exports", () =>
    Effect.gen(function* () {
      const { ask, readings } = yield* letters
      assert.notInclude(yield* ask("letter?id=0:0"), "PROMPT")
      assert.include(yield* ask("letter?id=0:0&reveal=yes"), "PROMPT")
      assert.include(yield* ask("export"), "PROMPT")
      assert.deepStrictEqual(
        recordedIn(readings).map(({ action, target_id, target_type }) => [action, target_type, target_id]),
        [
          ["audit.get", "letter", "0:0"],
          ["audit.export", "letter", "all"]
        ]
      )
    })
  )

  it.scopedLive("shows no content that it cannot record", () =>
    Effect.gen(function* () {
      const { ask, readings } = yield* letters
      fs.writeFileSync(readings, "no directory")
      for (const file of ["letter?id=0:0&reveal=yes", "export"]) {
        const answer = yield* ask(file)
        assert.notInclude(answer, "PROMPT")
        assert.include(answer, "readings", file)
      }
    })
  )
})

const recordedIn = (readings: string) =>
  fs
    .readdirSync(readings)
    .filter((name) => name.endsWith(".ndjson"))
    .flatMap((name) => fs.readFileSync(path.join(readings, name), "utf8").trimEnd().split("\n"))
    .map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)

describe.skipIf(!isShown)("the view of the events (skipped where Chromium is missing)", () => {
  it.scopedLive(
    "shows the newest events first, pages, filters, reveals and exports, and runs no script of an event",
    () =>
      Effect.gen(function* () {
        const { address, events, readings } = yield* served
        const chromium = yield* browser
        yield* Effect.promise(async () => {
          const page = await chromium.newPage({ acceptDownloads: true })
          const problems: Array<string> = []
          page.on("pageerror", (error) => problems.push(error.message))
          page.on("console", (message) => {
            if (message.type() === "error") problems.push(message.text())
          })
          await page.goto(address.href)
          await page.getByRole("button", { name: "Events" }).click()
          const rows = page.locator("#events li")
          await rows.first().waitFor()
          assert.strictEqual(await rows.count(), 100)
          assert.strictEqual(await rows.first().getAttribute("data-id"), events.at(-1)!.eventId)
          assert.include(await rows.first().textContent(), `${HOSTILE}${CODES}`)
          assert.notInclude(await page.locator("#events").textContent(), "PROMPT")

          const seen = async () =>
            page.evaluate<Array<string>>(
              `[...document.querySelectorAll("#events li")].map((row) => row.dataset.id)`
            )
          let all = await seen()
          for (let pages = 1; pages < 3; pages++) {
            await page.getByRole("button", { name: "Older" }).click()
            await page.locator(`li[data-id="${events.at(-1 - 100 * pages)!.eventId}"]`).waitFor()
            all = [...all, ...(await seen())]
          }
          assert.deepStrictEqual(all, events.map(({ eventId }) => eventId).reverse())
          assert.isTrue(await page.getByRole("button", { name: "Older" }).isHidden())
          await page.getByRole("button", { name: "Newest" }).click()
          await page.locator(`li[data-id="${events.at(-1)!.eventId}"]`).waitFor()

          await page.getByLabel("User").fill("li")
          await page.getByLabel("Where").fill("duration_ms>=10; duration_ms<13")
          await page.getByRole("button", { name: "Find" }).click()
          await page.locator(`li[data-id="${events[12]!.eventId}"]`).waitFor()
          assert.deepStrictEqual(await seen(), [events[12]!.eventId, events[10]!.eventId])

          const download = page.waitForEvent("download")
          await page.getByRole("button", { name: "Export all these events as CSV" }).click()
          const csv = fs.readFileSync(await (await download).path(), "utf8")
          assert.lengthOf(csv.trimEnd().split("\r\n"), 3)
          assert.notInclude(csv, "PROMPT")

          await page.getByRole("button", { name: `Show event ${events[12]!.eventId}` }).click()
          await page.locator("#letter", { hasText: "masked" }).waitFor()
          await page.getByRole("button", { name: "Reveal" }).click()
          await page.locator("#letter", { hasText: "PROMPT 12" }).waitFor()
          assert.include(await page.locator("#letter").textContent(), `PROMPT 12${CODES}`)
          await page.keyboard.press("Escape")

          await page.getByLabel("Where").fill("nome=1")
          await page.getByRole("button", { name: "Find" }).click()
          await page.getByText("no field nome").waitFor()
          await page.getByRole("button", { name: "Queue" }).click()
          await page.locator("main").waitFor()
          assert.isTrue(await page.locator("#delivered").isHidden())
          assert.strictEqual(await page.title(), "effect-audit")
          assert.deepStrictEqual(problems, [])
        })
        // revealed and exported events are on record
        const actions = recordedIn(readings).map(({ action }) => action)
        assert.sameMembers(actions, ["audit.export", "audit.get", "audit.get"])
      })
  )
})
