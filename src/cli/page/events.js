/**
 * The second view of the page: the events in the database, the newest first.
 *
 * @typedef {Readonly<Record<string, unknown>> & { event_id: string | null, time: string | null }} DeliveredEvent
 * @typedef {{ events?: ReadonlyArray<DeliveredEvent>, userKey?: string, hasMore?: boolean, problem?: string }} EventPage
 * @typedef {{ kinds: ReadonlyArray<{ kind: string, fields: ReadonlyArray<string> }>, problem?: string }} Kinds
 */
"use strict"
{
  const { byId, button, call, make, showIn, showQueue, visible } = auditPage

  const kindSelect = /** @type {HTMLSelectElement} */ (byId("kind"))
  const FILTERS = ["kind", "user", "since", "until", "where"]

  /** @type {() => URLSearchParams} */
  const filters = () =>
    new URLSearchParams(
      FILTERS.map((name) => [name, /** @type {HTMLInputElement | HTMLSelectElement} */ (byId(name)).value])
    )

  /** @type {(text: string) => void} */
  const sayProblem = (text) => {
    byId("problem").textContent = visible(text)
  }

  /** characters of a value in the list; the detail has all of it */
  const MOST = 120

  /** @type {(value: unknown) => string} */
  const shortOf = (value) => {
    const text = typeof value === "string" ? value : JSON.stringify(value)
    return text.length <= MOST ? text : `${text.slice(0, MOST - 1)}…`
  }

  /** @type {(event: DeliveredEvent, userKey: string | undefined) => HTMLElement} */
  const rowOfEvent = (event, userKey) => {
    const { event_id: id, time, ...fields } = event
    const row = make("li", "", { "data-id": String(id) })
    const text = make("div", "")
    const user = userKey === undefined ? undefined : fields[userKey]
    const at = time === null ? "-" : `${time.replace("T", " ").slice(0, 23)} UTC`
    text.append(
      make("p", [at, user ?? "-"].map(shortOf).join(" · ")),
      make(
        "p",
        Object.entries(fields)
          .filter(([key, value]) => !["kind", userKey].includes(key) && value !== null && value !== "")
          .map(([key, value]) => `${key} ${shortOf(value)}`)
          .join(" · "),
        { class: "dim" }
      )
    )
    const buttons = make("p", "", { class: "buttons" })
    if (id !== null) {
      const path = `/api/event?id=${encodeURIComponent(id)}`
      buttons.append(button("Show", `Show event ${id}`, () => showIn(`Event ${id}`, path)))
    }
    row.append(text, buttons)
    return row
  }

  /** counts the searches, so that the answer to an earlier one is not shown */
  let searches = 0

  /** @type {(last?: DeliveredEvent) => Promise<void>} the newest events, or those before one */
  const search = async (last) => {
    const mine = ++searches
    const query = filters()
    if (last !== undefined) {
      query.set("after", String(last.event_id))
      query.set("time", String(last.time))
    }
    const answer = await call(`/api/events?${query}`)
    const page = /** @type {EventPage} */ (
      answer.ok ? await answer.json() : { problem: `The server answers ${answer.status}.` }
    )
    if (mine !== searches) return
    const { events = [], hasMore = false, problem = "", userKey } = page
    sayProblem(problem)
    byId("events").replaceChildren(...events.map((event) => rowOfEvent(event, userKey)))
    byId("noEvents").hidden = events.length > 0 || problem !== ""
    byId("newestEvents").hidden = last === undefined
    byId("olderEvents").hidden = !hasMore
    byId("olderEvents").onclick = () => void search(events[events.length - 1])
  }

  byId("newestEvents").onclick = () => void search()
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault()
    void search()
  })
  kindSelect.addEventListener("change", () => void search())

  byId("exportEvents").onclick = async () => {
    const answer = await call(`/api/events.csv?${filters()}`)
    if (!answer.ok) return sayProblem(await answer.text())
    const href = URL.createObjectURL(await answer.blob())
    make("a", "", { download: `${kindSelect.value}.csv`, href }).click()
  }

  /** @type {Kinds["kinds"]} */
  let kinds = []

  const loadKinds = async () => {
    const answer = await call("/api/kinds")
    if (!answer.ok) return
    const found = /** @type {Kinds} */ (await answer.json())
    kinds = found.kinds
    kindSelect.replaceChildren(...kinds.map(({ kind }) => make("option", kind, { value: kind })))
    if (found.problem === undefined) return search()
    sayProblem(found.problem)
    byId("filters").hidden = true
  }

  kindSelect.addEventListener("change", () => {
    const fields = kinds.find(({ kind }) => kind === kindSelect.value)?.fields ?? []
    byId("fields").replaceChildren(...fields.map((field) => make("option", "", { value: `${field}=` })))
  })

  /** @type {(isWanted: boolean) => void} */
  const turnToEvents = (isWanted) => {
    showQueue(!isWanted)
    byId("delivered").hidden = !isWanted
    byId("showQueue").setAttribute("aria-pressed", String(!isWanted))
    byId("showEvents").setAttribute("aria-pressed", String(isWanted))
    if (isWanted && kinds.length === 0) void loadKinds()
  }
  byId("showQueue").onclick = () => turnToEvents(false)
  byId("showEvents").onclick = () => turnToEvents(true)
}
