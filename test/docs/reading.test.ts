/** docs/reading.md: its SQL runs unchanged on tables that `migrate` makes. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { Activity } from "effect-audit"
import * as fs from "node:fs"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { LoginLog } from "../../src/schema/LoginLog.js"
import { UseLog } from "../../src/schema/UseLog.js"
import { stored } from "../support/events.js"
import { connectionOptions, mysqlDatabase, uploaderOf } from "../support/mysql.js"
import { onEachServer } from "../support/servers.js"

const document = fs.readFileSync("docs/reading.md", "utf8")

/** The statements of fenced blocks, and the one outside of them. */
const statements = [
  ...[...document.matchAll(/```sql\n([\s\S]*?)```/g)].map(([, block]) => block!),
  /^ {4}(DELETE FROM .*)$/m.exec(document)![1]!
]
  .flatMap((block) => block.replaceAll(/^--.*$/gm, "").split(/;\s*$/m))
  .map((statement) => statement.trim())
  .filter((statement) => statement !== "")

onEachServer("docs/reading.md", ({ rootUrl }) => {
  it.scopedLive("the SQL of the document runs", () =>
    Effect.gen(function* () {
      assert.isAbove(statements.length, 9)
      const database = yield* mysqlDatabase(rootUrl)
      const options = connectionOptions(database)
      yield* MysqlUploader.migrate(options, [UseLog, LoginLog, Activity])
      const uploader = yield* uploaderOf(options)
      const activity = (time: string) =>
        stored(
          Activity,
          { actorId: "7", action: "document.read", outcome: "success" },
          {
            time: Date.parse(time)
          }
        )
      yield* uploader.upload({
        definition: Activity,
        events: [activity("2020-01-31T08:00:00Z"), activity("2026-03-01T08:00:00Z")]
      })
      for (const statement of statements) yield* Effect.promise(() => database.query(statement))
      const archived = yield* Effect.promise(() =>
        database.query<{ readonly rows: number }>("SELECT COUNT(*) AS `rows` FROM audit_activity_archive")
      )
      assert.deepStrictEqual(archived, [{ rows: 1 }])
      const left = yield* Effect.promise(() =>
        database.query<{ readonly rows: number }>("SELECT COUNT(*) AS `rows` FROM audit_activity")
      )
      assert.deepStrictEqual(left, [{ rows: 1 }])
    })
  )
})
