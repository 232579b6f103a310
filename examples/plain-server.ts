/**
 * A server without Effect: node:http, and the audit log on promises. Express and Fastify use it in the same way. The
 * process has one log, opened before the server listens, closed after the last response.
 *
 *     npx tsx examples/plain-server.ts
 *     curl -X POST localhost:3000/images -H 'x-user: li' -d 'a red fox'
 */
import { openAuditLogger } from "effect-audit"
import { SqliteUploader } from "effect-audit/sqlite"
import { once } from "node:events"
import { createServer } from "node:http"
import { text } from "node:stream/consumers"

const audit = await openAuditLogger({
  directory: "./audit",
  uploader: SqliteUploader.layer({ filename: "./audit.db" })
})

const server = createServer((request, response) => {
  const startedAt = performance.now()
  const handle = async () => {
    const prompt = await text(request)
    const status = prompt === "" ? 400 : 200
    // on disk before the client has its answer; it never rejects
    await audit.logUse({
      userName: request.headers["x-user"]?.toString(),
      deviceName: request.socket.remoteAddress,
      prompt,
      status: status < 400 ? "success" : "failure",
      durationMs: Math.round(performance.now() - startedAt)
    })
    response.writeHead(status).end(`${status === 200 ? "painted" : "no prompt"}\n`)
  }
  // if the client hangs up in the middle of its request
  handle().catch(() => response.destroy())
})

server.listen(Number(process.env.PORT ?? 3000), () => console.log("Listening"))

await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")])
server.close()
server.closeIdleConnections()
await once(server, "close")
await audit.shutdown()
