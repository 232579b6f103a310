/**
 * A group of MySQL: three members with a single primary. They get a network of their own if we may make one.
 * Otherwise they share this machine's loopback, where no member can be cut off.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises"
import { unpackMysql } from "../support/mysqlPackage.js"
import type { MysqlServer } from "../support/mysqlServer.js"
import { findServer, startServer } from "../support/mysqlServer.js"
import { freePort } from "../support/net.js"
import { makeNetwork, type Site } from "./network.js"
import { type Node, queryOn, stopAll, until } from "./node.js"

/** Three members. */
export interface Group {
  readonly members: ReadonlyArray<Node>
  /** Whether members can be cut off; then each has its own address, and all share one port. */
  readonly isApart: boolean
  /** The member that the others take for the primary, once there is one. */
  readonly primary: () => Promise<Node>
  /** Restarts a group whose members have all left, which no member does by itself. */
  readonly bootstrap: () => Promise<void>
  /** Makes the member the primary, as before maintenance of the present one. */
  readonly switchTo: (member: Node) => Promise<void>
  readonly stop: () => Promise<void>
}

const SIZE = 3

/** Starts the members (10 seconds). */
export const startGroup = async (): Promise<Group> => {
  if (findServer("mysql") === undefined) await unpackMysql()
  const network = makeNetwork(SIZE)
  const sites = network?.sites ?? Array.from({ length: SIZE }, () => LOOPBACK)
  const ports = await Promise.all(sites.map(freePort))
  const port = await freePort()
  const seeds = sites.map(({ host }, index) => `${host}:${ports[index]!}`)
  const members: Array<Node> = []
  const stop = async () => {
    await stopAll(members)
    network?.remove()
  }
  try {
    const starting = sites.map(async (site, index) => {
      const server = await startServer({
        flavour: "mysql",
        host: site.host,
        under: site.under,
        ...(network === undefined ? {} : { port }),
        args: argumentsOf(index, site.host, seeds, network?.range ?? "127.0.0.1/8"),
        // the first start knows no accounts of the other members
        firstArgs: ["--loose-group-replication-start-on-boot=OFF", "--super-read-only=OFF"]
      })
      const member = memberOf(`m${index + 1}`, server, network === undefined ? undefined : site)
      members[index] = member
      await member.query(...ACCOUNTS)
    })
    await Promise.all(starting)
    const group: Group = {
      members,
      isApart: network !== undefined,
      primary: () => primaryOf(members),
      bootstrap: () => bootstrap(members),
      switchTo: async ({ query }) => {
        await query("SELECT group_replication_set_as_primary(@@server_uuid)")
      },
      stop
    }
    await group.bootstrap()
    return group
  } catch (error) {
    await stop()
    throw error
  }
}

const LOOPBACK: Site = { host: "127.0.0.1", under: [], cutOff: () => undefined }

const PASSWORD = "replication"

/** Statements that each member runs before it joins the group. */
const ACCOUNTS = [
  "SET SESSION sql_log_bin = 0",
  // for clients from outside the member's namespace
  "CREATE USER root@'%'",
  "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION",
  `CREATE USER repl@'%' IDENTIFIED BY '${PASSWORD}'`,
  "GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO repl@'%'",
  `CHANGE REPLICATION SOURCE TO SOURCE_USER='repl', SOURCE_PASSWORD='${PASSWORD}' FOR CHANNEL 'group_replication_recovery'`
]

const argumentsOf = (index: number, host: string, seeds: ReadonlyArray<string>, range: string) => [
  `--server-id=${index + 1}`,
  "--log-bin=binlog",
  "--gtid-mode=ON",
  "--enforce-gtid-consistency=ON",
  // shows the state of the group
  "--performance-schema=ON",
  "--skip-name-resolve",
  `--report-host=${host}`,
  // otherwise a member outside its group takes writes that the others lack
  "--super-read-only=ON",
  "--plugin-load-add=group_replication.so",
  ...Object.entries({
    "group-name": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "start-on-boot": "ON",
    "bootstrap-group": "OFF",
    "communication-stack": "XCOM",
    "local-address": seeds[index]!,
    "group-seeds": seeds.join(","),
    "ip-allowlist": range,
    "single-primary-mode": "ON",
    "recovery-get-public-key": "ON",
    "member-expel-timeout": "0",
    "unreachable-majority-timeout": "5",
    "autorejoin-tries": "10"
  }).map(([name, value]) => `--loose-group-replication-${name}=${value}`)
]

