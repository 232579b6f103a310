/** The judge of the kill tests: it finds each fault that it looks for. */
import * as fs from "node:fs"
import * as path from "node:path"
import { crc32 } from "node:zlib"
import { expect, onTestFinished, test } from "vitest"
import type { Evidence } from "../support/oracle.js"
import { judge, readBooks } from "../support/oracle.js"
import { temporaryDirectory } from "../support/program.js"

const id = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, "0")}`

/** Five lines: two delivered, one refused, one waiting, and a torn end. */
const directory = () => {
  const { path: at, remove } = temporaryDirectory()
  onTestFinished(remove)
  const lines = [0, 1, 2, 3].map((index) => `${JSON.stringify({ event_id: id(index) })}\n`)
  const offset = lines.slice(0, 3).join("").length
  const slot = (generation: number, delivered: number, refused: number) => {
    const settled = delivered + refused
    const body = JSON.stringify({
      generation,
      segment: 0,
      offset,
      sequence: settled,
      settled,
      delivered,
      refused,
      torn: 0,
      missing: 0,
      surplus: 0
    }).padEnd(503)
    return `${body}${crc32(body).toString(16).padStart(8, "0")}\n`
  }
  fs.writeFileSync(path.join(at, "cursor"), slot(8, 2, 1) + slot(7, 1, 1))
  fs.writeFileSync(path.join(at, `${"0".repeat(20)}.ndjson`), `${lines.join("")}{"event_`)
  fs.writeFileSync(
    path.join(at, "dead-letter.ndjson"),
    `\n${JSON.stringify({ type: "letter", class: "rejected", line: lines[2]!.trim() })}\n`
  )
  return at
}

test("reads a directory", () => {
  expect(readBooks(directory())).toEqual({
    accepted: 5,
    delivered: 2,
    waiting: 2,
    refused: 1,
    torn: 0,
    missing: 0,
    waitingIds: [id(3)],
    deadIds: [id(2)],
    discarded: 0
  })
})

test("does not count a refused, discarded and erased event as lost", () => {
  const at = directory()
  fs.writeFileSync(
    path.join(at, "dead-letter.ndjson"),
    `${JSON.stringify({ type: "discarded", id: "0:94" })}\n`
  )
  const evidence = { ...honest(), books: readBooks(at) }
  expect(evidence.books).toMatchObject({ deadIds: [], discarded: 1 })
  expect(judge({ ...evidence, refused: [id(2)] })).toEqual([])
  // the database refused another event, or two
  expect(judge({ ...evidence, refused: [id(1)] }).join()).toMatch(/1 acknowledged events are lost/)
  const two = { ...evidence, rows: [id(0)], refused: [id(1), id(2)] }
  expect(judge(two).join()).toMatch(/2 acknowledged events are lost/)
})

test("counts a letter once its line no longer waits", () => {
  const at = directory()
  const letter = (place: string, index: number) =>
    `\n${JSON.stringify({ type: "letter", class: "rejected", id: place, line: JSON.stringify({ event_id: id(index) }) })}\n`
  const { length } = `${JSON.stringify({ event_id: id(0) })}\n`
  fs.writeFileSync(
    path.join(at, "dead-letter.ndjson"),
    letter(`0:${2 * length}`, 2) + letter(`0:${3 * length}`, 3)
  )
  expect(readBooks(at)).toMatchObject({ waitingIds: [id(3)], deadIds: [id(2)] })
})

test("finds nothing wrong in sound evidence", () => {
  const evidence = honest()
  expect(judge(evidence)).toEqual([])
  // committed, but the process died before it moved the cursor
  expect(judge({ ...evidence, rows: [...evidence.rows, id(3)] })).toEqual([])
})

const honest = (): Evidence => ({
  acknowledged: [id(0), id(1), id(2), id(3)],
  books: readBooks(directory()),
  rows: [id(0), id(1)]
})

test.for<[string, (evidence: Evidence) => Evidence, RegExp]>([
  ["a lost event", (e) => ({ ...e, rows: [id(0)] }), /1 acknowledged events are lost/],
  ["an event stored twice", (e) => ({ ...e, rows: [...e.rows, id(1)] }), /1 events are stored twice/],
  [
    "a dead letter that is stored as well",
    (e) => ({ ...e, rows: [...e.rows, id(2)] }),
    /among the dead letters/
  ],
  ["a missing line", (e) => ({ ...e, books: { ...e.books, missing: 1 } }), /1 lines are missing/],
  ["a sum that is wrong", (e) => ({ ...e, books: { ...e.books, delivered: 3 } }), /accepted 5 is not/],
  [
    "an event that nobody delivered",
    (e) => ({ ...e, rows: [0, 1, 5, 6, 7].map(id) }),
    /5 rows, but 2 delivered/
  ],
  ["an id given twice", (e) => ({ ...e, acknowledged: [id(0), id(0)] }), /an id was given twice/]
])("finds %s", ([_, tamper, problem]) => {
  expect(judge(tamper(honest())).join("\n")).toMatch(problem)
})
