/** A position: where a line stands in the queue. */

/**
 * The start of a line: the segment (named by the sequence number of its first line), the byte in it, and the
 * line's own sequence number.
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

/** The place as text, by which a dead letter is named. */
export const idOf = ({ offset, segment }: Place): string => `${segment}:${offset}`

/** The place of {@link idOf}. */
export const placeOf = (id: string): Place => {
  const colon = id.indexOf(":")
  return { segment: Number(id.slice(0, colon)), offset: Number(id.slice(colon + 1)) }
}
