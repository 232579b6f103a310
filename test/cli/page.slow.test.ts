/** The page of `effect-audit serve`: for any screen, both colour schemes, keyboard and screen reader. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import type { BrowserContextOptions, Page } from "playwright-core"
import { browser, hasBrowser } from "../support/browser.js"
import { fill, serve, useLine } from "../support/cli.js"
import { temporaryDirectory } from "../support/queue.js"

// here, since installing a browser takes longer than a test's limit
const isShown = hasBrowser()

const REASON = `Data too long for column '${"a_very_long_name_of_a_column".repeat(4)}' at row 1`

/** A queue with three events that wait and two dead letters, and its server. */
const served = Effect.gen(function* () {
  const directory = path.join(yield* temporaryDirectory, "a-directory-with-a-rather-long-name", "audit")
  fs.mkdirSync(path.dirname(directory))
  yield* fill(
    directory,
    [1, 2, 3, 4, 5].map((n) => useLine({ prompt: `prompt ${n}` }, { at: Date.now() - 90_000 })),
    [1, 2].map(() => ({ class: "rejected", reason: REASON }) as const)
  )
  return { directory, ...(yield* serve(directory)) }
})

const withPage = (options: BrowserContextOptions, use: (page: Page) => Promise<void>) =>
  Effect.gen(function* () {
    const { address } = yield* served
    const chromium = yield* browser
    yield* Effect.promise(async () => {
      const page = await chromium.newPage(options)
      await page.goto(address.href)
      await page.locator("main").waitFor()
      await use(page)
    })
  })

/** The texts of the page whose contrast to the background is below 4.5. */
const FAINT = `
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number)
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const share = value / 255
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const ground = luminance(getComputedStyle(document.body).backgroundColor)
  const faint = []
  for (const element of document.querySelectorAll("h1, h2, h3, p, span, button, text")) {
    if (element.textContent.trim() === "") continue
    const style = getComputedStyle(element)
    const text = luminance(element.tagName === "text" ? style.fill : style.color)
    const contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)
    if (contrast < 4.5) faint.push(element.textContent + " " + contrast.toFixed(2))
  }
  faint
`

