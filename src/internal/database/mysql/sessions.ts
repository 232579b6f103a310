/** Sessions: opened when they are needed, kept while they are good, and given up when they are not. */
import {
  Array as Arr,
  Cause,
  type Clock,
  Duration,
  Effect,
  Exit,
  Function,
  Option,
  Random,
  Scope
} from "effect"
import { ExecutionStrategy } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { Session } from "./connection.js"
import { open } from "./connection.js"
import type { ConnectionSettings, Endpoint } from "./endpoints.js"
import { endpointsOf } from "./endpoints.js"
import { classify, endsConnection, isBusy, READ_ONLY, toUploadError } from "./errors.js"
import { monotonicMillis } from "../../monotonic.js"
import { Doubted } from "../doubt.js"
import { Refused } from "../narrow.js"

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

interface Kept {
  readonly session: Session
  readonly scope: Scope.CloseableScope
  /** whether the server said that it takes no writes, and no other one was there */
  isLastResort: boolean
}

export interface Use {
  /**
   * Whether to begin again with another session if the server has stopped taking writes. So a planned switch-over costs
   * no backoff. The use must be safe to repeat.
   */
  readonly mayRepeat?: () => boolean
}

/** milliseconds for which a server that hung is tried after all others */
const HUNG_MILLIS = 30_000

/**
 * Milliseconds before read-only servers are asked again. A group takes some 7 seconds to elect a primary (measured;
 * docs/beyond-one-machine.md). Each delay is up to a half shorter, so that many programs do not ask at once.
 */
const ELECTION_POLL = { first: 500, factor: 1.5, last: 2000 }

/** The servers of the settings: which one is next, and which hung a moment ago. */
class Servers {
  private turn = 0
  /** by host: until when a server that hung comes after the others, unless it stores something before */
  private readonly hungUntil = new Map<string, number>()

  constructor(
    private readonly settings: ConnectionSettings,
    private readonly scope: Scope.Scope,
    private readonly clock: Clock.Clock,
    private readonly isForReading: boolean
  ) {}

  /** A statement was answered. */
  worked({ host }: Endpoint): void {
    this.hungUntil.delete(host)
  }

  /** A statement failed: the next session goes to the next server if that is likely to help. */
  failed(endpoint: Endpoint, error: UploadError): void {
    this.remember(endpoint, error)
    if (error.class === "transient" && (!isBusy(error) || this.hangs(endpoint, error))) this.turn++
  }

  /**
   * Connects to a server that takes writes, beginning with the one whose turn it is. Servers that hung a moment ago
   * come last: a primary that lost its group takes connections, and answers no INSERT. If the others are read-only, a
   * new primary may be on its way, so it waits. It keeps their connections meanwhile: a fleet that connects again and
   * again keeps a group from electing one. In the end the INSERT tells: a privileged account may write to a read-only
   * server.
   */
  readonly connect = (restore: Restore): Effect.Effect<Kept, UploadError> =>
    Effect.gen(this, function* () {
      const endpoints = yield* endpointsOf(this.settings, this.isForReading ? "read" : "deliver")
      const isHung = ({ host }: Endpoint) => this.now() < (this.hungUntil.get(host) ?? 0)
      const [well, hung] = Arr.partition(Arr.rotate(endpoints, -(this.turn % endpoints.length)), isHung)
      const errors: Array<UploadError> = []
      const secondaries = new Map<Endpoint, Kept>()
      yield* Effect.addFinalizer((exit) =>
        Effect.forEach(secondaries.values(), ({ scope }) => Scope.close(scope, exit), { discard: true })
      )

      /** A session with a server, kept or new, if the server takes writes now. */
      const ask = (endpoint: Endpoint): Effect.Effect<Kept | undefined> =>
        Effect.gen(this, function* () {
          const kept = secondaries.get(endpoint) ?? (yield* this.connectTo(endpoint, restore))
          secondaries.delete(endpoint)
          const isAnyGood = this.isForReading || endpoints.length === 1
          if (isAnyGood || !(yield* isReadOnly(kept, restore))) return kept
          secondaries.set(endpoint, kept)
          return undefined
        }).pipe(
          Effect.catchAll((error) => {
            errors.push(error)
            this.remember(endpoint, error)
            return Effect.succeed(undefined)
          })
        )

      let found = yield* firstOf(well, ask)
      const until = this.now() + Duration.toMillis(endpoints[0].connectTimeout)
      let delay = ELECTION_POLL.first
      while (found === undefined && secondaries.size > 0 && this.now() < until) {
        yield* restore(Effect.sleep(delay * (yield* Random.nextRange(0.5, 1))))
        delay = Math.min(delay * ELECTION_POLL.factor, ELECTION_POLL.last)
        found = yield* firstOf(
          well.filter((endpoint) => !isHung(endpoint)),
          ask
        )
      }
      found ??= yield* firstOf(hung, ask)
      if (found === undefined) {
        const [secondary] = secondaries.values()
        // while one of them may come back by itself, no operator is needed
        if (secondary === undefined) {
          return yield* errors.find((error) => error.class === "transient") ?? errors[0]!
        }
        found = secondary
        found.isLastResort = true
        secondaries.delete(secondary.session.endpoint)
      }
      this.turn = endpoints.indexOf(found.session.endpoint)
      return found
    }).pipe(Effect.scoped)

