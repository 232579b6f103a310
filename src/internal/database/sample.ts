/** The sample: a made-up row that is written, read and rolled back, to see whether a table gives back what it gets. */
import type * as AuditEvent from "../../schema/AuditEvent.js"
import type { SqlValue } from "../../schema/Line.js"
import { type Storage, storageOf } from "./columnTypes.js"
import type { Keeper } from "./provable.js"

/** For each kind of value: one that tables like to change, and one that hardly any constraint refuses. */
const SAMPLES: Record<Storage, { readonly rich: SqlValue; readonly plain: SqlValue }> = {
  text: { rich: "a \\'\"\0 e\u0301 A \u{1f600}\t ", plain: "a" },
  integer: { rich: 127, plain: 1 },
  number: { rich: 0.1 + 0.2, plain: 1 },
  boolean: { rich: 1, plain: 0 },
  dateTime: { rich: "2026-01-31 08:00:00.123", plain: "2026-01-31 08:00:00.000" }
}

/** for a text column that takes only times */
const TIME = "2026-01-31 08:00:00"

/** The values of a sample row, each as its column keeps it. */
export const sampleRow = (
  definition: AuditEvent.Any,
  keepers: ReadonlyArray<Keeper>,
  which: "rich" | "plain",
  /** whether the column takes ASCII only, and for how many characters it has room */
  roomOf: (column: string) => { readonly isAscii: boolean; readonly characters: number }
): ReadonlyArray<SqlValue> =>
  definition.columns.map(({ field, name }, index) => {
    const storage = storageOf(definition.fields[field]!)
    const sample = SAMPLES[storage][which]
    const { fit } = keepers[index]!
    if (storage !== "text") return fit(sample) ?? null
    const { characters, isAscii } = roomOf(name)
    const text = Array.from(String(sample))
    const fitting = (isAscii ? text.filter((character) => character < "\x7f") : text)
      .slice(0, characters)
      .join("")
    return fit(fitting) ?? fit(TIME) ?? null
  })

/** The columns that do not show what was written to them; undefined if all do. */
export const changedIn = (
  columns: ReadonlyArray<string>,
  written: ReadonlyArray<string | null>,
  shown: ReadonlyArray<string | null>
): string | undefined => {
  const changed = columns.filter((_, index) => written[index] !== shown[index])
  return changed.length === 0 ? undefined : changed.join(", ")
}
