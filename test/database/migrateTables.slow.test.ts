/** Tables as users have them: each is migrated and gets each event once, or is refused with advice. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Schema, type Scope } from "effect"
import { AuditEvent } from "effect-audit"
import { createConnection } from "mysql2/promise"
import { examine } from "../../src/cli/mysqlDoctor.js"
import { CODES } from "../../src/internal/database/mysql/errors.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { effectAudit } from "../support/cli.js"
import { createReferenceTables, type TestDatabase } from "../support/database.js"
import { stored, uses } from "../support/events.js"
import { account, connectionOptions, failureOf, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { type Flavour, startServer } from "../support/mysqlServer.js"
import { temporaryDirectory } from "../support/queue.js"
import { isTurnOf, onEachFlavour, onEachServer } from "../support/servers.js"

const TABLE = UseLog.table

const sql = <Row = Record<string, unknown>>(database: TestDatabase, text: string) =>
  Effect.promise(() => database.query<Row>(text))

/** The error number with which the server refuses a statement; undefined if it does not. */
const errnoOf = (database: TestDatabase, text: string) =>
  Effect.promise(() =>
    database.query(text).then(
      () => undefined,
      (error: unknown) => (error as { readonly errno?: number }).errno
    )
  )

/** The reference's tables with a row of the other program, after the statements. */
const tables = (rootUrl: string, statements: ReadonlyArray<string> = []) =>
  Effect.gen(function* () {
    const database = yield* mysqlDatabase(rootUrl)
    yield* Effect.promise(() => createReferenceTables(database))
    yield* sql(database, THEIRS)
    for (const statement of statements) yield* sql(database, statement)
    return database
  })

const THEIRS = `INSERT INTO ${TABLE} (user_name, device_name, prompt, status) VALUES ('li', 'pc', 'theirs', 'ok')`

/** Runs `migrate`, and collects its warnings. */
const migrate = (options: MysqlUploader.Options, kinds: ReadonlyArray<AuditEvent.Any> = [UseLog]) =>
  Effect.gen(function* () {
    const said: Array<string> = []
    const logger = Logger.make(({ message }) => said.push(String(message)))
    yield* MysqlUploader.migrate(options, kinds).pipe(
      Effect.provide(Logger.replace(Logger.defaultLogger, logger))
    )
    return said
  })

/** Uploads three events twice, by two uploaders, as after a crash. Returns the rows with an id. */
const deliverTwice = (database: TestDatabase, deduplication: "key" | "none" = "key") =>
  Effect.gen(function* () {
    const options = { ...(yield* account(database, "INSERT")), deduplication }
    const batch = { definition: UseLog, events: uses(3) }
    for (let time = 0; time < 2; time++) {
      const { upload } = yield* uploaderOf(options)
      assert.deepStrictEqual(yield* upload(batch), { rejected: [] })
    }
    const rows = yield* sql<{ prompt: string }>(
      database,
      `SELECT prompt FROM ${TABLE} WHERE prompt <> 'theirs' ORDER BY prompt`
    )
    return rows.map(({ prompt }) => prompt)
  })

interface Shape {
  readonly only?: Flavour
  readonly statements: ReadonlyArray<string>
  /** `migrate` says before it begins that writers have to wait. */
  readonly waits?: true
  /** The error number if a column cannot be added without touching the rows. */
  readonly refused?: number
}

const alter = (what: string) => `ALTER TABLE ${TABLE} ${what}`

