/** The SQL for what a seal permits: statements that empty erasable columns, and statements that remove rows. */
import { Effect, Stream } from "effect"
import { textOf } from "../../schema/EventId.js"
import { hex } from "./bytes.js"
import { erasableHash, type Manifest, SALT_BYTES } from "./row.js"
import { PROOF_COLUMN } from "./seal.js"
import { forEachGroup, MOST_IDS, type Source } from "./verify.js"

/** Sealed rows of a kind. */
export interface Sealed {
  readonly manifest: Manifest
  readonly eventIds: ReadonlyArray<Uint8Array>
}

/** The sealed rows of a kind whose ids are meant. */
export const sealedRows = <E>(
  source: Source<E>,
  kind: string,
  isMeant: (eventId: string) => boolean
): Effect.Effect<ReadonlyArray<Sealed>, E> =>
  Effect.gen(function* () {
    const found: Array<Sealed> = []
    for (const { chain } of yield* source.chains) {
      yield* forEachGroup({ source, renamed: (manifest) => manifest }, chain, (_, manifest, entries) =>
        Effect.sync(() => {
          if (manifest?.kind !== kind) return
          const eventIds = entries.map(({ eventId }) => eventId).filter((id) => isMeant(textOf(id)))
          if (eventIds.length > 0) found.push({ manifest, eventIds })
        })
      )
    }
    return found
  })

/** How many seals of each chain were made before a time, `YYYY-MM-DD HH:MM:SS`. */
export const sealsBefore = <E>(
  source: Source<E>,
  time: string
): Effect.Effect<ReadonlyArray<{ readonly chain: string; readonly before: number }>, E> =>
  Effect.gen(function* () {
    const found: Array<{ readonly chain: string; readonly before: number }> = []
    for (const { chain } of yield* source.chains) {
      let before = 0
      for (;;) {
        const seals = yield* source.seals(chain, before)
        const early = seals.filter(({ at }) => at < time)
        if (early.length > 0) before = early.at(-1)!.number + 1
        if (early.length < seals.length || seals.length === 0) break
      }
      if (before > 0) found.push({ chain, before })
    }
    return found
  })

const literal = (bytes: Uint8Array): string => `x'${hex(bytes)}'`

/** SQL that empties the erasable columns of rows, and keeps what proves them. Leaves out rows that are erased. */
export const erasing = <E>(source: Source<E>, { eventIds, manifest }: Sealed): Stream.Stream<string, E> =>
  pagesOf(eventIds).pipe(
    Stream.mapEffect((page) =>
      Effect.gen(function* () {
        const lines: Array<string> = []
        const { erasable, table } = manifest
        for (let from = 0; from < page.length;) {
          const { ids, rows } = yield* source.rows(manifest, page.slice(from))
          from += ids
          for (const row of rows) {
            const { eventId, proof } = row
            if (proof?.length !== SALT_BYTES) continue
            const emptied: Array<string> = []
            for (const name of erasable) {
              emptied.push(`${source.quote(name)} = ${yield* source.emptied(table, name)}`)
            }
            const hash = literal(erasableHash(manifest, row, proof))
            lines.push(
              `UPDATE ${source.quote(table)} SET ${[...emptied, `${PROOF_COLUMN} = ${hash}`].join(", ")} ` +
                `WHERE event_id = ${literal(eventId)} AND ${PROOF_COLUMN} = ${literal(proof)};`
            )
          }
        }
        return lines
      })
    ),
    Stream.flattenIterables
  )

/** SQL that removes the rows of a chain's seals before a number. */
export const purging = <E>(source: Source<E>, chain: string, before: number): Stream.Stream<string, E> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const found: Array<Sealed> = []
      yield* forEachGroup(
        { source, renamed: (manifest) => manifest },
        chain,
        ({ number }, manifest, entries) =>
          Effect.sync(() => {
            if (manifest !== undefined && number < before)
              found.push({ manifest, eventIds: entries.map(({ eventId }) => Buffer.from(eventId)) })
          })
      )
      return Stream.fromIterable(found).pipe(
        Stream.flatMap(({ eventIds, manifest }) =>
          Stream.map(
            pagesOf(eventIds),
            (page) =>
              `DELETE FROM ${source.quote(manifest.table)} WHERE event_id IN (${page.map(literal).join(",")});`
          )
        )
      )
    })
  )

const pagesOf = (ids: ReadonlyArray<Uint8Array>): Stream.Stream<ReadonlyArray<Uint8Array>> =>
  Stream.fromIterable(
    Array.from({ length: Math.ceil(ids.length / MOST_IDS) }, (_, page) =>
      ids.slice(page * MOST_IDS, (page + 1) * MOST_IDS)
    )
  )
