/** The token of the page: anybody who has it may see everything that the page shows. */
import * as HttpApiMiddleware from "@effect/platform/HttpApiMiddleware"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpApiSecurity from "@effect/platform/HttpApiSecurity"
import { Effect, Layer, Redacted, Schema } from "effect"
import { createHash, timingSafeEqual } from "node:crypto"

class Unauthorized extends Schema.TaggedError<Unauthorized>()(
  "Unauthorized",
  {},
  HttpApiSchema.annotations({ status: 401 })
) {}

export class Authorization extends HttpApiMiddleware.Tag<Authorization>()("effect-audit/Authorization", {
  failure: Unauthorized,
  security: { token: HttpApiSecurity.bearer }
}) {}

export const authorization = (token: string) =>
  Layer.succeed(Authorization, {
    token: (given) => (isEqual(Redacted.value(given), token) ? Effect.void : new Unauthorized())
  })

const isEqual = (given: string, token: string) => {
  const [a, b] = [given, token].map((text) => createHash("sha256").update(text).digest())
  return timingSafeEqual(a!, b!)
}
