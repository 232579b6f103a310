/** The conditions of a search, checked: each names a column, and values as they are stored. */
import type * as AuditEvent from "../../schema/AuditEvent.js"
import { Either } from "../../schema/Effect3.js"
import { guard, signatureOf, type SqlValue, toSql } from "../../schema/Line.js"
import { isScalarField } from "../../schema/Row.js"

/** A value as its column holds it. */
export type Stored = Exclude<SqlValue, null>

/** What the values of a column must be. */
export interface Test {
  /** the index of the column among those of the kind */
  readonly index: number
  readonly is:
    | { readonly _tag: "null" }
    | { readonly _tag: "in"; readonly values: ReadonlyArray<Stored> }
    | { readonly _tag: "prefix"; readonly text: string }
    | { readonly _tag: "range"; readonly from: Stored | undefined; readonly to: Stored | undefined }
}

/** The tests for the conditions of a `where`, or what is wrong with them. */
export const testsOf = (
  definition: AuditEvent.Any,
  where: Readonly<Record<string, unknown>> | undefined
): Either.Either<ReadonlyArray<Test>, string> =>
  Either.all(
    Object.entries(where ?? {}).flatMap(([field, condition]) =>
      condition === undefined ? [] : [testOf(definition, field, condition)]
    )
  )

const testOf = (
  definition: AuditEvent.Any,
  field: string,
  condition: unknown
): Either.Either<Test, string> => {
  const index = definition.columns.findIndex((column) => column.field === field)
  const schema = definition.fields[field]
  if (index < 0 || schema === undefined) {
    return Either.left(
      `Events ${definition.kind} have no field ${field}: theirs are ` +
        definition.columns.map((column) => column.field).join(", ")
    )
  }
  if (!isScalarField(schema)) {
    return Either.left(`The field ${field} is no text, number, boolean or date: it cannot be searched`)
  }
  const accepts = guard(signatureOf(schema).to)
  const value = (given: unknown): Either.Either<Stored, string> => {
    // any text may be searched for, also one that the field does not allow: an old row may have it
    const stored = typeof given === "string" || accepts(given) ? toSql(given, given) : null
    return stored === null
      ? Either.left(`The field ${field} is searched for a value that it cannot have`)
      : Either.right(stored)
  }
  const bound = (given: unknown): Either.Either<Stored | undefined, string> =>
    given === undefined ? Either.right(undefined) : value(given)
  const test = (is: Test["is"]): Test => ({ index, is })

  if (condition === null) return Either.right(test({ _tag: "null" }))
  if (typeof condition !== "object" || condition instanceof Date) {
    return Either.map(value(condition), (one) => test({ _tag: "in", values: [one] }))
  }
  const { from, in: values, prefix, to } = condition as Readonly<Record<string, unknown>>
  if (Array.isArray(values)) {
    return Either.map(Either.all(values.map(value)), (values) => test({ _tag: "in", values }))
  }
  if (typeof prefix === "string") {
    return Either.right(test({ _tag: "prefix", text: prefix.toWellFormed() }))
  }
  if (from === undefined && to === undefined) {
    return Either.left(`The condition on ${field} is none: give a value, null, in, prefix, from or to`)
  }
  return Either.map(Either.all({ from: bound(from), to: bound(to) }), ({ from, to }) =>
    test({ _tag: "range", from, to })
  )
}
