/** The page of `serve`: one file, without a build step. What comes from the queue is only ever set as text. */
import { createHash } from "node:crypto"

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #777;
  --green: #2a9d55; --yellow: #d99a00; --red: #d33c3c; --blue: #3b7dd8; --violet: #8a5bd1; }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1000px; padding: 24px }
h1 { font-size: 20px; display: flex; gap: 12px; align-items: center; margin: 0 0 2px }
h2 { font-size: 13px; text-transform: uppercase; letter-spacing: .06em; color: var(--dim); margin: 28px 0 8px }
.light { width: 14px; height: 14px; border-radius: 50%; background: var(--dim); flex: none }
.light[data-code="0"] { background: var(--green) } .light[data-code="1"] { background: var(--yellow) }
.light[data-code="2"], .light[data-code="3"] { background: var(--red) }
p { margin: 2px 0 } .dim { color: var(--dim) }
svg { width: 100%; height: 130px; background: var(--soft); border-radius: 8px }
polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
.bar { display: flex; height: 26px; border-radius: 8px; overflow: hidden; background: var(--soft) }
.bar > i { display: block; min-width: 2px } .legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 6px }
.legend span::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; background: var(--colour) }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap }
td.text { white-space: normal; overflow-wrap: anywhere; width: 100% }
th { font-weight: 600; color: var(--dim) } button { font: inherit; padding: 2px 10px; border: 1px solid var(--line); border-radius: 6px; background: var(--soft); color: inherit; cursor: pointer; margin-right: 4px }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: 8px; padding: 12px }
`

const SCRIPT = `
"use strict"
const token = location.hash.slice(1)
const byId = (id) => document.getElementById(id)
const call = (path, options = {}) => fetch(path, { ...options, headers: { authorization: "Bearer " + token, ...options.headers } })
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag)
  element.textContent = text
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  return element
}
const number = new Intl.NumberFormat("en-US")
const span = (millis) => {
  const seconds = Math.max(0, Math.round(millis / 1000))
  return seconds < 60 ? seconds + " s" : seconds < 3600 ? Math.round(seconds / 60) + " min" : (seconds / 3600).toFixed(1) + " h"
}
const say = (text) => { byId("message").textContent = text }
const COLOURS = { delivered: "--green", waiting: "--blue", dead: "--red", retried: "--violet", discarded: "--dim", torn: "--yellow", missing: "--red" }

const drawPlot = (history) => {
  const svg = byId("plot")
  svg.replaceChildren()
  const [first, last] = [history[0], history[history.length - 1]]
  const line = (index, colour) => {
    const most = Math.max(1, ...history.map((point) => point[index]))
    const width = Math.max(1, last[0] - first[0])
    const points = history.map((point) => (((point[0] - first[0]) / width) * 1000).toFixed(1) + "," + (95 - (point[index] / most) * 90).toFixed(1))
    const element = document.createElementNS("http://www.w3.org/2000/svg", "polyline")
    element.setAttribute("points", points.join(" "))
    element.style.stroke = "var(" + colour + ")"
    svg.append(element)
    return most
  }
  const waiting = line(1, "--blue")
  const oldest = line(2, "--yellow")
  byId("plotLegend").replaceChildren(
    make("span", "waiting, at most " + number.format(waiting), { style: "--colour: var(--blue)" }),
    make("span", "age of the oldest, at most " + span(oldest), { style: "--colour: var(--yellow)" }),
    make("span", "since " + new Date(first[0]).toLocaleTimeString(), { style: "--colour: transparent" })
  )
}

const drawBooks = (queues) => {
  const sum = (key) => queues.reduce((total, queue) => total + queue[key], 0)
  const accepted = Math.max(1, sum("accepted"))
  byId("books").replaceChildren()
  byId("booksLegend").replaceChildren(make("span", number.format(sum("accepted")) + " accepted =", { style: "--colour: transparent" }))
  for (const [key, colour] of Object.entries(COLOURS)) {
    const count = sum(key)
    if (count > 0) {
      const part = make("i", "")
      part.style.width = (count / accepted) * 100 + "%"
      part.style.background = "var(" + colour + ")"
      byId("books").append(part)
    }
    if (count > 0 || key === "missing") byId("booksLegend").append(make("span", number.format(count) + " " + key, { style: "--colour: var(" + colour + ")" }))
  }
}

const show = async (id, reveal) => {
  const answer = await call("/api/letter?id=" + encodeURIComponent(id) + (reveal ? "&reveal=yes" : ""))
  byId("letter").textContent = answer.ok ? JSON.stringify(await answer.json(), null, 2) : "It is gone."
  byId("letter").hidden = false
  byId("reveal").hidden = reveal || !answer.ok
  byId("reveal").onclick = () => show(id, true)
}
const retry = async (id) => {
  const answer = await call("/api/retry", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ids: [id] }) })
  say(answer.ok ? (await answer.json()).message : "The letter could not be retried (" + answer.status + ").")
}
const button = (text, action) => {
  const element = make("button", text)
  element.onclick = action
  return element
}

