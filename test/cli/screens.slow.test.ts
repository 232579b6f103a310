/** The command on a hostile queue: it reveals nothing masked, controls no terminal, and ends with a documented code. */
import { assert, describe, it } from "@effect/vitest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Effect, FastCheck as fc, Logger, Schedule, SubscriptionRef, Stream } from "effect"
import * as fs from "node:fs"
import { spawnSync } from "node:child_process"
import * as net from "node:net"
import * as path from "node:path"
import { gunzipSync } from "node:zlib"
import { jsonOf, visible } from "../../src/cli/format.js"
import { maskEvent } from "../../src/cli/mask.js"
import { eventsOf, makeServer } from "../../src/cli/server.js"
import type { View } from "../../src/cli/monitor.js"
import * as MysqlUploader from "../../src/layers/MysqlUploader.js"
import { openAudit } from "../support/auditHere.js"
import { effectAudit, fill, hasPty, inTerminal, startEffectAudit, useLine } from "../support/cli.js"
import { refusingPort } from "../support/net.js"
import { nodeDisk, temporaryDirectory, withQueue } from "../support/queue.js"

/** Only --reveal may show it. */
const MARKER = "MARKER"

/** C0 except line feed, DEL, C1, directional marks, zero widths, tags, fillers, separators, surrogates. */
const FORBIDDEN = /(?!\n)[\p{Cc}\p{Cf}\p{DI}\p{Zl}\p{Zp}\p{Cs}]/u

const DOCUMENTED = [0, 1, 2, 3, 64]

// -------------------------------------------------------------------------------------------------- what anybody may write

const PIECES = [
  "\x1b[2J",
  "\x1b]0;title\x07",
  "\x9b31m",
  "\r",
  "\n",
  "\x7f",
  "\x85",
  "\u202e",
  "\u2066",
  "\u2069",
  "\u200f",
  "\u061c",
  "\u200b",
  "\ufeff",
  "\u3164",
  "\ufe0f",
  "\u034f",
  "\u2028",
  "\u{e0041}",
  "\ud800",
  "狐\u{1f98a}",
  "plain",
  "=cmd()",
  '"',
  "\\"
]
const hostile = fc.array(fc.constantFrom(...PIECES), { maxLength: 6 }).map((pieces) => pieces.join(""))
const nested = (depth: number, inner: string) =>
  `${"[".repeat(depth)}${JSON.stringify(inner)}${"]".repeat(depth)}`

/** A value that contains the marker in some shape, as JSON. */
const secret = fc.oneof(
  hostile.map((text) => JSON.stringify(`${text}${MARKER}`)),
  fc.constant(JSON.stringify({ deep: [MARKER], [`a ${MARKER}`]: 1 })),
  fc.constant(JSON.stringify([MARKER])),
  fc.constantFrom(3, 20_000).map((depth) => nested(depth, MARKER))
)
const harmless = fc.oneof(
  hostile.map((text) => JSON.stringify(text)),
  fc.constantFrom("7", "null", "true", "-0.5e300")
)
/** Replaces a kind or a code in a damaged line or letter. */
const prompt = hostile.map((text) => `a prompt ${text}${MARKER}`.replaceAll("\n", ""))
const strangeKind = fc.oneof(
  prompt.map((text) => JSON.stringify(text)),
  fc.constant(JSON.stringify(`${MARKER}${"x".repeat(100)}`)),
  fc.constantFrom(
    '["use_log"]',
    "7",
    "null",
    "{}",
    '"constructor"',
    '"__proto__"',
    '"toString"',
    '"valueOf"'
  ),
  hostile.map((text) => JSON.stringify(`kind ${text}`)),
  secret.filter((json) => !json.startsWith('"'))
)
const member = (key: string, value: string) => `${JSON.stringify(key)}:${value}`
const objectOf = (members: ReadonlyArray<string>) => `{${members.join(",")}}`

const eventId = fc.oneof(
  fc.constant('"01890a5d-ac96-774b-bcce-b302099a8057"'),
  harmless,
  secret,
  fc.constant(undefined)
)
const ts = fc.oneof(fc.constant('"2026-11-22T19:47:57.000Z"'), harmless, secret)

