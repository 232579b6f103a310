/** Events with their proofs: each as its table keeps it, with its salt and the leaf for a seal. */
import { Schema } from "effect"
import { randomFillSync } from "node:crypto"
import type * as AuditEvent from "../../schema/AuditEvent.js"
import { writeId } from "../../schema/EventId.js"
import { sqlDateTime, type SqlValue, type StoredEvent } from "../../schema/Line.js"
import type { Manifest, Stored } from "../../services/Sealing.js"
import type { Rejection } from "../../services/Uploader.js"
import { SALT_BYTES, writeLeaf } from "../proof/row.js"
import { ENTRY_BYTES, PROOF_COLUMN } from "../proof/seal.js"
import type { Keeper } from "./provable.js"

/** The kind with one more column, for the salts. */
export const withProof = (definition: AuditEvent.Any): AuditEvent.Any => {
  const known = proven.get(definition)
  if (known !== undefined) return known
  const made: AuditEvent.Any = {
    kind: definition.kind,
    table: definition.table,
    fields: { ...definition.fields, [PROOF]: Schema.Uint8ArrayFromSelf },
    indexes: definition.indexes,
    sensitive: definition.sensitive,
    erasable: definition.erasable,
    columns: [...definition.columns, { field: PROOF, key: PROOF, name: PROOF_COLUMN, type: undefined }],
    fromTime: definition.fromTime,
    fromActor: definition.fromActor,
    fromSpan: definition.fromSpan,
    prototype: definition.prototype
  }
  proven.set(definition, made)
  return made
}

const proven = new WeakMap<AuditEvent.Any, AuditEvent.Any>()

/** a name that no field is likely to have */
const PROOF = `$${PROOF_COLUMN}`

/** What the columns of a table do with what is written to them. */
export interface Keepers {
  readonly eventTime: Keeper
  /** of the kind's columns */
  readonly columns: ReadonlyArray<Keeper>
}

/** Events as they are written, and what is sealed of them. */
export interface Proven {
  readonly events: ReadonlyArray<StoredEvent>
  /** of these events, one after the other */
  readonly salts: Buffer
  /** the entries of these events */
  readonly entries: Buffer
  /** the places of these events among those that were given */
  readonly places: ReadonlyArray<number>
  /** events that are not even sent */
  readonly refused: ReadonlyArray<Rejection>
}

/** An event, some of whose values were fitted to their columns. */
class Fitted implements StoredEvent {
  readonly eventId: string
  readonly definition: AuditEvent.Any
  readonly time: number | null
  readonly line: StoredEvent["line"]
  readonly retried: boolean

  constructor(
    event: StoredEvent,
    readonly row: ReadonlyArray<SqlValue>
  ) {
    this.eventId = event.eventId
    this.definition = event.definition
    this.time = event.time
    this.line = event.line
    this.retried = event.retried === true
  }
}

/** Makes, from events of a kind, what is written and what is sealed. */
export const prove = (
  definition: AuditEvent.Any,
  manifest: Manifest,
  keepers: Keepers,
  given: ReadonlyArray<StoredEvent>,
  /** why an event is not to be sent, if so */
  refusalOf?: (event: StoredEvent) => Omit<Rejection, "index"> | undefined
): Proven => {
  const salts = randomFillSync(Buffer.allocUnsafeSlow(given.length * SALT_BYTES))
  const entries = Buffer.alloc(given.length * ENTRY_BYTES)
  const events: Array<StoredEvent> = []
  const places: Array<number> = []
  const refused: Array<Rejection> = []
  const width = definition.columns.length
  /** of the event at hand */
  const values = new Array<string | null>(width).fill(null)
  for (let index = 0; index < given.length; index++) {
    const event = given[index]!
    const refusal = refusalOf?.(event)
    if (refusal !== undefined) {
      refused.push({ index, ...refusal })
      continue
    }
    const { row } = event
    /** the row to write, if some value is not kept as it is */
    let other: Array<SqlValue> | undefined
    let unkept: Array<string> | undefined
    for (let i = 0; i < width; i++) {
      const keeper = keepers.columns[i]!
      const value = row[i] ?? null
      // Hot path: mostly there is nothing to fit
      if (value === null || (typeof value === "string" && value.length <= keeper.plain)) {
        values[i] = value
        continue
      }
      const fitted = keeper.fit(value)
      if (fitted === undefined) (unkept ??= []).push(definition.columns[i]!.name)
      else {
        if (!Object.is(fitted, value)) (other ??= [...row])[i] = fitted
        values[i] = keeper.textOf(fitted)
      }
    }
    const time = event.time === null ? null : keepers.eventTime.fit(sqlDateTime(event.time))
    if (time === undefined) (unkept ??= []).push("event_time")
    if (unkept !== undefined) {
      refused.push({ index, ...unprovable(unkept.join(", "), manifest) })
      continue
    }
    writeId(event.eventId, entries, events.length * ENTRY_BYTES)
    const eventTime = keepers.eventTime.textOf(time ?? null)
    writeLeaf(entries, salts, events.length, manifest, { eventTime, values })
    events.push(other === undefined ? event : new Fitted(event, other))
    places.push(index)
  }
  return {
    events,
    salts: salts.subarray(0, events.length * SALT_BYTES),
    entries: entries.subarray(0, events.length * ENTRY_BYTES),
    places,
    refused
  }
}

/** The rejection of an event that no column would keep as it is. */
const unprovable = (columns: string, { table }: Manifest) => ({
  code: "UNPROVABLE",
  reason: `nobody can tell in which form ${columns} of ${table} would keep it: give times as YYYY-MM-DD HH:MM:SS`
})

/** What a seal says of the rows of a kind in a table. */
export const manifestOf = ({ columns, erasable, kind }: AuditEvent.Any, table: string): Manifest => ({
  kind,
  table,
  columns: columns.map(({ name }) => name),
  erasable: columns.filter(({ field }) => erasable.includes(field)).map(({ name }) => name)
})

/** What became of the events. Places of rejections count all events that were given. */
export const storedOf = (
  manifest: Manifest,
  proven: Proven,
  rejected: ReadonlyArray<Rejection>,
  twins: ReadonlySet<StoredEvent>
): Stored => ({
  manifest,
  rows: rejected.length === 0 && twins.size === 0 ? proven.entries : entriesWithout(proven, rejected, twins),
  twins: [...twins].map(({ eventId }) => eventId),
  rejected: [
    ...proven.refused,
    ...rejected.map((rejection) => ({ ...rejection, index: proven.places[rejection.index]! }))
  ]
})

const entriesWithout = (
  { entries, events }: Proven,
  rejected: ReadonlyArray<Rejection>,
  twins: ReadonlySet<StoredEvent>
): Buffer => {
  const isRejected = new Set(rejected.map(({ index }) => index))
  return Buffer.concat(
    events.flatMap((event, index) =>
      isRejected.has(index) || twins.has(event)
        ? []
        : [entries.subarray(index * ENTRY_BYTES, (index + 1) * ENTRY_BYTES)]
    )
  )
}
