/** A position: the place and the number of a line in the queue. */

/**
 * The start of a line: its segment, its offset there, and its sequence number. A segment has the number of its first
 * line.
 *
 * @category models
 * @since 0.1.0
 */
export interface Position {
  readonly segment: number
  /** bytes */
  readonly offset: number
  readonly sequence: number
}

/** A position without its sequence number, which a repair may change. */
export type Place = Pick<Position, "segment" | "offset">

export const isBefore = (a: Place, b: Place): boolean =>
  a.segment === b.segment ? a.offset < b.offset : a.segment < b.segment

/** The place as text, which is the id of a dead letter. */
export const idOf = ({ offset, segment }: Place): string => `${segment}:${offset}`

/** The inverse of {@link idOf}. */
export const placeOf = (id: string): Place => {
  const colon = id.indexOf(":")
  return { segment: numberIn(id, 0, colon), offset: numberIn(id, colon + 1, id.length) }
}

/** The number of these digits. Hot path: makes no substring, since it runs for each of many letters. */
const numberIn = (text: string, from: number, to: number): number => {
  let number = 0
  for (let at = from; at < to; at++) number = number * 10 + (text.charCodeAt(at) - 0x30)
  return number
}