const ofOurKind = fc.record({ eventId, ts, shown: harmless, secret, other: secret }).map((given) =>
  objectOf([
    member("kind", '"use_log"'),
    ...(given.eventId === undefined ? [] : [member("event_id", given.eventId)]),
    member("ts", given.ts),
    member("user_name", given.shown),
    member("prompt", given.secret),
    // not a field of the kind
    member("__proto__", given.other),
    member("Prompt", given.other)
  ])
)
const ofStrangeKind = fc
  .record({ kind: strangeKind, eventId, secret, shown: hostile })
  .map((given) =>
    objectOf([
      member("kind", given.kind),
      ...(given.eventId === undefined ? [] : [member("event_id", given.eventId)]),
      member(`key ${given.shown}`, given.secret),
      member("prompt", given.secret),
      member("constructor", given.secret)
    ])
  )
const noEvent = fc.oneof(
  secret,
  hostile.map((text) => `{"kind":"use_log","prompt":"${text.replaceAll("\n", "")}${MARKER}`)
)
const line = fc.oneof(
  fc.oneof(ofOurKind, ofStrangeKind, noEvent).map((text) => Buffer.from(text)),
  fc
    .uint8Array({ maxLength: 60 })
    .map((bytes) => Buffer.concat([bytes.filter((_) => _ !== 10), Buffer.from(MARKER)]))
)

const letter = fc.record({
  cls: fc.constantFrom(
    '"rejected"',
    '["rejected"]',
    '"REJECTED"',
    "null",
    "7",
    '"unknownKind"',
    '"malformed"'
  ),
  kind: strangeKind,
  code: fc.oneof(
    harmless,
    prompt.map((text) => JSON.stringify(text)),
    secret.filter((json) => !json.startsWith('"'))
  ),
  // V8's date parser skips text in brackets
  at: fc.oneof(
    harmless,
    fc.constantFrom('"2026-11-22T19:47:57.000Z"', JSON.stringify(`1 Jan 2026 10:00 (T ${MARKER}) Z`))
  ),
  length: fc.constantFrom("10", '"10"', "-1", "1e400", "null"),
  words: hostile,
  extra: secret,
  content: fc.oneof(line, fc.constant(undefined))
})
const letterOf = (given: typeof letter extends fc.Arbitrary<infer A> ? A : never, index: number) =>
  objectOf([
    member("type", '"letter"'),
    member("id", JSON.stringify(`${index}:0`)),
    member("segment", String(index)),
    member("offset", "0"),
    member("sequence", "0"),
    member("length", given.length),
    member("class", given.cls),
    member("kind", given.kind),
    member("code", given.code),
    member("at", given.at),
    // a database's message repeats the row; our own messages do not
    member(
      "reason",
      JSON.stringify(/unknownKind|malformed/.test(given.cls) ? given.words : given.words + MARKER)
    ),
    member("extra", given.extra),
    given.content === undefined
      ? member("line", "7")
      : member("base64", JSON.stringify(given.content.toString("base64")))
  ])

/** Asserts that the output is safe on a screen, and the exit code is documented. */
const judge = (
  args: ReadonlyArray<string>,
  ended: { readonly code: number | null; readonly stdout: string; readonly stderr: string },
  isRevealed: boolean
) => {
  const said = ended.stdout + ended.stderr
  const found = FORBIDDEN.exec(said)
  assert.isNull(
    found,
    `${args.join(" ")} printed ${JSON.stringify(said.slice((found?.index ?? 0) - 40).slice(0, 80))}`
  )
  if (!isRevealed) {
    const at = said.indexOf(MARKER)
    assert.strictEqual(at, -1, `${args.join(" ")} showed ${said.slice(Math.max(0, at - 200), at + 20)}`)
  }
  assert.include(DOCUMENTED, ended.code, `${args.join(" ")}: ${ended.stderr.slice(0, 500)}`)
  if (args.includes("--json")) {
    for (const text of ended.stdout.split("\n")) if (text !== "") JSON.parse(text)
  }
}

/** Time for sixty process starts on a busy machine, milliseconds. */
const SIXTY_CALLS = 600_000

