/** The conditions of `--where`, `--user` and the page, from text to query. */
import { Effect } from "effect"
import type * as AuditEvent from "../schema/AuditEvent.js"
import { INVALID } from "../schema/Line.js"
import { restoringField } from "../schema/Row.js"
import { usageError } from "./exit.js"

/** The conditions of `field=value`, `field^=beginning`, `field>=value`, `field<value` and `field:null`. */
export const whereOf = (kind: AuditEvent.Any, texts: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const where: Record<string, unknown> = {}
    for (const text of texts) {
      const [, name, operator, value] = CONDITION.exec(text) ?? []
      if (name === undefined || operator === undefined || value === undefined) {
        return yield* usageError(
          `${text} is no condition: say field=value, field^=beginning, field>=value, field<value or field:null.`
        )
      }
      const field = fieldOf(kind, name)
      if (field === undefined) {
        return yield* usageError(
          `Events ${kind.kind} have no field ${name}: theirs are ${kind.columns.map(({ key }) => key).join(", ")}.`
        )
      }
      const read = operator === "^=" ? value : restoringField(kind.fields[field]!)(value)
      if (operator !== ":" && read === INVALID && operator !== "=") {
        return yield* usageError(`${value} is no value of ${name}.`)
      }
      const before = where[field]
      const range = isRange(before) ? before : {}
      // an old row may hold a text that the field does not allow today
      if (operator === "=") where[field] = read === INVALID ? value : read
      else if (operator === "^=") where[field] = { prefix: value }
      else if (operator === ":") where[field] = null
      else where[field] = { ...range, [operator === ">=" ? "from" : "to"]: read }
    }
    return where
  })

const CONDITION = /^([\w$.-]+)(\^=|>=|<|=|:(?=null$))([^]*)$/

const isRange = (value: unknown): value is object =>
  typeof value === "object" && value !== null && ("from" in value || "to" in value)

/** Finds a field by its name in the program, in a line, or in the table. */
const fieldOf = ({ columns }: AuditEvent.Any, name: string): string | undefined =>
  columns.find(({ field, key, name: column }) => [field, key, column].includes(name))?.field

/** The field that names the user, if the kind has one of the usual names. */
export const userFieldOf = ({ columns }: AuditEvent.Any): string | undefined =>
  ["userName", "actorName", "user_name", "actor_name", "username", "user"].find((name) =>
    columns.some(({ field }) => field === name)
  )
