/**
 * Tables with further unique keys, which the servers report before the key over `event_id`. A repeated event counts as
 * delivered, and blocks no queue. Another event with the same key does not.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as fc from "fast-check"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { stored } from "../support/events.js"
import { account, connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"

class Order extends AuditEvent.Class<Order>()("order", {
  table: "orders",
  fields: { no: Schema.Union(Schema.String, Schema.Number), part: Schema.String },
  columns: { no: { type: "VARCHAR(40) NULL" }, part: { type: "VARCHAR(40) NULL" } }
}) {}

const order = (no: string | number, part = "") => stored(Order, { no, part })

/** Columns and keys of a table, and the key's value in the n-th event. */
interface Keyed {
  readonly keys: string
  readonly no: (n: number) => string | number
}

const text = (n: number) => `A-${n}`
const TELLABLE: Record<string, Keyed> = {
  "a primary key of text": { keys: "MODIFY no VARCHAR(40) NOT NULL PRIMARY KEY", no: text },
  "a short primary key": { keys: "MODIFY no CHAR(8) NOT NULL PRIMARY KEY", no: text },
  "a primary key of bytes": { keys: "MODIFY no VARBINARY(20) NOT NULL PRIMARY KEY", no: text },
  "a primary key of numbers": { keys: "MODIFY no INT NOT NULL PRIMARY KEY", no: (n) => n + 1 },
  "a counter that the events write": {
    keys: "MODIFY no INT UNSIGNED AUTO_INCREMENT PRIMARY KEY",
    no: (n) => n + 1
  },
  "a decimal": { keys: "MODIFY no DECIMAL(20,2) NOT NULL PRIMARY KEY", no: (n) => n + 1 },
  "a time": {
    keys: "MODIFY no DATETIME NOT NULL PRIMARY KEY",
    no: (n) => `2026-01-01 00:${String(n % 60).padStart(2, "0")}:00`
  },
  "a unique key of NULLs": { keys: "ADD UNIQUE KEY nos (no)", no: text },
  "a key over two columns": {
    keys: "MODIFY no VARCHAR(40) NOT NULL, MODIFY part VARCHAR(40) NOT NULL, ADD PRIMARY KEY (part, no)",
    no: text
  },
  "two keys": {
    keys: "MODIFY no VARCHAR(40) NOT NULL PRIMARY KEY, ADD UNIQUE KEY both_of_them (part, no)",
    no: text
  },
  "a key over the beginning": {
    keys: "MODIFY no VARCHAR(40) NOT NULL, ADD UNIQUE KEY begins (no(9))",
    no: text
  },
  "a foreign key": {
    keys: "MODIFY no INT NOT NULL PRIMARY KEY, ADD FOREIGN KEY (no) REFERENCES numbers (n)",
    no: (n) => n + 1
  }
}

const LETTERS = Array.from({ length: 26 }, (_, n) => String.fromCodePoint(97 + n)).map(
  (letter) => `${letter}${letter}`
)
/** The key allows no second value to try, so only an account that may read can decide. */
const UNTOLD: Record<string, Keyed> = {
  "a primary key of words": {
    keys: `MODIFY no ENUM(${LETTERS.map((word) => `'${word}'`).join(",")}) NOT NULL PRIMARY KEY`,
    no: (n) => LETTERS[n]!
  },
  "a primary key with a CHECK": {
    keys: "MODIFY no INT NOT NULL PRIMARY KEY, ADD CHECK (no < 50)",
    no: (n) => n
  },
  "a table without transactions": {
    keys: "MODIFY no VARCHAR(40) NOT NULL, ADD UNIQUE KEY nos (no), ENGINE = MyISAM",
    no: text
  }
}

