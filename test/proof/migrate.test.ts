/** `migrate --proof`: it adds the columns of seals, and refuses by name a table whose rows nobody could prove. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Schema } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { effectAudit } from "../support/cli.js"
import { createReferenceTables } from "../support/database.js"
import { connectionOptions, failureOf, mysqlDatabase } from "../support/mysql.js"
import { lifeOf, PROVEN } from "../support/proven.js"
import { onEachServer } from "../support/servers.js"
import { openSqlite } from "../support/sqlite.js"

const USE = "nano_banana_user_use_log"
const PROOF = { proof: true }

class Note extends AuditEvent.Class<Note>()("note", {
  table: "notes",
  fields: { text: AuditEvent.optional(Schema.String), at: AuditEvent.optional(Schema.Date) }
}) {}

const home = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "audit-proof-"))),
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true }))
)

const warnings = () => {
  const lines: Array<string> = []
  const layer = Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ message }) => void lines.push(String(message)))
  )
  return { lines, layer }
}

for (const [name, make] of PROVEN)
  it.scopedLive(`a delivery without it says which command is missing (${name})`, () =>
    Effect.gen(function* () {
      const database = yield* make()
      yield* database.query("DROP TABLE effect_audit_seal")
      const failure = yield* lifeOf(database, path.join(yield* home, "audit"), (log) =>
        Effect.zipRight(log.record("use_log", { prompt: "a fox", status: "success" }), Effect.flip(log.flush))
      )
      assert.include(failure.message, "effect-audit migrate --proof")
    })
  )

onEachServer("migrate with a proof", ({ rootUrl }) => {
  it.scopedLive("creates the tables, or adapts existing ones, twice, and leaves no row behind", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* Effect.promise(() => createReferenceTables(database))
      yield* MysqlUploader.migrate(options)
      const { layer, lines } = warnings()
      for (let time = 0; time < 2; time++) {
        yield* MysqlUploader.migrate(options, [UseLog, LoginLog, Note], PROOF).pipe(Effect.provide(layer))
        for (const table of [USE, "nano_banana_user_log", "notes"]) {
          const [column] = yield* Effect.promise(() =>
            database.query<{ Type: string; Null: string }>(`SHOW COLUMNS FROM ${table} LIKE 'audit_proof'`)
          )
          assert.deepInclude(column, { Type: "varbinary(32)", Null: "YES" })
          assert.lengthOf(yield* Effect.promise(() => database.query(`SELECT * FROM ${table}`)), 0)
        }
        assert.lengthOf(yield* Effect.promise(() => database.query("SELECT * FROM effect_audit_seal")), 0)
      }
      assert.deepStrictEqual(lines, [])
    })
  )

  it.scopedLive("prints SQL that does the whole migration", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const sql = MysqlUploader.migrationSql({}, [UseLog, LoginLog, Note], PROOF)
      const statements = sql
        .replaceAll(/^--.*\n/gm, "")
        .split(";\n")
        .filter((each) => each.trim() !== "")
      for (const statement of statements) yield* Effect.promise(() => database.query(statement))
      const shape = () =>
        Effect.promise(() =>
          database.query(
            "SELECT table_name, column_name, column_type FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY 1, 2"
          )
        )
      const before = yield* shape()
      yield* MysqlUploader.migrate(connectionOptions(database), [UseLog, LoginLog, Note], PROOF)
      assert.deepStrictEqual(yield* shape(), before)
      // for a table of an earlier version
      assert.include(sql, `--   ALTER TABLE \`${USE}\` ADD COLUMN \`audit_proof\` VARBINARY(32) NULL;`)
      assert.notInclude(MysqlUploader.migrationSql(), "audit_proof")
      assert.notInclude(MysqlUploader.migrationSql(), "effect_audit_seal")
    })
  )

  it.scopedLive("refuses by name and type a column that would change values", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      const refused = (columns: string, kind: AuditEvent.Any = Note) =>
        Effect.gen(function* () {
          yield* Effect.promise(() => database.query("DROP TABLE IF EXISTS notes"))
          yield* Effect.promise(() => database.query(`CREATE TABLE notes (${columns}) ENGINE = InnoDB`))
          const error = yield* failureOf(MysqlUploader.migrate(options, [kind], PROOF))
          return [error.code, error.reason] as const
        })
      for (const [type, shown] of [
        ["CHAR(8)", "char(8)"],
        ["ENUM('a', 'b')", "enum('a','b')"],
        ["DECIMAL(10, 2)", "decimal(10,2)"],
        ["FLOAT", "float"],
        ["BLOB", "blob"],
        ["VARCHAR(8) CHARACTER SET sjis", "varchar(8)"]
      ] as const) {
        const [code, reason] = yield* refused(`text ${type} NULL, at DATETIME(3) NULL`)
        assert.strictEqual(code, "COLUMN_TYPE")
        assert.include(reason, `notes has columns whose values no proof can rest on`)
        assert.include(reason, `text (${shown})`)
      }
      const [, reason] = yield* refused("text SET('a') NULL, at TIMESTAMP(3) NULL")
      assert.include(
        reason,
        "text (set('a')): make it VARCHAR, TEXT or LONGTEXT; at (timestamp(3)): make it DATETIME(3)"
      )
      assert.include(
        (yield* refused("text TEXT NULL, at DATETIME NULL"))[1],
        "at (datetime): make it DATETIME(3)"
      )
      assert.include(
        (yield* refused("text TEXT AS ('x') VIRTUAL, at DATETIME(3) NULL"))[1],
        "it is generated, so nothing can be written to it"
      )
      assert.include(
        (yield* refused("text TEXT, at DATETIME(3), audit_proof CHAR(4)"))[1],
        "audit_proof (char(4))"
      )
      assert.include(
        (yield* refused("text TEXT, at DATETIME(3), event_time TIMESTAMP(6) NULL"))[1],
        "event_time (timestamp(6))"
      )
    })
  )

  it.scopedLive(
    "finds a trigger that changes rows, and tries again if a constraint refuses the trial row",
    () =>
      Effect.gen(function* () {
        const database = yield* mysqlDatabase(rootUrl)
        const options = connectionOptions(database)
        const query = (sql: string) => Effect.promise(() => database.query(sql))
        const migrate = MysqlUploader.migrate(options, [Note], PROOF)
        yield* migrate
        for (const change of [
          "text = UPPER(NEW.text)",
          "event_time = NOW()",
          "audit_proof = NULL",
          "event_id = x'00000000000000000000000000000000'"
        ]) {
          yield* query(`CREATE TRIGGER changes BEFORE INSERT ON notes FOR EACH ROW SET NEW.${change}`)
          const { code, reason } = yield* failureOf(migrate)
          assert.strictEqual(code, "TRIGGER")
          assert.match(
            reason,
            /^notes gives back another row than was written to it \((?:text|event_time|audit_proof|all of it)\): a trigger/
          )
          yield* query("DROP TRIGGER changes")
        }
        const { layer, lines } = warnings()
        yield* query("ALTER TABLE notes ADD CONSTRAINT few CHECK (text IN ('a', 'b'))")
        yield* migrate.pipe(Effect.provide(layer))
        assert.deepStrictEqual(lines, [])
        yield* query("ALTER TABLE notes ADD CONSTRAINT other CHECK (text = 'b')")
        yield* migrate.pipe(Effect.provide(layer))
        assert.lengthOf(lines, 1)
        assert.match(lines[0]!, /notes refuses a row that was made up to try it/)
        assert.lengthOf(yield* query("SELECT * FROM notes"), 0)
      })
  )

  it.scopedLive("refuses tables without transactions, views, tables of another kind, and no key", () =>
    Effect.gen(function* () {
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      const query = (sql: string) => Effect.promise(() => database.query(sql))
      const refusal = failureOf(MysqlUploader.migrate(options, [Note], PROOF))
      yield* MysqlUploader.migrate(options, [Note])
      yield* query("ALTER TABLE notes ENGINE = MyISAM")
      assert.include((yield* refusal).reason, "ALTER TABLE `notes` ENGINE = InnoDB")
      yield* query("ALTER TABLE notes ENGINE = InnoDB")
      yield* query("CREATE TABLE effect_audit_seal (id INT) ENGINE = InnoDB")
      assert.include((yield* refusal).reason, "effect_audit_seal is a table of another kind")
      yield* query("DROP TABLE effect_audit_seal")
      yield* MysqlUploader.migrate(options, [Note], PROOF)
      const unkeyed = yield* failureOf(
        MysqlUploader.migrate({ ...options, deduplication: "none" }, [Note], PROOF)
      )
      assert.include(unkeyed.reason, "A proof finds each event by its id")
    })
  )
})

describe("migrate with a proof (SQLite)", () => {
  it.scopedLive(
    "by the command creates the tables, or adapts existing ones, twice, and leaves no row behind",
    () =>
      Effect.gen(function* () {
        const directory = yield* home
        const filename = path.join(directory, "audit.db")
        const query = yield* openSqlite(filename)
        yield* query(
          "CREATE TABLE nano_banana_user_log (id INTEGER PRIMARY KEY, user_name TEXT, local_ip TEXT, public_ip TEXT, " +
            "device_name TEXT, login_time TEXT, event_id BLOB UNIQUE, event_time TEXT)"
        )
        for (let time = 0; time < 2; time++) {
          const migrate = ["migrate", "--proof", "--sqlite", filename]
          const { code, stderr, stdout } = yield* effectAudit(directory, migrate)
          assert.strictEqual(code, 0, stderr)
          assert.match(stdout, /^Ready: .*effect_audit_seal$/m)
          for (const table of [USE, "nano_banana_user_log"]) {
            assert.lengthOf(
              yield* query(`SELECT * FROM pragma_table_info('${table}') WHERE name = 'audit_proof'`),
              1
            )
            assert.lengthOf(yield* query(`SELECT * FROM ${table}`), 0)
          }
          assert.lengthOf(yield* query("SELECT * FROM effect_audit_seal"), 0)
        }
        const bare = yield* effectAudit(directory, ["migrate", "--sqlite", filename])
        assert.strictEqual(bare.code, 64)
        assert.include(bare.stderr, "there is nothing to migrate without --proof")
        const print = ["migrate", "--proof", "--print", "--sqlite", filename]
        const printed = yield* effectAudit(directory, print)
        assert.deepStrictEqual([printed.code, printed.stdout], [64, ""])
        assert.include(printed.stderr, "--print is for MySQL and MariaDB")
      })
  )

  it.scopedLive("refuses columns and triggers that change values", () =>
    Effect.gen(function* () {
      const filename = path.join(yield* home, "audit.db")
      const query = yield* openSqlite(filename)
      const refusal = Effect.map(
        Effect.flip(SqliteUploader.migrateProof({ filename }, [Note])),
        ({ reason }) => reason
      )
      yield* query("CREATE TABLE notes (text NUMERIC, at DATETIME, event_id BLOB UNIQUE, event_time TEXT)")
      assert.include(
        yield* refusal,
        "text (NUMERIC): make it TEXT, INTEGER or REAL; at (DATETIME): make it TEXT"
      )
      yield* query("DROP TABLE notes")
      yield* SqliteUploader.migrateProof({ filename }, [Note])
      yield* query(
        "CREATE TRIGGER changes AFTER INSERT ON notes BEGIN UPDATE notes SET text = upper(text) WHERE rowid = NEW.rowid; END"
      )
      assert.include(
        yield* refusal,
        "notes gives back another row than was written to it (text): a trigger changes it"
      )
      assert.lengthOf(yield* query("SELECT * FROM notes"), 0)
    })
  )
})
