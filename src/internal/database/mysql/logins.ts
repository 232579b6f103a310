/**
 * Logins without TLS: the password goes under a key that is trusted, or not at all. The driver would encrypt it with
 * any key that it is shown, even that of a man in the middle.
 */
import { Redacted } from "effect"
import * as crypto from "node:crypto"
import * as net from "node:net"
import type { Endpoint } from "./endpoints.js"
import { TRUST } from "./endpoints.js"
import { SERVER_PUBLIC_KEY } from "./errors.js"

/** Answers each of the server's messages; null sends nothing. */
type Login = (data: Buffer) => Buffer | null

/**
 * The login methods that replace the driver's, by name. `remoteAddress` is the socket's, once it is connected;
 * `onRefusal` hears why a login broke off.
 */
export const loginsOf = (
  { password, serverPublicKey, ssl }: Endpoint,
  remoteAddress: () => string | undefined,
  onRefusal: (error: Error) => void
): Record<string, () => Login> => {
  const refuse = (code: string, message: string): never => {
    const error = Object.assign(new Error(message), { code })
    onRefusal(error)
    throw error
  }
  // a server, or an impostor, may ask for it at any time
  const mysql_clear_password = () => () =>
    refuse("AUTH_SWITCH_PLUGIN_ERROR", "the server asks for the password in clear text")
  if (ssl !== undefined) return { mysql_clear_password }

  /** Answers with the password under the key. If any key will do, it asks the server for one first. */
  const encrypted = (scramble: Buffer, keyRequest: number): readonly [Buffer, Login] => {
    const nothing: Login = () => refuse("AUTH_SWITCH_PLUGIN_ERROR", "the server asks twice for the password")
    const secret = Redacted.value(password)
    const key = serverPublicKey ?? (isLoopback(remoteAddress()) ? TRUST : undefined)
    if (key === undefined) return refuse(SERVER_PUBLIC_KEY, "the server's public key is not known")
    if (key !== TRUST) return [encrypt(secret, scramble, key), nothing]
    let isAnswered = false
    return [
      Buffer.from([keyRequest]),
      (shownKey) => {
        if (isAnswered) return nothing(shownKey)
        isAnswered = true
        return encrypt(secret, scramble, shownKey)
      }
    ]
  }

  return {
    mysql_clear_password,
    sha256_password: () => {
      let next: Login | undefined
      return (data) => {
        if (next !== undefined) return next(data)
        // an empty password is sent without a key
        if (Redacted.value(password) === "") return Buffer.from([0])
        const [answer, then] = encrypted(data.subarray(0, SCRAMBLE_BYTES), SHA256_KEY_REQUEST)
        next = then
        return answer
      }
    },
    caching_sha2_password: () => {
      let scramble: Buffer | undefined
      let next: Login | undefined
      return (data) => {
        if (next !== undefined) return next(data)
        if (scramble === undefined) {
          scramble = Buffer.from(data.subarray(0, SCRAMBLE_BYTES))
          return proof(Redacted.value(password), scramble)
        }
        if (data.equals(FAST_SUCCESS)) return null
        if (!data.equals(FULL_LOGIN)) {
          return refuse("AUTH_SWITCH_PLUGIN_ERROR", "an unknown message of caching_sha2_password")
        }
        const [answer, then] = encrypted(scramble, CACHING_SHA2_KEY_REQUEST)
        next = then
        return answer
      }
    }
  }
}

/** Whether packets to the address stay within this machine. */
export const isLoopback = (address: string | undefined): boolean => {
  const family = net.isIP(address ?? "")
  return family !== 0 && LOOPBACK.check(address!, family === 6 ? "ipv6" : "ipv4")
}

const LOOPBACK = new net.BlockList()
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4")
LOOPBACK.addAddress("::1", "ipv6")

// MySQL Source Code Documentation, "Caching_sha2_password information" and "SHA-256 Authentication"
const SCRAMBLE_BYTES = 20
const SHA256_KEY_REQUEST = 1
const CACHING_SHA2_KEY_REQUEST = 2
const FAST_SUCCESS = Buffer.from([3])
const FULL_LOGIN = Buffer.from([4])

const sha256 = (...parts: ReadonlyArray<crypto.BinaryLike>) => {
  const hash = crypto.createHash("sha256")
  for (const part of parts) hash.update(part)
  return hash.digest()
}

/** Proves the password to a server that has a digest of it, without showing it. */
const proof = (password: string, scramble: Buffer): Buffer => {
  if (password === "") return Buffer.alloc(0)
  const digest = sha256(password)
  return xor(digest, sha256(sha256(digest), scramble))
}

/** The scramble prevents the replay of a recorded login. */
const encrypt = (password: string, scramble: Buffer, key: crypto.KeyLike): Buffer =>
  crypto.publicEncrypt(
    { key, padding: crypto.constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" },
    xor(Buffer.from(`${password}\0`), scramble)
  )

const xor = (bytes: Buffer, mask: Buffer): Buffer =>
  Buffer.from(bytes.map((byte, index) => byte ^ mask[index % mask.length]!))
