/** Planned changes of a group of MySQL, and routers and names between it and the program. */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { UseLog } from "../../src/schema/UseLog.js"
import { auditProcess } from "../support/auditProcess.js"
import { temporaryDirectory } from "../support/queue.js"
import { newKey } from "../support/seals.js"
import { type Group, startGroup } from "./group.js"
import { prepare, startLoad } from "./load.js"
import type { Node } from "./node.js"
import { startRouter, type Strategy } from "./router.js"

let group: Group
beforeAll(async () => {
  group = await startGroup()
})
afterAll(() => group.stop())

const EVENTS_PER_SECOND = 500

/** With a key, so that `prove` finds nothing after each change. */
const key = newKey()

/** An audit log under load, over the given hosts or over all members. */
const underLoad = (hosts?: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const primary = yield* Effect.promise(group.primary)
    const options = yield* Effect.promise(() => prepare(primary, group.members, key))
    const load = yield* startLoad({ ...options, hosts: hosts ?? options.hosts }, EVENTS_PER_SECOND, key)
    yield* Effect.sleep("3 seconds")
    return { primary, ...load, finish: load.finish(0, group.members) }
  })

const another = (than: Node) => group.members.find((member) => member !== than)!

const allSynced = Effect.suspend(() =>
  Effect.forEach(group.members, ({ synced }) => Effect.promise(() => synced(group.members.length)))
)

it.scopedLive("a planned switch-over causes no backoff", () =>
  Effect.gen(function* () {
    const { enter, finish, phases, primary } = yield* underLoad()
    for (const member of [another(primary), primary]) {
      yield* enter(`${member.name} becomes the primary`)
      yield* Effect.promise(() => group.switchTo(member))
      yield* Effect.sleep("5 seconds")
    }
    yield* finish
    assert.deepStrictEqual(
      phases.flatMap(({ codes }) => codes),
      []
    )
  })
)

it.scopedLive("a member that returns as the primary has all events, and gets the rest", () =>
  Effect.gen(function* () {
    const { enter, finish, primary } = yield* underLoad()
    const member = another(primary)
    yield* enter(`${member.name} is killed`)
    yield* Effect.promise(() => member.server.kill9())
    yield* Effect.sleep("8 seconds")
    yield* enter("and comes back")
    yield* Effect.promise(() => member.server.restart())
    yield* allSynced
    yield* enter("and becomes the primary")
    yield* Effect.promise(() => group.switchTo(member))
    yield* Effect.sleep("3 seconds")
    yield* finish
  })
)

it.scopedLive(
  "the status says why events wait while all members are down, and the rest arrives when they return",
  () =>
    Effect.gen(function* () {
      const { audit, enter, finish } = yield* underLoad()
      const stateWith = (codes: ReadonlyArray<string>) =>
        Effect.gen(function* () {
          const { failure, state, waiting } = yield* audit.status
          const isSo = state === "offline" && failure?.class === "transient" && codes.includes(failure.code)
          return isSo && waiting > 0
            ? undefined
            : yield* Effect.fail(`${state}, ${failure?.code ?? "no failure"}`)
        }).pipe(Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 600 }))

      yield* enter("all are killed")
      yield* Effect.promise(() => Promise.all(group.members.map(({ server }) => server.kill9())))
      yield* stateWith(["ECONNREFUSED"])
      yield* enter("all run, without a group")
      yield* Effect.promise(() => Promise.all(group.members.map(({ server }) => server.restart())))
      // without the group no member takes writes, since the others would lack them
      yield* stateWith(["1290"])
      yield* enter("the group is back")
      yield* Effect.promise(group.bootstrap)
      yield* finish
    })
)

const routed = (strategy: Strategy, members: ReadonlyArray<Node>) =>
  Effect.acquireRelease(
    Effect.promise(() => startRouter(strategy, members)),
    ({ stop }) => Effect.promise(stop)
  )

