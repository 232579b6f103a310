/**
 * Redactions and limits, by kind and field: which content of an event may reach the disk.
 *
 * Both are options of the layer. They run before the event is checked and written, so that neither the disk nor the
 * database ever sees the rest.
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
 * Replaces the value of a field by the one to store: any function that returns a value of the field. It is not called
 * for null, undefined, an empty text, or the field's default, since these hide nothing. If it throws, then the event is
 * an `InvalidEvent`, and nothing is written.
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
// a conditional type, since only then TypeScript infers the parameters of functions while it infers `E`
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
 * Limits of texts by kind and field, for the kinds `E`, at least {@link MIN_LIMIT}. They count Unicode code points,
 * like `VARCHAR(n)`. A longer text is cut and marked: `a red fox…[+1234]` lacks its last 1234 characters. The mark
 * counts, too, so that no stored text is longer than its limit.
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
 * Omits the field: it is NULL, or its default. Omitting a required field is a compile-time error.
 *
 * @category redactions
 * @since 0.1.0
 */
export const omit = (_value: unknown): null => null

/**
 * Replaces every text by three asterisks, which show only that there was a text.
 *
 * @category redactions
 * @since 0.1.0
 */
export const mask = (_value: string): string => "***"

/**
 * The shortest key of {@link hash}, in bytes: 128 bits, if they are random. A text counts its bytes of UTF-8.
 *
 * @category constants
 * @since 0.1.0
 */
export const MIN_KEY_BYTES = 16

/** The key under which a redaction tells what is wrong with it; copies of this module in one process share it. */
const Problem: unique symbol = Symbol.for("effect-audit/Redact/Problem") as never

/**
 * HMAC-SHA256 with a secret key, as 64 hexadecimal digits. Equal texts stay equal: whoever has the key can still find a
 * user's events. Nobody else can guess the user. The key is a text or bytes, which are copied.
 *
 * Keep the key out of the database, and do not lose it: another key gives the same user another hash. If the key has
 * fewer than {@link MIN_KEY_BYTES} bytes, or is invalid, then the layer fails with `QueueOpenError`. Within a function
 * of your own it throws, and the event is an `InvalidEvent`.
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

/** A copy of the key, which nothing prints; or what is wrong with the key. */
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

/** none if the key was wiped */
const valueOf = Option.liftThrowable((key: Redacted.Redacted<unknown>) => Redacted.value(key))

/**
 * What is wrong with a redaction; undefined if nothing is known.
 *
 * @internal
 */
export const problemOf = (redaction: unknown): string | undefined =>
  typeof redaction === "function"
    ? (redaction as { readonly [Problem]?: string | undefined })[Problem]
    : undefined
