/**
 * Appends: write a group of lines to disk, number them, and answer each caller.
 *
 * If a group takes too long, then it expires. Its callers get an unknown outcome, its segment is sealed, and nobody
 * waits. Lines that it still writes are counted when they are read.
 */
import { Duration, Effect, type Scope } from "effect"
import { QueueClosed, QueueFull, QueueWriteError } from "../../schema/Errors.js"
import type { DiskError } from "../../services/Disk.js"
import { attempt } from "../contained.js"
import * as metrics from "../metrics.js"
import { MAX_SEQUENCE } from "./fields.js"
import type { Ledger } from "./ledger.js"
import type { Lock } from "./lock.js"
import type { AppendFailure, Segments } from "./segments.js"
import type { Space } from "./space.js"
import * as writer from "./writer.js"

type AppendError = QueueWriteError | QueueFull | QueueClosed
type Group = writer.Group<number, AppendError>

export interface Appends extends writer.GroupCommit<number, AppendError> {
  /** called after each group; what a listener throws is ignored */
  readonly listeners: Set<() => void>
}

interface Parts {
  readonly directory: string
  readonly segments: Segments
  readonly ledger: Ledger
  readonly lock: Lock
  readonly space: Space
  /** held by each group until it is answered */
  readonly guard: Effect.Semaphore
  readonly timeout: Duration.Duration
}

const MAX_GROUP_BYTES = 4 * 1024 * 1024

/** Appends to a queue until the scope closes. */
export const make = (parts: Parts): Effect.Effect<Appends, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { directory, guard, ledger, lock, segments, space, timeout } = parts
    const listeners = new Set<() => void>()
    /** groups whose callers were answered before the disk was; another writer holds the guard */
    const expired = new WeakSet<Group>()
    const duration = metrics.ofQueue(directory)(metrics.appendDuration)
    const labels = yield* metrics.labels

    const write = (group: Group, now: number): Effect.Effect<void> =>
      space.isStale(group.bytes.length, now)
        ? Effect.matchEffect(Effect.zipRight(lock.keepDirectory, space.look(now)), {
            onFailure: (error) =>
              Effect.sync(() => {
                if (!expired.delete(group)) refuse(group, notWritten(error))
              }),
            onSuccess: () => (expired.delete(group) ? Effect.void : writeWithin(group))
          })
        : writeWithin(group)

    const writeWithin = (group: Group): Effect.Effect<void> => {
      const { bytes, lines } = group
      const exceeded = space.take(bytes.length)
      if (exceeded !== undefined) {
        refuse(group, (eventId) => new QueueFull({ eventId, outcome: "absent", directory, ...exceeded }))
        return Effect.void
      }
      // a rounded number would name another line's segment, and no cursor could hold it
      if (ledger.next() + lines > MAX_SEQUENCE + 1) {
        refuse(group, numbersUsedUp(directory))
        return Effect.void
      }
      lock.begin()
      return append(group)
    }

    const append = (group: Group): Effect.Effect<void> => {
      const { bytes, entries, lines } = group
      const started = performance.now()
      /** records the duration; false if the group has expired */
      const isAwaited = () => {
        duration.unsafeUpdate((performance.now() - started) / 1000, labels)
        return !expired.delete(group)
      }
      const once = Effect.suspend(() => segments.append(bytes, lines, ledger.next()))
      // the segment was removed together with its lines, so a second try writes them once
      const again = Effect.catchIf(once, isGone, (failure) => (expired.has(group) ? failure : once))
      return Effect.matchCauseEffect(again, {
        onFailure: (cause) => {
          if (isAwaited()) {
            const failure = cause._tag === "Fail" ? cause.error : undefined
            const { code = "UNKNOWN", path = directory, cause: reason = cause } = failure?.error ?? {}
            const outcome = failure?.outcome ?? "unknown"
            refuse(group, (eventId) => new QueueWriteError({ eventId, outcome, path, code, cause: reason }))
          }
          return lock.end()
        },
        onSuccess: () => {
          if (isAwaited()) {
            let sequence = ledger.number(lines)
            for (const entry of entries) {
              entry.done(Effect.succeed(sequence))
              sequence += entry.lines
            }
            // the lines are on disk: if one listener throws, then the others must still hear of them
            for (const listener of listeners) attempt(listener, () => undefined)
          }
          return lock.end()
        }
      })
    }

    const giveUp = (group: Group): Effect.Effect<void> =>
      Effect.gen(function* () {
        expired.add(group)
        const path = segments.all.at(-1)?.path ?? directory
        yield* segments.seal
        const cause = new Error(`the disk did not answer within ${Duration.format(timeout)}`)
        refuse(
          group,
          (eventId) => new QueueWriteError({ eventId, outcome: "unknown", path, code: "ETIMEDOUT", cause })
        )
      })

    const appends = yield* writer.make<number, AppendError>({
      guard,
      write,
      expired: giveUp,
      refusal: (eventId) => new QueueClosed({ eventId, outcome: "absent" }),
      timeoutMillis: Duration.toMillis(timeout),
      maxGroupBytes: MAX_GROUP_BYTES
    })
    return { ...appends, listeners }
  })

const refuse = ({ entries }: Group, error: (eventId: string) => AppendError) => {
  for (const entry of entries) entry.done(Effect.fail(error(entry.eventId)))
}

const isGone = ({ error }: AppendFailure) => error.operation === "append" && error.code === "ENOENT"

const notWritten =
  ({ cause, code, path }: DiskError) =>
  (eventId: string) =>
    new QueueWriteError({ eventId, outcome: "absent", path, code, cause })

const numbersUsedUp = (directory: string) => (eventId: string) =>
  new QueueWriteError({
    eventId,
    outcome: "absent",
    path: directory,
    code: "EOVERFLOW",
    cause: new Error("the queue's numbers are used up: move the directory away to begin a new queue")
  })