const SHAPES: Record<string, Shape> = {
  "no table": { statements: [`DROP TABLE ${TABLE}`] },
  "the reference's": { statements: [] },
  FULLTEXT: { statements: [alter("ADD FULLTEXT KEY words (prompt)")], waits: true },
  MyISAM: { statements: [alter("ENGINE = MyISAM")], waits: true },
  Aria: { only: "mariadb", statements: [alter("ENGINE = Aria")], waits: true },
  "WITH SYSTEM VERSIONING": {
    only: "mariadb",
    statements: [alter("ADD SYSTEM VERSIONING")]
  },
  "WITH SYSTEM VERSIONING, with visible columns": {
    only: "mariadb",
    statements: [
      alter(
        "ADD since TIMESTAMP(6) GENERATED ALWAYS AS ROW START, ADD until TIMESTAMP(6) GENERATED ALWAYS AS ROW END, " +
          "ADD PERIOD FOR SYSTEM_TIME (since, until), ADD SYSTEM VERSIONING"
      )
    ]
  },
  "WITH SYSTEM VERSIONING, its history in partitions": {
    only: "mariadb",
    statements: [
      alter("ADD SYSTEM VERSIONING"),
      alter("PARTITION BY SYSTEM_TIME (PARTITION past HISTORY, PARTITION now CURRENT)")
    ]
  },
  "255 row versions (4092)": {
    only: "mysql",
    statements: Array.from({ length: 256 }, (_, n) =>
      alter(`${n % 2 === 0 ? "ADD COLUMN c TINYINT" : "DROP COLUMN c"}, ALGORITHM=INSTANT`)
    ).slice(0, 255),
    refused: 4092
  },
  "ROW_FORMAT=COMPRESSED": { statements: [alter("ROW_FORMAT=COMPRESSED")] },
  "ROW_FORMAT=REDUNDANT": { statements: [alter("ROW_FORMAT=REDUNDANT")] },
  "no primary key": {
    statements: [alter("MODIFY id BIGINT NULL, DROP PRIMARY KEY")]
  },
  "a foreign key and a CHECK": {
    statements: [
      "CREATE TABLE parent (id BIGINT PRIMARY KEY)",
      alter(
        "ADD parent BIGINT NULL, ADD FOREIGN KEY (parent) REFERENCES parent (id), ADD CHECK (status <> 'x')"
      )
    ]
  },
  "utf8mb3 columns": {
    statements: [alter("CONVERT TO CHARACTER SET utf8mb3")]
  },
  "event_id as the primary key, no counter": {
    statements: [
      `DELETE FROM ${TABLE}`,
      alter("DROP COLUMN id, ADD event_id BINARY(16) NOT NULL PRIMARY KEY, ADD event_time DATETIME(6)")
    ]
  },
  "partitioned by event_id": {
    statements: [
      `DELETE FROM ${TABLE}`,
      alter("DROP COLUMN id, ADD event_id BINARY(16) NULL"),
      alter("PARTITION BY KEY (event_id) PARTITIONS 3")
    ]
  },
  "the columns without the key": {
    statements: [alter("ADD event_id BINARY(16), ADD event_time DATETIME(6)")]
  },
  "a CHECK of our key's name": {
    only: "mysql",
    statements: [alter("ADD CONSTRAINT effect_audit_event_id CHECK (user_name <> '')")]
  },
  "one key below the limit of a table": {
    statements: [
      alter(Array.from({ length: 62 }, (_, n) => `ADD KEY k${n} (user_name(${n + 1}))`).join(", "))
    ]
  },
  "a key over event_id that is not unique": {
    statements: [alter("ADD event_id BINARY(16), ADD event_time DATETIME(6), ADD KEY theirs (event_id)")]
  }
}

/** Columns that leave less than 24 bytes of a row free. */
const nearlyFull = [...Array.from({ length: 31 }, (_, n) => [`c${n}`, 250] as const), ["z", 10] as const]
  .map(([name, length]) => `ADD ${name} CHAR(${length}) CHARACTER SET latin1 NOT NULL DEFAULT ''`)
  .join()

interface Refusal {
  readonly only?: Flavour
  readonly statements: ReadonlyArray<string>
  readonly code: string
  readonly reason: RegExp
  /** Whether the unchanged table accepts events with deduplication "none". */
  readonly isWayOut: boolean
}

