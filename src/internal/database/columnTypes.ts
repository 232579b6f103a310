/**
 * The type of a column, as it follows from the schema of its field, for the tables that this package makes.
 */
import { Option, Schema, SchemaAST as AST } from "effect"
import type * as AuditEvent from "../../schema/AuditEvent.js"

/** What a column holds. */
export type Storage = "text" | "integer" | "number" | "boolean" | "dateTime"

/** The type that MySQL's `CREATE TABLE` gives the column: the kind's own, or one that takes whatever the field may be. */
export const mysqlType = (definition: AuditEvent.Any, column: AuditEvent.Column): string => {
  if (column.type !== undefined) return column.type
  const type = typeOf(definition.fields[column.field]!)
  const longest = longestLiteral(type)
  return longest === undefined ? `${MYSQL[storage(type)]} NULL` : `VARCHAR(${Math.max(64, 2 * longest)}) NULL`
}

/** Of a field that takes some texts alone: how many characters the longest has. A later one may be twice as long. */
const longestLiteral = (ast: AST.AST): number | undefined => {
  const types = AST.isUnion(ast) ? withoutNulls(ast) : [ast]
  const texts = types.flatMap((type) =>
    AST.isLiteral(type) && typeof type.literal === "string" ? [type.literal.length] : []
  )
  const longest = Math.max(...texts)
  // a VARCHAR has at most 16,383 characters of four bytes, and a row has 65,535 bytes
  return texts.length > 0 && texts.length === types.length && longest <= 512 ? longest : undefined
}

/** The type that SQLite's `CREATE TABLE` gives the column. The kind's own is for MySQL, and SQLite checks no types. */
export const sqliteType = (definition: AuditEvent.Any, column: AuditEvent.Column): string =>
  SQLITE[storageOf(definition.fields[column.field]!)]

const MYSQL: Record<Storage, string> = {
  text: "LONGTEXT",
  integer: "BIGINT",
  number: "DOUBLE",
  boolean: "BOOLEAN",
  dateTime: "DATETIME(3)"
}

const SQLITE: Record<Storage, string> = {
  text: "TEXT",
  integer: "INTEGER",
  number: "REAL",
  boolean: "INTEGER",
  dateTime: "TEXT"
}

/** Whether the field's values are `Date`s: all of them, those that are null aside, or some. */
export const holdsDates = (field: Schema.Struct.Field): "always" | "sometimes" | "never" => {
  const ast = typeOf(field)
  if (storage(ast) === "dateTime") return "always"
  return AST.isUnion(ast) && ast.types.some((type) => storage(type) === "dateTime") ? "sometimes" : "never"
}

/** What a column for the field holds. */
export const storageOf = (field: Schema.Struct.Field): Storage => storage(typeOf(field))

const typeOf = (field: Schema.Struct.Field): AST.AST => {
  if (!Schema.isPropertySignature(field)) return AST.typeAST(field.ast)
  const { ast } = field
  return AST.typeAST(ast._tag === "PropertySignatureDeclaration" ? ast.type : ast.to.type)
}

/** All that a union holds must agree; what is neither a number, a boolean nor a date is stored as text or JSON. */
const storage = (ast: AST.AST): Storage => {
  switch (ast._tag) {
    case "NumberKeyword":
      return "number"
    case "BigIntKeyword":
      return "integer"
    case "BooleanKeyword":
      return "boolean"
    case "Literal":
      return typeof ast.literal === "number"
        ? "number"
        : typeof ast.literal === "boolean"
          ? "boolean"
          : "text"
    case "Declaration":
      return isA(ast, Schema.DateFromSelfSchemaId) ? "dateTime" : "text"
    case "Refinement":
      return isA(ast, Schema.IntSchemaId) ? "integer" : storage(ast.from)
    case "Union": {
      const [first, ...others] = new Set(withoutNulls(ast).map(storage))
      return first === undefined || others.length > 0 ? "text" : first
    }
    default:
      return "text"
  }
}

/** What a union takes beside null and undefined, which every column is made for. */
const withoutNulls = ({ types }: AST.Union): ReadonlyArray<AST.AST> =>
  types.filter((type) => !(AST.isLiteral(type) && type.literal === null) && !AST.isUndefinedKeyword(type))

const isA = (ast: AST.AST, id: symbol | string) => Option.contains(AST.getSchemaIdAnnotation(ast), id)
