/**
 * Summaries: a database's refusal without what it may repeat of the row, for lists that anybody may see. Of its message
 * only names of the schema are taken, and only from places where no value can stand. A trigger may imitate any message.
 * So a column is named only if the uploader found it in the table, and appended a note on it.
 */

const NAME = String.raw`[\w$ -]{1,64}`
const NOTE = new RegExp(String.raw`; (${NAME}) is ([A-Z]+(?:\(\d+(?:,\d+)?\))?(?: [A-Z ]{1,20})?)$`)
/** at the end, since values stand before it */
const COLUMN = String.raw`(?:for|in) column (?:\x60[^\x60]*\x60\.){0,2}['\x60](${NAME})['\x60]`
const AT_COLUMN = new RegExp(String.raw`${COLUMN} at row \d+$`)

/** A note on a column, appended to the database's message. A list's members may be anything, so they are left out. */
export const typeNote = (column: string, declared: string): string => {
  const type = declared.toUpperCase()
  const notes = [type, type.replace(/\(.*/s, "")].map((type) => `; ${column} is ${type}`)
  return notes.find((note) => NOTE.test(note)) ?? ""
}

/** Appended to a message that a trigger has chosen. */
export const SIGNALLED = "; a trigger refuses it"

/** The uploader's advice: see `table.ts`. */
const CHARACTER_SET = new RegExp(
  String.raw`; the character set [\w$-]* of [^;]*\.(${NAME}) cannot hold the text: ALTER TABLE [^;]*$`
)

/** The column that the message names at its end, as that of MySQL, MariaDB and TiDB does. */
export const columnIn = (words: string): string | undefined =>
  AT_COLUMN.exec(words)?.[1] ?? /^Column '([\w$ -]{1,64})' cannot be null$/.exec(words)?.[1]

const constraintIn = (words: string): string | undefined =>
  new RegExp(
    String.raw`^(?:Cannot add or update a child row: a foreign key constraint fails \([^']*?CONSTRAINT \x60(${NAME})\x60` +
      String.raw`|Check constraint '(${NAME})' is violated\.?$` +
      String.raw`|CONSTRAINT \x60(?:[^\x60]*\.)?(${NAME})\x60 failed for )`
  )
    .exec(words)
    ?.slice(1)
    .find(Boolean)

/** What a code says about a column. */
const OF_COLUMN: Readonly<Record<string, string | undefined>> = {
  1048: "NULL in",
  1264: "out of range for",
  1265: "not a value of",
  1292: "not a value of",
  1366: "not a value of",
  1406: "too long for",
  1411: "not a value of",
  1977: "characters that it cannot hold, in",
  3988: "characters that it cannot hold, in"
}

const ALONE: Readonly<Record<string, string | undefined>> = {
  1153: "larger than max_allowed_packet",
  1216: "a foreign key refuses it",
  1452: "a foreign key refuses it",
  1643: "a trigger refuses it",
  1644: "a trigger refuses it",
  3819: "a CHECK refuses it",
  4025: "a CHECK refuses it"
}

/** Why a database refused an event, without any content of it; undefined if only the database's message says more. */
export const summaryOf = (code: string, reason: string): string | undefined => {
  if (reason.endsWith(SIGNALLED)) return "a trigger refuses it"
  const [, noted, declared] = NOTE.exec(reason) ?? []
  const ofText = noted === undefined ? CHARACTER_SET.exec(reason)?.[1] : undefined
  const what = OF_COLUMN[code]
  if (what !== undefined) {
    return `${what} ${noted ?? ofText ?? "a column"}${declared === undefined ? "" : ` (${declared})`}`
  }
  const constraint = constraintIn(reason)
  const alone = ALONE[code]
  if (alone !== undefined) return constraint === undefined ? alone : `${alone} (${constraint})`
  return ofSqlite(code, reason)
}

const ofSqlite = (code: string, words: string): string | undefined => {
  const [, what, name] = /^(NOT NULL|CHECK) constraint failed: ([\w$.]{1,129})$/.exec(words) ?? []
  // a trigger's RAISE has another code
  if (name === undefined || code !== `SQLITE_CONSTRAINT_${what!.replace(" ", "")}`) return undefined
  return what === "CHECK" ? `a CHECK refuses it (${name})` : `NULL in ${name.slice(name.indexOf(".") + 1)}`
}
