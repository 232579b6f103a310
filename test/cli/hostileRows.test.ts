/** Hostile rows, lines, names and dates: the command survives them, and its answers stay true. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, FastCheck as fc, Layer, Option, Schema } from "effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { v7 } from "uuid"
import { Activity, Audit, AuditEvent, AuditLayer, Redact } from "effect-audit"
import { momentOf } from "../../src/cli/moment.js"
import { asCsv, asJson, csvHead, showing, whereaboutsShown } from "../../src/cli/shown.js"
import { jsonOf } from "../../src/cli/format.js"
import { kindOfTable } from "../../src/cli/trail.js"
import * as SqliteUploader from "../../src/layers/SqliteUploader.js"
import { restoring } from "../../src/schema/Row.js"
import { Uploader } from "../../src/services/Uploader.js"
import { effectAudit, fill, useLine } from "../support/cli.js"
import { stored } from "../support/events.js"
import { root as program } from "../support/program.js"
import { temporaryDirectory } from "../support/queue.js"
import { newKey } from "../support/seals.js"
import { openSqlite } from "../support/sqlite.js"

const DEEP = 20_000
const nested = (depth: number) => JSON.parse(`${'{"a":['.repeat(depth)}${"]}".repeat(depth)}`) as object
const T0 = Date.UTC(2026, 0, 31, 8)

describe("a value nested 20,000 deep", () => {
  const found = (metadata: object) => ({
    _tag: "Event" as const,
    kind: "activity",
    eventId: "01936f2a-89ab-7cde-8f01-23456789abcd",
    time: new Date(T0),
    event: { action: "a", outcome: "success", metadata }
  })

  it("is exported as CSV, cut as in JSON", () => {
    const line = asCsv(showing(Activity, true)(found(nested(DEEP))))
    assert.include(line, "nested deeper than 64, left out")
    const plain = asCsv(showing(Activity, true)(found({ a: [1, "x"] })))
    assert.include(plain, '"{""a"":[1,""x""]}"')
  })

  it("is shown while it waits, and as a dead letter", () => {
    const line = { kind: "use_log", prompt: nested(DEEP), user_name: nested(DEEP) }
    for (const it of [
      { _tag: "Waiting", eventId: "", line } as const,
      {
        _tag: "DeadLetter",
        eventId: "",
        line,
        letter: "0:0",
        class: "invalid",
        code: undefined,
        reason: ""
      } as const
    ]) {
      assert.include(jsonOf(whereaboutsShown(it, [], false)), "[object, masked]")
      assert.include(jsonOf(whereaboutsShown(it, [], true)), "nested deeper than 64, left out")
    }
  })

  it.scopedLive("is found by its id, on the disk and in the database", () =>
    Effect.gen(function* () {
      const root = yield* temporaryDirectory
      const [directory, file] = [path.join(root, "audit"), path.join(root, "audit.db")]
      const [waiting, delivered] = [v7(), v7()]
      const deep = '{"a":'.repeat(DEEP) + "1" + "}".repeat(DEEP)
      const line = `{"kind":"use_log","event_id":"${waiting}","ts":"2026-01-31T08:00:00.000Z","prompt":${deep}}\n`
      yield* fill(directory, [{ eventId: waiting, line }])
      const uploader = Context.get(yield* Layer.build(SqliteUploader.layer({ filename: file })), Uploader)
      const event = stored(Activity, { action: "a", outcome: "success" }, { time: T0, eventId: delivered })
      const row = event.row.map((value, index) =>
        Activity.columns[index]!.field === "metadata" ? deep : value
      )
      yield* uploader.upload({ definition: Activity, events: [{ ...event, row }] })
      const run = (...args: ReadonlyArray<string>) =>
        effectAudit(directory, ["events", ...args], { AUDIT_SQLITE_FILE: file })
      const byId = yield* run("--id", waiting, "--reveal")
      assert.include(byId.stdout, "waiting in the queue", byId.stderr)
      assert.include(byId.stdout, "nested deeper than 64")
      const csv = yield* run("--kind", "activity", "--csv", "--reveal")
      assert.strictEqual(csv.code, 0, csv.stderr)
      assert.include(csv.stdout, delivered)
    })
  )
})

describe("names of properties of Object.prototype", () => {
  const NAMES = [...Object.getOwnPropertyNames(Object.prototype), "prototype", "1", "kind", "a b", "a", "b"]

  it("work as columns of a table", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.constantFrom(...NAMES), { minLength: 1 }), (names) => {
        const kind = kindOfTable(
          "payments",
          names.map((name) => ({ name, holds: "text" as const }))
        )
        assert.sameMembers(
          kind.columns.map(({ key }) => key),
          names
        )
        const event = restoring(kind)(kind.columns.map(({ name }) => `value of ${name}`))
        assert.isTrue(event._tag === "Right")
        const shown = showing(
          kind,
          true
        )({
          _tag: "Event",
          kind: "payments",
          eventId: null,
          time: null,
          event: (event as { right: object }).right
        })
        const json = JSON.parse(jsonOf(asJson(shown))) as object
        for (const name of names.filter((name) => name !== "kind")) {
          assert.strictEqual(Object.getOwnPropertyDescriptor(json, name)?.value, `value of ${name}`)
        }
        const head = csvHead(kind).trimEnd().split(",").slice(2)
        const cells = asCsv(shown).trimEnd().split(",").slice(2)
        assert.deepStrictEqual(
          cells,
          head.map((name) => `value of ${name}`)
        )
        const masked = jsonOf(asJson(showing(kind, false)({ ...unfitOf(names), kind: "payments" })))
        assert.notInclude(masked, "value of")
      })
    )
  })

  const unfitOf = (names: ReadonlyArray<string>) => ({
    _tag: "UnfitRow" as const,
    eventId: null,
    time: null,
    raw: Object.fromEntries(names.map((name) => [name, `value of ${name}`])),
    issues: []
  })

  it.scopedLive("work as kinds", () =>
    Effect.gen(function* () {
      class Constructor extends AuditEvent.Class<Constructor>()("constructor", {
        table: "built",
        fields: { name: Schema.String }
      }) {}
      const root = yield* temporaryDirectory
      const filename = path.join(root, "audit.db")
      // by its type, a kind of this name already has rules
      const redact = { use_log: { prompt: Redact.omit } } as never
      const options = { directory: path.join(root, "audit"), events: [Constructor], redact, limits: {} }
      const database = SqliteUploader.layer({ filename, tables: {} })
      yield* Effect.zipRight(Audit.record(new Constructor({ name: "a" })), Audit.flush).pipe(
        Effect.provide(Layer.provide(AuditLayer.layer(options), database))
      )
      assert.lengthOf(yield* (yield* openSqlite(filename))("SELECT * FROM built"), 1)
    })
  )
})

describe("momentOf", () => {
  const at = (text: string) => Effect.runSyncExit(momentOf("before", Option.some(text)))
  const inZone = (zone: string, text: string) => {
    const before = process.env.TZ
    process.env.TZ = zone
    try {
      return at(text)
    } finally {
      if (before === undefined) delete process.env.TZ
      else process.env.TZ = before
    }
  }

  it("accepts exactly the days that exist", () => {
    const two = (number: number) => String(number).padStart(2, "0")
    fc.assert(
      fc.property(
        fc.integer({ min: 1970, max: 2100 }),
        fc.integer({ min: 0, max: 13 }),
        fc.integer({ min: 0, max: 32 }),
        fc.constantFrom("", "T08:00", " 08:00:00", "T08:00:00Z", "T08:00:00.123456Z"),
        (year, month, day, time) => {
          const date = new Date(Date.UTC(year, month - 1, day))
          const isDay = date.getUTCMonth() === month - 1 && date.getUTCDate() === day
          assert.strictEqual(Exit.isSuccess(at(`${year}-${two(month)}-${two(day)}${time}`)), isDay)
        }
      )
    )
  })

  it("reads a time without a zone as UTC, whatever the machine's zone", () => {
    for (const zone of ["UTC", "Asia/Shanghai", "America/New_York"]) {
      for (const text of ["2026-01-31T08:00", "2026-01-31 08:00:00.000", "2026-01-31T16:00+08:00"]) {
        assert.deepStrictEqual(inZone(zone, text), Exit.succeed(T0), `${text} in ${zone}`)
      }
    }
  })

  it("refuses a span that ends in the future or before the first date", () => {
    for (const text of ["-5 days", "-1 nanos", "99999999999 weeks", "Infinity", "yesterday", ""]) {
      assert.isTrue(Exit.isFailure(at(text)), text)
    }
    assert.isTrue(Exit.isSuccess(at("30 days")))
  })
})

describe("a limit", () => {
  it.scopedLive("below one is refused, rather than answered with nothing found", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporaryDirectory, "audit")
      yield* fill(directory, [useLine({})], [{ class: "rejected", reason: "x" }])
      const ran = yield* effectAudit(directory, ["dead", "list", "--limit=-1"])
      assert.strictEqual(ran.code, 64)
      assert.notInclude(ran.stdout, "No dead letters")
    })
  )
})

describe("a database file that this user may not read", () => {
  const under = ["setpriv", "--reuid=1300", "--regid=1300", "--clear-groups"]
  const looks = [process.execPath, "-e", `fs.readdirSync(${JSON.stringify(program)})`]
  /** Needs root, setpriv of util-linux, and a checkout that others may read. */
  const canSwitch =
    process.getuid?.() === 0 && spawnSync("setpriv", [...under.slice(1), ...looks]).status === 0

  it.scopedLive.skipIf(!canSwitch)("makes each command fail with its name (needs root)", () =>
    Effect.gen(function* () {
      const root = yield* temporaryDirectory
      fs.chmodSync(root, 0o755)
      const [file, key] = [path.join(root, "audit.db"), path.join(root, "key.pub")]
      fs.writeFileSync(file, "", { mode: 0o600 })
      fs.writeFileSync(key, newKey().publicPem, { mode: 0o644 })
      for (const args of [
        ["prove", "--key", key],
        ["events", "--kind", "activity"],
        ["migrate", "--proof"]
      ]) {
        const ran = yield* effectAudit(path.join(root, "none"), [...args, "--sqlite", file], {}, under)
        assert.strictEqual(ran.code, 2, `${args.join(" ")}: ${ran.stderr}`)
        assert.include(ran.stderr, file)
        assert.notInclude(ran.stderr, "    at ")
      }
    })
  )
})
