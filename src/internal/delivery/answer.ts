/**
 * Answers: whatever an uploader does, the worker gets a valid result or an UploadError.
 *
 * A program may bring its own uploader. If its answer is invalid, then nobody knows what is stored, so the batch is
 * sent again.
 */
import { Cause, Duration, Effect, Option, Redacted } from "effect"
import { UploadError } from "../../schema/Errors.js"
import type { Uploader, UploadBatch, UploadResult } from "../../services/Uploader.js"
import { attempt } from "../contained.js"

/** An uploader that breaks its contract. Somebody must mend it, although the next try may succeed. */
const defect = (what: string, cause?: unknown): UploadError =>
  new UploadError({
    class: "operator",
    code: "DEFECT",
    reason:
      `the uploader ${what}: mend it (the log at Debug has the cause); the events wait on disk and are ` +
      "sent again",
    ...(cause === undefined ? {} : { cause: Redacted.make(cause) })
  })

/** Calls the uploader; if it throws, or returns no Effect, then that is a defect. */
export const uploadOf = (
  uploader: Uploader["Type"],
  batch: UploadBatch
): Effect.Effect<UploadResult, UploadError> => {
  try {
    const upload: unknown = uploader.upload(batch)
    return Effect.isEffect(upload)
      ? (upload as Effect.Effect<UploadResult, UploadError>)
      : Effect.fail(defect("returned something that is no Effect"))
  } catch (error) {
    return Effect.fail(defect("threw", error))
  }
}

export const failureOf = (cause: Cause.Cause<unknown>): UploadError => {
  const failure = Option.getOrUndefined(Cause.failureOption(cause))
  if (failure instanceof UploadError) return failure
  const what = Cause.isInterruptedOnly(cause)
    ? "interrupted itself"
    : failure === undefined
      ? "died"
      : "failed with something that is no UploadError"
  return defect(what, cause)
}

/** The result of an upload; if it is invalid for a batch of so many events, then a defect. */
export const answerOf = (result: unknown, events: number): Effect.Effect<UploadResult, UploadError> =>
  attempt(
    () => isResult(result, events),
    () => false
  )
    ? Effect.succeed(result as UploadResult)
    : Effect.fail(defect("answered with something that is no UploadResult of its batch"))

const isResult = (result: unknown, events: number): boolean => {
  const rejected: unknown = (result as Partial<UploadResult> | null | undefined)?.rejected
  if (!Array.isArray(rejected)) return false
  const seen = new Set<unknown>()
  return rejected.every((rejection: { readonly [K in "index" | "code" | "reason"]?: unknown }) => {
    const { code, index, reason } = rejection
    if (!Number.isInteger(index) || (index as number) < 0 || (index as number) >= events) return false
    if (typeof code !== "string" || typeof reason !== "string" || seen.has(index)) return false
    seen.add(index)
    return true
  })
}

/** The error for an upload without an answer in time: mostly a hanging connection, which passes by itself. */
export const timedOut = (after: Duration.Duration): UploadError =>
  new UploadError({
    class: "transient",
    code: "ETIMEDOUT",
    reason:
      `the uploader has not answered within ${Duration.format(after)} (uploadTimeout): the events are sent again, ` +
      "fewer at a time; if this stays, give each statement a limit of its own, or raise uploadTimeout"
  })