describe("a queue with arbitrary content", () => {
  const isLong = process.env.AUDIT_LONG === "1"
  const seeds = isLong ? 3 : 1
  const seed = Number(process.env.AUDIT_SEED ?? (isLong ? Date.now() % 2 ** 31 : 20_261_129))

  for (let round = 0; round < seeds; round++) {
    it.scopedLive(
      `every command shows only characters that are safe on a screen (AUDIT_SEED=${seed + round})`,
      () =>
        Effect.gen(function* () {
          const directory = yield* temporaryDirectory
          const good = useLine({ prompt: MARKER, userName: PIECES.join("") })
          yield* fill(directory, [useLine({}), good])
          const lines = fc.sample(line, { numRuns: 150, seed: seed + round })
          const segment = path.join(
            directory,
            fs.readdirSync(directory).find((name) => /^\d+\.ndjson$/.test(name))!
          )
          fs.appendFileSync(segment, Buffer.concat(lines.flatMap((bytes) => [bytes, Buffer.from("\n")])))
          const letters = fc.sample(letter, { numRuns: 60, seed: seed + round })
          fs.writeFileSync(
            path.join(directory, "dead-letter.ndjson"),
            letters.map((given, index) => `${letterOf(given, index)}\n`).join("")
          )
          const positions = (yield* effectAudit(directory, ["tail", "-n", "200", "--json"]))
            .json()
            .map(({ position }) => String(position))
          assert.isAbove(positions.length, 100)

          const looks = [
            ["status"],
            ["tail", "-n", "200"],
            ["show", good.eventId],
            ...positions
              .slice(2, 150)
              .filter((_, index) => index % 40 === 0)
              .map((id) => ["show", id]),
            ["show", PIECES.join("")],
            ["dead", "list"],
            ...[0, 20, 40].map((index) => ["dead", "show", `${index}:0`]),
            ["dead", "show", PIECES.join("")],
            ["dead", "discard", "--all"],
            ["verify"],
            ["doctor"],
            ["migrate", "--print"]
          ]
          const canReveal = (args: ReadonlyArray<string>) => /^(tail|show|dead show)/.test(args.join(" "))
          // Alternates text and JSON in the ordinary run.
          const calls = looks.flatMap((args, turn) => {
            const ways = [
              args,
              [...args, "--json"],
              ...(canReveal(args)
                ? [
                    [...args, "--reveal", "--json"],
                    [...args, "--reveal"]
                  ]
                : [])
            ]
            return isLong ? ways : ways.filter((_, way) => way % 2 === turn % 2)
          })
          const call = (args: ReadonlyArray<string>) =>
            Effect.map(effectAudit(directory, args), (ended) => {
              judge(args, ended, args.includes("--reveal"))
              return ended
            })
          yield* Effect.forEach(calls, call, { concurrency: 2 })

          // these change the queue, so they run one after the other
          const { port } = yield* Effect.promise(refusingPort)
          const url = ["--url", `mysql://audit@127.0.0.1:${port}/audit`]
          const old = path.join(directory, `old ${PIECES.join("").replaceAll("/", "")}.ndjson`)
          for (const json of isLong ? [[], ["--json"]] : [["--json"]]) {
            yield* call(["flush", ...url, ...json])
            yield* call(["dead", "retry", "0:0", "1:0", ...json])
            yield* call(["dead", "retry", "--class", "malformed", ...json])
            yield* call(["dead", "retry", "--all", ...json])
            fs.writeFileSync(old, Buffer.concat(lines.flatMap((bytes) => [bytes, Buffer.from("\n")])))
            const adopted = yield* call(["adopt", old, ...json])
            assert.strictEqual(adopted.code, 0, adopted.stderr)
            yield* call(["flush", ...url, ...json])
          }
          yield* call(["verify"])
        }),
      SIXTY_CALLS
    )
  }

  it.effect("masking hides the content of any line", () =>
    Effect.sync(() => {
      fc.assert(
        fc.property(line, (bytes) => {
          const masked = jsonOf(maskEvent(bytes, { reveal: false }))
          assert.notInclude(masked, MARKER)
          assert.notMatch(masked, FORBIDDEN)
          assert.notMatch(jsonOf(maskEvent(bytes, { reveal: true })), FORBIDDEN)
        }),
        { numRuns: 2000 }
      )
    })
  )

  it.effect("escaping as JSON keeps the value, and escaping for a screen is idempotent", () =>
    Effect.sync(() => {
      fc.assert(
        fc.property(fc.oneof(hostile, fc.string({ unit: "binary" })), (text) => {
          assert.strictEqual(JSON.parse(jsonOf(text)), text)
          assert.notMatch(visible(text), /[\p{Cc}\p{Cf}\p{DI}\p{Zl}\p{Zp}\p{Cs}]/u)
          assert.strictEqual(visible(visible(text)), visible(text))
        }),
        { numRuns: 2000 }
      )
    })
  )

  it.scopedLive.skipIf(!hasPty)("a terminal gets no colours but our own (skipped without python3)", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({ userName: PIECES.join("") })])
      fs.appendFileSync(
        path.join(directory, "00000000000000000000.ndjson"),
        `broken \x1b[31m${PIECES.join("").replaceAll("\n", "")}\n`
      )
      const program = inTerminal(directory, ["tail", "--reveal"])
      const { stdout } = yield* Effect.promise(() => program.ended)
      assert.include(stdout, "\x1b[36muse_log\x1b[39m")
      assert.include(stdout, "broken \\x1b[31m")
      // eslint-disable-next-line no-control-regex -- our own colours, and the terminal's line end
      const rest = stdout.replace(/\x1b\[(2|22|36|39)m|\r\n/g, "")
      assert.notMatch(rest, FORBIDDEN)
    })
  )
})

