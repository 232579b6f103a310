/**
 * Answers of an uploader: whatever one does, the worker gets a valid result or an UploadError.
 *
 * An uploader may be the program's own. If its answer is wrong, nobody knows what is stored: the batch is sent again.
 */
import { Cause, Duration, Effect, Option, Redacted } from "effect"
import { UploadError } from "../../schema/Errors.js"
import type { Uploader, UploadBatch, UploadResult } from "../../services/Uploader.js"
import { attempt } from "../contained.js"

/** An uploader that does not keep its contract: somebody has to mend it, although the next try may do. */
const defect = (what: string, cause?: unknown): UploadError =>
  new UploadError({
    class: "operator",
    code: "DEFECT",
    reason:
      `the uploader ${what}: mend it (the log at Debug has the cause); the events wait on disk and are ` +
      "sent again",
    ...(cause === undefined ? {} : { cause: Redacted.make(cause) })
  })

/** What sends the batch. */
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

/** The failure of an upload. */
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

/** The result of an upload of so many events, if it is one. */
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

/** An upload that has not answered in time: mostly a connection that hangs, which passes by itself. */
export const timedOut = (after: Duration.Duration): UploadError =>
  new UploadError({
    class: "transient",
    code: "ETIMEDOUT",
    reason:
      `the uploader has not answered within ${Duration.format(after)} (uploadTimeout): the events are sent again, ` +
      "fewer at a time; if this stays, give each statement a limit of its own, or raise uploadTimeout"
  })
