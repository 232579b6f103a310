/** From a line on disk to an event: what delivery does with it, and what `verify` says of it. */
import { Either } from "effect"
import { isUtf8 } from "node:buffer"
import type { makeDecoder, StoredEvent } from "../schema/Line.js"
import type { QueueRecord, Refusal } from "../services/QueueFile.js"
import { eventIdOfLine } from "./eventId.js"

/** Why a line cannot be delivered. */
export type Unfit = Pick<Refusal, "class" | "reason" | "kind">

/** Reads lines of a queue by a decoder of its kinds. */
export const makeReader =
  (decode: ReturnType<typeof makeDecoder>, queueId: string) =>
  (
    record: Pick<QueueRecord, "bytes" | "offset" | "problem" | "segment">
  ): Either.Either<StoredEvent, Unfit> => {
    const { bytes, problem } = record
    if (problem === "oversize") return unfit("oversize", "the line is longer than maxLineBytes")
    if (problem === "torn") return unfit("torn", "the end of a write that was never acknowledged")
    if (!isUtf8(bytes)) return unfit("malformed", "the line is not UTF-8")
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
    // the Python class skips them too: nobody was ever told of one
    if (text.trim() === "") return unfit("torn", "the line is blank")
    return decode(text, () => eventIdOfLine(queueId, record))
  }

const unfit = (cls: Unfit["class"], reason: string) => Either.left<Unfit>({ class: cls, reason })