describe("a queue that is too large", () => {
  it.scopedLive("140,000 letters are listed, and discarding them asks for confirmation", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const count = 140_000
      const letters = Array.from(
        { length: count },
        (_, index) =>
          `{"type":"letter","id":"0:${index}","segment":0,"offset":${index},"sequence":0,"length":2,"class":"malformed","reason":"r","at":"2026-11-22T19:47:57.000Z","line":"{}"}\n`
      )
      fs.writeFileSync(path.join(directory, "dead-letter.ndjson"), letters.join(""))
      const list = yield* effectAudit(directory, ["dead", "list"])
      assert.deepInclude(list, { code: 0, stderr: "" })
      assert.strictEqual(list.stdout.trim().split("\n").length, count + 1)
      const json = yield* effectAudit(directory, ["dead", "list", "--json"])
      assert.strictEqual(json.stdout.trim().split("\n").length, count)
      const careful = yield* effectAudit(directory, ["dead", "discard", "--all"])
      assert.include(careful.stderr, "140,000 events would be given up")
    })
  )

  it.scopedLive("the queue's path cannot control the terminal, in a program's log or in its errors", () =>
    Effect.gen(function* () {
      const parent = yield* temporaryDirectory
      const directory = path.join(parent, `it's \x1b[2J\u0085\u202e\u{e0041}`)
      const lines: Array<string> = []
      const logger = Logger.map(Logger.stringLogger, (line) => void lines.push(line))
      const open = openAudit({ directory }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
      const log = yield* open
      // the worker logs the queue's name in each line
      yield* log.use("one")
      yield* Effect.ignore(log.flush)
      assert.isTrue(lines.some((line) => line.includes("queue=")))
      const locked = yield* Effect.flip(open)
      yield* log.close
      // The message contains a command that removes the obstacle.
      const cursor = path.join(directory, "cursor")
      fs.linkSync(cursor, path.join(parent, "copy"))
      const refused = yield* Effect.flip(open)
      const texts = [...lines, String(locked), String(refused)]
      assert.isAbove(lines.length, 0)
      assert.deepStrictEqual(
        texts.filter((text) => FORBIDDEN.test(text)),
        []
      )
      for (const text of texts.slice(-2)) assert.include(text, "it's \\x1b[2J\\x85\\u202e\\u{e0041}")
      const [, command] = /\((cp .*)\)/.exec(String(refused))!
      assert.strictEqual(
        spawnSync("bash", ["-c", command!], { env: { ...process.env, LC_ALL: "C.UTF-8" } }).status,
        0
      )
      assert.strictEqual(fs.statSync(cursor).nlink, 1)
      yield* (yield* open).close
    })
  )

  it.scopedLive(
    "a file with a hole of 600 MB, as a power cut may leave, ends no command and lets a program start",
    () =>
      Effect.gen(function* () {
        for (const name of ["dead-letter.ndjson", "queue.json", "adoption.json", "status.json", "lock"]) {
          const directory = yield* temporaryDirectory
          yield* fill(directory, [useLine({}), useLine({})], [{ class: "unknownKind", reason: "r" }])
          const file = path.join(directory, name)
          if (!fs.existsSync(file)) fs.writeFileSync(file, "")
          fs.truncateSync(file, 600 * 1024 * 1024)
          for (const args of [["status"], ["verify"], ["dead", "list"]]) {
            const ended = yield* effectAudit(directory, args)
            judge(args, ended, false)
            if (args[0] === "verify" && name === "queue.json")
              assert.include(ended.stdout, "queue.json: damaged")
            if (args[0] === "status" && name === "queue.json") {
              assert.strictEqual(ended.code, 3)
              assert.include(ended.stdout, "queue.json is damaged")
            }
          }
          const opened = yield* Effect.either(Effect.scoped(openAudit({ directory })))
          if (name !== "queue.json") assert.strictEqual(opened._tag, "Right", name)
          else if (opened._tag === "Left") assert.include(String(opened.left), "queue.json is damaged")
        }
      }),
    SIXTY_CALLS
  )

  it.scopedLive("a dead letter of 600 MB is listed, and shown and exported without its content", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const file = path.join(directory, "dead-letter.ndjson")
      const letter = `{"type":"letter","id":"0:0","segment":0,"offset":0,"sequence":0,"length":600000000,"class":"oversize","reason":"r","at":"2026-11-22T19:47:57.000Z","line":"`
      fs.writeFileSync(file, letter)
      fs.truncateSync(file, 600_000_000)
      fs.appendFileSync(file, '"}\n')
      for (const args of [
        ["dead", "list"],
        ["dead", "show", "0:0"],
        ["dead", "show", "0:0", "--reveal"],
        ["dead", "show", "0:0", "--json"],
        ["dead", "export"]
      ]) {
        const ended = yield* effectAudit(directory, args)
        judge(args, ended, false)
        assert.strictEqual(ended.code, 0, ended.stderr)
        assert.include(ended.stdout, args.includes("show") ? "600 MB are too large to be shown" : "0:0")
      }
    })
  )

  it.scopedLive(
    "a hole of 700 MB in a segment becomes a small letter, and discarding it needs no space",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        yield* fill(directory, [useLine({})])
        const segment = path.join(directory, `${"".padStart(20, "0")}.ndjson`)
        const handle = fs.openSync(segment, "a")
        const hole = 700 * 1024 * 1024
        fs.ftruncateSync(handle, fs.statSync(segment).size + hole)
        const rest = `{"prompt":"${MARKER}`
        fs.writeSync(handle, `${rest}\n${useLine({}).line}`)
        fs.closeSync(handle)
        const disk = yield* nodeDisk
        yield* withQueue(disk, { directory }, (queue) =>
          Effect.gen(function* () {
            yield* queue.commit(yield* queue.take({ maxRecords: 1, maxBytes: 1 << 20 }), [])
            const batch = yield* queue.take({ maxRecords: 1, maxBytes: 1 << 20 })
            const record = batch.records.at(0)!
            assert.deepInclude(record, { length: hole + rest.length, problem: "oversize" })
            yield* queue.commit(batch, [{ record, class: "oversize", reason: "it is too long" }])
          })
        )
        const letters = path.join(directory, "dead-letter.ndjson")
        assert.isBelow(fs.statSync(letters).size, hole / 100)
        const [listed] = (yield* effectAudit(directory, ["dead", "list", "--json"])).json()
        assert.deepInclude(listed, { class: "oversize", length: hole + rest.length })
        const id = String(listed!.id)
        for (const args of [
          ["dead", "list"],
          ["dead", "show", id],
          ["dead", "show", id, "--reveal"],
          ["dead", "show", id, "--json"],
          ["verify"],
          ["status"]
        ]) {
          const ended = yield* effectAudit(directory, args)
          judge(args, ended, false)
          if (args.includes("show")) assert.include(ended.stdout, "734 MB are too large to be shown")
        }
        const [exported] = (yield* effectAudit(directory, ["dead", "export"])).json()
        assert.deepInclude(exported, { id, encoding: "gzip" })
        const bytes = gunzipSync(Buffer.from(String(exported!.base64), "base64"))
        assert.isTrue(bytes.equals(Buffer.concat([Buffer.alloc(hole), Buffer.from(rest)])))

        const retried = yield* effectAudit(directory, ["dead", "retry", "--all"])
        assert.include(retried.stderr, "Only lines that are JSON objects of a fitting size")
        const discarded = yield* effectAudit(directory, ["dead", "discard", "--all", "--yes"])
        assert.deepInclude(discarded, { code: 0, stdout: "1 dead letter discarded.\n" }, discarded.stderr)
        assert.isFalse(fs.readFileSync(segment).subarray(-1000).includes(MARKER))
        assert.isBelow(fs.statSync(segment).blocks * 512, 4 * 1024 * 1024)
        const [status] = (yield* effectAudit(directory, ["status", "--json"])).json()
        const [books] = status!.queues as ReadonlyArray<Record<string, unknown>>
        assert.deepInclude(books, {
          accepted: 3,
          delivered: 1,
          waiting: 1,
          dead: 0,
          discarded: 1,
          missing: 0
        })
      })
  )

  it.scopedLive("a request of 600 MB is set aside, and verify reports it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})], [{ class: "unknownKind", reason: "r" }])
      fs.mkdirSync(path.join(directory, "requests"))
      const file = path.join(directory, "requests", "00000000000001-large.json")
      fs.writeFileSync(file, "{")
      fs.truncateSync(file, 600 * 1024 * 1024)
      const verified = yield* effectAudit(directory, ["verify"])
      assert.strictEqual(verified.code, 0, verified.stderr)
      assert.include(verified.stdout, "1 file cannot be read as a request")
      const retried = yield* effectAudit(directory, ["dead", "retry", "--all"])
      assert.deepInclude(retried, { code: 0, stdout: "1 dead letter appended again.\n" })
      assert.deepStrictEqual(fs.readdirSync(path.dirname(file)), ["00000000000001-large.json.broken"])
      for (const [args, text] of [
        [["verify"], "1 file cannot be read as a request"],
        [["status"], "1 file in requests/ will not be carried out"],
        [["doctor"], "1 file will not be carried out"]
      ] as const) {
        const ended = yield* effectAudit(directory, args)
        judge(args, ended, false)
        assert.include(ended.stdout, text)
      }
    })
  )
})