const REFUSALS: Record<string, Refusal> = {
  "partitioned by its id": {
    statements: [alter("PARTITION BY HASH (id) PARTITIONS 2")],
    code: "1503",
    reason: /no unique key.*deduplication to "none"/,
    isWayOut: true
  },
  "a view": {
    statements: [`RENAME TABLE ${TABLE} TO behind`, `CREATE VIEW ${TABLE} AS SELECT * FROM behind`],
    code: "1347",
    reason: /is a view.*deduplication to "none"/,
    isWayOut: true
  },
  "duplicate event ids": {
    statements: [
      alter("ADD event_id BINARY(16), ADD event_time DATETIME(6)"),
      ...[1, 2].map(() =>
        THEIRS.replace("(user_name", "(event_id, user_name").replace("('li'", "(x'01', 'li'")
      )
    ],
    code: "1062",
    reason: /same event_id.*SELECT HEX\(event_id\), COUNT\(\*\) FROM .* HAVING COUNT\(\*\) > 1/,
    isWayOut: true
  },
  "our key's name for another key": {
    statements: [
      alter("ADD event_id BINARY(16), ADD event_time DATETIME(6), ADD KEY effect_audit_event_id (user_name)")
    ],
    code: "NO_UNIQUE_KEY",
    reason: /drop that key/,
    isWayOut: true
  },
  "our key's name for another key, and no columns": {
    statements: [alter("ADD KEY Effect_Audit_Event_Id (user_name)")],
    code: "NO_UNIQUE_KEY",
    reason: /drop that key/,
    isWayOut: true
  },
  "as many keys as a table can have": {
    statements: [
      alter(Array.from({ length: 63 }, (_, n) => `ADD KEY k${n} (user_name(${n + 1}))`).join(", "))
    ],
    code: "1069",
    reason: /no unique key.*drop one that it does not need/,
    isWayOut: true
  },
  "a CHECK of our key's name": {
    only: "mariadb",
    statements: [alter("ADD CONSTRAINT effect_audit_event_id CHECK (user_name <> '')")],
    code: "1826",
    reason: /a CHECK effect_audit_event_id.*drop/,
    isWayOut: true
  },
  "duplicate event ids, without times": {
    statements: [
      alter("ADD event_id BINARY(16)"),
      ...[1, 2].map(() =>
        THEIRS.replace("(user_name", "(event_id, user_name").replace("('li'", "(x'01', 'li'")
      )
    ],
    code: "1062",
    reason: /same event_id/,
    isWayOut: true
  },
  "a MERGE table": {
    statements: [
      `DELETE FROM ${TABLE}`,
      `CREATE TABLE part LIKE ${TABLE}`,
      "ALTER TABLE part ENGINE = MyISAM",
      alter("ENGINE = MERGE UNION = (part) INSERT_METHOD = LAST")
    ],
    code: "ENGINE",
    reason: /MRG_MyISAM, which keeps no unique key.*ENGINE = InnoDB.*deduplication to "none"/i,
    isWayOut: true
  },
  "a CSV table": {
    statements: [
      `DROP TABLE ${TABLE}`,
      `CREATE TABLE ${TABLE} (user_name VARCHAR(9) NOT NULL, device_name VARCHAR(9) NOT NULL, prompt VARCHAR(9) NOT NULL, ` +
        "status VARCHAR(9) NOT NULL) ENGINE = CSV"
    ],
    code: "ENGINE",
    reason: /CSV, which keeps no unique key/,
    isWayOut: false
  },
  "a MEMORY table": {
    statements: [`DROP TABLE ${TABLE}`, `CREATE TABLE ${TABLE} (id INT PRIMARY KEY) ENGINE = MEMORY`],
    code: "1163",
    reason: /engine.*ENGINE = InnoDB/,
    isWayOut: false
  },
  "rows without room (4157, then 1118)": {
    // MariaDB does not measure a row that it need not rewrite
    only: "mysql",
    statements: [alter(nearlyFull)],
    code: "1118",
    reason: /no room.*TEXT/,
    isWayOut: true
  }
}

