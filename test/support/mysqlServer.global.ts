/**
 * The servers of a run, MariaDB's and Oracle's: those of `AUDIT_TEST_MYSQL_URL` and `AUDIT_TEST_ORACLE_URL`
 * (accounts that may create databases), or private ones, which end with the run.
 *
 * @module
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import { promisify } from "node:util"
import type { TestProject } from "vitest/node"
import { unpackMysql } from "./mysqlPackage.js"
import type { Flavour, MysqlServer } from "./mysqlServer.js"
import { findServer, startServer } from "./mysqlServer.js"

declare module "vitest" {
  export interface ProvidedContext {
    /** The URL of the server for most tests (MariaDB), with an account that may do everything. */
    mysqlRootUrl: string
    /** The URL of Oracle's MySQL; undefined if there is none. */
    oracleRootUrl: string | undefined
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const started: Array<MysqlServer> = []
  const urlOf = async (variable: string, bring: () => Promise<Flavour | undefined>) => {
    const given = process.env[variable]
    if (given !== undefined && given !== "") return given
    const flavour = await bring()
    if (flavour === undefined) return undefined
    const server = await startServer({ flavour })
    started.push(server)
    return server.rootUrl
  }
  const [mysqlRootUrl, oracleRootUrl] = await Promise.all([
    urlOf("AUDIT_TEST_MYSQL_URL", bringMariadb),
    urlOf("AUDIT_TEST_ORACLE_URL", bringMysql)
  ])
  project.provide("mysqlRootUrl", mysqlRootUrl!)
  project.provide("oracleRootUrl", oracleRootUrl)
  return async () => {
    await Promise.all(started.map((server) => server.stop()))
  }
}

/** The installed MariaDB, or Debian's package if we may install it. If there is none, MySQL takes its place. */
const bringMariadb = async (): Promise<Flavour> => {
  if (findServer("mariadb") !== undefined) return "mariadb"
  const isDebian = process.getuid?.() === 0 && fs.existsSync("/usr/bin/apt-get")
  if (!isDebian && findServer("mysql") !== undefined) return "mysql"
  const whatToDo =
    "The tests need a MariaDB server: install one (Debian: apt-get install mariadb-server; macOS: brew install mariadb; " +
    "it need not run), or set AUDIT_TEST_MYSQL_URL=mysql://user:password@host:port to an account that may create databases."
  if (!isDebian) throw new Error(whatToDo)
  console.log("No MariaDB server found: installing Debian's mariadb-server.")
  const apt = (...args: ReadonlyArray<string>) =>
    promisify(execFile)("apt-get", ["-q", "-y", ...args], {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
    })
  try {
    await apt("update")
    await apt("install", "--no-install-recommends", "mariadb-server")
    if (findServer("mariadb") !== undefined) return "mariadb"
    throw new Error("the package holds no server")
  } catch (cause) {
    throw new Error(`apt-get could not install mariadb-server. ${whatToDo}`, { cause })
  }
}

/** MySQL: installed, unpacked before, or Debian's package unpacked now. If there is none, its tests are skipped. */
const bringMysql = async (): Promise<Flavour | undefined> => {
  if (findServer("mysql") !== undefined) return "mysql"
  try {
    console.log("No server of Oracle's MySQL found: unpacking Debian's mysql-server-core into the cache.")
    await unpackMysql()
    return "mysql"
  } catch (error) {
    console.warn(
      "The tests on Oracle's MySQL are SKIPPED. To run them, install MySQL with mysqld in the PATH (macOS: brew install mysql; " +
        "it need not run), or set AUDIT_TEST_ORACLE_URL=mysql://user:password@host:port to an account that may create databases. " +
        `What was tried: ${String(error)}`
    )
    return undefined
  }
}