describe("what an operator could reveal by accident", () => {
  it.scopedLive("the command warns of a password in --url, but not of one in the environment", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const url = "mysql://app:SECRET@127.0.0.1:1/app"
      const [flag, environment, none] = yield* Effect.all([
        effectAudit(directory, ["flush", "--url", url]),
        effectAudit(directory, ["flush"], { AUDIT_MYSQL_URL: url }),
        effectAudit(directory, ["flush", "--url", "mysql://app@127.0.0.1:1/app"])
      ])
      assert.include(flag.stderr, "the command line shows the password")
      assert.notInclude(flag.stderr + flag.stdout, "SECRET")
      for (const { stderr } of [environment, none]) assert.notInclude(stderr, "password")
      for (const { code } of [flag, environment, none]) assert.strictEqual(code, 1)
    })
  )

  it.scopedLive("the command repeats no part of a password that is badly encoded or in the wrong place", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const encode = /write % as %25, \/ as %2F, \? as %3F, # as %23 and @ as %40/
      const passwords = [
        "12/SECRET",
        "12?SECRET",
        "12#SECRET",
        "/SECRET",
        "SEC%RET",
        "SEC%4RET",
        "12/a@SECRET"
      ]
      const urls = passwords.map((password) => `mysql://app:${password}@127.0.0.1:1/app`)
      const ends = yield* Effect.forEach(
        [
          ...urls.map((url): readonly [ReadonlyArray<string>, string] => [["doctor"], url]),
          ...[["migrate"], ["migrate", "--print"], ["events"], ["flush"], ["prove", "--key", "x"]].map(
            (args): readonly [ReadonlyArray<string>, string] => [args, urls[0]!]
          )
        ],
        ([args, url]) =>
          Effect.map(effectAudit(directory, args, { AUDIT_MYSQL_URL: url }), (ended) => ({
            args,
            url,
            ended
          })),
        { concurrency: 2 }
      )
      for (const { args, ended, url } of ends) {
        const said = ended.stdout + ended.stderr
        assert.notMatch(said, /SEC|RET|app:12|\b12\b/, url)
        if (!args.includes("--print") && !args.includes("prove")) assert.match(said, encode, url)
      }
      for (const args of [
        ["doctor", "mysql://app:SECRET@127.0.0.1:1/app"],
        ["mysql://app:SECRET@127.0.0.1:1/app"],
        ["doctor", "-pSECRET"],
        ["doctor", "-p", "SECRET"],
        ["doctor", "--json", "-p", "SECRET"],
        ["doctor", "--password=SECRET"]
      ]) {
        const ended = yield* effectAudit(directory, args)
        assert.strictEqual(ended.code, 64)
        assert.notInclude(ended.stdout + ended.stderr, "SECRET", args.join(" "))
      }
      const warned = yield* effectAudit(directory, ["doctor", "--url", urls[0]!])
      assert.include(warned.stderr, "the command line shows the password")
    })
  )

  const canBecome =
    process.getuid?.() === 0 &&
    spawnSync("python3", ["-c", "import os; os.setuid(54321); os.listdir('.')"]).status === 0
  it.scopedLive.skipIf(!canBecome)("a decision by a user without a name records the uid (needs root)", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})], [{ class: "unknownKind", reason: "r" }])
      for (const name of [".", ...fs.readdirSync(directory)])
        fs.chownSync(path.join(directory, name), 54321, 54321)
      const become =
        "import os, sys; os.setgid(54321); os.setuid(54321); os.execvp(sys.argv[1], sys.argv[1:])"
      const program = startEffectAudit(
        directory,
        ["dead", "discard", "--all", "--yes"],
        ["python3", "-c", become]
      )
      const ended = yield* Effect.promise(() => program.ended)
      assert.deepInclude(ended, { code: 0, stdout: "1 dead letter discarded.\n" }, ended.stderr)
      assert.include(fs.readFileSync(path.join(directory, "dead-letter.ndjson"), "utf8"), '"by":"uid 54321@')
    })
  )

  it("a line break in a table's name stays inside the comment of the SQL", () => {
    for (const end of ["\n", "\r\n", "\r"]) {
      const sql = MysqlUploader.migrationSql({ tables: { use_log: `x${end}DROP TABLE y; -- ` } })
      const comments = sql.slice(sql.indexOf("-- if the table"), sql.indexOf("CREATE", 10))
      for (const line of comments.trim().split(/[\r\n]+/)) assert.match(line, /^--/, sql)
    }
  })

  it.scopedLive("migrate --print refuses names that a terminal cannot show", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const args = ["migrate", "--print", "--table", "use_log=x\x1b[2J\u202ey"]
      const text = yield* effectAudit(directory, args)
      judge(args, text, false)
      assert.strictEqual(text.code, 64)
      const json = yield* effectAudit(directory, [...args, "--json"])
      judge([...args, "--json"], json, false)
      assert.include(json.json()[0]!.sql, "`x\x1b[2J\u202ey`")
    })
  )
})