onEachServer("migrate", ({ flavour, rootUrl }) => {
  describe("fits", () => {
    for (const [name, { only, refused, statements, waits }] of Object.entries(SHAPES)) {
      it.scopedLive.skipIf(only !== undefined && only !== flavour)(name, () =>
        Effect.gen(function* () {
          const database = yield* tables(rootUrl, statements)
          if (refused !== undefined) {
            const instant = alter("ADD COLUMN event_id BINARY(16), ALGORITHM=INSTANT")
            assert.strictEqual(yield* errnoOf(database, instant), refused)
          }
          const options = connectionOptions(database)
          const [said] = yield* Effect.all([migrate(options), migrate(options)], { concurrency: 2 })
          assert.deepStrictEqual(yield* migrate(options), [], "there is nothing left to do")
          if (waits !== true) assert.deepStrictEqual(said, [])
          assert.deepStrictEqual(yield* deliverTwice(database), ["0", "1", "2"])
          // NULL in the key any number of times, if the table lets the other program write
          if (!name.includes("event_id")) for (let n = 0; n < 2; n++) yield* sql(database, THEIRS)
        })
      )
    }

    it.scopedLive("says before it copies that writers wait", () =>
      Effect.gen(function* () {
        for (const [name, { only, statements, waits }] of Object.entries(SHAPES)) {
          if (waits !== true || (only !== undefined && only !== flavour)) continue
          const database = yield* tables(rootUrl, statements)
          const said = yield* migrate(connectionOptions(database))
          assert.lengthOf(said, 1, name)
          assert.match(said[0]!, /nano_banana_user_use_log cannot be changed while others write to it/)
        }
      })
    )
  })

  describe("refuses", () => {
    for (const [name, { code, isWayOut, only, reason, statements }] of Object.entries(REFUSALS)) {
      it.scopedLive.skipIf(only !== undefined && only !== flavour)(name, () =>
        Effect.gen(function* () {
          const database = yield* tables(rootUrl, statements)
          const columns = sql(database, `SHOW COLUMNS FROM ${TABLE}`)
          const before = yield* columns
          const error = yield* failureOf(migrate(connectionOptions(database)))
          assert.deepInclude(error, { class: "operator", code: code })
          assert.match(error.reason, reason)
          assert.notInclude(error.reason, "tried again")
          assert.deepStrictEqual(yield* columns, before, "nothing is half done")
          if (isWayOut) {
            yield* migrate({ ...connectionOptions(database), deduplication: "none" })
            assert.lengthOf(yield* deliverTwice(database, "none"), 6)
          }
        })
      )
    }

    it.scopedLive("an account without the rights, and names them", () =>
      Effect.gen(function* () {
        const existing = yield* tables(rootUrl)
        const empty = yield* mysqlDatabase(rootUrl)
        for (const database of [existing, empty]) {
          const error = yield* failureOf(migrate(yield* account(database, "INSERT, SELECT")))
          assert.deepInclude(error, { class: "operator", code: "1142" })
          assert.match(error.reason, /GRANT CREATE, ALTER, INDEX, INSERT ON .*effect-audit migrate --print/)
        }
        yield* migrate(yield* account(existing, "CREATE, ALTER, INSERT"))
        assert.deepStrictEqual(yield* deliverTwice(existing), ["0", "1", "2"])
      })
    )
  })

  describe("columns of another type", () => {
    const ids = [
      "VARCHAR(36)",
      "CHAR(36)",
      "BIGINT",
      "BINARY(8)",
      "BINARY(20)",
      "VARBINARY(15)",
      "BLOB",
      "TEXT"
    ]
    const times = [
      "BIGINT",
      "DATE",
      "TIME",
      "DOUBLE",
      "VARCHAR(10)",
      "VARBINARY(40)",
      "ENUM('2026-01-01 00:00:00.000')"
    ]
    const generated = `BINARY(16) GENERATED ALWAYS AS (x'00') VIRTUAL`
    const wrong = [
      ...ids.map((type) => ({ column: "event_id", type, other: "event_time DATETIME(6)" })),
      // without the other column too: migrate would not help
      { column: "event_id", type: "CHAR(36)", other: "more INT" },
      { column: "event_time", type: "BIGINT", other: "more INT" },
      { column: "event_id", type: generated, other: "event_time DATETIME(6)" },
      ...times.map((type) => ({
        column: "event_time",
        type,
        other: "event_id BINARY(16), ADD UNIQUE KEY k (event_id)"
      }))
    ]

    for (const [turn, { column, other, type }] of wrong.entries()) {
      it.scopedLive.runIf(isTurnOf(flavour, turn))(
        `migrate and the first upload refuse ${column} ${type} beside ${other}`,
        () =>
          Effect.gen(function* () {
            const database = yield* tables(rootUrl, [alter(`ADD ${column} ${type}, ADD ${other}`)])
            const { upload } = yield* uploaderOf(yield* account(database, "INSERT"))
            for (const attempt of [
              migrate(connectionOptions(database)),
              upload({ definition: UseLog, events: uses(3) })
            ]) {
              const error = yield* failureOf<unknown, never>(attempt)
              assert.deepInclude(error, { class: "operator", code: "COLUMN_TYPE" })
              assert.include(error.reason, `${column} (${type.split(" ")[0]!.toLowerCase().split("(")[0]!}`)
            }
            assert.lengthOf(yield* deliverTwice(database, "none"), 6)
          })
      )
    }

    const right = [
      "event_id VARBINARY(16), ADD event_time DATETIME",
      "Event_Id BINARY(16) NOT NULL, ADD Event_Time TIMESTAMP(6) NULL",
      "event_id BINARY(16), ADD event_time VARCHAR(40)",
      ...(flavour === "mariadb" ? ["event_id UUID, ADD event_time DATETIME(3)"] : [])
    ]
    for (const columns of right) {
      it.scopedLive(`migrate accepts ${columns}`, () =>
        Effect.gen(function* () {
          const database = yield* tables(rootUrl, [alter(`ADD ${columns}`)])
          yield* migrate(connectionOptions(database))
          assert.deepStrictEqual(yield* deliverTwice(database), ["0", "1", "2"])
        })
      )
    }
  })

  it.scopedLive("prints SQL that runs by itself on no tables, on existing tables, and twice", () =>
    Effect.gen(function* () {
      const printed = MysqlUploader.migrationSql({}, [UseLog, Order])
      const run = (database: TestDatabase, text: string) =>
        Effect.promise(async () => {
          const connection = await createConnection({ uri: database.url, multipleStatements: true })
          try {
            await connection.query(text)
          } finally {
            await connection.end()
          }
        })
      const fresh = yield* mysqlDatabase(rootUrl)
      yield* run(fresh, printed)
      yield* run(fresh, printed)
      assert.deepStrictEqual(yield* deliverTwice(fresh), ["0", "1", "2"])

      for (const name of ["the reference's", "FULLTEXT", "MyISAM", "Aria", "WITH SYSTEM VERSIONING"]) {
        const { only, statements } = SHAPES[name]!
        if (only !== undefined && only !== flavour) continue
        const database = yield* tables(rootUrl, statements)
        yield* run(database, MysqlUploader.migrationSql({}, [UseLog]).replaceAll(/^-- {3}/gm, ""))
        assert.deepStrictEqual(yield* deliverTwice(database), ["0", "1", "2"])
      }
    })
  )

  it.scopedLive("refuses names that no table can have, and says what is wrong with them", () =>
    Effect.gen(function* () {
      const database = yield* tables(rootUrl)
      for (const [name, wrong] of Object.entries({
        "": "it is empty",
        "blank at the end ": "a blank at its end",
        "line\n": "a blank at its end",
        ["表".repeat(65)]: "65 characters, and 64",
        "a😀": "U+1F600",
        "a\ud800": "U+D800",
        "a\0b": "U+0000"
      })) {
        const options = { ...connectionOptions(database), tables: { use_log: name } }
        const { upload } = yield* uploaderOf(options)
        for (const attempt of [migrate(options), upload({ definition: UseLog, events: uses(1) })]) {
          const error = yield* failureOf<unknown, never>(attempt)
          assert.deepInclude(error, { class: "operator", code: "CONFIG" })
          assert.include(error.reason, wrong)
        }
      }
      const error = yield* failureOf(migrate(connectionOptions(database), [LongNamed]))
      assert.deepInclude(error, { class: "operator", code: "CONFIG" })
      assert.match(error.reason, /events long_named name a column .*65 characters/)
      const tooLongForFiles = { ...connectionOptions(database), tables: { use_log: "表".repeat(64) } }
      assert.match((yield* failureOf(migrate(tooLongForFiles))).reason, /beyond ASCII takes 5 bytes/)
      // these names are valid
      for (const name of [
        "表".repeat(40),
        "t".repeat(64),
        " leading",
        "a`b",
        "a'b\\",
        "a\nb",
        "select",
        "ﬀ\uffff"
      ]) {
        const options = { ...connectionOptions(database), tables: { use_log: name } }
        yield* migrate(options)
        const { upload } = yield* uploaderOf(options)
        const batch = { definition: UseLog, events: uses(3) }
        assert.deepStrictEqual(yield* upload(batch), { rejected: [] })
        assert.deepStrictEqual(yield* upload(batch), { rejected: [] })
      }
    })
  )

  it.scopedLive("refuses a table that stores nothing, and warns of one that a restart empties", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const has = yield* sql(
        database,
        "SELECT engine FROM information_schema.engines WHERE engine = 'BLACKHOLE' AND support <> 'NO'"
      )
      yield* migrate(connectionOptions(database), [Order])
      const said: Array<string> = []
      const logger = Logger.replace(
        Logger.defaultLogger,
        Logger.make(({ message }) => said.push(String(message)))
      )
      const send = (deduplication: "key" | "none") =>
        Effect.gen(function* () {
          const { upload } = yield* uploaderOf({ ...connectionOptions(database), deduplication })
          const batch = { definition: Order, events: [stored(Order, { id: "1", row_id: 1 })] }
          yield* upload(batch)
          return yield* upload(batch)
        }).pipe(Effect.provide(logger))
      const findings = Effect.gen(function* () {
        const found: Array<string> = []
        yield* examine(connectionOptions(database), [Order], { maxLineBytes: 1024 }, (finding) =>
          Effect.sync(() => found.push(`${finding.level}: ${finding.text}`))
        )
        return found.join("\n")
      })
      if (has.length > 0) {
        yield* sql(database, "ALTER TABLE orders ENGINE = BLACKHOLE")
        assert.match(yield* findings, /^failure: .*BLACKHOLE, which stores nothing/m)
        for (const deduplication of ["key", "none"] as const) {
          const options = { ...connectionOptions(database), deduplication }
          for (const attempt of [send(deduplication), migrate(options, [Order])]) {
            const error = yield* failureOf<unknown, Scope.Scope>(attempt)
            assert.deepInclude(error, { class: "operator", code: "ENGINE" })
            assert.match(
              error.reason,
              /BLACKHOLE, which stores nothing: ALTER TABLE `orders` ENGINE = InnoDB/
            )
          }
        }
        assert.deepStrictEqual(said, [])
      }
      yield* sql(database, "ALTER TABLE orders MODIFY id VARCHAR(20), ENGINE = MEMORY")
      assert.match(yield* findings, /^warning: .*MEMORY/m)
      assert.deepStrictEqual(yield* send("key"), { rejected: [] })
      assert.lengthOf(said, 1)
      assert.match(said[0]!, /orders has the engine MEMORY: its events are gone when the server is restarted/)
    })
  )

  it.scopedLive("refuses a name that includes a database, wherever it is used", () =>
    Effect.gen(function* () {
      const database = yield* tables(rootUrl)
      const named = { tables: { use_log: `${database.config.database}.${TABLE}` } }
      const options = { ...connectionOptions(database), ...named }
      const { upload } = yield* uploaderOf(options)
      for (const attempt of [migrate(options), upload({ definition: UseLog, events: uses(1) })]) {
        const error = yield* failureOf<unknown, never>(attempt)
        assert.deepInclude(error, { class: "operator", code: "CONFIG" })
        assert.include(error.reason, "without its database")
      }
      assert.match(MysqlUploader.migrationSql(named, [UseLog]), /^-- .*without its database/)
    })
  )
})

