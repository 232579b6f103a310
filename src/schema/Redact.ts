/**
 * What of an event may reach the disk: redaction and limits, by kind and field. Both are options of the layer; they
 * are applied before the event is checked and written, so that neither the disk nor the database ever sees the rest.
 *
 * @example
 * import { Config, Effect, Layer } from "effect"
 * import { AuditLayer, Redact } from "effect-audit"
 *
 * const AuditLive = Layer.unwrapEffect(
 *   Effect.map(Config.redacted("AUDIT_HASH_KEY"), (key) =>
 *     AuditLayer.layer({
 *       directory: "./audit",
 *       redact: {
 *         use_log: { prompt: Redact.omit, userName: Redact.hash(key) },
 *         login_log: { userName: Redact.hash(key), publicIp: (ip) => ip.replace(/\.\d+$/, ".0") }
 *       },
 *       limits: { use_log: { errorMessage: 1000 } }
 *     })
 *   )
 * )
 *
 * @since 0.1.0
 */
import { Option, Redacted } from "effect"
import { createHmac, createSecretKey, type KeyObject } from "node:crypto"
import type * as AuditEvent from "./AuditEvent.js"

/**
 * Makes what is stored of what was given: any function will do that gives a value of the field. It sees neither null
 * nor undefined, an empty text, or the field's default: where nothing was given there is nothing to hide. If it
 * throws, the event is `InvalidEvent`, and never written as it was.
 *
 * @category models
 * @since 0.1.0
 */
export type Redaction<T> = (value: NonNullable<T>) => T

/**
 * Redactions by kind and field, for the kinds `E`.
 *
 * @category models
 * @since 0.1.0
 */
// a conditional type, since only such a one is known to the parameters of functions while `E` is inferred
export type Redactions<E extends AuditEvent.Any> = [E] extends [infer K extends AuditEvent.Any]
  ? {
      readonly [C in K as C["kind"]]?:
        | {
            readonly [F in keyof AuditEvent.InputOf<C>]?: Redaction<AuditEvent.InputOf<C>[F]> | undefined
          }
        | undefined
    }
  : never

/**
 * Limits of texts by kind and field, for the kinds `E`: in characters as `VARCHAR(n)` counts them (Unicode code
 * points), at least {@link MIN_LIMIT}. A longer text is cut, and says so at its end: `a red fox…[+1234]` lacks its
 * last 1234 characters. The mark counts, so that what is stored is never longer than the limit.
 *
 * @category models
 * @since 0.1.0
 */
export type Limits<E extends AuditEvent.Any> = {
  readonly [C in E as C["kind"]]?:
    | {
        readonly [F in keyof AuditEvent.InputOf<C> as string extends AuditEvent.InputOf<C>[F] ? F : never]?:
          number | undefined
      }
    | undefined
}

/**
 * The smallest limit: the mark must fit.
 *
 * @category constants
 * @since 0.1.0
 */
export const MIN_LIMIT = 16

/**
 * As if the field had not been given: NULL, or its default. Fields that must be given cannot be omitted; that is a
 * compile-time error.
 *
 * @category redactions
 * @since 0.1.0
 */
export const omit = (_value: unknown): null => null

/**
 * Three asterisks, whatever the text and its length: there was something, and that is all that is known.
 *
 * @category redactions
 * @since 0.1.0
 */
export const mask = (_value: string): string => "***"

/**
 * The shortest key of {@link hash}, in bytes, of a text those of its UTF-8: 128 bits, if it is random.
 *
 * @category constants
 * @since 0.1.0
 */
export const MIN_KEY_BYTES = 16

/** Where a redaction says what is wrong with it; shared by copies of this module in one process. */
const Problem: unique symbol = Symbol.for("effect-audit/Redact/Problem") as never

/**
 * HMAC-SHA256 with a secret key, 64 hexadecimal digits: equal texts stay equal, so that a user's events can still be
 * found together by those who have the key, and cannot be guessed by those who have not. Keep the key out of the
 * database, and keep it: with another one the same user gets another name. The key is a text or bytes, which are copied.
 *
 * A key of less than {@link MIN_KEY_BYTES} bytes can be guessed: the layer fails with `QueueOpenError`, as it does if the
 * key is none. Within a function of your own it throws, and the event is `InvalidEvent`.
 *
 * @category redactions
 * @since 0.1.0
 */
export const hash = (key: Redacted.Redacted<string | Uint8Array>): ((value: string) => string) => {
  const secret = keyOf(key)
  const redaction = (value: string) => {
    if (typeof secret === "string") throw new Error(secret)
    return createHmac("sha256", secret).update(value, "utf8").digest("hex")
  }
  return Object.assign(redaction, { [Problem]: typeof secret === "string" ? secret : undefined })
}

/** The key as it is now, whatever becomes of what was given, and shown by nothing; or what is wrong with it. */
const keyOf = (key: unknown): KeyObject | string => {
  const given = Redacted.isRedacted(key) ? Option.getOrUndefined(valueOf(key)) : undefined
  if (typeof given !== "string" && !(given instanceof Uint8Array)) {
    return "the key of Redact.hash is neither a text nor bytes. Give Redacted.make(key)."
  }
  const bytes = typeof given === "string" ? Buffer.from(given) : Buffer.from(given)
  return bytes.length < MIN_KEY_BYTES
    ? `the key of Redact.hash has ${bytes.length} bytes, so it can be guessed. Use at least ${MIN_KEY_BYTES} random ones, ` +
        "for example the output of: openssl rand -hex 32"
    : createSecretKey(bytes)
}

/** none if it was wiped */
const valueOf = Option.liftThrowable((key: Redacted.Redacted<unknown>) => Redacted.value(key))

/**
 * What is wrong with a redaction, if anything is known to be.
 *
 * @internal
 */
export const problemOf = (redaction: unknown): string | undefined =>
  typeof redaction === "function"
    ? (redaction as { readonly [Problem]?: string | undefined })[Problem]
    : undefined