describe("serve", () => {
  it.scopedLive("says that its port is in use", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})])
      const taken = net.createServer()
      yield* Effect.acquireRelease(
        Effect.promise(() => new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve))),
        () => Effect.sync(() => taken.close())
      )
      const { port } = taken.address() as net.AddressInfo
      const ended = yield* effectAudit(directory, ["serve", "--port", String(port)])
      assert.deepInclude(ended, { code: 64, stdout: "" })
      assert.include(ended.stderr, `Port ${port} is in use by another program`)
    })
  )

  it.scopedLive("forbids caches to store any answer", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* fill(directory, [useLine({})], [{ class: "unknownKind", reason: "r" }])
      const program = startEffectAudit(directory, ["serve"])
      yield* Effect.addFinalizer(() => {
        program.kill("SIGTERM")
        return Effect.promise(() => program.ended)
      })
      yield* Effect.promise(async () => {
        await program.prints(/#\S+\n/)
        const { hash, origin } = new URL(program.stdout().trim())
        const headers = { authorization: `Bearer ${hash.slice(1)}`, "content-type": "application/json" }
        for (const [file, method, body] of [
          ["/", "GET"],
          ["/api/letter?id=0:0", "GET"],
          ["/api/letter?id=0:0&reveal=yes", "GET"],
          ["/api/letter?id=9:9", "GET"],
          ["/api/export", "GET"],
          ["/api/changes", "GET"],
          ["/api/retry", "POST", '{"ids":[]}']
        ] as const) {
          const abort = new AbortController()
          const answer = await fetch(`${origin}${file}`, {
            method,
            headers,
            signal: abort.signal,
            body: body ?? null
          })
          assert.strictEqual(answer.headers.get("cache-control"), "no-store", file)
          abort.abort()
        }
        const letters = await fetch(`${origin}/api/export`, { headers })
        assert.include(await letters.text(), '"id":"0:0"')
      })
    })
  )

  it.live("keeps only the newest state for a reader that does not read", () =>
    Effect.gen(function* () {
      const view = (at: number): View => ({
        ...{ at, code: 0, queues: [], history: [], failures: [], letters: [], problem: undefined }
      })
      const state = yield* SubscriptionRef.make(view(0))
      let seen = 0
      const changed: Effect.Effect<void> = Effect.gen(function* () {
        for (let at = 1; at <= 1000; at++) {
          yield* SubscriptionRef.set(state, view(at))
          yield* Effect.yieldNow()
        }
        yield* Effect.sleep("50 millis")
      })
      yield* eventsOf(state.changes).pipe(
        Stream.tap(() => {
          seen++
          // the reader keeps the first state until all others have come
          return seen > 1 ? Effect.void : changed
        }),
        Stream.takeUntil((event) => event.includes('"at":1000')),
        Stream.runDrain,
        Effect.timeout("2 minutes")
      )
      assert.isAtMost(seen, 4)
    })
  )

  it.scopedLive(
    "disconnects a reader that stalls, and none that reads",
    () =>
      Effect.gen(function* () {
        const server = makeServer("1 second")
        const sockets: Array<net.Socket> = []
        server.on("connection", (socket) => sockets.push(socket))
        const problem = "x".repeat(1 << 20)
        const view = (at: number): View => ({
          ...{ at, code: 0, queues: [], history: [], failures: [], letters: [], problem }
        })
        const state = yield* SubscriptionRef.make(view(0))
        yield* Effect.fork(
          Effect.forever(
            Effect.zipRight(
              Effect.sleep("20 millis"),
              SubscriptionRef.update(state, ({ at }) => view(at + 1))
            )
          )
        )
        const events = HttpServerResponse.stream(Stream.encodeText(eventsOf(state.changes)))
        const http = yield* NodeHttpServer.make(() => server, { host: "127.0.0.1", port: 0 })
        yield* http.serve(Effect.succeed(events))
        const { port } = server.address() as net.AddressInfo
        const connect = Effect.acquireRelease(
          Effect.sync(() =>
            net.connect(port, "127.0.0.1", function (this: net.Socket) {
              this.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            })
          ),
          (socket) => Effect.sync(() => socket.destroy())
        )
        const stalled = yield* connect
        const reading = yield* connect
        let taken = 0
        reading.on("data", (bytes) => (taken += bytes.length))
        stalled.pause()
        yield* Effect.repeat(
          Effect.sync(() => sockets.filter(({ destroyed }) => destroyed).length),
          {
            while: (count) => count === 0,
            schedule: Schedule.spaced("50 millis")
          }
        ).pipe(Effect.timeout("60 seconds"))
        const before = taken
        yield* Effect.sleep("3 seconds")
        assert.isAbove(taken, before)
        assert.lengthOf(sockets, 2)
        assert.lengthOf(
          sockets.filter(({ destroyed }) => destroyed),
          1
        )
        assert.isFalse(reading.destroyed)
      }),
    120_000
  )
})
