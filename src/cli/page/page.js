/**
 * The script of the page: shows the queue, and sends requests. Everything from the queue is set as text, never as HTML.
 *
 * @typedef {import("../monitor.js").View} View
 * @typedef {View["queues"][number]} Queue
 * @typedef {{ id?: string, at?: string, kind?: string, class?: string, code?: string, reason?: string }} Letter
 * @typedef {{ letters: ReadonlyArray<Letter>, hasMoreLetters?: boolean }} Page
 */
"use strict"

const token = location.hash.slice(1)

/** @type {(id: string) => HTMLElement} */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id))
const dialog = /** @type {HTMLDialogElement} */ (byId("letterDialog"))
const moment = /** @type {HTMLInputElement} */ (byId("moment"))

/** @type {(path: string, options?: { method?: string, headers?: Record<string, string>, body?: string }) => Promise<Response>} */
const call = (path, options = {}) =>
  fetch(path, { ...options, headers: { authorization: `Bearer ${token}`, ...options.headers } })

// as in schema/Visible.ts, but line ends stay
const UNSEEN = /(?!\n)[\p{Cc}\p{Cf}\p{DI}\p{Zl}\p{Zp}\p{Cs}]/gu

/** @type {(text: string) => string} as on a terminal: no character turns the direction of the text after it */
const visible = (text) =>
  text.replace(UNSEEN, (character) =>
    Array.from({ length: character.length }, (_, unit) => character.charCodeAt(unit))
      .map((code) => `\\u${code.toString(16).padStart(4, "0")}`)
      .join("")
  )

/** @type {(tag: string, text: string, attributes?: Record<string, string>) => HTMLElement} */
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag)
  element.textContent = visible(text)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  return element
}

/** @type {(text: string) => void} */
const say = (text) => {
  byId("message").textContent = visible(text)
}

const number = new Intl.NumberFormat("en-US")
/** @type {(count: number, noun: string) => string} */
const counted = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`
/** @type {(millis: number) => string} such as "1 min 45 s", as in the sentence at the top */
const span = (millis) => {
  const seconds = Math.max(0, Math.round(millis / 1000))
  /** @type {(size: number, unit: string, rest: number, restUnit: string) => string} */
  const parts = (size, unit, rest, restUnit) => {
    const left = Math.floor((seconds % size) / rest)
    return `${Math.floor(seconds / size)} ${unit}${left === 0 ? "" : ` ${left} ${restUnit}`}`
  }
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return parts(60, "min", 1, "s")
  return seconds < 86_400 ? parts(3600, "h", 60, "min") : parts(86_400, "d", 3600, "h")
}
/** @type {(at: number) => string} */
const time = (at) => new Date(at).toTimeString().slice(0, 8)

// ------------------------------------------------------------------------------------------------------- plots

const MARGIN = { left: 58, right: 12, top: 10, bottom: 20 }

/** @type {(most: number) => number} the smallest of 1, 2, 5, 10, 20 ... that is at least `most` */
const roundCount = (most) => {
  const step = 10 ** Math.floor(Math.log10(Math.max(1, most)))
  return [1, 2, 5, 10].map((factor) => factor * step).find((top) => top >= most) ?? 10 * step
}

/** seconds; half of each is a short text */
const ROUND_SECONDS = [10, 20, 60, 120, 240, 600, 1200, 3600, 7200, 14_400, 43_200, 86_400, 172_800]

/** @type {(most: number) => number} the same for milliseconds */
const roundSpan = (most) => {
  const seconds = ROUND_SECONDS.find((top) => top * 1000 >= most)
  return seconds === undefined ? roundCount(most / 86_400_000) * 86_400_000 : seconds * 1000
}

const PLOTS = /** @type {const} */ ([
  { id: "waitingPlot", index: 1, round: roundCount, unit: (/** @type {number} */ n) => number.format(n) },
  { id: "agePlot", index: 2, round: roundSpan, unit: span }
])

/** @type {View["history"]} */
let history = []

/** @type {(parent: Element, tag: string, attributes: Record<string, string | number>, text?: string) => void} */
const draw = (parent, tag, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value))
  element.textContent = text
  parent.append(element)
}

/** @type {(plot: typeof PLOTS[number], chosen: number) => void} */
const drawPlot = ({ id, index, round, unit }, chosen) => {
  const svg = byId(id)
  const [first, last] = [history[0], history[history.length - 1]]
  const { height, width } = svg.getBoundingClientRect()
  if (first === undefined || last === undefined || width === 0) return
  svg.replaceChildren()
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`)
  const most = round(history.reduce((most, point) => Math.max(most, point[index]), 0))
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom]
  const from = first[0]
  const length = Math.max(1000, last[0] - from)
  /** @type {(at: number) => number} */
  const x = (at) => MARGIN.left + ((at - from) / length) * (right - MARGIN.left)
  /** @type {(value: number) => number} */
  const y = (value) => bottom - (value / most) * (bottom - MARGIN.top)

  for (const value of [0, most / 2, most]) {
    // no line for half an event
    if (index === 1 && !Number.isInteger(value)) continue
    draw(svg, "line", { x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) })
    draw(svg, "text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, unit(value))
  }
  const ticks = Math.max(1, Math.floor((right - MARGIN.left) / 140))
  let before = ""
  for (let tick = 0; tick <= ticks; tick++) {
    const at = from + (length * tick) / ticks
    if (time(at) === before) continue
    before = time(at)
    const anchor = tick === 0 ? "start" : tick === ticks ? "end" : "middle"
    draw(svg, "text", { x: x(at), y: height - 6, "text-anchor": anchor }, before)
  }
  const points = history.map((point) => `${x(point[0]).toFixed(1)},${y(point[index]).toFixed(1)}`)
  draw(svg, "polyline", { points: points.join(" ") })
  const point = history[chosen]
  if (point === undefined) return
  draw(svg, "line", { class: "cursor", x1: x(point[0]), x2: x(point[0]), y1: MARGIN.top, y2: bottom })
  draw(svg, "circle", { cx: x(point[0]), cy: y(point[index]), r: 4 })
}

