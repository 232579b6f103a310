/** The reader: batches of lines from a position on, each line with its number. */
import { Effect } from "effect"
import type { DiskError } from "../../services/Disk.js"
import type { Position } from "../../schema/Position.js"
import type { Batch, QueueRecord } from "../../services/QueueFile.js"
import { MAX_SEQUENCE } from "./fields.js"
import { LazySequence } from "../lazySequence.js"
import { LINE_BYTES, objectOf, readLines, type RawLine } from "./lines.js"
import * as readAhead from "../readAhead.js"
import type { Segments } from "./segments.js"

interface Source {
  readonly segments: Segments
  /** a longer line is not read whole, bytes */
  readonly maxLineBytes: number
  /** the number of the next append */
  readonly next: () => number
}

/** The limits of a batch; it always has a record if there is one. */
export interface Limits {
  readonly maxRecords: number
  readonly maxBytes: number
}

/** Makes the function that reads batches, one at a time. */
export const makeBatchReader = (
  source: Source
): ((from: Position, limits: Limits) => Effect.Effect<Batch, DiskError>) => {
  const reader: Reader = { ...source, ahead: readAhead.make(), lineBytes: LINE_BYTES }
  const guard = Effect.unsafeMakeSemaphore(1)
  return (from, limits) => guard.withPermits(1)(read(reader, from, limits))
}

interface Reader extends Source {
  readonly ahead: ReturnType<typeof readAhead.make>
  /** 1.1 times the mean length of the last batch's lines, so that one read fills the next batch */
  lineBytes: number
}

// Hot path: outside of `makeBatchReader` (bench/README.md#compiled-code).
const read = Effect.fnUntraced(function* (reader: Reader, from: Position, limits: Limits) {
  const { ahead, maxLineBytes, next, segments } = reader
  for (let position = from; ;) {
    const start = position
    const segment = segments.all.find(({ first }) => first >= start.segment)
    if (segment === undefined) {
      ahead.forget()
      return nothing(start, start)
    }
    // found by its number: delivered segments may be removed while we wait for the disk
    const following = () => segments.all.find(({ first }) => first > segment.first)
    const offset = segment.first === start.segment ? start.offset : 0
    const file = yield* segments.reader(segment)
    const end = segment.bytes
    // numbers end where the next segment begins: further lines come from a failed append and have no number
    const limit = following()?.first ?? (segment.live ? MAX_SEQUENCE + 1 : next())
    const sequence = Math.min(offset === 0 ? segment.first : start.sequence, limit)
    const { lineBytes } = reader
    const found = yield* readLines(ahead.over(file, end), offset, end, { ...limits, maxLineBytes, lineBytes })
    const { lines } = found
    if (lines.length > 0) {
      reader.lineBytes = ((found.next - offset) / lines.length) * 1.1
      const recordAt = (index: number) => {
        const number = sequence + index
        return new TakenRecord(lines.at(index)!, segment.first, Math.min(number, limit), number >= limit)
      }
      const batch: Batch = {
        records: new LazySequence(lines.length, recordAt),
        release: found.release,
        start: from,
        end: {
          segment: segment.first,
          offset: found.next,
          sequence: Math.min(sequence + lines.length, limit)
        }
      }
      return batch
    }
    const after = following()
    if (after === undefined) {
      ahead.forget()
      return nothing(from, start)
    }
    position = { segment: after.first, offset: 0, sequence: start.sequence }
  }
})

const nothing = (start: Position, end: Position): Batch => ({
  records: [],
  start,
  end,
  release: () => undefined
})

class TakenRecord implements QueueRecord {
  constructor(
    private readonly line: RawLine,
    readonly segment: number,
    readonly sequence: number,
    readonly surplus: boolean
  ) {}

  get offset(): number {
    return this.line.offset
  }

  get length(): number {
    return this.line.length
  }

  get bytes(): Uint8Array {
    return this.line.bytes
  }

  get text(): string | undefined {
    return this.line.text
  }

  get problem(): QueueRecord["problem"] {
    if (this.line.oversize) return "oversize"
    return this.line.terminated || isWhole(this.line.bytes) ? undefined : "torn"
  }
}

/** Whether a last line without its newline lacks nothing else: it is a whole object, or blank. */
const isWhole = (bytes: Uint8Array): boolean => objectOf(bytes) !== undefined || isBlank(bytes)

/** No append begins with a blank, so a blank end is a whole blank line of another program. */
const isBlank = (bytes: Uint8Array): boolean => bytes.every((byte) => BLANKS.includes(byte))
const BLANKS = Buffer.from(" \t\r")
