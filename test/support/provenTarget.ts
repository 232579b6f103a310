/**
 * A target with a proof for a history (histories.ts): an SQLite file, the worker's pass and sealer, and `prove` after
 * each step. Like the disk, the database answers late, fails, or dies with its process. That happens before a
 * transaction, or after its commit.
 *
 * @module
 */
import { Duration, Effect, Either, Redacted, type Scope } from "effect"
import * as assert from "node:assert/strict"
import * as fs from "node:fs"
import * as path from "node:path"
import { openSource } from "../../src/cli/sqliteSource.js"
import * as pass from "../../src/internal/delivery/pass.js"
import { sealingKey } from "../../src/internal/proof/keys.js"
import { Sealer } from "../../src/internal/proof/sealer.js"
import { makeReader } from "../../src/internal/readEvent.js"
import type { Fault } from "../../src/layers/MemoryDisk.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import { UploadError } from "../../src/schema/Errors.js"
import { compile, makeDecoder } from "../../src/schema/Line.js"
import { UseLog } from "../../src/schema/UseLog.js"
import type { Uploader } from "../../src/services/Uploader.js"
import type { Target } from "./histories.js"
import { proving } from "./proven.js"
import { refusing } from "./refusing.js"
import { newKey } from "./seals.js"
import { openSqlite } from "./sqlite.js"

const codec = compile(UseLog)
const { privatePem, publicPem } = newKey()
const key = Either.getOrThrow(sealingKey(Redacted.make(privatePem)))

/** Targets in files of this directory, copied from an empty one. */
export const provenTargets = async (
  directory: string
): Promise<Effect.Effect<Target, never, Scope.Scope>> => {
  const empty = path.join(directory, "empty.db")
  await Effect.runPromise(
    Effect.gen(function* () {
      yield* SqliteUploader.migrateProof({ filename: empty }, [UseLog])
      // moves everything into the file that is copied
      yield* (yield* openSqlite(empty))("PRAGMA wal_checkpoint(TRUNCATE)")
    }).pipe(Effect.scoped)
  )
  let made = 0
  return Effect.suspend(() => {
    const filename = path.join(directory, `${made++}.db`)
    const files = [filename, `${filename}-wal`, `${filename}-shm`]
    return Effect.zipRight(
      Effect.acquireRelease(
        Effect.sync(() => fs.copyFileSync(empty, filename)),
        () => Effect.sync(() => files.forEach((file) => fs.rmSync(file, { force: true })))
      ),
      makeTarget(filename)
    )
  })
}

const makeTarget = (filename: string): Effect.Effect<Target, never, Scope.Scope> =>
  Effect.gen(function* () {
    const query = yield* openSqlite(filename)
    const prove = proving(openSource(filename), publicPem)
    const stored = new Set<string>()
    let faultOf: () => Fault | undefined = () => undefined

    const refresh = Effect.map(query(`SELECT LOWER(HEX(event_id)) AS id FROM ${UseLog.table}`), (rows) => {
      stored.clear()
      for (const { id } of rows) stored.add((id as string).replace(UUID, "$1-$2-$3-$4-$5"))
      assert.equal(stored.size, rows.length, "no event is stored twice")
    })

    return {
      segmentBytes: 1000,
      idOf: (appended, index) => `00000000-0000-7000-8000-${appended.toString(16).padStart(11, "0")}${index}`,
      line: (id) => Either.getOrThrow(codec.encode({ prompt: id, status: "success" }, id, TIME)),
      stored,
      inject: (fault) => {
        faultOf = fault
      },
      judge: Effect.gen(function* () {
        yield* refresh
        const { chains, findings, rows } = yield* prove({ isExclusive: true })
        // before the first batch there is nothing to prove
        assert.deepEqual(stored.size === 0 ? findings.slice(1) : findings, [])
        assert.equal(rows, stored.size)
        assert.ok(chains.length <= 1, "the chain goes on")
      }),
      start: (queue) =>
        Effect.gen(function* () {
          const uploader = yield* SqliteUploader.make({ filename })
          let isRejected: (id: string) => boolean = () => false
          const { sealing } = failing(
            refusing(uploader, ({ eventId }) => isRejected(eventId)),
            () => faultOf()
          )
          const { position, queueId, seal } = queue
          const sealer = new Sealer({
            key,
            sealing: sealing!,
            queueId,
            last: yield* seal,
            position: yield* position
          })
          const read = makeReader(makeDecoder(new Map([[UseLog.kind, codec]]), {}), queueId)
          const deliver = (maxRecords: number) =>
            Effect.scoped(
              Effect.flatten(
                pass.make({
                  queue,
                  uploader,
                  read,
                  // because the first batches are a fifth as large
                  maxRecords: 5 * maxRecords,
                  maxBytes: 1 << 20,
                  uploadTimeout: Duration.minutes(10),
                  // the cursor follows at once, or at the end of the pass
                  isAwaited: () => maxRecords % 2 === 0,
                  onCommit: () => Effect.void,
                  proof: { sealer, sealing: sealing! }
                })
              )
            ).pipe(Effect.ensuring(refresh))
          return {
            deliver: (options) =>
              Effect.suspend(() => {
                isRejected = options.isRejected
                return deliver(options.maxRecords)
              }),
            deliverAll: Effect.suspend(() => {
              isRejected = () => false
              return deliver(100)
            })
          }
        })
    }
  })

/** A database that may fail before a transaction, and after its commit. */
const failing = (uploader: Uploader["Type"], faultOf: () => Fault | undefined): Uploader["Type"] => {
  const failed = (code: string) => new UploadError({ class: "transient", code, reason: "the test" })
  const passing = Effect.suspend(() => {
    const fault = faultOf()
    if (fault === undefined || fault.type === "skip") return Effect.void
    if (fault.type !== "wait") return failed(fault.code)
    const { code, until } = fault
    return Effect.zipRight(until, code === undefined ? Effect.void : failed(code))
  })
  const { sealing } = uploader
  return {
    ...uploader,
    sealing: {
      ...sealing!,
      upload: (...parts) => Effect.zipRight(passing, Effect.zipLeft(sealing!.upload(...parts), passing))
    }
  }
}

const UUID = /^(.{8})(.{4})(.{4})(.{4})(.{12})$/
const TIME = Date.UTC(2026, 0, 31)
