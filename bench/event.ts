/**
 * The event that every subject records: 380 bytes as a line.
 *
 * @module
 */
import type { UseLogInput } from "effect-audit"
import { v7 } from "uuid"

/** The columns of its row, without id and time. */
export const USE_COLUMNS = [
  "user_name",
  "device_name",
  "prompt",
  "result_path",
  "status",
  "error_message",
  "model",
  "duration_ms",
  "finish_reason"
] as const

export const useLog = (): UseLogInput => ({
  userName: "li.wei",
  deviceName: "studio-3",
  prompt: "a red fox in the snow at night, oil on canvas, warm light from a window behind it",
  resultPath: "out/2026/01/31/0001.png",
  status: "success",
  errorMessage: null,
  model: "gemini-2.5-flash-image",
  durationMs: 1840,
  finishReason: "STOP"
})

/** The line of an event, made as plainly as JavaScript can: an id, the time, JSON. */
export const makeLine = (): Buffer => {
  const event = useLog()
  return Buffer.from(
    JSON.stringify({
      kind: "use_log",
      event_id: v7(),
      ts: new Date().toISOString(),
      user_name: event.userName,
      device_name: event.deviceName,
      prompt: event.prompt,
      result_path: event.resultPath,
      status: event.status,
      error_message: event.errorMessage,
      model: event.model,
      duration_ms: event.durationMs,
      finish_reason: event.finishReason
    }) + "\n"
  )
}