let shown = ""
/** the last letters of the pages before the one that is shown */
const before = []
const drawLetters = ({ letters, hasMoreLetters }) => {
  byId("older").hidden = before.length === 0
  byId("newer").hidden = !hasMoreLetters
  byId("newer").onclick = () => turn([...before, letters[letters.length - 1].id])
  const now = JSON.stringify(letters)
  if (now === shown) return
  shown = now
  byId("letters").replaceChildren(...letters.map((letter) => {
    const row = make("tr", "", { "data-id": letter.id })
    for (const text of [letter.id, new Date(letter.at).toLocaleString(), letter.kind ?? "-", letter.class + " " + (letter.code ?? "")]) row.append(make("td", text.slice(0, 60)))
    row.append(make("td", letter.reason ?? "refused by the database", { class: "text" }))
    const actions = make("td", "")
    actions.append(button("Show", () => show(letter.id, false)), button("Retry", () => retry(letter.id)))
    row.append(actions)
    return row
  }))
  byId("noLetters").hidden = letters.length > 0
  byId("lettersTable").hidden = letters.length === 0
}

const turn = async (to) => {
  before.splice(0, before.length, ...to)
  const last = before[before.length - 1]
  if (last === undefined) return drawLetters(first)
  const answer = await call("/api/letters?after=" + encodeURIComponent(last))
  if (answer.ok) drawLetters(await answer.json())
}
let first = { letters: [], hasMoreLetters: false }
byId("older").onclick = () => turn(before.slice(0, -1))

const draw = (view) => {
  byId("light").dataset.code = String(view.code)
  // of several instances the one that is worst comes first, as it gives the light
  const sentences = [...view.queues].sort((a, b) => b.code - a.code).flatMap((queue) => queue.sentences.map((sentence) => (queue.name === undefined ? "" : queue.name + ": ") + sentence))
  byId("sentence").textContent = view.problem ?? sentences[0] ?? ""
  byId("others").replaceChildren(...sentences.slice(1).map((sentence) => make("p", sentence)))
  byId("facts").textContent = view.queues.map((queue) => queue.directory + ", " + (queue.owner === undefined ? "no owner" : "process " + (queue.owner.pid ?? "unknown")) + ", " + (queue.volume.freeBytes / 1e9).toFixed(1) + " GB free").join("; ")
  if (view.history.length > 0) drawPlot(view.history)
  drawBooks(view.queues)
  byId("failures").replaceChildren(...(view.failures.length === 0 ? [make("p", "None since this page's server began.", { class: "dim" })] : view.failures.map((failure) => make("p", failure.class + " " + failure.code + ": " + failure.reason + " (last seen " + span(view.at - failure.last) + " ago)"))))
  first = view
  void turn([...before])
}

byId("export").onclick = async () => {
  const answer = await call("/api/export")
  const link = make("a", "", { download: "dead-letters.ndjson", href: URL.createObjectURL(await answer.blob()) })
  link.click()
}

// server-sent events; EventSource cannot send the token but in the address
const listen = async () => {
  const answer = await call("/api/changes")
  if (answer.status === 401) return say("This token is not that of the server: open the address that it printed.")
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  for (let rest = ""; ;) {
    const { done, value } = await reader.read()
    if (done) break
    const parts = (rest + value).split("\\n\\n")
    rest = parts.pop()
    if (parts.length > 0) draw(JSON.parse(parts[parts.length - 1].slice("data: ".length)))
  }
  throw new Error("ended")
}
const keepListening = () => listen().catch(() => {
  byId("light").dataset.code = ""
  say("The server does not answer; trying again.")
  setTimeout(keepListening, 2000)
})
keepListening()
`

const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`

/** Nothing but what stands on the page runs; styles are set by it as well. */
export const POLICY = [
  "default-src 'none'",
  `script-src ${hash(SCRIPT)}`,
  "style-src 'unsafe-inline'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'"
].join("; ")

export const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>effect-audit</title>
<style>${STYLE}</style>
<h1><span class="light" id="light"></span><span id="sentence">…</span></h1>
<div id="others"></div>
<p class="dim" id="facts"></p>
<p id="message" role="status"></p>
<h2>Waiting</h2>
<svg id="plot" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="waiting events and age of the oldest"></svg>
<div class="legend" id="plotLegend"></div>
<h2>Books</h2>
<div class="bar" id="books"></div>
<div class="legend" id="booksLegend"></div>
<h2>Failures</h2>
<div id="failures"></div>
<h2>Dead letters</h2>
<p class="dim" id="noLetters">None.</p>
<table id="lettersTable" hidden><thead><tr><th>Id<th>Refused<th>Kind<th>Class<th>Reason<th></tr></thead><tbody id="letters"></tbody></table>
<p><button id="older" hidden>Page before</button><button id="newer" hidden>Next page</button><button id="export">Export</button></p>
<pre id="letter" hidden></pre>
<button id="reveal" hidden>Reveal</button>
<script>${SCRIPT}</script>
</html>
`