const drawPlots = () => {
  const chosen = Number(moment.value)
  for (const plot of PLOTS) drawPlot(plot, chosen)
  const point = history[chosen]
  if (point === undefined) return
  const [at, waiting, age] = point
  const oldest = waiting === 0 ? "" : `, the oldest for ${span(age)}`
  const text = `${time(at)}: ${counted(waiting, "event")} wait${waiting === 1 ? "s" : ""}${oldest}`
  byId("reading").textContent = text
  moment.setAttribute("aria-valuetext", text)
}

/** @type {(next: View["history"]) => void} if the newest moment is chosen, follows it; another choice stays */
const keepHistory = (next) => {
  const chosen = history[Number(moment.value)]?.[0]
  const isNewest = Number(moment.value) >= history.length - 1
  history = next
  const last = next.length - 1
  const index = isNewest ? last : next.findIndex(([at]) => at >= (chosen ?? 0))
  moment.max = String(Math.max(0, last))
  moment.value = String(index < 0 ? last : index)
  drawPlots()
}

/** @type {(event: PointerEvent) => void} */
const point = (event) => {
  const [first, last] = [history[0], history[history.length - 1]]
  if (first === undefined || last === undefined) return
  const { left, width } = /** @type {Element} */ (event.currentTarget).getBoundingClientRect()
  const share = (event.clientX - left - MARGIN.left) / (width - MARGIN.left - MARGIN.right)
  const at = first[0] + share * (last[0] - first[0])
  const after = history.findIndex((point) => point[0] >= at)
  moment.value = String(after < 0 ? history.length - 1 : after)
  drawPlots()
}
for (const { id } of PLOTS) {
  byId(id).addEventListener("pointermove", point)
  byId(id).addEventListener("pointerdown", point)
}
moment.addEventListener("input", drawPlots)
new ResizeObserver(drawPlots).observe(byId("plots"))

// ------------------------------------------------------------------------------------------------------- books

const COLOURS = /** @type {const} */ ({
  delivered: "--green",
  waiting: "--blue",
  dead: "--red",
  retried: "--violet",
  discarded: "--dim",
  torn: "--yellow",
  missing: "--red"
})
const TERMS = /** @type {Array<keyof typeof COLOURS>} */ (Object.keys(COLOURS))

/** @type {(queues: View["queues"]) => void} */
const drawBooks = (queues) => {
  /** @type {(key: keyof typeof COLOURS | "accepted") => number} */
  const sum = (key) => queues.reduce((total, queue) => total + queue[key], 0)
  const accepted = Math.max(1, sum("accepted"))
  const parts = TERMS.filter((key) => sum(key) > 0).map((key) => {
    const part = make("i", "")
    part.style.width = `${(sum(key) / accepted) * 100}%`
    part.style.background = `var(${COLOURS[key]})`
    return part
  })
  byId("books").replaceChildren(...parts)
  byId("booksLegend").replaceChildren(
    make("span", `${number.format(sum("accepted"))} accepted =`),
    ...TERMS.filter((key) => sum(key) > 0 || key === "missing").map((key) =>
      make("span", `${number.format(sum(key))} ${key}`, { style: `--colour: var(${COLOURS[key]})` })
    )
  )
}