/** A kind with a field named like our counter. */
class Order extends AuditEvent.Class<Order>()("order", {
  table: "orders",
  fields: { id: Schema.String, row_id: Schema.Int }
}) {}

class LongNamed extends AuditEvent.Class<LongNamed>()("long_named", {
  table: "long_named",
  fields: { note: Schema.String },
  columns: { note: "n".repeat(65) }
}) {}

/** A kind with its own primary key. */
class Counted extends AuditEvent.Class<Counted>()("counted", {
  table: "counted",
  fields: { id: Schema.Int, note: Schema.String },
  columns: { id: { type: "BIGINT NOT NULL PRIMARY KEY" }, note: { type: "TEXT NULL COMMENT 'a serial key'" } }
}) {}

/** A kind whose type says NOT NULL twice, once in a comment. */
class Commented extends AuditEvent.Class<Commented>()("commented", {
  table: "commented",
  fields: { note: Schema.String },
  columns: { note: { type: "VARCHAR(9) COMMENT 'is not null' NOT NULL" } }
}) {}

onEachServer("a column that migrate adds to an existing table", ({ rootUrl }) => {
  it.scopedLive("accepts NULL from the other writers, whatever its comment", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      yield* sql(database, "CREATE TABLE commented (n INT PRIMARY KEY)")
      yield* migrate(connectionOptions(database), [Commented])
      yield* sql(database, "INSERT INTO commented (n) VALUES (1)")
      const [column] = yield* sql(database, "SHOW FULL COLUMNS FROM commented LIKE 'note'")
      assert.deepInclude(column, { Null: "YES", Comment: "is not null" })
    })
  )
})

