/** Kinds that several tests share. */
import { Schema } from "effect"
import * as AuditEvent from "../../src/schema/AuditEvent.js"

/** A kind with every sort of optional field. */
export class Maybe extends AuditEvent.Class<Maybe>()("maybe", {
  table: "maybe",
  fields: {
    optional: Schema.optional(Schema.String),
    exact: Schema.optionalWith(Schema.Number, { exact: true }),
    defaulted: Schema.optionalWith(Schema.Number, { default: () => 7 }),
    defaultedOrNull: Schema.optionalWith(Schema.NullOr(Schema.Number), { default: () => 7 }),
    nullable: Schema.optionalWith(Schema.Boolean, { nullable: true, default: () => true }),
    asOption: Schema.optionalWith(Schema.String, { as: "Option" }),
    option: Schema.OptionFromNullOr(Schema.Int),
    text: AuditEvent.text("none"),
    nonEmpty: AuditEvent.nonEmptyText("nobody"),
    required: AuditEvent.requiredText("old"),
    whole: AuditEvent.optional(Schema.Int),
    when: AuditEvent.optional(Schema.Date)
  }
}) {}
