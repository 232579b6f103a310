/**
 * The failures of SQLite: what each means for the events of a statement, by the primary result code
 * (https://sqlite.org/rescode.html). A code that is not listed, such as a locked file or a full disk, passes by itself.
 */
import { Redacted } from "effect"
import { UploadError } from "../../../schema/Errors.js"
import { SEAL_TABLE } from "../../proof/seal.js"
import { Refused } from "../narrow.js"

/** The database will never take one of the statement's events. */
export const RECORD: Codes = { 18: "SQLITE_TOOBIG", 19: "SQLITE_CONSTRAINT", 20: "SQLITE_MISMATCH" }

/** Codes that stay until somebody mends the cause. */
export const OPERATOR: Codes = {
  1: "SQLITE_ERROR",
  3: "SQLITE_PERM",
  8: "SQLITE_READONLY",
  11: "SQLITE_CORRUPT",
  12: "SQLITE_NOTFOUND",
  14: "SQLITE_CANTOPEN",
  23: "SQLITE_AUTH",
  24: "SQLITE_FORMAT",
  26: "SQLITE_NOTADB"
}

type Codes = Readonly<Record<number, string>>

/** Extended codes of a unique key other than ours, which an operator has to drop. */
const UNIQUE = [1555, 2067]

/** Whether a column was to become NULL that must not (SQLITE_CONSTRAINT_NOTNULL). */
export const isNull = (cause: unknown): boolean => (cause as { readonly rawCode?: unknown }).rawCode === 1299

/** Classifies the failure of an INSERT. */
export const explain = (cause: unknown, file: string): Refused | UploadError => {
  // thrown before SQLite was asked: an integer of more than 64 bits
  if (cause instanceof RangeError) return new Refused({ code: "RangeError", reason: cause.message })
  const { code, message, rawCode } = cause as { code?: unknown; message?: unknown; rawCode?: unknown }
  const extended = typeof rawCode === "number" ? rawCode : 0
  const name = typeof code === "string" ? code : String(extended)
  const isOf = (codes: Codes) => (extended & 0xff) in codes
  if (isOf(RECORD) && !UNIQUE.includes(extended)) {
    return new Refused({ code: name, reason: String(message) })
  }
  return isOf(OPERATOR) || UNIQUE.includes(extended)
    ? operator(name, file, cause)
    : new UploadError({
        class: "transient",
        code: name,
        reason: `The database file ${file} cannot take events now; it is tried again`,
        cause: Redacted.make(cause)
      })
}

/** Classifies the failure of a statement without events. */
export const toUploadError = (cause: unknown, file: string): UploadError => {
  if (String((cause as { readonly message?: unknown }).message).includes(`no such table: ${SEAL_TABLE}`))
    return operator(
      "SQLITE_ERROR",
      file,
      cause,
      `has no table ${SEAL_TABLE}: run \`effect-audit migrate --proof --sqlite FILE\``
    )
  const error = explain(cause, file)
  return error instanceof Refused ? operator(error.code, file, cause) : error
}

/** The failure if somebody has to mend the file. */
export const operator = (code: string, file: string, cause: unknown, wrong: string = UNUSABLE) =>
  new UploadError({
    class: "operator",
    code,
    reason: `The database file ${file} ${wrong}`,
    cause: Redacted.make(cause)
  })

const UNUSABLE =
  "cannot be used: its directory must exist, the file be writable and SQLite's, and its tables those that this package made"
