/**
 * SQL for MySQL and MariaDB that reads a column as text and compares it exactly, whatever its type and collation. It
 * needs a session in UTC.
 */
import { escape } from "sql-escaper"
import type { Stored, Test } from "../conditions.js"
import { type Column, quote } from "./table.js"

/** A column of a kind, and what its table says of it. */
export interface ReadColumn {
  readonly name: string
  readonly column: Column
  /** whether the field's values are dates, which a TIMESTAMP keeps as moments */
  readonly isDate: boolean
}

const NUMBER = /^(?:(?:tiny|small|medium|big)?int|decimal|float|double|bit|year)$/
const TIME = /^(?:date|datetime|timestamp)$/
const BYTES = /^(?:(?:var)?binary|(?:tiny|medium|long)?blob)$/
const SHAPE = /^(?:geometry|(?:multi)?(?:point|linestring|polygon)|geom(?:etry)?collection)$/

const isText = ({ charset }: Column): boolean => charset !== null

/** The value as a text of utf8mb4; NULL stays NULL. */
export const asText = ({ column, isDate, name }: ReadColumn): string => {
  const it = quote(name)
  if (isText(column)) return it
  if (BYTES.test(column.type)) return `CONVERT(${it} USING utf8mb4)`
  // a FLOAT as text has six digits
  if (column.type === "float") return `CAST(${it} + 0e0 AS CHAR)`
  if (column.type === "bit") return `CAST(${it} + 0 AS CHAR)`
  if (SHAPE.test(column.type)) return `ST_AsText(${it})`
  // a text was written in the server's zone
  if (column.type === "timestamp" && !isDate) {
    return `CAST(CONVERT_TZ(${it}, '+00:00', @@global.time_zone) AS CHAR)`
  }
  return `CAST(${it} AS CHAR)`
}

/** The bytes of the text. They tell apart texts that a collation calls equal. */
const asBytes = (column: ReadColumn): string => `CAST(CONVERT(${asText(column)} USING utf8mb4) AS BINARY)`

const bytesOf = (text: string): string => `x'${Buffer.from(text).toString("hex")}'`

export const condition = (column: ReadColumn, test: Test["is"]): string => {
  const it = quote(column.name)
  switch (test._tag) {
    case "null":
      return `${it} IS NULL`
    case "in":
      return test.values.length === 0
        ? "FALSE"
        : `(${test.values.map((value) => equals(column, value)).join(" OR ")})`
    case "prefix":
      return prefix(column, test.text)
    case "range":
      return [
        ...(test.from === undefined ? [] : [compares(column, ">=", test.from)]),
        ...(test.to === undefined ? [] : [compares(column, "<", test.to)])
      ].join(" AND ")
  }
}

/** Compares numbers and dates as such. Anything else by its bytes, and first in a way that an index serves. */
const equals = (column: ReadColumn, value: Stored): string => {
  if (isPlain(column, value)) return compares(column, "=", value)
  const text = String(value)
  const exact = `${asBytes(column)} = ${bytesOf(text)}`
  return isText(column.column) ? `(${quote(column.name)} = ${escape(text)} AND ${exact})` : exact
}

const prefix = (column: ReadColumn, text: string): string => {
  const exact = `LEFT(${asBytes(column)}, ${Buffer.byteLength(text)}) = ${bytesOf(text)}`
  if (!isText(column.column)) return exact
  const pattern = text.replaceAll(/[|%_]/g, (special) => `|${special}`)
  return `(${quote(column.name)} LIKE ${escape(`${pattern}%`)} ESCAPE '|' AND ${exact})`
}

const compares = (column: ReadColumn, operator: string, value: Stored): string => {
  const it = quote(column.name)
  if (isPlain(column, value)) {
    return `${it} ${operator} ${typeof value === "string" ? escape(value) : String(value)}`
  }
  // a number in a column of texts
  if (typeof value !== "string") return `(${asText(column)} + 0e0) ${operator} ${value}`
  return `${asBytes(column)} ${operator} ${bytesOf(value)}`
}

/** Whether the server's own comparison is exact. */
const isPlain = ({ column, isDate }: ReadColumn, value: Stored): boolean =>
  typeof value === "string" ? isDate && TIME.test(column.type) : NUMBER.test(column.type)

// ------------------------------------------------------------------------------------------------------- keys

/** A column of a key: how it is read as a text, and how a text of it is written. */
export interface KeyColumn {
  readonly name: string
  readonly text: string
  readonly literal: (text: string) => string
}

export const keyColumn = (name: string, column: Column): KeyColumn => {
  const it = quote(name)
  if (BYTES.test(column.type)) return { name: it, text: `HEX(${it})`, literal: (hex) => `x'${hex}'` }
  const isNumber = NUMBER.test(column.type)
  return {
    name: it,
    text: isText(column) ? it : `CAST(${it} AS CHAR)`,
    // a number as the server has shown it
    literal: (text) => (isNumber && /^-?[\d.]+$/.test(text) ? text : escape(text))
  }
}

/** The rows beyond a key in the given order, with the key itself if `isWithKey`. */
export const beyond = (
  columns: ReadonlyArray<KeyColumn>,
  key: ReadonlyArray<string>,
  operator: "<" | ">",
  isWithKey: boolean
): string => {
  const literals = columns.map(({ literal }, index) => literal(key[index]!))
  // the optimizers use an index for an OR of ANDs, and for `(a, b) > (1, 2)` none
  const terms = columns.map(({ name }, index) => {
    const last = isWithKey && index === columns.length - 1 ? `${operator}=` : operator
    const before = columns.slice(0, index).map((column, at) => `${column.name} = ${literals[at]!}`)
    return [...before, `${name} ${last} ${literals[index]!}`].join(" AND ")
  })
  return `(${terms.map((term) => `(${term})`).join(" OR ")})`
}
