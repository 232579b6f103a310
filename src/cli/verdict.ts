/** The verdict on a queue: its state, what is to be done, and the exit code. */
import type { Inspection } from "../internal/queue/inspect.js"
import type { StatusFile } from "../internal/queue/statusFile.js"
import type { Balance } from "../services/QueueFile.js"
import type { Head } from "../services/Sealing.js"
import { ExitCode, worst } from "./exit.js"
import { counted, formatBytes, formatSpan } from "./format.js"

export type State = "idle" | "delivering" | "waiting" | "offline" | "needsOperator" | "integrity"

export interface Verdict {
  readonly code: ExitCode
  readonly state: State
  /** the state in words; what is to be done comes after */
  readonly sentences: ReadonlyArray<string>
}

export interface Limits {
  /** how old the oldest event may be, milliseconds */
  readonly lag: number
  /** below it appends are refused */
  readonly minFreeBytes: number
}

interface Finding extends Verdict {
  readonly sentences: readonly [string]
}

const finding = (code: ExitCode, state: State, sentence: string): Finding => ({
  code,
  state,
  sentences: [sentence]
})

/** Judges a queue at a time, milliseconds since 1970 UTC. */
export const judge = (queue: Inspection, now: number, limits: Limits): Verdict => {
  const findings = [
    ...integrity(queue),
    ...disk(queue, limits),
    ...delivery(queue, now, limits),
    ...deadLetters(queue),
    ...requests(queue)
  ]
  const code = worst(findings.map((found) => found.code))
  return {
    code,
    state: findings.find((found) => found.code === code)!.state,
    sentences: [...findings].sort((a, b) => b.code - a.code).flatMap(({ sentences }) => sentences)
  }
}

/** Why a balance does not add up, or undefined. */
export const imbalance = (balance: Balance): string | undefined => {
  const { accepted, dead, delivered, discarded, missing, retried, torn, waiting } = balance
  const sum = delivered + waiting + dead + retried + discarded + torn
  if (missing > 0) return `${counted(missing, "line")} of the queue cannot be found on the disk`
  return sum === accepted && dead >= 0 ? undefined : `accepted is ${accepted}, but the rest adds up to ${sum}`
}

const integrity = (queue: Inspection): ReadonlyArray<Finding> => {
  const wrong = [
    imbalance(queue),
    queue.isIdentified ? undefined : "queue.json is damaged, and no program can open the queue",
    queue.repair === undefined || queue.owner !== undefined
      ? undefined
      : `${queue.repair}: the next owner delivers again what is on disk`
  ]
  const found = wrong.flatMap((text) =>
    text === undefined ? [] : [finding(ExitCode.integrity, "integrity", `${text}; run "effect-audit verify"`)]
  )
  return queue.seal?.forked === 1
    ? [...found, finding(ExitCode.integrity, "integrity", `${FORKED}; run "effect-audit prove"`)]
    : found
}

export const describeSeal = ({ chain, head, number }: Head): string =>
  `up to seal ${chain}:${number}, head ${head}`

/** Reported for ever, since the cursor keeps the mark. */
export const FORKED =
  "the chain of seals was not as it was left, and a new one began: the database was set back or changed"

const disk = ({ volume }: Inspection, { minFreeBytes }: Limits): ReadonlyArray<Finding> =>
  volume.freeBytes >= minFreeBytes
    ? []
    : [
        finding(
          ExitCode.needsOperator,
          "needsOperator",
          `the disk has ${formatBytes(volume.freeBytes)} free, less than minFreeBytes (${formatBytes(minFreeBytes)}): ` +
            `events are refused; free the disk`
        )
      ]

const deadLetters = ({ dead }: Inspection): ReadonlyArray<Finding> =>
  dead <= 0
    ? []
    : [
        finding(
          ExitCode.needsOperator,
          "needsOperator",
          `${counted(dead, "dead letter")}: see "effect-audit dead list"`
        )
      ]

/** Requests that nobody will carry out. They hold nothing up. */
const requests = ({ brokenRequests }: Inspection): ReadonlyArray<Finding> =>
  brokenRequests === 0
    ? []
    : [
        finding(
          ExitCode.fine,
          "idle",
          `${counted(brokenRequests, "file")} in requests/ will not be carried out: see "effect-audit verify"`
        )
      ]

/** The status file, if the present owner wrote it. */
export const statusOf = ({ delivery, owner }: Inspection): StatusFile | undefined =>
  owner !== undefined && delivery?.state !== "closed" && delivery?.pid === owner.pid ? delivery : undefined

/** Why delivery stands still, by the owner's status. Without an owner, by the last one's, while events wait. */
export const failureOf = (queue: Inspection): StatusFile["failure"] => {
  if (queue.owner !== undefined) return statusOf(queue)?.failure ?? null
  return queue.waiting > 0 ? (queue.delivery?.failure ?? null) : null
}

const delivery = (queue: Inspection, now: number, { lag }: Limits): ReadonlyArray<Finding> => {
  const { oldest, owner, waiting } = queue
  const status = statusOf(queue)
  const isOld = oldest !== undefined && now - oldest > lag
  const age = oldest === undefined ? "" : `, the oldest for ${formatSpan(now - oldest)}`
  const events = `${counted(waiting, "event")} wait${waiting === 1 ? "s" : ""}${age}`

  if (owner === undefined) {
    if (waiting === 0) return [finding(ExitCode.fine, "idle", "idle, and no program owns the queue")]
    const failure = failureOf(queue)
    const nobody = `${events}, and no program delivers`
    if (failure?.class === "operator") {
      const sentence = `${nobody}; the last one needs an operator: ${failure.reason} (${failure.code}); then start it`
      return [finding(ExitCode.needsOperator, "needsOperator", sentence)]
    }
    const last = failure === null ? "" : `; the last one failed: ${failure.reason} (${failure.code})`
    const flush = `effect-audit flush${failure?.code.startsWith("SQLITE_") === true ? " --sqlite FILE" : ""}`
    return [finding(ExitCode.lagging, "waiting", `${nobody}: start it, or run "${flush}"${last}`)]
  }
  if (status?.failure != null) {
    const { code, reason } = status.failure
    if (status.state === "needsOperator") {
      return [finding(ExitCode.needsOperator, "needsOperator", `needs an operator: ${reason} (${code})`)]
    }
    // at most what it was when the owner wrote it: the clock may have been set back since
    const left = status.nextTry === null ? 0 : Math.min(status.nextTry - now, status.nextTry - status.at)
    const next = status.nextTry === null ? "" : `, next try in ${formatSpan(left)}`
    const offline = `offline${next}: ${reason} (${code})`
    return [finding(waiting > 0 ? ExitCode.lagging : ExitCode.fine, "offline", offline)]
  }
  if (waiting === 0) return [finding(ExitCode.fine, "idle", "idle: everything is delivered")]
  const done = status === undefined || status.rate <= 0 ? undefined : (waiting / status.rate) * 1000
  return [
    finding(
      isOld ? ExitCode.lagging : ExitCode.fine,
      "delivering",
      `delivering: ${events}${done === undefined ? "" : `, done in about ${formatSpan(done)}`}`
    )
  ]
}
