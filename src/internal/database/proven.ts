/** Events with their proofs: as their table keeps them, each with a salt of its own, and the leaf that a seal says. */
import { Schema } from "effect"
import { randomFillSync } from "node:crypto"
import type * as AuditEvent from "../../schema/AuditEvent.js"
import { ID_BYTES, writeId } from "../../schema/EventId.js"
import { sqlDateTime, type SqlValue, type StoredEvent } from "../../schema/Line.js"
import type { Manifest, Stored } from "../../services/Sealing.js"
import type { Rejection } from "../../services/Uploader.js"
import { erasableHash, leafOf, SALT_BYTES } from "../proof/row.js"
import { PROOF_COLUMN } from "../proof/seal.js"
import type { Keeper } from "./provable.js"

/** The kind with one column more, for the salts. */
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

/** no field's name: those are names of JavaScript */
const PROOF = `$${PROOF_COLUMN}`

/** What the columns of a table do with what is written to them. */
export interface Keepers {
  readonly eventTime: Keeper
  /** those of the columns of the kind */
  readonly columns: ReadonlyArray<Keeper>
}

/** Events as they are written, and what is sealed of them. */
export interface Proven {
  /** 16 bytes each */
  readonly ids: ReadonlyArray<Uint8Array>
  readonly events: ReadonlyArray<StoredEvent>
  readonly leaves: ReadonlyArray<Buffer>
  /** the places of these events among those that were given */
  readonly places: ReadonlyArray<number>
  /** those that no column would keep as they are, with the names of the columns */
  readonly refused: ReadonlyArray<{ readonly index: number; readonly columns: string }>
}

/** Makes of events of a kind what is written, and what is sealed. */
export const prove = (
  definition: AuditEvent.Any,
  manifest: Manifest,
  keepers: Keepers,
  given: ReadonlyArray<StoredEvent>
): Proven => {
  const salts = randomFillSync(Buffer.allocUnsafeSlow(given.length * SALT_BYTES))
  const ids = Buffer.allocUnsafe(given.length * ID_BYTES)
  const kind = withProof(definition)
  const events: Array<StoredEvent> = []
  const leaves: Array<Buffer> = []
  const eventIds: Array<Uint8Array> = []
  const places: Array<number> = []
  const refused: Array<{ readonly index: number; readonly columns: string }> = []
  for (let index = 0; index < given.length; index++) {
    const event = given[index]!
    const row: Array<SqlValue> = []
    const values: Array<string | null> = []
    const unkept: Array<string> = []
    for (let i = 0; i < event.row.length; i++) {
      const keeper = keepers.columns[i]!
      const fitted = keeper.fit(event.row[i]!)
      if (fitted === undefined) unkept.push(definition.columns[i]!.name)
      row.push(fitted ?? null)
      values.push(keeper.textOf(fitted ?? null))
    }
    const time = event.time === null ? null : keepers.eventTime.fit(sqlDateTime(event.time))
    if (time === undefined) unkept.push("event_time")
    if (unkept.length > 0) {
      refused.push({ index, columns: unkept.join(", ") })
      continue
    }
    const salt = salts.subarray(index * SALT_BYTES, (index + 1) * SALT_BYTES)
    writeId(event.eventId, ids, index * ID_BYTES)
    const eventId = ids.subarray(index * ID_BYTES, (index + 1) * ID_BYTES)
    const content = { eventId, eventTime: time === undefined ? null : keepers.eventTime.textOf(time), values }
    eventIds.push(eventId)
    leaves.push(leafOf(manifest, content, erasableHash(manifest, content, salt)))
    // drivers take bytes for bytes; no other column holds any
    row.push(salt as unknown as SqlValue)
    events.push({ ...event, definition: kind, row })
    places.push(index)
  }
  return { ids: eventIds, events, leaves, places, refused }
}

/** What a seal says of the rows of a kind in a table. */
export const manifestOf = ({ columns, erasable, kind }: AuditEvent.Any, table: string): Manifest => ({
  kind,
  table,
  columns: columns.map(({ name }) => name),
  erasable: columns.filter(({ field }) => erasable.includes(field)).map(({ name }) => name)
})

/** What became of the events: the places of the rejected are those among all that were given. */
export const storedOf = (
  manifest: Manifest,
  { events, ids, leaves, places, refused }: Proven,
  rejected: ReadonlyArray<Rejection>,
  twins: ReadonlySet<StoredEvent>
): Stored => {
  const isRejected = new Set(rejected.map(({ index }) => index))
  const rows: Array<Stored["rows"][number]> = []
  for (let index = 0; index < events.length; index++) {
    if (isRejected.has(index) || twins.has(events[index]!)) continue
    rows.push({ eventId: ids[index]!, leaf: leaves[index]! })
  }
  return {
    manifest,
    rows,
    twins: [...twins].map(({ eventId }) => eventId),
    rejected: [
      ...refused.map(({ columns, index }) => ({
        index,
        code: "UNPROVABLE",
        reason: `nobody can tell in which form ${columns} of ${manifest.table} would keep it: give times as YYYY-MM-DD HH:MM:SS`
      })),
      ...rejected.map((rejection) => ({ ...rejection, index: places[rejection.index]! }))
    ]
  }
}