  /** Only connecting can be interrupted: a session that got lost on its way would never be closed. */
  private readonly connectTo = (endpoint: Endpoint, restore: Restore): Effect.Effect<Kept, UploadError> =>
    Effect.gen(this, function* () {
      const scope = yield* Scope.fork(this.scope, ExecutionStrategy.sequential)
      const session = yield* restore(Scope.extend(open(endpoint), scope)).pipe(
        Effect.mapError(({ cause }) => toUploadError(classify(cause, endpoint))),
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      return { session, scope, isLastResort: false }
    })

  /** Whether the server hangs. If it did before, a lock may be that of our own statement, which still hangs there. */
  private hangs({ host }: Endpoint, error: UploadError): boolean {
    return error.code === "ETIMEDOUT" || (isBusy(error) && this.hungUntil.has(host))
  }

  private remember(endpoint: Endpoint, error: UploadError): void {
    if (this.hangs(endpoint, error)) this.hungUntil.set(endpoint.host, this.now() + HUNG_MILLIS)
  }

  private now(): number {
    return monotonicMillis(this.clock)
  }
}

const isReadOnly = ({ scope, session }: Kept, restore: Restore): Effect.Effect<boolean, UploadError> =>
  restore(session.isReadOnly).pipe(
    Effect.mapError(({ cause }) => toUploadError(classify(cause, session.endpoint))),
    Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
  )

const firstOf = (
  some: ReadonlyArray<Endpoint>,
  ask: (endpoint: Endpoint) => Effect.Effect<Kept | undefined>
): Effect.Effect<Kept | undefined> =>
  Effect.gen(function* () {
    for (const endpoint of some) {
      const kept = yield* ask(endpoint)
      if (kept !== undefined) return kept
    }
    return undefined
  })

/**
 * Makes the function that runs an effect with a session, at most so many at once. The session is an idle one, or a new
 * one with the first server in turn that answers. It is kept afterwards, unless something is wrong with it, and ends
 * with the scope. A session for reading may be with a server that takes no writes.
 */
export const makeSessions = (settings: ConnectionSettings, most: number, isForReading = false) =>
  Effect.map(Effect.all([Effect.scope, Effect.clock]), ([scope, clock]) => {
    const permits = Effect.unsafeMakeSemaphore(most)
    const servers = new Servers(settings, scope, clock, isForReading)
    const idle: Array<Kept> = []

    const idleOrNew = (restore: Restore): Effect.Effect<Kept, UploadError> =>
      Effect.suspend(() => {
        const kept = idle.pop()
        if (kept === undefined) return servers.connect(restore)
        // servers and proxies end idle connections: that is no failure
        return kept.session.isOpen()
          ? Effect.succeed(kept)
          : Effect.zipRight(Scope.close(kept.scope, Exit.void), idleOrNew(restore))
      })

    const giveBack = (kept: Kept, cause: Cause.Cause<unknown>): Effect.Effect<void> => {
      const failure = Option.getOrUndefined(Cause.failureOption(cause))
      // the search for the event to blame goes on with this session
      const isOpenQuestion = failure instanceof Doubted && failure.isLikely && !failure.isKnown
      if (isOpenQuestion || (failure instanceof Refused && !endsConnection(failure))) {
        return Effect.sync(() => idle.push(kept))
      }
      const error = errorIn(failure)
      if (error !== undefined) servers.failed(kept.session.endpoint, error)
      return Scope.close(kept.scope, Exit.failCause(cause))
    }

    // Hot path: all these steps lie between an answer of the server and its next statement
    const run = <A, E>(
      use: (session: Session) => Effect.Effect<A, E | UploadError>,
      restore: Restore,
      mayRepeat: () => boolean
    ): Effect.Effect<A, E | UploadError> =>
      Effect.flatMap(idleOrNew(restore), (kept) =>
        Effect.matchCauseEffect(restore(Effect.suspend(() => use(kept.session))), {
          onSuccess: (value) => {
            servers.worked(kept.session.endpoint)
            idle.push(kept)
            return Effect.succeed(value)
          },
          onFailure: (cause) =>
            Effect.zipRight(
              giveBack(kept, cause),
              mayRepeat() && hasSwitched(kept, cause)
                ? Effect.zipRight(closeIdle, run(use, restore, Function.constFalse))
                : Effect.failCause(cause)
            )
        })
      )

    /** Idle sessions are with the same server. */
    const closeIdle = Effect.suspend(() =>
      Effect.forEach(idle.splice(0), ({ scope }) => Scope.close(scope, Exit.void), { discard: true })
    )

    return <A, E>(
      use: (session: Session) => Effect.Effect<A, E | UploadError>,
      { mayRepeat = Function.constFalse }: Use = {}
    ): Effect.Effect<A, E | UploadError> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.zipRight(
          restore(permits.take(1)),
          Effect.matchCauseEffect(run(use, restore, mayRepeat), {
            onSuccess: (value) => Effect.as(permits.release(1), value),
            onFailure: (cause) => Effect.zipRight(permits.release(1), Effect.failCause(cause))
          })
        )
      )
  })

/** The failure that ended the use of a session, if no event is to blame. */
const errorIn = (failure: unknown): UploadError | undefined => {
  const error = failure instanceof Doubted ? failure.error : failure
  return error instanceof UploadError ? error : undefined
}

/** Whether the server has stopped taking writes. */
const hasSwitched = ({ isLastResort }: Kept, cause: Cause.Cause<unknown>): boolean => {
  const error = errorIn(Option.getOrUndefined(Cause.failureOption(cause)))
  return !isLastResort && error?.class === "transient" && READ_ONLY.includes(Number(error.code))
}