// ------------------------------------------------------------------------------------------------------- letters

/** counts questions and closings, so that a late answer opens nothing */
let asked = 0
dialog.onclose = () => void asked++

/** @type {(name: string, path: string, isRevealed?: boolean) => Promise<void>} shows the server's answer */
const showIn = async (name, path, isRevealed = false) => {
  const question = ++asked
  const answer = await call(`${path}${isRevealed ? "&reveal=yes" : ""}`)
  const said = /** @type {{ message?: string }} */ (await answer.json().catch(() => ({})))
  const text = answer.ok ? JSON.stringify(said, null, 2) : (said.message ?? "It is gone.")
  if (question !== asked) return
  byId("letterName").textContent = name
  byId("letter").textContent = visible(text)
  byId("reveal").hidden = isRevealed || !answer.ok
  byId("reveal").onclick = () => void showIn(name, path, true)
  if (!dialog.open) dialog.showModal()
  if (isRevealed) byId("letter").focus()
}
/** @type {(id: string) => Promise<void>} */
const show = (id) => showIn(`Dead letter ${id}`, `/api/letter?id=${encodeURIComponent(id)}`)
byId("close").onclick = () => dialog.close()

/** @type {(id: string) => Promise<void>} */
const retry = async (id) => {
  const answer = await call("/api/retry", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ids: [id] })
  })
  const { message } = /** @type {{ message?: string }} */ (await answer.json().catch(() => ({})))
  say(message ?? `The letter ${id} could not be retried (${answer.status}).`)
}

/** @type {(text: string, name: string, action: () => Promise<void>) => HTMLElement} */
const button = (text, name, action) => {
  const element = make("button", text, { type: "button", "aria-label": name })
  element.onclick = () => void action()
  return element
}

/** @type {(letter: Letter) => HTMLElement} */
const rowOf = (letter) => {
  const id = String(letter.id)
  const row = make("li", "", { "data-id": id })
  const text = make("div", "")
  const at = new Date(String(letter.at))
  const facts = [
    id,
    Number.isNaN(at.getTime()) ? "-" : at.toLocaleString(),
    letter.kind ?? "-",
    `${letter.class ?? "-"} ${letter.code ?? ""}`
  ]
  text.append(
    make("p", facts.map((fact) => String(fact).slice(0, 60).trim()).join(" · "), { class: "dim" }),
    make("p", String(letter.reason ?? "refused by the database"))
  )
  const buttons = make("p", "", { class: "buttons" })
  buttons.append(
    button("Show", `Show letter ${id}`, () => show(id)),
    button("Retry", `Retry letter ${id}`, () => retry(id))
  )
  row.append(text, buttons)
  return row
}

let shown = ""
/** @type {Array<string>} the last letter of each page before the shown one */
const before = []
/** @type {Page} */
let firstPage = { letters: [] }

/** @type {(page: Page) => void} */
const drawLetters = ({ hasMoreLetters = false, letters }) => {
  byId("older").hidden = before.length === 0
  byId("newer").hidden = !hasMoreLetters
  byId("newer").onclick = () => void turn([...before, String(letters[letters.length - 1]?.id)])
  byId("noLetters").hidden = letters.length > 0
  const now = JSON.stringify(letters)
  if (now === shown) return
  shown = now
  const focused =
    document.activeElement?.closest("#letters") && document.activeElement.getAttribute("aria-label")
  byId("letters").replaceChildren(...letters.map(rowOf))
  if (!focused) return
  // the focus of a keyboard user stays at the letter, or goes to the list if the letter is gone
  const again = [...byId("letters").querySelectorAll("button")].find(
    (each) => each.getAttribute("aria-label") === focused
  )
  const target = again ?? byId("lettersHeading")
  target.focus()
}

/** @type {(to: ReadonlyArray<string>) => Promise<void>} */
const turn = async (to) => {
  before.splice(0, before.length, ...to)
  const last = before[before.length - 1]
  if (last === undefined) return drawLetters(firstPage)
  const answer = await call(`/api/letters?after=${encodeURIComponent(last)}`)
  if (answer.ok) drawLetters(/** @type {Page} */ (await answer.json()))
}
byId("older").onclick = () => void turn(before.slice(0, -1))

