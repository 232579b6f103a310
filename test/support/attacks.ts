/**
 * Attacks on a proof: sealed rows, what the owner of the database may do to them, and what a verifier has to find.
 * Lawful changes are among them.
 *
 * @module
 */
import { type Effect, Schema, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import {
  anchorsIn,
  type Finding,
  type Options,
  type Source,
  type Summary
} from "../../src/internal/proof/verify.js"
import * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { Disk } from "../../src/services/Disk.js"
import {
  type Event,
  type Hand,
  hashErasable,
  type KeyPair,
  type KindTable,
  newKey,
  noticeBytes,
  Sealer
} from "./seals.js"

export class Measure extends AuditEvent.Class<Measure>()("measure", {
  table: "measures",
  fields: {
    text: AuditEvent.optional(Schema.String),
    n: AuditEvent.optional(Schema.Number),
    at: AuditEvent.optional(Schema.Date)
  }
}) {}

export const USE: KindTable = {
  kind: "use_log",
  table: "nano_banana_user_use_log",
  columns: [
    ...["user_name", "device_name", "prompt", "result_path", "status"],
    ...["error_message", "model", "duration_ms", "finish_reason"]
  ],
  erasable: ["prompt", "error_message"]
}
const MEASURE: KindTable = { kind: "measure", table: "measures", columns: ["text", "n", "at"], erasable: [] }
const KINDS = [USE, MEASURE]

/** A database with the tables, and the command's flags for it. */
export interface Place {
  readonly hand: Hand
  readonly open: Effect.Effect<Source<unknown>, unknown, Scope.Scope | Disk>
  /** Makes the tables of the kinds, and the table of seals. */
  readonly migrate: () => Promise<unknown>
  readonly args: ReadonlyArray<string>
  readonly isMysql: boolean
}

export interface Scene extends Place {
  readonly key: KeyPair
  readonly sealer: Sealer
  readonly uses: ReadonlyArray<Event>
  readonly measures: ReadonlyArray<Event>
  /** The heads of its seals. */
  readonly heads: ReadonlyArray<string>
  /** A condition for the event of a seal, by default the first. */
  readonly where: (seal: number, event?: number) => string
  readonly run: Hand["run"]
}

const EVENTS_EACH = 3

/** Three seals, each of three uses and a measure. */
export const stage = async (place: Place): Promise<Scene> => {
  const { hand } = place
  const { run } = hand
  const tables = await run(
    place.isMysql
      ? "SELECT table_name AS name, table_type AS type FROM information_schema.tables WHERE table_schema = DATABASE()"
      : "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'"
  )
  for (const { name, type } of tables) {
    const what = /view/i.test(String(type)) ? "VIEW" : "TABLE"
    await run(`DROP ${what} ${hand.quote(String(name))}`)
  }
  await place.migrate()
  const key = newKey()
  const sealer = new Sealer(hand, key, KINDS)
  const uses: Array<Event> = []
  const measures: Array<Event> = []
  const heads: Array<string> = []
  for (let seal = 0; seal < 3; seal++) {
    const some = Array.from({ length: EVENTS_EACH }, (_, i): Event => ({
      kind: "use_log",
      id: randomBytes(16),
      time: place.isMysql ? `2026-01-31 08:00:0${i}.123000` : `2026-01-31 08:00:0${i}.123`,
      columns: {
        user_name: `li ${seal} e\u0301`,
        device_name: "phone",
        prompt: `a prompt ${i}`,
        result_path: null,
        status: "success",
        error_message: i === 0 ? null : "no",
        model: `model ${i}`,
        duration_ms: String(1000 + i),
        finish_reason: ""
      }
    }))
    const measure: Event = {
      kind: "measure",
      id: randomBytes(16),
      time: null,
      columns: {
        text: "x",
        n: "0.30000000000000004",
        at: "2026-01-31 08:00:00.123"
      }
    }
    await sealer.store([...some, measure])
    uses.push(...some)
    measures.push(measure)
    heads.push(sealer.head.toString("hex"))
  }
  const where = (seal: number, event = 0) => `event_id = ${hand.bytes(uses[seal * EVENTS_EACH + event]!.id)}`
  return { ...place, key, sealer, uses, measures, heads, where, run }
}

export interface Attack {
  readonly name: string
  readonly run: (scene: Scene) => Promise<unknown>
  readonly finds: ReadonlyArray<Finding["kind"]>
  readonly with?: (scene: Scene) => Partial<Options>
  /** Texts of which each is in one of the findings. */
  readonly tells?: (scene: Scene) => ReadonlyArray<string>
  /** The expected part of the summary. */
  readonly says?: (scene: Scene) => Partial<Summary>
  readonly only?: "mysql" | "sqlite"
}

export const TABLE = USE.table

const update = (name: string, change: string, finds: Attack["finds"] = ["changed"]): Attack => ({
  name,
  run: ({ run, where }) => run(`UPDATE ${TABLE} SET ${change} WHERE ${where(1, 1)}`),
  finds
})

const sealUpdate = (
  name: string,
  change: (scene: Scene) => string,
  finds: Attack["finds"],
  number = 1
): Attack => ({
  name,
  run: (scene) =>
    scene.run(
      `UPDATE effect_audit_seal SET ${change(scene)} WHERE ${scene.hand.quote("number")} = ${number}`
    ),
  finds
})

const quoted = ({ hand }: Scene, name: string) => hand.quote(name)

/** Removes the key that keeps ids unique. */
const withoutKey = async ({ isMysql, run }: Scene) => {
  if (isMysql) return run(`ALTER TABLE ${TABLE} DROP INDEX effect_audit_event_id`)
  await run(`CREATE TABLE copied AS SELECT * FROM ${TABLE}`)
  await run(`DROP TABLE ${TABLE}`)
  return run(`ALTER TABLE copied RENAME TO ${TABLE}`)
}

/** Erases an event with the SQL that the command prints. */
const erase = async ({ hand, run, uses, where }: Scene, seal = 1, event = 1) => {
  const [row] = await run(`SELECT audit_proof FROM ${TABLE} WHERE ${where(seal, event)}`)
  const salt = Buffer.from(row!.audit_proof as Uint8Array)
  const hash = hashErasable(USE, uses[seal * EVENTS_EACH + event]!, salt)
  await run(
    `UPDATE ${TABLE} SET audit_proof = ${hand.bytes(hash)}, prompt = '', error_message = NULL WHERE ${where(seal, event)}`
  )
}

export const uuid = (id: Buffer) =>
  id.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")

const allowErasure = ({ sealer, uses }: Scene, ...events: ReadonlyArray<number>) =>
  sealer.store([], noticeBytes("erase", "use_log", ...events.map((index) => uuid(uses[index]!.id))))

/** Seals a notice of the next key, which signs all later seals. */
const rotate = async (sealer: Sealer): Promise<KeyPair> => {
  const next = newKey()
  await sealer.store([], noticeBytes("key", next.named))
  sealer.key = next
  return next
}

const anchored = ({ sealer }: Scene): Partial<Options> => ({ anchors: anchorsIn(sealer.anchor) })

/** Proves from an anchor: a seal that was proved before. */
const proved =
  (number: number) =>
  ({ sealer }: Scene): Partial<Options> => ({ since: { chain: sealer.chain.toString("hex"), number } })

const headOf = ({ heads, sealer }: Scene, number: number) => ({
  chain: sealer.chain.toString("hex"),
  number,
  head: heads[number]!
})

/** The summary of the scene's chain. */
const provedOf = ({ sealer }: Scene, anchored: number | undefined) => {
  const number = sealer.number - 1
  return {
    chain: sealer.chain.toString("hex"),
    number,
    head: sealer.head.toString("hex"),
    at: `2026-02-01 00:00:00.${String(number).padStart(6, "0")}`,
    anchored
  }
}

const event = ({ isMysql }: Scene): Event => ({
  kind: "use_log",
  id: randomBytes(16),
  time: isMysql ? "2026-01-31 08:00:00.000000" : "2026-01-31 08:00:00.000",
  columns: { user_name: "x", device_name: "x", prompt: "x", status: "x" }
})

/** Lawful changes: the proof does not cover them. */
export const LAWFUL: ReadonlyArray<Attack> = [
  {
    name: "nothing",
    run: async () => undefined,
    finds: [],
    says: (scene) => ({ seals: 3, rows: 12, bare: 0, unsealed: 0, chains: [provedOf(scene, undefined)] })
  },
  {
    name: "a foreign row without a proof",
    run: (scene) => scene.sealer.insert(USE, event(scene), null),
    finds: [],
    says: () => ({ bare: 1 })
  },
  {
    name: "a foreign table whose only column is audit_proof",
    run: async ({ hand, run }) => {
      await run("CREATE TABLE theirs (audit_proof VARBINARY(32))")
      await run(`INSERT INTO theirs VALUES (${hand.bytes(randomBytes(16))})`)
    },
    finds: []
  },
  {
    name: "a foreign view of the rows and their proofs",
    run: ({ run }) => run(`CREATE VIEW theirs AS SELECT * FROM ${TABLE}`),
    finds: []
  },
  {
    name: "an additional column with a default",
    run: ({ run }) => run(`ALTER TABLE ${TABLE} ADD COLUMN later VARCHAR(9) DEFAULT 'x'`),
    finds: []
  },
  {
    name: "a column outside the events changed",
    run: ({ run }) => run(`UPDATE ${TABLE} SET created_at = '2020-01-01 00:00:00'`),
    finds: []
  },
  {
    name: "a longer column, an index, another collation",
    run: ({ run }) =>
      run(
        `ALTER TABLE ${TABLE} MODIFY user_name VARCHAR(1000) COLLATE utf8mb4_bin NOT NULL, ADD INDEX (status)`
      ),
    finds: [],
    only: "mysql"
  },
  {
    name: "a renamed table, if the options name it",
    run: ({ run }) => run(`ALTER TABLE ${TABLE} RENAME TO moved`),
    finds: [],
    with: () => ({ tables: { use_log: "moved" } })
  },
  {
    name: "an event erased after a seal allowed it",
    run: async (scene) => {
      await allowErasure(scene, 4)
      await erase(scene)
    },
    finds: []
  },
  {
    name: "rows removed after a seal allowed it",
    run: async ({ run, sealer, where }) => {
      await sealer.store([], noticeBytes("purge", sealer.chain.toString("hex"), "1"))
      for (let i = 0; i < EVENTS_EACH; i++) await run(`DELETE FROM ${TABLE} WHERE ${where(0, i)}`)
    },
    finds: []
  },
  {
    name: "rows removed after a seal of another chain allowed it",
    run: async ({ hand, key, run, sealer, where }) => {
      await new Sealer(hand, key, KINDS).store([], noticeBytes("purge", sealer.chain.toString("hex"), "1"))
      for (let i = 0; i < EVENTS_EACH; i++) await run(`DELETE FROM ${TABLE} WHERE ${where(0, i)}`)
    },
    finds: []
  },
  {
    name: "a key that follows another, and a chain that begins with it",
    run: async (scene) => {
      const { hand, sealer } = scene
      await rotate(sealer)
      await sealer.store([event(scene)])
      await new Sealer(hand, await rotate(sealer), KINDS).store([event(scene)])
    },
    finds: []
  },
  {
    name: "a chain that continues another, and an event in two seals",
    run: async ({ hand, key, sealer, uses, run }) => {
      const other = new Sealer(hand, key, KINDS)
      const head = [sealer.chain.toString("hex"), "2", sealer.head.toString("hex")]
      await other.store(
        [],
        noticeBytes("previous", ...head, "the cursor was lost"),
        noticeBytes("witness", ...head)
      )
      await run(`DELETE FROM ${TABLE} WHERE event_id = ${hand.bytes(uses[8]!.id)}`)
      await other.store([uses[8]!])
      // the later seal's row has another salt, so the earlier seal reports a change
    },
    finds: ["changed"]
  },
  {
    name: "enough seals for numbers of several digits, and several pages",
    run: async ({ sealer }) => {
      for (let i = 0; i < 220; i++) await sealer.seal(Buffer.alloc(0), Buffer.alloc(0))
    },
    finds: []
  },
  {
    name: "an anchor",
    run: async () => undefined,
    finds: [],
    with: anchored,
    says: (scene) => ({ chains: [provedOf(scene, 2)] })
  },
  {
    name: "an old anchor after a newer one",
    run: async () => undefined,
    finds: [],
    with: (scene) => ({ anchors: [2, 1].map((number) => headOf(scene, number)) }),
    says: (scene) => ({ chains: [provedOf(scene, 2)] })
  },
  {
    name: "events delivered without a seal, as a later seal says",
    run: ({ sealer }) => sealer.store([], noticeBytes("unsealed", "0:1", "0:2")),
    finds: [],
    says: () => ({ seals: 4, unsealed: 1 })
  },
  {
    name: "rows changed before the seal from which proving continues",
    run: ({ run, where }) => run(`UPDATE ${TABLE} SET model = 'x' WHERE ${where(0)} OR ${where(1)}`),
    finds: [],
    with: proved(1),
    says: () => ({ seals: 3, rows: EVENTS_EACH + 1 })
  },
  {
    name: "all rows changed, if proving continues from the last seal",
    run: ({ run }) => run(`UPDATE ${TABLE} SET model = 'x'`),
    finds: [],
    with: proved(2),
    says: () => ({ rows: 0 })
  },
  {
    name: "an erased row restored unchanged",
    run: (scene) => allowErasure(scene, 4),
    finds: []
  },
  {
    name: "a restarted program that numbers its kinds differently",
    run: async (scene) => {
      const { hand, key, measures, sealer } = scene
      const again = new Sealer(hand, key, KINDS, sealer.chain)
      again.number = sealer.number
      again.head = sealer.head
      await again.store([{ ...measures[0]!, id: randomBytes(16) }, event(scene)])
    },
    finds: [],
    says: () => ({ rows: 14 })
  },
  {
    name: "rows removed after two seals allowed it, the later one for fewer rows",
    run: async ({ run, sealer, where }) => {
      for (const before of ["2", "1"])
        await sealer.store([], noticeBytes("purge", sealer.chain.toString("hex"), before))
      await run(`DELETE FROM ${TABLE} WHERE ${where(1)}`)
    },
    finds: []
  },
  {
    name: "all rows with a proof, if all must have one",
    run: async () => undefined,
    finds: [],
    with: () => ({ isExclusive: true })
  },
  {
    name: "rows removed after a seal allowed it that also names a head",
    run: async (scene) => {
      const { chain, number, head } = headOf(scene, 2)
      const witness = noticeBytes("witness", chain, String(number), head)
      await scene.sealer.store([], witness, noticeBytes("purge", chain, "1"), witness)
      await scene.run(`DELETE FROM ${TABLE} WHERE ${scene.where(0)}`)
    },
    finds: [],
    // a seal in the same database is not an anchor
    says: (scene) => ({ chains: [provedOf(scene, undefined)] })
  },
  {
    name: "a seal that names an invalid key, followed by another seal of its own key",
    run: async (scene) => {
      await scene.sealer.store([], noticeBytes("key", "00"))
      await scene.sealer.store([event(scene)])
    },
    finds: []
  },
  {
    name: "keys that follow each other, in chains that are read in the opposite order",
    run: async (scene) => {
      const { hand, sealer } = scene
      const [first, next] = [0, 1].map((last) => Buffer.alloc(16).fill(last, 15))
      const second = new Sealer(hand, await rotate(sealer), KINDS, next)
      await second.store([event(scene)])
      await new Sealer(hand, await rotate(second), KINDS, first).store([event(scene)])
    },
    finds: []
  },
  {
    name: "a chain read before the one whose seal names its key",
    run: async (scene) => {
      const { hand, sealer } = scene
      const next = await rotate(sealer)
      await new Sealer(hand, next, KINDS, Buffer.alloc(16)).store([event(scene)])
    },
    finds: []
  },
  {
    name: "dead letters and twins",
    run: ({ sealer }) =>
      sealer.store(
        [],
        noticeBytes("dead", "0:1", uuid(randomBytes(16)), "1406"),
        noticeBytes("twin", "use_log", uuid(randomBytes(16)))
      ),
    finds: []
  }
]

/** Invalid lengths of an id, bytes. */
const LENGTHS = [1, 3, 4, 5, 17]

export const ATTACKS: ReadonlyArray<Attack> = [
  update("the case of a letter", "user_name = 'Li 1 e\u0301'"),
  update("NFD to NFC", "user_name = 'li 1 \u00e9'"),
  update("a blank at the end", "status = 'success '"),
  update("a text to another", "model = 'model 2'"),
  update("NULL to the empty text", "result_path = ''"),
  update("the empty text to NULL", "finish_reason = NULL"),
  update("a value moved to the next column", "model = NULL, finish_reason = 'model 1'"),
  update("a number by one", "duration_ms = 1002"),
  update("a prompt, which may be erased", "prompt = 'another'"),
  update("a prompt blanked, and its salt left", "prompt = ''"),
  update("the time by a millisecond", "event_time = '2026-01-31 08:00:01.124'"),
  update("no time", "event_time = NULL"),
  update("no proof", "audit_proof = NULL"),
  {
    name: "another salt",
    run: ({ hand, run, where }) =>
      run(`UPDATE ${TABLE} SET audit_proof = ${hand.bytes(randomBytes(16))} WHERE ${where(0)}`),
    finds: ["changed"]
  },
  {
    name: "a salt replaced by a hash",
    run: ({ hand, run, where }) =>
      run(`UPDATE ${TABLE} SET audit_proof = ${hand.bytes(randomBytes(32))} WHERE ${where(0)}`),
    finds: ["changed"]
  },
  {
    name: "a DOUBLE changed by one ulp",
    run: ({ run }) => run("UPDATE measures SET n = 0.3"),
    finds: ["changed", "changed", "changed"]
  },
  {
    name: "a Date changed by a millisecond",
    run: ({ run }) => run("UPDATE measures SET at = '2026-01-31 08:00:00.124'"),
    finds: ["changed", "changed", "changed"]
  },
  {
    name: "a text replaced by bytes",
    run: ({ run, where }) => run(`UPDATE ${TABLE} SET model = CAST(model AS BLOB) WHERE ${where(1)}`),
    finds: ["changed"],
    only: "sqlite"
  },
  {
    name: "NULL replaced by bytes",
    run: ({ run, where }) => run(`UPDATE ${TABLE} SET result_path = x'00' WHERE ${where(1)}`),
    finds: ["changed"],
    only: "sqlite"
  },
  {
    name: "a number replaced by a text",
    run: ({ run }) => run("UPDATE measures SET n = '0.3x'"),
    finds: ["changed", "changed", "changed"],
    only: "sqlite"
  },
  {
    name: "a row removed",
    run: ({ run, where }) => run(`DELETE FROM ${TABLE} WHERE ${where(1)}`),
    finds: ["removed"]
  },
  {
    name: "all rows removed",
    run: ({ run }) => run(`DELETE FROM ${TABLE}`),
    finds: Array<"removed">(9).fill("removed")
  },
  { name: "the table removed", run: ({ run }) => run(`DROP TABLE ${TABLE}`), finds: ["removed"] },
  {
    name: "the table removed, if proving continues from the last seal",
    run: ({ run }) => run(`DROP TABLE ${TABLE}`),
    finds: ["removed"],
    with: proved(2)
  },
  {
    name: "a column removed",
    run: ({ run }) => run(`ALTER TABLE ${TABLE} DROP COLUMN model`),
    finds: ["removed"]
  },
  {
    name: "the table renamed",
    run: ({ run }) => run(`ALTER TABLE ${TABLE} RENAME TO moved`),
    finds: ["removed", ...Array<"foreign">(9).fill("foreign")]
  },
  {
    name: "rows added with an invented proof, and one without",
    run: async (scene) => {
      await scene.sealer.insert(USE, event(scene), null)
      for (let i = 0; i < 5; i++)
        await scene.sealer.insert(USE, { ...event(scene), id: Buffer.alloc(16, i) }, randomBytes(16))
    },
    finds: Array<"foreign">(5).fill("foreign"),
    tells: () => [` ${uuid(Buffer.alloc(16, 4))} the row has a proof that no seal knows`]
  },
  {
    name: "a row copied under another id",
    run: ({ hand, run, where }) =>
      run(
        `INSERT INTO ${TABLE} (${USE.columns.join(", ")}, event_time, audit_proof, event_id) SELECT ${USE.columns.join(", ")}, ` +
          `event_time, audit_proof, ${hand.bytes(randomBytes(16))} FROM ${TABLE} WHERE ${where(0)}`
      ),
    finds: ["foreign"]
  },
  {
    name: "a row without an id added, with a proof",
    run: ({ hand, run }) =>
      run(`INSERT INTO measures (text, audit_proof) VALUES ('x', ${hand.bytes(randomBytes(16))})`),
    finds: ["foreign"]
  },
  {
    name: "a second row with the id of another",
    run: async (scene) => {
      await withoutKey(scene)
      await scene.sealer.insert(USE, { ...event(scene), id: scene.uses[0]!.id }, null)
    },
    finds: ["foreign"],
    tells: ({ uses }) => [`${uuid(uses[0]!.id)} another row has its event_id`]
  },
  {
    name: "a second row with the id of another, and a proof",
    run: async (scene) => {
      await withoutKey(scene)
      await scene.sealer.insert(USE, { ...event(scene), id: scene.uses[0]!.id }, randomBytes(16))
    },
    finds: ["foreign"]
  },
  {
    name: "a proof moved from a row to an added one",
    run: async (scene) => {
      const [row] = await scene.run(`SELECT audit_proof FROM ${TABLE} WHERE ${scene.where(0)}`)
      await scene.run(`UPDATE ${TABLE} SET audit_proof = NULL WHERE ${scene.where(0)}`)
      await scene.sealer.insert(USE, event(scene), Buffer.from(row!.audit_proof as Uint8Array))
    },
    finds: ["changed", "foreign"]
  },
  {
    name: "rows with ids of a wrong length added, with a proof",
    run: async ({ hand, isMysql, run }) => {
      if (isMysql) await run("ALTER TABLE measures MODIFY event_id VARBINARY(17)")
      for (const id of LENGTHS.map((length) => Buffer.alloc(length, 1))) {
        const values = `'x', ${hand.bytes(randomBytes(16))}, ${hand.bytes(id)}`
        await run(`INSERT INTO measures (text, audit_proof, event_id) VALUES (${values})`)
      }
    },
    finds: LENGTHS.map(() => "foreign"),
    tells: () => LENGTHS.map((length) => ` ${"01".repeat(length)} the row has a proof`)
  },
  {
    name: "a row with a text as its id added, with a proof",
    run: ({ hand, run }) =>
      run(
        `INSERT INTO measures (text, audit_proof, event_id) VALUES ('x', ${hand.bytes(randomBytes(16))}, 'x')`
      ),
    finds: ["foreign"],
    only: "sqlite"
  },
  {
    name: "the table behind a view that hides a row",
    run: async (scene) => {
      const { run, sealer } = scene
      const forged = event(scene)
      await sealer.insert(USE, forged, randomBytes(16))
      await run(`ALTER TABLE ${TABLE} RENAME TO behind`)
      await run(
        `CREATE VIEW ${TABLE} AS SELECT * FROM behind WHERE event_id <> ${scene.hand.bytes(forged.id)}`
      )
    },
    finds: Array<"foreign">(10).fill("foreign")
  },
  {
    name: "the table replaced by a view with an additional row",
    run: async (scene) => {
      const { run, sealer } = scene
      await sealer.insert(USE, event(scene), randomBytes(16))
      await run(`ALTER TABLE ${TABLE} RENAME TO behind`)
      await run("ALTER TABLE behind RENAME COLUMN audit_proof TO hidden")
      const names = [...USE.columns, "event_id", "event_time", "hidden AS audit_proof"]
      await run(`CREATE VIEW ${TABLE} AS SELECT ${names.join(", ")} FROM behind`)
    },
    finds: ["foreign"]
  },
  {
    name: "the column of the proofs removed",
    run: ({ run }) => run(`ALTER TABLE ${TABLE} DROP COLUMN audit_proof`),
    finds: ["removed"]
  },
  {
    name: "a row replaced before the seal from which proving continues",
    run: async (scene) => {
      await scene.run(`DELETE FROM ${TABLE} WHERE ${scene.where(0)}`)
      await scene.sealer.insert(USE, event(scene), randomBytes(16))
    },
    finds: ["foreign"],
    with: proved(1)
  },
  {
    name: "rows and seals cut off at the end, including the seal from which proving continues",
    run: async (scene) => {
      await scene.run(`DELETE FROM effect_audit_seal WHERE ${quoted(scene, "number")} = 2`)
      for (let i = 0; i < EVENTS_EACH; i++) await scene.run(`DELETE FROM ${TABLE} WHERE ${scene.where(2, i)}`)
      await scene.run(`DELETE FROM measures WHERE event_id = ${scene.hand.bytes(scene.measures[2]!.id)}`)
    },
    finds: ["gap"],
    with: proved(2)
  },
  {
    name: "a chain dropped whose last seal was proved",
    run: async (s) => {
      await s.run("DELETE FROM effect_audit_seal")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
      await new Sealer(s.hand, s.key, KINDS).store([event(s)])
    },
    finds: ["gap"],
    with: proved(2)
  },
  {
    name: "a row changed that a seal allows to remove",
    run: async ({ run, sealer, where }) => {
      await sealer.store([], noticeBytes("purge", sealer.chain.toString("hex"), "1"))
      await run(`UPDATE ${TABLE} SET model = 'x' WHERE ${where(0)}`)
    },
    finds: ["changed"]
  },
  {
    name: "a row replaced by another one",
    run: async (scene) => {
      await scene.run(`DELETE FROM ${TABLE} WHERE ${scene.where(0)}`)
      await scene.sealer.insert(USE, event(scene), randomBytes(16))
    },
    finds: ["foreign", "removed"]
  },
  {
    name: "rows copied to another table",
    run: ({ run }) => run(`CREATE TABLE copy AS SELECT * FROM measures`),
    finds: ["foreign", "foreign", "foreign"]
  },
  {
    name: "a row moved to the table of another kind",
    run: async ({ run, hand, measures }) => {
      const id = hand.bytes(measures[0]!.id)
      await run(
        `INSERT INTO ${TABLE} (user_name, device_name, prompt, status, event_id, audit_proof) SELECT 'x', 'x', 'x', 'x', event_id, audit_proof FROM measures WHERE event_id = ${id}`
      )
    },
    finds: ["foreign"]
  },
  {
    name: "two ids exchanged",
    run: async ({ hand, run, uses, where }) => {
      await run(`UPDATE ${TABLE} SET event_id = ${hand.bytes(Buffer.alloc(16))} WHERE ${where(0, 0)}`)
      await run(`UPDATE ${TABLE} SET event_id = ${hand.bytes(uses[0]!.id)} WHERE ${where(0, 1)}`)
      await run(
        `UPDATE ${TABLE} SET event_id = ${hand.bytes(uses[1]!.id)} WHERE event_id = ${hand.bytes(Buffer.alloc(16))}`
      )
    },
    finds: ["changed", "changed"]
  },
  {
    name: "a foreign row, if there must be none",
    run: (scene) => scene.sealer.insert(USE, event(scene), null),
    finds: ["unproved"],
    with: () => ({ isExclusive: true })
  },
  { name: "erased without a seal that allows it", run: (scene) => erase(scene), finds: ["erased"] },
  {
    name: "an event erased, while the seal allows another one",
    run: async (scene) => {
      await allowErasure(scene, 0)
      await erase(scene)
    },
    finds: ["erased"]
  },
  {
    name: "a content changed after an erasure",
    run: async (scene) => {
      await allowErasure(scene, 4)
      await erase(scene)
      await scene.run(`UPDATE ${TABLE} SET prompt = 'forged' WHERE ${scene.where(1, 1)}`)
    },
    finds: ["changed"]
  },
  {
    name: "a field erased that no seal allows to erase",
    run: async (scene) => {
      await allowErasure(scene, 4)
      await erase(scene)
      await scene.run(`UPDATE ${TABLE} SET user_name = '' WHERE ${scene.where(1, 1)}`)
    },
    finds: ["changed"]
  },
  {
    name: "an event erased after a seal allowed it for another kind",
    run: async (scene) => {
      await scene.sealer.store([], noticeBytes("erase", "measure", uuid(scene.uses[4]!.id)))
      await erase(scene)
    },
    finds: ["erased"]
  },
  {
    name: "a first seal that follows another one",
    run: async (scene) => {
      const other = new Sealer(scene.hand, scene.key, KINDS)
      other.head = randomBytes(32)
      await other.store([event(scene)])
    },
    finds: ["chain"]
  },
  {
    name: "a key used again after another one has followed it",
    run: async (scene) => {
      const { key, sealer } = scene
      await rotate(sealer)
      await sealer.store([event(scene)])
      sealer.key = key
      await sealer.store([event(scene)])
    },
    finds: ["key"]
  },
  {
    name: "a key named by a seal of an unknown key",
    run: async (scene) => {
      const { sealer } = scene
      sealer.key = newKey()
      await rotate(sealer)
      await sealer.store([event(scene)])
    },
    finds: ["key", "key"]
  },
  {
    name: "a key changed without a notice",
    run: async (scene) => {
      scene.sealer.key = newKey()
      await scene.sealer.store([event(scene)])
    },
    finds: ["key"]
  },
  {
    name: "rows removed beyond what a seal allows",
    run: async ({ run, sealer, where }) => {
      await sealer.store([], noticeBytes("purge", sealer.chain.toString("hex"), "1"))
      await run(`DELETE FROM ${TABLE} WHERE ${where(1)}`)
    },
    finds: ["removed"]
  },
  {
    name: "rows removed of a later seal than the one that allows it",
    run: async (scene) => {
      const later = event(scene)
      await scene.sealer.store([], noticeBytes("purge", scene.sealer.chain.toString("hex"), "1000"))
      await scene.sealer.store([later])
      await scene.run(`DELETE FROM ${TABLE}`)
    },
    finds: ["removed"]
  },
  {
    name: "the first seal removed",
    run: (s) => s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} = 0`),
    finds: [
      "chain",
      "chain",
      "chain",
      "chain",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "gap"
    ]
  },
  {
    name: "several seals removed",
    run: (s) => s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} < 2`),
    finds: [...Array<"foreign">(12).fill("foreign"), "chain", "chain", "gap"],
    tells: () => ["before it the seals 0 to 1 are missing"]
  },
  {
    name: "a seal in the middle removed",
    run: (s) => s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} = 1`),
    finds: ["foreign", "foreign", "foreign", "foreign", "gap"],
    tells: () => ["before it seal 1 is missing"]
  },
  {
    name: "the last seal removed",
    run: (s) => s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} = 2`),
    finds: ["foreign", "foreign", "foreign", "foreign"]
  },
  {
    name: "all seals removed",
    run: (s) => s.run("DELETE FROM effect_audit_seal"),
    finds: [...Array<"foreign">(12).fill("foreign"), "gap"]
  },
  {
    name: "rows and seals cut off at the end, with an anchor",
    run: async (s) => {
      await s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} = 2`)
      for (let i = 0; i < EVENTS_EACH; i++) await s.run(`DELETE FROM ${TABLE} WHERE ${s.where(2, i)}`)
      await s.run(`DELETE FROM measures WHERE event_id = ${s.hand.bytes(s.measures[2]!.id)}`)
    },
    finds: ["anchor"],
    with: anchored
  },
  sealUpdate("the time of a seal", (s) => `${quoted(s, "at")} = '2026-02-01 00:00:00.000009'`, [
    "chain",
    "chain"
  ]),
  sealUpdate("the place of a seal", () => "until = '0:9'", ["chain"]),
  sealUpdate("what a seal follows", ({ hand }) => `prev = ${hand.bytes(randomBytes(32))}`, [
    "chain",
    "chain"
  ]),
  sealUpdate(
    "the notices of a seal",
    ({ hand }) => `notices = ${hand.bytes(noticeBytes("purge", "00".repeat(16), "1"))}`,
    ["chain"]
  ),
  sealUpdate("a head", ({ hand }) => `head = ${hand.bytes(randomBytes(32))}`, ["chain", "chain"]),
  sealUpdate("the key that a seal names", ({ hand }) => `key_id = ${hand.bytes(randomBytes(8))}`, ["key"]),
  sealUpdate("a signature", ({ hand }) => `sig = ${hand.bytes(randomBytes(64))}`, ["key"]),
  sealUpdate("the number of the last seal", (s) => `${quoted(s, "number")} = 7`, ["chain", "gap"], 2),
  sealUpdate("notices that nobody can read", ({ hand }) => `notices = ${hand.bytes(Buffer.from("x"))}`, [
    "chain",
    "chain"
  ]),
  sealUpdate("entries that nobody can read", ({ hand }) => `entries = ${hand.bytes(Buffer.from("x"))}`, [
    "chain",
    "chain",
    "foreign",
    "foreign",
    "foreign",
    "foreign"
  ]),
  {
    name: "entries of two seals exchanged",
    run: async (s) => {
      const seals = await s.run(
        `SELECT ${quoted(s, "number")} AS n, entries FROM effect_audit_seal ORDER BY 1`
      )
      for (const [n, from] of [
        [1, 2],
        [2, 1]
      ] as const)
        await s.run(
          `UPDATE effect_audit_seal SET entries = ${s.hand.bytes(seals[from]!.entries as Uint8Array)} WHERE ${quoted(s, "number")} = ${n}`
        )
    },
    finds: ["chain", "chain"]
  },
  {
    name: "two seals exchanged",
    run: async (s) => {
      for (const [from, to] of [
        [1, 9],
        [2, 1],
        [9, 2]
      ] as const)
        await s.run(
          `UPDATE effect_audit_seal SET ${quoted(s, "number")} = ${to} WHERE ${quoted(s, "number")} = ${from}`
        )
    },
    finds: ["chain", "chain", "chain", "chain", "chain"]
  },
  {
    name: "the chain renamed",
    run: (s) => s.run(`UPDATE effect_audit_seal SET chain = ${s.hand.bytes(randomBytes(16))}`),
    finds: ["chain", "chain", "chain"]
  },
  {
    name: "a seal copied after the last one",
    run: (s) => {
      const rest = `until, prev, entries, notices, head, key_id, sig`
      return s.run(
        `INSERT INTO effect_audit_seal (chain, ${quoted(s, "number")}, ${quoted(s, "at")}, ${rest}) SELECT chain, 3, ${quoted(s, "at")}, ${rest} FROM effect_audit_seal WHERE ${quoted(s, "number")} = 2`
      )
    },
    finds: ["chain", "chain"]
  },
  {
    name: "everything rewritten by another key",
    run: async (s) => {
      await s.run("DELETE FROM effect_audit_seal")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
      await new Sealer(s.hand, newKey(), KINDS, s.sealer.chain).store(s.uses)
    },
    finds: ["key"]
  },
  {
    name: "everything rewritten by a stolen key, with an anchor",
    run: async (s) => {
      await s.run("DELETE FROM effect_audit_seal")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
      const forger = new Sealer(s.hand, s.key, KINDS, s.sealer.chain)
      for (let i = 0; i < 9; i += 3) await forger.store(s.uses.slice(i, i + 3))
    },
    finds: ["anchor"],
    with: anchored
  },
  {
    name: "everything rewritten by another key, with an anchor",
    run: async (s) => {
      await s.run("DELETE FROM effect_audit_seal")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
      await new Sealer(s.hand, newKey(), KINDS, s.sealer.chain).store(s.uses)
    },
    finds: ["anchor", "key"],
    with: anchored
  },
  {
    name: "everything removed, with an anchor",
    run: async (s) => {
      await s.run("DELETE FROM effect_audit_seal")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
    },
    finds: ["anchor", "gap"],
    with: anchored
  },
  {
    name: "everything removed but a seal that no query finds",
    run: async (s) => {
      await s.run(`DELETE FROM effect_audit_seal WHERE ${quoted(s, "number")} > 0`)
      await s.run("UPDATE effect_audit_seal SET chain = 'x'")
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
    },
    finds: ["chain", "gap"],
    only: "sqlite"
  },
  {
    name: "seals with invalid numbers",
    run: async (s) => {
      for (const [number, text] of [
        [1, "1.5"],
        [2, "'x'"]
      ] as const)
        await s.run(
          `UPDATE effect_audit_seal SET ${quoted(s, "number")} = ${text} WHERE ${quoted(s, "number")} = ${number}`
        )
    },
    finds: ["chain", ...Array<"foreign">(8).fill("foreign")],
    only: "sqlite"
  },
  {
    name: "a seal with the largest BIGINT as its number",
    run: (s) =>
      s.run(
        `UPDATE effect_audit_seal SET ${quoted(s, "number")} = 9223372036854775807 WHERE ${quoted(s, "number")} = 2`
      ),
    finds: ["chain", "foreign", "foreign", "foreign", "foreign"]
  },
  {
    name: "a chain rewritten by a stolen key, while another chain names its head",
    run: async (s) => {
      const other = new Sealer(s.hand, s.key, KINDS)
      await other.store([], noticeBytes("witness", s.sealer.chain.toString("hex"), "2", s.heads[2]!))
      await s.run(`DELETE FROM effect_audit_seal WHERE chain = ${s.hand.bytes(s.sealer.chain)}`)
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
      const forger = new Sealer(s.hand, s.key, KINDS, s.sealer.chain)
      for (let i = 0; i < 9; i += 3) await forger.store(s.uses.slice(i, i + 3))
    },
    finds: ["gap"]
  },
  {
    name: "a signed seal with an unknown notice",
    run: ({ sealer }) => sealer.store([], noticeBytes("later", "x")),
    finds: ["chain"]
  },
  {
    name: "a seal added without the key",
    run: (s) => new Sealer(s.hand, newKey(), KINDS).store([event(s)]),
    finds: ["key"]
  },
  {
    name: "a clock that goes back",
    run: (s) => s.sealer.seal(Buffer.alloc(0), Buffer.alloc(0), { at: "2026-01-01 00:00:00.000000" }),
    finds: ["chain"]
  },
  {
    name: "an entry whose columns no seal names",
    run: (s) =>
      s.sealer.seal(
        Buffer.concat([randomBytes(16), Buffer.from("00000000000000ff", "hex"), randomBytes(32)]),
        Buffer.alloc(0)
      ),
    finds: ["chain"]
  },
  {
    name: "a chain dropped whose head another chain names",
    run: async (s) => {
      const other = new Sealer(s.hand, s.key, KINDS)
      await other.store(
        [],
        noticeBytes("previous", s.sealer.chain.toString("hex"), "2", s.sealer.head.toString("hex"), "lost")
      )
      await s.run(`DELETE FROM effect_audit_seal WHERE chain = ${s.hand.bytes(s.sealer.chain)}`)
      await s.run(`DELETE FROM ${TABLE}`)
      await s.run("DELETE FROM measures")
    },
    finds: ["gap"]
  },
  {
    name: "a chain cut off whose head another chain names",
    run: async (s) => {
      const other = new Sealer(s.hand, s.key, KINDS)
      await other.store(
        [],
        noticeBytes("witness", s.sealer.chain.toString("hex"), "2", s.sealer.head.toString("hex"))
      )
      await s.run(
        `DELETE FROM effect_audit_seal WHERE chain = ${s.hand.bytes(s.sealer.chain)} AND ${quoted(s, "number")} = 2`
      )
      for (let i = 0; i < EVENTS_EACH; i++) await s.run(`DELETE FROM ${TABLE} WHERE ${s.where(2, i)}`)
      await s.run(`DELETE FROM measures WHERE event_id = ${s.hand.bytes(s.measures[2]!.id)}`)
    },
    finds: ["gap"]
  },
  {
    name: "an anchor with another head",
    run: async () => undefined,
    finds: ["anchor"],
    with: ({ sealer }) => ({
      anchors: [{ chain: sealer.chain.toString("hex"), number: 1, head: "00".repeat(32) }]
    }),
    tells: () => [":1  it has another head"]
  },
  {
    name: "an anchor of an absent chain",
    run: async () => undefined,
    finds: ["anchor"],
    with: () => ({ anchors: [{ chain: "00".repeat(16), number: 1, head: "00".repeat(32) }] }),
    tells: () => [`seal ${"00".repeat(16)}:1  it is missing`]
  }
]
