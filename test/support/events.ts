/**
 * Stored events for tests of uploaders, made as in production: encoded to a line, and read from it.
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

/** The event of an input: encoded to its line, and read back. */
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

/** A use, by default with the status `success`. */
export const use = (
  input: Partial<UseLogInput> = {},
  options?: { readonly eventId?: string; readonly time?: number }
) => stored(UseLog, { status: "success", ...input }, options)

/** A login. */
export const login = (
  input: LoginLogInput = {},
  options?: { readonly eventId?: string; readonly time?: number }
) => stored(LoginLog, input, options)

/** `count` uses with the prompts `0`, `1` and so on. */
export const uses = (count: number, input?: (index: number) => Partial<UseLogInput>): Array<StoredEvent> =>
  Array.from({ length: count }, (_, index) => use({ prompt: String(index), ...input?.(index) }))