const memberOf = (name: string, server: MysqlServer, site: Site | undefined): Node => {
  // over the socket, since the tests harm the network
  const query = queryOn({ user: "root", socketPath: server.socket })
  let isCutOff = false
  return {
    name,
    server,
    query,
    synced: (size) =>
      until(`${name} has joined the group`, async () => {
        const states = await statesOf(query)
        const own = states.find(({ own }) => own === 1)?.state
        if (states.length === size && states.every(({ state }) => state === "ONLINE")) return true
        // A member that was cut off leaves the group, and rejoins after five minutes at the earliest.
        if (own === undefined || own === "OFFLINE" || own === "ERROR") {
          await query("STOP GROUP_REPLICATION", "START GROUP_REPLICATION")
        }
        return false
      }),
    isolate:
      site === undefined
        ? undefined
        : async () => {
            site.cutOff(true)
            isCutOff = true
          },
    rejoin: async () => {
      if (isCutOff) site?.cutOff(false)
      isCutOff = false
    }
  }
}

interface State {
  readonly state: string
  readonly role: string
  readonly port: number
  readonly host: string
  readonly own: number
}

const statesOf = (query: Node["query"]) =>
  query<State>(
    "SELECT member_state AS state, member_role AS role, member_host AS host, member_port AS port, " +
      "member_id IN ('', @@server_uuid) AS own FROM performance_schema.replication_group_members"
  )

const primaryOf = async (members: ReadonlyArray<Node>): Promise<Node> => {
  for (const deadline = Date.now() + 90_000; ;) {
    // a member that is down stays the primary until the others have noticed
    const up = members.filter(({ server }) => server.pid !== undefined)
    for (const { query } of up) {
      const states = await statesOf(query).catch(() => [])
      const online = states.filter(({ state }) => state === "ONLINE")
      const known = online.find(({ role }) => role === "PRIMARY")
      const primary = up.find(({ server }) => server.host === known?.host && server.port === known.port)
      if (primary !== undefined && online.length > members.length / 2) return primary
    }
    if (Date.now() > deadline) throw new Error("the group has no primary")
    await sleep(100)
  }
}

/** The member with all transactions begins the group, and the others join it. */
const bootstrap = async (members: ReadonlyArray<Node>): Promise<void> => {
  const sets = await Promise.all(
    members.map(({ query }) => query<{ gtids: string }>("SELECT @@global.gtid_executed AS gtids"))
  )
  const all = sets.map(([set]) => set!.gtids)
  for (const { query } of members) await query("STOP GROUP_REPLICATION")
  for (const first of members) {
    const checks = await Promise.all(
      all.map((gtids) =>
        first.query<{ has: number }>(`SELECT GTID_SUBSET('${gtids}', @@global.gtid_executed) AS has`)
      )
    )
    if (!checks.every(([check]) => check!.has === 1)) continue
    await first.query(
      "SET GLOBAL group_replication_bootstrap_group = ON",
      "START GROUP_REPLICATION",
      "SET GLOBAL group_replication_bootstrap_group = OFF"
    )
    await until(`${first.name} is the primary`, async () =>
      (await statesOf(first.query)).some(({ role, state }) => role === "PRIMARY" && state === "ONLINE")
    )
    for (const { query } of members.filter((other) => other !== first)) await query("START GROUP_REPLICATION")
    await Promise.all(members.map(({ synced }) => synced(members.length)))
    return
  }
  throw new Error("no member has all that the others have")
}
