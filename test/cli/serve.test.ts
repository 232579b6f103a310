/** The page of `effect-audit serve`, in a browser. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import type { UploadBatch } from "../../src/services/Uploader.js"
import { openAudit, slowDatabase } from "../support/auditHere.js"
import { auditProcess } from "../support/auditProcess.js"
import { browser, hasBrowser } from "../support/browser.js"
import { fill, serve, useLine } from "../support/cli.js"
import { connectionOptions, mysqlDatabase } from "../support/mysql.js"
import { freePort, tcpProxy } from "../support/net.js"
import { temporaryDirectory } from "../support/queue.js"

const HOSTILE = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`

const formOf = (fields: Readonly<Record<string, string>>) => {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.set(name, value)
  return form
}

describe("the server", () => {
  it.scopedLive("survives clients that ask for another protocol and leave", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const { address, origin } = yield* serve(directory)
      const leave = (file: string, protocol: string) =>
        Effect.async<void>((resume) => {
          const socket = net.connect(Number(address.port), "127.0.0.1", () =>
            socket.write(
              `GET ${file} HTTP/1.1\r\nHost: evil.example\r\nUpgrade: ${protocol}\r\nConnection: Upgrade\r\n\r\n`
            )
          )
          // leaves while the answer is on its way
          socket.once("data", () => socket.resetAndDestroy())
          socket.on("error", () => undefined).on("close", () => resume(Effect.void))
        })
      for (const file of ["/", "/api/changes", "/none"]) {
        yield* Effect.all(
          Array.from({ length: 20 }, (_, index) => leave(file, index % 2 === 0 ? "websocket" : "h2c")),
          { concurrency: 5 }
        )
      }
      assert.strictEqual((yield* Effect.promise(() => fetch(origin))).status, 200)
    })
  )

  it.scopedLive("answers on loopback, and requires the token", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const secret = useLine({ prompt: "PROMPT" })
      yield* fill(directory, [secret], [{ class: "rejected", reason: "Data too long: PROMPT" }])
      const { origin, token } = yield* serve(directory)
      const get = (file: string, given?: string) =>
        Effect.promise(() =>
          fetch(
            `${origin}${file}`,
            given === undefined ? {} : { headers: { authorization: `Bearer ${given}` } }
          )
        )
      const text = (file: string, given?: string) =>
        Effect.flatMap(get(file, given), (response) => Effect.promise(() => response.text()))

      for (const file of ["/api/changes", "/api/letter?id=0:0", "/api/export"]) {
        assert.strictEqual((yield* get(file)).status, 401)
        assert.strictEqual((yield* get(file, `${token}x`)).status, 401)
      }
      const retry = yield* Effect.promise(() => fetch(`${origin}/api/retry`, { method: "POST", body: "{}" }))
      assert.include([400, 401], retry.status)
      assert.strictEqual((yield* get("/api/letter?id=9:9", token)).status, 404)

      const masked = yield* text("/api/letter?id=0:0", token)
      assert.include(masked, "[6 characters, masked]")
      assert.notInclude(masked, "PROMPT")
      assert.include(yield* text("/api/letter?id=0:0&reveal=yes", token), "PROMPT")
      assert.include(yield* text("/api/export", token), secret.eventId)

      const page = yield* get("/")
      assert.include(page.headers.get("content-security-policy"), "default-src 'none'; script-src 'sha256-")
    })
  )
})

describe("a request to retry", () => {
  interface Body {
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: string | Uint8Array<ArrayBuffer> | FormData | URLSearchParams
  }
  const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`
  const headers = { "content-type": "application/json" }
  const REQUESTS: ReadonlyArray<readonly [name: string, init: Body]> = [
    ["nothing", {}],
    ["no JSON", { headers, body: "{" }],
    ["bytes that are no text", { headers, body: new Uint8Array([0xff, 0x22]) }],
    ["nested deeply", { headers, body: deep }],
    ["ids nested deeply", { headers, body: `{"ids":${deep}}` }],
    ["an id nested deeply", { headers, body: `{"ids":["0:0",${deep}]}` }],
    ["ids that are a text", { headers, body: '{"ids":"0:0"}' }],
    ["no id", { headers, body: '{"ids":[]}' }],
    ["a form", { body: new URLSearchParams({ ids: "0:0" }) }],
    ["a form without its boundary", { headers: { "content-type": "multipart/form-data" }, body: "--b" }],
    ["a form of parts", { body: formOf({ ids: "0:0" }) }]
  ]

  it.scopedLive(
    "gets an answer that says what is wrong, whatever its content or size, and ends nothing",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        yield* fill(
          directory,
          Array.from({ length: 3 }, () => useLine({})),
          Array.from({ length: 3 }, () => ({ class: "rejected", reason: "Data too long" }) as const)
        )
        const { address, origin, token } = yield* serve(directory)
        const authorization = `Bearer ${token}`
        const retry = (init: Body) =>
          Effect.promise(async () => {
            const answer = await fetch(`${origin}/api/retry`, {
              ...init,
              method: "POST",
              headers: { ...init.headers, authorization }
            })
            return { status: answer.status, body: (await answer.json()) as { readonly message?: string } }
          })
        for (const [name, init] of REQUESTS) {
          const { body, status } = yield* retry(init)
          assert.strictEqual(status, 400, name)
          assert.include(body.message, "send JSON like", name)
        }

        // without a length and with one: the server reads neither to its end
        const endless = ["Transfer-Encoding: chunked", "Content-Length: 800000000"].map((length) =>
          Effect.async<string>((resume) => {
            const socket = net.connect(Number(address.port), "127.0.0.1", () =>
              socket.write(
                `POST /api/retry HTTP/1.1\r\nHost: here\r\nAuthorization: ${authorization}\r\n${length}\r\n\r\n`
              )
            )
            socket.once("data", (answer) => {
              socket.destroy()
              resume(Effect.succeed(answer.toString()))
            })
          })
        )
        for (const answer of yield* Effect.all(endless)) {
          assert.match(answer, /^HTTP\/1.1 413 /)
          assert.include(answer, "ask for fewer letters at a time")
        }

        const missing = yield* retry({ body: '{"ids":["0:0","9:9"]}' })
        assert.strictEqual(missing.status, 404)
        const exported = yield* Effect.promise(async () => {
          const answer = await fetch(`${origin}/api/export`, { headers: { authorization } })
          return (await answer.text()).trim().split("\n")
        })
        const ids = exported.map((line) => (JSON.parse(line) as { readonly id: string }).id)
        // a repeated id counts once
        assert.lengthOf(ids, 3)
        const body = JSON.stringify({ ids: [ids[0], ids[2], ids[0]] })
        assert.include((yield* retry({ body })).body.message, "Appended again")
        const letters = fs.readFileSync(path.join(directory, "dead-letter.ndjson"), "utf8")
        assert.lengthOf(letters.match(/"retried"/g)!, 2)
      })
  )

  it.scopedLive("fails with the same words as the command", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})], [{ class: "rejected", reason: "Data too long" }])
      const { origin, token } = yield* serve(directory)
      fs.rmSync(path.join(directory, "requests"), { recursive: true, force: true })
      fs.writeFileSync(path.join(directory, "requests"), "")
      const answer = yield* Effect.promise(() =>
        fetch(`${origin}/api/retry`, {
          method: "POST",
          headers: { authorization: `Bearer ${token}` },
          body: '{"ids":["0:0"]}'
        })
      )
      assert.strictEqual(answer.status, 409)
      const { message } = yield* Effect.promise(() => answer.json() as Promise<{ readonly message: string }>)
      assert.include(message, "requests")
    })
  )
})

// here, since installing a browser takes longer than a test's limit
const isShown = hasBrowser()

describe("an answer", () => {
  it.scopedLive("is bounded and without control characters, whatever a letter holds", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const { eventId } = useLine({})
      const odd = "\u009b31m\u202e\u200b\u3164"
      const line = `{"event_id":"${eventId}","status":"${odd}","prompt":${"[".repeat(20_000)}${"]".repeat(20_000)}}\n`
      yield* fill(directory, [{ eventId, line }], [{ class: "unknownKind", reason: odd }])
      const { origin, token } = yield* serve(directory)
      for (const file of ["letters?after=", "letter?id=0:0", "letter?id=0:0&reveal=yes"]) {
        const answer = yield* Effect.promise(() =>
          fetch(`${origin}/api/${file}`, { headers: { authorization: `Bearer ${token}` } })
        )
        const text = yield* Effect.promise(() => answer.text())
        assert.strictEqual(answer.status, 200, `${file}: ${text.slice(0, 300)}`)
        assert.notMatch(text, /[\p{Cc}\p{Cf}\p{DI}]/u, file)
        assert.isObject(JSON.parse(text))
        if (file.includes("reveal")) assert.include(text, "nested deeper")
      }
    })
  )
})

describe.skipIf(!isShown)("the page (skipped where Chromium is missing and cannot be installed)", () => {
  it.scopedLive("shows the queue, follows it, retries a letter, and runs no script of an event", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporaryDirectory, "audit")
      const letter = useLine({ prompt: HOSTILE, userName: HOSTILE })
      yield* fill(
        directory,
        [letter, ...[1, 2, 3].map((n) => useLine({ prompt: `prompt ${n}` }))],
        [{ class: "unknownKind", reason: HOSTILE }]
      )
      const { address, origin } = yield* serve(directory)
      const chromium = yield* browser
      yield* Effect.promise(async () => {
        const page = await chromium.newPage({
          viewport: { width: 1000, height: 900 },
          colorScheme: "light"
        })
        const problems: Array<string> = []
        page.on("pageerror", (error) => problems.push(error.message))
        page.on("console", (message) => {
          if (message.type() === "error") problems.push(message.text())
        })
        await page.goto(address.href)
        await page.getByText('1 dead letter: see "effect-audit dead list"').waitFor()
        assert.strictEqual(await page.locator("#light").getAttribute("data-code"), "2")
        assert.include(await page.locator("#booksLegend").textContent(), "3 waiting")
        assert.include(await page.locator("#letters").textContent(), HOSTILE)

        await page.getByRole("button", { name: "Show" }).click()
        await page.locator("#letter", { hasText: "masked" }).waitFor()
        await page.getByRole("button", { name: "Reveal" }).click()
        await page.locator("#letter", { hasText: "onerror" }).waitFor()
        await page.keyboard.press("Escape")
        assert.strictEqual(await page.title(), "effect-audit")

        await page.getByRole("button", { name: "Retry" }).click()
        await page.getByText("Appended again").waitFor()
        await page.getByText("None.", { exact: true }).waitFor()
        // A retry is appended first and decided after that, so the page may show the books in between.
        await page.locator("#booksLegend", { hasText: "1 retried" }).waitFor()
        assert.include(await page.locator("#booksLegend").textContent(), "4 waiting")
        assert.isAbove(
          (await page.locator("#waitingPlot polyline").getAttribute("points"))!.split(" ").length,
          1
        )
        assert.deepStrictEqual(problems, [])

        const wrong = await chromium.newPage()
        await wrong.goto(`${origin}/#wrong`)
        await wrong.getByText("This token is not that of the server").waitFor()
        assert.isTrue(await wrong.locator("main").isHidden())
      })
    })
  )

  it.scopedLive("shows several instances as one, and retries a letter at the instance that holds it", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporaryDirectory, "audit")
      const instance = (index: number) => path.join(directory, `instance-${index}`)
      yield* fill(instance(0), [useLine({}), useLine({})])
      yield* fill(instance(1), [useLine({})], [{ class: "unknownKind", reason: "of another program" }])
      const { address } = yield* serve(directory)
      const chromium = yield* browser
      yield* Effect.promise(async () => {
        const page = await chromium.newPage()
        await page.goto(address.href)
        // the worst instance comes first, and sets the light
        await page.locator("#sentence", { hasText: "instance-1: 1 dead letter" }).waitFor()
        await page.locator("#others", { hasText: "instance-0: 2 events wait" }).waitFor()
        assert.strictEqual(await page.locator("#light").getAttribute("data-code"), "2")
        await page.locator("#booksLegend", { hasText: /3 accepted =.*2 waiting.*1 dead/ }).waitFor()
        assert.include(await page.locator("#facts").textContent(), instance(1))

        const letter = page.locator('li[data-id="instance-1/0:0"]')
        await letter.getByRole("button", { name: "Retry" }).click()
        await page.locator("#booksLegend", { hasText: /4 accepted =.*3 waiting.*1 retried/ }).waitFor()
        await page.locator("#light[data-code='1']").waitFor()
      })
      assert.lengthOf(
        fs.readFileSync(path.join(instance(1), "dead-letter.ndjson"), "utf8").match(/retried/g)!,
        1
      )
    })
  )

  it.scopedLive("shows that a program's database is away, and that it is back", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporaryDirectory, "audit")
      const database = yield* mysqlDatabase()
      yield* MysqlUploader.migrate(connectionOptions(database))
      const { database: name, host, port: target, username } = database.config
      const port = yield* Effect.promise(freePort)
      const owner = yield* auditProcess()
      yield* owner.open({ directory }, { mysql: { host: "127.0.0.1", port, username, database: name } })
      yield* owner.use("a", "b", "c")
      const { address } = yield* serve(directory)
      const chromium = yield* browser
      const page = yield* Effect.promise(() => chromium.newPage())
      yield* Effect.promise(async () => {
        await page.goto(address.href)
        await page.locator("#sentence", { hasText: /^offline, next try in .*\(ECONNREFUSED\)$/ }).waitFor()
        await page.locator("#light[data-code='1']").waitFor()
        await page.locator("#facts", { hasText: `process ${owner.pid}` }).waitFor()
        await page.locator("#booksLegend", { hasText: "3 waiting" }).waitFor()
        await page.locator("#failures", { hasText: "transient ECONNREFUSED: " }).waitFor()
      })
      yield* Effect.acquireRelease(
        Effect.promise(() => tcpProxy({ target: { host, port: target }, port })),
        (proxy) => Effect.promise(() => proxy.close())
      )
      yield* owner.flush
      yield* Effect.promise(async () => {
        await page.locator("#sentence", { hasText: "idle: everything is delivered" }).waitFor()
        await page.locator("#light[data-code='0']").waitFor()
        await page.locator("#booksLegend", { hasText: "3 delivered" }).waitFor()
        // the page still shows the past failure
        assert.include(await page.locator("#failures").textContent(), "ECONNREFUSED")
      })
    })
  )

  it.scopedLive("asks the owner of the queue to retry, and shows what it delivers", () =>
    Effect.gen(function* () {
      // AUDIT_SCREENSHOT=docs/serve.png AUDIT_SCREENSHOT_DIRECTORY=/srv/painter/audit takes the README's picture
      const screenshot = process.env.AUDIT_SCREENSHOT
      const directory =
        process.env.AUDIT_SCREENSHOT_DIRECTORY ?? path.join(yield* temporaryDirectory, "audit")
      const count = screenshot === undefined ? 40 : 1500
      const uses = Array.from({ length: count }, (_, index) => useLine({ prompt: `prompt ${index}` }))
      yield* fill(
        directory,
        uses,
        [1, 2, 3].map(() => ({
          class: "rejected",
          reason: "Data too long for column 'model' at row 1"
        }))
      )
      const database = slowDatabase(screenshot === undefined ? "300 millis" : "1200 millis")
      // delivery starts after the page has shown that the event waits
      const isShown = yield* Effect.makeLatch(screenshot !== undefined)
      const uploader = {
        ...database.uploader,
        upload: (batch: UploadBatch) => isShown.whenOpen(database.uploader.upload(batch))
      }
      const audit = yield* openAudit({ directory, batchRecords: 100 }, { uploader })
      const { address } = yield* serve(directory)
      const chromium = yield* browser
      yield* Effect.promise(async () => {
        const page = await chromium.newPage({ viewport: { width: 1000, height: 820 }, colorScheme: "light" })
        await page.goto(address.href)
        await page.locator("#booksLegend", { hasText: /[1-9]\d* waiting/ }).waitFor()
        await page.locator("polyline").first().waitFor({ state: "attached" })
        if (screenshot !== undefined) {
          await page.waitForTimeout(6000)
          fs.writeFileSync(screenshot, await page.screenshot({ fullPage: true }))
        }
        isShown.unsafeOpen()
        await page.getByRole("button", { name: "Retry" }).first().click()
        await page.getByText(`Asked process ${process.pid}`).waitFor()
        await page.locator("#booksLegend", { hasText: "1 retried" }).waitFor({ timeout: 120_000 })
        await page
          .locator("#booksLegend", { hasText: `${(count - 2).toLocaleString("en-US")} delivered` })
          .waitFor({ timeout: 120_000 })
      })
      yield* audit.close
    })
  )
})