/** A server whose global settings the test may change. */
const ownServer = (flavour: Flavour) =>
  Effect.acquireRelease(
    Effect.promise(() => startServer({ flavour })),
    (server) => Effect.promise(() => server.stop())
  )

onEachFlavour("migrate on a server that takes no writes", (flavour) => {
  it.scopedLive("fails, and says why", () =>
    Effect.gen(function* () {
      const server = yield* ownServer(flavour)
      const database = yield* tables(server.rootUrl)
      const options = yield* account(database, "ALL")
      const variable = flavour === "mysql" ? "transaction_read_only" : "tx_read_only"
      yield* sql(database, `SET GLOBAL ${variable} = ON`)
      const error = yield* failureOf(migrate(options)).pipe(
        Effect.ensuring(sql(database, `SET GLOBAL ${variable} = OFF`))
      )
      assert.deepInclude(error, { class: "operator", code: "1792" })
      assert.match(error.reason, /takes no writes.*read_only to OFF/)
    })
  )
})

onEachFlavour("a server that demands primary keys", (flavour) => {
  it.scopedLive("gets one in each new table, and migrate names the table that lacks one", () =>
    Effect.gen(function* () {
      const server = yield* ownServer(flavour)
      const database = yield* tables(server.rootUrl, [alter("MODIFY id BIGINT NULL, DROP PRIMARY KEY")])
      const variable = flavour === "mysql" ? "sql_require_primary_key" : "innodb_force_primary_key"
      yield* sql(database, `SET GLOBAL ${variable} = ON`)
      const options = connectionOptions(database)

      yield* migrate(options, [Order, Counted])
      const { upload } = yield* uploaderOf(yield* account(database, "INSERT"))
      const order = { definition: Order, events: [stored(Order, { id: "a-1", row_id: 7 })] }
      const counted = { definition: Counted, events: [stored(Counted, { id: 5, note: "n" })] }
      for (const batch of [order, counted, order]) {
        assert.deepStrictEqual(yield* upload(batch), { rejected: [] })
      }
      assert.deepStrictEqual(yield* sql(database, "SELECT id, row_id, row_id_2 FROM orders"), [
        { id: "a-1", row_id: 7, row_id_2: 1 }
      ])
      assert.deepStrictEqual(yield* sql(database, "SELECT id, note FROM counted"), [{ id: 5, note: "n" }])

      const error = yield* failureOf(migrate(options))
      assert.deepInclude(error, { class: "operator", code: flavour === "mysql" ? "3750" : "1173" })
      yield* sql(database, /ALTER TABLE .* PRIMARY KEY/.exec(error.reason)![0])
      yield* migrate(options)
      assert.deepStrictEqual(yield* deliverTwice(database), ["0", "1", "2"])
    })
  )
})

