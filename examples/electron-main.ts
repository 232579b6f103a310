/**
 * The main process of an Electron program, without Effect. In your own:
 *
 *     import { app, ipcMain } from "electron"
 *     await main(app, ipcMain, { directory: path.join(app.getPath("userData"), "audit"), uploader })
 *
 * Build one log in the main process and let the windows ask for it: two processes cannot share a directory.
 */
import type { AuditLoggerOptions } from "effect-audit"
import { openAuditLogger } from "effect-audit"
import { hostname, userInfo } from "node:os"

/** What is used of Electron's `app`. */
export interface App {
  on(event: "will-quit", listener: (event: { preventDefault(): void }) => void): unknown
  quit(): void
}

/** What is used of Electron's `ipcMain`. */
export interface IpcMain {
  handle(channel: "generate", listener: (event: unknown, prompt: string) => Promise<string>): void
}

export const main = async (app: App, ipcMain: IpcMain, options: AuditLoggerOptions): Promise<void> => {
  const audit = await openAuditLogger(options)
  const user = { userName: userInfo().username, deviceName: hostname() }
  await audit.logLogin(user)

  ipcMain.handle("generate", async (_event, prompt) => {
    const start = performance.now()
    const record = (end: { status: string; resultPath?: string; errorMessage?: string }) =>
      audit.logUse({ ...user, prompt, ...end, durationMs: Math.round(performance.now() - start) })
    try {
      const resultPath = await generateImage(prompt)
      await record({ status: "success", resultPath })
      return resultPath
    } catch (error) {
      await record({ status: "failure", errorMessage: String(error) })
      throw error
    }
  })

  let closed = false
  app.on("will-quit", (event) => {
    if (closed) return
    // Electron waits for no promise: stay until the log is closed, at most two seconds, then quit again
    event.preventDefault()
    closed = true
    void audit.shutdown("2 seconds").then(() => app.quit())
  })
}

const generateImage = async (prompt: string): Promise<string> => {
  await new Promise((resolve) => setTimeout(resolve, 20))
  if (prompt.includes("dragon")) throw new Error("the model refused")
  return `out/${encodeURIComponent(prompt)}.png`
}
