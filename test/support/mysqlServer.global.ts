/**
 * One server for the whole run: that of `AUDIT_TEST_MYSQL_URL` (an account that may create databases), or
 * a private one that is started here and gone afterwards.
 *
 * @module
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import type { TestProject } from "vitest/node"
import { findServer, startServer } from "./mysqlServer.js"

declare module "vitest" {
  export interface ProvidedContext {
    /** The URL of the server of this run, with an account that may do everything. */
    mysqlRootUrl: string
  }
}

export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const given = process.env.AUDIT_TEST_MYSQL_URL
  if (given !== undefined && given !== "") {
    project.provide("mysqlRootUrl", given)
    return undefined
  }
  if (findServer() === undefined) installServer()
  const server = await startServer()
  project.provide("mysqlRootUrl", server.rootUrl)
  return server.stop
}

const whatToDo =
  "The tests need a MariaDB or MySQL server: install one (Debian: apt-get install mariadb-server; macOS: brew install mariadb; " +
  "it need not run), or set AUDIT_TEST_MYSQL_URL=mysql://user:password@host:port to an account that may create databases."

/** Debian's package, where we may install it. */
const installServer = (): void => {
  if (process.getuid?.() !== 0 || !fs.existsSync("/usr/bin/apt-get")) throw new Error(whatToDo)
  console.log("No MariaDB or MySQL server found: installing Debian's mariadb-server.")
  const apt = (...args: ReadonlyArray<string>) => {
    const { status } = spawnSync("apt-get", ["-q", "-y", ...args], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
    })
    return status === 0
  }
  const installed = apt("update") && apt("install", "--no-install-recommends", "mariadb-server")
  if (!installed || findServer() === undefined) {
    throw new Error(`apt-get could not install mariadb-server. ${whatToDo}`)
  }
}