onEachFlavour("a server that is not strict about the length of rows", (flavour) => {
  it.scopedLive.skipIf(flavour === "mariadb")("makes migrate rebuild the table (4157)", () =>
    Effect.gen(function* () {
      const server = yield* Effect.acquireRelease(
        Effect.promise(() => startServer({ flavour, args: ["--innodb-strict-mode=OFF"] })),
        (server) => Effect.promise(() => server.stop())
      )
      const database = yield* tables(server.rootUrl, [alter(nearlyFull)])
      const instant = alter("ADD event_id BINARY(16), ADD event_time DATETIME(6), ALGORITHM=INSTANT")
      assert.strictEqual(yield* errnoOf(database, instant), 4157)
      yield* migrate(connectionOptions(database))
      assert.deepStrictEqual(yield* deliverTwice(database), ["0", "1", "2"])
    })
  )
})

describe("the command", () => {
  onEachServer("migrate and doctor", ({ rootUrl }) => {
    it.scopedLive("report that writers wait, a wrong column, and an invalid name", () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const database = yield* tables(rootUrl, [
          alter("ENGINE = MyISAM"),
          "ALTER TABLE nano_banana_user_log ADD event_id VARCHAR(36), ADD event_time DATETIME NOT NULL"
        ])
        const env = { AUDIT_MYSQL_URL: database.url }
        const refused = yield* effectAudit(directory, ["migrate"], env)
        assert.strictEqual(refused.code, 2)
        assert.include(refused.stderr, "nano_banana_user_use_log cannot be changed while others write to it")
        assert.include(refused.stderr, "event_id (varchar(36)), which has to be BINARY(16)")
        const doctor = yield* effectAudit(directory, ["doctor"], env)
        assert.strictEqual(doctor.code, 2)
        assert.match(doctor.stdout, /failure {2}nano_banana_user_log: .*event_id \(varchar\(36\)\)/)
        assert.match(doctor.stdout, /warning {2}nano_banana_user_log: .*event_time is NOT NULL/)

        for (const name of ["other.t", "t".repeat(65), "t😀"]) {
          const misnamed = { ...env, AUDIT_MYSQL_TABLES: `use_log=${name}` }
          for (const args of [["migrate"], ["migrate", "--print"], ["doctor"]]) {
            const { code, stderr, stdout } = yield* effectAudit(directory, args, misnamed)
            assert.notStrictEqual(code, 0)
            assert.include(stdout + stderr, `${name} is not the name of a table`)
          }
        }
        yield* sql(database, "ALTER TABLE nano_banana_user_log DROP COLUMN event_id")
        assert.deepInclude(yield* effectAudit(directory, ["migrate"], env), { code: 0, stderr: "" })
      })
    )
  })
})

it.scopedLive("migrate does not announce another attempt if it makes none", () =>
  Effect.gen(function* () {
    const error = yield* failureOf(
      MysqlUploader.migrate({ host: "127.0.0.1", port: 1, username: "root", database: "app" })
    )
    assert.deepInclude(error, { class: "transient", code: "ECONNREFUSED" })
    assert.notInclude(error.reason, "tried again")
    assert.include(error.reason, "migrate again")
    assert.isAbove(CODES.size, 100)
  })
)
