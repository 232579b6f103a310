/** Reading an event: turns a line on disk into an event, or tells why it cannot be delivered. */
import { Either } from "../schema/Effect3.js"
import type { makeDecoder, StoredEvent } from "../schema/Line.js"
import type { QueueRecord, Refusal } from "../services/QueueFile.js"
import { eventIdOfLine } from "./python/oldLines.js"

/** Why a line cannot be delivered. */
export type Unfit = Pick<Refusal, "class" | "reason" | "kind">

/** Makes a reader of a queue's lines from a decoder of its kinds. */
export const makeReader =
  (decode: ReturnType<typeof makeDecoder>, queueId: string) =>
  (
    record: Pick<QueueRecord, "bytes" | "offset" | "problem" | "segment" | "text">
  ): Either.Either<StoredEvent, Unfit> => {
    const { problem, text } = record
    if (problem === "oversize") return unfit("oversize", "the line is longer than maxLineBytes")
    if (problem === "torn") return unfit("torn", "the end of a write that was never acknowledged")
    if (text === undefined) return unfit("malformed", "the line is not UTF-8")
    const event = decode(text, () => eventIdOfLine(queueId, record))
    // the Python class skips blank lines, too: no caller was promised one
    return Either.isLeft(event) && text.trim() === "" ? unfit("blank", "the line is blank") : event
  }

const unfit = (cls: Unfit["class"], reason: string) => Either.left<Unfit>({ class: cls, reason })
