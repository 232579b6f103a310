/**
 * The database drivers, which kill the process at one of the points in points.ts.
 *
 * @module
 */
import type { InArgs, InStatement } from "@libsql/client"
import { Sqlite3Client } from "@libsql/client/sqlite3"
import mysql from "mysql2"
import type { EventEmitter } from "node:events"
import { SEAL_TABLE } from "../../src/internal/proof/seal.js"
import type { Phase, Target } from "./points.js"

/** A statement on its way to a server. */
interface Command extends EventEmitter {
  readonly sql?: string
}

/** Kills this process when `isNow` is true. */
export const hook = (isNow: (call: string) => boolean): void => {
  const hit = (target: Target, phase: Phase) => {
    if (!isNow(`send ${target} ${phase}`)) return
    process.kill(process.pid, "SIGKILL")
    for (;;);
  }
  let isSealed = false
  /** The target of a statement in a transaction with a seal. A transaction that only reads ends with a COMMIT too. */
  const targetOf = (sql: string): Target | undefined => {
    if (sql.startsWith("COMMIT")) {
      if (!isSealed) return undefined
      isSealed = false
      return "commit"
    }
    if (!sql.startsWith("INSERT")) return undefined
    isSealed = sql.slice(0, 100).includes(SEAL_TABLE)
    return isSealed ? "seal" : "rows"
  }

  // statements of SQLite run in the thread of the program
  const { execute } = Sqlite3Client.prototype
  Sqlite3Client.prototype.execute = async function (statement: InStatement, args?: InArgs) {
    const target = targetOf(typeof statement === "string" ? statement : statement.sql)
    const run = () => execute.call(this, statement as string, args)
    if (target === undefined) return run()
    hit(target, "before")
    const result = await run()
    hit(target, "after")
    return result
  }

  const connection = Object.getPrototypeOf(mysql.Connection.prototype) as {
    addCommand: (command: Command) => Command
  }
  const { addCommand } = connection
  connection.addCommand = function (command) {
    const target = targetOf(command.sql ?? "")
    if (target === undefined) return addCommand.call(this, command)
    hit(target, "before")
    command.once("end", () => hit(target, "after"))
    return addCommand.call(this, command)
  }
}