byId("export").onclick = async () => {
  const answer = await call("/api/export")
  if (!answer.ok) return say(await answer.text())
  const href = URL.createObjectURL(await answer.blob())
  make("a", "", { download: "dead-letters.ndjson", href }).click()
}

// ------------------------------------------------------------------------------------------------------- state

/** by exit code of `effect-audit status` */
const CODES = ["fine", "lagging", "needs an operator", "integrity"]

/** @type {(code: number | undefined) => void} */
const light = (code) => {
  byId("light").dataset.code = code === undefined ? "" : String(code)
  byId("light").setAttribute("aria-label", (code === undefined ? undefined : CODES[code]) ?? "not known")
}

/** @type {(failure: View["failures"][number], at: number) => string} */
const failureText = (failure, at) =>
  `${failure.class} ${failure.code}: ${failure.reason} (last seen ${span(at - failure.last)} ago)`

/** @type {(queue: Queue) => string} */
const factsOf = ({ directory, owner, seal, volume }) => {
  const sealed = seal === undefined ? "" : `, sealed up to ${seal.chain}:${seal.number}, head ${seal.head}`
  const process = owner === undefined ? "no owner" : `process ${owner.pid ?? "unknown"}`
  return `${directory}, ${process}, ${(volume.freeBytes / 1e9).toFixed(1)} GB free${sealed}`
}

/** Whether the queue is shown, and not the events. */
let isShown = true

/** Whether the message says that the server does not answer. */
let isAway = false

/** @type {(view: View) => void} */
const drawView = (view) => {
  if (isAway) say("")
  isAway = false
  const hasLooked = view.queues.length > 0
  light(view.problem === undefined ? view.code : 2)
  // the worst instance comes first, since it sets the light
  const sentences = [...view.queues]
    .sort((a, b) => b.code - a.code)
    .flatMap(({ name, sentences }) =>
      sentences.map((sentence) => (name === undefined ? sentence : `${name}: ${sentence}`))
    )
  if (view.problem !== undefined) {
    const since = hasLooked ? ` What is below was so at ${time(view.at)}.` : ""
    byId("sentence").textContent = `${view.problem}${since}`
    byId("others").replaceChildren()
  } else {
    byId("sentence").textContent = sentences[0] ?? ""
    byId("others").replaceChildren(...sentences.slice(1).map((sentence) => make("p", sentence)))
  }
  byId("views").hidden = false
  byId("state").hidden = !hasLooked || !isShown
  if (!hasLooked) return
  byId("facts").textContent = view.queues.map(factsOf).join("; ")
  keepHistory(view.history)
  drawBooks(view.queues)
  byId("failures").replaceChildren(
    ...(view.failures.length === 0
      ? [make("p", "None since this page's server began.", { class: "dim" })]
      : view.failures.map((failure) => make("p", failureText(failure, view.at))))
  )
  firstPage = view
  void turn([...before])
}

globalThis.auditPage = {
  byId,
  button,
  call,
  make,
  showIn,
  visible,
  showQueue: (/** @type {boolean} */ wanted) => {
    isShown = wanted
    byId("state").hidden = !wanted || history.length === 0
    drawPlots()
  }
}

// server-sent events by fetch: EventSource can send the token only in the address
const listen = async () => {
  const answer = await call("/api/changes")
  if (answer.status === 401) {
    light(undefined)
    return say("This token is not that of the server: open the address that it printed.")
  }
  const reader = /** @type {ReadableStream<BufferSource>} */ (answer.body)
    .pipeThrough(new TextDecoderStream())
    .getReader()
  for (let rest = ""; ;) {
    const { done, value } = await reader.read()
    if (done) throw new Error("ended")
    const parts = (rest + value).split("\n\n")
    rest = parts.pop() ?? ""
    const last = parts.pop()
    if (last !== undefined) drawView(/** @type {View} */ (JSON.parse(last.slice("data: ".length))))
  }
}
const keepListening = () => {
  listen().catch(() => {
    isAway = true
    light(undefined)
    const since = history[history.length - 1]
    const shownAt = since === undefined ? "" : ` What is shown was so at ${time(since[0])}.`
    say(`The server does not answer; trying again.${shownAt}`)
    setTimeout(keepListening, 2000)
  })
}
keepListening()
