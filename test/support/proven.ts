/**
 * Databases with sealed rows, and the findings of `prove`.
 *
 * @module
 */
import { createClient } from "@libsql/client"
import { Context, Effect, Either, Exit, Layer, Logger, Redacted, Scope } from "effect"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { inject, type TestContext } from "vitest"
import { openSource as openMysql } from "../../src/cli/mysqlSource.js"
import { openSource as openSqlite } from "../../src/cli/sqliteSource.js"
import { verifyingKey } from "../../src/internal/proof/keys.js"
import { type Finding, type Options, type Source, verify } from "../../src/internal/proof/verify.js"
import * as AuditLayer from "../../src/layers/AuditLayer.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as NodeDisk from "../../src/layers/NodeDisk.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { AuditLog } from "../../src/services/AuditLog.js"
import type { Disk } from "../../src/services/Disk.js"
import { Uploader } from "../../src/services/Uploader.js"
import { connectionOptions, mysqlDatabase } from "./mysql.js"
import { temporaryDirectory } from "./queue.js"
import { newKey } from "./seals.js"

export interface ProvenDatabase {
  readonly key: Redacted.Redacted
  readonly privatePem: string
  /** A MySQL URL, or the name of an SQLite file. */
  readonly address: string
  /** The uploader; the scope closes its connections. */
  readonly uploader: Effect.Effect<Uploader["Type"], never, Scope.Scope>
  readonly query: (sql: string) => Effect.Effect<ReadonlyArray<Record<string, unknown>>>
  readonly prove: (options?: Partial<Options>) => Effect.Effect<{
    readonly findings: ReadonlyArray<Finding>
    readonly rows: number
    readonly seals: number
    readonly bare: number
    readonly unsealed: number
    readonly chains: ReadonlyArray<string>
  }>
}

export type MakeProven = (
  kinds?: ReadonlyArray<AuditEvent.Any>
) => Effect.Effect<ProvenDatabase, never, Scope.Scope>

/** Proves a database. Returns the findings, and the verifier's summary. */
export const verified = (
  open: Effect.Effect<Source<unknown>, unknown, Scope.Scope | Disk>,
  publicPem: string,
  options: Partial<Options> = {}
) =>
  Effect.gen(function* () {
    const findings: Array<Finding> = []
    const summary = yield* verify(yield* open, {
      keys: [Either.getOrThrow(verifyingKey(publicPem))],
      anchors: [],
      isExclusive: false,
      tables: {},
      report: (finding) => Effect.sync(() => void findings.push(finding)),
      progress: () => Effect.void,
      ...options
    })
    return { findings, summary }
  }).pipe(
    Effect.scoped,
    Effect.provide(NodeDisk.layer),
    // on a loaded machine the server may answer too late
    Effect.retry({ times: 5 }),
    Effect.orDie
  )

/** The same of one database. */
export const proving =
  (open: Effect.Effect<Source<unknown>, unknown, Scope.Scope | Disk>, publicPem: string) =>
  (options: Partial<Options> = {}) =>
    Effect.map(verified(open, publicPem, options), ({ findings, summary }) => ({
      ...summary,
      findings,
      chains: summary.chains.map(({ chain }) => chain)
    }))

/** Runs the program on this directory, from start to end. */
export const lifeOf = <A>(
  database: ProvenDatabase,
  directory: string,
  use: (log: AuditLog["Type"]) => Effect.Effect<A, unknown>,
  options: {
    readonly wrap?: (uploader: Uploader["Type"]) => Uploader["Type"]
    readonly proof?: false
    readonly keys?: { readonly key: Redacted.Redacted; readonly previousKey?: Redacted.Redacted }
    readonly log?: Layer.Layer<never>
    readonly events?: ReadonlyArray<AuditEvent.Any>
    readonly settings?: Partial<AuditLayer.Settings>
  } = {}
) =>
  Effect.gen(function* () {
    const uploader = yield* database.uploader
    const layer = AuditLayer.layer({
      directory,
      minFreeBytes: 0,
      batchRecords: 20,
      events: options.events ?? [],
      shutdownTimeout: "20 seconds",
      ...options.settings,
      ...(options.proof === false ? {} : { proof: options.keys ?? { key: database.key } })
    }).pipe(Layer.provide(Layer.succeed(Uploader, options.wrap?.(uploader) ?? uploader)))
    const scope = yield* Scope.make()
    const log = Context.get(yield* Layer.buildWithScope(layer, scope), AuditLog)
    return yield* Effect.onExit(use(log), (exit) => Scope.close(scope, Exit.asVoid(exit)))
  }).pipe(Effect.scoped, Effect.provide(options.log ?? Logger.remove(Logger.defaultLogger)), Effect.orDie)

const mysql =
  (rootUrl: string): MakeProven =>
  (kinds = [UseLog, LoginLog]) =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* Effect.orDie(MysqlUploader.migrate(options, kinds, { proof: true }))
      const { privatePem, publicPem } = newKey()
      return {
        key: Redacted.make(privatePem),
        privatePem,
        address: database.url,
        uploader: MysqlUploader.make(options),
        query: (sql) => Effect.promise(() => database.query(sql)),
        prove: proving(openMysql(options), publicPem)
      }
    })

const sqlite: MakeProven = (kinds = [UseLog, LoginLog]) =>
  Effect.gen(function* () {
    const filename = path.join(yield* temporaryDirectory, "audit.db")
    yield* Effect.orDie(SqliteUploader.migrateProof({ filename }, kinds))
    const { privatePem, publicPem } = newKey()
    const client = yield* Effect.acquireRelease(
      Effect.sync(() => createClient({ url: pathToFileURL(filename).href })),
      (client) => Effect.sync(() => client.close())
    )
    return {
      key: Redacted.make(privatePem),
      privatePem,
      address: filename,
      uploader: SqliteUploader.make({ filename }),
      query: (sql) =>
        Effect.map(
          Effect.promise(() => client.execute(sql)),
          ({ rows }) => rows.map((row) => ({ ...row }))
        ),
      prove: proving(openSqlite(filename), publicPem)
    }
  })

/** A proven database for tests without a scope, for programs that seal by themselves. */
export interface OpenProven {
  readonly address: string
  readonly query: (sql: string) => Promise<ReadonlyArray<unknown>>
  /** The private key, PEM. */
  readonly key: string
  readonly findings: () => Promise<ReadonlyArray<Finding>>
}

export const openProven = async (make: MakeProven, { onTestFinished }: TestContext): Promise<OpenProven> => {
  const scope = await Effect.runPromise(Scope.make())
  onTestFinished(() => Effect.runPromise(Scope.close(scope, Exit.void)))
  const { address, privatePem, prove, query } = await Effect.runPromise(Scope.extend(make(), scope))
  return {
    address,
    query: (sql) => Effect.runPromise(query(sql)),
    key: privatePem,
    findings: async () => (await Effect.runPromise(prove({ isExclusive: true }))).findings
  }
}

/** The databases of the run. */
export const PROVEN: ReadonlyArray<readonly [name: string, make: MakeProven]> = [
  ["MariaDB", mysql(inject("mysqlRootUrl"))],
  ...(inject("oracleRootUrl") === undefined ? [] : [["MySQL", mysql(inject("oracleRootUrl")!)] as const]),
  ["SQLite", sqlite]
]
