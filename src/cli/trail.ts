/** The source of `events` and the page: the database of the flags, and the kinds in it. */
import { Effect, Option, Schema } from "effect"
import type { Stream } from "effect"
import { type Collect, type FoundColumn, NO_TABLE, type Reader, type Row } from "../internal/database/walk.js"
import { PROOF_COLUMN } from "../internal/proof/seal.js"
import * as AuditEvent from "../schema/AuditEvent.js"
import { Disk } from "../services/Disk.js"
import type { TrailError } from "../schema/Errors.js"
import type { Query, Trail } from "../services/Trail.js"
import { usageError } from "./exit.js"
import { loadMysql } from "./mysql.js"
import { type DatabaseFlags, databaseOf, tablesOf } from "./settings.js"
import type { AnyFound } from "./shown.js"
import { loadSqlite } from "./sqlite.js"

export interface OpenTrail {
  readonly trail: Trail["Type"]
  readonly reader: Reader
  /** Whether a missing table may be one that the account may not read. A file hides none. */
  readonly mayHide: boolean
  /** What `collect` makes of the rows that a search finds. */
  readonly search: <A>(
    kind: AuditEvent.Any,
    query: Query<AuditEvent.Any>,
    collect: Collect<A>
  ) => Stream.Stream<A, TrailError>
  readonly foundOf: (kind: AuditEvent.Any) => (row: Row) => AnyFound
}

/** Opens the database, and the queue of the directory if there is one. */
export const openTrail = (
  flags: DatabaseFlags & { readonly sqlite: Option.Option<string> },
  kinds: ReadonlyArray<AuditEvent.Any>,
  directory: string | undefined
) =>
  Effect.gen(function* () {
    const disk = yield* Disk
    const { foundOf, makeTrail, search } = yield* Effect.promise(() => import("../layers/TrailLive.js"))
    const reader: Reader = Option.isSome(flags.sqlite)
      ? yield* sqliteReader(flags.sqlite.value, yield* tablesOf(flags.tables), disk)
      : yield* mysqlReader(flags)
    const hasQueue = directory !== undefined && (yield* disk.info(directory))?.type === "directory"
    return {
      reader,
      mayHide: Option.isNone(flags.sqlite),
      foundOf,
      search: (kind, query, collect) => search(reader, kind, "time", query, collect),
      trail: makeTrail({ reader, kinds, disk, directory: hasQueue ? directory : undefined })
    } satisfies OpenTrail
  })

const mysqlReader = (flags: DatabaseFlags) =>
  Effect.gen(function* () {
    yield* loadMysql
    const { makeReader } = yield* Effect.promise(() => import("../internal/database/mysql/reading.js"))
    return yield* makeReader(yield* databaseOf(flags))
  })

const sqliteReader = (filename: string, tables: Readonly<Record<string, string>>, disk: Disk["Type"]) =>
  Effect.gen(function* () {
    yield* loadSqlite
    const { makeReader } = yield* Effect.promise(() => import("../internal/database/sqlite/reading.js"))
    return yield* makeReader({ filename, tables }, disk)
  })

/** The kinds that have a table. Any other fault of a table shows when it is read. */
export const readableOf = (kinds: ReadonlyArray<AuditEvent.Any>, { reader }: OpenTrail) =>
  Effect.filter(kinds, (kind) =>
    Effect.match(reader.byId(kind, NO_ID), {
      onSuccess: () => true,
      onFailure: ({ code }) => code !== NO_TABLE
    })
  )

/** An id that no event has: looking for it costs nothing, since there is a key over the ids. */
const NO_ID = "00000000-0000-0000-0000-000000000000"

/** The note about kinds that are left out. */
export const leftOut = (
  kinds: ReadonlyArray<AuditEvent.Any>,
  found: ReadonlyArray<AuditEvent.Any>,
  { mayHide }: OpenTrail
): string | undefined => {
  const others = kinds.filter((kind) => !found.includes(kind)).map(({ kind }) => kind)
  return mayHide && others.length > 0
    ? `Without ${others.join(", ")}: there is no such table, or the account may not read it.`
    : undefined
}

/** The error for an event that is nowhere, as far as the account can see. */
export const noEvent = (eventId: string, kinds: ReadonlyArray<AuditEvent.Any>, open: OpenTrail) =>
  Effect.gen(function* () {
    const nowhere = `There is no event ${eventId}.`
    const without = leftOut(kinds, yield* readableOf(kinds, open), open)
    return yield* usageError(without === undefined ? nowhere : `${nowhere} ${without}`)
  })

/** A kind without a class, made from the columns of its table. All its fields count as sensitive. */
export const kindOfTable = (table: string, found: ReadonlyArray<FoundColumn>): AuditEvent.Any => {
  const columns = found.filter(({ name }) => name !== PROOF_COLUMN)
  const kind = AuditEvent.Class<AuditEvent.Instance>()(table, {
    table,
    fields: Object.fromEntries(
      columns.map(({ holds, name }) => [fieldOf(name), AuditEvent.optional(FIELDS[holds])])
    ),
    columns: Object.fromEntries(columns.map(({ name }) => [fieldOf(name), name]))
  })
  return Object.assign(kind, { columns: kind.columns.map((column) => ({ ...column, key: column.name })) })
}

/** A field may not have the name of a member of every object, as `constructor`. No column has a NUL in its name. */
const fieldOf = (column: string): string => (column in Object.prototype ? `\0${column}` : column)

const FIELDS: Record<FoundColumn["holds"], Schema.Schema.AnyNoContext> = {
  text: Schema.String,
  // a counter may be beyond 2^53
  whole: Schema.BigIntFromSelf,
  number: Schema.Number
}

/** The kind of a name: a known one, or one made from the table of that name. */
export const kindNamed = (name: string, kinds: ReadonlyArray<AuditEvent.Any>, { reader }: OpenTrail) =>
  Effect.gen(function* () {
    const known = kinds.find(({ kind }) => kind === name) ?? kinds.find(({ table }) => table === name)
    if (known !== undefined) return known
    const columns = yield* Effect.catchIf(
      reader.columns(name),
      ({ code }) => code === NO_TABLE,
      () =>
        usageError(
          `There is no kind "${name}", and no table ${name} that may be read: say one of ` +
            `${kinds.map(({ kind }) => kind).join(", ")}, or --events for kinds of your own.`
        )
    )
    return kindOfTable(name, columns)
  })