describe.skipIf(!isShown)("the page (skipped where Chromium is missing and cannot be installed)", () => {
  for (const width of [360, 1280])
    for (const colorScheme of ["light", "dark"] as const)
      it.scopedLive(`fits ${width} pixels, and is readable in ${colorScheme} colours`, () =>
        withPage({ viewport: { width, height: 800 }, colorScheme }, async (page) => {
          const widths = () =>
            page.evaluate<Array<number>>(
              "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
          const [whole, visible] = await widths()
          assert.isAtMost(whole!, visible!)
          assert.deepStrictEqual(await page.evaluate(FAINT), [])
          const [red] = (
            await page.evaluate<string>("getComputedStyle(document.body).backgroundColor")
          ).match(/\d+/)!
          assert.strictEqual(Number(red) < 128, colorScheme === "dark")

          await page.getByRole("button", { name: "Show letter 0:0" }).click()
          await page.locator("#letter", { hasText: "masked" }).waitFor()
          const [wholeOfDialog, visibleOfDialog] = await widths()
          assert.isAtMost(wholeOfDialog!, visibleOfDialog!)
        })
      )

  it.scopedLive("has axes with units, and shows the values of a moment by pointer and by keyboard", () =>
    withPage({ viewport: { width: 900, height: 800 } }, async (page) => {
      const texts = (id: string) => page.locator(`#${id} text`).allTextContents()
      // The page's security policy forbids Playwright's waitForFunction.
      const looksAtLeast = async (count: number) => {
        while (Number(await page.getByRole("slider").getAttribute("max")) < count)
          await page.waitForTimeout(50)
      }
      await looksAtLeast(2)
      const waiting = await texts("waitingPlot")
      assert.includeMembers(waiting, ["0", "5"])
      assert.isAbove(waiting.filter((text) => /^\d\d:\d\d:\d\d$/.test(text)).length, 1)
      const age = await texts("agePlot")
      assert.include(age, "0 s")
      assert.isTrue(age.some((text) => /^\d+ min$/.test(text)))
      // no mark appears twice, and none is a fraction of an event
      for (const marks of [waiting, age]) assert.strictEqual(new Set(marks).size, marks.length, marks.join())
      assert.deepStrictEqual(
        waiting.filter((text) => !/^(\d+|\d\d:\d\d:\d\d)$/.test(text)),
        []
      )

      const box = (await page.locator("#waitingPlot").boundingBox())!
      await page.mouse.move(box.x + box.width / 2, box.y + 20)
      await page
        .locator("#reading", { hasText: /^\d\d:\d\d:\d\d: 3 events wait, the oldest for \d+ min( \d+ s)?$/ })
        .waitFor()

      const slider = page.getByRole("slider", { name: "Moment" })
      await slider.focus()
      await page.keyboard.press("Home")
      assert.strictEqual(await slider.inputValue(), "0")
      const first = await slider.getAttribute("aria-valuetext")
      assert.match(first!, /3 events wait/)
      assert.strictEqual(await page.locator("#reading").textContent(), first)
      // The chosen moment stays when new data arrive.
      const before = Number(await slider.getAttribute("max"))
      await looksAtLeast(before + 1)
      assert.strictEqual(await slider.getAttribute("aria-valuetext"), first)
      await page.keyboard.press("End")
      assert.notStrictEqual(await slider.getAttribute("aria-valuetext"), first)
    })
  )

  it.scopedLive("can be used by keyboard alone", () =>
    withPage({}, async (page) => {
      const focused = () =>
        page.evaluate<string>(
          "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
        )
      const tabTo = async (name: string) => {
        for (let steps = 0; (await focused()) !== name; steps++) {
          assert.isBelow(steps, 30, `no way to ${name}`)
          await page.keyboard.press("Tab")
        }
      }
      await tabTo("Show letter 0:0")
      await page.keyboard.press("Enter")
      await page.getByRole("dialog", { name: "Dead letter 0:0" }).waitFor()
      await tabTo("reveal")
      await page.keyboard.press("Enter")
      await page.locator("#letter", { hasText: "prompt 1" }).waitFor()
      await page.keyboard.press("Escape")
      assert.strictEqual(await focused(), "Show letter 0:0")
      await tabTo("Retry letter 0:0")
      await page.keyboard.press("Enter")
      await page.getByText("Appended again").waitFor()
      await page.locator('li[data-id="0:0"]').waitFor({ state: "detached" })
      assert.strictEqual(await focused(), "lettersHeading")
    })
  )

  it.scopedLive("labels every button and both plots", () =>
    withPage({}, async (page) => {
      const names = await page.evaluate<Array<string>>(
        `[...document.querySelectorAll("button")].map((each) => each.getAttribute("aria-label") ?? each.textContent)`
      )
      assert.strictEqual(new Set(names).size, names.length, names.join())
      for (const name of ["events that wait", "age of the oldest", "needs an operator"])
        await page.getByRole("img", { name }).waitFor()
    })
  )

  it.scopedLive("claims nothing before the first answer, or after the server has gone", () =>
    Effect.gen(function* () {
      const { address, program } = yield* served
      const chromium = yield* browser
      yield* Effect.promise(async () => {
        const page = await chromium.newPage()
        let answer = () => undefined as void
        const held = new Promise<void>((resolve) => (answer = resolve))
        await page.route("**/api/changes", async (route) => {
          await held
          await route.continue()
        })
        await page.goto(address.href)
        const text = async () => (await page.locator("body").innerText()).trim()
        assert.strictEqual(await text(), "No answer yet")
        answer()
        await page.locator("main").waitFor()
        assert.include(await text(), "2 dead letters")
        program.kill("SIGTERM")
        await page
          .getByText(/does not answer; trying again. What is shown was so at \d\d:\d\d:\d\d/)
          .waitFor()
        await page.getByRole("img", { name: "not known" }).waitFor()
      })
    })
  )

  it.scopedLive("says that the queue cannot be read, and does not call it fine", () =>
    Effect.gen(function* () {
      const { address, directory } = yield* served
      const chromium = yield* browser
      yield* Effect.promise(async () => {
        const page = await chromium.newPage()
        await page.goto(address.href)
        await page.locator("main").waitFor()
        fs.rmSync(directory, { recursive: true, maxRetries: 10 })
        await page
          .locator("#sentence", { hasText: /There is no queue in .* What is below was so at/ })
          .waitFor()
        await page.locator("#light[data-code='2']").waitFor()
        await page.reload()
        await page.locator("#sentence", { hasText: "There is no queue in" }).waitFor()
      })
    })
  )
})
