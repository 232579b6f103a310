/**
 * What the tables of both databases have in common.
 */
import type * as AuditEvent from "../schema/AuditEvent.js"
import type { SqlValue, StoredEvent } from "../schema/Line.js"
import { sqlDateTime } from "../schema/Line.js"

/** Our own columns: the event's id, 16 bytes, and its time in UTC. */
export const EVENT_ID = "event_id"
export const EVENT_TIME = "event_time"

/** Which tables receive the events, by kind, where it is not the one that the kind names. */
export interface TableNames {
  readonly [kind: string]: string | undefined
}

/** The table of a kind. */
export const tableName = (definition: AuditEvent.Any, names: TableNames | undefined): string =>
  names?.[definition.kind] ?? definition.table

/** The values of {@link EVENT_ID} and {@link EVENT_TIME}. */
export const identity = (event: StoredEvent): readonly [id: Buffer, time: string | null] => [
  Buffer.from(event.eventId.replaceAll("-", ""), "hex"),
  event.time === null ? null : sqlDateTime(event.time)
]

/** The parameters of a multi-row INSERT, row by row. */
export const parameters = (
  events: ReadonlyArray<StoredEvent>,
  withIdentity: boolean
): Array<SqlValue | Buffer> => {
  const params: Array<SqlValue | Buffer> = []
  for (const event of events) {
    if (withIdentity) params.push(...identity(event))
    for (const value of event.row) params.push(value)
  }
  return params
}

/** So many rows of so many placeholders, as they follow VALUES. */
export const placeholders = (rows: number, columns: number): string =>
  Array<string>(rows)
    .fill(`(${Array<string>(columns).fill("?").join(",")})`)
    .join(",")
