/**
 * The page of `serve` in a real browser: how long events take to appear.
 *
 * @module
 */
import { spawn } from "node:child_process"
import * as path from "node:path"
import { chromium } from "playwright-core"

/** Debian's */
export const CHROMIUM = "/usr/bin/chromium"

const COMMAND = path.join(process.cwd(), "dist", "cli", "main.js")

/** What a look at the events takes, in milliseconds. */
export interface Look {
  /** from the click to the end of the server's answer */
  readonly answer: number
  /** from there until the rows are painted */
  readonly painted: number
  readonly rows: number
}

/** Notes in the page when rows were painted: after the second frame that follows them. */
const WATCH = `
addEventListener("DOMContentLoaded", () =>
  new MutationObserver(() => {
    if (document.querySelector("#events li") === null) return
    requestAnimationFrame(() => requestAnimationFrame(() => { window.paintedAt = performance.now() }))
  }).observe(document.getElementById("events"), { childList: true })
)`

/** Waits within the page, whose policy forbids what Playwright polls with. */
const LOOK = `(async () => {
  while (window.paintedAt === undefined) await new Promise((resolve) => setTimeout(resolve, 5))
  const answers = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/api/events?"))
  const { responseEnd, startTime } = answers[answers.length - 1]
  return { answer: responseEnd - startTime, painted: window.paintedAt - responseEnd, rows: document.querySelectorAll("#events li").length }
})()`

/** Opens the page so many times, and looks at the newest events each time. */
export const lookAtEvents = async (
  directory: string,
  url: string,
  times: number
): Promise<ReadonlyArray<Look>> => {
  const server = spawn(process.execPath, [COMMAND, "serve", "--url", url], {
    env: { ...process.env, AUDIT_DIRECTORY: directory },
    stdio: ["ignore", "pipe", "inherit"]
  })
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] })
  try {
    const address = await new Promise<string>((resolve, reject) => {
      server.stdout.once("data", (text: Buffer) => resolve(text.toString().trim()))
      server.once("exit", () => reject(new Error("serve ended")))
    })
    const looks: Array<Look> = []
    for (let time = 0; time < times; time++) {
      const page = await browser.newPage()
      await page.addInitScript(WATCH)
      await page.goto(address)
      await page.getByRole("button", { name: "Events" }).click()
      looks.push(await page.evaluate<Look>(LOOK))
      await page.close()
    }
    return looks
  } finally {
    await browser.close()
    server.kill("SIGTERM")
  }
}
