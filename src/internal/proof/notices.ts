/**
 * Notices: what a seal says besides its rows. Each is a netstring of netstrings, a word and its texts: an auditor can
 * read them without any program.
 */
import { Schema } from "effect"
import { Either } from "../../schema/Effect3.js"
import { idOf, placeOf, type Place } from "../../schema/Position.js"
import type { Head } from "../../services/Sealing.js"
import { netstring, netstrings } from "./bytes.js"
import type { Manifest } from "./row.js"

export type { Head }

/**
 * - `manifest`: from here on, entries with this number have these columns
 * - `dead`: the line at this place became a dead letter
 * - `twin`: the id of an event was in its table already, in another writer's row
 * - `erase`: the erasable columns of these events may be erased
 * - `purge`: the rows of a chain's seals before this number may be removed
 * - `key`: this key signs the chain from the next seal on
 * - `previous`: why this chain began, and the chain that it continues
 * - `witness`: how far another chain had come
 * - `unsealed`: events were delivered without seals between these places
 */
export type Notice =
  | { readonly word: "manifest"; readonly number: number; readonly manifest: Manifest }
  | { readonly word: "dead"; readonly place: Place; readonly eventId: string; readonly code: string }
  | { readonly word: "twin"; readonly kind: string; readonly eventId: string }
  | { readonly word: "erase"; readonly kind: string; readonly eventIds: ReadonlyArray<string> }
  | { readonly word: "purge"; readonly chain: string; readonly before: number }
  | { readonly word: "key"; readonly publicKey: string }
  | ({ readonly word: "previous"; readonly found: string } & Head)
  | ({ readonly word: "witness" } & Head)
  | { readonly word: "unsealed"; readonly from: Place; readonly to: Place }

export const encodeNotices = (notices: ReadonlyArray<Notice>): Buffer =>
  Buffer.concat(notices.map((notice) => netstring(Buffer.concat(textsOf(notice).map(netstring)))))

const textsOf = (notice: Notice): ReadonlyArray<string> => {
  const { word } = notice
  switch (word) {
    case "manifest":
      return [word, String(notice.number), encodeManifest(notice.manifest)]
    case "dead":
      return [word, idOf(notice.place), notice.eventId, notice.code]
    case "twin":
      return [word, notice.kind, notice.eventId]
    case "erase":
      return [word, notice.kind, ...notice.eventIds]
    case "purge":
      return [word, notice.chain, String(notice.before)]
    case "key":
      return [word, notice.publicKey]
    case "previous":
      return [word, notice.chain, String(notice.number), notice.head, notice.found]
    case "witness":
      return [word, notice.chain, String(notice.number), notice.head]
    case "unsealed":
      return [word, idOf(notice.from), idOf(notice.to)]
  }
}

/** The notices; undefined if the bytes are damaged, or a later version wrote one of them. */
export const decodeNotices = (bytes: Uint8Array): ReadonlyArray<Notice> | undefined => {
  const notices: Array<Notice> = []
  for (const outer of netstrings(bytes) ?? [undefined]) {
    const texts = outer === undefined ? undefined : netstrings(outer)?.map(textIn)
    const notice = texts === undefined ? undefined : noticeOf(texts)
    if (notice === undefined) return undefined
    notices.push(notice)
  }
  return notices
}

const textIn = (bytes: Uint8Array): string | undefined => {
  try {
    return UTF8.decode(bytes)
  } catch {
    return undefined
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const noticeOf = ([word, ...args]: ReadonlyArray<string | undefined>): Notice | undefined => {
  const texts = args.filter((text) => text !== undefined)
  if (texts.length < args.length) return undefined
  const [a = "", b = "", c = "", d = ""] = texts
  switch (word) {
    case "manifest": {
      const manifest = decodeManifest(b)
      return texts.length === 2 && isNumber(a) && manifest !== undefined
        ? { word, number: Number(a), manifest }
        : undefined
    }
    case "dead":
      return texts.length === 3 && isPlace(a) ? { word, place: placeOf(a), eventId: b, code: c } : undefined
    case "twin":
      return texts.length === 2 ? { word, kind: a, eventId: b } : undefined
    case "erase":
      return texts.length > 0 ? { word, kind: a, eventIds: texts.slice(1) } : undefined
    case "purge":
      return texts.length === 2 && isChain(a) && isNumber(b)
        ? { word, chain: a, before: Number(b) }
        : undefined
    case "key":
      return texts.length === 1 && /^(?:[0-9a-f]{2})+$/.test(a) ? { word, publicKey: a } : undefined
    case "previous":
      return texts.length === 4 && isHead(a, b, c)
        ? { word, chain: a, number: Number(b), head: c, found: d }
        : undefined
    case "witness":
      return texts.length === 3 && isHead(a, b, c)
        ? { word, chain: a, number: Number(b), head: c }
        : undefined
    case "unsealed":
      return texts.length === 2 && isPlace(a) && isPlace(b)
        ? { word, from: placeOf(a), to: placeOf(b) }
        : undefined
    default:
      return undefined
  }
}

const isNumber = (text: string) => /^(?:0|[1-9]\d{0,15})$/.test(text) && Number.isSafeInteger(Number(text))
const isPlace = (text: string) => /^(?:0|[1-9]\d{0,15}):(?:0|[1-9]\d{0,15})$/.test(text)
const isChain = (text: string) => /^[0-9a-f]{32}$/.test(text)
const isHead = (chain: string, number: string, head: string) =>
  isChain(chain) && isNumber(number) && /^[0-9a-f]{64}$/.test(head)

const Manifest = Schema.parseJson(
  Schema.Struct({
    kind: Schema.String,
    table: Schema.String,
    columns: Schema.Array(Schema.String),
    erasable: Schema.Array(Schema.String)
  })
)

const encodeManifest = ({ columns, erasable, kind, table }: Manifest): string =>
  JSON.stringify({ kind, table, columns, erasable })

const decodeManifest = (json: string): Manifest | undefined =>
  Either.getOrUndefined(Schema.decodeUnknownEither(Manifest)(json))