it.scopedLive(
  "events wait behind a router that leads to a secondary, and arrive when it is the primary",
  () =>
    Effect.gen(function* () {
      const primary = yield* Effect.promise(group.primary)
      const secondary = another(primary)
      const router = yield* routed("first-available", [
        secondary,
        ...group.members.filter((member) => member !== secondary)
      ])
      const { audit, enter, finish } = yield* underLoad([`${router.host}:${router.port}`])
      yield* Effect.retry(
        Effect.filterOrFail(
          audit.status,
          ({ delivered, failure, state }) =>
            state === "offline" && failure?.code === "1290" && delivered === 0,
          ({ failure, state }) => `${state}, ${failure?.code ?? "no failure"}`
        ),
        { schedule: Schedule.spaced("100 millis"), times: 100 }
      )
      yield* enter("it is the primary")
      yield* Effect.promise(() => group.switchTo(secondary))
      yield* finish
    })
)

it.scopedLive("events arrive through a router that alternates members of which one takes writes", () =>
  Effect.gen(function* () {
    const router = yield* routed("round-robin", group.members)
    const { enter, finish, primary } = yield* underLoad([`${router.host}:${router.port}`])
    yield* enter("another becomes the primary")
    yield* Effect.promise(() => group.switchTo(another(primary)))
    yield* Effect.sleep("8 seconds")
    yield* finish
  })
)

it.scopedLive("events arrive if a router to the secondaries stands beside the members", () =>
  Effect.gen(function* () {
    const primary = yield* Effect.promise(group.primary)
    const secondaries = group.members.filter((member) => member !== primary)
    const router = yield* routed("first-available", secondaries)
    const hosts = [router, primary.server, another(primary).server].map(({ host, port }) => `${host}:${port}`)
    const { enter, finish } = yield* underLoad(hosts)
    yield* enter("the router's becomes the primary")
    yield* Effect.promise(() => group.switchTo(secondaries[0]!))
    yield* Effect.sleep("3 seconds")
    yield* finish
  })
)

it.scopedLive("events follow a name that moves to the new primary", (context) =>
  Effect.gen(function* () {
    const canTry =
      group.isApart &&
      spawnSync("unshare", ["-m", "sh", "-c", "mount --bind /etc/hosts /etc/resolv.conf"]).status === 0
    if (!canTry) return context.skip("a process gets no hosts file of its own: that takes root on Linux")
    const primary = yield* Effect.promise(group.primary)
    const { database } = yield* Effect.promise(() => prepare(primary, group.members))
    const directory = yield* temporaryDirectory
    const hosts = path.join(directory, "hosts")
    const leadTo = ({ server }: Node) =>
      fs.writeFileSync(hosts, `127.0.0.1 localhost\n${server.host} writer\n`)
    leadTo(primary)
    const child = yield* auditProcess({
      under: ["unshare", "-m", "sh", "-c", `mount --bind ${hosts} /etc/hosts && exec "$@"`, "sh"]
    })
    const mysql = { host: "writer", port: primary.server.port, username: "root", database }
    const settings = { directory: yield* temporaryDirectory, minFreeBytes: 0 }
    assert.isUndefined(yield* child.open(settings, { mysql }))
    yield* child.use("one")
    yield* child.flush
    // A switch-over, then a crash: the old primary refuses writes, or is gone.
    const second = another(primary)
    yield* Effect.promise(() => group.switchTo(second))
    leadTo(second)
    yield* child.use("two")
    yield* Effect.retry(child.flush, { times: 5 })
    yield* Effect.promise(() => second.server.kill9())
    yield* child.use("three")
    const third = yield* Effect.promise(group.primary)
    leadTo(third)
    yield* Effect.repeat(child.status, {
      schedule: Schedule.spaced("200 millis"),
      until: ({ delivered }) => delivered === 3
    })
    yield* child.close
    yield* Effect.promise(() => second.server.restart())
    yield* allSynced
    for (const { query } of group.members) {
      const rows = yield* Effect.promise(() =>
        query<{ prompt: string }>(`SELECT prompt FROM ${database}.${UseLog.table} ORDER BY event_time`)
      )
      assert.deepStrictEqual(
        rows.map(({ prompt }) => prompt),
        ["one", "two", "three"]
      )
    }
  })
)
