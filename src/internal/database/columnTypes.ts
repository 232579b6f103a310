/** Column types for the tables that this package makes, from the schemas of the fields. */
import { Option, Schema, SchemaAST as AST } from "effect"
import type * as AuditEvent from "../../schema/AuditEvent.js"

export type Storage = "text" | "integer" | "number" | "boolean" | "dateTime"

/** The type of a column in MySQL: the kind's own, or one that takes every value of the field. */
export const mysqlType = (definition: AuditEvent.Any, column: AuditEvent.Column): string => {
  if (column.type !== undefined) return column.type
  const type = typeOf(definition.fields[column.field]!)
  const longest = longestLiteral(type)
  return longest === undefined ? `${MYSQL[storage(type)]} NULL` : `VARCHAR(${Math.max(64, 2 * longest)}) NULL`
}

/** The characters of the longest text, if a field takes only certain texts. A later one may be twice as long. */
const longestLiteral = (ast: AST.AST): number | undefined => {
  const types = AST.isUnion(ast) ? withoutNulls(ast) : [ast]
  const texts = types.flatMap((type) =>
    AST.isLiteral(type) && typeof type.literal === "string" ? [type.literal.length] : []
  )
  const longest = Math.max(...texts)
  // a VARCHAR has at most 16,383 characters of four bytes, and a row has 65,535 bytes
  return texts.length > 0 && texts.length === types.length && longest <= 512 ? longest : undefined
}

/** The type of a column in SQLite. The kind's own is for MySQL, and SQLite checks no types. */
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

/** Whether the values of a field, null aside, are `Date`s. */
export const holdsDates = (field: Schema.Struct.Field): "always" | "sometimes" | "never" => {
  const ast = typeOf(field)
  if (storage(ast) === "dateTime") return "always"
  return AST.isUnion(ast) && ast.types.some((type) => storage(type) === "dateTime") ? "sometimes" : "never"
}

export const storageOf = (field: Schema.Struct.Field): Storage => storage(typeOf(field))

const typeOf = (field: Schema.Struct.Field): AST.AST => {
  if (!Schema.isPropertySignature(field)) return AST.typeAST(field.ast)
  const { ast } = field
  return AST.typeAST(ast._tag === "PropertySignatureDeclaration" ? ast.type : ast.to.type)
}

/** If the members of a union differ, it is text. So is all but numbers, booleans and dates, as text or JSON. */
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

/** The members of a union without null and undefined, which every column takes. */
const withoutNulls = ({ types }: AST.Union): ReadonlyArray<AST.AST> =>
  types.filter((type) => !(AST.isLiteral(type) && type.literal === null) && !AST.isUndefinedKeyword(type))

const isA = (ast: AST.AST, id: symbol | string) => Option.contains(AST.getSchemaIdAnnotation(ast), id)
