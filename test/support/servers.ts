/**
 * Tests on both MariaDB and Oracle's MySQL. Those of MySQL are skipped if there is none.
 *
 * @module
 */
import { describe, inject } from "vitest"
import type { Flavour } from "./mysqlServer.js"
import { findServer } from "./mysqlServer.js"

/** A server of the run. */
export interface RunServer {
  readonly flavour: Flavour
  readonly name: string
  /** An account that may do everything. */
  readonly rootUrl: string
}

const NAMES: Record<Flavour, string> = { mariadb: "MariaDB", mysql: "MySQL" }

const FLAVOURS: ReadonlyArray<Flavour> = ["mariadb", "mysql"]

/** Runs the tests on each server of the run, as `what (MariaDB)` and `what (MySQL)`. */
export const onEachServer = (what: string, tests: (server: RunServer) => void): void => {
  for (const flavour of FLAVOURS) {
    const name = NAMES[flavour]
    const rootUrl = inject(flavour === "mariadb" ? "mysqlRootUrl" : "oracleRootUrl")
    if (rootUrl === undefined) describe.skip(`${what} (${name})`, () => tests({ flavour, name, rootUrl: "" }))
    else describe(`${what} (${name})`, () => tests({ flavour, name, rootUrl }))
  }
}

/**
 * Whether a case is for this server. The ordinary run tries each of many cases on one of the two in turn, the long run
 * on both.
 */
export const isTurnOf = (flavour: Flavour, turn: number): boolean =>
  process.env.AUDIT_LONG === "1" ||
  inject("oracleRootUrl") === undefined ||
  findServer("mysql") === undefined ||
  FLAVOURS[turn % 2] === flavour

/** Runs the tests for each flavour that is installed. */
export const onEachFlavour = (what: string, tests: (flavour: Flavour) => void): void => {
  for (const flavour of FLAVOURS) {
    describe.skipIf(findServer(flavour) === undefined)(`${what} (${NAMES[flavour]})`, () => tests(flavour))
  }
}
