/** Keys: an Ed25519 pair. The program that delivers has the private one, an auditor the public one. */
import * as crypto from "node:crypto"
import { Redacted } from "effect"
import { Either } from "../../schema/Effect3.js"
import { digest, frame } from "./bytes.js"

export interface SealingKey {
  /** 8 bytes, by which a seal names its key */
  readonly id: Buffer
  readonly sign: (head: Uint8Array) => Buffer
}

export interface VerifyingKey {
  readonly id: Buffer
  /** SubjectPublicKeyInfo, DER, as hexadecimal digits */
  readonly publicKey: string
  readonly verify: (head: Uint8Array, signature: Uint8Array) => boolean
}

export const MAKE_KEY = "openssl genpkey -algorithm ed25519 -out audit-key.pem"
export const MAKE_PUBLIC_KEY = "openssl pkey -in audit-key.pem -pubout -out audit-key.pub"

/** Both sides of a key. */
export interface KeyPair extends SealingKey, VerifyingKey {}

/** The private key in a PEM. If there is none: why, and how to make one, without a word of the PEM. */
export const sealingKey = (pem: Redacted.Redacted): Either.Either<KeyPair, string> => {
  // a PEM holds no backslash; files of environments keep its lines by them
  const key = read(() => crypto.createPrivateKey(Redacted.value(pem).replaceAll("\\n", "\n")))
  if (key === undefined)
    return Either.left(
      "the key is no private Ed25519 key in PEM, without a passphrase. Give the text of the file, which begins with " +
        `-----BEGIN PRIVATE KEY-----, not its path. Only if there is no key yet, make one: ${MAKE_KEY}`
    )
  return Either.right({
    ...verifying(crypto.createPublicKey(key)),
    sign: (head) => crypto.sign(null, signed(head), key)
  })
}

/** The public key in a PEM. A private one is refused: an auditor must not hold it. */
export const verifyingKey = (pem: string): Either.Either<VerifyingKey, string> => {
  const key = /PRIVATE KEY/.test(pem) ? undefined : read(() => crypto.createPublicKey(pem))
  if (key === undefined)
    return Either.left(
      `the key is no public Ed25519 key in PEM. Whoever has the private key makes one: ${MAKE_PUBLIC_KEY}`
    )
  return Either.right(verifying(key))
}

/** The public key in a notice; undefined if it is none. */
export const verifyingKeyOf = (publicKey: string): VerifyingKey | undefined => {
  const key = read(() =>
    crypto.createPublicKey({ key: Buffer.from(publicKey, "hex"), format: "der", type: "spki" })
  )
  return key === undefined ? undefined : verifying(key)
}

const verifying = (key: crypto.KeyObject): VerifyingKey => ({
  id: idOf(key),
  publicKey: derOf(key).toString("hex"),
  verify: (head, signature) => crypto.verify(null, signed(head), key, signature)
})

const derOf = (key: crypto.KeyObject): Buffer => key.export({ type: "spki", format: "der" })

const read = (parse: () => crypto.KeyObject): crypto.KeyObject | undefined => {
  try {
    const key = parse()
    return key.asymmetricKeyType === "ed25519" ? key : undefined
  } catch {
    return undefined
  }
}

const signed = (head: Uint8Array): Buffer => frame("effect-audit/signature/1", [head])

const idOf = (key: crypto.KeyObject): Buffer =>
  digest("effect-audit/key/1", [derOf(key)]).subarray(0, KEY_ID_BYTES)

const KEY_ID_BYTES = 8