onEachServer("a unique key that the table's owner added", ({ rootUrl }) => {
  const prepare = ({ keys }: Keyed, rights: string) =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const run = (sql: string) => Effect.promise(() => database.query(sql))
      yield* run("CREATE TABLE numbers (n INT PRIMARY KEY)")
      yield* run(`INSERT INTO numbers VALUES ${Array.from({ length: 99 }, (_, n) => `(${n})`).join(",")}`)
      yield* MysqlUploader.migrate(connectionOptions(database), [Order])
      yield* run("ALTER TABLE orders DROP COLUMN id")
      yield* run(`ALTER TABLE orders ${keys}`)
      const uploader = yield* uploaderOf(yield* account(database, rights))
      return {
        upload: (events: ReadonlyArray<StoredEvent>) => uploader.upload({ definition: Order, events }),
        /** The ids in the table, sorted. */
        ids: Effect.map(
          Effect.promise(() =>
            database.query<{ id: string }>("SELECT LOWER(HEX(event_id)) AS id FROM orders")
          ),
          (rows) => rows.map(({ id }) => id).toSorted()
        ),
        run
      }
    })
  const idsOf = (events: ReadonlyArray<StoredEvent>) =>
    events.map(({ eventId }) => eventId.replaceAll("-", "")).toSorted()

  for (const rights of ["INSERT", "INSERT, SELECT"]) {
    const keyed = { ...TELLABLE, ...(rights === "INSERT" ? {} : UNTOLD) }
    for (const [name, key] of Object.entries(keyed)) {
      it.scopedLive(`${name}, for an account with ${rights}`, () =>
        Effect.gen(function* () {
          const { ids, run, upload } = yield* prepare(key, rights)
          const events = Array.from({ length: 20 }, (_, n) => order(key.no(n)))
          const none = { rejected: [] }
          const [single] = events
          for (const batch of [
            [single!],
            [single!],
            events.slice(0, 8),
            events.slice(0, 8),
            events,
            events
          ]) {
            assert.deepStrictEqual(yield* upload(batch), none)
          }
          assert.deepStrictEqual(yield* ids, idsOf(events))
          // another event with the same key
          const other = order(key.no(3))
          const fresh = order(key.no(20))
          for (const batch of [[other], [...events, other, fresh]]) {
            const error = yield* Effect.flip(upload(batch))
            assert.deepStrictEqual([error.class, error.code], ["operator", "1062"])
          }
          assert.notInclude(yield* ids, idsOf([other])[0]!)
          yield* run(`DELETE FROM orders WHERE event_id = x'${idsOf([events[3]!])[0]!}'`)
          assert.deepStrictEqual(yield* upload([other, fresh]), none)
          assert.deepStrictEqual(yield* upload([other, fresh]), none)
          assert.deepStrictEqual(
            yield* ids,
            idsOf([...events.filter((event) => event !== events[3]), other, fresh])
          )
        })
      )
    }
  }

  for (const [name, key] of Object.entries(UNTOLD)) {
    it.scopedLive(
      `${name}: a repeated event that cannot be told from another becomes a dead letter that says what to grant`,
      () =>
        Effect.gen(function* () {
          const { ids, upload } = yield* prepare(key, "INSERT")
          const events = Array.from({ length: 5 }, (_, n) => order(key.no(n)))
          assert.deepStrictEqual(yield* upload(events), { rejected: [] })
          const fresh = order(key.no(5))
          const { rejected } = yield* upload([...events.slice(0, 2), fresh])
          assert.deepStrictEqual(
            rejected.map(({ code, index }) => [index, code]),
            [
              [0, "1062"],
              [1, "1062"]
            ]
          )
          assert.include(rejected[0]?.reason, "GRANT SELECT (event_id) ON orders")
          assert.deepStrictEqual(yield* ids, idsOf([...events, fresh]))
        })
    )
  }

  it.scopedLive("any batches delivered before: each event is stored once, and none is rejected", () =>
    Effect.gen(function* () {
      const { ids, run, upload } = yield* prepare(TELLABLE["two keys"]!, "INSERT")
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.array(fc.uniqueArray(fc.nat(39), { minLength: 1, maxLength: 40 }), { maxLength: 4 }),
            async (batches) => {
              await Effect.runPromise(run("DELETE FROM orders"))
              const events = Array.from({ length: 40 }, (_, n) => order(text(n), n % 2 === 0 ? "x" : ""))
              for (const batch of [...batches, events.keys()]) {
                const result = await Effect.runPromise(upload(Array.from(batch, (n) => events[n]!)))
                assert.deepStrictEqual(result, { rejected: [] })
              }
              assert.deepStrictEqual(await Effect.runPromise(ids), idsOf(events))
            }
          ),
          { numRuns: 10 }
        )
      )
    })
  )
})
