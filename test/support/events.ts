/**
 * Stored events for the tests of uploaders, made the way of a real one: encoded to a line, and read from it.
 *
 * @module
 */
import { Either } from "effect"
import { v7 } from "uuid"
import type * as AuditEvent from "../../src/schema/AuditEvent.js"
import type { StoredEvent } from "../../src/schema/Line.js"
import { compile, makeDecoder } from "../../src/schema/Line.js"
import { LoginLog, type LoginLogInput } from "../../src/schema/LoginLog.js"
import { UseLog, type UseLogInput } from "../../src/schema/UseLog.js"

/** The line of an input and what is read from it. */
export const stored = (
  definition: AuditEvent.Any,
  input: unknown,
  options: { readonly eventId?: string; readonly time?: number } = {}
): StoredEvent => {
  const codec = compile(definition)
  const line = Either.getOrThrow(codec.encode(input, options.eventId ?? v7(), options.time ?? Date.now()))
  return Either.getOrThrow(
    makeDecoder(new Map([[definition.kind, codec]]))(line, () => "00000000-0000-8000-8000-000000000000")
  )
}

/** A use; `status` is `success` unless it is given. */
export const use = (
  input: Partial<UseLogInput> = {},
  options?: { readonly eventId?: string; readonly time?: number }
) => stored(UseLog, { status: "success", ...input }, options)

/** A login. */
export const login = (
  input: LoginLogInput = {},
  options?: { readonly eventId?: string; readonly time?: number }
) => stored(LoginLog, input, options)

/** So many uses, told apart by their prompts `0`, `1` and so on. */
export const uses = (count: number, input?: (index: number) => Partial<UseLogInput>): Array<StoredEvent> =>
  Array.from({ length: count }, (_, index) => use({ prompt: String(index), ...input?.(index) }))
